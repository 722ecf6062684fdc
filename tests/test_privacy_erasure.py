"""A person is erased from every place that can be thought of, and what is searched for is searched for with our own eyes."""

import gzip
import json
import shutil
import threading
import zipfile

import duckdb
import pandas as pd
import pandera.ibis as pa
import pytest
from support.processes import start
from support.soak import SOAK, soak
from support.workspaces import make_workspace

from ml_notebooks.data.audit import verify_audit
from ml_notebooks.data.catalog import open_copy
from ml_notebooks.data.contracts import Contract, check
from ml_notebooks.data.erasure import _search, erase
from ml_notebooks.data.subjects import export, subject_tables
from ml_notebooks.data.traces import find_traces
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import (
    BadSubject,
    MLNotebooksError,
    NotErased,
    UnknownColumn,
    UnknownSnapshot,
    UnknownSubject,
    UnknownTable,
)
from ml_notebooks.workspace import find_workspace

MAIL = "zoë.quux@mail.example"
PERSON = f"SELECT 4711 AS customer, 'Zoë Quux' AS name, '{MAIL}' AS mail, DATE '1987-05-23' AS born"
OTHERS = "SELECT 100000 + range AS customer, 'Person ' || range AS name, 'p' || range || '@mail.example' AS mail, DATE '1960-01-01' + INTERVAL (range) DAY AS born FROM range({})"
KEY = "MLNB_WAREHOUSE__ENCRYPTION_KEY"




@pytest.fixture
def wh(tmp_path):
    """A warehouse."""
    with open_warehouse(make_workspace(tmp_path / "w")) as wh:
        yield wh


@pytest.fixture(params=["plain", "encrypted"])
def either(request, tmp_path, monkeypatch):
    """A warehouse, plain and encrypted."""
    monkeypatch.setenv(KEY, "a key of the tests, no secret" if request.param == "encrypted" else "")
    workspace = make_workspace(tmp_path / "w", encrypted=str(request.param == "encrypted").lower())
    with open_warehouse(workspace) as wh:
        yield wh
    shutil.rmtree(open_copy(workspace).parent, ignore_errors=True)


def seen(wh):
    """Where she stands: in the bytes of any file, and in what DuckDB reads of any Parquet file that it can read, or of the catalogue."""
    found = []
    for file in sorted(wh.workspace.root.rglob("*")):
        if file.is_file():
            found += [file.name] if "quux" in file.read_bytes().decode("utf-8", "replace") else []
            if file.suffix == ".parquet":
                try:
                    rows = duckdb.sql(f"FROM read_parquet('{file}')").fetchall()
                except duckdb.Error:
                    continue
                found += [file.name] if "quux" in str(rows) else []
    for table in ("ducklake_table_column_stats", "ducklake_file_column_stats", "ducklake_snapshot_changes"):
        rows = wh._connection.execute(f"FROM __ducklake_metadata_lake.{table}").fetchall()
        found += [table] if "quux" in str(rows).lower() else []
    return found


def test_from_a_large_and_a_small_table(either):
    wh = either
    wh.publish("raw.large", f"{OTHERS.format(5000)} UNION ALL {PERSON}")
    wh.publish("raw.small", f"{OTHERS.format(3)} UNION ALL {PERSON}")
    wh.append("raw.small", OTHERS.format(2))
    erased = erase(wh, "customer", 4711).raise_if_traced()
    assert erased.rows == {"raw.large": 1, "raw.small": 1} and erased.texts == 2
    assert seen(wh) == []
    assert wh.sql("SELECT count(*) FROM raw.large").fetchall() == [(5000,)] and wh.sql("SELECT count(*) FROM raw.small").fetchall() == [(5,)]
    assert wh.sql("SELECT min(mail), max(mail), max(customer) FROM raw.large").fetchall() == [("p0@mail.example", "p9@mail.example", 104999)]


