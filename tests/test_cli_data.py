"""`mlnb ingest`, `mlnb tables …` and `mlnb privacy …`: what each prints, its JSON, and what it says when it cannot."""

import json
import re
import sys
from dataclasses import fields

import pytest
from support.terminals import in_terminal
from support.workspaces import make_workspace

from ml_notebooks.cli.app import PANELS, app, main
from ml_notebooks.cli.warehouse import OPTIONS
from ml_notebooks.data.notes import comment, tag
from ml_notebooks.data.sources import find_source
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.workspace import find_workspace

FLIGHTS = """
SELECT 1500 + range AS flight, ['UA', 'DL', 'B6'][range % 3 + 1] AS carrier, range % 40 - 10 AS dep_delay,
    TIMESTAMPTZ '2013-01-01 05:15:00Z' + INTERVAL (range) HOUR AS time_hour
FROM range(120)
"""
PEOPLE = [
    (1, "Zoe Lind", "zoe@lind.example"),
    (2, "Ada Byron", "ada@byron.example"),
    (3, "Max Born", "max@born.example"),
    (4, "Ida Noddack", "ida@noddack.example"),
]
CUSTOMERS = f"FROM (VALUES {', '.join(map(str, PEOPLE))}) AS t(customer_id, name, mail)"


MAIL = "To: ada@byron.example\n"


def publish_people(wh):
    """Customers and their bookings."""
    wh.publish("raw.customers", CUSTOMERS)
    wh.publish("raw.bookings", "SELECT range % 4 + 1 AS customer, 1500 + range AS flight FROM range(8)")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workspace with flights in two versions, customers and their bookings; and the two snapshots."""
    workspace = make_workspace(tmp_path_factory.mktemp("shop") / "w", threads=1)
    with open_warehouse(workspace) as wh:
        with wh.transaction("the first"):
            wh.publish("raw.flights", FLIGHTS)
            wh.publish("raw.again", FLIGHTS)
            publish_people(wh)
        first = wh.version("raw.flights")
        second = wh.publish(
            "raw.flights",
            "SELECT * REPLACE (CASE WHEN flight = 1501 THEN NULL ELSE dep_delay END AS dep_delay), 'EWR' AS origin FROM raw.flights WHERE flight > 1500",
        )
        wh.publish("raw.again", "SELECT 1 AS oops")
        comment(wh, "raw.flights", "Departures from New York")
        comment(wh, "raw.flights", "minutes", "dep_delay")
        tag(wh, "raw.flights", "public")
    (workspace.root / "mail.txt").write_text(MAIL)
    return workspace.root, first, second


@pytest.fixture
def say(monkeypatch, capsys):
    """Call `mlnb` in this process, in a folder; returns its exit status, what it printed and what it complained of."""

    def call(*words, cwd):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["mlnb", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return call


@pytest.fixture
def shop(made, say):
    """Call `mlnb` in the workspace that is made; a good command's output, as JSON where it was asked for."""

    def call(*words):
        status, out, err = say(*words, cwd=made[0])
        assert (status, err) == (0, ""), err
        return json.loads(out) if "--json" in words else out

    return call


def named(value):
    """The words of a command, in a test's id."""
    return "_".join(value) if isinstance(value, tuple) else ""


# Every command


def test_every_command_stands_in_a_panel_and_says_what_it_is_for(say, tmp_path):
    named = [name for names in PANELS.values() for name in names]
    there = {command.name or command.callback.__name__ for command in app.registered_commands} | {group.name for group in app.registered_groups}
    assert set(named) == there
    _, shown, _ = say("--help", cwd=tmp_path)
    places = [shown.index(f"│ {name} ") for name in named]
    assert places == sorted(places) and [panel in shown for panel in PANELS] == [True] * len(PANELS)


# Ingest


