"""Runs that are killed at any moment, with SIGKILL: tables stay whole, kernels end, and `--resume` does what is left."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import psutil
import pytest
from support.soak import SOAK, soak
from support.workspaces import LIGHT

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.pipelines.kernels import parents, stop_parents
from ml_notebooks.pipelines.ledger import read_runs, read_steps
from ml_notebooks.pipelines.run import run_pipeline
from ml_notebooks.workspace import find_workspace

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="warm kernels need Linux")

ROUNDS = 25 if SOAK else 1  # for each victim
PATIENCE = 120  # seconds
STEPS = ["publish", "derive", "count"]
ROWS = 200_000
TOTAL = ROWS * (ROWS - 1) // 2
ORDERS = (
    "SELECT {round} AS round, {number} AS pass, range AS id, hash(range + {number}) AS h FROM range({rows})"
)
PLACES = ["report", *(f"{what} {step}" for step in STEPS for what in ("begins", "ends"))]
PIPELINE = """title: What is killed
steps:
  - {name: publish, notebook: publish.ipynb, writes: [raw.orders]}
  - {name: derive, notebook: derive.ipynb, reads: [raw.orders], writes: [clean.orders, clean.total]}
  - {name: count, notebook: count.ipynb, reads: [clean.orders, clean.total]}
"""
BEGIN = """
import itertools
from pathlib import Path
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.pipelines.record import record
wh = open_warehouse()
with open("../../../began", "a") as file:
    file.write(f"STEP {round}\\n")
"""
CELLS = {
    "publish": f"""
for number in itertools.count():
    wh.publish("raw.orders", f"{ORDERS.replace("{rows}", str(ROWS))}")
    if not Path("../../../more").exists():
        break
""",
    "derive": """
with wh.transaction():
    wh.publish("clean.orders", "SELECT round, id FROM raw.orders WHERE id % 2 = 0")
    wh.publish("clean.total", "SELECT any_value(round) AS round, sum(id)::BIGINT AS total FROM raw.orders")
""",
    "count": """