def test_from_a_table_of_decimals_of_which_some_rows_lie_in_the_catalogue(either):
    """DuckLake 1.0 cannot rewrite a file with a DOUBLE beside such rows."""
    wh, decimals = either, "SELECT *, 1.5::DOUBLE AS paid FROM ({})"
    wh.publish("raw.people", decimals.format(f"{OTHERS.format(50)} UNION ALL {PERSON}"))
    wh.append("raw.people", decimals.format(OTHERS.format(3)))
    assert erase(wh, "customer", 4711).raise_if_traced().rows == {"raw.people": 1}
    assert seen(wh) == [] and wh.sql("SELECT count(*), sum(paid) FROM raw.people").fetchall() == [(53, 79.5)]
    wh.append("raw.people", decimals.format(PERSON))
    assert erase(wh, "customer", 4711).raise_if_traced().rows == {"raw.people": 1} and seen(wh) == []


@pytest.mark.parametrize("rows", [5, 5000], ids=["in the catalogue", "in files"])
def test_from_tables_that_were_replaced_dropped_from_or_updated(either, rows):
    wh = either
    early = wh.publish("raw.other", "SELECT 1 AS a")
    wh.publish("raw.people", f"{OTHERS.format(rows)} UNION ALL {PERSON}")
    wh.publish("raw.people", OTHERS.format(rows))  # she is in an old snapshot only
    wh.publish("raw.visits", f"{OTHERS.format(rows)} UNION ALL {PERSON}")
    wh.upsert("raw.visits", PERSON.replace("Quux", "Lind"), keys="customer")
    with wh.transaction("delete"):
        wh._connection.execute("DELETE FROM lake.raw.visits WHERE customer = 4711")  # an ordinary one: her bytes stay
        wh._changed.add("raw.visits")
    wh.publish("raw.later", "SELECT 2 AS a")
    erased = erase(wh, "customer", 4711).raise_if_traced()
    assert erased.rows == {} and seen(wh) == []
    assert wh.at(early).sql("FROM raw.other").fetchall() == [(1,)] and early not in erased.snapshots
    assert wh.sql("SELECT count(*) FROM raw.visits").fetchall() == [(rows,)] == wh.sql("SELECT count(*) FROM raw.people").fetchall()


def test_every_table_keeps_a_version_that_shows_it(either):
    wh = either
    wh.publish("raw.other", "SELECT 1 AS a")
    wh.publish("raw.people", f"{OTHERS.format(5)} UNION ALL {PERSON}")
    last = wh.append("raw.other", "SELECT 2 AS a")  # a snapshot that shows her too
    assert last in erase(wh, "customer", 4711).snapshots
    assert sorted(wh.versions()) == wh.names() == sorted(wh.tables()["table"]) and wh.version("raw.other") > last
    assert [len(wh.at(wh.version(name)).table(name)) for name in ("raw.other", "raw.people")] == [2, 5]
    assert verify_audit(wh).raise_if_broken()


def test_from_renamed_partitioned_and_differently_named_tables(wh):
    wh.publish("raw.people", f"{OTHERS.format(300)} UNION ALL {PERSON}")
    wh._connection.execute("ALTER TABLE lake.raw.people RENAME COLUMN customer TO client")
    wh.append("raw.people", OTHERS.format(50).replace("AS customer", "AS client"))
    wh.publish("raw.parts", OTHERS.format(0))
    wh._connection.execute("ALTER TABLE lake.raw.parts SET PARTITIONED BY (mail)")
    wh.append("raw.parts", f"{OTHERS.format(12)} UNION ALL {PERSON}")
    wh.publish("raw.logins", f"SELECT 'u' || customer AS user, mail FROM ({PERSON})")
    with pytest.raises(UnknownSubject, match="Did you mean `customer`"):
        erase(wh, "custmer", 4711)
    erased = erase(wh, "customer", 4711, also={"raw.people": "client"})
    assert [trace.place for trace in erased.traces] and all("raw/logins" in trace.place or "catalog" in trace.place for trace in erased.traces)
    erase(wh, "user", "u4711").raise_if_traced()
    assert seen(wh) == [] and not [place for place in wh.workspace.root.rglob("*") if "quux" in place.name]
    assert wh.sql("SELECT count(*) FROM raw.people").fetchall() == [(350,)]


