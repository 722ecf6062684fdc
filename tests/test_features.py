"""Features as they were known: the join held against a search through all rows, increments killed and repeated."""

import copy
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.soak import SOAK, soak
from support.workspaces import make_workspace

import ml_notebooks.features.materialize as materializing
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import BadData, BadIncrement, BadSpine, BadView, StaleFeatures, UnknownFeature
from ml_notebooks.features.catalogue import catalogue
from ml_notebooks.features.certificate import FRAME, find_certificate
from ml_notebooks.features.increments import check_inputs, computed_until, held_versions
from ml_notebooks.features.materialize import materialize
from ml_notebooks.features.on_demand import OnDemand, find_on_demand
from ml_notebooks.features.point_in_time import point_in_time_query
from ml_notebooks.features.push import push
from ml_notebooks.features.questions import SPINE, Question, forget, stage_answer, stage_spine
from ml_notebooks.features.store import FeatureStore
from ml_notebooks.features.training_set import find_training_set, training_set
from ml_notebooks.features.view import FeatureView, content_of, source_of
from ml_notebooks.features.world import dealt_anew

CHANGE = datetime(2013, 3, 10, 7, tzinfo=timezone.utc)  # New York's clock goes forward: 2:00 becomes 3:00
KEYS = {"origin": pa.string(), "carrier": pa.int64()}
INSTANT = pa.timestamp("us", tz="UTC")


@pytest.fixture(scope="module")
def wh(tmp_path_factory):
    with open_warehouse(make_workspace(tmp_path_factory.mktemp("features"))) as opened:
        yield opened


def moment(step):
    """One of a few instants around a change of the clock, some a microsecond beside a full quarter of an hour."""
    quarter, beside = divmod(step, 3)
    return CHANGE + timedelta(minutes=15 * quarter, microseconds=beside - 1)


MOMENTS = st.integers(-9, 9).map(moment)
ENTITY = st.tuples(st.sampled_from(["EWR", "JFK", None]), st.sampled_from([1, 2, None]))
ROWS = st.lists(st.tuples(ENTITY, MOMENTS, MOMENTS, st.one_of(st.none(), st.integers(0, 99))), max_size=14)
ASKS = st.lists(st.tuples(ENTITY, MOMENTS), max_size=8)
TTLS = st.sampled_from([timedelta(microseconds=1), timedelta(minutes=15), timedelta(minutes=30, microseconds=1), timedelta(days=9)])


def table_of(rows, keys, *columns):
    """Entities and further columns as an Arrow table, only some of the keys among them."""
    arrays = {key: pa.array([row[0][number] for row in rows], KEYS[key]) for number, key in enumerate(KEYS) if key in keys}
    more = {name: pa.array([row[place] for row in rows], kind) for name, place, kind in columns}
    return pa.table(arrays | more)


def answer(rows, ask, keys, ttl, created):
    """What was known, found by looking at every row."""
    places = [number for number, key in enumerate(KEYS) if key in keys]
    asked = [ask[0][place] for place in places]
    known = [
        row
        for row in rows
        if None not in asked and [row[0][place] for place in places] == asked and row[1] <= ask[1] and (not created or row[2] <= ask[1])
    ]
    best = max(known, key=lambda row: (row[1], row[2] if created else row[1]), default=None)
    return None if best is None or ask[1] - best[1] > ttl else best[3]


@soak
@settings(max_examples=3000 if SOAK else 30, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=ROWS, asks=ASKS, ttl=TTLS, keys=st.sampled_from([(), ("origin",), ("origin", "carrier")]), created=st.booleans())
def test_the_join_finds_what_a_search_through_all_rows_finds(wh, rows, asks, ttl, keys, created):
    stamps = {(tuple(row[0][number] for number, key in enumerate(KEYS) if key in keys), row[1], row[2] if created else None): row for row in rows}
    rows = list(stamps.values())  # one row for each entity and instants
    instants = [("known_at", 1, INSTANT), *([("written_at", 2, INSTANT)] if created else [])]
    wh._connection.register("rows_arrow", table_of(rows, keys, *instants, ("value", 3, pa.int64())))
    wh._connection.register("asks_arrow", table_of([(*ask, number) for number, ask in enumerate(asks)], keys, ("asked_at", 1, INSTANT), ("number", 2, pa.int64())))
    wh._connection.execute("CREATE OR REPLACE TEMP TABLE view_rows AS FROM rows_arrow; CREATE OR REPLACE TEMP TABLE asking AS FROM asks_arrow")
    view = FeatureView("v", keys, "known_at", "FROM nowhere", ttl, created="written_at" if created else "")
    query = f"SELECT number, v_value FROM ({point_in_time_query(wh, 'FROM temp.main.asking', [view], tables={'v': 'temp.main.view_rows'})})"
    expected = {number: answer(rows, ask, keys, ttl, created) for number, ask in enumerate(asks)}
    assert dict(wh.sql(query).fetchall()) == expected
    missing = " OR ".join(f"{key} IS NULL" for key in keys) or "false"
    wh._connection.execute(f"DELETE FROM view_rows WHERE {missing}")  # as materialising does: joined by sorting, a second key that is missing would meet another
    with joined_by_sorting(wh):
        assert dict(wh.sql(query).fetchall()) == expected


@contextmanager
def joined_by_sorting(wh):
    """Inside, as-of joins sort, as they do for more than 64 rows that ask."""
    wh._connection.execute("SET asof_loop_join_threshold = 0")
    try:
        yield
    finally:
        wh._connection.execute("RESET asof_loop_join_threshold")


def instant_of(local, zone):
    """The instant that a time without a zone means: of two, as an hour that comes twice has, the later; of one that is left out, as if it were not."""
    return max(local.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(timezone.utc) for fold in (0, 1))


CHANGES = {
    "America/New_York": [datetime(2013, 3, 10, 2), datetime(2013, 11, 3, 1, 30)],
    "Australia/Lord_Howe": [datetime(2013, 10, 6, 2), datetime(2013, 4, 7, 1, 45)],  # by half an hour
}
LOCAL = st.sampled_from(sorted(CHANGES)).flatmap(
    lambda zone: st.tuples(
        st.just(zone),
        st.lists(st.tuples(ENTITY, st.sampled_from(CHANGES[zone]), st.integers(-6, 6), st.one_of(st.none(), st.integers(0, 9))), max_size=12),
    )
)


@soak
@settings(max_examples=100 if SOAK else 8, deadline=None, suppress_health_check=list(HealthCheck))
@given(local=LOCAL, asks=ASKS, ttl=TTLS)
def test_rows_that_tie_and_times_of_a_clock_that_changes_find_one_answer(wh, local, asks, ttl):
    zone, given_rows = local
    naive = [(entity, change + timedelta(minutes=15 * step), value) for entity, change, step, value in given_rows]
    wh._connection.register("naive_arrow", table_of(naive, tuple(KEYS), ("known_at", 1, pa.timestamp("us")), ("value", 2, pa.int64())))
    wh.publish("clean.naive", "FROM naive_arrow")
    view = FeatureView("local", tuple(KEYS), "known_at", "FROM clean.naive", ttl, zone=zone, ties="greatest")
    materialize(FeatureStore(wh), view)
    known = {}
    for entity, time, value in naive:  # the greatest of those that tie; a value is greater than none
        key = entity, instant_of(time, zone)
        known[key] = max((one for one in (known.get(key), value) if one is not None), default=None)
    rows = [(entity, moment, moment, value) for (entity, moment), value in known.items()]
    asks = [*asks, *((entity, moment + ttl + beside) for entity, moment, *_ in rows[:4] for beside in (timedelta(0), timedelta(microseconds=1)))]
    asked = table_of([(*ask, number) for number, ask in enumerate(asks)], tuple(KEYS), ("asked_at", 1, INSTANT), ("number", 2, pa.int64()))
    wh._connection.register("asks_arrow", asked)
    query = f"SELECT number, local_value FROM ({point_in_time_query(wh, 'FROM asks_arrow', [view])})"
    expected = {number: answer(rows, ask, tuple(KEYS), ttl, created=False) for number, ask in enumerate(asks)}
    assert dict(wh.sql(query).fetchall()) == expected
    with joined_by_sorting(wh):
        assert dict(wh.sql(query).fetchall()) == expected


