"""What breaks, and what stands afterwards: killed writers, full disks, broken catalogues, wrong requests."""

import os
import random
import re
import sqlite3
import time
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from support import writers
from support.processes import start
from support.soak import SOAK, soak
from support.workspaces import fill, make_workspace, small_disk

from ml_notebooks.data.lock import write_lock
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import (
    BadData,
    BadQuery,
    DiskFull,
    InvalidTableName,
    NewerWarehouse,
    ReadOnlyWarehouse,
    UnknownSnapshot,
    UnknownTable,
    WarehouseLocked,
    WarehouseUnavailable,
)

KILLS = 17 if SOAK else 2  # at each of six places
ASIDE = "SELECT range AS n, hash(range) AS h FROM range(5000)"
SUM = "SELECT count(*), bit_xor(hash(a)) FROM ({}) AS a"


@pytest.fixture
def workspace(tmp_path):
    return make_workspace(tmp_path / "workspace", lock_timeout=60)


@pytest.fixture(scope="module")
def wh(tmp_path_factory):
    """One warehouse for all tests that do not break it."""
    with open_warehouse(make_workspace(tmp_path_factory.mktemp("shared"), lock_timeout=60)) as opened:
        yield opened


# Killed writers


def first_round(workspace):
    with open_warehouse(workspace) as wh, wh.transaction("round 1"):
        wh.publish("raw.aside", ASIDE)
        wh.publish("raw.rounds", writers.round_query(1))
        wh.publish("ops.log", "SELECT 1 AS round")


def whole_round(workspace, acknowledged, in_flight):
    """The round that is in the warehouse, after everything about it was checked."""
    with open_warehouse(workspace) as wh:
        rounds = wh.sql("SELECT DISTINCT round FROM raw.rounds").fetchall()
        assert rounds in ([(acknowledged,)], [(in_flight,)])
        found = rounds[0][0]
        log = wh.sql("SELECT round FROM ops.log ORDER BY round").fetchall()
        assert log == [(number,) for number in range(1, found + 1)]
        assert (
            wh.sql(SUM.format("FROM raw.rounds")).fetchall()
            == wh.sql(SUM.format(writers.round_query(found))).fetchall()
        )
        assert wh.sql(SUM.format("FROM raw.aside")).fetchall() == wh.sql(SUM.format(ASIDE)).fetchall()
    return found


@soak
@pytest.mark.parametrize("place", ["opened", "loading", "committing"])
def test_a_killed_writer_leaves_the_last_round_or_the_one_in_flight(workspace, place):
    chance = random.Random(place)
    first_round(workspace)
    acknowledged = 1
    for _ in range(KILLS):
        with start(writers.write_rounds, workspace.root, acknowledged + 1) as writer:
            for _ in range(chance.randrange(2)):
                while (said := writer.hear())[0] != "done":
                    pass
                acknowledged = said[1]
            while (said := writer.hear())[0] != place:
                pass
            time.sleep(chance.uniform(0, 0.03))
            writer.kill()
            while writer.line.poll():
                try:
                    said = writer.line.recv()
                except EOFError:
                    break
                acknowledged = said[1] if said[0] == "done" else acknowledged
        acknowledged = whole_round(workspace, acknowledged, acknowledged + 1)


@soak
def test_a_writer_killed_before_its_turn_leaves_nothing(workspace):
    first_round(workspace)
    lock = workspace.path("data/warehouse.lock")
    for _ in range(KILLS):
        with write_lock(lock, 60), start(writers.wait_for_lock, workspace.root, 2) as writer:
            assert writer.hear() == "writing"
            writer.kill()
        assert whole_round(workspace, 1, 1) == 1


@soak
def test_a_writer_killed_while_it_computes_holds_nobody_up(workspace):
    first_round(workspace)
    with open_warehouse(workspace) as wh:
        for number in range(KILLS):
            with start(writers.stage_forever, workspace.root, 2) as writer:
                assert writer.hear() == "writing"
                wh.publish("clean.beside", f"SELECT {number} AS number")
                writer.kill()
            assert whole_round(workspace, 1, 1) == 1