def test_every_table_keeps_a_version_that_shows_what_it_is_now(either):
    wh = either
    wh.publish("raw.prices", "SELECT 1 AS item")
    wh.publish("raw.people", OTHERS.format(3000))
    wh.publish("raw.visits", "SELECT 100000 + range AS customer FROM range(9)")
    wh._connection.execute("COMMENT ON TABLE lake.raw.prices IS 'what it''s worth'")
    wh.append("raw.people", PERSON)
    wh.append("raw.prices", "SELECT 2 AS item")
    erase(wh, "customer", 4711)
    assert wh.tables()["table"].to_list() == ["raw.people", "raw.prices", "raw.visits"]
    assert "what it's worth" in str(wh._connection.execute("SELECT comment FROM duckdb_tables()").fetchall())
    for name, rows in {"raw.people": 3000, "raw.prices": 2, "raw.visits": 9}.items():
        with wh.at(wh.version(name)) as then:
            assert len(then.table(name).fetchall()) == rows == len(wh.table(name).fetchall())
    assert seen(wh) == []


def refuse(wh, table, lines, column=None):
    """A table of rejected lines."""
    rows = [{"file": "people", "line": n, "column": column, "text": text, "reason": f"`{text}` is wrong"} for n, text in enumerate(lines)]
    wh.publish(f"{table}__rejects", pd.DataFrame(rows).astype({"column": "str"}))


def left(wh, table):
    """The rejected lines that are left."""
    return [text for (text,) in wh.sql(f"SELECT text FROM {table}__rejects ORDER BY line").fetchall()]


HERS = [
    "4711,Zoë Quux,1987-05-2x", '"4711";"Zoë Quux"', "x\t4711\tQuux", "Zoë Quux, 4711", "4711", '{"customer": 4711, "name": "Zoë Quux"}',
    '{"who": {"id": "4711"}, "name": "Quux"}', '["Quux", 4711]', " 4711 |Quux",
]  # fmt: skip
NOT_HERS = ["14711,x", "4711.5,x", "47110,x", "a 4711 b,x", '{"customer": 47111}', '{"4711": 1}', '{"note": "at 4711, x"}', "x:4711,x"]


def test_from_lines_that_could_not_be_loaded(either):
    wh = either
    wh.publish("raw.people", f"{OTHERS.format(5)} UNION ALL {PERSON}")
    refuse(wh, "raw.people", [*HERS, *NOT_HERS, "4711,once"])
    refuse(wh, "raw.others", HERS)  # of a table that does not know customers
    refuse(wh, "raw.people", [*HERS, *NOT_HERS, *("other,x" for _ in range(5000))])
    held = export(wh, "customer", 4711)
    assert sorted(held.tables["raw.people__rejects"]["text"]) == sorted(HERS) and "raw.others__rejects" not in held.tables
    wh._connection.execute("DROP TABLE lake.raw.others__rejects")
    erased = erase(wh, "customer", 4711)
    assert erased.rows == {"raw.people": 1, "raw.people__rejects": len(HERS)} and left(wh, "raw.people")[: len(NOT_HERS)] == NOT_HERS
    assert seen(wh) == [] and not erased.unsure


def test_from_rows_that_broke_a_contract(wh):
    wh.publish("raw.people", f"{OTHERS.format(5)} UNION ALL {PERSON}")
    wh.publish("raw.visits", "SELECT 4711 AS visitor, 'Quux was here' AS note UNION ALL SELECT 5, 'customer 4711'")
    for table in ("raw.people", "raw.visits"):
        name = wh.table(table).columns[0]
        check(wh, Contract(table, pa.DataFrameSchema({name: pa.Column(None, pa.Check.lt(0))})), keep=100)
    assert len(wh.table("ops.contract_failures")) == 8 and len(export(wh, "customer", 4711).tables["ops.contract_failures"]) == 1
    erased = erase(wh, "customer", 4711, also={"raw.visits": "visitor"}).raise_if_traced()
    assert erased.rows == {"raw.people": 1, "raw.visits": 1, "ops.contract_failures": 2} and seen(wh) == []
    assert len(wh.table("ops.contract_failures")) == 6