@soak
@settings(max_examples=300 if SOAK else 5, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=ROWS, cuts=st.lists(MOMENTS, max_size=4, unique=True))
def test_increments_add_up_to_the_whole(wh, rows, cuts):
    rows = [row for row in rows if row[0][0]]
    rows = list({(row[0][0], row[1]): row for row in rows}.values())
    wh.publish("clean.rows", table_of(rows, ("origin",), ("known_at", 1, INSTANT), ("value", 3, pa.int64())))
    store, view = FeatureStore(wh), FeatureView("whole", "origin", "known_at", "FROM clean.rows")
    materialize(store, view)
    whole = wh.sql("FROM features.whole ORDER BY ALL").fetchall()
    assert len(whole) == len(rows)
    parts = FeatureView("parts", "origin", "known_at", "FROM clean.rows")
    ends = [*sorted(cuts), moment(30)]
    materialize(store, parts, until=ends[0])
    for begin, end in pairwise(ends):
        for _ in range(2):
            materialize(store, parts, since=begin, until=end)
    assert wh.sql("FROM features.parts ORDER BY ALL").fetchall() == whole


def test_an_increment_that_fails_leaves_the_rows_as_they_were(wh, monkeypatch):
    store = FeatureStore(wh)
    wh.publish("clean.some", "SELECT 'EWR' AS origin, TIMESTAMPTZ '2013-07-01 12:00:00Z' AS known_at, 1 AS value")
    view = FeatureView("some", "origin", "known_at", "FROM clean.some")
    materialize(store, view)
    before, books = wh.table("features.some").fetchall(), wh.sql("SELECT count(*) FROM ops.feature_increments").fetchall()
    wh.publish("clean.some", "SELECT 'EWR' AS origin, TIMESTAMPTZ '2013-07-01 12:00:00Z' AS known_at, 2 AS value")

    def fail(*_):
        raise OSError("the disk is gone")

    monkeypatch.setattr("ml_notebooks.features.materialize.keep_statistics", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        materialize(store, view)
    assert wh.table("features.some").fetchall() == before
    assert wh.sql("SELECT count(*) FROM ops.feature_increments").fetchall() == books


def test_a_range_in_parts_goes_on_where_it_ended(wh, monkeypatch):
    store, keep, calls = FeatureStore(wh), materializing.keep_statistics, []
    wh.publish("clean.months", "SELECT TIMESTAMPTZ '2012-11-15 12:00:00Z' + INTERVAL (i) MONTH AS known_at, i AS value FROM range(5) AS months(i)")
    view, end = FeatureView("months", (), "known_at", "FROM clean.months"), datetime(2013, 3, 20, tzinfo=timezone.utc)

    def fail_at(number):
        def keep_or_fail(*args):
            calls.append(args[1].since)
            if len(calls) == number:
                raise OSError("the disk is gone")
            keep(*args)

        calls.clear()
        monkeypatch.setattr(materializing, "keep_statistics", keep_or_fail)

    def values():
        return [value for (value,) in wh.sql("SELECT value FROM features.months ORDER BY known_at").fetchall()]

    for since, before in ((None, [0, 1]), (datetime(2012, 11, 1, tzinfo=timezone.utc), [0, 10, 2, 3, 4])):
        fail_at(3)
        with pytest.raises(OSError, match="the disk is gone"):
            materialize(store, view, since=since, until=end, partition="month")
        assert values() == before
        fail_at(0)
        assert materialize(store, view, since=since, until=end, partition="month").rows == 3
        assert calls == [datetime(2013, 1, 1, tzinfo=timezone.utc), datetime(2013, 2, 1, tzinfo=timezone.utc), datetime(2013, 3, 1, tzinfo=timezone.utc)]
        wh.publish("clean.months", "SELECT * REPLACE (CASE value WHEN 1 THEN 10 ELSE value END AS value) FROM clean.months")
    assert values() == [0, 10, 2, 3, 4]
    fail_at(2)
    with pytest.raises(OSError, match="the disk is gone"):
        materialize(store, view, until=end, partition="month")
    fail_at(0)
    assert materialize(store, view, until=end - timedelta(days=1), partition="year").rows == 5  # of another range nothing was begun
    assert materialize(store, view, since="last", until=end, partition="day").rows == 0 and values() == [0, 10, 2, 3, 4]


def test_the_same_call_gives_the_same_files(tmp_path, monkeypatch):
    monkeypatch.setenv("MLNB_WAREHOUSE__THREADS", "2")
    contents = []
    for number, finish in enumerate((lambda joined: joined, lambda joined: joined, lambda joined: f"SELECT * FROM ({joined})")):  # the last takes a table between
        with open_warehouse(make_workspace(tmp_path / str(number))) as wh:
            wh.publish("clean.facts", "SELECT i % 7 AS key, TIMESTAMPTZ '2013-01-01' + INTERVAL (i) MINUTE AS known_at, i * 0.5 AS value FROM range(5000) AS r(i)")
            store = FeatureStore(wh)
            materialize(store, FeatureView("facts", "key", "known_at", "FROM clean.facts", timedelta(days=9)))
            spine = f"SELECT i % 9 AS key, TIMESTAMPTZ '2013-01-02' + INTERVAL (i) SECOND AS asked_at FROM range(300000) AS r(i) ORDER BY hash(i + {number})"
            training_set(store, "features.made", spine, ["facts"], finish=finish)
            (file,) = (tmp_path / str(number)).rglob("features/made/*.parquet")
            contents.append(file.read_bytes())
            asked = pq.read_table(file, columns=["asked_at"]).column(0).to_numpy()
            assert len(asked) == 300_000
            assert (asked[1:] > asked[:-1]).all()  # also from one row group to the next
    assert contents[0] == contents[1] == contents[2]


def test_a_set_is_joined_and_described_in_one_state_of_the_warehouse(tmp_path):
    with open_warehouse(make_workspace(tmp_path)) as wh, open_warehouse(make_workspace(tmp_path)) as another:
        wh.publish("clean.facts", "SELECT 'a' AS key, TIMESTAMPTZ '2013-01-01' AS known_at, 1 AS n")
        wh.publish("clean.asks", "SELECT 'a' AS key, TIMESTAMPTZ '2013-01-02' AS asked_at")
        view, store = FeatureView("facts", "key", "known_at", "FROM clean.facts", timedelta(days=9)), FeatureStore(wh)
        materialize(store, view)
        before = wh.versions()

        def meanwhile(joined):
            if another.version("clean.asks") != before["clean.asks"]:
                return plain(joined)
            another.append("clean.asks", "SELECT 'b' AS key, TIMESTAMPTZ '2013-01-02' AS asked_at")
            another.append("clean.facts", "SELECT 'b' AS key, TIMESTAMPTZ '2013-01-01' AS known_at, 2 AS n")
            materialize(FeatureStore(another), view)
            return plain(joined)

        def plain(joined):
            return f"SELECT *, (SELECT count(*) FROM clean.asks) AS askers FROM ({joined})"

        made = training_set(store, "features.made", "clean.asks", view, finish=meanwhile)
        assert made.tables == {table: before[table] for table in ("clean.asks", "features.facts")}
        assert wh.sql("SELECT key, facts_n, askers FROM features.made").fetchall() == [("a", 1, 1)]
        again = training_set(store, "features.made", "clean.asks", view)
        assert again.rows == 2 and again.tables == {table: wh.version(table) for table in made.tables} != made.tables


def test_a_set_inside_a_transaction_is_joined_by_sorting(wh):
    wh.publish("clean.inside", "SELECT range % 5 AS key, TIMESTAMPTZ '2013-01-01' + to_minutes(range) AS known_at, range AS n FROM range(500)")
    view, store = FeatureView("inside", "key", "known_at", "FROM clean.inside", timedelta(days=9)), FeatureStore(wh)
    materialize(store, view)
    asks = "SELECT range % 6 AS key, TIMESTAMPTZ '2013-01-01' + to_minutes(range) AS asked_at FROM range({})"

    def plan(rows):
        question = Question(asks.format(rows), (view,))
        stage_answer(store, question, stage_spine(store, question), "temp.main.answer")
        said = wh.sql(f"EXPLAIN {point_in_time_query(wh, f'FROM {SPINE}', [view])}").fetchall()[0][1]
        forget(store, question, "temp.main.answer")
        return said

    with wh.transaction():
        assert "ASOF_JOIN" in plan(65) and "ASOF_JOIN" not in plan(64)
        inside = training_set(store, "features.inside_set", asks.format(400), view)
    assert wh.sql("SELECT current_setting('asof_loop_join_threshold')").fetchall() == [(64,)]
    assert training_set(store, "features.outside_set", asks.format(400), view).digest == inside.digest
    with pytest.raises(BadData, match="Correct the spine"), wh.transaction(), pytest.raises(BadData, match="Correct the spine"):  # twice: not that the transaction has failed
        training_set(store, "features.failed", asks.format(400), view, finish=lambda joined: f"SELECT error('no') FROM ({joined})")


def test_numbers_that_no_statistic_can_take_are_kept(wh):
    wh.publish(
        "clean.odd",
        "SELECT range AS key, TIMESTAMPTZ '2013-07-01 12:00:00Z' AS known_at, [1e300, -1e300, 'inf'::DOUBLE, 'nan'::DOUBLE][1 + range] AS large, "
        "range + 0.5 AS plain FROM range(4)",
    )
    view = FeatureView("select", "key", "known_at", "FROM clean.odd", timedelta(days=1))  # a name that SQL keeps for itself
    store = FeatureStore(wh)
    assert materialize(store, view).rows == 4
    lines = wh.sql("SELECT feature, missing, mean FROM ops.feature_statistics WHERE view = 'select' ORDER BY feature").fetchall()
    assert [line[0] for line in lines] == ["large", "plain"] and lines[1][2] == 2.0
    asked = "SELECT range AS key, TIMESTAMPTZ '2013-07-01 13:00:00Z' AS asked_at FROM range(4)"
    plain = FeatureView("plain", "key", "known_at", "SELECT key, known_at, plain FROM clean.odd")
    materialize(store, plain)
    training_set(store, "features.odd_set", asked, [view, plain])
    assert wh.sql("SELECT select_plain, plain_plain FROM features.odd_set ORDER BY key").fetchall()[3] == (3.5, 3.5)


def test_a_view_that_becomes_what_it_was_is_the_newest_again(wh):
    wh.publish("clean.turns", "SELECT 'EWR' AS origin, TIMESTAMPTZ '2013-07-01 12:00:00Z' AS known_at, 1 AS value")
    first, second = (FeatureView("turns", "origin", "known_at", f"SELECT origin, known_at, value + {more} AS value FROM clean.turns") for more in (0, 1))
    for view in (first, second, first):
        materialize(FeatureStore(wh), view)
    store = FeatureStore(wh)
    assert store.view("turns").version == held_versions(store, store.view("turns"))["turns"] == first.version


def test_the_table_of_a_view_and_that_of_a_set_are_not_the_same(wh):
    wh.publish("features.foreign", "SELECT 1 AS anything")
    with pytest.raises(BadView, match="did not compute"):
        materialize(FeatureStore(wh), FeatureView("foreign", "origin", "known_at", "FROM clean.turns"))


def test_columns_of_one_name_are_refused(wh):
    wh.publish("clean.named_twice", "SELECT 'EWR' AS origin, TIMESTAMPTZ '2013-07-01 12:00:00Z' AS known_at, 1 AS value")
    store, query = FeatureStore(wh), "SELECT origin, known_at, value AS {} FROM clean.named_twice"
    for name, feature in (("a", "b_c"), ("a_b", "c")):
        materialize(store, FeatureView(name, "origin", "known_at", query.format(feature)))
    asked = "SELECT 'EWR' AS origin, TIMESTAMPTZ '2013-07-01 13:00:00Z' AS asked_at"
    with pytest.raises(BadView, match="`a_b_c` would be the name of two columns"):
        training_set(store, "features.twice", asked, ["a", "a_b"])
    with pytest.raises(BadView, match="`a_b_c` would be"):
        training_set(store, "features.twice", f"{asked}, 1 AS a_b_c", ["a"])
    with pytest.raises(BadView, match="`A_B_C` would be"):
        training_set(store, "features.twice", f"{asked}, 1 AS A_B_C", ["a"])


def test_what_a_function_took_along_counts_for_its_version():
    def made(factor):
        return FeatureView("made", "origin", "known_at", reads="clean.turns", transform=lambda rows: rows.assign(value=rows["value"] * factor))

    assert made(3).version == made(3).version != made(7).version


def test_a_certificate_compares_something_and_reads_all_of_another_world(wh):
    wh.publish("clean.seen", "SELECT range % 3 AS who, TIMESTAMPTZ '2013-07-01 00:00:00Z' + to_minutes(range) AS known_at, range AS value FROM range(300)")
    view = FeatureView("seen", "who", "known_at", "FROM clean.seen")
    store, known = FeatureStore(wh), {"clean.seen": "known_at"}
    materialize(store, view)
    asked = "SELECT range AS number, range % 3 AS who, TIMESTAMPTZ '2013-07-01 01:00:00Z' + to_minutes(range) AS asked_at FROM range(200)"
    moving = training_set(store, "features.moving", f"SELECT * REPLACE (uuid() AS number) FROM ({asked})", [view], known=known, key="number")
    assert not moving.certificate.holds and "nothing was compared" in moving.certificate.problems[0]

    def ahead(joined):
        return f"SELECT *, (SELECT max(value) FROM clean.seen) AS most FROM ({joined})"

    assert training_set(store, "features.ahead", asked, [view], finish=ahead, known=known, key="number").certificate.columns == ("most",)
    with pytest.raises(BadView, match="names the catalogue"):
        training_set(store, "features.ahead", asked, [view], finish=lambda joined: ahead(joined).replace("clean.", "lake.clean."), known=known, key="number")


def test_answers_side_by_side_are_those_of_one_statement(tmp_path, monkeypatch):
    monkeypatch.setenv("MLNB_WAREHOUSE__THREADS", "2")
    with open_warehouse(make_workspace(tmp_path)) as opened:
        instant = "TIMESTAMPTZ '2013-01-01 00:00:00Z' + to_minutes(({} % 500000)::INT)"
        opened.publish("clean.facts", f"SELECT i % 7 AS origin, i % 31 AS carrier, {instant.format('hash(i)')} AS known_at, i AS n FROM range(9000) AS r(i)")
        opened.publish("clean.asks", f"SELECT i AS number, i % 8 AS origin, i % 33 AS carrier, {instant.format('hash(i + 1)')} AS asked_at FROM range(5000) AS r(i)")
        facts = "SELECT {}, known_at, n FROM clean.facts"
        views = [FeatureView(f"by_{key or 'none'}", tuple(filter(None, [key])), "known_at", facts.format(key or "1 AS one"), timedelta(days=2), ties="greatest") for key in ("origin", "carrier", "")]
        store = FeatureStore(opened)
        for view in views:
            materialize(store, view)
        training_set(store, "features.whole", "clean.asks", views)
        whole = opened.sql("FROM features.whole ORDER BY number").fetchall()
        assert whole == opened.sql(f"FROM ({point_in_time_query(opened, 'FROM clean.asks', views)}) ORDER BY number").fetchall()
        chosen = "number % 3 = 1 AND by_carrier_n > 4000 AND origin IN (SELECT origin FROM clean.facts WHERE n IN (2, 3))"
        training_set(store, "features.part", "clean.asks", views, finish=lambda joined: f"FROM ({joined}) WHERE {chosen} ORDER BY number LIMIT 99")
        expected = opened.sql(f"FROM features.whole WHERE {chosen} ORDER BY number LIMIT 99").fetchall()
        assert len(expected) == 99
        assert opened.sql("FROM features.part ORDER BY number").fetchall() == expected


def test_a_set_that_cannot_be_written_says_why_and_leaves_the_connection_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("MLNB_WAREHOUSE__THREADS", "2")
    with open_warehouse(make_workspace(tmp_path)) as opened:
        opened.publish("clean.facts", "SELECT 'a' AS key, TIMESTAMPTZ '2013-01-01' AS known_at, 1 AS n")
        store = FeatureStore(opened)
        materialize(store, FeatureView("facts", "key", "known_at", "FROM clean.facts", timedelta(days=9)))
        with pytest.raises(BadData, match="ENUM"):
            training_set(store, "features.made", "SELECT 'a'::ENUM('a') AS key, TIMESTAMPTZ '2013-01-02' AS asked_at", "facts")
        assert opened.sql("SELECT current_setting('threads')").fetchall() == [(2,)]
        training_set(store, "features.made", "SELECT 'a' AS key, TIMESTAMPTZ '2013-01-02' AS asked_at", "facts")


def test_a_spine_without_any_entity_asks_for_nothing(wh):
    wh.publish("clean.named", "SELECT 'a' AS key, TIMESTAMPTZ '2013-01-01' AS known_at, 1 AS n")
    store = FeatureStore(wh)
    materialize(store, FeatureView("named", "key", "known_at", "FROM clean.named", timedelta(days=9)))
    asked = pa.table({"key": pa.nulls(2), "asked_at": pa.array([CHANGE, CHANGE], INSTANT)})
    assert training_set(store, "features.nameless", asked, "named").answers["named"].unknown == 2
    assert training_set(store, "features.nameless", asked.slice(0, 0).to_pandas(), "named").rows == 0
    with pytest.raises(BadSpine, match="of type INTEGER in the spine, and of type VARCHAR"):
        training_set(store, "features.nameless", "SELECT 7 AS key, now() AS asked_at", "named")


def test_a_call_that_is_refused_registers_nothing(wh):
    wh.publish("clean.refused", "SELECT 'a' AS key, TIMESTAMPTZ '2013-01-01' AS known_at, 1 AS n")
    store = FeatureStore(wh)
    old, new = (FeatureView("refused", "key", "known_at", f"SELECT key, known_at, n + {more} AS n FROM clean.refused", timedelta(days=9)) for more in (1, 2))
    materialize(store, old)
    materialize(store, new)
    for call in (lambda: training_set(FeatureStore(wh), "features.never", "SELECT 'a' AS key, now() AS asked_at", old), lambda: push(FeatureStore(wh), old, None)):
        with pytest.raises(StaleFeatures):
            call()
        assert FeatureStore(wh).view("refused") == new


def test_what_says_nothing_about_values_is_written_down_when_it_changes(wh):
    wh.publish("clean.owned", "SELECT 'a' AS key, TIMESTAMPTZ '2013-01-01' AS known_at, 1 AS n")
    view = FeatureView("owned", "key", "known_at", "FROM clean.owned", timedelta(days=9))
    materialize(FeatureStore(wh), view)
    patient = replace(view, late=timedelta(days=3), owner="someone", online=True)
    for _ in range(2):
        FeatureStore(wh).register(patient)
    assert patient.version == view.version and FeatureStore(wh).view("owned") == patient
    (entry,) = catalogue(FeatureStore(wh)).search("someone").entries
    assert (entry.version.name, entry.versions, entry.rows) == ("owned", 1, 1)
    other = FeatureView("owner_of", "key", "known_at", "FROM features.owned", timedelta(days=9), reads=view, late=timedelta(days=3))
    theirs = replace(patient, owner="another")
    assert FeatureStore(wh).register(other, theirs).view("owned") == FeatureStore(wh).view("owned") == theirs
    wh.append("clean.owned", "SELECT 'b' AS key, now() - INTERVAL 2 DAY AS known_at, 2 AS n")
    assert materialize(FeatureStore(wh), "owned", since="last").rows == 1


def test_a_certificate_tells_what_it_took_for_known_and_which_tables_it_read(wh):
    wh.publish("clean.read", "SELECT range % 3 AS who, TIMESTAMPTZ '2013-07-01 00:00:00Z' + to_minutes(range) AS known_at, range AS value FROM range(300)")
    store, view = FeatureStore(wh), FeatureView("read", "who", "known_at", "FROM clean.read")
    materialize(store, view)
    asked = "SELECT range AS number, range % 3 AS who, TIMESTAMPTZ '2013-07-01 01:00:00Z' + to_minutes(range) AS asked_at FROM range(200)"
    by_query, by_frame = (training_set(store, "features.told", spine, [view], known={"clean.read": "known_at"}, key="number").certificate for spine in (asked, wh.sql(asked).df()))
    assert by_query.holds and by_query.assumed == () and by_frame.holds and by_frame.assumed == (FRAME,) and FRAME in repr(by_frame)
    assert by_frame.tables == {"clean.read": wh.version("clean.read"), "features.read": wh.version("features.read")}
    assert find_certificate(store, "features.told", by_frame.digest) == by_frame


OUTSIDE = {  # what is no table of the warehouse -> spine, further features and `finish` that read it, and how a certificate names it
    "file in a view": ({"view": "FROM read_parquet('{file}')"}, "{file}"),
    "file in the spine": ({"spine": "SELECT number, key, asked_at, later.n AS later FROM ({asks}) JOIN '{file}' AS later USING (key)"}, "{file}"),
    "file in finish": ({"finish": "SELECT joined.*, file.n AS other FROM ({joined}) AS joined LEFT JOIN read_parquet('{file}') AS file ON joined.number = file.n"}, "{file}"),
    "temporary table": ({"spine": "SELECT asks.*, held.n AS later FROM ({asks}) AS asks JOIN temp.main.held USING (key)"}, "held"),
    "function of frames": ({"transform": True}, "what the function of `outside` reads by itself"),
    "on-demand feature": ({"on_demand": True}, "what the function of `mean` reads by itself"),
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_a_certificate_names_what_it_could_not_change(wh, tmp_path, kind):
    store, view, query = facts_of(wh, "inside")
    (read, named), asks, file = OUTSIDE[kind], query.format(80), str(tmp_path / "held.parquet")
    wh.table("clean.inside").df().to_parquet(file)
    wh._connection.execute("CREATE OR REPLACE TEMP TABLE held AS SELECT DISTINCT ON (key) key, n FROM clean.inside")
    made_of = {"query": read["view"].format(file=file)} if "view" in read else {"transform": lambda frame: frame, "reads": "clean.inside"}
    outside = FeatureView("outside", "key", "known_at", ttl=timedelta(days=9), **made_of)
    mean = OnDemand("mean", {"inside_n": float}, lambda n, total=30.0: n - total)
    materialize(store, outside)
    features = [view, *([outside] if {"view", "transform"} & {*read} else []), *([mean] if "on_demand" in read else [])]
    finish = {"finish": lambda joined: read["finish"].format(joined=joined, file=file)} if "finish" in read else {}
    spine = read.get("spine", "{asks}").format(asks=asks, file=file)
    paper = training_set(store, "features.outside_set", spine, features, known={"clean.inside": "known_at"}, key="number", cuts=[datetime(2013, 1, 1, 0, 30, tzinfo=timezone.utc)], **finish).certificate
    assert paper.holds and paper.assumed == (named.format(file=file),) and paper.assumed[0] in repr(paper), paper


def test_views_and_columns_may_be_called_as_what_the_worlds_use(wh):
    store, view, query = facts_of(wh, "spine", ", 1 AS twin, 2 AS place")
    early = replace(view, name="finish", query="SELECT key, known_at - INTERVAL 9 MINUTE AS known_at, n AS twin FROM clean.spine")
    materialize(store, early)
    asks = f"SELECT *, number % 7 AS twin, 1 AS place FROM ({query.format(60)})"
    honest, liar = (training_set(store, "features.called", asks, [one], known={"clean.spine": "known_at"}, key=("number", "twin")).certificate for one in (view, early))
    assert honest.holds and honest.known == {"clean.spine": "known_at"} and liar.columns == ("finish_twin",)


def test_another_world_has_no_states(wh):
    store, view, query = facts_of(wh, "stated")
    before = f"SELECT * FROM ({query.format(9)}) SEMI JOIN (FROM clean.stated AT (VERSION => {wh.version('clean.stated')})) USING (key)"
    assert training_set(store, "features.of_a_state", before, view).rows == 9
    with pytest.raises(BadView, match=r"`spine` .* names a state of a table.* leave `AT \(…\)` out"):
        training_set(store, "features.of_a_state", before, view, known={"clean.stated": "known_at"}, key="number")


def test_a_certificate_finds_a_maximum_of_all_times(wh):
    found = []
    for seed in range(5):
        wh.publish("clean.peaks", f"SELECT 'a' AS key, TIMESTAMPTZ '2013-01-01' + to_hours(range) AS known_at, hash(range + 1000 * {seed}) / 1e19 AS n FROM range(300)")
        view, store = FeatureView("peaks", "key", "known_at", "SELECT key, known_at, max(n) OVER () AS highest FROM clean.peaks", timedelta(days=9)), FeatureStore(wh)
        materialize(store, view)
        paper = training_set(store, "features.peaks_set", "SELECT key, known_at AS asked_at FROM clean.peaks", view, known={"clean.peaks": "known_at"}).certificate
        found.append(paper.columns == ("peaks_highest",))
    assert len(paper.trials) == 3 and sum(found) >= 4, found


def test_of_the_near_future_half_stays_and_of_the_far_one_an_eighth(wh):
    wh.publish("clean.dealt", "SELECT TIMESTAMPTZ '2013-01-01' + to_hours(range) AS known_at, range AS n, 1 AS place, 2 AS old, 3 AS later, 4 AS one FROM range(2000)")
    cut = datetime(2013, 1, 1, tzinfo=timezone.utc) + timedelta(hours=399)
    rows = wh.sql(dealt_anew("clean.dealt", "known_at", cut)).df()
    hours = (rows["known_at"] - pd.Timestamp("2013-01-01", tz="UTC")) / pd.Timedelta(hours=1)
    past, near, far = rows[hours < 400], rows[(hours >= 400) & (hours < 600)], rows[hours >= 600]
    assert past["n"].tolist() == list(range(400)) and 70 < len(near) < 130 and 120 < len(far) < 230
    assert rows["n"].is_unique and (near["n"] != hours[near.index]).mean() > 0.9 and rows[["place", "old", "later", "one"]].drop_duplicates().values.tolist() == [[1, 2, 3, 4]]


def facts_of(wh, name, more=""):
    """A store with a view of three keys, a row a minute, and a query that asks so many times after them."""
    wh.publish(f"clean.{name}", f"SELECT range % 3 AS key, TIMESTAMPTZ '2013-01-01' + to_minutes(range) AS known_at, range AS n{more} FROM range(60)")
    view, store = FeatureView(name, "key", "known_at", f"FROM clean.{name}", timedelta(days=9)), FeatureStore(wh)
    materialize(store, view)
    return store, view, "SELECT range AS number, range % 3 AS key, TIMESTAMPTZ '2013-01-01' + to_minutes(range) AS asked_at FROM range({})"


@pytest.mark.parametrize("asks", [64, 65], ids=["by looking through", "by sorting"])
def test_who_asks_at_no_instant_gets_no_answer_however_the_join_is_made(wh, asks):
    store, view, query = facts_of(wh, "instants")
    nobody = f"SELECT * REPLACE (CASE WHEN number % 5 > 0 THEN asked_at END AS asked_at) FROM ({query.format(asks)})"
    made = training_set(store, "features.instants_set", nobody, view, known={"clean.instants": "known_at"}, key="number")
    assert made.answers["instants"].unknown == sum(number % 5 == 0 for number in range(asks)) and made.certificate.holds, made.certificate.problems
    assert wh.sql("SELECT count(instants_n) FROM features.instants_set WHERE asked_at IS NULL").fetchall() == [(0,)]


@pytest.mark.parametrize("asks", [60, 200])
def test_a_second_key_that_is_missing_meets_no_other_that_is(wh, asks):
    wh.publish(
        "clean.pairs",
        "SELECT range % 3 AS key, CASE WHEN range % 2 = 0 THEN 'a' END AS more, TIMESTAMPTZ '2013-01-01' + to_minutes(range) AS known_at, range AS n FROM range(60)",
    )
    view, store = FeatureView("pairs", ("key", "more"), "known_at", "FROM clean.pairs", timedelta(days=9)), FeatureStore(wh)
    materialize(store, view)
    query = f"SELECT range AS number, range % 3 AS key, CASE WHEN range % 4 = 0 THEN 'a' END AS more, TIMESTAMPTZ '2013-01-01' + to_minutes(range) AS asked_at FROM range({asks})"
    made = training_set(store, "features.pairs_set", query, view, known={"clean.pairs": "known_at"}, key="number")
    assert made.certificate.holds, made.certificate.problems
    assert wh.sql("SELECT count(pairs_n) FROM features.pairs_set WHERE more IS NULL").fetchall() == [(0,)]


def test_names_that_the_join_needs_are_refused_or_do_no_harm(wh):
    store, view, query = facts_of(wh, "named_facts", ", TIMESTAMPTZ '2013-01-01' AS _known_at")
    with pytest.raises(BadView, match="named_facts__known_at"):
        training_set(store, "features.never", query.format(9), view)
    store, view, query = facts_of(wh, "spine")
    with pytest.raises(BadView, match="spine__known_at"):
        training_set(store, "features.never", f"SELECT *, now() AS spine__known_at FROM ({query.format(9)})", view)
    assert training_set(store, "features.never", query.format(9), view).answers["spine"].answered == 9
    wh.publish(
        "clean.seen",
        "SELECT 'a' AS key, TIMESTAMPTZ '2013-01-01' AS known_at, TIMESTAMPTZ '2013-01-05' AS written_at, TIMESTAMPTZ '2013-01-01 12:00' AS visible_at, 6 AS n",
    )
    seen = FeatureView("seen", "key", "known_at", "FROM clean.seen", timedelta(days=9), created="written_at")
    materialize(store, seen)
    training_set(store, "features.never", "SELECT 'a' AS key, TIMESTAMPTZ '2013-01-02' AS asked_at", seen)
    assert wh.sql("SELECT seen_n FROM features.never").fetchall() == [(None,)]  # it was written three days after the question


def test_inside_a_transaction_a_set_is_of_what_the_transaction_wrote(wh):
    store, view, query = facts_of(wh, "within")
    with wh.transaction():
        with pytest.raises(BadSpine):  # nothing was asked of DuckDB that would end the transaction
            training_set(store, "features.within_set", "SELECT 1 AS x", view)
        with pytest.raises(BadData, match="inside a transaction"):
            training_set(store, "features.within_set", query.format(9), view, known={"clean.within": "known_at"})
        wh.publish("clean.within_asks", query.format(9))
        made = training_set(store, "features.within_set", "clean.within_asks", view)
    assert made.tables == {"clean.within_asks": -1, "features.within": wh.version("features.within")}
    assert wh.sql("SELECT count(within_n) FROM features.within_set").fetchall() == [(9,)]


def test_nothing_is_written_in_the_midst_of_a_reading_of_one_state(wh):
    store, view, query = facts_of(wh, "midst")

    def finish(joined):
        wh.publish("clean.midst", "SELECT 1 AS key")
        return joined

    with pytest.raises(BadData, match="in the midst of a reading"):
        training_set(store, "features.midst_set", query.format(9), view, finish=finish)
    wh.publish("clean.afterwards", "SELECT 1 AS n")


def test_a_certificate_is_of_the_state_that_was_joined_and_found_again(tmp_path):
    with open_warehouse(make_workspace(tmp_path)) as wh, open_warehouse(make_workspace(tmp_path)) as another:
        store, view, query = facts_of(wh, "stated")
        before, moved = wh.versions(), []

        def finish(joined):  # asked for the second time when the set is tried in other worlds
            moved.append(joined)
            if len(moved) == 3:
                another.publish("clean.stated", "SELECT key, known_at, n + 1000 AS n FROM clean.stated")
                materialize(FeatureStore(another), view)
            return joined

        made = training_set(store, "features.stated_set", f"FROM\n({query.format(60)}) -- all of them", view, finish=finish, known={"clean.stated": "known_at"}, key="number")
        assert len(moved) > 3 and wh.version("features.stated") > before["features.stated"]
        assert made.certificate.holds, made.certificate.problems
        assert made.certificate.tables == {table: before[table] for table in ("clean.stated", "features.stated")}
        assert find_training_set(store, "features.stated_set") == made


def test_what_a_spine_gives_otherwise_each_time_is_not_laid_on_the_views(wh):
    store, view, query = facts_of(wh, "ordered")
    chance = f"SELECT *, random() AS chance FROM ({query.format(60)})"
    problems = training_set(store, "features.ordered_set", chance, view, known={"clean.ordered": "known_at"}, key="number").certificate.problems
    assert problems == ["`chance` came out otherwise in this very world: let the spine and `finish` give the same rows each time, their windows in an order without ties."]


def test_a_refused_set_keeps_no_on_demand_feature_on_record(wh):
    store, view, query = facts_of(wh, "refused_facts")
    doubled = OnDemand("doubled", {"number": float}, double)
    with pytest.raises(BadData, match="ENUM"):
        training_set(store, "features.refused_set", f"SELECT *, 'a'::ENUM('a') AS kind FROM ({query.format(9)})", [view, doubled])
    with pytest.raises(UnknownFeature):
        find_on_demand(store, "doubled")


def double(number):
    """On demand: twice a number."""
    return number * 2


def test_who_asks_beyond_what_was_computed_is_counted(wh):
    store, view, query = facts_of(wh, "partly")
    materialize(store, view, until=datetime(2013, 1, 1, 0, 30, tzinfo=timezone.utc))
    counts = training_set(store, "features.partly_set", query.format(40), view).answers["partly"]
    assert (counts.answered, counts.beyond) == (40, 10) and find_training_set(store, "features.partly_set").answers["partly"] == counts
    materialize(store, view)
    assert training_set(store, "features.partly_set", query.format(40), view).answers["partly"].beyond == 0
def meanwhile(monkeypatch, *others):
    """Let other programs do something after an increment has read its sources and before it writes: one at each try."""
    looks, waiting = materializing.summarise, iter(others)

    def act_and_look(*given):
        monkeypatch.setattr(materializing, "summarise", looks)  # what the other computes is not disturbed
        next(waiting, lambda: None)()
        monkeypatch.setattr(materializing, "summarise", act_and_look)
        return looks(*given)

    monkeypatch.setattr(materializing, "summarise", act_and_look)


def june(day):
    return datetime(2013, 6, day, tzinfo=timezone.utc)


def test_versions_that_are_computed_at_once_leave_the_rows_of_the_one_on_record(tmp_path, monkeypatch):
    with open_warehouse(make_workspace(tmp_path)) as wh, open_warehouse(make_workspace(tmp_path)) as another:
        wh.publish("clean.raced", "SELECT 'a' AS key, TIMESTAMPTZ '2013-06-01' + to_days(range::INT) AS known_at, 1 AS n FROM range(3)")
        ones, hundreds = (FeatureView("raced", "key", "known_at", f"SELECT key, known_at, n * {times} AS n FROM clean.raced") for times in (1, 100))
        store = FeatureStore(wh)
        materialize(store, ones, until=june(2))
        meanwhile(monkeypatch, lambda: materialize(FeatureStore(another), hundreds, until=june(2)))
        assert materialize(store, ones, since="last", until=june(9)).rows == 3  # all, since the other had put its own in their place
        assert held_versions(store, ones)["raced"] == FeatureStore(wh).view("raced").version == ones.version
        assert wh.sql("SELECT DISTINCT n FROM features.raced").fetchall() == [(1,)]
        meanwhile(monkeypatch, lambda: materialize(FeatureStore(another), hundreds, until=june(2)))
        with pytest.raises(BadIncrement, match=f"holds version {hundreds.version}"):
            materialize(store, ones, since=june(2), until=june(9))
        assert FeatureStore(wh).view("raced") == hundreds and wh.sql("SELECT DISTINCT n FROM features.raced").fetchall() == [(100,)]


@pytest.mark.parametrize("partition", [None, "month"])
def test_a_late_row_that_another_program_saw_meanwhile_stays(tmp_path, monkeypatch, partition):
    with open_warehouse(make_workspace(tmp_path)) as wh, open_warehouse(make_workspace(tmp_path)) as another:
        row = "SELECT '{}' AS key, TIMESTAMPTZ '2013-01-01' AS known_at, 1 AS n"
        wh.publish("clean.late", row.format("early"))
        view, store = FeatureView("late", "key", "known_at", "FROM clean.late", late=timedelta(days=400)), FeatureStore(wh)
        materialize(store, view, until=june(1))

        def comes(name, end):
            another.append("clean.late", row.format(name))
            materialize(FeatureStore(another), view, since="last", until=end)

        meanwhile(monkeypatch, lambda: comes("late", june(3)))
        assert materialize(store, view, since="last", until=june(2), partition=partition).rows == 2
        monkeypatch.undo()
        assert wh.sql("SELECT key FROM features.late ORDER BY key").fetchall() == [("early",), ("late",)]
        meanwhile(monkeypatch, *(lambda number=number: comes(f"later {number}", june(5 + number)) for number in range(3)))
        with pytest.raises(BadIncrement, match="Another program has computed it meanwhile, 3 times"):
            materialize(store, view, since="last", until=june(4), partition=partition)
        monkeypatch.undo()
        assert wh.sql("SELECT count(*) FROM features.late").fetchall() == [(5,)]
        assert materialize(store, view, since="last", until=june(20)).rows == 5


def test_rows_are_not_kept_where_what_they_are_computed_from_became_another_version_meanwhile(tmp_path, monkeypatch):
    with open_warehouse(make_workspace(tmp_path)) as wh, open_warehouse(make_workspace(tmp_path)) as another:
        wh.publish("clean.under", "SELECT 'a' AS key, TIMESTAMPTZ '2013-06-01' AS known_at, 1 AS n")
        under = FeatureView("under", "key", "known_at", "FROM clean.under")
        over, store = FeatureView("over", "key", "known_at", "FROM features.under", reads=under), FeatureStore(wh)
        materialize(store, under)
        meanwhile(monkeypatch, lambda: materialize(FeatureStore(another), replace(under, ttl=timedelta(days=9))))
        with pytest.raises(StaleFeatures, match=r"features\.under"):
            materialize(store, over)
        assert "features.over" not in wh.names() and "over" not in FeatureStore(wh).names()


class Scaled:
    """An object whose methods are functions of frames."""

    def __init__(self, factor):
        self.factor = factor

    def scale(self, rows):
        return rows.assign(value=rows["value"] * self.factor)

    def __call__(self, rows):
        return self.scale(rows)


def around(factor):
    def scale(rows):
        return rows.assign(value=rows["value"] * factor)

    return scale


def with_keyword(factor):
    def scale(rows, *, factor=factor):
        return rows.assign(value=rows["value"] * factor)

    return scale


def numbers(place, kind=np.float64):
    made = np.zeros(2000, kind)
    made[1000] = place
    return made


PAIR = (lambda rows: rows.assign(value=rows["value"] * 3)), (lambda rows: rows.assign(value=rows["value"] * 7))
DIFFERING = {
    "a default": [lambda rows, factor=factor: rows.assign(value=rows["value"] * factor) for factor in (3, 7)],
    "a default by keyword": [with_keyword(factor) for factor in (3, 7)],
    "lambdas on a line": PAIR,
    "the objects of methods": [Scaled(factor).scale for factor in (3, 7)],
    "a large array": [around(numbers(factor)) for factor in (3, 7)],
    "a large array of objects": [around(numbers(factor, object)) for factor in (3, 7)],
    "a large frame": [around(pd.DataFrame({"factor": numbers(factor), "name": "a"})) for factor in (3, 7)],
    "a masked array": [around(np.ma.masked_array(numbers(factor))) for factor in (3, 7)],
    "a column of numbers and texts": [around(pd.Series([given, "a"])) for given in (3, "3")],
    "many bytes": [around(bytes(2000) + bytes([factor])) for factor in (3, 7)],
    "objects": [around({"inside": [Scaled(factor)]}) for factor in (3, 7)],
    "partial functions inside": [around(partial(max, factor)) for factor in (3, 7)],
}


def transformed(function):
    return FeatureView("made", "origin", "known_at", reads="clean.turns", transform=function)


@pytest.mark.parametrize("functions", DIFFERING.values(), ids=DIFFERING)
def test_functions_that_differ_in_what_they_took_along_make_different_versions(functions):
    first, second = map(transformed, functions)
    assert first.version != second.version
    assert transformed(copy.deepcopy(functions[0])).version == first.version


def test_equal_content_makes_the_same_version_in_each_program():
    assert transformed(around(numbers(3))).version == transformed(around(numbers(3))).version
    assert transformed(Scaled(3).scale).version == transformed(Scaled(3).scale).version
    code = "from ml_notebooks.features.view import content_of; print(content_of([{'a', 'bb', 'ccc', 'dddd'}, object(), ' at 0x1', 3, ('x',)]))"
    said = {subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout for seed in "123"}
    assert len(said) == 1
    frame = pd.DataFrame({"a": [1, 2], "b": [3, 4]})
    before = content_of(frame)
    frame["c"] = 5  # pandas holds it in another block
    assert content_of(frame[["a", "b"]].copy()) == before != content_of(frame)


def test_what_a_plain_function_is_known_by_stays_what_it_was():
    view = FeatureView("made", "origin", "known_at", reads="clean.turns", transform=around(3))
    assert source_of(view.transform).endswith(" ['3']") and source_of(around({"a": (1,)})).endswith(f" {[repr({'a': (1,)})]}")


HOLDS_ITSELF = []
HOLDS_ITSELF.append(HOLDS_ITSELF)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (partial(max, 3), "it is a partial"),
        (Scaled(3), "it is a Scaled"),
        (around(threading.Lock()), "it took along a lock"),
        (around(HOLDS_ITSELF), "holds itself"),
        (5, "it is a int"),
    ],
)
def test_a_function_whose_content_cannot_be_told_is_refused(function, words):
    with pytest.raises(BadView, match=f"{words}.*Give a plain function"):
        transformed(function)


