"""Files into tables: what is malformed, what runs twice, what changed its columns, and what the warehouse holds afterwards."""

import bz2
import csv
import gzip
import json
import lzma
import multiprocessing
import random
import re
import resource
import sqlite3
import threading
import zipfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import fields
from datetime import date, datetime
from decimal import Decimal
from importlib.metadata import entry_points, metadata
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.soak import SOAK, soak
from support.workspaces import make_workspace

from ml_notebooks.data.files import LINE, read_file
from ml_notebooks.data.history import restore
from ml_notebooks.data.ingest import ingest
from ml_notebooks.data.intake import Intake
from ml_notebooks.data.readers import delimited
from ml_notebooks.data.sources import FileFormat, Loading, LocalFile, find_source, sources
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import (
    BadData,
    BadIngest,
    BadSource,
    InvalidTableName,
    MissingCredential,
    MLNotebooksError,
    ReadOnlyWarehouse,
    RowsLost,
    SchemaChanged,
    TooManyRejects,
    UnknownSource,
)
from ml_notebooks.workspace import find_workspace


@pytest.fixture(scope="module")
def wh(tmp_path_factory):
    """One warehouse for all tests; each takes a table of its own."""
    with open_warehouse(make_workspace(tmp_path_factory.mktemp("ingest"))) as opened:
        yield opened


@pytest.fixture
def table(wh, request):
    """A table with three rows, and what it is when nothing has happened to it."""
    name = f"raw.t{abs(hash(request.node.name))}"
    wh.publish(name, "SELECT range AS id, 'n' || range AS name FROM range(3)")
    return name


def rows_of(wh, table):
    return wh.sql(f"FROM {table} ORDER BY ALL").fetchall()


def write(folder, data, name="rows.csv"):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


# Bad input: a clear error, and the table as before


@pytest.mark.parametrize(
    ("name", "data", "options", "error", "words"),
    [
        ("rows.csv", b"", {}, BadSource, "It is empty"),
        ("rows.json", b"", {}, BadSource, "It is empty"),
        ("rows.csv", b"id,name,ID\n1,a,2\n", {}, BadSource, "several columns called `id`"),
        ("rows.csv", b"id,,name\n1,2,3\n", {}, BadSource, "Column 2 has no name"),
        ("rows.csv", b'id,"name\n1,a\n2,b\n', {}, BadSource, "first line is no row of names.*look for a quote in it that is not closed"),
        ("rows.csv", b"id,name\n1,a\n2\n", {}, TooManyRejects, "line 3, `name`: Expected Number of Columns: 2 Found: 1"),
        ("rows.csv", b"id,name\n1,a\nx,b\n", {}, TooManyRejects, "line 3, `id`.*`?x"),
        ("rows.csv", b"Report of March\n\nid,name\n1,a\n2,b\n", {}, TooManyRejects, "The first line of a file names its columns; here it says Report of March. Take out"),
        ("rows.csv", b'id,name\n1,"a"b\n2,c\n', {}, TooManyRejects, "line 2, `name`: Value with unterminated quote"),
        ("rows.csv", b'id,name\n1,"a\n2,b\n3,c\n', {}, TooManyRejects, "line 2, `name`: Value with unterminated quote"),
        ("rows.csv", "id,name\n1,é\n".encode() + "2,é\n".encode("latin-1"), {}, TooManyRejects, "line 3.*not utf-8.*Say which `encoding`"),
        ("rows.csv", "id,name\n1,é\n".encode("latin-1"), {"encoding": "ascii"}, BadSource, "It is not ascii"),
        ("rows.csv", b"name,id\na,1\n", {"types": {"day": "DATE"}}, BadSource, "no column `day`"),
        ("rows.csv", b"id,name\n1,a\n", {"encoding": "utf-9"}, BadSource, "`utf-9` is no encoding of text. Did you mean `utf-8`.*Give one that Python knows"),
        ("rows.json", b'{"id": 1}', {"encoding": "base64"}, BadSource, "`base64` is no encoding of text"),
        ("rows.csv", b"id,name\n1,a\n", {"delimiter": "||"}, BadSource, r"'\|\|' is no delimiter. Give one character"),
        ("rows.csv", b"id,name\n1,a\n", {"delimiter": '"'}, BadSource, "is no delimiter. Give one character"),
        ("rows.csv", b"id,name\n1,a\n", {"delimiter": "\0"}, BadSource, "is no delimiter. Give one character"),
        ("rows.csv", b"id,name\n1,a\n", {"thousands": "ab"}, BadSource, "max one character. Nothing was written: .* say its"),
        ("rows.csv", "id,name\n1,a\n".encode("utf-16-le"), {}, BadSource, "holds NUL bytes, .*Say its `encoding`, such as `utf-16-le`"),
        ("rows.csv", b"id,name\n1,a\n\0\0\0", {}, TooManyRejects, "line 3, `name`: Expected Number of Columns: 2 Found: 1"),
        ("rows.json", b'{"id": 1, "name": "a\0"}\n', {}, TooManyRejects, "line 1: It is not JSON: Invalid control character"),
        ("rows.json", b'{"i\\u0000d": 1}\n', {}, BadSource, "look for unusual names"),
        ("rows.csv.gz", gzip.compress(b"id,name\n" + b"1,a\n" * 9999, mtime=0)[:-30], {}, BadSource, "cut off or damaged"),
        ("rows.csv.bz2", bz2.compress(b"id,name\n" + b"1,a\n" * 9999)[:-9], {}, BadSource, "cut off or damaged"),
        ("rows.csv.xz", lzma.compress(b"id,name\n" + b"1,a\n" * 9999)[:-9], {}, BadSource, "cut off or damaged"),
        ("rows.zip", b"PK\x03\x04 no archive", {"format": "csv"}, BadSource, "cut off or damaged"),
        ("rows.parquet", b"PAR1 no parquet", {}, BadSource, "rows.parquet"),
        ("rows.arrow", b"ARROW1 no arrow", {}, BadSource, "rows.arrow"),
        ("rows.xlsx", b"PK\x03\x04 no sheet", {}, BadSource, "It is no workbook"),
        ("rows.h5", b"\x89HDF\r\n\x1a\n no file", {}, BadSource, "cut off or damaged"),
        ("rows.json", b'[{"id": 1}, {"id": 2', {}, BadSource, "read whole or not at all"),
        ("rows.json", b'{"id": 1, "name": "a"}\n{"id": ', {}, TooManyRejects, "line 2: It is not JSON"),
        ("rows.json", b'{"id": 1, "name": "a"}\n{"id": 2, "id": 3}\n', {}, TooManyRejects, "line 2: .*stands twice"),
        ("rows.json", b'{"id": 1, "name": "a"}\n[1]\n', {}, TooManyRejects, "line 2: It is no object but list"),
        ("rows.json", b'{"id": "x", "name": "a"}\n', {}, TooManyRejects, 'line 1, `id`: `"x"` is no BIGINT'),
        ("rows.txt.bak", b"id\n1\n", {}, BadSource, "does not say what format"),
        ("rows.csv", b"id,name,more\n1,a,2\n", {}, SchemaChanged, r"`more` \(BIGINT\) is new"),
        ("rows.csv", b"id\n1\n", {}, SchemaChanged, r"`name` \(VARCHAR\) is missing"),
    ],
)  # fmt: skip
def test_bad_input_is_named_and_changes_nothing(wh, table, tmp_path, name, data, options, error, words):
    before, snapshots = rows_of(wh, table), len(wh.snapshots())
    with pytest.raises(error, match=words):
        ingest(wh, table, write(tmp_path, data, name), mode="append", **options)
    assert rows_of(wh, table) == before
    assert len(wh.snapshots()) == snapshots
    assert wh._connection.execute("SELECT table_name FROM duckdb_tables() WHERE temporary AND table_name LIKE 'intake%'").fetchall() == []  # fmt: skip


@pytest.mark.parametrize(
    ("data", "kept", "rejects"),
    [
        (b"id,name\n1,a\n2\n3,c,4\n5,d\n", [(1, "a"), (5, "d")], [(3, "2"), (4, "3,c,4")]),
        (b'id,name\n1,"a\nb"\n2,"say ""so"""\n3,5" pipe\n', [(1, "a\nb"), (2, 'say "so"'), (3, '5" pipe')], []),
        (b"\xef\xbb\xbfid;name\r\n1;a\r\n", [(1, "a")], []),
        ("id,name\n1,é\n".encode("utf-16"), [(1, "é")], []),
        (b"id\tname\r1\ta\r2\tb\r", [(1, "a"), (2, "b")], []),
        (b"id,name\n\n1,a\n\n", [(1, "a")], []),
        (b'id,name\n1,a\n2,"b\n3,c\n4,d\n', [(1, "a")], [(3, '2,"b'), (4, "3,c"), (5, "4,d")]),
        (b'id,name\n0,"z\ny"\n1,a\n2,"b\n3,"c"\n4,"d"\n\n5,e\n', [(0, "z\ny"), (1, "a"), (4, "d"), (5, "e")], [(5, '2,"b'), (6, '3,"c"')]),
        (b"id,name\r\n1,a\n2,b\r\n", [(1, "a"), (2, "b")], []),
        (b"id,name\n1,a\r\n2\n3,c\r4,d\n", [(1, "a"), (3, "c"), (4, "d")], [(3, "2")]),
        (b'id,name\n1,"a\r\nb"\r\n2,"c\rd, ""e"""\n3,5" pipe\r\n4,f\n', [(1, "a\r\nb"), (2, 'c\rd, "e"'), (3, '5" pipe'), (4, "f")], []),
        (b"id,name\n1,a\0b\n", [(1, "a\0b")], []),
        (b"id,name\nx,a,b\n3,c\n", [(3, "c")], [(2, "x,a,b")]),
        (b"id,name\r\n1,a\r\n2\r\n3,c\r\n", [(1, "a"), (3, "c")], [(3, "2")]),
        (b"id,name\n1," + b"x" * (LINE + 10) + b"\n2,b\n", [(2, "b")], [(2, "1,xxx")]),
        (b"id,name\n1," + b"x" * 30_000_000 + b"\n2,b\n", [(2, "b")], [(2, "1,xxx")]),
    ],
)
def test_csv_rows_are_written_or_rejected(wh, table, tmp_path, data, kept, rejects):
    done = ingest(wh, table, write(tmp_path, data), max_rejects=5)
    assert rows_of(wh, table) == kept
    assert done.read == done.inserted + done.rejected == len(kept) + len(rejects)
    if rejects:
        found = wh.sql(f"SELECT line, text, file FROM {table}__rejects ORDER BY line").fetchall()
        assert [(line, file) for line, _, file in found] == [(line, "rows.csv") for line, _ in rejects]
        assert all(text.startswith(start) for (_, text, _), (_, start) in zip(found, rejects, strict=True))
        assert all(len(text) <= 1000 for _, text, _ in found)


