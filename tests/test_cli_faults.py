"""What the command line says when the warehouse cannot be had: one message, a non-zero exit, no traceback unless asked for."""

import json
import socket
import time

import duckdb
import nbformat
import pytest
from support.processes import start
from support.servers import redis_server
from support.workspaces import make_workspace
from support.writers import hold_lock

from ml_notebooks import doctor
from ml_notebooks.data import connection
from ml_notebooks.data.catalog import extension_file
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.pipelines.ledger import new_run, write_run
from ml_notebooks.workspace import find_workspace

PASSWORD = "canary-2846"


@pytest.fixture
def small(workspace):
    """A workspace with a pipeline of one step."""
    folder = workspace / "nbs" / "pipelines" / "small"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")]), folder / "only.ipynb")
    (folder / "pipeline.yaml").write_text("title: A small one\nsteps:\n  - {name: only, notebook: only.ipynb}\n")
    return workspace


def assert_said(process, *words):
    """One message that says all of the words, no traceback, exit status 1."""
    assert process.returncode == 1, process.stdout + process.stderr
    assert process.stderr.startswith("mlnb: ") and len(process.stderr.splitlines()) == 1, process.stderr
    assert process.stdout == "" and "not foreseen" not in process.stderr
    for word in words:
        assert word in process.stderr


def assert_traced(process, error):
    """A traceback that ends in that error, then the message, exit status 1."""
    assert process.returncode == 1
    trace, _, message = process.stderr.rpartition("\nmlnb: ")
    assert "Traceback (most recent call last)" in trace and error in trace.splitlines()[-1] and message


# A write lock that another process holds


@pytest.fixture
def locked(small):
    """The workspace `small` while another process holds the write lock, and that process's id."""
    open_warehouse(find_workspace(small)).close()
    with start(hold_lock, small) as holder:
        assert holder.hear() == "holding"
        yield small, holder.pid
        holder.tell("let go")
        holder.join()


def test_a_held_write_lock_is_said_with_its_holder(locked, mlnb):
    folder, pid = locked
    process = mlnb("run", "small", cwd=folder, MLNB_WAREHOUSE__LOCK_TIMEOUT="0.3")
    assert_said(process, "warehouse.lock", "within 0.3 s", f"process {pid} of", "raise `lock_timeout`")


def test_a_held_write_lock_is_traced_with_debug(locked, mlnb):
    folder, _ = locked
    process = mlnb("run", "small", "--debug", cwd=folder, MLNB_WAREHOUSE__LOCK_TIMEOUT="0.3")
    assert_traced(process, "WarehouseLocked")


def test_readers_do_not_wait_for_the_lock(locked, mlnb):
    folder, _ = locked
    assert mlnb("tables", cwd=folder, MLNB_WAREHOUSE__LOCK_TIMEOUT="0.3").returncode == 0


# A PostgreSQL catalogue that does not answer


@pytest.fixture
def unreachable():
    """Settings that name a PostgreSQL server on a port of this machine on which nobody listens."""
    with socket.socket() as kept:  # bound, so that nobody else takes it
        kept.bind(("127.0.0.1", 0))
        catalog = f"postgres:host=127.0.0.1 port={kept.getsockname()[1]} dbname=lake user=keeper connect_timeout=5"
        yield {"MLNB_WAREHOUSE__CATALOG": catalog, "MLNB_WAREHOUSE__PASSWORD": PASSWORD}


@pytest.mark.parametrize(
    "words", [("run", "small"), ("tables",), ("runs",), ("runs", "small", "--json"), ("sql", "SELECT 1")], ids=" ".join
)
def test_an_unreachable_catalogue_is_said(small, mlnb, unreachable, words):
    process = mlnb(*words, cwd=small, **unreachable)
    assert_said(process, "could not be opened", "postgres:host=127.0.0.1", "Connection refused", "its server runs")
    assert PASSWORD not in process.stderr