def values_of(wh, name):
    return [value for (value,) in wh.sql(f"SELECT n FROM features.{name} ORDER BY known_at").fetchall()]


def test_all_rows_anew_in_parts_keep_those_of_later_parts_until_theirs_is_done(wh):
    months = "SELECT 'a' AS key, TIMESTAMPTZ '2013-01-15' + to_months(range::INT) AS known_at, {} AS n FROM range(5)"
    wh.publish("clean.anew", months.format("range::VARCHAR"))
    view, store = FeatureView("anew", "key", "known_at", "SELECT key, known_at, n::INT AS n FROM clean.anew"), FeatureStore(wh)
    materialize(store, view, until=june(30))
    wh.publish("clean.anew", months.format("CASE range WHEN 2 THEN 'x' ELSE (10 + range)::VARCHAR END"))
    with pytest.raises(BadData, match="no row of this range was written"):
        materialize(store, view, until=june(1), partition="month")
    assert values_of(wh, "anew") == [10, 11, 2, 3, 4]
    wh.publish("clean.anew", months.format("(20 + range)::VARCHAR"))
    done = materialize(store, view, until=june(1) - timedelta(days=30), partition="month")  # another range: from the first
    assert (done.rows, done.replaced) == (4, 5) and values_of(wh, "anew") == [20, 21, 22, 23]  # as in one go, nothing stays beyond its end
    assert materialize(store, view, until=june(1), partition="year").replaced == 4 and values_of(wh, "anew") == [20, 21, 22, 23, 24]


