"""Pipelines whose steps depend on one another: what runs beside what, what is refused, what a gate or a stop ends."""

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import nbformat
import psutil
import pytest

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import StepFailed
from ml_notebooks.pipelines.code import read_code
from ml_notebooks.pipelines.kernels import parents
from ml_notebooks.pipelines.ledger import read_runs, read_steps
from ml_notebooks.pipelines.run import Silent, run_pipeline
from ml_notebooks.workspace import find_workspace

WAIT = """
import pathlib, time
pathlib.Path("{name}.here").touch()
end = time.monotonic() + 100
while not pathlib.Path("{other}.here").exists():
    assert time.monotonic() < end, "{other} did not come"
    time.sleep(0.02)
"""
STUBBORN = """
import os, pathlib, time
pathlib.Path("pid").write_text(str(os.getpid()))
pathlib.Path("pid").rename("here")
while True:
    try:
        time.sleep(1000)
    except KeyboardInterrupt:
        pathlib.Path("heard").touch()
"""


def write(workspace, text, **cells):
    """A pipeline `small`: its pipeline.yaml and a notebook of one cell for each step."""
    folder = workspace / "nbs" / "pipelines" / "small"
    for name, cell in cells.items():
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)]), folder / f"{name}.ipynb")
    (folder / "pipeline.yaml").write_text(text)
    return folder


def test_independent_steps_run_at_the_same_time_and_the_last_waits_for_both(workspace, mlnb):
    text = """title: Two at once
steps:
  - {name: last, notebook: last.ipynb, after: [one, two]}
  - {name: one, notebook: one.ipynb}
  - {name: two, notebook: two.ipynb}
"""
    cells = {name: WAIT.format(name=name, other=other) for name, other in (("one", "two"), ("two", "one"))}
    write(workspace, text, **cells, last="import pathlib\nassert len(list(pathlib.Path().glob('*.here'))) == 2")
    done = mlnb("run", "small", "--jobs", "2", "--json", cwd=workspace)
    run = json.loads(done.stdout)
    assert [step["status"] for step in run["steps"]] == ["succeeded"] * 3 and run["steps"][2]["step"] == "last"
    report = (workspace / run["report"] / "index.html").read_text()
    assert report.count("<rect") == 3 and report.count("<path") == 2


def test_after_a_failure_no_further_step_is_started(workspace, mlnb):
    text = """title: One fails
steps:
  - {name: fails, notebook: fails.ipynb}
  - {name: beside, notebook: beside.ipynb}
  - {name: later, notebook: later.ipynb}
"""
    write(workspace, text, fails="1 / 0", beside="print('beside')", later="print('later')")
    assert mlnb("run", "small", "--jobs", "1", cwd=workspace).returncode == 1
    (run,) = json.loads(mlnb("runs", "small", "--json", cwd=workspace).stdout)
    assert run["status"] == "failed" and "ZeroDivisionError" in run["error"]
    assert not (workspace / run["report"] / "beside.ipynb").exists()


