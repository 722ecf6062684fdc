"""What people get wrong with features, and clocks: an error that says what to do, and nothing changed; or a rule that was stated before."""

import re
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pandas as pd
import pyarrow as pa
import pytest
from support.workspaces import make_workspace

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import (
    BadData,
    BadIncrement,
    BadSpine,
    BadTime,
    BadView,
    InvalidTableName,
    NaiveTime,
    StaleFeatures,
    UnknownFeature,
)
from ml_notebooks.features import books as books_module
from ml_notebooks.features import materialize as materialize_module
from ml_notebooks.features.increments import held_versions
from ml_notebooks.features.materialize import materialize
from ml_notebooks.features.rolling import last, rolling_query
from ml_notebooks.features.store import FeatureStore
from ml_notebooks.features.training_set import training_set
from ml_notebooks.features.view import FeatureView, in_order

ROWS = "SELECT origin, landed::TIMESTAMPTZ AS landed_at, delay FROM (VALUES ('EWR', '2013-07-01 10:00:00Z', 5), ('JFK', '2013-07-01 11:00:00Z', 9)) AS given(origin, landed, delay)"
SPINE = "SELECT 'EWR' AS origin, TIMESTAMPTZ '2013-07-01 12:00:00Z' AS asked_at"
NOON = datetime(2013, 7, 1, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)
LAST = FeatureView("last", "origin", "landed_at", ROWS, 9 * HOUR)


@pytest.fixture(scope="module")
def wh(tmp_path_factory):
    with open_warehouse(make_workspace(tmp_path_factory.mktemp("mistakes"))) as opened:
        materialize(FeatureStore(opened), LAST)
        yield opened


@pytest.fixture
def store(wh):
    return FeatureStore(wh).register(LAST)


MISTAKEN_SETS = {
    "a view that is called otherwise": (SPINE, ["lst"], UnknownFeature, "Did you mean `last`"),
    "a feature that is called otherwise": (SPINE, ["last:dely"], UnknownFeature, "Did you mean `last:delay`"),
    "an entity that is called otherwise": (SPINE.replace("origin", "orign"), ["last"], BadSpine, "Did you mean `orign`"),
    "no time": ("SELECT 'EWR' AS origin", ["last"], BadSpine, "no column `asked_at`"),
    "a time that is called otherwise": (SPINE.replace("asked_at", "asked_on"), ["last"], BadSpine, "Did you mean `asked_on`"),
    "a time without a zone": (SPINE.replace("TIMESTAMPTZ", "TIMESTAMP").replace("00Z", "00"), ["last"], NaiveTime, "names no time zone"),
    "a table that is called otherwise": ("features.lost", ["last"], KeyError, "Did you mean `features.last`"),
}


@pytest.mark.parametrize(("spine", "features", "error", "words"), MISTAKEN_SETS.values(), ids=MISTAKEN_SETS)
def test_mistaken_training_sets_say_what_was_meant(store, spine, features, error, words):
    before = store.wh.snapshots()["snapshot"].max()
    with pytest.raises(error, match=words):
        training_set(store, "features.refused", spine, features)
    assert store.wh.snapshots()["snapshot"].max() == before


RUBBISH = {
    "no rows ask": ({"spine": None}, BadData, "Correct the spine"),
    "a list asks": ({"spine": [1, 2]}, BadData, "Correct the spine"),
    "a cast fails in the spine": ({"spine": SPINE.replace("'EWR' AS origin", "('E' || range)::BIGINT AS origin") + " FROM range(3)"}, BadData, "Could not convert"),
    "a value cannot be parsed in the spine": ({"spine": f"{SPINE}, strptime('E' || range, '%Y') AS day FROM range(3)"}, BadData, "Could not parse"),
    "`finish` names no column": ({"finish": lambda joined: f"SELECT lost FROM ({joined})"}, BadData, "lost"),
    "`finish` gives nothing": ({"finish": lambda joined: None}, BadData, "Correct the spine, `finish`"),
    "`finish` casts what is no number": ({"finish": lambda joined: f"SELECT origin::BIGINT AS n FROM ({joined})"}, BadData, "EWR"),
    "no column of the label": ({"label": "late"}, BadSpine, "no column `late`.*what `label` names"),
    "no column of the key": ({"key": "flight"}, BadSpine, "no column `flight`.*what `key` names"),
    "neither": ({"label": "late", "key": "flight"}, BadSpine, "what `label` and `key` name"),
    "a feature is a number": ({"features": 5}, UnknownFeature, "5"),
    "a cut without a zone": ({"known": {}, "cuts": [datetime(2013, 7, 1)]}, BadTime, "names no time zone"),
    "a cut is a text": ({"known": {}, "cuts": ["2013-07-01"]}, BadTime, "is a str"),
    "a name without a schema": ({"table": "refused"}, InvalidTableName, "refused"),
    "the table of something else": ({"table": "clean.orders"}, BadData, "no training set"),
    "what it asks of": ({"table": "clean.orders", "spine": "clean.orders"}, BadData, "no training set"),
    "a book of the store": ({"table": "ops.feature_views"}, BadData, "no training set"),
}