@pytest.mark.parametrize(("kind", "more"), [("INTEGER", timedelta(days=1)), ("DOUBLE", timedelta(0))], ids=["another version", "other columns"])
def test_all_rows_anew_in_parts_take_the_place_of_other_rows_at_once(wh, monkeypatch, kind, more):
    months = "SELECT 'a' AS key, TIMESTAMPTZ '2013-01-15' + to_months(range::INT) AS known_at, range::{} AS n FROM range(3)"
    wh.publish("clean.other", months.format("INTEGER"))
    view, store, looks, calls = FeatureView("other", "key", "known_at", "FROM clean.other"), FeatureStore(wh), materializing.summarise, []
    materialize(store, view, until=june(1))
    wh.publish("clean.other", months.format(kind))

    def fail_at_second(*given):
        calls.append(given)
        if len(calls) == 2:
            raise OSError("the disk is gone")
        return looks(*given)

    monkeypatch.setattr(materializing, "summarise", fail_at_second)
    changed = replace(view, ttl=view.ttl + more)
    with pytest.raises(OSError, match="the disk is gone"):
        materialize(store, changed, until=june(1), partition="month")
    assert values_of(wh, "other") == [0] and held_versions(store, changed)["other"] == changed.version
    assert materialize(store, changed, until=june(1), partition="month").rows == 2 and values_of(wh, "other") == [0, 1, 2]


