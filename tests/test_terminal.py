"""What `mlnb` prints: in a real terminal, wide and narrow, and as JSON."""

import json
import math
import re
from datetime import date, datetime, timezone
from decimal import Decimal

import nbformat
import numpy as np
import pytest
from support.terminals import in_terminal

from ml_notebooks.terminal import plain, print_rows, show, without_spare

RECORD = "from ml_notebooks.pipelines.record import record\nrecord('orders', 5)\nrecord('odd', '[/x]')"


@pytest.fixture
def ran(workspace):
    """A workspace with a pipeline of two steps, the second of which fails."""
    folder = workspace / "nbs" / "pipelines" / "small"
    for name, cell in (("first", RECORD), ("second", "1 / 0")):
        cells = [nbformat.v4.new_markdown_cell("# Prose is not counted"), nbformat.v4.new_code_cell(cell)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{name}.ipynb")
    steps = "  - {name: first, notebook: first.ipynb}\n  - {name: second, notebook: second.ipynb, after: [first]}"
    (folder / "pipeline.yaml").write_text(f"title: A small one\nsteps:\n{steps}\n")
    return workspace


def test_a_run_is_shown_live_and_its_rows_fit_any_width(ran):
    status, shown = in_terminal("run", "small", cwd=ran)
    assert status == 1
    assert re.search(r"first +succeeded +\d+\.\d +orders 5", shown)
    assert re.search(r"cell 1/1", shown) and re.search(r"second +failed", shown) and "failed in cell 1, line 1." in shown and re.search(r"Report: reports/small/\S+/index.html", shown)
    assert "ZeroDivisionError" in shown and "Traceback" not in shown

    _, wide = in_terminal("runs", cwd=ran, columns=160)
    assert re.search(r"run +pipeline +status +started", wide)
    _, narrow = in_terminal("runs", cwd=ran, columns=50)
    assert re.search(r"^status +failed", narrow, re.MULTILINE)
    assert max(map(len, narrow.splitlines())) <= 50


EVENTS = ["run started", "step started", "step succeeded", "step started", "step failed", "run failed"]


def test_in_a_terminal_the_log_does_not_repeat_the_display(ran):
    _, shown = in_terminal("run", "small", cwd=ran, columns=160)
    assert [event for event in EVENTS if event in shown] == [] and "[info" not in shown
    _, shown = in_terminal("--debug", "run", "small", "--force", cwd=ran, columns=160)
    assert re.findall(r"\[info +\] ((?:run|step) \w+)", shown) == EVENTS


def test_where_there_is_no_terminal_the_log_tells_the_run(ran, mlnb):
    process = mlnb("run", "small", cwd=ran)
    *lines, message = process.stderr.splitlines()
    assert [re.search(r"\[info +\] ((?:run|step) \w+)", line)[1] for line in lines] == EVENTS
    assert "step=second" in lines[4] and "ZeroDivisionError" in lines[4] and message.startswith("mlnb: Step `second` failed")
    assert re.search(r"^first +succeeded", process.stdout, re.MULTILINE) and "[info" not in process.stdout
    quiet = mlnb("run", "small", cwd=ran, MLNB_LOGS__LEVEL="warning")
    assert quiet.stderr.startswith("mlnb: Step `second` failed")


@pytest.mark.parametrize("words", [("run", "small"), ("run", "small", "--json")], ids=" ".join)
def test_the_log_as_json_and_as_a_file_tells_the_run(ran, words):
    in_terminal(*words, cwd=ran, MLNB_LOGS__FORMAT="json", MLNB_LOGS__FILE="logs/mlnb.log")
    lines = [json.loads(line) for line in (ran / "logs" / "mlnb.log").read_text().splitlines()]
    assert [line["event"] for line in lines] == EVENTS
    assert {(line["level"], line["pipeline"]) for line in lines} == {("info", "small")} and len({line["run"] for line in lines}) == 1
    assert [line.get("step") for line in lines] == [None, "first", "first", "second", "second", None]


@pytest.mark.parametrize(
    ("value", "json_value"),
    [
        (math.nan, None),
        (math.inf, None),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (Decimal("1.5"), 1.5),
        (date(2013, 10, 1), "2013-10-01"),
        (datetime(2013, 10, 1, tzinfo=timezone.utc), "2013-10-01T00:00:00+00:00"),
        ({"a": [math.nan, (1, 2)]}, {"a": [None, [1, 2]]}),
        (b"\x00", "b'\\x00'"),
        (None, None),
        (True, True),
    ],
)
def test_json_says_every_value(value, json_value):
    assert plain(value) == json_value
    json.dumps(plain(value), allow_nan=False)


def test_a_table_shows_every_value():
    assert show(None) == "" and show(0.123456) == "0.1235" and show({"a": 1.0, "b": "x"}) == "a 1, b x"
    assert show(datetime(2013, 10, 1, 5, 17, tzinfo=timezone.utc)) == "2013-10-01 05:17:00"


def test_rows_are_not_cut_where_there_is_no_terminal(capsys):
    long = "x" * 300
    print_rows([{"name": long, "n": 1}], ["name", "n"], as_json=False)
    assert long in capsys.readouterr().out
    print_rows([], ["name"], as_json=False, empty="Nothing here.")
    assert capsys.readouterr().out == "Nothing here.\n"
    print_rows([], ["name"], as_json=True)
    assert json.loads(capsys.readouterr().out) == []


def test_version_and_help(workspace, mlnb):
    assert re.fullmatch(r"mlnb \d+\.\d+\.\d+\n", mlnb("--version", cwd=workspace).stdout)
    shown = mlnb("--help", cwd=workspace).stdout
    for command in ("init", "run", "sql", "tables", "runs", "dashboard", "doctor"):
        assert command in shown


AS_THEY_ARE = {
    "640.44": "640.44",
    "12345.67::DECIMAL(10, 2)": "12345.67",
    "99999.5::DOUBLE": "99999.5",
    "1e6::DOUBLE": "1000000.0",
    "12345678": "12345678",
    "TIMESTAMPTZ '2024-01-01 01:00:00.5+01'": "2024-01-01 00:00:00.5+00",
    "INTERVAL 1 DAY": "1 day",
    "{'a': 1}": "{'a': 1}",
}


def test_sql_shows_values_as_they_are(workspace, mlnb):
    values = ", ".join(f"{value} AS c{place}" for place, value in enumerate(AS_THEY_ARE))
    _, row = mlnb("sql", f"SELECT {values}", cwd=workspace).stdout.splitlines()
    assert re.split(r" {2,}", row.strip()) == list(AS_THEY_ARE.values())


def test_sql_says_when_it_shows_only_some_rows(workspace, mlnb):
    shown = mlnb("sql", "SELECT * FROM range(30)", "--limit", "10", cwd=workspace).stdout
    assert "and more: --limit 100" in shown
    rows = json.loads(mlnb("sql", "SELECT * FROM range(30)", "--limit", "10", "--json", cwd=workspace).stdout)
    assert len(rows) == 30


def test_what_a_newcomer_types_is_answered(workspace, mlnb):
    (workspace / "a.csv").write_text("customer\n17\n")
    assert "raw.a: replace, 1 row read" in mlnb("ingest", "raw.a", "a.csv", cwd=workspace).stdout
    asked = mlnb("tables", "raw.a", cwd=workspace)
    assert asked.returncode == 2 and "mlnb tables describe raw.a" in " ".join(asked.stderr.split())
    assert mlnb("privacy", "erase", "customer", "99", "--yes", cwd=workspace).stdout.startswith("Nobody with customer 99 was found")
    assert mlnb("privacy", "erase", "customer", "17", "--yes", cwd=workspace).stdout.startswith("1 row of 1 table, 1 snapshot,")
    _, record = in_terminal("audit", "list", cwd=workspace, columns=100)
    assert len(record.strip().splitlines()) == 5  # a heading, and a line for each of four
    (workspace / "nbs" / "pipelines" / "small" / "pipeline.yaml").write_text("title: A small one\nsteps: []\n")
    assert mlnb("graph", cwd=workspace).stdout.split() == ["pipeline", "small"]


def test_init_quotes_a_name_with_a_space(tmp_path, mlnb):
    assert "Next: cd 'a b' && mlnb run flights" in mlnb("init", "a b", cwd=tmp_path).stdout


def test_columns_that_may_be_spared_go_one_after_the_other_and_never_all():
    rows = [{"name": "origin", "rows": 293_382, "description": "How the flights of this airport lately landed", "owner": "flights"}]
    columns, spare = ["name", "rows", "owner", "description"], ("description", "owner")
    assert [without_spare(rows, columns, spare, room) for room in (100, 30, 17)] == [columns, ["name", "rows", "owner"], ["name", "rows"]]
    assert without_spare(rows, columns, spare, 3) == columns  # nothing fits: each row becomes lines
    assert without_spare(rows, ["description"], ("description",), 5) == ["description"]