LOADS = {
    "merge": (("--mode", "merge", "--key", "id", "--delete"), "3,1,1,2013-02-01\n9,1,1,2013-02-01\n", ["1 inserted, 1 updated, 2 deleted"], [3, 9]),
    "incremental": (("--mode", "incremental", "--cursor", "at"), "4,1,1,2013-02-01\n", ["1 inserted", "Read up to at 2013-02-01"], [1, 2, 3, 4]),
    "add": (("--mode", "append", "--on-change", "add"), "4,1,1,2013-02-01,ada\n", ["Column `by` (VARCHAR) is new"], [1, 2, 3, 4]),
    "rejects": (("--max-rejects", "1"), "4,1,1,2013-02-01\nfive,1,1,2013-02-02,2,3\n", ["1 inserted, 1 rejected", "raw.rejects__rejects"], [4]),
}
ORDERS = "id,zip,amount,at\n1,01067,5,2013-01-01\n2,10115,-999,2013-01-02\n3,20095,7,2013-01-03\n"


@pytest.fixture(scope="module")
def orders(tmp_path_factory):
    """A workspace with files of orders, and a table of three orders for each way to load more."""
    workspace = make_workspace(tmp_path_factory.mktemp("orders") / "w", threads=1)
    (workspace.root / "orders.csv").write_text(ORDERS)
    (workspace.root / "torn.csv").write_text("id,zip\n1,2\n3,4,5,6\n")
    with open_warehouse(workspace) as wh, wh.transaction("three orders each"):
        for name in LOADS:
            wh.publish(f"raw.{name}", "SELECT range::BIGINT AS id, 1::BIGINT AS zip, 5::BIGINT AS amount, DATE '2013-01-01' AS at FROM range(1, 4)")
    return workspace.root


@pytest.fixture(scope="module")
def held(orders):
    """The rows of a query on that workspace."""
    with open_warehouse(find_workspace(orders), read_only=True) as wh:
        yield lambda query: wh.sql(query).fetchall()


def test_a_file_is_loaded_with_options(say, orders, held):
    status, out, err = say("ingest", "raw.orders", "orders.csv", "-o", "missing=-999", "--option", "types.zip=VARCHAR", cwd=orders)
    assert (status, err) == (0, "") and out.startswith("raw.orders: replace, 3 rows read, 3 inserted; snapshot ")
    assert held("SELECT id, zip, amount FROM raw.orders ORDER BY id") == [(1, "01067", 5), (2, "10115", None), (3, "20095", 7)]


def test_what_was_loaded_as_json(say, orders):
    done = json.loads(say("ingest", "raw.as_json", "orders.csv", "--json", cwd=orders)[1])
    assert (done["table"], done["mode"], done["read"], done["inserted"], done["changes"]) == ("raw.as_json", "replace", 3, 3, [])
    assert done["snapshot"] > 0 and "orders.csv" in done["source"]


WORDS = [
    (("torn.csv",), "", "Mend the source, or allow for them with `--max-rejects`."),
    (("new.csv", "--mode", "append"), "raw.narrow", "accept the change with `--on-change add`."),
    (("orders.bak",), "", "Say it with `-o format=`"),
    (("orders.csv", "-o", "missing=-,n/a"), "", "one by one, as in `-o missing=- -o missing=n/a`"),
    (("orders.csv", "-o", "encoding=cp1253x"), "", "`cp1253x` is no encoding of text"),
    (("orders.csv", "-o", "types.zip=FLOTE"), "", "is no type. Did you mean `FLOAT`?"),
    (("orders.csv", "-o", "types.id=DATE"), "raw.narrow", "with `--mode replace` and `--on-change widen`"),
    (("orders.csv", "-o", "decimal=.", "-o", "decimal=,"), "", "`decimal` was given several times"),
    (("http://bob:hunter2@127.0.0.1:1/x.csv",), "", "name that with `-o credential=`, and say `-o auth=basic`"),
    (("orders.csv", "--on-change", "add"), "ops.runs", "The schema `ops` holds"),
]


@pytest.mark.parametrize(("words", "table", "said"), WORDS, ids=[one[0][-1] for one in WORDS])
def test_errors_speak_of_the_words_of_the_command_line(say, orders, words, table, said):
    (orders / "orders.bak").write_text(ORDERS)
    (orders / "new.csv").write_text("id,more\nx,1\n")
    with open_warehouse(find_workspace(orders)) as wh:
        wh.publish("raw.narrow", "SELECT 'x' AS id")
    status, out, err = say("ingest", table or "raw.words", *words, cwd=orders)
    assert (status, out) == (1, "") and said in err.replace("\n", " ") and "hunter2" not in err, err


