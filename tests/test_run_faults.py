"""What happens to a run when things go wrong: one clear message, a non-zero exit, nothing lost."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import nbformat
import papermill.cli
import papermill.engines
import psutil
import pytest
from click.testing import CliRunner
from papermill.engines import papermill_engines
from papermill.exceptions import PapermillExecutionError
from support.workspaces import small_disk

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.pipelines.ledger import read_runs, read_steps
from ml_notebooks.workspace import find_workspace

OPEN = "from ml_notebooks.data.warehouse import open_warehouse\nfrom ml_notebooks.pipelines.record import record\nwh = open_warehouse()"
PUBLISH = "wh.publish('raw.orders', 'SELECT range AS id FROM range(5)')\nrecord('orders', 5)"


def write_step(folder: Path, name: str, *cells: str, parameters: str | None = "rows: int = 3"):
    """Write a step's notebook into the pipeline `small`."""
    made = [] if parameters is None else [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    made.append(nbformat.v4.new_markdown_cell("Cells are counted as Jupyter does: those of code."))
    made += [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=made), folder / "nbs" / "pipelines" / "small" / f"{name}.ipynb")


WRITES = {"first": "raw.orders", "second": "raw.large"}


def write_pipeline(folder: Path, *steps: str):
    """Write the pipeline `small` with steps that are called as their notebooks and follow one another."""
    before = ["", *steps]
    lines = [
        f"  - {{name: {step}, notebook: {step}.ipynb, writes: [{WRITES[step]}], after: [{before[n]}]}}"
        for n, step in enumerate(steps)
    ]
    lines = ["title: A small one", "steps:", *lines]
    (folder / "nbs" / "pipelines" / "small" / "pipeline.yaml").write_text("\n".join(lines))


@pytest.fixture
def small(workspace):
    """A workspace with two steps: the first publishes, the second does what a test writes."""
    write_step(workspace, "first", OPEN, PUBLISH)
    write_pipeline(workspace, "first", "second")
    return workspace


def assert_said(process, *words):
    """One message, after whatever was logged; no traceback, exit status 1."""
    assert process.returncode == 1, process.stdout + process.stderr
    assert len(re.findall("^mlnb: ", process.stderr, re.MULTILINE)) == 1
    assert "Traceback" not in process.stderr and "not foreseen" not in process.stderr
    for word in words:
        assert word in process.stderr


def ledger(folder):
    """The runs of a workspace."""
    with open_warehouse(find_workspace(folder), read_only=True) as wh:
        return read_runs(wh)


def assert_first_step_stands(folder):
    """What the first step published is there, and the run is written down as failed."""
    with open_warehouse(find_workspace(folder), read_only=True) as wh:
        assert wh.sql("SELECT count(*) FROM raw.orders").fetchall() == [(5,)]
        run = read_runs(wh)[0]
    assert run["status"] == "failed" and run["records"]["orders"] == 5
    return run


def test_a_step_that_raises(small, mlnb):
    write_step(small, "second", "print('kept')", "raise RuntimeError('no such luck')", "print('never')")
    process = mlnb("run", "small", cwd=small)
    assert_said(process, "Step `second` failed in cell 3", "RuntimeError: no such luck", "second.ipynb")
    run = assert_first_step_stands(small)
    kept = nbformat.read(small / run["report"] / "second.ipynb", as_version=4)
    assert kept.cells[2].outputs[0].text == "kept\n" and kept.cells[3].outputs[0].ename == "RuntimeError"
    page = (small / run["report"] / "second.html").read_text()
    assert "no such luck" in page and "no such luck" in (small / run["report"] / "index.html").read_text()


