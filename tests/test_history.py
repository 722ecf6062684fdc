"""Differences of tables against a plain comparison in Python, and the way back."""

import random
from datetime import datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pytest
from support.workspaces import make_workspace

from ml_notebooks.data.erasure import erase
from ml_notebooks.data.history import diff, restore, snapshot_at
from ml_notebooks.data.inspection import Layout
from ml_notebooks.data.notes import comment, read_notes, tag, tagged
from ml_notebooks.data.upkeep import layout, maintain, set_layout
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import (
    BadData,
    BadTime,
    BeforeHistory,
    NotAKey,
    ReadOnlyWarehouse,
    UnknownColumn,
    UnknownSnapshot,
    UnknownTable,
)


@pytest.fixture(scope="module")
def wh(tmp_path_factory):
    with open_warehouse(make_workspace(tmp_path_factory.mktemp("history"), lock_timeout=60)) as opened:
        yield opened


def random_rows(rng):
    """(a, b) -> (x, word), with missing values in the keys too."""
    keys = [(a, b) for a in [None, 1, 2, 3] for b in [None, "u", "v'w"]]
    return {
        key: (rng.choice([None, 1, 2]), rng.choice([None, "", "é"]))
        for key in rng.sample(keys, rng.randrange(len(keys) + 1))
    }


def publish(wh, table, rows):
    """Publish rows, and return the snapshot."""
    import pyarrow as pa

    schema = pa.schema([("a", pa.int64()), ("b", pa.string()), ("x", pa.int64()), ("word", pa.string())])
    lines = [dict(zip("abxw", (*key, *values), strict=True)) for key, values in rows.items()]
    lines = [{"word" if name == "w" else name: value for name, value in line.items()} for line in lines]
    return wh.publish(table, pa.Table.from_pylist(lines, schema=schema))


@pytest.mark.parametrize("seed", range(6))
def test_a_difference_is_what_a_plain_comparison_finds(wh, seed):
    rng = random.Random(seed)
    old, new = random_rows(rng), random_rows(rng)
    first, second = publish(wh, "raw.random", old), publish(wh, "raw.random", new)
    found = diff(wh, "raw.random", first, second, key=["a", "b"], limit=100)
    both = old.keys() & new.keys()
    changed = {key for key in both if old[key] != new[key]}
    assert (found.added, found.removed) == (len(new.keys() - old), len(old.keys() - new))
    assert (found.changed, found.same) == (len(changed), len(both) - len(changed))
    assert found.equal == (old == new)
    rows = found.columns.set_index("column")["rows"].to_dict()
    expected = {
        name: sum(old[key][place] != new[key][place] for key in both)
        for place, name in enumerate(["x", "word"])
    }
    assert rows == {name: count for name, count in expected.items() if count}
    assert len(found.sample) == sum(expected.values())


def test_columns_that_come_go_and_change_their_type(wh):
    first = wh.publish(
        "raw.shape", "SELECT range AS id, 1 AS gone, range AS kind, 'x' AS \"it's\" FROM range(3)"
    )
    second = wh.publish(
        "raw.shape", "SELECT range AS id, 1 AS new, range::VARCHAR AS kind, 'y' AS \"it's\" FROM range(3)"
    )
    found = diff(wh, "raw.shape", first, second, key="id")
    assert found.columns[["column", "change", "rows"]].values.tolist() == [
        ["gone", "removed", 0],
        ["new", "added", 0],
        ["kind", "type", 0],
        ["it's", "values", 3],
    ]
    assert found.sample["column"].tolist() == ["it's"] * 3 and (found.changed, found.same) == (3, 0)


def test_a_key_alone_can_be_compared(wh):
    first = wh.publish("raw.keys", "SELECT range AS id FROM range(3)")
    second = wh.publish("raw.keys", "SELECT range AS id FROM range(1, 5)")
    found = diff(wh, "raw.keys", first, second, key="id")
    assert (found.added, found.removed, found.changed, found.same) == (2, 1, 0, 2)
    assert len(found.sample) == 0 and not found.equal


@pytest.mark.parametrize(
    ("table", "key", "error", "message"),
    [
        ("raw.wrong", "n", NotAKey, r"2 rows share theirs"),
        ("raw.wrong", (), NotAKey, r"names no column"),
        ("raw.wrong", "m", UnknownColumn, r"no column `m`"),
        ("raw.wrang", "n", UnknownTable, r"Did you mean `raw\.wrong`"),
    ],
)
def test_what_cannot_be_compared(wh, table, key, error, message):
    first = wh.publish("raw.wrong", "SELECT 1 AS n FROM range(2)")
    with pytest.raises(error, match=message):
        diff(wh, table, first, key=key)


def test_an_instant_is_the_last_snapshot_before_it(wh):
    first = wh.publish("raw.timed", "SELECT 1 AS n")
    between = datetime.now(timezone.utc)
    wh.publish("raw.timed", "SELECT 2 AS n")
    new_york = between.astimezone(timezone(timedelta(hours=-5)))
    for when in (first, between, between.isoformat(), new_york, between.replace(tzinfo=None)):
        assert snapshot_at(wh, when) == first
        with wh.at(when) as past:
            assert past.sql("FROM raw.timed").fetchall() == [(1,)]