def test_commas_in_numbers_and_days_before_months_are_read_as_they_are_said_to_be(wh, tmp_path):
    text = "id;day;at;amount\n1;2.1.2013;02.01.2013 10:30;2,5\n2;3.1.2013;03.01.20133 10:30;1\n4;5.1.2013;05.01.2013 10:30;1.234,5\n3;4.1.2013;04.01.2013 25:30;1\n"
    said = {"decimal": ",", "thousands": ".", "date_format": "%d.%m.%Y", "timestamp_format": "%d.%m.%Y %H:%M"}
    types = {"day": "DATE", "at": "TIMESTAMP", "amount": "DOUBLE"}
    done = ingest(wh, "raw.german", write(tmp_path, text), types=types, max_rejects=2, **said)
    assert (done.read, done.inserted, done.rejected) == (4, 2, 2)
    rows = wh.sql('SELECT id, "day"::VARCHAR, "at"::VARCHAR, amount FROM raw.german').fetchall()
    assert rows == [(1, "2013-01-02", "2013-01-02 10:30:00", 2.5), (4, "2013-01-05", "2013-01-05 10:30:00", 1234.5)]
    for wrong in ({"decimal": ";"}, {"timestamp_format": "%Q"}):
        with pytest.raises(BadSource, match="say its `delimiter`, `encoding`, `decimal`"):
            ingest(wh, "raw.german", write(tmp_path, text), **wrong)


DAYS = {
    "undecided": (["03/04/2025", "05/04/2025", "11/12/2025"], {}, ["03/04/2025", "05/04/2025", "11/12/2025"]),
    "month first": (["03/04/2025", "03/13/2025"], {}, [date(2025, 3, 4), date(2025, 3, 13)]),
    "day first": (["03/04/2025", "", "13/03/2025"], {}, [date(2025, 4, 3), None, date(2025, 3, 13)]),
    "neither": (["03/13/2025", "13/03/2025"], {}, ["03/13/2025", "13/03/2025"]),
    "points": (["01.02.2025"], {}, ["01.02.2025"]),
    "two digits": (["25-03-04"], {}, ["25-03-04"]),
    "iso": (["2025-03-04"], {}, [date(2025, 3, 4)]),
    "year first": (["2025/03/04"], {}, [date(2025, 3, 4)]),
    "said": (["03/04/2025"], {"date_format": "%m/%d/%Y"}, [date(2025, 3, 4)]),
    "said to be text": (["03/04/2025"], {"types": {"day": "text"}}, ["03/04/2025"]),
    "with a time": (["03/04/2025 10:00:00"], {}, ["03/04/2025 10:00:00"]),
    "with a time, decided": (["13/04/2025 10:00:00"], {}, [datetime(2025, 4, 13, 10)]),
    "morning": (["03/04/2025 10:00:00 AM"], {}, ["03/04/2025 10:00:00 AM"]),
    "said with a time": (["03/04/2025 10:00:00"], {"timestamp_format": "%d/%m/%Y %H:%M:%S"}, [datetime(2025, 4, 3, 10)]),
}
UNDECIDED = {"undecided": "date_format=%d/%m/%Y", "points": "date_format=%d.%m.%Y", "two digits": "date_format=%d-%m-%y", "with a time": "timestamp_format=%d/%m/%Y %H:%M:%S", "morning": "timestamp_format=%d/%m/%Y %I:%M:%S %p"}  # fmt: skip


@pytest.mark.parametrize("name", DAYS)
def test_days_and_months_that_could_change_places_are_not_guessed(wh, tmp_path, name):
    values, options, kept = DAYS[name]
    table = f"raw.days_{name.replace(' ', '_').replace(',', '')}"
    path = write(tmp_path, "id,day\n" + "".join(f"{number},{value}\n" for number, value in enumerate(values)))
    done = ingest(wh, table, path, **options)
    assert [day for (day,) in wh.sql(f"SELECT day FROM {table} ORDER BY id").fetchall()] == kept
    assert [re.findall(r"with `([^`]*)`", remark) for remark in done.remarks] == ([[UNDECIDED[name]]] if name in UNDECIDED else [])


@pytest.mark.parametrize(("day", "kind"), [("03-04-2025", "VARCHAR"), ("25-03-04", "VARCHAR"), ("03-04-2025 10:00:00", "VARCHAR"), ("2025-03-04", "DATE"), ("2025-03-04T10:00:00Z", "TIMESTAMP")])
def test_days_of_json_are_dates_where_the_year_comes_first(wh, tmp_path, day, kind):
    table = f"raw.days_of_json_{re.sub('[^0-9]', '', day)}"
    done = ingest(wh, table, write(tmp_path, f'{{"id": 1, "note": {{}}, "day": "{day}"}}\n{{"id": 2}}\n', "rows.json"))
    assert [bool(done.remarks), wh.sql(f"SELECT typeof(day) FROM {table}").fetchall()[0][0]] == [kind == "VARCHAR", kind]


def test_undecided_days_are_refused_where_dates_are_called_for(wh, tmp_path):
    undecided = write(tmp_path, "id,day\n1,03/04/2025\n", "b.csv")
    wh.publish("raw.days_held", "SELECT 1 AS id, DATE '2025-01-01' AS day")
    wrong = r"`03/04/2025` in `day` can be read as `%d/%m/%Y` and as `%m/%d/%Y`"
    for table, options in (("raw.days_held", {"mode": "append"}), ("raw.days_held", {"on_change": "widen"}), ("raw.days_new", {"types": {"day": "DATE"}})):
        with pytest.raises(BadSource, match=wrong):
            ingest(wh, table, undecided, **options)
    for other, kept in (("a.csv", None), ("c.csv", ["03/04/2025", "13/04/2025"])):
        folder = tmp_path / other.removesuffix(".csv")
        folder.mkdir()
        write(folder, undecided.read_text(), "b.csv")
        write(folder, "id,day\n2,13/04/2025\n", other)
        if kept is None:  # the dates came first
            with pytest.raises(BadSource, match=wrong):
                ingest(wh, "raw.days_mixed", folder)
        else:
            assert len(ingest(wh, "raw.days_mixed", folder).remarks) == 1
            assert wh.sql("SELECT list(day ORDER BY id) FROM raw.days_mixed").fetchall() == [(kept,)]


@pytest.mark.parametrize("name", ["rows.csv", "rows.json"])
def test_a_type_that_is_asked_for_is_given_or_refused(wh, tmp_path, name):
    table = f"raw.asked_{name.partition('.')[2]}"
    path = write(tmp_path, "id,v\n1,5\n" if name.endswith("csv") else '{"id": 1, "v": "5"}', name)
    wh.publish(table, "SELECT 1::BIGINT AS id, 'x' AS v")
    for options in ({}, {"mode": "append"}, {"mode": "append", "on_change": "widen"}):
        with pytest.raises(BadIngest, match=r"asks for BIGINT in `v`, and the table holds VARCHAR.*`mode=\"replace\"` and `on_change=\"widen\"`"):
            ingest(wh, table, path, types={"v": "bigint"}, **options)
    done = ingest(wh, table, path, types={"v": "bigint"}, on_change="widen")
    assert done.changes == ("`v` was VARCHAR and is BIGINT",) and rows_of(wh, table) == [(1, 5)]
    assert ingest(wh, table, path, types={"v": "INT8"}).changes == ()
    ingest(wh, table, path, types={"v": "INTEGER"}, on_change="widen")
    assert wh.table(table).types == ["BIGINT", "INTEGER"]
    with pytest.raises(BadSource, match=r"`FLOTE`, which `types` says of `v`, is no type. Did you mean `FLOAT`"):
        ingest(wh, table, path, types={"v": "FLOTE"})


@pytest.mark.parametrize(("text", "options", "kind"), [("03/04/2025", {"date_format": "%d/%m/%Y"}, "DATE"), ("1.200,5", {"decimal": ",", "thousands": "."}, "DOUBLE")])
def test_a_format_changes_a_column_of_text_when_all_rows_are_replaced(wh, tmp_path, text, options, kind):
    path, table = write(tmp_path, f"id;at\n1;{text}\n"), f"raw.format_{kind.lower()}"
    assert wh.publish(table, f"SELECT 1::BIGINT AS id, '{text}' AS at") and ingest(wh, table, path).changes == ()
    done = ingest(wh, table, path, **options)
    assert rows_of(wh, table) == [(1, text)] and f"whatever `{next(iter(options))}` says. Make it {kind}" in done.remarks[0]
    assert ingest(wh, table, path, on_change="widen", **options).changes == (f"`at` was VARCHAR and is {kind}",)
    assert ingest(wh, table, path, **options).remarks == () and wh.table(table).types == ["BIGINT", kind]