def test_a_gate_that_does_not_hold_ends_the_run(workspace, mlnb):
    text = """title: A gate
steps:
  - {name: evaluate, notebook: evaluate.ipynb, gate: roc_auc >= 0.7}
  - {name: register, notebook: register.ipynb, after: [evaluate]}
"""
    cell = "from ml_notebooks.pipelines.record import record\nrecord('roc_auc', 0.65)"
    write(workspace, text, evaluate=cell, register="print('registered')")
    done = mlnb("run", "small", cwd=workspace)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "Step `evaluate` does not pass its gate `roc_auc >= 0.7`. `roc_auc` is 0.65." in done.stderr
    (run,) = json.loads(mlnb("runs", "small", "--json", cwd=workspace).stdout)
    assert run["records"] == {"roc_auc": 0.65} and not (workspace / run["report"] / "register.ipynb").exists()


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (["{name: a, notebook: a.ipynb, after: [b]}", "{name: b, notebook: b.ipynb, after: [a]}"], ["line 3", "a → b → a"]),
        (
            ["{name: a, notebook: a.ipynb, writes: [raw.x]}", "{name: b, notebook: b.ipynb, writes: [raw.x]}"],
            ["line 4", "`raw.x` is written by `a` too"],
        ),
        (["{name: a, notebook: a.ipynb, reads: [raw.orders]}"], ["line 3", "Nothing writes `raw.orders`"]),
        (["{name: a, notebook: a.ipynb}", "{name: b, notebook: b.ipynb, after: [aa]}"], ["line 4", "Did you mean `a`?"]),
        (["{name: a, notebook: aa.ipynb}"], ["line 3", "`aa.ipynb` does not exist", "Did you mean `a.ipynb`?"]),
        (["{name: a, notebook: a.ipynb, parameters: {rows: 3}}"], ["line 3", "`rows`"]),
        (["{name: a, notebook: a.ipynb, gate: roc_auc}"], ["line 3", "`NAME >= NUMBER`"]),
        (["{name: a, notebook: a.ipynb, retries: many}"], ["line 3", "retries"]),
        (["{name: a, notebook: a.ipynb, gate: 'n == [1, '}"], ["line 3", "`gate`", "neither true nor false"]),
        (["{name: a, notebook: a.ipynb, writes: ['model:']}"], ["line 3", "`writes`", "`model:` names nothing"]),
        (["{name: a, notebook: a.ipynb}", "{name: b, name: c, notebook: b.ipynb}"], ["line 4", "`name`", "stands above it already"]),
        (["a"], ["line 3", "no mapping of names to values"]),
    ],
)
def test_what_cannot_work_is_said_before_anything_runs(workspace, mlnb, steps, words):
    lines = "\n".join(f"  - {step}" for step in steps)
    write(workspace, f"title: Wrong\nsteps:\n{lines}\n", a="print('a')", b="print('b')")
    done = mlnb("run", "small", cwd=workspace)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    for word in ["pipeline.yaml", *words]:
        assert word in done.stderr
    assert not (workspace / "reports").exists()


@pytest.mark.parametrize(("where", "line"), [("step", 3), ("pipeline", 2)])
def test_a_parameter_of_the_wrong_type_is_said_with_its_line(workspace, mlnb, where, line):
    shared, own = ("parameters: {rows: many}\n", "") if where == "pipeline" else ("", ", parameters: {rows: many}")
    folder = write(workspace, f"title: Wrong\n{shared}steps:\n  - {{name: a, notebook: a.ipynb{own}}}\n")
    cell = nbformat.v4.new_code_cell("rows: int = 3", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "a.ipynb")
    done = mlnb("run", "small", cwd=workspace)
    assert done.returncode == 1 and f"pipeline.yaml, line {line}" in done.stderr and "`rows` of a.ipynb must be int. Found 'many'" in done.stderr, done.stderr
    assert not (workspace / "reports").exists()


def test_the_graph_in_a_terminal_and_as_json(workspace, mlnb):
    text = """title: Three
steps:
  - {name: score, notebook: a.ipynb, reads: ["model:m", raw.x]}
  - {name: ingest, notebook: a.ipynb, writes: [raw.x]}
  - {name: train, notebook: a.ipynb, reads: [raw.x], writes: ["model:m"]}
"""
    write(workspace, text, a="print('a')")
    rows = json.loads(mlnb("graph", "small", "--json", cwd=workspace).stdout)
    assert [(row["stage"], row["step"], row["waits for"]) for row in rows] == [
        (1, "ingest", ""),
        (2, "train", "ingest"),
        (3, "score", "train"),
    ]
    shown = mlnb("graph", "small", cwd=workspace).stdout
    assert shown.startswith("ingest → train → score\n") and "waits for" in shown