def test_an_unreachable_catalogue_is_traced_with_debug(small, mlnb, unreachable):
    process = mlnb("--debug", "tables", cwd=small, **unreachable)
    assert_traced(process, "WarehouseUnavailable")
    assert PASSWORD not in process.stderr


def test_doctor_finds_the_unreachable_catalogue(small, mlnb, unreachable):
    process = mlnb("doctor", "--json", cwd=small, **unreachable)
    [finding] = [finding for finding in json.loads(process.stdout) if finding["what"] == "warehouse"]
    assert process.returncode == 1 and finding["state"] == "wrong" and "Connection refused" in finding["found"]
    assert PASSWORD not in process.stdout + process.stderr


@pytest.mark.parametrize(("kernel", "installed"), [("mlnb", ["python3"]), ("mlnb", []), ("other", ["python3"])])
def test_doctor_says_how_a_kernel_that_lacks_is_installed(tmp_path, monkeypatch, kernel, installed):
    monkeypatch.setattr("jupyter_client.kernelspec.KernelSpecManager.find_kernel_specs", lambda self: dict.fromkeys(installed, ""))
    monkeypatch.setenv("MLNB_RUN__KERNEL", kernel)
    found = doctor.kernel(make_workspace(tmp_path))
    assert found.state == "wrong" and f"`{kernel}` is not" in found.found and "among ," not in found.found + ","
    assert found.do.startswith("`mlnb kernel install` installs it" if kernel == "mlnb" else "Install it; `mlnb kernel install`")


# An online store that does not answer


def online(small, mlnb, address, password=""):
    """What `mlnb doctor` finds of an online store, and its exit status."""
    process = mlnb("doctor", "--json", cwd=small, MLNB_ONLINE__STORE=address, MLNB_ONLINE__PASSWORD=password)
    [finding] = [finding for finding in json.loads(process.stdout) if finding["what"] == "online"]
    assert PASSWORD not in process.stdout + process.stderr
    return finding, process.returncode


@pytest.mark.parametrize("listening", [False, True], ids=["refused", "silent"])
def test_doctor_finds_an_online_store_that_does_not_answer(small, mlnb, listening):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listening:
            silent.listen()
        address = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        began = time.monotonic()
        finding, status = online(small, mlnb, address, PASSWORD)
    assert status == 1 and finding["state"] == "wrong" and address in finding["found"] and time.monotonic() - began < 30
    assert ("Timeout" if listening else "refused") in finding["found"] and "Start it, or correct `store` in [online] of settings.ini" in finding["do"]


def test_doctor_tells_a_wrong_password_from_a_right_one(small, mlnb, tmp_path):
    with redis_server(tmp_path) as (port, password):
        wrong, _ = online(small, mlnb, f"redis://127.0.0.1:{port}/0", PASSWORD)
        right, _ = online(small, mlnb, f"redis://127.0.0.1:{port}/0", password)
    assert wrong["state"] == "wrong" and "password" in wrong["found"] and "MLNB_ONLINE__PASSWORD" in wrong["do"]
    assert (right["state"], right["found"]) == ("ok", f"redis://127.0.0.1:{port}/0 answers; versions of views in it: 0")


def test_doctor_leaves_an_online_store_alone_that_was_never_used(small, mlnb):
    finding, _ = online(small, mlnb, "data/online")
    assert (finding["state"], finding["found"]) == ("ok", "nothing was pushed into data/online yet") and not (small / "data" / "online").exists()


def test_doctor_names_an_embedded_online_store_that_cannot_be_opened(small, mlnb):
    (small / "data").mkdir(exist_ok=True)
    (small / "data" / "online").write_text("no folder")
    finding, _ = online(small, mlnb, "data/online")
    assert finding["state"] == "wrong" and "data/online" in finding["found"] and "password" not in finding["do"] and "[online]" in finding["do"]


# A pipeline that nobody knows


def test_runs_of_an_unknown_pipeline_are_refused(small, mlnb):
    process = mlnb("runs", "smal", cwd=small)
    assert_said(process, "no pipeline `smal`", "Did you mean `small`?", "nbs/pipelines")
    assert_said(mlnb("runs", "zebra", "--json", cwd=small), "no pipeline `zebra`", "There is one: `small`.")