CHANGED_SOURCES = {
    "an integer becomes a fraction": ("2.7::DOUBLE AS n", "`n` is DOUBLE, and INTEGER in the table"),
    "an integer becomes a text": ("'x' AS n", "`n` is VARCHAR, and INTEGER in the table"),
    "a column is lost": ("2 AS m", "no `n` any more"),
    "a column is new": ("2 AS n, 3 AS m", "There is a `m`, which the table does not have"),
}


@pytest.mark.parametrize(("columns", "words"), CHANGED_SOURCES.values(), ids=CHANGED_SOURCES)
@pytest.mark.parametrize("partition", [None, "day"])
def test_an_increment_of_other_columns_is_refused(wh, columns, words, partition):
    row, store = "SELECT 'a' AS key, TIMESTAMPTZ '2013-06-{:02}' AS known_at, {}", FeatureStore(wh)
    view = FeatureView("columns", "key", "known_at", "FROM clean.columns")
    wh.publish("clean.columns", row.format(1, "1 AS n"))
    materialize(store, view, until=june(2))
    before = wh.table("features.columns").fetchall()
    wh.publish("clean.columns", row.format(3, columns))
    with pytest.raises(BadIncrement, match=f"{words}.*Compute all rows anew"):
        materialize(store, view, since="last", until=june(5), partition=partition)
    assert wh.table("features.columns").fetchall() == before
    materialize(store, view, until=june(5), partition=partition)
    assert wh.sql("SELECT count(*) FROM features.columns").fetchall() == [(1,)] and wh.table("features.columns").columns == wh.table("clean.columns").columns