def test_dates_that_no_program_can_read_are_rejected(wh, tmp_path):
    csv = "id,day,at\n1,2013-01-01,2013-01-01 10:00:00\n2,20133-01-01,2013-01-01 10:00:00\n3,2013-01-02,20133-01-01 10:00:00\n"
    done = ingest(wh, "raw.dates", write(tmp_path, csv), types={"day": "DATE", "at": "TIMESTAMP"}, max_rejects=2)
    assert (done.inserted, done.rejected) == (1, 2)
    assert wh.sql("SELECT line FROM raw.dates__rejects ORDER BY line").fetchall() == [(3,), (4,)]
    lines = '{"id": 1, "day": "2013-01-01"}\n\n{"id": 2, "day": "20133-01-01"}\n'
    done = ingest(wh, "raw.days", write(tmp_path, lines, "rows.json"), types={"day": "DATE"}, max_rejects=1)
    assert (done.inserted, done.rejected) == (1, 1)
    assert wh.sql("SELECT line FROM raw.days__rejects").fetchall() == [(3,)]
    wh._connection.execute(f"COPY (SELECT DATE '20133-01-01' AS day) TO '{tmp_path / 'days.parquet'}'")
    with pytest.raises(BadSource, match="1 rows hold dates outside the years 1 to 9999"):
        ingest(wh, "raw.far", tmp_path / "days.parquet")


def test_a_column_of_missing_values_has_a_type_and_takes_others_later(wh, tmp_path):
    pq.write_table(pa.table({"id": [1, 2], "note": pa.nulls(2)}), tmp_path / "rows.parquet")
    assert ingest(wh, "raw.blank", tmp_path / "rows.parquet").inserted == 2
    assert ingest(wh, "raw.nan", write(tmp_path, "id,x\n1,NaN\n2,NaN\n")).inserted == 2
    assert ingest(wh, "raw.void", write(tmp_path, "id,x\n1,\n2,\n")).inserted == 2
    assert ingest(wh, "raw.void", write(tmp_path, "id,x\n3,some\n", "more.csv"), mode="append").inserted == 1


def test_a_row_that_lacks_several_fields_is_rejected_once(wh, tmp_path):
    done = ingest(wh, "raw.lacking", write(tmp_path, "a,b,c,d\n1,2,3,4\n5\nx,6\n7,8,9,10,11,12\n"), types={"a": "BIGINT"}, max_rejects=3)
    found = wh.sql('SELECT line, "column", text, reason FROM raw.lacking__rejects ORDER BY line').fetchall()
    assert [row[:3] for row in found] == [(3, "b", "5"), (4, "c", "x,6"), (5, None, "7,8,9,10,11,12")] and len(found) == done.rejected
    assert [row[3][-8:] for row in found] == ["Found: 1", "Found: 2", "Found: 5"]


@pytest.mark.parametrize("missing", [["-", "n/a"], ("n/a", "-")])
def test_several_texts_may_stand_for_a_missing_value(wh, tmp_path, missing):
    path = write(tmp_path, "id,v\n1,-\n2,n/a\n3,5\nx\n")
    assert ingest(wh, "raw.missing_texts", path, missing=missing, max_rejects=1).rejected == 1
    assert rows_of(wh, "raw.missing_texts") == [(1, None), (2, None), (3, 5)]
    with pytest.raises(BadSource, match=r"`-,n/a`, which is to stand for a missing value, holds the delimiter `,`"):
        ingest(wh, "raw.missing_texts", path, missing="-,n/a")


@pytest.mark.parametrize("name", ["ops.runs", "ops.ingests"])
def test_what_the_workspace_keeps_of_itself_is_no_target(wh, tmp_path, name):
    with pytest.raises(BadIngest, match="The schema `ops` holds what the workspace keeps of itself"):
        ingest(wh, name, write(tmp_path, "id\n1\n"), on_change="add")


def test_a_row_that_cannot_be_accounted_for_stops_everything(wh, table, tmp_path, monkeypatch):
    before = rows_of(wh, table)
    monkeypatch.setattr("ml_notebooks.data.readers.delimited.count_lines", lambda path, loading: (99, False))
    monkeypatch.setattr("ml_notebooks.data.readers.delimited._account", lambda intake, file, dialect: 98)
    with pytest.raises(RowsLost, match="98 were counted, 1 arrived and 0 were rejected"):
        ingest(wh, table, write(tmp_path, "id,name\n1,a\n"))
    assert rows_of(wh, table) == before


def test_an_archive_or_a_name_that_climbs_out_is_refused(wh, table, tmp_path):
    for name in ("../../evil.csv", "/evil.csv", "a/../../evil.csv", "..\\evil.csv"):
        with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
            archive.writestr(name, "id,name\n9,evil\n")
        with pytest.raises(BadSource, match="leads out of it"):
            ingest(wh, table, tmp_path / "rows.zip", format="csv")
    assert not list(tmp_path.parent.rglob("evil.csv"))


@pytest.mark.parametrize(
    "name", ["orders; DROP TABLE x", 'raw."a"', "raw.a; --", "orders", "raw.A", "main.a", "raw.a.b", "../raw.a", ""]
)
def test_sql_in_a_table_name_is_refused(wh, tmp_path, name):
    with pytest.raises(InvalidTableName, match=r"schema\.table"):
        ingest(wh, name, write(tmp_path, "id\n1\n"))


def test_sql_in_a_column_or_a_file_name_is_only_a_name(wh, tmp_path):
    path = write(tmp_path, 'id,"a""; DROP TABLE raw.sql; --"\n1,2\n', "o'hare; --.csv")
    assert ingest(wh, "raw.sql", path).inserted == 1
    assert ingest(wh, "raw.sql", path, mode="append").inserted == 1
    assert wh.table("raw.sql").columns == ["id", 'a"; DROP TABLE raw.sql; --']


# Twice is once


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "replace"},
        {"mode": "append"},
        {"mode": "merge", "keys": "id"},
        {"mode": "merge", "keys": ["id"], "delete": True},
        {"mode": "incremental", "cursor": "id"},
        {"mode": "incremental", "cursor": "day"},
        {"mode": "incremental", "cursor": "day", "keys": "id"},
    ],
    ids=str,
)
def test_twice_is_once(wh, tmp_path, options):
    table = f"raw.twice{abs(hash(str(options)))}"
    path = write(tmp_path, "id,day\n1,2013-01-01\n2,2013-01-02\n3,2013-01-02\nbad\n")
    for _ in range(3):
        ingest(wh, table, path, max_rejects=1, types={"id": "BIGINT", "day": "DATE"}, **options)
        assert wh.sql(f"SELECT list(id ORDER BY id) FROM {table}").fetchall() == [([1, 2, 3],)]
        assert wh.sql(f"SELECT DISTINCT line FROM {table}__rejects").fetchall() == [(5,)]


def test_append_takes_new_files_of_a_folder_only(wh, tmp_path):
    folder = tmp_path / "in"
    for day in (1, 2):
        (folder / f"day={day}").mkdir(parents=True)
        write(folder / f"day={day}", f"id\n{day}\n")
    assert ingest(wh, "raw.folder", folder, mode="append").inserted == 2
    (folder / "day=3").mkdir()
    write(folder / "day=3", "id\n3\n")
    write(folder / "day=1", "id\n1\n1\n")  # a file that was written anew is a new file
    done = ingest(wh, "raw.folder", folder, mode="append")
    assert (done.inserted, done.skipped) == (3, 1)
    assert rows_of(wh, "raw.folder") == [(1, 1), (1, 1), (1, 1), (2, 2), (3, 3)]


def test_a_merge_inserts_updates_and_deletes(wh, table, tmp_path):
    path = write(tmp_path, "id,name\n1,n1\n2,changed\n7,new\n")
    done = ingest(wh, table, path, mode="merge", keys="id")
    assert (done.inserted, done.updated, done.deleted) == (1, 1, 0)
    assert rows_of(wh, table) == [(0, "n0"), (1, "n1"), (2, "changed"), (7, "new")]
    done = ingest(wh, table, path, mode="merge", keys="id", delete=True)
    assert (done.inserted, done.updated, done.deleted) == (0, 0, 1)
    with pytest.raises(MLNotebooksError, match="stand in several of the new rows"):
        ingest(wh, table, write(tmp_path, "id,name\n1,a\n1,b\n"), mode="merge", keys="id")
    with pytest.raises(BadIngest, match="no column `number`"):
        ingest(wh, table, path, mode="merge", keys="number")


def test_rows_at_the_mark_are_neither_lost_nor_doubled(wh, tmp_path):
    chance = random.Random(7)
    held: list[str] = []
    for day in range(1, 6):
        held += [f"{chance.randrange(3)},2013-01-0{chance.choice([max(1, day - 0), day])}" for _ in range(4)]
        held.sort(key=lambda row: row[2:])
        ingest(wh, "raw.marks", write(tmp_path, "id,day\n" + "\n".join(held) + "\n"), mode="incremental", cursor="day")
    found = [f"{number},{day}" for number, day in rows_of(wh, "raw.marks")]
    assert sorted(found) == sorted(held)