def test_several_texts_for_a_missing_value_and_a_remark(say, orders, held):
    (orders / "days.csv").write_text("id,day\n1,03/04/2025\n-,05/04/2025\nn/a,\n")
    options = ("-o", "missing=-", "-o", "missing=n/a", "-o", "missing=")
    _, out, err = say("ingest", "raw.days", "days.csv", *options, cwd=orders)
    assert err == "" and "`day` is text" in out and "with `-o date_format=%d/%m/%Y`" in out
    _, out, _ = say("ingest", "raw.days", "days.csv", *options, "-o", "date_format=%d/%m/%Y", cwd=orders)
    assert "Make it DATE with `--mode replace` and `--on-change widen`" in out
    say("ingest", "raw.days", "days.csv", *options, "-o", "date_format=%d/%m/%Y", "--on-change", "widen", cwd=orders)
    assert held("SELECT id, day::VARCHAR FROM raw.days ORDER BY day") == [(1, "2025-04-03"), (None, "2025-04-05"), (None, None)]


def test_help_names_every_option_of_every_source():
    names = set(re.findall(r"\w+", OPTIONS))
    for address in ("x.csv", "sqlite:///x", "https://h/x", "mongodb://h/d", "redis://h", "clickhouse://h/d"):
        assert {one.name for one in fields(find_source(address))} - {"path", "address"} <= names


@pytest.mark.parametrize("name", LOADS)
def test_a_second_load_says_what_became_of_the_rows(say, orders, held, name):
    words, text, says, left = LOADS[name]
    (orders / f"{name}.csv").write_text(f"id,zip,amount,at{',by' if name == 'add' else ''}\n{text}")
    status, out, err = say("ingest", f"raw.{name}", f"{name}.csv", *words, cwd=orders)
    assert (status, err) == (0, "") and [part for part in says if part not in out] == [], out
    assert [number for (number,) in held(f"SELECT id FROM raw.{name} ORDER BY id")] == left


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("raw.new", "orders.csv", "--mode", "merge"), "A merge was given no keys."),
        (("raw.new", "orders.csv", "-o", "mising=NA"), "Did you mean `missing`?"),
        (("raw.new", "ftp://orders.csv"), "`ftp:` is no kind of source."),
        (("raw.new", "https://shop.example/orders", "-o", "size=many"), "`size` cannot be `many`"),
        (("raw.new", "torn.csv"), "1 of 2 rows read are malformed"),
    ],
    ids=named,
)
def test_what_cannot_be_loaded_is_said(say, orders, words, message):
    status, out, err = say("ingest", *words, cwd=orders)
    assert (status, out) == (1, "") and err.startswith("mlnb: ") and message in err and "not foreseen" not in err


def test_an_option_without_a_value_is_a_slip_of_the_pen(say, orders):
    status, _, err = say("ingest", "raw.orders", "orders.csv", "-o", "missing", cwd=orders)
    assert status == 2 and "--option" in err and "NAME=VALUE" in err


# Tables


def test_without_a_command_the_tables_are_listed(shop):
    assert [line.split()[0] for line in shop("tables").splitlines()] == ["table", "ops.notes", "raw.again", "raw.bookings", "raw.customers", "raw.flights"]
    assert [row["rows"] for row in shop("tables", "--json") if row["table"] == "raw.flights"] == [119]


def test_a_profile_is_a_line_for_each_column(shop, made):
    shown = [line.split() for line in shop("tables", "profile", "raw.flights").splitlines()]
    assert shown[0] == ["raw.flights:", "119", "rows,", "5", "columns,", "3", "with", "remarks"]
    assert ["dep_delay", "BIGINT", "0.8", "%", "40", "-10", "to", "29"] in shown
    assert ["time_hour", "TIMESTAMPTZ", "119", "2013-01-01", "to", "2013-01-06"] in shown
    assert ["origin", "constant:", "`EWR`"] in shown
    assert shop("tables", "profile", "raw.flights", "--at", made[1]).startswith("raw.flights: 120 rows, 4 columns")


def test_a_profile_as_json_holds_everything(shop):
    found = shop("tables", "profile", "raw.flights", "--json")
    delay = next(column for column in found["columns"] if column["name"] == "dep_delay")
    assert (found["rows"], delay["missing"], delay["low"], delay["high"], len(delay["percentiles"])) == (119, 1, -10, 29, 101)