def test_a_column_that_holds_nothing_fits_each_type(wh):
    wh.publish("clean.empty", "SELECT 'a' AS key, TIMESTAMPTZ '2013-06-01' AS known_at, 'some' AS n")
    view, store = FeatureView("empty", "key", "known_at", transform=lambda rows: rows, reads="clean.empty"), FeatureStore(wh)
    materialize(store, view, until=june(2))
    wh.publish("clean.empty", "SELECT 'a' AS key, TIMESTAMPTZ '2013-06-03' AS known_at, NULL::VARCHAR AS n")
    assert materialize(store, view, since="last", until=june(4)).rows == 1
    wh.publish("clean.empty", "FROM clean.empty WHERE false")
    assert materialize(store, view, since="last", until=june(5)).rows == 0
    assert values_of(wh, "empty") == ["some", None]


def test_a_view_does_not_fit_beside_another_version_of_what_it_was_computed_from(wh):
    wh.publish("clean.base", "SELECT 'a' AS key, TIMESTAMPTZ '2013-01-01' AS known_at, 1 AS n")
    base, store = FeatureView("base", "key", "known_at", "FROM clean.base"), FeatureStore(wh)
    doubled = FeatureView("doubled", "key", "known_at", "SELECT key, known_at, n * 2 AS n FROM features.base", reads=base)
    again = FeatureView("again", "key", "known_at", "SELECT key, known_at, n + 1 AS n FROM features.doubled", reads=doubled)
    for view in (base, doubled, again):
        materialize(store, view)
    check_inputs(store, *map(store.view, ("base", "doubled", "again")))
    newer = replace(base, query="SELECT key, known_at, n + 10 AS n FROM clean.base")
    materialize(store, newer)
    check_inputs(store, store.view("base"))
    for name in ("doubled", "again"):
        with pytest.raises(BadView, match=f"`{name}` .* computed from version {base.version} of `base`, and `features.base` holds {newer.version}"):
            check_inputs(FeatureStore(wh), store.view("base"), FeatureStore(wh).view(name))
        with pytest.raises(BadView, match="holds"):
            training_set(FeatureStore(wh), "features.unfit", "SELECT 'a' AS key, TIMESTAMPTZ '2013-01-02' AS asked_at", ["base", name])
    renewed = replace(doubled, reads=newer)
    materialize(store, renewed)
    check_inputs(store, renewed)