@pytest.mark.parametrize("kind", ["csv", "json"])
@pytest.mark.parametrize("mode", ["replace", "append", "merge"])
@pytest.mark.parametrize(("held", "found"), [("5", "5.49"), ("2013-01-02", "2013-01-02 10:00:00")])
def test_nothing_is_cut_off_to_fit_a_column(wh, tmp_path, kind, mode, held, found):
    table, keys = f"raw.cut_{kind}_{mode}_{len(held)}", {"keys": "id"} if mode == "merge" else {}

    def source(value):
        said = value if kind == "csv" or held == "5" else f'"{value}"'
        return write(tmp_path, f"id,v\n1,{said}\n" if kind == "csv" else f'{{"id": 1, "v": {said}}}\n', f"cut.{kind}")

    ingest(wh, table, source(held))
    before = wh.table(table).fetchall()
    with pytest.raises(SchemaChanged, match="have changed"):
        ingest(wh, table, source(found), mode=mode, **keys)
    assert wh.table(table).fetchall() == before
    ingest(wh, table, source(found), mode=mode, on_change="widen", **keys)
    assert str(wh.sql(f"SELECT max(v) FROM {table}").fetchall()[0][0]) == found


@pytest.mark.parametrize("options", [{"types": {"v": "BIGINT"}}, {"max_rejects": 5, "mode": "append"}])
def test_a_fraction_in_a_column_of_whole_numbers_is_said(wh, tmp_path, options):
    ingest(wh, "raw.whole", write(tmp_path, "v\n1\n2\n"))
    with pytest.raises(BadSource, match=r"It holds `7\.9999` in `v`"):
        ingest(wh, "raw.whole", write(tmp_path, "v\n1\nodd\n7.9999\n"), **{"max_rejects": 5, **options})
    assert wh.sql("FROM raw.whole").fetchall() == [(1,), (2,)]


def rows_written(*values):
    """Lines of JSON, each with one value."""
    return "".join(f'{{"v": {value}}}\n' for value in values)


@pytest.mark.parametrize(
    ("kind", "text", "kept"),
    [
        ("BIGINT", rows_written("1", "5.49", '"7.9999"', "5.0", "5e2"), ["1", "5", "500"]),
        ("TINYINT", rows_written("1", "300", "2.5"), ["1"]),
        ("DATE", rows_written('"2013-01-02"', '"2013-01-02 10:00:00"'), ["2013-01-02"]),
        ("DECIMAL(5,1)", rows_written("2.5", "2.55"), ["2.5"]),
        ("DOUBLE", rows_written("2.5", "1e400"), ["2.5"]),
    ],
)
def test_json_values_that_their_type_would_cut_are_rejected(wh, tmp_path, kind, text, kept):
    table, lines = f"raw.cuts_{kind[:5].lower()}", text.count("\n")
    done = ingest(wh, table, write(tmp_path, text, "rows.json"), types={"v": kind}, max_rejects=9)
    assert (done.inserted, done.rejected) == (len(kept), lines - len(kept))
    assert wh.sql(f"SELECT typeof(v), v::VARCHAR FROM {table}").fetchall() == [(kind, value) for value in kept]
    assert wh.sql(f'SELECT count(*) FROM {table}__rejects WHERE reason LIKE \'%is no {kind} that can be read%\'').fetchall() == [(lines - len(kept),)]  # fmt: skip


def test_an_object_whose_parts_would_be_cut_is_a_change(wh, tmp_path):
    ingest(wh, "raw.parts", write(tmp_path, rows_written('{"a": 1}'), "rows.json"))
    with pytest.raises(SchemaChanged, match=r"`v` was STRUCT\(a BIGINT\) and is STRUCT\(a DOUBLE\)"):
        ingest(wh, "raw.parts", write(tmp_path, rows_written('{"a": 5.49}'), "rows.json"))


@pytest.mark.parametrize("value", ["9007199254740993", "123456789012345678901234567890"])
@pytest.mark.parametrize("name", ["rows.csv", "rows.json"])
@pytest.mark.parametrize("held", [True, False])
def test_digits_that_a_column_of_decimals_does_not_keep_are_said(wh, tmp_path, name, value, held):
    table = f"raw.digits{len(value)}_{name[5:]}_{held}".lower()
    if held:
        wh.publish(table, "SELECT 1.5::DOUBLE AS v")
    text = f"v\n{value}\n1.5\n" if name == "rows.csv" else rows_written(value, "1.5")
    with pytest.raises(BadSource, match=rf"It holds `{value}` in `v`, more digits than a DOUBLE keeps"):
        ingest(wh, table, write(tmp_path, text, name), mode="append")
    assert ingest(wh, table, write(tmp_path, text, name), mode="append", types={"v": "DOUBLE"}).inserted == 2


@pytest.mark.parametrize(("kind", "value"), [("DATE", "2013-01-02 10:00:00"), ("DECIMAL(5,1)", "2.55")])
def test_a_type_that_holds_less_than_the_text_is_said(wh, tmp_path, kind, value):
    with pytest.raises(BadSource, match=f"It holds `{value}` in `v`, more than the type that `types` says keeps"):
        ingest(wh, "raw.less", write(tmp_path, f"v\n{value}\n"), types={"v": kind})


@pytest.mark.parametrize(
    ("values", "kind", "found"),
    [
        (["1", '"a"', "2.5", "true", "null"], "VARCHAR", ["1", "a", "2.5", "true", None]),
        (['"2013-01-01"', "5"], "VARCHAR", ["2013-01-01", "5"]),
        (['["x", 1]', "[true]", "[]"], "VARCHAR[]", [["x", "1"], ["true"], []]),
        (['{"a": 1}', '{"a": "b c"}'], "STRUCT(a VARCHAR)", [{"a": "1"}, {"a": "b c"}]),
        (['{"a": 1}', "2"], "JSON", ['{"a":1}', "2"]),
        (["null", "null"], "VARCHAR", [None, None]),
    ],
)
def test_texts_among_other_values_have_no_quotes(wh, tmp_path, values, kind, found):
    ingest(wh, "raw.mixed", write(tmp_path, rows_written(*values), "rows.json"), on_change="widen")
    assert wh.sql("SELECT DISTINCT typeof(v) FROM raw.mixed").fetchall() == [(kind,)]
    assert [value for (value,) in wh.sql("SELECT v FROM raw.mixed").fetchall()] == found
    wh._connection.execute("DROP TABLE lake.raw.mixed")


def test_texts_and_numbers_of_several_files_are_texts(wh, tmp_path):
    for name, value in (("a", "null"), ("b", "7"), ("c", '"x"')):
        write(tmp_path, rows_written(value), f"{name}.json")
    assert ingest(wh, "raw.several", f"{tmp_path}/*.json").inserted == 3
    assert wh.sql("SELECT v FROM raw.several").fetchall() == [(None,), ("7",), ("x",)]
    ingest(wh, "raw.several", write(tmp_path, rows_written("7", '"z"'), "e.json"), mode="append")
    assert wh.sql("SELECT v FROM raw.several OFFSET 3").fetchall() == [("7",), ("z",)]


TEXTS = ["O'Brien", "'x'", "a\\", 'say "so"', "k\\', (", "[1, {2}]", " ", "", "NULL", "ü\t\n"]


@pytest.mark.parametrize(
    "shape",
    [lambda text: {"a": text}, lambda text: [text], lambda text: [{"a": [text]}], lambda text: {f"{n}{text}": text for n in range(9)}, lambda text: text],
    ids=["object", "list", "list of objects", "many names", "text"],
)  # fmt: skip
def test_what_stands_inside_an_object_comes_back_as_it_was(wh, tmp_path, shape):
    """Few rows, which DuckLake would keep in its catalogue; and of a map, whose keys differ from row to row."""
    path = write(tmp_path, "".join(json.dumps({"v": shape(text)}) + "\n" for text in TEXTS), "rows.json")
    ingest(wh, "raw.inside", path)
    found = [value for (value,) in wh.sql("SELECT to_json(v)::VARCHAR FROM raw.inside").fetchall()]
    assert [json.loads(value) for value in found] == [shape(text) for text in TEXTS]
    wh._connection.execute("DROP TABLE lake.raw.inside")


@pytest.mark.parametrize(("last", "kind"), [("12.5", "DOUBLE"), ("00012", "VARCHAR")])
def test_what_comes_late_in_a_large_file_is_not_rounded(wh, tmp_path, monkeypatch, last, kind):
    monkeypatch.setattr(delimited, "_ALL", 1000)
    monkeypatch.setattr(delimited, "_SAMPLE", 50)
    rows = "".join(f"{n},{n}\n" for n in range(6000))
    table = f"raw.late_{kind.lower()}"
    ingest(wh, table, write(tmp_path, f"id,v\n{rows}6000,{last}\n"))
    assert wh.sql(f"SELECT typeof(v), v::VARCHAR FROM {table} WHERE id = 6000").fetchall() == [(kind, last)]


def test_a_file_is_appended_again_when_its_rows_are_gone(wh, tmp_path):
    first, second = write(tmp_path, "id\n1\n", "first.csv"), write(tmp_path, "id\n2\n", "second.csv")
    then = ingest(wh, "raw.again", first, mode="append").snapshot
    ingest(wh, "raw.again", second, mode="append")
    restore(wh, "raw.again", then)
    assert ingest(wh, "raw.again", second, mode="append").inserted == 1
    assert ingest(wh, "raw.again", first, mode="append").inserted == 0
    assert wh.sql("FROM raw.again ORDER BY id").fetchall() == [(1,), (2,)]


@pytest.mark.parametrize("more", [{"delimiter": ","}, {"missing": "-"}, {"format": "csv", "encoding": "utf-8"}])
def test_a_file_that_is_read_in_another_way_is_the_same_file(wh, tmp_path, more):
    path, table = write(tmp_path, "id,name\n1,a\n2,b\n"), f"raw.once_{'_'.join(more)}"
    assert ingest(wh, table, path, mode="append").inserted == 2
    assert ingest(wh, table, path, mode="append", **more).inserted == 0
    assert len(wh.table(table)) == 2


