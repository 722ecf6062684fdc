"""Upkeep beside readers and writers: what was readable stays so, and what goes is what nobody needs."""

import json
import os
import random
import time
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone

import pytest
from support import load, upkeep
from support.processes import start
from support.soak import SOAK, soak
from support.workspaces import make_workspace

from ml_notebooks.data.inspection import Layout
from ml_notebooks.data.upkeep import expirable, layout, maintain, set_layout
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import BadData, UndeclaredWrite, UnknownSnapshot, UnknownTable
from ml_notebooks.lineage import VARIABLE, begin_lineage
from ml_notebooks.settings import UpkeepSettings

HASH = "SELECT count(*), coalesce(bit_xor(hash(a)), 0) FROM (FROM {}) AS a"
AGE = timedelta(days=31)  # after which a snapshot may go


@pytest.fixture
def wh(tmp_path):
    with open_warehouse(make_workspace(tmp_path / "workspace", lock_timeout=60)) as opened:
        yield opened


def parquet(wh):
    """The files of tables on disk."""
    return sorted(wh.workspace.root.rglob("*.parquet"))


def in_a_month(grace=-2.0):
    """A policy and a clock by which every snapshot is old, and files go that were given up `grace` days ago."""
    hours = (AGE + timedelta(days=grace)).total_seconds() / 3600
    return {
        "policy": UpkeepSettings(keep_versions=1, grace_hours=hours),
        "now": datetime.now(timezone.utc) + AGE,
    }


def write_at_random(wh, rng, tables, writes):
    """Writes of every kind, large and small enough to stay in the catalogue."""
    for number in range(writes):
        table, rows, first = rng.choice(tables), rng.choice([3, 700]), rng.randrange(1000)
        query = (
            f"SELECT range AS id, {number} AS number, range % 7 AS part FROM range({first}, {first + rows})"
        )
        kind = rng.choice(["publish", "append", "append", "upsert", "upsert"])
        if kind == "upsert":
            wh.upsert(table, query, keys=["id"]) if table in wh.names() else wh.publish(table, query)
        else:
            getattr(wh, kind)(table, query)


def contents(wh):
    """(snapshot, table) -> its rows, as a hash."""
    snapshots = wh.snapshots()[["snapshot", "tables"]].values.tolist()[::-1]
    found, there = {}, set()
    for snapshot, tables in snapshots:
        there |= set(tables)
        for name in there:
            found[snapshot, name] = wh.sql(HASH.format(f"{name} AT (VERSION => {snapshot})")).fetchone()
    return found


@soak
@pytest.mark.parametrize("seed", range(12 if SOAK else 1))
def test_every_snapshot_that_is_kept_reads_as_before(wh, seed):
    rng = random.Random(seed)
    tables = ["raw.a", "features.b", "ops.c"]
    write_at_random(wh, rng, tables, 9)
    set_layout(wh, rng.choice(wh.names()), partition_by=["part"], sort_by=["id"])
    write_at_random(wh, rng, tables, 5)
    before, versions = contents(wh), wh.versions()
    maintain(wh)
    assert wh.versions() == versions
    assert {place: rows for place, rows in contents(wh).items() if place in before} == before
    gone = set(expirable(wh, UpkeepSettings(keep_versions=2), datetime.now(timezone.utc) + AGE))
    maintain(wh, UpkeepSettings(keep_versions=2), now=datetime.now(timezone.utc) + AGE)
    after = contents(wh)
    assert gone and not gone & {snapshot for snapshot, _ in after} and wh.versions() == versions
    with wh.at(min(wh.versions().values())) as past:
        assert all(
            past.sql(HASH.format(name)).fetchone() == before[past.snapshot, name] for name in past.names()
        )
    assert {place: rows for place, rows in after.items() if place in before}.items() <= before.items()
    assert maintain(wh).steps.empty


@soak
def test_upkeep_beside_writers_and_readers(tmp_path):
    workspace, writers, rounds = make_workspace(tmp_path / "workspace", lock_timeout=110), 2, 10 if SOAK else 1
    with open_warehouse(workspace) as wh:
        load.prepare(wh, writers)
    with ExitStack() as stack:
        readers = [
            stack.enter_context(start(load.read, workspace.root, writers, fresh)) for fresh in (True, False)
        ]
        assert [reader.hear() for reader in readers] == ["reading"] * 2
        running = [
            stack.enter_context(start(load.write, workspace.root, w, rounds, 0)) for w in range(writers)
        ]
        with open_warehouse(workspace) as wh:
            times = 0
            while not all(worker.line.poll() for worker in running):
                maintain(wh, **in_a_month(grace=1))
                times += 1
                time.sleep(0.2)  # leaves the writers their turns
        written = [worker.hear() for worker in running]
        for reader in readers:
            reader.tell("stop")
        seen = [reader.hear() for reader in readers]
    assert times and [error for report in written + seen for error in report.errors] == []
    assert [torn for report in seen for torn in report.torn] == []
    with open_warehouse(workspace) as wh:
        maintain(wh)
        assert load.lost_and_doubled(wh, [rounds] * writers) == (0, 0)