def test_a_short_key_counts_where_the_key_stands(wh):
    wh.publish("raw.people", "SELECT 90 AS city, 17 AS customer, 3 AS visits")
    hers, perhaps, others = ['"a, b",17,x', 'x;"17";3', '{"Customer":17,"n":'], ["17,Oslo,3", '{"visits": 17}'], ["a,170,17x", '{"customer": 170}']
    refuse(wh, "raw.people", [*hers, *perhaps, *others])
    wh.append("raw.people__rejects", "SELECT 'people' AS file, 90 + range AS line, ['visits', 'customer'][range + 1] AS \"column\", '\"17\"' AS text, 'wrong' AS reason FROM range(2)")
    assert export(wh, "customer", 17).unsure == {"raw.people__rejects": 3}
    erased = erase(wh, "customer", 17).raise_if_traced()
    assert erased.rows == {"raw.people": 1, "raw.people__rejects": 4} and erased.unsure == {"raw.people__rejects": 3}
    assert left(wh, "raw.people") == [*perhaps, *others, '"17"'] and "3 lines that may be hers left" in repr(erased)


@pytest.mark.parametrize("rows", [5, 5000], ids=["in the catalogue", "in files"])
def test_the_key_is_searched_for_again_by_a_second_erasure(wh, rows):
    wh.publish("raw.people", f"SELECT range AS customer FROM range({rows})")
    refuse(wh, "raw.people", ["4,x", "5,x"])
    found, places = _search(wh, subject_tables(wh, "customer", {}), "4")
    assert len(found) == 2 and places >= 2 and all(trace.what == "4" for trace in found)
    first, second = erase(wh, "customer", 4).raise_if_traced(), erase(wh, "customer", 4).raise_if_traced()
    assert first.rows == {"raw.people": 1, "raw.people__rejects": 1} and second.rows == {} and second.snapshots == ()
    assert second.searched == first.searched >= 2 and wh.sql("SELECT count(*) FROM raw.people").fetchall() == [(rows - 1,)]


def test_a_second_erasure_finds_the_key_in_what_was_written_since(wh):
    wh.publish("raw.people", f"{OTHERS.format(5)} UNION ALL {PERSON}")
    erase(wh, "mail", MAIL).raise_if_traced()
    (wh.workspace.root / "late.txt").write_text(f"asked by {MAIL}")
    assert [trace.place for trace in erase(wh, "mail", MAIL).traces] == ["late.txt"]


