"""What the command line says of a query, a folder or a table that is not right, and what it leaves alone."""

import re
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ml_notebooks.cli.runs import first_figures, typed
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import UnknownDashboard, UnknownPipeline, UnknownTable
from ml_notebooks.pipelines.ledger import StepResult, new_run, write_run
from ml_notebooks.pipelines.record import Record
from ml_notebooks.workspace import find_workspace

ROOT = Path(__file__).parents[1]


@pytest.fixture
def filled(workspace):
    """A workspace with one table, and the snapshot that made it."""
    with open_warehouse(find_workspace(workspace)) as wh:
        wh.publish("raw.flights", "SELECT range AS flight FROM range(3)")
    return workspace


# Queries


@pytest.mark.parametrize("name", ["query", "parameters", "wh", "connection", "table", "name", "schema"])
def test_a_variable_of_the_program_is_no_table(filled, name):
    with open_warehouse(find_workspace(filled), read_only=True) as wh:
        assert f"raw.{name}" not in wh
        for ask in (lambda: wh.table(f"raw.{name}"), lambda: wh.sql(f'FROM "{name}"')):
            with pytest.raises(UnknownTable, match=f"`(raw.)?{name}` is not in the warehouse"):
                ask()


def test_to_ask_whether_a_table_is_there_imports_no_pandas(filled):
    asked = "'raw.flights' in wh, 'raw.planes' in wh, 'pandas' in sys.modules"
    program = f"import sys; from ml_notebooks.data.warehouse import open_warehouse; wh = open_warehouse(read_only=True); print({asked})"
    assert subprocess.run([sys.executable, "-c", program], cwd=filled, capture_output=True, text=True).stdout == "True False False\n"


@pytest.mark.parametrize("name", ["csv", "parquet", "json", "duckdb"])
def test_a_table_that_is_called_like_a_kind_of_file_is_none(filled, name):
    with open_warehouse(find_workspace(filled)) as wh:
        assert f"raw.{name}" not in wh
        wh.publish(f"raw.{name}", "SELECT 1 AS one")
        assert f"raw.{name}" in wh and wh.table(f"raw.{name}").fetchall() == [(1,)]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "It is empty."),
        ("-- only a comment", "It is empty."),
        ("SELECT 1; SELECT 2", "It holds 2 statements. Give one at a time"),
        ("install spatial", "kind LOAD, and a query may only read. Write tables with `publish`"),
        ("create table a as select 1", "kind CREATE, and a query may only read. Write tables with `publish`"),
        ("SELECT origin FROM raw.flights", "Correct the query; nothing was changed."),
    ],
)
def test_a_query_that_is_refused_says_why(filled, mlnb, query, words):
    process = mlnb("sql", query, cwd=filled)
    assert process.returncode == 1 and words in process.stderr and "not foreseen" not in process.stderr


def test_a_sentence_of_the_engine_ends_before_ours_begins(filled, mlnb):
    message = mlnb("sql", 'SELECT "origin"', cwd=filled).stderr
    assert re.search(r'[.?!"]\. Correct the query', message) or re.search(r"[.?!]\s+Correct the query", message), message


@pytest.mark.parametrize("query", ["-- flights\nSELECT 6 * 7 AS answer", "--flights\nSELECT 6 * 7 AS answer"])
def test_a_query_may_begin_with_a_comment(workspace, mlnb, query):
    process = mlnb("sql", query, "--limit", "5", cwd=workspace)
    assert process.returncode == 0 and process.stdout.split() == ["answer", "42"], process.stderr


def test_a_limit_is_at_least_one(workspace, mlnb):
    process = mlnb("sql", "SELECT 1", "--limit", "0", cwd=workspace)
    assert process.returncode == 2 and "--limit" in process.stderr


def test_a_snapshot_before_the_first_table_is_said(filled, mlnb):
    message = mlnb("sql", "FROM raw.flights", "--at", "0", cwd=filled).stderr
    assert "There was no table at snapshot 0." in message and "The warehouse is empty" not in message


def test_show_tables_points_to_the_command_that_lists_them(filled, mlnb):
    assert "`mlnb tables` lists" in mlnb("sql", "show tables;", cwd=filled).stdout
    assert mlnb("sql", "SELECT 1 WHERE false", cwd=filled).stdout == "No rows.\n"


# Reading