def test_a_kernel_that_dies(small, mlnb):
    write_step(small, "second", "print('kept', flush=True)", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    process = mlnb("run", "small", cwd=small)
    assert_said(process, "kernel of step `second` died in cell 3", "the signal SIGKILL (9)", "more memory free")
    run = assert_first_step_stands(small)
    kept = nbformat.read(small / run["report"] / "second.ipynb", as_version=4)
    assert kept.cells[2].outputs[0].text == "kept\n"


@pytest.mark.parametrize(
    ("source", "words"),
    [("import os; os._exit(3)", "It ended with exit status 3"), ("import ctypes; ctypes.string_at(0)", "the signal SIGSEGV (11)")],
)
def test_a_kernel_that_ends_itself(small, mlnb, source, words):
    write_step(small, "second", source)
    process = mlnb("run", "small", cwd=small)
    assert_said(process, "kernel of step `second` died in cell 2", words)
    assert "memory" not in process.stderr


def test_a_cell_that_takes_too_long(small, mlnb):
    write_step(small, "second", "import time\ntime.sleep(60)")
    process = mlnb("run", "small", cwd=small, MLNB_RUN__CELL_TIMEOUT="2")
    assert_said(process, "Step `second` failed in cell 2", "cell_timeout")
    assert_first_step_stands(small)


def test_debug_shows_the_traceback(small, mlnb):
    write_pipeline(small, "second")
    write_step(small, "second", "1 / 0")
    process = mlnb("--debug", "run", "small", cwd=small)
    assert process.returncode == 1 and "Traceback" in process.stderr and "StepFailed" in process.stderr


@pytest.mark.parametrize(
    ("parameters", "words", "status"),
    [
        (["-p", "rwos=4"], ["no parameter `rwos`", "Did you mean `rows`?"], 1),
        (["-p", "rows=many"], ["Parameter `rows`", "must be int", "'many'"], 1),
        (["-p", "second.rows=4"], ["no parameter `second.rows`"], 1),
        (["-p", "rows"], ["NAME=VALUE"], 2),
    ],
)
def test_wrong_parameters_stop_before_anything_runs(small, mlnb, parameters, words, status):
    write_step(small, "second", "pass", parameters=None)
    process = mlnb("run", "small", *parameters, cwd=small)
    assert process.returncode == status and "Traceback" not in process.stderr
    for word in words:
        assert word in process.stderr
    assert not (small / "reports").exists()


def test_parameters_for_a_notebook_without_a_parameters_cell(small, mlnb):
    write_step(small, "second", "pass", parameters=None)
    text = "title: t\nsteps:\n  - {name: second, notebook: second.ipynb, parameters: {rows: 4}}\n"
    (small / "nbs" / "pipelines" / "small" / "pipeline.yaml").write_text(text)
    assert_said(mlnb("run", "small", cwd=small), "`second.ipynb` has no `parameters` cell", "`rows`")


def test_a_missing_notebook(small, mlnb):
    write_step(small, "secnod", "pass")
    assert_said(mlnb("run", "small", cwd=small), "Step `second` has no notebook", "Did you mean `secnod.ipynb`?")


def test_a_pipeline_that_is_not_there(small, mlnb):
    write_step(small, "second", "pass")
    assert_said(mlnb("run", "smal", cwd=small), "no pipeline `smal`", "Did you mean `small`?")


def test_no_workspace_here(tmp_path, mlnb):
    assert_said(mlnb("tables", cwd=tmp_path), "no workspace here", "mlnb init")
    process = mlnb("doctor", cwd=tmp_path)
    assert process.returncode == 1 and "mlnb init" in process.stdout


def test_a_setting_of_the_wrong_type(workspace, mlnb):
    (workspace / "settings.ini").write_text("[workspace]\nname = small\n[dashboard]\nport = eighty\n")
    assert_said(mlnb("tables", cwd=workspace), "settings.ini [dashboard]", "`port`", "Found `eighty`", "integer")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sql", "FROM raw.orders"], "warehouse is empty"),
        (["sql", "SELEC 1"], "syntax error"),
        (["sql", "DROP TABLE raw.orders"], "may only read"),
        (["sql", "SELECT 1", "--at", "99"], "Snapshot 99"),
    ],
)
def test_sql_that_cannot_be_run(workspace, mlnb, words, said):
    assert_said(mlnb(*words, cwd=workspace), said)