def test_what_is_new_in_another_version_is_all(wh):
    wh.publish("clean.grown", "SELECT 'a' AS key, TIMESTAMPTZ '2013-06-01' + to_days(range::INT) AS known_at, range AS n FROM range(3)")
    view, store = FeatureView("grown", "key", "known_at", "FROM clean.grown"), FeatureStore(wh)
    materialize(store, view, until=june(3))
    hundreds = replace(view, query="SELECT * REPLACE (n * 100 AS n) FROM clean.grown")
    done = materialize(store, hundreds, since="last", until=june(9))
    assert (done.since, done.rows, done.replaced) == (None, 3, 2)
    assert values_of(wh, "grown") == [0, 100, 200] and held_versions(store, hundreds)["grown"] == hundreds.version


def test_a_gap_is_not_reached(wh):
    wh.publish("clean.gaps", "SELECT 'a' AS key, TIMESTAMPTZ '2013-06-01' + to_days(range::INT) AS known_at, range AS n FROM range(8)")
    view, store = FeatureView("gaps", "key", "known_at", "FROM clean.gaps"), FeatureStore(wh)
    materialize(store, view, until=june(2))
    materialize(store, view, since=june(5), until=june(6))
    assert computed_until(store, view) == june(2)
    above = FeatureView("above", "key", "known_at", "FROM features.gaps", reads=view)
    assert materialize(store, above).until == june(2)
    assert materialize(store, view, since="last", until=june(7)).since == june(2)
    assert values_of(wh, "gaps") == [0, 1, 2, 3, 4, 5]
    materialize(store, view, since=june(7), until=june(9))
    assert computed_until(store, view) == june(9)


def test_a_time_of_writing_that_names_no_zone_is_one_of_the_zone_of_the_view(wh):
    wh.publish("clean.written", "SELECT 'a' AS key, TIMESTAMPTZ '2013-07-01 12:00:00Z' AS known_at, TIMESTAMP '2013-07-01 09:00:00' AS written, 1 AS n")
    view, store = FeatureView("written", "key", "known_at", "FROM clean.written", created="written", zone="America/New_York"), FeatureStore(wh)
    materialize(store, view)
    assert wh.sql("SELECT typeof(written), epoch_us(written) FROM features.written").fetchall() == [("TIMESTAMP WITH TIME ZONE", 1_372_683_600_000_000)]  # 13:00 in UTC
    asked = "SELECT 'a' AS key, TIMESTAMPTZ '2013-07-01 {}Z' AS asked_at"
    for time, answered in (("12:59:59.999999", 0), ("13:00:00", 1)):
        assert training_set(store, "features.written_set", asked.format(time), view).answers["written"].answered == answered