@pytest.mark.parametrize("inside", [True, False], ids=["inside the workspace", "outside"])
@pytest.mark.parametrize("what", ["in/rows.csv", "in", "in/*.csv", "file://in/rows.csv", "shop.sqlite"])
def test_a_relative_path_and_an_absolute_one_lead_to_the_same_rows(tmp_path, monkeypatch, what, inside):
    workspace = make_workspace(tmp_path / "workspace")
    here = workspace.root if inside else tmp_path
    (here / "in").mkdir()
    write(here / "in", "id\n1\n2\n")
    with closing(sqlite3.connect(here / "shop.sqlite")) as shop:
        shop.execute("CREATE TABLE orders AS SELECT 1 AS id UNION ALL SELECT 2")
        shop.commit()
    monkeypatch.chdir(here)
    options = {"table": "orders"} if what == "shop.sqlite" else {}
    relative = what.removeprefix("file://")
    scheme = "sqlite:///" if options else "file://" if "file" in what else ""
    with open_warehouse(workspace) as wh:
        assert ingest(wh, "raw.led", f"{scheme}{relative}", mode="append", **options).inserted == 2
        assert ingest(wh, "raw.led", f"{scheme}{here / relative}", mode="append", **options).inserted == 0
        assert ingest(wh, "raw.led", f"{scheme}./in/../{relative}", mode="append", **options).inserted == 0
        monkeypatch.chdir(here / "in")
        assert ingest(wh, "raw.led", f"{scheme}../{relative}", mode="append", **options).inserted == 0


def test_a_workspace_that_has_moved_knows_its_files(tmp_path):
    workspace = make_workspace(tmp_path / "before")
    with open_warehouse(workspace) as wh:
        assert ingest(wh, "raw.moved", write(workspace.root, "id\n1\n"), mode="append").inserted == 1
    (tmp_path / "before").rename(tmp_path / "after")
    with open_warehouse(find_workspace(tmp_path / "after")) as wh:
        assert ingest(wh, "raw.moved", tmp_path / "after" / "rows.csv", mode="append").inserted == 0


def test_two_who_append_the_same_file_add_it_once(tmp_path):
    workspace = make_workspace(tmp_path / "workspace")
    path = write(tmp_path, "id\n" + "1\n" * 50)
    open_warehouse(workspace).close()

    def append(_):
        with open_warehouse(workspace) as wh:
            try:
                return ingest(wh, "raw.same", path, mode="append").inserted
            except BadIngest:
                return 0

    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(append, range(3)))
    assert sum(done) == 50
    with open_warehouse(workspace, read_only=True) as wh:
        assert wh.sql("SELECT count(*) FROM raw.same").fetchall() == [(50,)]


# Columns that change


def test_a_column_that_is_added_is_called_as_in_the_file(wh, tmp_path):
    ingest(wh, "raw.spelt", write(tmp_path, "id\n1\n"))
    with pytest.raises(SchemaChanged, match=r"`Straße` .* is new"):
        ingest(wh, "raw.spelt", write(tmp_path, "ID,Straße\n2,x\n"), mode="append")
    ingest(wh, "raw.spelt", write(tmp_path, "ID,Straße\n2,x\n"), mode="append", on_change="add")
    assert wh.table("raw.spelt").columns == ["id", "Straße"]


def test_columns_are_added_or_widened_when_that_is_allowed(wh, table, tmp_path):
    more = write(tmp_path, "id,name,price\n5,e,2.5\n")
    assert ingest(wh, table, more, mode="append", on_change="add").changes == ("`price` (DOUBLE) is new",)
    fewer = write(tmp_path, "id\n6\n", "fewer.csv")
    assert ingest(wh, table, fewer, mode="append", on_change="add").changes[0].endswith("is missing")
    pq.write_table(pa.table({"id": [1.5], "name": ["f"], "price": ["dear"]}), tmp_path / "wide.parquet")
    with pytest.raises(SchemaChanged, match=r"`id` was BIGINT and is DOUBLE; `price` was DOUBLE and is VARCHAR\..*widen"):
        ingest(wh, table, tmp_path / "wide.parquet", mode="append", on_change="add")
    ingest(wh, table, tmp_path / "wide.parquet", mode="append", on_change="widen")
    assert [str(kind) for kind in wh.table(table).types] == ["DOUBLE", "VARCHAR", "VARCHAR"]
    assert wh.sql(f"SELECT count(*), count(price) FROM {table}").fetchall() == [(6, 2)]


def test_a_narrower_type_fits_and_the_table_keeps_its_own(wh, tmp_path):
    wh.publish("raw.fits", "SELECT 1.5::DOUBLE AS x, 'a' AS code, TIMESTAMP '2013-01-01 10:00:00' AS at")
    path = write(tmp_path, "at,x,code\n2013-01-02,7,007\n")
    assert ingest(wh, "raw.fits", path, mode="append").changes == ()
    assert [str(kind) for kind in wh.table("raw.fits").types] == ["DOUBLE", "VARCHAR", "TIMESTAMP"]
    assert wh.sql("SELECT code FROM raw.fits WHERE x = 7").fetchall() == [("007",)]
    assert ingest(wh, "raw.fits", path).inserted == 1
    assert [str(kind) for kind in wh.table("raw.fits").types] == ["DOUBLE", "VARCHAR", "TIMESTAMP"]


@pytest.mark.parametrize(("small", "large"), [("INTEGER", "BIGINT"), ("FLOAT", "DOUBLE"), ("DATE", "TIMESTAMP"), ("BIGINT", "VARCHAR")])  # fmt: skip
def test_a_type_widens_to_one_that_holds_both(wh, tmp_path, small, large):
    name, value = f"raw.widens_{small.lower()}", "DATE '2013-01-01'" if small == "DATE" else "1"
    wh.publish(name, f"SELECT {value}::{small} AS x, 1 AS y")
    wh._connection.execute(f"COPY (SELECT {value}::{large} AS x, 2 AS y) TO '{tmp_path / 'rows.parquet'}'")
    ingest(wh, name, tmp_path / "rows.parquet", mode="append", on_change="widen")
    assert [str(kind) for kind in wh.table(name).types] == [large, "INTEGER"]
    assert wh.sql(f"SELECT count(*) FROM {name}").fetchall() == [(2,)]


def test_an_empty_file_with_a_header_is_an_empty_table_even_if_its_name_is_a_word_of_sql(wh, tmp_path):
    done = ingest(wh, "raw.nothing", write(tmp_path, "id,name\n"))
    assert done.inserted == 0 and done.snapshot == wh.version("raw.nothing")
    assert wh.table("raw.nothing").columns == ["id", "name"]


# Formats, all the same


def test_every_format_and_packing_gives_the_same_rows(wh, tmp_path):
    import h5py
    import pyarrow.feather as feather

    frame = pd.DataFrame({"id": [1, 2, 3], "name": ["a", "b", "ü"], "x": [0.5, 1.5, None]})
    text = frame.to_csv(index=False)
    write(tmp_path, text, "rows.csv")
    write(tmp_path, text.replace(",", "\t"), "rows.tsv")
    write(tmp_path, gzip.compress(text.encode()), "rows.csv.gz")
    write(tmp_path, bz2.compress(text.encode()), "rows.csv.bz2")
    write(tmp_path, lzma.compress(text.encode()), "rows.csv.xz")
    write(tmp_path, pa.compress(text.encode(), "zstd", asbytes=True), "rows.csv.zst")
    with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
        archive.writestr("inside/rows.csv", text)
    write(tmp_path, frame.to_json(orient="records"), "rows.json")
    write(tmp_path, frame.to_json(orient="records", lines=True), "rows.ndjson")
    write(tmp_path, gzip.compress(frame.to_json(orient="records", lines=True).encode()), "rows.jsonl.gz")
    pq.write_table(pa.Table.from_pandas(frame), tmp_path / "rows.parquet")
    feather.write_feather(frame, tmp_path / "rows.feather")
    with pa.OSFile(str(tmp_path / "rows.arrows"), "wb") as file, pa.ipc.new_stream(file, pa.Schema.from_pandas(frame)) as out:  # fmt: skip
        out.write(pa.Table.from_pandas(frame))
    frame.to_excel(tmp_path / "rows.xlsx", index=False, engine="xlsxwriter")
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["rows/id"], file["rows/x"], file["rows/name"] = [1, 2, 3], [0.5, 1.5, float("nan")], ["a", "b", "ü"]
    expected = [(1, "a", 0.5), (2, "b", 1.5), (3, "ü", None)]
    for path in sorted(tmp_path.glob("rows.*")):
        options = {"format": "csv"} if path.suffix == ".zip" else {}
        assert ingest(wh, "raw.same", path, on_change="widen", **options).inserted == 3, path.name
        found = wh.sql("SELECT id::BIGINT, name, CASE WHEN isnan(x::DOUBLE) THEN NULL ELSE x::DOUBLE END FROM raw.same ORDER BY id").fetchall()  # fmt: skip
        assert found == expected, path.name


def test_folders_say_what_columns_hold(wh, tmp_path):
    for year, month in ((2013, 1), (2013, 2), (2014, 1)):
        (tmp_path / f"year={year}" / f"month={month}").mkdir(parents=True)
        pq.write_table(pa.table({"n": [year + month]}), tmp_path / f"year={year}" / f"month={month}" / "a.parquet")
    write(tmp_path, b"not data", "_SUCCESS")
    assert ingest(wh, "raw.hive", tmp_path).inserted == 3
    assert rows_of(wh, "raw.hive") == [(2014, 2013, 1), (2015, 2013, 2), (2015, 2014, 1)]