def test_a_value_that_cannot_be_converted(workspace, mlnb):
    assert_said(mlnb("sql", "SELECT 'x'::INT", cwd=workspace), "Conversion Error", "Correct the query")


@pytest.fixture
def filled(workspace):
    """A workspace whose warehouse has one table."""
    with open_warehouse(find_workspace(workspace)) as wh:
        wh.publish("raw.orders", "SELECT range AS id FROM range(5)")
    return workspace


def test_a_table_that_is_not_there_names_the_nearest(filled, mlnb):
    assert_said(mlnb("sql", "FROM raw.ordres", cwd=filled), "`raw.ordres`", "Did you mean `raw.orders`?")


def test_a_newer_warehouse(filled, mlnb):
    import sqlite3

    connection = sqlite3.connect(filled / "data" / "catalog.sqlite")
    connection.execute("UPDATE ducklake_metadata SET value = '99.0' WHERE key = 'version'")
    connection.commit()
    connection.close()
    assert_said(mlnb("tables", cwd=filled), "newer version", "Upgrade")


def start(folder, *words):
    """Start `mlnb` in a folder, in a session of its own."""
    command = [sys.executable, "-m", "ml_notebooks", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(path: Path, process):
    """Return once a file is there."""
    for _ in range(1200):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise TimeoutError(path)


SLEEP = """
import os, pathlib, time
pathlib.Path("pid").write_text(str(os.getpid()))
pathlib.Path("pid").rename("here")
time.sleep(120)
"""


def wait_for_kernel(folder, process):
    """The process of the kernel that sleeps in the step `second`."""
    here = folder / "nbs" / "pipelines" / "small" / "here"
    wait_for(here, process)
    return psutil.Process(int(here.read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_a_run_keeps_what_is_done(small, number):
    write_step(small, "second", "print('kept')", SLEEP)
    process = start(small, "run", "small")
    kernel = wait_for_kernel(small, process)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Interrupted" in error and "Traceback" not in error
    run = assert_first_step_stands(small)
    assert "interrupted" in run["error"]
    kept = nbformat.read(small / run["report"] / "second.ipynb", as_version=4)
    assert kept.cells[2].outputs[0].text == "kept\n"
    kernel.wait(30)


def test_a_killed_runner_is_reported_as_failed_and_the_next_run_goes_on(small, mlnb):
    write_step(small, "second", SLEEP)
    process = start(small, "run", "small")
    kernel = wait_for_kernel(small, process)
    busy = mlnb("run", "small", cwd=small)
    assert_said(busy, "already running", f"process {process.pid}")
    assert ledger(small)[0]["status"] == "running"
    process.kill()
    process.communicate()
    kernel.wait(30)
    run = assert_first_step_stands(small)
    assert "killed" in run["error"]
    folder = small / run["report"]
    assert not (folder / "index.html").exists() and list(folder.glob("*.lineage"))
    write_step(small, "second", "pass")
    assert mlnb("run", "small", cwd=small).returncode == 0
    runs = json.loads(mlnb("runs", "--json", cwd=small).stdout)
    assert [run["status"] for run in runs] == ["succeeded", "failed"]
    page = (folder / "index.html").read_text()
    assert "What went wrong" in page and "second.html#cell-2" in page and run["report"].partition("/")[2] in (small / "reports" / "index.html").read_text()
    assert {file.name for file in folder.iterdir() if file.suffix != ".log"} == {f"{name}.{end}" for name in ("first", "second") for end in ("html", "ipynb")} | {"index.html"}
    with open_warehouse(find_workspace(small), read_only=True) as wh:
        assert wh.sql("SELECT status, pid FROM ops.runs ORDER BY run").fetchone() == ("failed", process.pid)
        assert [(step["step"], step["status"], step["cell"]) for step in read_steps(wh, run["run"])] == [("first", "succeeded", 0), ("second", "failed", 2)]


@pytest.fixture
def tiny_disk(tmp_path_factory):
    """A file system of 48 MiB."""
    with small_disk(tmp_path_factory.mktemp("disk"), "48m") as folder:
        yield folder


def test_a_full_disk(small, mlnb, tiny_disk):
    folder = tiny_disk / "workspace"
    write_step(small, "second", OPEN, "wh.publish('raw.large', 'SELECT random() AS x, random() AS y FROM range(20_000_000)')")
    shutil.copytree(small, folder)
    process = mlnb("run", "small", cwd=folder, MLNB_WAREHOUSE__MEMORY_LIMIT="1GB")
    assert_said(process, "Step `second` failed", "disk is full")
    kept = nbformat.read(folder / ledger(folder)[0]["report"] / "second.ipynb", as_version=4)
    assert kept.cells[-1].outputs[0].ename == "DiskFull"
    with open_warehouse(find_workspace(folder), read_only=True) as wh:
        assert wh.sql("SELECT count(*) FROM raw.orders").fetchall() == [(5,)] and "raw.large" not in wh.names()


def test_secrets_do_not_reach_the_ledger_or_the_message(small, mlnb):
    write_step(small, "second", "import os\nraise RuntimeError('cannot log in with ' + os.environ['MLNB_WAREHOUSE__S3_SECRET'])")
    process = mlnb("run", "small", cwd=small, MLNB_WAREHOUSE__S3_SECRET="canary-7351")
    assert process.returncode == 1 and "canary-7351" not in process.stderr + process.stdout and "***" in process.stderr
    assert "canary-7351" not in json.dumps(ledger(small), default=str)
    written = [file for file in (small / "reports").rglob("*") if file.is_file()]
    assert written and all(b"canary-7351" not in file.read_bytes() for file in written)


def test_interrupting_a_query(workspace):
    catalog = workspace / "data" / "catalog.sqlite"
    with open_warehouse(find_workspace(workspace)) as wh:
        wh.publish("raw.orders", "SELECT range AS id FROM range(5)")
    process = start(workspace, "sql", "SELECT count(*) FROM range(10_000_000_000) AS a, range(100_000) AS b")
    while all(opened.path != str(catalog) for opened in psutil.Process(process.pid).open_files()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "Interrupted" in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("text", "environment", "words"),
    [
        ("[warehouse]\ncatalogue = x\n", {}, ["[warehouse]", "`catalogue`", "Did you mean `catalog`?"]),
        ("[warehous]\ncatalog = x\n", {}, ["`[warehous]`", "Did you mean `warehouse`?"]),
        ("[profile:prod]\nlogs.level = info\n", {"MLNB_PROFILE": "prdo"}, ["MLNB_PROFILE", "Did you mean `prod`?"]),
        ("", {"MLNB_WAREHOUSE__CATALOGUE": "x"}, ["The environment", "MLNB_WAREHOUSE__CATALOGUE"]),
        ("[warehouse]\npassword = hush-9157\n", {}, ["`password`", ".env"]),
    ],
)
def test_settings_that_are_not_right(workspace, mlnb, text, environment, words):
    (workspace / "settings.ini").write_text(f"[workspace]\nname = small\n{text}")
    process = mlnb("tables", cwd=workspace, **environment)
    assert_said(process, *words)
    assert "hush-9157" not in process.stderr


def test_a_kernel_that_is_not_installed(small, mlnb):
    write_step(small, "second", "pass")
    assert_said(mlnb("run", "small", cwd=small, MLNB_RUN__KERNEL="nope"), "no kernel `nope`", "settings.ini")
    assert not (small / "reports").exists()


def test_a_parameters_cell_that_is_not_python(small, mlnb):
    write_step(small, "second", "pass", parameters="rows: int = ")
    assert_said(mlnb("run", "small", cwd=small), "`parameters` cell of `second.ipynb`")


def test_a_notebook_that_is_not_one(small, mlnb):
    (small / "nbs" / "pipelines" / "small" / "second.ipynb").write_text("{")
    assert_said(mlnb("run", "small", cwd=small), "`second.ipynb` is not a notebook")


def test_a_catalogue_that_is_not_one(small, mlnb):
    (small / "data").mkdir()
    (small / "data" / "catalog.sqlite").write_bytes(b"rubbish" * 1000)
    assert_said(mlnb("tables", cwd=small), "could not be opened", "[warehouse]")


def test_a_run_as_json(small, mlnb):
    write_step(small, "second", "pass")
    run = json.loads(mlnb("run", "small", "--json", cwd=small).stdout)
    assert run["status"] == "succeeded" and [step["step"] for step in run["steps"]] == ["first", "second"]
    runs = json.loads(mlnb("runs", "small", "--json", cwd=small).stdout)
    assert {"run", "pipeline", "status", "started", "seconds", "records", "report"} <= set(runs[0])
    assert runs[0]["run"] == run["run"] and runs[0]["records"] == {"orders": 5} and (small / runs[0]["report"] / "index.html").is_file()


def test_papermill_alone_runs_a_step(small):
    write_step(small, "second", "print(rows)")
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", "--log-level", "ERROR", "-p", "rows", "4"]
    step = small / "nbs" / "pipelines" / "small" / "second.ipynb"
    done = subprocess.run([*command, "-k", "python3", "--language", "python", str(step), "-"], capture_output=True, text=True, cwd=small)
    assert done.returncode == 0, done.stderr
    assert nbformat.reads(done.stdout, as_version=4).cells[-1].outputs[0].text == "4\n"


def test_papermill_finds_the_engine_by_its_entry_point(small, monkeypatch):
    """As `papermill --engine mlnb` does once the package is installed."""
    written = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]["entry-points"]["papermill.engine"]
    points = [EntryPoint(name, value, "papermill.engine") for name, value in written.items()]
    others = {name: engine for name, engine in papermill_engines._engines.items() if "mlnb" not in str(name)}
    monkeypatch.setattr(papermill_engines, "_engines", others)
    monkeypatch.setattr(papermill.engines.entrypoints, "get_group_all", lambda group: points)
    papermill_engines.register_entry_points()
    monkeypatch.setenv("MLNB_WAREHOUSE__S3_SECRET", "hunter-canary-zqx77")
    monkeypatch.chdir(small)
    said = "import os, sys, time\nfor part in (os.environ['MLNB_WAREHOUSE__S3_SECRET'][:6], os.environ['MLNB_WAREHOUSE__S3_SECRET'][6:]):\n    sys.stdout.write(part); sys.stdout.flush(); time.sleep(0.4)"
    write_step(small, "second", "print(rows)", said, "1 / 0")
    notebook, kept = small / "nbs" / "pipelines" / "small" / "second.ipynb", small / "kept.ipynb"
    words = ["--engine", "mlnb", "-k", "python3", "--language", "python", "--no-progress-bar", "-p", "rows", "4", str(notebook), str(kept)]
    done = CliRunner().invoke(papermill.cli.papermill, words)
    assert isinstance(done.exception, PapermillExecutionError) and done.exception.ename == "ZeroDivisionError"
    saved = nbformat.read(kept, as_version=4)
    assert saved.metadata.mlnb.peak_memory > 1 and [cell.outputs[0].text for cell in saved.cells if cell.source == "print(rows)"] == ["4\n"]
    assert "canary" not in kept.read_text() and "***" in kept.read_text() and saved.metadata.kernelspec.name == "python3"


def test_two_pipelines_at_once_share_the_warehouse(small):
    write_step(small, "second", "pass")
    shutil.copytree(small / "nbs" / "pipelines" / "small", small / "nbs" / "pipelines" / "other")
    processes = [start(small, "run", name) for name in ("small", "other")]
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
    assert sorted((run["pipeline"], run["status"]) for run in ledger(small)) == [("other", "succeeded"), ("small", "succeeded")]
    assert os.listdir(small / "reports") and len(ledger(small)) == 2