def test_the_next_writer_gets_the_lock_of_a_killed_one(workspace):
    first_round(workspace)
    with start(writers.hold_lock, workspace.root) as writer:
        assert writer.hear() == "holding"
        writer.kill()
    with open_warehouse(workspace) as wh:
        wh.publish("raw.aside", "SELECT 1 AS n")
        assert wh.table("raw.aside").fetchall() == [(1,)]


# The lock


def test_a_lock_held_elsewhere_names_process_run_and_step(tmp_path):
    workspace = make_workspace(tmp_path, lock_timeout=0.2)
    env = {"MLNB_PIPELINE": "flights", "MLNB_RUN_ID": "20260314-0900-ab12", "MLNB_STEP": "train"}
    with open_warehouse(workspace) as wh, start(writers.hold_lock, workspace.root, env=env) as writer:
        assert writer.hear() == "holding"
        with pytest.raises(
            WarehouseLocked, match=rf"process {writer.pid} .*\(run 20260314-0900-ab12, step train\)"
        ):
            wh.publish("raw.flights", "SELECT 1 AS flight")
        with pytest.raises(WarehouseLocked, match=r"within 0\.2 s"), wh.transaction():
            pytest.fail("the block must not be entered")
        writer.tell("let go")
        writer.join()
        wh.publish("raw.flights", "SELECT 1 AS flight")
        assert wh.names() == ["raw.flights"]


# A full disk

RANDOM = "SELECT hash(range) AS h FROM range({})"


def publish_until_full(wh):
    published = 0
    with pytest.raises(DiskFull, match=r"`raw\.more` could not be written: the disk is full"):  # noqa: PT012
        for number in range(1, 100):
            wh.publish("raw.more", RANDOM.format(300_000 + number))
            published = 300_000 + number
    return published


def unknown_files(wh):
    """Files of tables that the catalogue does not know."""
    query = "FROM __ducklake_metadata_lake.ducklake_data_file SELECT path UNION ALL FROM __ducklake_metadata_lake.ducklake_delete_file SELECT path"
    folder = wh.workspace.path(wh.workspace.settings.warehouse.data_path)
    known = {Path(path).name for (path,) in wh.connection.execute(query).fetchall()}
    return {file.name for file in folder.rglob("*.parquet")} - known


def test_a_transaction_that_fails_takes_its_files_along(workspace):
    with open_warehouse(workspace) as wh:
        wh.publish("raw.kept", RANDOM.format(5000))
        with pytest.raises(KeyError), wh.transaction():  # noqa: PT012
            wh.publish("raw.more", RANDOM.format(5000))
            wh.publish("raw.kept", RANDOM.format(6000))
            assert len(unknown_files(wh)) == 2
            raise KeyError("changed my mind")
        assert unknown_files(wh) == set()
        assert wh.sql("SELECT count(*) FROM raw.kept").fetchall() == [(5000,)]


def test_a_full_disk_leaves_what_was_published_and_heals(tmp_path):
    with small_disk(tmp_path / "disk", "24m") as disk:
        workspace = make_workspace(disk / "workspace")
        with open_warehouse(workspace) as wh:
            wh.publish("raw.aside", ASIDE)
            ballast = disk / "ballast"
            ballast.write_bytes(b"\0" * (1 << 20))
            published = publish_until_full(wh)
            assert published > 0
            assert unknown_files(wh) == set()
            ballast.unlink()
            for reader in (wh, open_warehouse(workspace)):
                assert reader.sql("SELECT count(*) FROM raw.more").fetchall() == [(published,)]
                assert (
                    reader.sql(SUM.format("FROM raw.aside")).fetchall()
                    == reader.sql(SUM.format(ASIDE)).fetchall()
                )
            wh.publish("raw.less", "SELECT 1 AS n")
            assert wh.table("raw.less").fetchall() == [(1,)]