def test_what_lies_elsewhere_is_named(wh):
    wh.publish("raw.people", f"{OTHERS.format(300)} UNION ALL {PERSON}")
    root = wh.workspace.root
    (root / "reports").mkdir()
    (root / "reports" / "run.ipynb").write_text(json.dumps({"text": [MAIL]}))
    (root / "run.log").write_text(f"read {MAIL}\n")
    with zipfile.ZipFile(root / "model.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("example.json", f"{MAIL} " * 20)
    with gzip.open(root / "old.csv.gz", "wb") as packed:
        packed.write(f"4711,{MAIL}\n".encode() * 20)
    (root / "broken.zip").write_bytes(b"PK\x03\x04" + bytes(30))
    (root / "broken.gz").write_bytes(b"\x1f\x8b no")
    (root / "data" / "tables" / "raw" / "orphan.parquet").write_bytes(b"no Parquet")
    wh.publish("ops.notes", f"SELECT 'asked by {MAIL}' AS note, range AS n FROM range(50)")
    assert {trace.place for trace in export(wh, "customer", 4711).traces} == {"reports/run.ipynb", "run.log", "model.zip", "old.csv.gz"}
    erased = erase(wh, "customer", 4711)
    places = {trace.place.split("/ducklake")[0] for trace in erased.traces}
    assert {"reports/run.ipynb", "run.log", "model.zip", "old.csv.gz", "data/tables/ops/notes"} <= places
    with pytest.raises(NotErased, match=r"model\.zip"):
        erased.raise_if_traced()
    assert MAIL not in repr(erased) + erased._repr_html_()


def test_files_that_no_snapshot_knows_are_deleted(wh):
    wh.publish("raw.people", f"{OTHERS.format(300)} UNION ALL {PERSON}")
    orphan = wh.workspace.root / "data" / "tables" / "raw" / "people" / "ducklake-of-a-killed-writer.parquet"
    duckdb.sql(PERSON).write_parquet(str(orphan))
    erase(wh, "customer", 4711).raise_if_traced()
    assert not orphan.exists() and seen(wh) == []


def test_a_reader_of_the_newest_goes_on_and_one_of_an_old_snapshot_is_told(wh):
    old = wh.publish("raw.people", f"{OTHERS.format(3000)} UNION ALL {PERSON}")
    past, newest = wh.at(old), open_warehouse(wh.workspace, read_only=True)
    assert past.sql("SELECT count(*) FROM raw.people").fetchall() == newest.sql("SELECT count(*) FROM raw.people").fetchall() == [(3001,)]
    erase(wh, "customer", 4711).raise_if_traced()
    assert newest.sql("SELECT count(*) FROM raw.people").fetchall() == [(3000,)]
    with pytest.raises(UnknownSnapshot, match="was expired"):
        past.sql("SELECT count(*) FROM raw.people")
    with pytest.raises(UnknownSnapshot):
        wh.at(old)
    past.close()
    newest.close()


def test_readers_in_threads_see_all_or_all_but_her(wh):
    wh.publish("raw.people", f"{OTHERS.format(20000)} UNION ALL {PERSON}")
    seen_counts, errors, stop = set(), [], threading.Event()

    def read():
        with open_warehouse(wh.workspace, read_only=True) as reader:
            while not stop.is_set():
                try:
                    seen_counts.add(reader.sql("SELECT count(DISTINCT mail) FROM raw.people").fetchall()[0][0])
                except (duckdb.IOException, MLNotebooksError) as error:
                    errors.append(str(error))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    erase(wh, "customer", 4711).raise_if_traced()
    stop.set()
    for reader in readers:
        reader.join()
    assert seen_counts <= {20001, 20000}
    assert all("No such file" in error or "Cannot open file" in error for error in errors), errors


def erase_and_say(line, root):
    """Erase, and say so before and after."""
    with open_warehouse(find_workspace(root)) as wh:
        line.send("erasing")
        erase(wh, "customer", 4711)
        line.send("done")


@soak
@pytest.mark.parametrize("delay", [0.02, 0.1, 0.25] if SOAK else [0.1])
def test_an_erasure_that_was_killed_is_finished_by_the_next(tmp_path, delay):
    workspace = make_workspace(tmp_path / "w")
    with open_warehouse(workspace) as wh:
        wh.publish("raw.people", f"{OTHERS.format(3000)} UNION ALL {PERSON}")
        wh.append("raw.people", PERSON)
    with start(erase_and_say, workspace.root) as eraser:
        assert eraser.hear() == "erasing"
        threading.Event().wait(delay)
        eraser.process.kill()  # it may have ended already
        eraser.process.join(60)
    with open_warehouse(workspace) as wh:
        erase(wh, "customer", 4711)
        assert wh.sql("SELECT count(*) FROM raw.people").fetchall() == [(3000,)] and seen(wh) == []


def test_values_of_any_kind(wh):
    for place, value in enumerate(["o'ha\"ra", "50% Zoë\\", "1; DROP TABLE x", -1, 1.5]):
        name = f"raw.people_{place}"
        wh.publish(name, pd.DataFrame({f"Who Is {place}": [value, value], "n": [1, 2]}))
        wh.append(name, pd.DataFrame({f"Who Is {place}": [type(value)()], "n": [3]}))
        ((text,),) = wh.sql(f'SELECT "Who Is {place}"::VARCHAR FROM {name} WHERE n = 1').fetchall()
        assert len(export(wh, f"Who Is {place}", text).tables[name]) == 2
        assert erase(wh, f"who is {place}", text).raise_if_traced().rows == {name: 2}
        assert wh.sql(f"SELECT n FROM {name}").fetchall() == [(3,)]


def test_a_whole_number_is_found_in_a_column_of_decimals(wh):
    wh.publish("raw.people", "SELECT unnest([4711.0, 4711.5, 47110.0, NULL])::DOUBLE AS customer")
    wh.publish("raw.visits", "SELECT unnest([4711, 47110, 4712])::DECIMAL(10, 2) AS customer")
    wh.publish("raw.logins", "SELECT unnest(['4711', '04711', '4711.0', 'x4711']) AS customer")
    refuse(wh, "raw.people", ["4711.0,x", "4711.05,x", "4711.00;x"])
    for value in (4711.0, 4711):
        expected = {"raw.people": 1, "raw.visits": 1, "raw.logins": 2, "raw.people__rejects": 2} if isinstance(value, float) else {}
        assert {name: len(rows) for name, rows in export(wh, "customer", value).tables.items()} == expected
        assert erase(wh, "customer", value).rows == expected


@pytest.mark.parametrize("value", [None, float("nan"), "", " ", pd.NA, pd.NaT, True, b"4711", [4711], {"a": 1}, "47\0"])
def test_what_stands_for_nobody(wh, value):
    wh.publish("raw.people", "SELECT unnest(['None', 'nan', '', ' ', '<NA>', 'NaT', 'True']) AS customer")
    for act in (erase, export):
        with pytest.raises(BadSubject, match="stands for nobody"):
            act(wh, "customer", value)
    assert len(wh.table("raw.people")) == 7


@pytest.mark.parametrize(("also", "error"), [({"raw.visit": "visitor"}, UnknownTable), ({"raw.visits": "visiter"}, UnknownColumn)])
def test_a_slip_in_also_is_told_before_anything_is_erased(wh, also, error):
    wh.publish("raw.people", PERSON)
    wh.publish("raw.visits", "SELECT 4711 AS visitor")
    with pytest.raises(error, match="Did you mean"):
        erase(wh, "customer", 4711, also=also)
    assert len(wh.table("raw.people")) == 1


def test_traces_of_nothing(wh):
    assert find_traces(wh, []) == [] and find_traces(wh, ["", "abc"]) == []


def test_only_texts_that_are_hers_alone_are_traces_and_only_as_a_whole(wh):
    wh.publish("raw.visits", "SELECT 'Doe, John ' || range AS name, 'p' || range || '@mail.example' AS mail, '5' || range || '.0' AS weight, 'Oslo' AS city FROM range(3000)")
    (wh.workspace.root / "report.html").write_text("<style>margin: 510.0px 2%</style>Doe, John 100, Doe, John 10x, p10@mail.examples, Oslo 510.0")
    erased = erase(wh, "mail", "p10@mail.example").raise_if_traced()
    assert erased.texts == 2 and erased.rows == {"raw.visits": 1}


def test_files_of_the_warehouse_are_never_to_be_deleted_by_hand(wh):
    wh.publish("raw.people", f"{OTHERS.format(5)} UNION ALL {PERSON}")
    wh.publish("raw.notes", f"SELECT 'asked by {MAIL}' AS note")
    (wh.workspace.root / "mail.txt").write_text(MAIL)
    with pytest.raises(NotErased, match=r"Found in mail\.txt; in the warehouse itself: .*raw\.notes.*Never delete files of the warehouse.*`--also TABLE=COLUMN`.*maintain") as caught:
        erase(wh, "customer", 4711).raise_if_traced()
    assert "sqlite" not in str(caught.value) and "find_traces" not in str(caught.value)