# Sheets


@pytest.fixture
def a_sheet(tmp_path):
    """Write rows as a sheet, cells merged on demand."""
    import xlsxwriter

    def a_sheet(rows, merged="", name="rows.xlsx"):
        with xlsxwriter.Workbook(tmp_path / name, {"default_date_format": "yyyy-mm-dd hh:mm"}) as book:
            sheet = book.add_worksheet("rows")
            for number, row in enumerate(rows):
                sheet.write_row(number, 0, row)
            if merged:
                sheet.merge_range(merged, "Both")
        return tmp_path / name

    return a_sheet


def test_a_sheet_has_the_types_that_were_asked_for(wh, a_sheet):
    rows = [["id", "zip", "day", "at", "flag"], [1, 501, date(2013, 1, 2), datetime(2013, 1, 2, 5, 15), True], [], [2, 10001.0, datetime(2013, 1, 3), date(2013, 1, 3), False]]  # fmt: skip
    types = {"ID": "INTEGER", "zip": "VARCHAR", "day": "DATE", "flag": "BOOLEAN"}
    ingest(wh, "raw.sheet_types", a_sheet(rows), types=types)
    assert [str(kind) for kind in wh.table("raw.sheet_types").types] == ["INTEGER", "VARCHAR", "DATE", "TIMESTAMP", "BOOLEAN"]  # fmt: skip
    found = [(1, "501", date(2013, 1, 2), datetime(2013, 1, 2, 5, 15), True), (2, "10001", date(2013, 1, 3), datetime(2013, 1, 3), False)]  # fmt: skip
    assert wh.table("raw.sheet_types").fetchall() == found
    ingest(wh, "raw.sheet_types", a_sheet([rows[0], rows[1]], name="more.xlsx"), types={"zip": "VARCHAR"}, mode="append", on_change="widen")  # fmt: skip
    assert str(wh.table("raw.sheet_types").types[0]) == "INTEGER"


def test_a_cell_that_its_type_would_cut_is_rejected_with_its_row(wh, a_sheet):
    rows = [["id", "n", "day"], [1, 5.49, date(2013, 1, 2)], [], [2, 7, datetime(2013, 1, 2, 5, 15)], [3, 8, date(2013, 1, 2)], [4, "odd", date(2013, 1, 2)]]  # fmt: skip
    with pytest.raises(TooManyRejects, match=r"line 2, `n`: `5\.49` is no BIGINT that can be read"):
        ingest(wh, "raw.sheet_cuts", a_sheet(rows), types={"n": "BIGINT", "day": "DATE"})
    done = ingest(wh, "raw.sheet_cuts", a_sheet(rows), types={"n": "BIGINT", "day": "DATE"}, max_rejects=3)
    assert (done.read, done.inserted, done.rejected) == (4, 1, 3)
    assert wh.table("raw.sheet_cuts").fetchall() == [(3.0, 8, date(2013, 1, 2))]
    assert wh.sql("SELECT line, text FROM raw.sheet_cuts__rejects ORDER BY line").fetchall() == [(2, "5.49"), (4, "2013-01-02 05:15:00"), (6, "odd")]  # fmt: skip
    with pytest.raises(SchemaChanged, match="`n` was BIGINT and is DOUBLE"):
        ingest(wh, "raw.sheet_cuts", a_sheet(rows[:2]), mode="append")


@pytest.mark.parametrize(
    ("rows", "merged", "options", "words"),
    [
        ([["", "", "n"], ["a", "b", 1]], "A1:B1", {}, "Cells of its header are merged: A1:B1"),
        ([["id", "Id"], [1, 2]], "", {}, "several columns called `Id`"),
        ([["id", ""], [1, 2]], "", {}, "Cells of its header are empty: B1"),
        ([], "", {}, "Cells of its header are empty: all"),
        ([["id"], [1]], "", {"part": "row"}, "no sheet `row`. Did you mean `rows`"),
        ([["id"], [1]], "", {"types": {"day": "DATE"}}, "no column `day`"),
    ],
)
def test_a_sheet_that_is_no_table_is_refused(wh, table, a_sheet, rows, merged, options, words):
    before = rows_of(wh, table)
    with pytest.raises(BadSource, match=words):
        ingest(wh, table, a_sheet(rows, merged), mode="append", **options)
    assert rows_of(wh, table) == before


# SQLite


@pytest.fixture
def shop(tmp_path):
    """A database with a table of three orders, and its address."""
    with closing(sqlite3.connect(tmp_path / "shop.sqlite", isolation_level=None)) as shop:
        shop.execute("CREATE TABLE orders (id INTEGER, note TEXT)")
        shop.executemany("INSERT INTO orders VALUES (?, ?)", [(8, "a"), (9, "b"), (10, "c")])
        yield shop, f"sqlite:///{tmp_path / 'shop.sqlite'}"


@pytest.mark.parametrize("end", [";", " ;\n; ", "-- all of them", "; -- all;", "/* all */;", "\n--'\n"])
def test_what_ends_a_query_is_no_part_of_it(wh, shop, end):
    _, address = shop
    assert ingest(wh, "raw.ended", address, query=f"SELECT id, '-- ;' AS mark FROM orders{end}").inserted == 3


@pytest.mark.parametrize("place", ["missing.sqlite", "folder/missing.sqlite", "", "file:{}/missing.sqlite?uri=true"])
def test_a_database_that_is_not_there_is_not_made(wh, tmp_path, place):
    path = place.format(tmp_path) if place.startswith("file:") else tmp_path / place
    with pytest.raises(BadSource, match="There is no such file"):
        ingest(wh, "raw.missing", f"sqlite:///{path}", table="orders")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_a_database_is_told_once(wh, shop):
    with pytest.raises(BadSource) as caught:
        ingest(wh, "raw.once", shop[1], table="oders")
    assert str(caught.value).count("could not be read") == 1


@pytest.mark.parametrize("what", [{"table": "orders"}, {"query": "SELECT id, note FROM orders"}, {"query": "SELECT id + 0 AS id, note FROM orders"}], ids=["table", "query", "computed"])  # fmt: skip
def test_an_incremental_load_of_a_table_that_is_emptied_and_filled(wh, shop, what):
    orders, address = shop
    table = f"raw.emptied_{abs(hash(str(what)))}"

    def load():
        return ingest(wh, table, address, mode="incremental", cursor="id", **what).inserted

    assert [load(), load()] == [3, 0]
    orders.execute("DELETE FROM orders")
    assert load() == 0
    orders.execute("INSERT INTO orders VALUES (10, 'late'), (11, 'd'), (7, 'never'), (NULL, 'e')")
    assert [load(), load()] == [3, 0]
    assert wh.sql(f"SELECT list(note ORDER BY note) FROM {table}").fetchall() == [(["a", "b", "c", "d", "e", "late"],)]


@pytest.mark.parametrize("what", [{"table": "orders"}, {"query": "SELECT id + 0 AS id, note FROM orders"}], ids=["table", "computed"])
def test_an_incremental_load_that_begins_with_an_empty_table(wh, shop, what):
    orders, address = shop
    table = f"raw.begins_{abs(hash(str(what)))}"
    orders.execute("DELETE FROM orders")
    assert ingest(wh, table, address, mode="incremental", cursor="id", **what).inserted == 0
    for number in (9, 10):  # as texts, 10 would be below 9
        orders.execute("INSERT INTO orders VALUES (?, 'x')", [number])
        assert ingest(wh, table, address, mode="incremental", cursor="id", **what).inserted == 1
    assert str(wh.table(table).types[0]) == "BIGINT"


def test_a_cursor_without_a_value_is_refused(wh, shop):
    orders, address = shop
    orders.execute("UPDATE orders SET note = NULL")
    with pytest.raises(BadIngest, match="`note` holds no value in any of 3 rows"):
        ingest(wh, "raw.valueless", address, table="orders", mode="incremental", cursor="note")


# Sources by address, credentials, lineage


def test_a_plug_in_needs_an_entry_point_only(wh, tmp_path, monkeypatch):
    (tmp_path / "plugged.py").write_text(
        "import pyarrow as pa\n"
        "class Numbers:\n"
        "    def __init__(self, address, up_to=3):\n        self.up_to = up_to\n"
        "    def __repr__(self):\n        return 'Numbers()'\n"
        "    def batches(self, loading):\n"
        "        for n in range(self.up_to):\n            yield pa.record_batch({'n': [n]})\n"
    )
    info = tmp_path / "plugged-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ml_notebooks.sources]\nnumbers = plugged:Numbers\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert sources()["numbers"] == "plugged:Numbers"
    assert ingest(wh, "raw.numbers", "numbers://any", up_to=5).inserted == 5
    assert ingest(wh, "raw.numbers", "numbers://any", mode="append", up_to=5).inserted == 5
    assert ingest(wh, "raw.numbers", "numbers://any", mode="append", up_to=5).inserted == 0
    with pytest.raises(UnknownSource, match="Did you mean `numbers`"):
        ingest(wh, "raw.numbers", "number://any")


def test_the_plug_ins_of_this_package_are_entry_points_with_an_extra_each():
    ours = {one.name: one for one in entry_points(group="ml_notebooks.sources") if one.dist.name == "ml-notebooks"}
    assert set(ours) == {"clickhouse", "mongodb", "redis"} <= set(metadata("ml-notebooks").get_all("Provides-Extra"))
    assert all(type(find_source(f"{name}://host")) is one.load() for name, one in ours.items())