def test_a_full_disk_of_the_catalogue_leaves_what_was_published_and_heals(tmp_path):
    with small_disk(tmp_path / "disk", "4m") as disk:
        workspace = make_workspace(tmp_path / "workspace", catalog=disk / "catalog.sqlite")
        with open_warehouse(workspace) as wh:
            wh.publish("raw.aside", ASIDE)
            wh.publish("raw.log", "SELECT 0 AS n")
            ballast, written = fill(disk), 0
            with pytest.raises(DiskFull, match="the disk is full"):  # noqa: PT012
                for number in range(1, 500):
                    wh.append("raw.log", f"SELECT {number} AS n")
                    written = number
            with pytest.raises(DiskFull, match="the disk is full"), wh.transaction():  # noqa: PT012
                wh.publish("raw.aside", "SELECT 1 AS n, 2::UBIGINT AS h")
                wh.append("raw.log", f"SELECT {written + 1} AS n")
            ballast.unlink()
            assert wh.sql(SUM.format("FROM raw.aside")).fetchall() == wh.sql(SUM.format(ASIDE)).fetchall()
            for opened in (wh, open_warehouse(workspace)):
                assert opened.sql("SELECT n FROM raw.log ORDER BY n").fetchall() == [
                    (n,) for n in range(written + 1)
                ]
            wh.append("raw.log", f"SELECT {written + 1} AS n")
            assert wh.sql("SELECT max(n) FROM raw.log").fetchall() == [(written + 1,)]


def test_a_disk_without_room_for_anything_says_so(tmp_path):
    with small_disk(tmp_path / "disk", "2m") as disk:
        workspace = make_workspace(disk / "workspace")
        ballast = fill(disk)
        with pytest.raises(DiskFull, match="the disk is full"):
            open_warehouse(workspace)
        ballast.unlink()
        with open_warehouse(workspace) as wh:
            wh.publish("raw.log", "SELECT 0 AS n")
            ballast = fill(disk)
            with pytest.raises(DiskFull, match="the disk is full"):  # noqa: PT012
                for number in range(1, 500):
                    wh.append("raw.log", f"SELECT {number} AS n")
            ballast.unlink()
            wh.append("raw.log", "SELECT -1 AS n")


# Catalogues that cannot be opened


def change_version(path, version):
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE ducklake_metadata SET value = ? WHERE key = 'version'", [version])
    connection.close()


def test_a_catalogue_of_a_newer_version_is_left_alone(workspace):
    open_warehouse(workspace).close()
    catalog = workspace.path("data/catalog.sqlite")
    change_version(catalog, "9.0")
    for read_only in (False, True):
        with pytest.raises(NewerWarehouse, match=r"newer version.*9\.0.*nothing was changed"):
            open_warehouse(workspace, read_only=read_only)
    connection = sqlite3.connect(catalog)
    assert connection.execute("SELECT value FROM ducklake_metadata WHERE key = 'version'").fetchall() == [
        ("9.0",)
    ]
    connection.close()


def garbage(catalog):
    catalog.write_bytes(random.Random(1).randbytes(8192))


def folder(catalog):
    catalog.mkdir()


def torn(catalog):
    content = catalog.read_bytes()
    catalog.write_bytes(content[:100] + b"\xff" * (len(content) - 100))


@pytest.mark.parametrize("spoil", [garbage, folder, torn])
def test_a_broken_catalogue_is_named(workspace, spoil):
    catalog = workspace.path("data/catalog.sqlite")
    catalog.parent.mkdir()
    if spoil is torn:
        open_warehouse(workspace).close()
    spoil(catalog)
    for read_only in (False, True):
        with pytest.raises(WarehouseUnavailable, match=r"`data/catalog\.sqlite` could not be opened"):
            open_warehouse(workspace, read_only=read_only)


def test_a_file_of_another_program_is_not_taken_for_a_catalogue(workspace):
    catalog = workspace.path("data/catalog.sqlite")
    catalog.parent.mkdir()
    connection = sqlite3.connect(catalog)
    with connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    with pytest.raises(WarehouseUnavailable, match="could not be opened"):
        open_warehouse(workspace, read_only=True)


@pytest.mark.parametrize("leftover", [b"", b"SQLite format 3\0", b"no database"])
def test_a_half_made_catalogue_is_made_anew(workspace, leftover):
    half = workspace.path("data/catalog.sqlite.new")
    half.parent.mkdir()
    half.write_bytes(leftover)
    with open_warehouse(workspace) as wh:
        wh.publish("raw.flights", "SELECT 1 AS flight")
        assert wh.names() == ["raw.flights"]
    assert not half.exists()