@pytest.mark.parametrize(("given", "error", "words"), RUBBISH.values(), ids=RUBBISH)
def test_rubbish_is_refused_and_changes_nothing(store, given, error, words):
    if "clean.orders" not in store.wh.names():
        store.wh.publish("clean.orders", SPINE)
    before = store.wh.snapshots()["snapshot"].max()
    with pytest.raises(error, match=words):
        training_set(store, **{"table": "features.refused", "spine": SPINE, "features": ["last"]} | given)
    assert store.wh.snapshots()["snapshot"].max() == before


MISTAKEN_VIEWS = {
    "its entity is called otherwise": ({"entity": "orign"}, BadData, "no column orign; it has origin, landed_at, delay. Did you mean `origin`"),
    "its time is called otherwise": ({"timestamp": "landed"}, BadData, "Did you mean `landed_at`"),
    "no time of writing": ({"created": "written_at"}, BadData, "no column written_at"),
    "its time is a text": ({"query": ROWS.replace("::TIMESTAMPTZ", "")}, NaiveTime, "VARCHAR"),
    "two rows for one entity and time": ({"query": f"{ROWS} UNION ALL SELECT 'EWR', TIMESTAMPTZ '2013-07-01 10:00:00Z', 7"}, BadData, "at origin EWR and landed_at 2013-07-01 10:00:00"),
    "two features that differ in case": ({"query": ROWS.replace("delay FROM", "delay, 1 AS Delay FROM")}, BadData, "`delay` is the name of two columns"),
    "a text that is no time": ({"query": ROWS.replace("landed::TIMESTAMPTZ", "strptime(landed, '%d.%m.%Y')::TIMESTAMPTZ")}, BadData, "Could not parse"),
    "a query that raises": ({"query": ROWS.replace("delay FROM", "error('broken') AS delay FROM")}, BadData, "broken"),
    "its table does not exist": ({"query": "FROM clean.lost"}, KeyError, "`clean.lost` is not in the warehouse"),
    "it reads another's table in silence": ({"query": "FROM features.last"}, BadView, "does not say so"),
    "it reads itself": ({"name": "last", "query": "FROM features.last"}, BadView, "does not say so"),
    "what it reads is in another version": ({"query": "FROM features.last", "reads": replace(LAST, ttl=HOUR)}, StaleFeatures, "Compute them"),
    "what it reads was never computed": ({"query": "FROM features.never", "reads": replace(LAST, name="never")}, StaleFeatures, "The store did not compute them"),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "error", "words"), MISTAKEN_VIEWS.values(), ids=MISTAKEN_VIEWS)
def test_mistaken_views_say_what_was_meant_and_change_no_rows(store, wrong, error, words):
    rows = store.wh.table("features.last").fetchall()
    with pytest.raises(error, match=words):
        materialize(store, replace(LAST, **{"name": "mistaken"} | wrong))
    assert store.wh.table("features.last").fetchall() == rows and "features.mistaken" not in store.wh.names()
    assert "mistaken" not in FeatureStore(store.wh).names()


def test_rows_that_are_the_same_are_one(store):
    assert materialize(store, replace(LAST, name="same", query=f"{ROWS} UNION ALL {ROWS}")).rows == 2


def test_rows_of_the_future_wait_until_it_has_come(store):
    ahead = datetime.now(timezone.utc) + HOUR
    view = replace(LAST, name="ahead", query=f"{ROWS} UNION ALL SELECT 'EWR', TIMESTAMPTZ '{ahead.isoformat()}', 99")
    done = materialize(store, view)
    assert (done.rows, done.ahead) == (2, 1)
    later = materialize(store, view, since="last", until=ahead + HOUR)
    assert (later.rows, later.ahead) == (1, 0)
    for beside, answered in ((timedelta(microseconds=-1), 0), (timedelta(0), 1)):
        spine = f"SELECT 'EWR' AS origin, TIMESTAMPTZ '{(ahead + beside).isoformat()}' AS asked_at"
        assert training_set(store, "features.waited", spine, ["ahead"]).answers["ahead"].answered == answered