def test_steps_that_share_a_notebook_do_not_share_what_they_leave(workspace, mlnb):
    text = """title: One notebook twice
steps:
  - {name: first, notebook: load.ipynb, writes: [raw.first], parameters: {name: first}}
  - {name: second, notebook: load.ipynb, writes: [raw.second, raw.never], parameters: {name: second}}
"""
    folder = write(workspace, text)
    load = "from ml_notebooks.data.warehouse import open_warehouse\nopen_warehouse().publish(f'raw.{name}', f\"SELECT '{name}' AS name\")"
    cells = [nbformat.v4.new_code_cell("name: str = ''", metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(load)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "load.ipynb")
    process = mlnb("run", "small", "--jobs", "2", "--json", cwd=workspace)
    steps = json.loads(process.stdout)["steps"]
    assert {step["step"]: list(step["outputs"]) for step in steps} == {"first": ["raw.first"], "second": ["raw.second"]}
    assert sorted(step["notebook"].rpartition("/")[2] for step in steps) == ["load.first.ipynb", "load.second.ipynb"]
    assert all((workspace / step["notebook"]).with_suffix(".html").exists() for step in steps)
    assert "declared but not written" in process.stderr and "raw.never" in process.stderr
    again = json.loads(mlnb("run", "small", "--json", cwd=workspace).stdout)
    assert {step["status"] for step in again["steps"]} == {"cached"}


def test_a_second_interrupt_kills_a_step_that_does_not_listen(workspace):
    folder = write(workspace, "title: Stubborn\nsteps:\n  - {name: only, notebook: only.ipynb}\n", only=STUBBORN)
    command = [sys.executable, "-m", "ml_notebooks", "run", "small"]
    process = subprocess.Popen(command, cwd=workspace, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(folder / "here")
    kernel = psutil.Process(int((folder / "here").read_text()))
    process.send_signal(signal.SIGINT)
    wait_for(folder / "heard")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=100)
    assert process.returncode == 130 and "Interrupted" in error and "Traceback" not in error
    kernel.wait(30)


def wait_for(path):
    """Return once a file is there."""
    end = time.monotonic() + 100
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} did not come"
        time.sleep(0.02)


TWO_KERNELS = """
import time
from ml_notebooks.errors import StepFailed
from ml_notebooks.pipelines.kernels import parents
from ml_notebooks.pipelines.record import record
end = time.monotonic() + 100
while sum(len(parent["kernels"]) for parent in parents()) < 2:
    assert time.monotonic() < end, "no second kernel came"
    time.sleep(0.02)
record("accuracy", 0.5)
"""
CHAIN = """title: One after the other
steps:
  - {{name: one, notebook: one.ipynb{more}}}
  - {{name: two, notebook: two.ipynb, after: [one]}}
"""


def test_the_next_kernel_starts_while_the_step_before_works(workspace, mlnb):
    write(workspace, CHAIN.format(more=""), one=TWO_KERNELS, two="pass")
    done = mlnb("run", "small", "--jobs", "1", "--json", cwd=workspace)
    first, second = json.loads(done.stdout)["steps"]
    ended = datetime.fromisoformat(first["started"]) + timedelta(seconds=first["seconds"])
    assert second["status"] == "succeeded" and datetime.fromisoformat(second["started"]) >= ended


def test_a_step_that_was_prepared_in_vain_leaves_nothing(workspace, mlnb):
    write(workspace, CHAIN.format(more=', gate: "accuracy >= 0.9"'), one=TWO_KERNELS, two="pass")
    run = json.loads(mlnb("run", "small", "--jobs", "1", "--json", cwd=workspace).stdout)
    assert [(step["step"], step["status"]) for step in run["steps"]] == [("one", "failed")]
    assert not list((workspace / run["report"]).glob("*two*"))
    assert [parent["kernels"] for parent in parents() if parent["kernels"]] == []