@soak
def test_a_catalogue_whose_making_was_killed_is_made_anew(workspace):
    for wait in [random.Random(n).uniform(0, 0.4) for n in range(KILLS)]:
        with start(writers.hold_lock, workspace.root) as writer:
            time.sleep(wait)
            writer.kill()
        if not workspace.path("data/catalog.sqlite").exists():
            continue
        with open_warehouse(workspace) as wh:
            assert wh.names() == []
        for file in workspace.path("data").glob("catalog.sqlite*"):
            file.unlink()
    with open_warehouse(workspace) as wh:
        wh.publish("raw.flights", "SELECT 1 AS flight")
        assert wh.names() == ["raw.flights"]


def test_a_lost_file_of_a_table_is_named_and_other_tables_are_read(wh):
    wh.publish("raw.aside", ASIDE)
    wh.publish("raw.flights", "SELECT range AS flight FROM range(5000)")
    lost = max(
        wh.workspace.path("data/tables/raw/flights").rglob("*.parquet"),
        key=lambda file: file.stat().st_mtime_ns,
    )
    lost.unlink()
    with pytest.raises(duckdb.Error, match=re.escape(lost.name)):
        wh.sql("SELECT sum(flight) FROM raw.flights").fetchall()
    assert wh.sql("SELECT count(*) FROM raw.aside").fetchall() == [(5000,)]
    wh.publish("raw.flights", "SELECT 1 AS flight")
    assert wh.table("raw.flights").fetchall() == [(1,)]


# Requests that are refused


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        ("FROM raw.flihgts", UnknownTable, "Did you mean `raw.flights`"),
        ("SELECT origin FROM raw.flights", BadQuery, '"origin" not found'),
        ("SELEC 1", BadQuery, '(?s)syntax error.*"SELEC"'),
        ("", BadQuery, "It is empty"),
        ("SELECT 1; SELECT 2", BadQuery, "It holds 2 statements"),
        ("DELETE FROM raw.flights", BadQuery, "`publish`, `append` or `upsert`"),
        ("DROP TABLE raw.flights", BadQuery, "`publish`, `append` or `upsert`"),
        ("COPY raw.flights TO 'flights.csv'", BadQuery, "`publish`, `append` or `upsert`"),
        ("ATTACH ':memory:' AS other", BadQuery, "`publish`, `append` or `upsert`"),
        ("BEGIN", BadQuery, "`publish`, `append` or `upsert`"),
        ("WITH x AS (SELECT 1) INSERT INTO raw.flights FROM x", BadQuery, "`publish`, `append` or `upsert`"),
        (
            "CALL ducklake_expire_snapshots('lake', older_than => now())",
            BadQuery,
            "`publish`, `append` or `upsert`",
        ),
        ("FROM ducklake_expire_snapshots('lake', older_than => now())", BadQuery, "`publish`, `append`"),
        ("CALL lake.set_commit_message('nobody', 'nothing')", BadQuery, "`publish`, `append` or `upsert`"),
    ],
)
def test_a_query_that_cannot_run_says_why(wh, query, error, message):
    wh.publish("raw.flights", "SELECT 1 AS flight")
    with pytest.raises(error, match=message):
        wh.sql(query)
    assert wh.table("raw.flights").fetchall() == [(1,)]
    assert wh.append("raw.flights", "SELECT 2 AS flight") == wh.versions()["raw.flights"]


@pytest.mark.parametrize(
    "name", ["flights", "raw.Flights", "raw.", ".x", "a.b.c", "raw.x; DROP TABLE raw.y", 'raw."x"', ""]
)
def test_a_name_that_is_no_table_is_refused(wh, name):
    with pytest.raises(InvalidTableName, match=r"named `schema\.table`"):
        wh.table(name)
    with pytest.raises(InvalidTableName, match=r"named `schema\.table`"):
        wh.publish(name, "SELECT 1 AS a")


@pytest.mark.parametrize(
    "name", ["main.x", "information_schema.x", "pg_catalog.x", "temp.x", "memory.x", "lake.x"]
)
def test_a_schema_of_the_engine_is_refused(wh, name):
    with pytest.raises(InvalidTableName, match=r"named `schema\.table`"):
        wh.publish(name, "SELECT 1 AS a")