def test_what_is_shown_of_columns_fits_a_terminal(made):
    status, shown = in_terminal("tables", "compare", "raw.flights", "--at", str(made[1]), cwd=made[0], columns=60)
    table = shown.partition("\r\n\r\n")[2]
    assert status == 0 and "dep_delay" in table and max(map(len, table.splitlines())) <= 60


def test_two_versions_are_compared(shop, made):
    _, first, second = made
    shown = [line.split() for line in shop("tables", "compare", "raw.flights", "--at", first).splitlines()]
    assert shown[0] == f"raw.flights version {first} → raw.flights version {second}: 1 of 5 columns moved".split()
    assert ["origin", "new"] in shown and ["none", "→", "0.8", "%"] in [line[2:6] for line in shown if line[:1] == ["dep_delay"]]
    rows = {row["column"]: row for row in shop("tables", "compare", "raw.flights", "--at", first, "--with", second, "--json")}
    assert rows["origin"]["change"] == "new" and rows["dep_delay"]["missing_current"] == pytest.approx(1 / 119)


def test_two_tables_are_compared(shop):
    shown = shop("tables", "compare", "raw.flights", "raw.customers")
    assert "8 of 8 columns moved" in shown and len(re.findall(r" gone\b", shown)) == 5 and len(re.findall(r" new\b", shown)) == 3


def test_a_difference_is_told_by_row_and_by_value(shop, made):
    _, first, second = made
    shown = shop("tables", "diff", "raw.flights", first, second, "--key", "flight")
    assert shown.startswith(f"raw.flights, snapshot {first} to {second}: 0 added, 1 removed, 1 changed, 118 the same\n")
    lines = [line.split() for line in shown.splitlines()]
    assert ["origin", "added", "VARCHAR", "0"] in lines and ["1501", "dep_delay", "-9"] in lines
    found = shop("tables", "diff", "raw.flights", first, "--key", "flight", "--json")
    assert (found["removed"], found["changed"], found["key"]) == (1, 1, ["flight"])
    assert found["sample"] == [{"flight": 1501, "column": "dep_delay", "before": "-9", "after": None}]


def test_a_description_says_what_a_table_means(shop):
    shown = shop("tables", "describe", "raw.flights")
    lines = [line.split(None, 1) for line in shown.splitlines()]
    assert ["meaning", "Departures from New York"] in lines and ["tags", "public"] in lines and ["dep_delay", "BIGINT", "minutes"] in [line.split() for line in shown.splitlines()]
    found = shop("tables", "describe", "raw.flights", "--json")
    assert found["facts"]["rows"] == "119" and {"column": "dep_delay", "type": "BIGINT", "comment": "minutes", "tags": ""} in found["lines"]


def test_the_history_lists_what_changed_a_table(shop, made):
    assert [row["snapshot"] for row in shop("tables", "history", "raw.flights", "--json")] == [made[2], made[1]]
    assert [len(line.split()) > 3 for line in shop("tables", "history", "--limit", 1).splitlines()] == [True, True]


def test_a_table_is_restored_as_it_was(shop, made):
    out = shop("tables", "restore", "raw.again", made[1])
    assert out.startswith(f"raw.again has the 120 rows again that it had at snapshot {made[1]}; snapshot ")
    assert shop("sql", "SELECT count(flight) AS flights FROM raw.again").split() == ["flights", "120"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("profile", "raw.flihgts"), "Did you mean `raw.flights`?"),
        (("profile", "raw.flights", "--at", "999"), "`mlnb tables history` lists those that can be read."),
        (("diff", "raw.flights", "yesterday", "--key", "flight"), "`yesterday` is no point in time."),
        (("restore", "raw.flights", "0"), "There was no table at snapshot 0."),
        (("history", "raw.airports"), "`raw.airports` is not in the warehouse."),
    ],
    ids=named,
)
def test_what_is_not_there_is_said(say, made, words, message):
    status, out, err = say("tables", *words, cwd=made[0])
    assert (status, out) == (1, "") and err.startswith("mlnb: ") and message in err and "not foreseen" not in err