def test_a_reader_that_began_before_reads_to_the_end(tmp_path):
    workspace, rows = make_workspace(tmp_path / "workspace", lock_timeout=60), 300_000
    with open_warehouse(workspace) as wh:
        wh.publish("raw.old", "SELECT range AS n FROM range(10)")
        for part in range(3):
            wh.append(
                "raw.long", f"SELECT n::BIGINT AS n FROM (SELECT unnest(range({part}, {rows}, 3)) AS n)"
            )
        wh.publish("raw.old", "SELECT range AS n FROM range(5000)")
        wh.publish("raw.old", "SELECT range AS n FROM range(6000)")
        maintain(wh, **in_a_month(grace=1 / 24))
        assert len(parquet(wh)) == 6  # what was given up today stays
        given_up = (
            "UPDATE __ducklake_metadata_lake.ducklake_files_scheduled_for_deletion SET schedule_start = ?"
        )
        wh._connection.execute(given_up, [f"{datetime.now(timezone.utc) - timedelta(days=3)}"])
        with start(upkeep.read_slowly, workspace.root, "SELECT n FROM raw.long ORDER BY n") as reader:
            assert reader.hear() == "reading"
            wh.publish("raw.long", "SELECT 1::BIGINT AS n FROM range(2000)")
            on_disk = len(parquet(wh))
            done = maintain(wh, **in_a_month(grace=1))
            assert "files that nothing refers to any more" in done.steps["done"].tolist()
            assert 0 < len(parquet(wh)) < on_disk
            reader.tell("go on")
            assert reader.hear() == sum(range(rows))
        wh.publish(
            "raw.old", "FROM raw.old"
        )  # the snapshot of its version before is the last that needs the long one
        maintain(wh, **in_a_month())
        assert [file.parent.name for file in parquet(wh)].count("long") == 1
        assert len(wh.table("raw.long")) == 2000


@soak
@pytest.mark.parametrize("kill", range(8 if SOAK else 1))
def test_upkeep_that_is_killed_loses_nothing(tmp_path, kill):
    workspace = make_workspace(tmp_path / "workspace", lock_timeout=60)
    with start(upkeep.append_and_maintain, workspace.root) as worker:
        while (acknowledged := worker.hear()) < 3:
            pass
        time.sleep(random.Random(kill).uniform(0, 0.3))
        worker.kill()
        while worker.line.poll():
            try:
                acknowledged = worker.line.recv()
            except EOFError:
                break
    with open_warehouse(workspace) as wh:
        rows = wh.sql(
            "SELECT number, count(*), sum(n) FROM ops.log GROUP BY number ORDER BY number"
        ).fetchall()
        assert rows[:acknowledged] == [(number, 2000, 1999000) for number in range(1, acknowledged + 1)]
        assert len(rows) <= acknowledged + 1
        maintain(wh, **in_a_month())
        assert (
            wh.sql("SELECT number, count(*), sum(n) FROM ops.log GROUP BY number ORDER BY number").fetchall()
            == rows
        )


def test_files_that_nobody_knows_go_when_they_are_old(wh):
    wh.publish("features.kept", "SELECT range AS n FROM range(10)")
    [kept] = parquet(wh)
    old, young = kept.with_name("ducklake-old.parquet"), kept.with_name("ducklake-young.parquet")
    for file in (old, young):
        file.write_bytes(kept.read_bytes())
    os.utime(old, (time.time() - 3 * 86400,) * 2)
    assert maintain(wh, dry_run=True).steps["done"].tolist() == ["files that nothing ever referred to"]
    assert old.exists()
    done = maintain(wh)
    assert done.steps["count"].tolist() == [1] and not old.exists() and young.exists() and kept.exists()
    assert wh.sql("SELECT count(*) FROM features.kept").fetchall() == [(10,)]


def test_a_warehouse_that_stood_at_an_expired_snapshot_says_so(wh):
    first = wh.publish("raw.t", "SELECT range AS n FROM range(3000)")
    wh.publish("raw.t", "SELECT range AS n FROM range(4000)")
    maintain(wh, **in_a_month())
    with pytest.raises(UnknownSnapshot, match=f"Snapshot {first} is not in the warehouse"):
        wh.at(first)


def test_rows_in_the_catalogue_are_moved_only_while_nobody_else_is_there(wh):
    wh.append("raw.t", "SELECT 1 AS n")
    with open_warehouse(wh.workspace, read_only=True) as reader:
        assert maintain(wh).steps.empty and parquet(wh) == [] and len(reader.table("raw.t")) == 1
    assert maintain(wh).steps["step"].tolist() == ["flush"] and len(parquet(wh)) == 1