@pytest.mark.parametrize("write", ["publish", "append", "upsert", "transaction"])
def test_a_warehouse_open_for_reading_does_not_write(wh, write):
    snapshot = wh.publish("raw.flights", "SELECT 1 AS flight")
    for reader in (open_warehouse(wh.workspace, read_only=True), wh.at(snapshot)):
        more = {"upsert": {"keys": ["flight"]}}.get(write, {})
        refused = pytest.raises(ReadOnlyWarehouse, match=r"open for reading only.*open_warehouse\(\)")
        with reader, refused:
            if write == "transaction":
                with reader.transaction():
                    pytest.fail("the block must not be entered")
            getattr(reader, write)("raw.flights", "SELECT 2 AS flight", **more)
    assert wh.table("raw.flights").fetchall() == [(1,)]


def test_a_snapshot_that_is_not_there_is_refused(wh):
    with pytest.raises(UnknownSnapshot, match="Snapshot 999 is not in the warehouse"):
        wh.at(999)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (pd.DataFrame({"flight": [1], "wings": [2]}), "wings"),
        (pd.DataFrame({"flight": ["one"]}), "'one'"),
        ("SELECT 'one' AS flight", "'one'"),
        ("SELECT 1 AS flight, CAST('x' AS INTEGER) AS late", "'x'"),
        ({"flight": [1]}, "dict"),
        (None, "NoneType"),
        (pd.DataFrame(), "at least one column"),
        (pd.DataFrame([[1, 2]], columns=["flight", "flight"]), "Duplicate column"),
        (pd.DataFrame({"flight": [1, "one"]}), "one"),
        (pd.DataFrame({"flight": [2**100]}), "too large"),
    ],
)
@pytest.mark.parametrize("inside", [False, True], ids=["alone", "in a transaction"])
def test_rows_that_do_not_fit_are_refused_and_say_why(wh, rows, message, inside):
    wh.publish("raw.flights", "SELECT 7 AS flight, 8 AS late")
    with pytest.raises(BadData, match=rf"(?s)`raw\.flights` could not be written.*{message}"):  # noqa: PT012
        if inside:
            with wh.transaction():
                wh.append("raw.flights", "SELECT 9 AS flight")
                wh.append("raw.flights", rows)
        wh.append("raw.flights", rows)
    assert wh.table("raw.flights").fetchall() == [(7, 8)]
    assert wh.append("raw.flights", "SELECT 9 AS flight, 9 AS late") == wh.versions()["raw.flights"]


@pytest.mark.parametrize("keys", [[], ["nothing"]])
def test_an_upsert_without_a_key_is_refused(wh, keys):
    wh.publish("raw.flights", "SELECT 7 AS flight")
    with pytest.raises(BadData, match=r"`raw\.flights` could not be written.*(key|nothing)"):
        wh.upsert("raw.flights", "SELECT 7 AS flight", keys=keys)
    assert wh.table("raw.flights").fetchall() == [(7,)]


def test_an_upsert_with_one_key_twice_is_refused(wh):
    wh.publish("raw.flights", "SELECT 7 AS flight, 1 AS late")
    with pytest.raises(BadData, match=r"(?s)`raw\.flights` could not be written.*flight"):
        wh.upsert("raw.flights", "SELECT 7 AS flight, unnest([2, 3]) AS late", keys=["flight"])
    assert wh.table("raw.flights").fetchall() == [(7, 1)]


@pytest.mark.parametrize("rows", ["SELECT 7 AS flight, 1 AS wings", "SELECT 7 AS flight, 'late' AS late"])
def test_a_failed_write_that_is_caught_inside_a_transaction_does_not_half_commit(wh, rows):
    wh.publish("raw.flights", "SELECT range AS flight, 0 AS late FROM range(9)")
    with pytest.raises(BadData, match="could not be written"), wh.transaction():  # noqa: PT012
        try:
            wh.upsert("raw.flights", rows, keys=["flight"])
        except BadData:
            wh.publish("ops.log", "SELECT 1 AS n")
    assert wh.sql("SELECT count(*) FROM raw.flights").fetchall() == [(9,)]
    assert "ops.log" not in wh.names()