@pytest.mark.parametrize(
    ("address", "rows", "how"),
    [
        ("orders.csv", {"part": "x"}, {"format": "csv", "delimiter": ";", "missing": "-", "encoding": "cp1252", "types": {"a": "DATE"}, "credential": "k", "storage": {"a": 1}, "decimal": ",", "thousands": ".", "date_format": "%d", "timestamp_format": "%d"}),
        ("sqlite:///shop", {"table": "t"}, {"credential": "k", "batch": 7}),
        ("https://h", {"records": "r"}, {"format": "csv", "pages": "page", "page": "p", "size": 3, "next": "n", "auth": "key", "credential": "k", "header": "X", "since": "s", "timeout": 1, "retries": 1, "patience": 1, "per_second": 1, "most": 1, "missing": "-", "encoding": "cp1252", "types": {"a": "DATE"}}),
        ("mongodb://h/d", {"collection": "c"}, {"credential": "k", "batch": 7}),
        ("redis://h", {"match": "m"}, {"credential": "k", "batch": 7}),
        ("clickhouse://h", {"table": "t"}, {"credential": "k", "secure": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_source_is_known_by_its_rows_and_not_by_how_they_are_read(address, rows, how):
    plain = find_source(address)
    assert set(how) <= {one.name for one in fields(plain)}
    assert repr(find_source(address, **how)) == repr(plain)
    assert repr(find_source(address, **rows)) != repr(plain)
    said = {one.name for one in fields(plain) if one.repr}
    assert said.isdisjoint(how) and said >= set(rows)


def test_credentials_come_from_the_environment_and_are_not_told(tmp_path, monkeypatch):
    monkeypatch.setenv("MLNB_SOURCES__CREDENTIALS__SHOP", "s3same")
    workspace = make_workspace(tmp_path)
    assert "s3same" not in repr(workspace.settings)
    with open_warehouse(workspace) as wh:
        for address in ("postgresql://u:hunter2@127.0.0.1/x", "mysql://u:hunter2@127.0.0.1/x", "mongodb://u:hunter2@h/x", "redis://:hunter2@h"):  # fmt: skip
            options = {} if address.startswith(("redis", "mongo")) else {"table": "t"}
            with pytest.raises(BadSource, match="holds a") as caught:
                ingest(wh, "raw.x", address, **options)
            assert "hunter2" not in str(caught.value)
        with pytest.raises(MissingCredential, match="MLNB_SOURCES__CREDENTIALS__BAKERY"):
            ingest(wh, "raw.x", "redis://127.0.0.1", credential="bakery")


@pytest.mark.parametrize(
    ("address", "options"),
    [
        ("http://bob:hunter2@127.0.0.1:1/x.csv?api_key=hunter2", {}),
        ("https://hunter2@127.0.0.1:1/x.csv", {}),
        ("http://bob:hunter2/x@127.0.0.1:1/y", {"parameters": {"token": "hunter2"}}),
        ("htp://bob:hunter2@127.0.0.1/x", {}),
        ("postgresql://bob:hunter2@127.0.0.1:1/db", {}),
        ("postgresql://bob@127.0.0.1:1/db?password=hunter2", {"table": "t"}),
        ("mysql://bob:hunter2@127.0.0.1:1/db", {"tabel": "t"}),
        ("mongodb://bob:hunter2@127.0.0.1:1/db", {}),
        ("redis://bob:hunter2@127.0.0.1:1", {}),
        ("clickhouse://bob:hunter2@127.0.0.1:1/db", {"table": "t"}),
    ],
)
def test_a_password_in_an_address_is_refused_and_shown_nowhere(wh, address, options):
    with pytest.raises((BadSource, UnknownSource), match=r"holds a|takes no|needs a table|no kind of source") as caught:
        ingest(wh, "raw.x", address, **options)
    told = str(caught.value) + repr(caught.value) + ("" if "tabel" in options or address.startswith("htp:") else repr(find_source(address, **options)))
    assert "hunter2" not in told


def test_reading_only_is_respected(wh, tmp_path):
    with open_warehouse(wh.workspace, read_only=True) as reader, pytest.raises(ReadOnlyWarehouse, match="reading only"):
        ingest(reader, "raw.x", write(tmp_path, "id\n1\n"))


def test_inside_a_transaction_it_is_part_of_it(wh, table, tmp_path):
    before = rows_of(wh, table)
    with pytest.raises(ZeroDivisionError, match="division"), wh.transaction():  # noqa: PT012
        assert ingest(wh, table, write(tmp_path, "id,name\n9,i\n"), mode="append").snapshot == -1
        1 / 0  # noqa: B018
    assert rows_of(wh, table) == before


@pytest.mark.parametrize(
    ("name", "data"),
    [("rows.csv", b"id,name\n1,a\n2\n3,c\n"), ("rows.json", b'{"id": 1, "name": "a"}\n{"id": \n{"id": 3, "name": "c"}\n')],
)
def test_malformed_rows_do_not_end_the_transaction_that_they_are_read_in(wh, tmp_path, name, data):
    table = f"raw.within_{name.removeprefix('rows.')}"
    with wh.transaction():
        wh.publish("raw.before", "SELECT 1 AS id")
        done = ingest(wh, table, write(tmp_path, data, name), max_rejects=1)
        wh.publish("raw.after", "SELECT 1 AS id")
    assert (done.inserted, done.rejected, rows_of(wh, table)) == (2, 1, [(1, "a"), (3, "c")])
    assert len(wh.table("raw.before")) == len(wh.table("raw.after")) == len(wh.table(f"{table}__rejects")) == 1


def test_a_source_that_fails_inside_a_transaction_fails_it_with_the_same_words(wh, table, tmp_path):
    before = rows_of(wh, table)
    with pytest.raises(BadSource, match="read whole or not at all"), wh.transaction():  # noqa: PT012
        wh.publish(table, "SELECT 9 AS id, 'i' AS name")
        with pytest.raises(BadSource):
            ingest(wh, table, write(tmp_path, b'[{"id": 1}, {"id": 2', "rows.json"), mode="append")
    assert rows_of(wh, table) == before


# What nobody thought of


NAMES = st.text("abcd", min_size=1, max_size=3)
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r\n", exclude_categories=["Cs"]), max_size=8)


@pytest.fixture
def take(wh, tmp_path):
    """Read a file as a load does, without publishing: what came of it, its rows, their columns, and the lines that were refused."""
    (tmp_path / "scratch").mkdir()

    def read(path, columns, **how):
        for left in (tmp_path / "scratch").iterdir():
            left.unlink()
        intake = Intake(wh, "raw.nowhere", widen=True)
        try:
            read_file(intake, LocalFile(path, path.name, FileFormat(**how)), Loading(wh.workspace, tmp_path / "scratch"))
            counted = (intake.read, intake.written, intake.rejected)
            refused = {line for (line,) in intake.execute(f"SELECT line FROM {intake.rejects}")}
            rows = intake.execute(f"SELECT {columns} FROM {intake.rows}") if intake.columns else []
            return counted, rows, list(intake.columns), refused
        finally:
            intake.clear()

    return read


ANY = settings(max_examples=500 if SOAK else 8, deadline=None, suppress_health_check=list(HealthCheck))


@soak
@ANY
@given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8), newline=st.sampled_from(["\n", "\r\n"]))
def test_what_pandas_writes_is_read_as_it_was(take, tmp_path, rows, newline):
    frame = pd.DataFrame([(n, *row) for n, row in enumerate(rows)], columns=["n", "one", "two"])
    frame.to_csv(tmp_path / "any.csv", index=False, lineterminator=newline, quoting=1)
    types = {"one": "VARCHAR", "two": "VARCHAR"}
    counted, found, *_ = take(tmp_path / "any.csv", "coalesce(one, ''), coalesce(two, '')", delimiter=",", types=types)
    assert counted == (len(rows), len(rows), 0)
    assert found == rows


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | CELLS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


def same(found, said):
    """Whether a value that arrived is the one that was said in JSON, as a value of its column's type."""
    if found is None or said is None:
        return found is said
    if isinstance(said, dict) and isinstance(found, dict):
        return all(same(found.get(name), value) for name, value in said.items()) and not any(value is not None for name, value in found.items() if name not in said)  # fmt: skip
    if isinstance(said, list) and isinstance(found, list):
        return len(found) == len(said) and all(map(same, found, said))
    if isinstance(said, str):
        return found == said if isinstance(found, str) else figures(str(found)) == figures(said)  # a date, a time
    if isinstance(found, str):  # in a column of text, or of JSON
        return json.loads(found) == said
    return isinstance(found, bool) == isinstance(said, bool) and found == said


def figures(text):
    """The numbers of a date: 2013-1-2 is 2013-01-02, and midnight need not be said."""
    numbers = [int(part) for part in re.findall(r"\d+", text)]
    return numbers[: max(3, max((place for place, number in enumerate(numbers, 1) if number), default=0))]


def said_in_json(path, columns, refused):
    """What Python reads in the lines of a file that were not refused, column by column."""
    lines = enumerate(path.read_bytes().split(b"\n"), 1)
    objects = [json.loads(line) for number, line in lines if line.strip() and number not in refused]
    named = [{name.lower(): value for name, value in one.items()} for one in objects]
    return [tuple(one.get(name) for name in columns) for one in named]


@soak
@ANY
@given(rows=st.lists(st.dictionaries(NAMES, VALUES, min_size=1, max_size=4), min_size=1, max_size=6))
def test_any_objects_are_rows(take, tmp_path, rows):
    (tmp_path / "any.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counted, found, columns, refused = take(tmp_path / "any.json", "*")
    assert counted == (len(rows), len(rows), 0)
    said = said_in_json(tmp_path / "any.json", columns, refused)
    assert [pair for pair in zip(found, said, strict=True) if not all(map(same, *pair))] == []


def mutated(data, chance):
    """A file with a few of its bytes changed, taken out, doubled or put in."""
    data = bytearray(data)
    for _ in range(chance.randrange(1, 6)):
        place = chance.randrange(len(data))
        change = chance.randrange(4)
        if change == 0:
            data[place] = chance.choice(b'",;\n\r\x00\xff{}[]:0e-\\')
        elif change == 1:
            del data[place : place + chance.randrange(1, 9)]
        elif change == 2:
            data[place:place] = data[place : place + chance.randrange(1, 30)]
        else:
            data[place:place] = bytes(chance.choices(b'"\n,\xc3\x28\x00', k=3))
    return bytes(data) or b"x"


def as_text(found, text):
    """Whether a value that arrived is what a text says, as a value of its column's type."""
    if found is None:
        return text == ""
    if isinstance(found, str):
        return found == text
    if isinstance(found, int | float) and not isinstance(found, bool):
        try:
            return found == (float(text) if isinstance(found, float) else Decimal(text.strip()))
        except (ValueError, ArithmeticError):
            return False
    return figures(str(found)) == figures(text) or str(found).lower() == text.lower()


def read_by_csv(path, delimiter):
    """The rows that Python's csv reads, and those that it reads when it begins at a later line, in the order of the lines."""
    text = path.read_bytes().decode("utf-8", errors="replace")
    lines = re.findall(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+", text)
    return [next(csv.reader(lines[number:], delimiter=delimiter), []) for number in range(len(lines))]


def missing_from(found, said):
    """The first row that arrived and that is not among those that were said, after the one before it."""
    rows = iter(said)
    for row in found:
        if not any(len(row) <= len(texts) and not any(texts[len(row) :]) and all(map(as_text, row, texts)) for texts in rows):
            return row  # DuckDB lets empty fields pass at the end of a line
    return None


SOUND = pd.DataFrame([(n, f"name {n}", n / 4, f"2013-01-{n % 28 + 1:02}") for n in range(40)], columns=["id", "name", "x", "day"])  # fmt: skip
LINES = SOUND.to_csv(index=False, quoting=2).encode()


@soak
@pytest.mark.parametrize(
    ("kind", "sound"),
    [("csv", LINES), ("csv.gz", gzip.compress(LINES)), ("json", SOUND.to_json(orient="records", lines=True).encode()), ("parquet", b"")],
    ids=["csv", "csv.gz", "json", "parquet"],
)  # fmt: skip
def test_a_mutated_file_is_an_error_or_rejects_and_never_a_loss(take, tmp_path, kind, sound):
    """Each row arrives, or is refused; each value of CSV and JSON that arrives is the one that Python reads."""
    chance = random.Random(kind)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pandas(SOUND), tmp_path / "sound.parquet")
        sound = (tmp_path / "sound.parquet").read_bytes()
    whole = 0
    for number in range(3000 if SOAK else 25):
        path = write(tmp_path, mutated(sound, chance), f"any.{kind}")
        try:
            (read, written, rejected), found, columns, refused = take(path, "*")
        except MLNotebooksError:
            continue
        assert read == written + rejected, number
        whole += 1
        if kind == "csv":
            outside = re.sub(rb'"[^"]*"', b"", path.read_bytes().splitlines()[0]).decode(errors="replace")
            said = read_by_csv(path, max(",\t;|", key=outside.count))
            assert missing_from(found, said) is None, number
        elif kind == "json":
            said = said_in_json(path, columns, refused)
            assert [pair for pair in zip(found, said, strict=True) if not all(map(same, *pair))] == [], number
    assert whole or kind == "csv.gz"


LONG = [
    ("value.csv", b"id,name\n1,", b"\n2,b\n", "2 read, 1 inserted; [(2, 1000)]"),
    ("value.csv.gz", b"id,name\n1,", b"\n2,b\n", "2 read, 1 inserted; [(2, 1000)]"),
    ("header.csv", b"id,", b"\n1,2\n", "Its first line is longer than 2,000,000 bytes"),
    ("quoted.csv", b'id,name\n1,"', b'"\n2,b\n', "2 read, 1 inserted; [(2, 1000)]"),
    ("value.json", b'{"id": 1, "name": "', b'"}\n{"id": 2}\n', "2 read, 1 inserted; [(1, 1000)]"),
    ("list.json", b'[{"id": 1, "name": "', b'"}]', "read whole or not at all"),
]


def readings_of_long_lines(folder, xs):
    """What comes of files with that many x in one line, and the megabytes of memory that they took, in a process of its own."""
    found = []
    with open_warehouse(find_workspace(folder)) as wh:
        wh._connection.execute("SET memory_limit = '300MB'")
        ingest(wh, "raw.sound", write(folder, b"id,name\n0,z\n", "sound.csv"))
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for name, line, end, _ in LONG:
            with (gzip.open(folder / name, "wb", 1) if name.endswith("gz") else open(folder / name, "wb")) as out:
                out.write(line)
                out.writelines(b"x" * 1_000_000 for _ in range(xs // 1_000_000))
                out.write(end)
            try:
                done = ingest(wh, "raw.line", folder / name, max_rejects=1, on_change="widen")
                lines = wh.sql("SELECT line, length(text) FROM raw.line__rejects").fetchall()
                found.append(f"{done.read} read, {done.inserted} inserted; {lines}")
            except MLNotebooksError as error:
                found.append(str(error))
            (folder / name).unlink()
    return found, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) / 1000


@soak
def test_a_line_of_a_gigabyte_is_refused_and_not_held(tmp_path):
    make_workspace(tmp_path)
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as pool:
        found, taken = pool.submit(readings_of_long_lines, tmp_path, 1_000_000_000 if SOAK else 40_000_000).result()
    assert [told for (*_, said), told in zip(LONG, found, strict=True) if said not in told or len(told) > 1000] == []
    assert taken < 600, "megabytes"


def test_progress_is_shown_to_who_waits(capsys, monkeypatch):
    from ml_notebooks.data import progress as module
    from ml_notebooks.data.sources import Counter

    monkeypatch.setattr(module, "_is_watched", lambda: True)
    real = module.threading.Event
    class Hasty(real):  # fmt: skip
        def wait(self, timeout=None):
            return super().wait(0.01)
    monkeypatch.setattr(module.threading, "Event", Hasty)
    counter = Counter(1_000, 2_000_000)
    with module.progress("raw.orders", counter, after=0):
        while "rows/s" not in capsys.readouterr().err:
            pass


def test_the_rows_of_one_large_file_are_counted_while_it_is_read(wh, tmp_path, monkeypatch):
    from ml_notebooks.data import ingest as module

    path = write(tmp_path, "id,a,b\n" + "".join(f"{n},{n * 3},some words of row {n}\n" for n in range(400_000)))
    seen, told = [], threading.Event()

    @contextmanager
    def watched(what, counter, percent):
        """In place of the line that is shown: what it would be made of, over and over."""

        def look():
            """Look until the block has ended."""
            while not told.wait(0.002):
                seen.append((percent(), counter.rows, counter.ahead))

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            told.set()
            thread.join()
            seen.append((percent(), counter.rows, counter.ahead))

    monkeypatch.setattr(module, "progress", watched)
    ingest(wh, "raw.large", path)
    assert any(0 < share < 100 for share, rows, ahead in seen if (rows, ahead) == (0, 400_000))
    assert seen[-1][1:] == (400_000, 0)


def test_a_path_object_and_a_text_are_the_same(wh, tmp_path):
    path = write(tmp_path, "id\n1\n")
    assert ingest(wh, "raw.path", Path(path)).source == ingest(wh, "raw.path", str(path)).source


def test_a_merge_refuses_a_key_that_stands_twice_also_when_one_row_is_in_the_table(wh, tmp_path):
    wh.publish("raw.merged", "SELECT * FROM (VALUES (1, 'a'), (2, 'c')) AS rows(id, note)")
    (tmp_path / "rows.csv").write_text("id,note\n1,a\n1,b\n2,c\n")
    with pytest.raises(BadData, match="1 values of the key"):
        ingest(wh, "raw.merged", tmp_path / "rows.csv", mode="merge", keys="id", on_change="widen")
    assert wh.sql("FROM raw.merged ORDER BY id").fetchall() == [(1, "a"), (2, "c")]


def test_a_merge_deletes_nothing_while_rows_are_rejected(wh, tmp_path):
    wh.publish("raw.kept", "SELECT * FROM (VALUES (1::BIGINT, 1::BIGINT), (2, 2), (3, 3)) AS rows(k, v)")
    (tmp_path / "rows.csv").write_text("k,v\n1,5\n2,2,9\n3,3\n")
    with pytest.raises(BadIngest, match="1 of the source were rejected"):
        ingest(wh, "raw.kept", tmp_path / "rows.csv", mode="merge", keys="k", delete=True, max_rejects=1)
    assert wh.sql("FROM raw.kept ORDER BY k").fetchall() == [(1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize("packing", ["", ".gz"])
def test_a_parquet_file_with_a_name_twice_is_refused_and_a_packed_one_is_read(wh, tmp_path, packing):
    import gzip

    import pyarrow.parquet as pq

    for names in (["a", "A"], ["a", "b"]):
        pq.write_table(pa.table([[1], [2]], names=names), tmp_path / "rows")
        data = (tmp_path / "rows").read_bytes()
        (tmp_path / f"rows.parquet{packing}").write_bytes(gzip.compress(data) if packing else data)
        if names[1] == "A":
            with pytest.raises(BadSource, match="several columns called `a`"):
                ingest(wh, "raw.named", tmp_path / f"rows.parquet{packing}")
        else:
            assert ingest(wh, "raw.named", tmp_path / f"rows.parquet{packing}").inserted == 1