def test_runs_of_a_known_pipeline_may_be_none(small, mlnb):
    process = mlnb("runs", "small", cwd=small)
    assert (process.returncode, process.stdout) == (0, "No run of `small` yet.\n")
    process = mlnb("runs", "small", "--json", cwd=small)
    assert (process.returncode, json.loads(process.stdout)) == (0, [])
    assert mlnb("runs", cwd=small).stdout == "No run yet.\n"


def test_runs_of_a_pipeline_that_is_gone_are_still_shown(small, mlnb):
    with open_warehouse(find_workspace(small)) as wh:
        write_run(wh, new_run("older", "reports").finished("succeeded"))
    [run] = json.loads(mlnb("runs", "older", "--json", cwd=small).stdout)
    assert run["pipeline"] == "older"
    assert_said(mlnb("runs", "oldre", cwd=small), "Did you mean `older`?")


# JSON that leaves nothing out


def test_a_run_that_fails_is_printed_as_json_too(small, mlnb):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    nbformat.write(notebook, small / "nbs" / "pipelines" / "small" / "only.ipynb")
    (small / "nbs" / "pipelines" / "small" / "pipeline.yaml").write_text("title: One step\nsteps:\n  - {name: only, notebook: only.ipynb}\n")
    process = mlnb("run", "small", "--json", cwd=small)
    run = json.loads(process.stdout)
    assert process.returncode == 1 and "mlnb: Step `only` failed in cell 1, line 1." in process.stderr
    assert (run["status"], [step["status"] for step in run["steps"]]) == ("failed", ["failed"])


@pytest.mark.parametrize(
    ("query", "row"),
    [
        ("SELECT 1 AS a, 2 AS a", {"a": 1, "a_1": 2}),
        ("SELECT 1 AS a, 2 AS a, 3 AS a_1", {"a": 1, "a_2": 2, "a_1": 3}),
    ],
)
def test_columns_of_one_name_are_all_there(small, mlnb, query, row):
    assert json.loads(mlnb("sql", query, "--json", cwd=small).stdout) == [row]
    header, *_ = mlnb("sql", query, cwd=small).stdout.splitlines()
    assert header.split() == list(row)


def test_doctor_names_what_is_not_set(small, mlnb):
    found = {row["what"]: row["found"] for row in json.loads(mlnb("doctor", "--json", cwd=small).stdout)}
    assert "not set:" in found["[warehouse]"] and "password" in found["[warehouse]"].partition("not set:")[2]


# An extension of DuckDB's that somebody changed


@pytest.fixture
def changed(tmp_path):
    """Copies extensions, one byte of each another."""

    def change(name):
        copy = tmp_path / f"{name}.duckdb_extension"
        whole = bytearray(extension_file(name).read_bytes())
        whole[1000] ^= 1
        copy.write_bytes(whole)
        return copy

    return change


def test_doctor_finds_an_extension_that_was_changed(small, mlnb, changed, monkeypatch):
    other = changed("sqlite_scanner")
    monkeypatch.setattr(connection, "extension_file", lambda name: other if name == "sqlite_scanner" else extension_file(name))
    process = mlnb("doctor", "--json", cwd=small)
    [finding] = [finding for finding in json.loads(process.stdout) if finding["what"] == "extensions"]
    assert finding["state"] == "wrong" and "`sqlite_scanner` cannot be trusted" in finding["found"] and "--force-reinstall" in finding["do"]


def test_no_other_extension_is_loaded_without_a_signature(small, changed):
    with open_warehouse(find_workspace(small)) as wh:
        with pytest.raises(duckdb.IOException, match="signature is either missing or invalid"):
            wh.connection.execute(f"LOAD '{changed('httpfs')}'")
        with pytest.raises(duckdb.InvalidInputException, match="allow_unsigned_extensions"):
            wh.connection.execute("SET allow_unsigned_extensions = true")