def test_a_column_whose_name_the_lake_keeps_for_itself_is_refused(wh):
    with pytest.raises(BadData, match="`rowid`"):
        wh.publish("raw.numbered", "SELECT range AS \"RowId\", range AS n FROM range(3)")
    assert "raw.numbered" not in wh.names()


@pytest.mark.parametrize("rows", ["SELECT 9007199254740993::HUGEINT AS total", "SELECT sum(9007199254740993) AS total", "SELECT [NULL, 9007199254740993::UHUGEINT] AS total", "SELECT {'HUGEINT': 9007199254740993::HUGEINT} AS total"])
def test_whole_numbers_that_a_file_would_round_are_refused(wh, rows):
    table = f"raw.totals_{len(rows)}"
    with pytest.raises(BadData, match=r"`total` holds whole numbers .* they would lose digits"):
        wh.publish(table, rows)
    assert table not in wh
    wh.publish(table, rows.replace("9007199254740993", "9007199254740992"))
    with pytest.raises(BadData, match="they would lose digits"):
        wh.append(table, rows)


def test_a_write_of_nothing_is_no_error(wh):
    snapshot = wh.publish("raw.flights", "SELECT 7 AS flight")
    with open_warehouse(wh.workspace) as wh:
        assert wh.append("raw.flights", "SELECT 7 AS flight LIMIT 0") == snapshot
        assert wh.upsert("raw.flights", "SELECT 7 AS flight LIMIT 0", keys=["flight"]) == snapshot


# Rows that have to come through


def test_rows_of_another_connection_are_published(wh):
    wh.publish("raw.flights", "SELECT 7 AS flight")
    with open_warehouse(wh.workspace, read_only=True) as other:
        wh.publish("clean.flights", other.table("raw.flights"))
    assert wh.table("clean.flights").fetchall() == [(7,)]


@pytest.mark.parametrize("columns", [1500, 2500])
def test_a_very_wide_table_is_published(wh, columns):
    wh.publish("features.wide", "SELECT " + ", ".join(f"{i} AS c{i}" for i in range(columns)))
    assert wh.sql("FROM features.wide").fetchall() == [tuple(range(columns))]


def test_a_table_is_published_from_itself(wh):
    wh.publish("raw.flights", "SELECT range AS flight FROM range(3000)")
    wh.publish("raw.flights", "FROM raw.flights WHERE flight < 2000")
    wh.publish("raw.flights", wh.table("raw.flights").filter("flight < 1000"))
    assert wh.sql("SELECT count(*), max(flight) FROM raw.flights").fetchall() == [(1000, 999)]


def test_a_column_of_nothing_takes_text_later(wh):
    wh.publish("raw.notes", pd.DataFrame({"note": [None, None]}))
    wh.append("raw.notes", pd.DataFrame({"note": ["late"]}))
    assert wh.sql("SELECT note FROM raw.notes WHERE note IS NOT NULL").fetchall() == [("late",)]


def test_versions_and_tables_of_the_past_are_those_of_the_past(wh):
    first = wh.publish("raw.flights", "SELECT 7 AS flight")
    for number in range(3):
        wh.append("raw.flights", f"SELECT {number} AS flight")
    upserted = wh.upsert("raw.flights", "SELECT 7 AS flight", keys=["flight"])
    assert wh.versions()["raw.flights"] == upserted
    replaced = wh.publish("raw.flights", "SELECT 7 AS flight")
    assert wh.versions()["raw.flights"] == replaced
    with wh.at(first) as past:
        assert past.versions()["raw.flights"] == first
        assert past.tables().set_index("table").loc["raw.flights", ["rows", "version"]].tolist() == [1, first]
        assert past.snapshots()["snapshot"].max() == first


def test_an_inherited_warehouse_is_refused_after_a_fork(wh):
    wh.publish("raw.flights", "SELECT 7 AS flight")
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            wh.publish("raw.flights", "SELECT 8 AS flight")
            os.write(send, b"wrote")
        except BaseException as error:  # noqa: BLE001
            os.write(send, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(send)
    end = time.monotonic() + 20
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            os.kill(child, 9)
            os.waitpid(child, 0)
            pytest.fail("the forked process hung")
        time.sleep(0.01)
    assert "fork" in os.read(receive, 4096).decode()
    assert wh.table("raw.flights").fetchall() == [(7,)]