((total,),) = wh.sql("SELECT total + round FROM clean.total").fetchall()
record("total", total)
record("orders", wh.sql("SELECT count(*) FROM clean.orders").fetchone()[0])
""",
}


class Series:
    """A workspace whose pipeline `killed` is run round after round, each with other rows."""

    def __init__(self, root: Path):
        self.root, self.round = root, 0
        self.folder, self.more = root / "nbs" / "pipelines" / "killed", root / "more"
        self.folder.mkdir(parents=True)
        (root / "settings.ini").write_text(
            f"[workspace]\nname = killed\n{LIGHT}"
        )
        (self.folder / "pipeline.yaml").write_text(PIPELINE)
        for step in STEPS:
            cells = [nbformat.v4.new_code_cell("round: int = 0", metadata={"tags": ["parameters"]})]
            cells += [nbformat.v4.new_code_cell(cell) for cell in (BEGIN.replace("STEP", step), CELLS[step])]
            nbformat.write(nbformat.v4.new_notebook(cells=cells), self.folder / f"{step}.ipynb")
        self.workspace = find_workspace(root)

    def start(self) -> subprocess.Popen:
        """`mlnb run` of this round, in a process group of its own."""
        command = [sys.executable, "-m", "ml_notebooks", "run", "killed", "-p", f"round={self.round}"]
        with (self.root / "said").open("w") as said:
            return subprocess.Popen(command, cwd=self.root, stdout=said, stderr=said, start_new_session=True)

    def began(self) -> list[str]:
        """The steps that began in this round, as often as they did."""
        lines = (self.root / "began").read_text().split("\n") if (self.root / "began").exists() else []
        return [line.split()[0] for line in lines if line.endswith(f" {self.round}")]

    def reports(self) -> set[str]:
        """The names of the runs that have a report."""
        return {path.name for path in (self.root / "reports" / "killed").glob("*")}

    def reached(self, place: str, known: set[str]) -> bool:
        """Whether the run of this round, whose report is not known yet, has come to one of `PLACES`."""
        what, _, step = place.partition(" ")
        pages = [self.root / "reports" / "killed" / name / f"{step}.html" for name in self.reports() - known]
        reached = {
            "report": bool(pages),
            "begins": step in self.began(),
            "ends": any(page.exists() for page in pages),
        }
        return reached[what]

    def processes(self) -> list[psutil.Process]:
        """Whatever runs in the workspace: runners and kernels."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if Path(process.cwd()).is_relative_to(self.root):
                    found.append(process)
        return found

    def said(self) -> str:
        """What the last run wrote to its terminal."""
        return (self.root / "said").read_text()

    def check_tables(self) -> set[int]:
        """The rounds that the tables are of, after each was found to be whole, as this round or the last published it."""
        with open_warehouse(self.workspace, read_only=True) as wh:
            orders = wh.sql(
                "SELECT round, pass, count(*), bit_xor(h) FROM raw.orders GROUP BY ALL"
            ).fetchall()
            made = ORDERS.format(round=0, number=orders[0][1], rows=ROWS)
            assert [row[2:] for row in orders] == wh.sql(
                f"SELECT count(*), bit_xor(h) FROM ({made})"
            ).fetchall()
            derived = wh.sql("SELECT round, count(*) FROM clean.orders GROUP BY ALL").fetchall()
            assert [row[1] for row in derived] == [ROWS // 2]
            assert wh.sql("FROM clean.total").fetchall() == [(derived[0][0], TOTAL)]
        rounds = {orders[0][0], derived[0][0]}
        assert rounds <= {self.round - 1, self.round}
        return rounds

    def check_reports(self, known: set[str]) -> None:
        """Every page of a run that is not known is whole, whether the run ended well or not."""
        for name in self.reports() - known:
            folder = self.root / "reports" / "killed" / name
            for path in folder.glob("*.ipynb"):
                nbformat.validate(nbformat.read(path, as_version=4))
            for path in folder.glob("*.html"):
                assert path.read_text().endswith("</html>"), path

    def last(self) -> tuple[dict, dict[str, str]]:
        """The last run of the ledger, and how each of its steps went."""
        with open_warehouse(self.workspace, read_only=True) as wh:
            run = read_runs(wh, "killed")[0]
            return run, {step["step"]: step["status"] for step in read_steps(wh, run["run"])}


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A workspace in which the pipeline has run once, and warm parents that no other test has."""
    before = os.environ.get("XDG_RUNTIME_DIR")
    with tempfile.TemporaryDirectory(prefix="mlnb-kill-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        series = Series(tmp_path_factory.mktemp("killed"))
        run_pipeline(series.workspace, "killed", {"round": "0"})
        yield series
        stop_parents()
    assert os.environ.get("XDG_RUNTIME_DIR") == before


def wait_until(true, process=None):
    """Wait until something is true or the process has ended."""
    end = time.monotonic() + PATIENCE
    while not true() and (process is None or process.poll() is None):
        assert time.monotonic() < end, f"it did not come true within {PATIENCE} s"
        time.sleep(0.005)


def kernels():
    """The kernels that run."""
    return [number for parent in parents() for number in parent["kernels"]]


def kill(victim, process):
    """SIGKILL to one part of a run, or to all."""
    targets = {
        "runner": lambda: [process.pid],
        "kernel": kernels,
        "parent": lambda: [parent["pid"] for parent in parents()],
    }
    for number in [number for part in targets if victim in (part, "machine") for number in targets[part]()]:
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


STATUSES = {"runner": (-signal.SIGKILL, 0), "kernel": (1, 0), "parent": (0,), "machine": (-signal.SIGKILL, 0)}


@soak
@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("victim", STATUSES)
def test_what_is_killed_leaves_whole_tables_and_is_resumed(series, mlnb, victim, number):
    chance = random.Random(f"{victim} {number}")
    publishing = chance.random() < 0.4 if ROUNDS > 1 else victim in ("runner", "kernel")
    place = "begins publish" if publishing else chance.choice(PLACES)
    series.round, known = series.round + 1, series.reports()
    if publishing:
        series.more.touch()
    process = series.start()
    wait_until(lambda: series.reached(place, known), process)
    time.sleep(chance.uniform(0, 0.4))
    if victim == "kernel":
        wait_until(kernels, process)
    kill(victim, process)
    if victim == "parent":
        series.more.unlink(missing_ok=True)
    status = process.wait(PATIENCE)
    wait_until(lambda: not series.processes())
    series.more.unlink(missing_ok=True)

    assert status in STATUSES[victim] and (status or not publishing or victim == "parent"), series.said()
    series.check_tables()
    series.check_reports(known)
    run, steps = series.last()
    began, noted = series.began(), run["run"] not in known
    assert noted or not began
    if not noted or run["status"] == "failed":
        done = [step for step in steps if noted and steps[step] == "succeeded"]
        assert status and (not publishing or (noted and not done))
        words = ["--resume"] if noted else ["-p", f"round={series.round}"]  # no step had begun
        resumed = mlnb("run", "killed", *words, cwd=series.root)
        assert resumed.returncode == 0, resumed.stdout + resumed.stderr
        run, steps = series.last()
        assert [steps[step] for step in done] == ["cached"] * len(done)
        assert [series.began().count(step) for step in done] == [began.count(step) for step in done]
    assert (run["status"], list(steps)) == ("succeeded", STEPS)
    assert run["records"] == {"total": TOTAL + series.round, "orders": ROWS // 2}
    assert series.check_tables() == {series.round}
    series.check_reports(known)
