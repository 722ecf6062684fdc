"""`mlnb backfill`: a run for each value, what is said when one fails or Ctrl-C comes, what is refused before the first."""

import json
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.pipelines.ledger import read_runs
from ml_notebooks.workspace import find_workspace

PARAMETERS = "month: int = 1\nday: str = '2013-01-01'\nshare: float | None = None\nflag: bool = True"
RECORD = "from ml_notebooks.pipelines.record import record\nrecord('month', month)\nrecord('day', day)"


@pytest.fixture
def small(workspace):
    """A workspace whose pipeline records its parameters, and fails in the second month."""
    write_step(workspace, RECORD, "assert month != 2, 'no flights'")
    (workspace / "nbs" / "pipelines" / "small" / "pipeline.yaml").write_text("title: t\nsteps: [{name: only, notebook: only.ipynb}]\n")
    return workspace


def write_step(folder, *cells):
    """The notebook of the only step."""
    made = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(nbformat.v4.new_notebook(cells=made), folder / "nbs" / "pipelines" / "small" / "only.ipynb")


def recorded(folder, name):
    """A figure of all runs, the earliest first, and how each went."""
    with open_warehouse(find_workspace(folder), read_only=True) as wh:
        return [(run["records"].get(name), run["status"]) for run in reversed(read_runs(wh))]


def test_each_value_is_an_ordinary_run(small, mlnb):
    words = ["--from", "2012-12", "--to", "2013-02", "-p", "month=7", "--json"]
    done = mlnb("backfill", "small", "--parameter", "day", *words, cwd=small)
    rows = json.loads(done.stdout)
    assert done.returncode == 0 and [(row["value"], row["status"], row["error"]) for row in rows] == [
        (value, "succeeded", "") for value in ("2012-12", "2013-01", "2013-02")
    ]
    runs = json.loads(mlnb("runs", "small", "--json", cwd=small).stdout)
    assert [run["run"] for run in reversed(runs)] == [row["run"] for row in rows]
    assert [run["records"] for run in reversed(runs)] == [{"month": 7, "day": row["value"]} for row in rows]


def test_the_first_failure_ends_it_and_says_how_to_go_on(small, mlnb):
    done = mlnb("backfill", "small", "--parameter", "month", "--from", "1", "--to", "3", cwd=small)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    message = done.stderr.splitlines()[-1]
    for part in ("mlnb: The backfill of `small` failed at 2.", "no flights", "Done: 1."):
        assert part in message
    assert "`mlnb backfill small --parameter month --from 2 --to 3`" in message
    table = done.stdout[done.stdout.index("value") :].splitlines()
    assert [line.split()[:2] for line in table] == [["value", "status"], ["1", "succeeded"], ["2", "failed"]]
    assert recorded(small, "month") == [(1, "succeeded"), (2, "failed")]


def test_with_keep_going_the_others_are_run_too(small, mlnb):
    done = mlnb("backfill", "small", "-p", "month", "--from", "1", "--to", "3", "--keep-going", "--json", cwd=small)
    assert done.returncode == 1 and "failed at 2." in done.stderr and "Done: 1, 3." in done.stderr
    assert [row["status"] for row in json.loads(done.stdout)] == ["succeeded", "failed", "succeeded"]


def test_ctrl_c_says_how_to_go_on(small):
    write_step(small, "import pathlib, time\nif month == 3:\n    pathlib.Path('here').touch()\n    time.sleep(100)")
    command = [sys.executable, "-m", "ml_notebooks", "backfill", "small", "-p", "month", "--from", "1", "--to", "5", "--step", "2"]
    process = subprocess.Popen(command, cwd=small, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    end = time.monotonic() + 100
    while not (small / "nbs" / "pipelines" / "small" / "here").exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, error = process.communicate(timeout=100)
    assert process.returncode == 130 and "Traceback" not in error and "1      succeeded" in output
    assert "Go on with `mlnb backfill small --parameter month --from 3 --to 5 --step 2`" in error
    assert recorded(small, "month") == [(None, "succeeded"), (None, "failed")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["month", "--from", "3", "--to", "1"], "runs backwards"),
        (["day", "--from", "2013-02-01", "--to", "2013-01-01"], "runs backwards"),
        (["month", "--from", "1", "--to", "2013-01"], "The one is a whole number, the other a month."),
        (["month", "--from", "2013-01", "--to", "2013-02"], "Parameter `month` of only.ipynb must be int. Found '2013-01'."),
        (["flag", "--from", "1", "--to", "2"], "Parameter `flag` of only.ipynb must be bool"),
        (["mnth", "--from", "1", "--to", "2"], "Did you mean `month`?"),
        (["only.mnth", "--from", "1", "--to", "2"], "There is no parameter `only.mnth`"),
        (["day", "--from", "2013-02-28", "--to", "2013-02-30"], "There is no day `2013-02-30`."),
        (["day", "--from", "monday", "--to", "friday"], "`monday` is neither a whole number nor a day nor a month."),
        (["day", "--from", "1", "--to", "1000000"], "1,000,000 values"),
        (["month", "--from", "1", "--to", "2", "-p", "share=many"], "Parameter `share`"),
    ],
)
def test_what_cannot_be_a_range_is_refused_before_anything_runs(small, mlnb, words, said):
    done = mlnb("backfill", "small", "--parameter", *words, cwd=small)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr
    assert not (small / "reports").exists()


@pytest.mark.parametrize("words", [["-p", "month=1"], ["-p", "month", "-p", "day"], ["-p", "month", "--step", "0"], []])
def test_one_parameter_takes_the_values(small, mlnb, words):
    done = mlnb("backfill", "small", "--from", "1", "--to", "2", *words, cwd=small)
    assert done.returncode == 2 and ("--parameter" in done.stderr or "--step" in done.stderr)


def test_a_pipeline_that_is_not_there(small, mlnb):
    done = mlnb("backfill", "smal", "-p", "month", "--from", "1", "--to", "2", cwd=small)
    assert done.returncode == 1 and "Did you mean `small`?" in done.stderr