def test_beside_rows_in_the_catalogue_files_of_other_tables_are_rewritten(wh):
    """DuckLake 1.0 cannot rewrite a file with a DOUBLE beside such rows, which only move while nobody else is there."""
    for name in ("raw.t", "raw.u"):
        wh.publish(name, "SELECT range AS n, range::DOUBLE AS x FROM range(100)")
        wh._connection.execute(f"DELETE FROM lake.{name} WHERE n < 70")
    wh.append("raw.t", "SELECT 200 AS n, 1.5::DOUBLE AS x")
    with open_warehouse(wh.workspace, read_only=True) as reader:
        assert maintain(wh).steps[["step", "table"]].values.tolist() == [["rewrite", "raw.u"]]
        assert len(reader.table("raw.t")) == 31
    assert maintain(wh).steps[["step", "table"]].values.tolist() == [["flush", "raw.t"], ["rewrite", "raw.t"], ["merge", "raw.t"]]
    assert wh.sql("SELECT count(*), max(x) FROM raw.t").fetchall() == [(31, 99.0)]


def test_a_dry_run_changes_nothing(wh):
    for _ in range(4):
        wh.publish("raw.t", "SELECT range AS n FROM range(3000)")
    before = parquet(wh), wh.snapshots()["snapshot"].tolist()
    would = maintain(wh, dry_run=True, **in_a_month())
    assert would.steps["step"].tolist() == ["expire"] and repr(would).startswith("Upkeep(would expire")
    assert (parquet(wh), wh.snapshots()["snapshot"].tolist()) == before


def test_a_layout_stays_as_far_as_its_columns_do(wh):
    wh.publish(
        "raw.t",
        "SELECT range AS n, range % 3 AS part, TIMESTAMP '2026-03-14' + to_hours(range) AS stamp FROM range(100)",
    )
    set_layout(wh, "raw.t", partition_by=["part", "year(stamp)"], sort_by=["n DESC", "part"])
    kept = Layout(('"part"', 'year("stamp")'), ("n DESC", "part"))
    for query in ("FROM raw.t", "SELECT *, 1 AS more FROM raw.t"):
        wh.publish("raw.t", query)
        assert layout(wh, "raw.t") == kept
        assert wh.sql("SELECT count(*), sum(n) FROM raw.t WHERE part = 1").fetchall() == [(33, 1617)]
    wh.publish("raw.t", "SELECT n, more FROM raw.t")
    assert layout(wh, "raw.t") == Layout() and wh.sql("SELECT count(*), sum(n) FROM raw.t").fetchall() == [
        (100, 4950)
    ]
    set_layout(wh, "raw.t", sort_by=["n"])
    wh.publish("raw.t", "SELECT more FROM raw.t")
    assert layout(wh, "raw.t") == Layout() and len(wh.table("raw.t")) == 100


def test_a_layout_stays_inside_a_transaction(wh):
    wh.publish("raw.t", "SELECT range AS n, range % 3 AS part FROM range(100)")
    set_layout(wh, "raw.t", partition_by=["part"])
    with wh.transaction("twice"):
        wh.publish("raw.t", "SELECT range AS n, range % 3 AS part FROM range(50)")
        wh.publish("raw.t", "SELECT range AS n, range % 3 AS part FROM range(30)")
    assert layout(wh, "raw.t").partition_by == ('"part"',) and len(wh.table("raw.t")) == 30


@pytest.mark.parametrize(
    "wrong",
    [
        {"partition_by": ["nothing"]},
        {"sort_by": ["nothing"]},
        {"sort_by": ["n); DROP TABLE lake.raw.t; SELECT (1"]},
    ],
)
def test_a_wrong_layout_changes_nothing(wh, wrong):
    wh.publish("raw.t", "SELECT range AS n FROM range(3000)")
    version = wh.version("raw.t")
    with pytest.raises(BadData, match=r"`raw\.t` could not be written"):
        set_layout(wh, "raw.t", **wrong)
    assert wh.version("raw.t") == version and len(wh.table("raw.t")) == 3000


def test_a_layout_takes_one_name(wh):
    wh.publish("raw.one", "SELECT 1 AS month, 2 AS m")
    assert set_layout(wh, "raw.one", "month", sort_by="m").partition_by == ("month",)
    assert layout(wh, "raw.one").sort_by == ("m",)


def test_a_layout_is_a_write(wh, tmp_path, monkeypatch):
    wh.publish("raw.t", "SELECT 1 AS n")
    with pytest.raises(UnknownTable, match=r"raw\.u"):
        set_layout(wh, "raw.u", sort_by=["n"])
    begin_lineage(tmp_path / "facts", [])
    monkeypatch.setenv(VARIABLE, str(tmp_path / "facts"))
    with pytest.raises(UndeclaredWrite, match=r"may not write `raw\.t`"):
        set_layout(wh, "raw.t", sort_by=["n"])


def test_the_command_maintains(workspace, mlnb):
    from ml_notebooks.workspace import find_workspace

    with open_warehouse(find_workspace(workspace)) as wh:
        for number in range(3):
            wh.append("raw.t", f"SELECT {number} AS n FROM range(3000)")
    said = mlnb("tables", "maintain", "--json", cwd=workspace)
    assert said.returncode == 0, said.stderr
    assert [line["done"] for line in json.loads(said.stdout)] == ["3 files into 1"]
    assert mlnb("tables", "maintain", cwd=workspace).stdout == "Nothing to do.\n"
    assert [line["rows"] for line in json.loads(mlnb("tables", "--json", cwd=workspace).stdout)] == [9000]
    assert "raw.t" in mlnb("tables", cwd=workspace).stdout