@pytest.mark.parametrize(
    ("words", "message"),
    [(("compare", "raw.flights"), "Name a second table"), (("diff", "raw.flights", "1"), "Missing option '--key'"), (("restore", "raw.flights"), "Missing argument")],
    ids=named,
)
def test_what_is_left_out_is_asked_for(say, made, words, message):
    status, _, err = say("tables", *words, cwd=made[0])
    assert status == 2 and message in err


# Personal data


def make_people(folder):
    """A workspace with these people and nothing else."""
    with open_warehouse(make_workspace(folder, threads=1)) as wh, wh.transaction("people"):
        publish_people(wh)
    return folder


def test_personal_data_is_found_with_masked_evidence(shop):
    shown = shop("privacy", "find", "raw.customers")
    assert re.search(r"^mail +e-mail +\d\d\.\d % +[ziam]\*\*@", shown, re.MULTILINE) and not re.search("lind@|byron|born@|noddack", shown)
    found = shop("privacy", "find", "raw.customers", "--sample", "0", "--json")
    assert (found["sampled"], [one["kind"] for one in found["findings"] if one["column"] == "mail"]) == (4, ["e-mail"])


def test_what_is_held_of_a_person_is_shown_and_saved(say, made):
    people = made[0]
    words = ("privacy", "export", "customer_id", "2", "--also", "raw.bookings=customer")
    _, out, err = say(*words, "--to", "ada.json", cwd=people)
    assert err == "" and out.startswith("3 rows in 2 tables") and "mail.txt" in out and "byron" not in out and "ada.json" in out
    assert {name: len(rows) for name, rows in json.loads((people / "ada.json").read_text()).items()} == {"raw.customers": 1, "raw.bookings": 2}
    held = json.loads(say(*words, "--json", cwd=people)[1])
    assert held["tables"]["raw.customers"] == [{"customer_id": 2, "name": "Ada Byron", "mail": "ada@byron.example"}]
    assert {"mail.txt", "ada.json"} == {trace["place"] for trace in held["traces"]} and made[1] in held["history"]


def test_a_person_is_erased_when_that_is_meant(say, tmp_path):
    people, words = make_people(tmp_path), ("privacy", "erase", "customer_id", "2")
    status, out, err = say(*words, cwd=people)
    assert status == 2 and "--yes" in err and "Nothing was erased" in err and out == ""
    status, shown = in_terminal(*words, cwd=people, answers=[("Type 2", "3\n")])
    assert status == 1 and "There is no way back." in shown and "Nothing was erased" in shown
    status, shown = in_terminal(*words, cwd=people, answers=[("Type 2", "2\n")])
    assert status == 0 and re.search(r"raw.customers +1\b", shown) and "0 traces left" in shown
    with open_warehouse(find_workspace(people), read_only=True) as wh:
        assert wh.sql("SELECT list(customer_id ORDER BY 1) FROM raw.customers").fetchall() == [([1, 3, 4],)]


def test_what_is_left_of_a_person_is_an_error(say, tmp_path):
    people = make_people(tmp_path)
    (people / "mail.txt").write_text(MAIL)
    status, out, err = say("privacy", "erase", "customer_id", "2", "--also", "raw.bookings=customer", "--yes", "--json", cwd=people)
    done = json.loads(out)
    assert (done["rows"], [trace["place"] for trace in done["traces"]]) == ({"raw.bookings": 2, "raw.customers": 1}, ["mail.txt"])
    assert status == 1 and "traces of the person are left. Found in mail.txt." in err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("find", "raw.custmers"), 1, "Did you mean `raw.customers`?"),
        (("export", "customer_id", "2", "--to", "nowhere/ada.json"), 2, "cannot be written: No such file"),
        (("export", "customer_id", "2", "--also", "raw.bookings"), 2, "NAME=VALUE"),
        (("erase", "customr_id", "2", "--yes"), 1, "No table has a column `customr_id`."),
    ],
    ids=named,
)
def test_what_privacy_cannot_do_is_said(say, made, words, status, message):
    ended, out, err = say("privacy", *words, cwd=made[0])
    assert (ended, out) == (status, "") and message in " ".join(err.replace("│", " ").split()) and "not foreseen" not in err