@pytest.mark.parametrize(
    ("when", "error", "message"),
    [
        ("soon", BadTime, "`soon` is no point in time"),
        (True, BadTime, "`True` is no point in time"),
        (1.5, BadTime, r"`1\.5` is no point in time"),
        (10**6, UnknownSnapshot, "Snapshot 1000000 is not"),
        ("1999-12-31", BeforeHistory, "at 1999-12-31 00:00:00 UTC"),
        (None, BadTime, "`None` is no point in time"),
        (pd.NaT, BadTime, "`NaT` is no point in time"),
        (np.float64(2), BadTime, r"`2\.0` is no point in time"),
        (-1, UnknownSnapshot, "Snapshot -1 is not"),
    ],
)
def test_what_is_no_point_in_time(wh, when, error, message):
    for ask in (snapshot_at, type(wh).at):
        with pytest.raises(error, match=message):
            ask(wh, when)


def test_a_number_from_a_frame_is_a_snapshot(wh):
    wh.publish("raw.framed", "SELECT 1 AS n")
    newest = wh.snapshots()["snapshot"].iloc[0]
    with wh.at(newest) as past:
        assert past.sql("FROM raw.framed").fetchall() == [(1,)]
    assert diff(wh, "raw.framed", newest, key="n").equal


def test_a_table_that_a_transaction_has_written_is_not_restored_in_it(wh):
    first = wh.publish("raw.both", "SELECT 1 AS n")

    def publish_and_restore():
        with wh.transaction():
            wh.publish("raw.both", "SELECT 3 AS n")
            restore(wh, "raw.both", first)

    with pytest.raises(BadData, match="written in this transaction already"):
        publish_and_restore()
    with wh.transaction():
        assert restore(wh, "raw.both", first) == -1
    assert wh.sql("FROM raw.both").fetchall() == [(1,)]


def test_a_restored_table_is_what_it_was_and_keeps_its_layout(wh):
    first = wh.publish("raw.back", "SELECT range AS n, range % 2 AS part FROM range(3000)")
    set_layout(wh, "raw.back", partition_by=["part"])
    wh.publish("raw.back", "SELECT range AS n, 7 AS part, 'new' AS more FROM range(10)")
    restored = restore(wh, "raw.back", first, "back to what it was")
    assert diff(wh, "raw.back", first, restored, key="n").equal and wh.table("raw.back").columns == [
        "n",
        "part",
    ]
    assert layout(wh, "raw.back").partition_by == ('"part"',)
    assert wh.snapshots()["message"].iloc[0] == "back to what it was"
    with (
        open_warehouse(wh.workspace, read_only=True) as reader,
        pytest.raises(ReadOnlyWarehouse, match=r"raw\.back"),
    ):
        restore(reader, "raw.back", first)
    with pytest.raises(UnknownTable, match=f"at snapshot {first - 1}"):
        restore(wh, "raw.back", first - 1)


ROWS = "SELECT range AS n, range % 3 AS part, {} AS value FROM range(3000)"
WRITES = {
    "publish": lambda wh, first: wh.publish("raw.noted", ROWS.format(2)),
    "append": lambda wh, first: wh.append("raw.noted", "SELECT 9000 AS n, 1 AS part, 3 AS value"),
    "upsert": lambda wh, first: wh.upsert("raw.noted", "SELECT 9000 AS n, 1 AS part, 3 AS value", keys="n"),
    "restore": lambda wh, first: restore(wh, "raw.noted", first),
    "restore, in a transaction": lambda wh, first: in_a_transaction(wh, lambda: restore(wh, "raw.noted", first)),
    "erase": lambda wh, first: erase(wh, "n", 1234),
    "maintain": lambda wh, first: maintain(wh),
}


def in_a_transaction(wh, do):
    """Do it as part of a transaction."""
    with wh.transaction():
        do()


def test_layout_comments_and_tags_stay_whatever_is_written(tmp_path):
    kept = Layout(('"part"',), ("n DESC",))
    with open_warehouse(make_workspace(tmp_path / "w", lock_timeout=60)) as wh:
        first = wh.publish("raw.noted", ROWS.format(1))
        set_layout(wh, "raw.noted", partition_by=["part"], sort_by="n DESC")
        comment(wh, "raw.noted", "what there is")
        comment(wh, "raw.noted", "how much", column="value")
        tag(wh, "raw.noted", "gold", column="value")
        notes = read_notes(wh)
        for name, write in WRITES.items():
            write(wh, first)
            assert layout(wh, "raw.noted") == kept and read_notes(wh) == notes, name
            assert tagged(wh, "gold") == [("raw.noted", "value")] and wh.describe("raw.noted").facts["meaning"] == "what there is"
        folders = {place.name for place in wh.workspace.root.rglob("part=*")}
        assert folders == {"part=0", "part=1", "part=2"} and wh.sql("SELECT count(*) FROM raw.noted").fetchall() == [(2999,)]