@pytest.mark.parametrize("moment", ["run_started", "step_finished"])
def test_an_interrupt_while_no_outcome_is_waited_for_reaches_the_steps(workspace, moment):
    text = "title: Two at once\nsteps:\n  - {name: short, notebook: short.ipynb}\n  - {name: long, notebook: long.ipynb}\n"
    wait = WAIT.format(name="short", other="long")
    write(workspace, text, short=wait, long="import pathlib, time\npathlib.Path('long.here').touch()\ntime.sleep(1000)")
    impatient, found = Silent(), find_workspace(workspace)
    setattr(impatient, moment, lambda what, *more: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(found, "small", observer=impatient, jobs=2)
    with open_warehouse(found, read_only=True) as wh:
        [run] = read_runs(wh)
        steps = read_steps(wh, run["run"])
    assert (run["status"], run["error"]) == ("failed", "It was interrupted.")
    assert [(step["step"], step["error"]) for step in steps][1:] == ([("long", "It was interrupted.")] if moment == "step_finished" else [])


@pytest.mark.parametrize("end", ["", "raise ValueError(said)"])
def test_a_text_that_looks_like_a_query_is_a_text(workspace, mlnb, end):
    said = "pd.set_option('display.max_rows', 5); -- cleanup_all( \\0 $$"
    cell = f"from ml_notebooks.pipelines.record import record\nsaid = {said!r}\nrecord('said', said)\n{end}"
    write(workspace, "title: A text\nsteps:\n  - {name: one, notebook: one.ipynb}\n", one=cell)
    done = mlnb("run", "small", cwd=workspace)
    assert "changes the lake" not in done.stdout + done.stderr
    [run] = json.loads(mlnb("runs", "--json", cwd=workspace).stdout)
    assert run["status"] == ("failed" if end else "succeeded") and run["records"] == {"said": said}
    assert (said in run["error"]) is bool(end) and (workspace / run["report"] / "index.html").exists()


def test_a_step_that_holds_the_warehouse_for_long_does_not_end_the_run(workspace, monkeypatch):
    monkeypatch.setenv("MLNB_WAREHOUSE__LOCK_TIMEOUT", "1")
    hold = """
import time, pathlib
from ml_notebooks.data.warehouse import open_warehouse
with open_warehouse() as wh, wh.transaction():
    pathlib.Path("held").touch()
    time.sleep(4)
"""
    short = "import time, pathlib\nwhile not pathlib.Path('held').exists():\n    time.sleep(0.02)"
    write(workspace, "title: Two\nsteps:\n  - {name: short, notebook: short.ipynb}\n  - {name: long, notebook: long.ipynb}\n", short=short, long=hold)
    found = find_workspace(workspace)
    run = run_pipeline(found, "small", jobs=2)
    with open_warehouse(found, read_only=True) as wh:
        assert [step["status"] for step in read_steps(wh, run.run)] == ["succeeded"] * 2


def test_a_retry_is_not_ended_by_the_time_out_before(workspace, monkeypatch):
    monkeypatch.setattr("ml_notebooks.pipelines.step.PATIENCE", 1.0)
    cell = """
import pathlib, time
again = pathlib.Path("again").exists()
pathlib.Path("again").touch()
time.sleep(3 if again else 100)
"""
    write(workspace, "title: Again\nsteps:\n  - {name: one, notebook: one.ipynb, timeout: 6, retries: 1}\n", one=cell)
    run = run_pipeline(find_workspace(workspace), "small")
    assert [(step.status, step.attempts) for step in run.steps] == [("succeeded", 2)]


def test_a_run_that_its_observer_ends_is_written_down(workspace):
    class Broken(Silent):
        """Fails as a step ends."""

        def step_finished(self, result):
            raise OSError("the screen is gone")

    write(workspace, "title: One\nsteps:\n  - {name: one, notebook: one.ipynb}\n", one="pass")
    found = find_workspace(workspace)
    with pytest.raises(OSError, match="the screen is gone"):
        run_pipeline(found, "small", observer=Broken())
    with open_warehouse(found, read_only=True) as wh:
        [run] = read_runs(wh)
    assert (run["status"], run["error"]) == ("failed", "the screen is gone")
    assert (workspace / run["report"] / "index.html").exists()


@pytest.mark.parametrize(("writes", "said"), [("[raw.x]", r"`one` may not write `model:late`.*names `raw.x` under"), ('["model:late"]', "has no attribute '_client'")])
def test_an_undeclared_model_is_not_registered(workspace, writes, said):
    cell = "from ml_notebooks.training.registry import register\nregister(None, 'late', 'some run')"
    write(workspace, f"title: A model\nsteps:\n  - {{name: one, notebook: one.ipynb, writes: {writes}}}\n", one=cell)
    with pytest.raises(StepFailed, match=said):
        run_pipeline(find_workspace(workspace), "small")


def test_a_deleted_page_of_a_cached_step_is_written_anew(workspace):
    write(workspace, "title: One\nsteps:\n  - {name: one, notebook: one.ipynb}\n", one="print('what it said')")
    found = find_workspace(workspace)
    first = run_pipeline(found, "small")
    (workspace / first.report / "one.html").unlink()
    again = run_pipeline(found, "small")
    assert [step.status for step in again.steps] == ["cached"]
    assert 'href="one.html"' in (workspace / again.report / "index.html").read_text()
    assert "what it said" in (workspace / again.report / "one.html").read_text()


def test_of_steps_in_several_threads_one_parses_at_a_time(monkeypatch, tmp_path):
    inside, together = [], []

    def parse(notebook, packages):
        """Note how many are in here."""
        inside.append(notebook)
        together.append(len(inside))
        time.sleep(0.02)
        inside.pop()

    monkeypatch.setattr("ml_notebooks.pipelines.code._read_code", parse)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: read_code(tmp_path, {}), range(8)))
    assert together == [1] * 8