@pytest.mark.parametrize("words", [("tables",), ("runs",), ("sql", "SELECT 1"), ("doctor",)], ids=" ".join)
def test_reading_writes_nothing_into_an_empty_workspace(workspace, mlnb, words):
    mlnb(*words, cwd=workspace)
    assert sorted(file.name for file in workspace.iterdir()) == ["nbs", "settings.ini"]


def test_an_empty_warehouse_is_said(workspace, mlnb):
    assert mlnb("tables", cwd=workspace).stdout == "The warehouse is empty: run a pipeline, or load a file with `mlnb ingest`.\n"
    assert "The warehouse is empty" in mlnb("sql", "FROM raw.flights", cwd=workspace).stderr


def test_an_older_catalogue_is_not_called_newer(filled, mlnb):
    connection = sqlite3.connect(filled / "data" / "catalog.sqlite")
    with connection:
        connection.execute("UPDATE ducklake_metadata SET value = '0.1' WHERE key = 'version'")
    connection.close()
    message = mlnb("tables", cwd=filled).stderr
    assert "older version" in message and "0.1" in message and "newer" not in message and "MIGRATION" not in message


# What is printed where there is no terminal


def test_a_run_of_many_figures_is_one_short_line(workspace, mlnb):
    run = new_run("small", "reports")
    step = StepResult("only", "only.ipynb", "succeeded", run.started, 1.0, tuple(Record(f"figure_{n}", n) for n in range(34)))
    with open_warehouse(find_workspace(workspace)) as wh:
        write_run(wh, type(run)(**vars(run) | {"steps": (step,)}).finished("succeeded"))
    shown = mlnb("runs", cwd=workspace).stdout
    assert "figure_0 0, figure_1 1, figure_2 2, figure_3 3, … 34 in all" in shown
    assert "figure_33" in mlnb("runs", "--json", cwd=workspace).stdout


def test_few_figures_are_all_shown():
    assert first_figures({"a": 1, "b": 2.5}) == "a 1, b 2.5" and first_figures({}) == ""


@pytest.mark.parametrize("command", ["doctor", "tables"])
def test_lines_have_no_trailing_spaces(filled, mlnb, command):
    lines = mlnb(command, cwd=filled).stdout.splitlines()
    assert len(lines) > 1 and [line for line in lines if line != line.rstrip()] == []


# Names and folders


@pytest.mark.parametrize("error", [UnknownPipeline, UnknownDashboard])
def test_what_there_is_is_listed(error):
    assert "There is one: `flights`." in str(error("zebra", ["flights"]))
    assert "There are 2: `flights`, `orders`." in str(error("zebra", ["orders", "flights"]))


def test_a_workspace_is_not_made_of_a_file(tmp_path, mlnb):
    (tmp_path / "s.ini").write_text("")
    process = mlnb("init", "s.ini", cwd=tmp_path)
    assert process.returncode == 1 and "is a file" in process.stderr and "not empty" not in process.stderr


@pytest.mark.parametrize("folder", ["/dev/null/x", "s.ini/demo"])
def test_a_workspace_that_cannot_be_made_is_said(tmp_path, mlnb, folder):
    (tmp_path / "s.ini").write_text("")
    process = mlnb("init", folder, cwd=tmp_path)
    assert process.returncode == 1 and "Not a directory. Choose another folder" in process.stderr
    assert "not foreseen" not in process.stderr


def test_next_steps_can_be_typed(tmp_path, monkeypatch):
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "mlnb"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert shutil.which("mlnb") is None and typed("mlnb") == ".venv/bin/mlnb" and typed("jupyter") == "jupyter"
    monkeypatch.setenv("PATH", str(programs))
    assert typed("mlnb") == "mlnb"
    monkeypatch.setenv("PATH", "/nowhere")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert typed("mlnb") == str(programs / "mlnb")


# Ctrl-C


def test_ctrl_c_while_modules_are_read_leaves_no_traceback(tmp_path):
    """`typer`, of which the command line is made, is replaced by a module during whose import Ctrl-C comes."""
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")
    module, _, function = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["mlnb"].partition(":")
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from {module} import {function}; {function}()"
    run_module = f"import runpy, sys; sys.path.insert(0, {str(tmp_path)!r}); runpy.run_module('ml_notebooks', run_name='__main__')"
    for code in (script, run_module):
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert (process.returncode, process.stderr) == (130, "mlnb: Interrupted.\n")