def test_what_came_after_a_range_of_the_future_is_not_passed_over(store):
    now = datetime.now(timezone.utc)
    view = replace(LAST, name="beyond", query="FROM clean.beyond")
    row = "SELECT 'EWR' AS origin, TIMESTAMPTZ '{}' AS landed_at, {} AS delay"
    store.wh.publish("clean.beyond", row.format((now + 24 * HOUR).isoformat(), 1))
    assert materialize(store, view, until=now + 10_000 * HOUR).rows == 1
    store.wh.append("clean.beyond", row.format(datetime.now(timezone.utc).isoformat(), 2))
    materialize(store, view, since="last")
    assert store.wh.sql("SELECT delay FROM features.beyond ORDER BY delay").fetchall() == [(1,), (2,)]


def test_what_came_while_a_range_of_the_future_was_computed_is_not_passed_over(store, monkeypatch):
    view = replace(LAST, name="meanwhile", query="FROM clean.meanwhile")
    row, looks = "SELECT 'EWR' AS origin, TIMESTAMPTZ '{}' AS landed_at, {} AS delay", materialize_module.summarise
    store.wh.publish("clean.meanwhile", row.format(NOON.isoformat(), 1))

    def looks_while_another_comes(*given):
        store.wh.append("clean.meanwhile", row.format(datetime.now(timezone.utc).isoformat(), 2))
        return looks(*given)

    monkeypatch.setattr(materialize_module, "summarise", looks_while_another_comes)
    materialize(store, view, until=datetime.now(timezone.utc) + 24 * HOUR)
    monkeypatch.undo()
    materialize(store, view, since="last")
    assert store.wh.sql("SELECT delay FROM features.meanwhile ORDER BY delay").fetchall() == [(1,), (2,)]


def test_views_of_views_reach_into_the_future_together(store):
    later = datetime.now(timezone.utc) + 24 * HOUR
    first = replace(LAST, name="tomorrow")
    second = replace(LAST, name="tomorrows", query="FROM features.tomorrow", reads=first)
    assert [materialize(store, view, until=later).rows for view in (first, second)] == [2, 2]


@pytest.mark.parametrize("given", [pd.date_range(NOON, periods=2, freq="h"), (NOON + HOUR for _ in range(1))], ids=["an index", "a generator"])
def test_cuts_may_be_any_collection(store, given):
    made = training_set(store, "features.cut", f"{SPINE} FROM range(3)", ["last"], known={}, cuts=given)
    assert made.certificate is not None


def at(monkeypatch, moment):
    """Let the store's clock stand at a moment."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return moment

    for module in (materialize_module, books_module):
        monkeypatch.setattr(module, "datetime", Clock)


def test_a_clock_that_jumps_back_loses_nothing(store, monkeypatch):
    first, second = replace(LAST, name="jumped"), replace(LAST, name="jumped", ttl=HOUR)
    at(monkeypatch, NOON)
    materialize(store, first)
    at(monkeypatch, NOON - 2 * HOUR)  # 10:00, when the first row has just not come
    with pytest.raises(BadIncrement, match="the clock was put back"):
        materialize(store, first, since="last")
    assert store.wh.sql("SELECT count(*) FROM features.jumped").fetchall() == [(2,)]
    assert materialize(store, second).ahead == 2
    assert held_versions(store, first)["jumped"] == second.version and FeatureStore(store.wh).view("jumped") == second
    assert materialize(store, second, since="last", until=NOON).rows == 2


def test_views_of_views_are_computed_one_after_the_other(store):
    worst = FeatureView("worst", (), "landed_at", "SELECT landed_at, max(delay) AS delay FROM features.last GROUP BY ALL", 9 * HOUR, reads=LAST)
    doubled = FeatureView("doubled", (), "landed_at", "SELECT landed_at, delay * 2 AS delay FROM features.worst", 9 * HOUR, reads=worst)
    with pytest.raises(StaleFeatures, match=r"features\.worst"):
        materialize(store, doubled)
    assert [materialize(store, view).rows for view in in_order(doubled)] == [2, 2, 2]
    training_set(store, "features.chained", SPINE, [doubled])
    assert store.wh.sql("SELECT doubled_delay FROM features.chained").fetchall() == [(18,)]
    changed = replace(doubled, reads=replace(worst, ttl=HOUR))
    with pytest.raises(StaleFeatures, match=r"features\.doubled"):
        training_set(store, "features.chained", SPINE, [changed])
    assert FeatureStore(store.wh).view("doubled", doubled.version).inputs == (worst,)


CHANGES = {  # New York's clock: noon of the day before, and then how the hours between are counted
    "a day of 25 hours": ("2013-11-02", ["2013-11-03 11:00", "2013-11-03 12:00"], [1, 2, 2]),
    "a day of 23 hours": ("2013-03-09", ["2013-03-10 12:30", "2013-03-10 13:30"], [1, 2, 2]),
}


@pytest.mark.parametrize(("day", "later", "counts"), CHANGES.values(), ids=CHANGES)
def test_windows_are_of_real_time_where_the_clock_changes(store, day, later, counts):
    times = ", ".join(f"TIMESTAMP '{time}'" for time in (f"{day} 12:00", *later))
    store.wh.publish("clean.local", f"SELECT 'UA' AS carrier, unnest([{times}]) AS known_at, 1 AS delay")
    day_long = last(24, "hours", delay="count")
    local = FeatureView("windows", "carrier", "known_at", rolling_query("FROM clean.local", "carrier", "known_at", day_long), zone="America/New_York")
    for wrong in (local, replace(local, query=f"SELECT * FROM ({local.query})")):
        with pytest.raises(NaiveTime, match=r"windows of the view `windows` .* `known_at AT TIME ZONE 'America/New_York' AS known_at`"):
            materialize(store, wrong)
    assert "features.windows" not in store.wh.names()
    facts = "SELECT * REPLACE (known_at AT TIME ZONE 'America/New_York' AS known_at) FROM clean.local"
    materialize(store, FeatureView("windows", "carrier", "known_at", rolling_query(facts, "carrier", "known_at", day_long)))
    assert [count for (count,) in store.wh.sql("SELECT delay_count_24h FROM features.windows ORDER BY known_at").fetchall()] == counts
    store.wh._connection.execute("DROP TABLE lake.features.windows")


RUBBISH_VIEWS = {
    "a number transforms": ({"query": "", "transform": 5, "reads": "clean.given"}, "it is a int"),
    "a transform of two frames": ({"query": "", "transform": lambda rows, more: rows, "reads": "clean.given"}, "does not take 1 frames: missing a required argument: 'more'"),
    "a transform of none": ({"query": "", "transform": lambda: None, "reads": "clean.given"}, "does not take 1 frames"),
    "a number as entity": ({"entity": 5}, "Among its `entity` is 5"),
    "a number among entities": ({"entity": ("origin", 5)}, "Among its `entity` is 5"),
    "a number is read": ({"reads": 5}, "Among its `reads` is 5"),
    "a number as tag": ({"tags": 5}, "Among its `tags` is 5"),
    "no timestamp": ({"timestamp": ""}, "Its `timestamp` is ''"),
    "a number as timestamp": ({"timestamp": 5}, "Its `timestamp` is 5"),
    "nothing as created": ({"created": None}, "Its `created` is None"),
    "nothing as zone": ({"zone": None}, "Its `zone` is None"),
}


@pytest.mark.parametrize(("wrong", "words"), RUBBISH_VIEWS.values(), ids=RUBBISH_VIEWS)
def test_rubbish_makes_no_view(wrong, words):
    with pytest.raises(BadView, match=re.escape(words)):
        replace(LAST, **wrong)


FAILING_FUNCTIONS = {
    "it raises": (lambda rows: rows.lost, "`features.mistaken` could not be written. Its function raised AttributeError"),
    "two columns of a name": (lambda rows: pd.concat([rows, rows.delay], axis=1), "`delay` is the name of two columns"),
    "two columns that differ in case": (lambda rows: rows.assign(Delay=1), "`delay` is the name of two columns"),
    "two columns of a name in Arrow": (lambda rows: (table := pa.Table.from_pandas(rows)).append_column("delay", table["delay"]), "`delay` is the name of two columns"),
}


@pytest.mark.parametrize("partition", [None, "month"])
@pytest.mark.parametrize(("function", "words"), FAILING_FUNCTIONS.values(), ids=FAILING_FUNCTIONS)
def test_a_function_that_fails_is_an_error_of_its_view(store, function, words, partition):
    store.wh.publish("clean.given", ROWS)
    with pytest.raises(BadData, match=re.escape(words)):
        materialize(store, replace(LAST, name="mistaken", query="", transform=function, reads="clean.given"), partition=partition)
    assert "features.mistaken" not in store.wh.names()


@pytest.mark.parametrize("end", [";", " -- all", "; -- all", ";\n/* all */ ;\n", " -- ü; -- all"])
def test_a_query_may_end_in_a_semicolon_or_a_comment(store, end):
    assert materialize(store, replace(LAST, name="ended", query=f"{ROWS}{end}"), partition="year").rows == 2
    store.wh.publish("clean.naive", ROWS.replace("::TIMESTAMPTZ", "::TIMESTAMP"))
    assert materialize(store, replace(LAST, name="ended", query=f"FROM clean.naive{end}", zone="America/New_York")).rows == 2
    with pytest.raises(BadView, match="does not say so"):
        materialize(store, replace(LAST, name="ended", query=f"FROM features.last{end}"))
