"""Point-in-time joins, case by case, each answer worked out by hand.

The cases follow those that feast (https://github.com/feast-dev/feast, Apache License 2.0) holds its offline stores to; the code and the figures
are ours. In its folder sdk/python/tests:

- integration/offline_store/test_universal_historical_retrieval.py: backfills, rows created later, no limit of age, renamed columns and entities,
  features of no entity, names that would collide, entities from a query, unknown features, request data that is missing, saved sets
- utils/feature_records.py: what is right in all of these: the latest row from `at - ttl` to `at`, both included
- unit/infra/offline_stores/test_ibis.py, test_filter_by_created_timestamp.py, test_dask_non_entity.py: ties, rows without `created`
- unit/infra/offline_stores/contrib/mongodb_offline_store/test_mongodb.py: repeated entities, several keys, views with other keys, other types of keys

Where feast leaves it to an option, `created` always bounds here (its `filter_by_created_timestamp`). Where it gives a naive time the zone UTC, a
view has to name one here. A ttl of zero means no limit there, and is refused here: a long one says the same.
"""

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pandas as pd
import pytest
from support.workspaces import make_workspace

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import BadOnDemand, BadView, NaiveTime, UnknownFeature
from ml_notebooks.features.materialize import materialize
from ml_notebooks.features.on_demand import OnDemand
from ml_notebooks.features.point_in_time import point_in_time_query
from ml_notebooks.features.store import FeatureStore
from ml_notebooks.features.training_set import find_training_set, training_set
from ml_notebooks.features.view import FeatureView

DAY, HOUR, TICK = timedelta(days=1), timedelta(hours=1), timedelta(microseconds=1)
NOON = datetime(2024, 1, 5, 12, tzinfo=timezone.utc)
END = datetime(2024, 2, 1, tzinfo=timezone.utc)


def at(hours):
    """An instant so many hours from noon; `hours` may be a timedelta, or None."""
    return None if hours is None else NOON + (hours if isinstance(hours, timedelta) else timedelta(hours=hours))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with open_warehouse(make_workspace(tmp_path_factory.mktemp("cases"))) as wh:
        yield FeatureStore(wh)


def literal(value):
    """A value in SQL."""
    return f"TIMESTAMPTZ '{value.isoformat()}'" if isinstance(value, datetime) else "NULL" if value is None else repr(value)


def table(columns, rows):
    """A query with these rows; columns are names with their types."""
    names = [column.split()[0] for column in columns]
    picked = ", ".join(f"{name}::{column.split(' ', 1)[1]} AS {name}" for name, column in zip(names, columns, strict=True))
    values = ", ".join(f"({', '.join(map(literal, row))})" for row in rows) or f"({', '.join('NULL' for _ in names)})"
    return f"SELECT {picked} FROM (VALUES {values}) AS given({', '.join(names)})" + ("" if rows else " WHERE false")


def make(store, name, entity, rows, ttl=DAY, created=False, **more):
    """A view with these rows, materialised; they hold entity, `known`, `written` where rows are `created`, and `value`, times in hours from noon."""
    times = len(entity), len(entity) + created
    rows = [tuple(at(value) if times[0] <= place <= times[1] else value for place, value in enumerate(row)) for row in rows]
    columns = [*entity, "known TIMESTAMPTZ", *(["written TIMESTAMPTZ"] if created else []), "value DOUBLE"]
    keys = tuple(column.split()[0] for column in entity)
    view = FeatureView(name, keys, "known", table(columns, rows), ttl, created="written" if created else "", **more)
    materialize(store, view, until=END)
    return view


def answers(store, views, spine, *columns):
    """What the rows of a spine are answered, in their order."""
    names = ", ".join(columns)
    query = point_in_time_query(store.wh, spine, views, at="asked")
    return store.wh.sql(f"SELECT {names} FROM ({query}) ORDER BY number").fetchall()


DRIVER = ("driver BIGINT",)
USER = ("user_id BIGINT", "device VARCHAR")
TWO = [(1, -2, 0.5), (1, -1, 0.6), (2, -2, 0.3)]

ONE_VIEW = {  # entity, how the view is, its rows; the rows that ask; their answers
    "the latest row that was known, again and again for one entity": (
        DRIVER, {}, TWO, [(1, -1.5), (1, -0.5), (2, -1)], [0.5, 0.6, 0.3],
    ),
    "a row of this very instant is known": (DRIVER, {}, TWO, [(1, -1), (1, -2)], [0.6, 0.5]),
    "nothing was known before the first row": (DRIVER, {}, TWO, [(1, -2.5), (2, -3)], [None, None]),
    "an entity that nobody has heard of": (DRIVER, {}, TWO, [(3, 0), (1, 0)], [None, 0.6]),
    "an older row is found where the newer one is of the future": (
        DRIVER, {}, [(1, -2, 0.5), (1, -0.5, 0.9), (2, -1, 0.7)], [(1, -1), (2, 0)], [0.5, 0.7],
    ),
    "a row of the future alone is none, and the one who asks is kept": (DRIVER, {}, [(1, -1, 0.9), (2, -2, 0.5)], [(1, -3), (2, 0)], [None, 0.5]),
    "who asks twice is answered twice": (DRIVER, {}, TWO, [(1, 0), (1, 0), (1, 0)], [0.6, 0.6, 0.6]),
    "just as old as the limit": (DRIVER, {"ttl": HOUR}, TWO, [(1, 0), (2, -1)], [0.6, 0.3]),
    "a microsecond older than the limit": (DRIVER, {"ttl": HOUR}, TWO, [(1, TICK), (2, -HOUR + TICK)], [None, None]),
    "the latest row is too old, an older one still more so": (DRIVER, {"ttl": 2 * HOUR}, [(1, -9, 0.1), (1, -3, 0.2)], [(1, 0)], [None]),
    "next to no limit": (DRIVER, {"ttl": 5200 * timedelta(weeks=1)}, [(1, -80_000, 0.1)], [(1, 0)], [0.1]),
    "a missing value is the answer, not the one before it": (DRIVER, {}, [(1, -2, 0.5), (1, -1, None)], [(1, 0)], [None]),
    "rows for nobody, and somebody nobody knows": (DRIVER, {}, [(None, -1, 0.9), (1, -1, 0.6)], [(None, 0), (1, 0)], [None, 0.6]),
    "a row without its instant": (DRIVER, {}, [(1, None, 0.9), (1, -1, 0.6)], [(1, 0)], [0.6]),
    "an empty view": (DRIVER, {}, [], [(1, 0), (2, 0)], [None, None]),
    "nobody asks": (DRIVER, {}, TWO, [], []),
    "keys of another width": (("driver INTEGER",), {}, [(1, -1, 100.0), (2, -1, 200.0)], [(1, 0), (2, 0)], [100.0, 200.0]),
    "two keys": (
        USER, {}, [(1, "mobile", -2, 50.0), (1, "mobile", -1, 55.0), (1, "desktop", -1, 10.0), (2, "tablet", -1, 25.0)],
        [(1, "mobile", 0), (1, "desktop", 0), (2, "tablet", 0), (2, "mobile", 0), (1, None, 0)], [55.0, 10.0, 25.0, None, None],
    ),
    "of everybody": ((), {}, [(-2, 1.0), (-1, 2.0)], [(-1.5,), (0,), (-3,)], [1.0, 2.0, None]),
    "of one instant, the row that was written last": (DRIVER, {"created": True}, [(1, -24, -24, 10.0), (1, -24, 0, 20.0)], [(1, 12), (1, 12)], [None, None]),
    "of one instant, the row that was written last, within the limit": (
        DRIVER, {"created": True, "ttl": 2 * DAY}, [(1, -24, -24, 10.0), (1, -24, 0, 20.0)], [(1, 12), (1, 12)], [20.0, 20.0],
    ),
    "a later event counts more than a later writing": (DRIVER, {"created": True, "ttl": 2 * DAY}, [(2, -24, 0, 30.0), (2, 0, -24, 40.0)], [(2, 24)], [40.0]),
    "a correction that was written after the question": (
        DRIVER, {"created": True, "ttl": 2 * DAY}, [(1, -24, -24, 10.0), (1, -24, 24, 20.0)], [(1, 0), (1, 24)], [10.0, 20.0],
    ),
    "written at the instant of the question": (DRIVER, {"created": True}, [(1, -2, 0, 10.0)], [(1, 0), (1, -TICK)], [10.0, None]),
    "all was written after the question, and the one who asks is kept": (DRIVER, {"created": True}, [(1, -2, 36, 0.4), (1, -1, 60, 0.6)], [(1, 0)], [None]),
    "nobody borrows from another": (DRIVER, {"created": True}, [(1, -2, -1, 0.4), (2, -2, 36, 0.6)], [(1, 0), (2, 0)], [0.4, None]),
    "when it was written is not known": (DRIVER, {"created": True}, [(1, -2, -1, 0.4), (1, -2, None, 0.6)], [(1, 0)], [0.4]),
    "a late row does not hide the newer one that came before it": (
        DRIVER, {"created": True}, [(1, -1, -1, 0.6), (1, -2, -0.5, 0.5)], [(1, 0), (1, -0.75), (1, -1.5)], [0.6, 0.6, None],
    ),
    "limits count from the event, not from its writing": (DRIVER, {"created": True, "ttl": HOUR}, [(1, -2, -0.5, 0.5)], [(1, -0.25)], [None]),
    "all at once": (
        ("customer BIGINT",), {"created": True, "ttl": 10 * DAY},
        [(1, -120, -120, 11.0), (1, -72, -72, 22.0), (1, -48, -48, 33.0), (2, -8808, -8808, 22.0), (3, -96, -48, 10.0), (3, -96, -72, 20.0)],
        [(1, -96), (1, -72), (2, -96), (3, -48), (3, -49)], [11.0, 22.0, None, 10.0, 20.0],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("entity", "how", "rows", "asks", "expected"), ONE_VIEW.values(), ids=ONE_VIEW)
def test_one_view(store, entity, how, rows, asks, expected):
    view = make(store, "one", entity, rows, **how)
    numbered = [(number, *ask[:-1], at(ask[-1])) for number, ask in enumerate(asks)]
    spine = table(["number BIGINT", *(column.replace("INTEGER", "BIGINT") for column in entity), "asked TIMESTAMPTZ"], numbered)
    assert answers(store, [view], spine, "one_value") == [(value,) for value in expected]


def test_views_with_other_keys_and_limits_do_not_disturb_one_another(store):
    users = make(store, "theme", ("user_id BIGINT",), [(1, -2, 1.0), (1, -0.5, 2.0)])
    devices = make(store, "battery", USER, [(1, "X", -2, 0.8), (1, "Y", -2, 0.6)])
    worlds = make(store, "world", (), [(-3, 7.0)], ttl=timedelta(hours=2, minutes=30))
    spine = table(["number BIGINT", *USER, "asked TIMESTAMPTZ"], [(0, 1, "X", at(-1)), (1, 1, "Y", at(0)), (2, 2, "X", at(-0.5))])
    columns = ("theme_value", "battery_value", "world_value")
    assert answers(store, [users, devices, worlds], spine, *columns) == [(1.0, 0.8, 7.0), (2.0, 0.6, None), (None, None, 7.0)]


def test_features_of_one_name_stand_beside_one_another(store):
    views = [make(store, name, DRIVER, [(1, -1, value + 0.1), (2, -1, value + 0.2)]) for name, value in (("a", 1), ("b", 2), ("c", 3))]
    spine = table(["number BIGINT", *DRIVER, "asked TIMESTAMPTZ"], [(0, 1, at(0)), (1, 2, at(0))])
    assert answers(store, views, spine, "a_value", "b_value", "c_value") == [(1.1, 2.1, 3.1), (1.2, 2.2, 3.2)]


def test_one_view_for_two_places_by_other_names_of_its_key(store):
    store.wh.publish("clean.places", table(["place BIGINT", "known TIMESTAMPTZ", "value DOUBLE"], [(1, at(-2), 20.0), (2, at(-2), 5.0), (1, at(-1), 21.0)]))
    ends = [FeatureView(name, name, "known", f"SELECT place AS {name}, known, value FROM clean.places") for name in ("origin", "destination")]
    for view in ends:
        materialize(store, view, until=END)
    spine = table(["number BIGINT", "origin BIGINT", "destination BIGINT", "asked TIMESTAMPTZ"], [(0, 1, 2, at(0)), (1, 2, 1, at(-1.5)), (2, 3, 1, at(0))])
    assert answers(store, ends, spine, "origin_value", "destination_value") == [(21.0, 5.0), (5.0, 20.0), (None, 21.0)]


def test_columns_of_the_spine_stay_what_they_are(store):
    view = make(store, "trips", DRIVER, TWO)
    spine = table(["number BIGINT", *DRIVER, "value DOUBLE", "known VARCHAR", "asked TIMESTAMPTZ"], [(0, 1, 9.0, "yes", at(0)), (1, 2, 8.0, None, at(0))])
    assert answers(store, [view], spine, "value", "known", "trips_value") == [(9.0, "yes", 0.6), (8.0, None, 0.3)]


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kathmandu"])
def test_the_zone_in_which_somebody_asks_does_not_matter(store, zone):
    view = make(store, "zoned", DRIVER, TWO)
    asks = pd.DataFrame({"number": [0, 1], "driver": [1, 1], "asked": pd.DatetimeIndex([at(-1), at(-1) - TICK]).tz_convert(zone)})
    store.wh._connection.register("asks_frame", asks)
    assert answers(store, [view], "FROM asks_frame", "zoned_value") == [(0.6,), (0.5,)]


def test_a_naive_time_counts_in_the_zone_that_the_view_names(store):
    """New York's clock goes from 1:59 to 3:00 on 10 March 2013, and from 1:59 back to 1:00 on 3 November: of two instants the later is meant."""
    times = ["2013-03-10 01:30", "2013-03-10 03:30", "2013-11-03 00:30", "2013-11-03 01:30", "2013-11-03 02:30"]
    rows = ", ".join(f"(1, TIMESTAMP '{time}:00', {number}.0)" for number, time in enumerate(times))
    naive = FeatureView("naive", "driver", "known", f"FROM (VALUES {rows}) AS given(driver, known, value)", 9 * HOUR)
    with pytest.raises(NaiveTime, match="names no time zone"):
        materialize(store, naive)
    view = replace(naive, zone="America/New_York")
    materialize(store, view)
    known = ["2013-03-10 06:30", "2013-03-10 07:30", "2013-11-03 04:30", "2013-11-03 06:30", "2013-11-03 07:30"]
    asked = [datetime.fromisoformat(f"{time}+00:00") - beside for time in known for beside in (TICK, timedelta(0))]
    spine = table(["number BIGINT", *DRIVER, "asked TIMESTAMPTZ"], [(number, 1, instant) for number, instant in enumerate(asked)])
    assert answers(store, [view], spine, "naive_value") == [(value,) for value in (None, 0.0, 0.0, 1.0, None, 2.0, 2.0, 3.0, 3.0, 4.0)]


@pytest.mark.parametrize("kind", ["table", "query", "frame"])
def test_whoever_asks_may_be_a_table_a_query_or_a_frame(store, kind):
    make(store, "asked_of", DRIVER, TWO)
    query = table(["number BIGINT", *DRIVER, "asked TIMESTAMPTZ"], [(0, 1, at(-1.5)), (1, 2, at(0)), (2, 2, at(0))])
    store.wh.publish("clean.asking", query)
    spine = {"table": "clean.asking", "query": query, "frame": store.wh.sql(query).df()}[kind]
    made = training_set(store, "features.answered", spine, ["asked_of"], at="asked")
    assert store.wh.sql("SELECT asked_of_value FROM features.answered ORDER BY number").fetchall() == [(0.5,), (0.3,), (0.3,)]
    assert find_training_set(store, "features.answered").digest == made.digest


def test_a_view_has_the_features_of_its_own_query_only(store):
    narrow = make(store, "narrow", DRIVER, TWO)
    materialize(store, FeatureView("wide", "driver", "known", f"SELECT *, value * 2 AS double FROM ({narrow.query})"), until=END)
    asks = table(["number BIGINT", *DRIVER, "asked TIMESTAMPTZ"], [(0, 1, at(0))])
    assert "wide_double" in training_set(store, "features.some", asks, ["wide:double", "narrow:value"], at="asked").columns
    with pytest.raises(UnknownFeature, match="`narrow:value`"):
        training_set(store, "features.some", asks, ["narrow:double"], at="asked")


def test_what_the_request_has_to_bring_is_missing(store):
    make(store, "rate", DRIVER, TWO)
    asks = table(["number BIGINT", *DRIVER, "asked TIMESTAMPTZ", "extra DOUBLE"], [(0, 1, at(0), 2.0), (1, 3, at(0), 1.0)])
    total = OnDemand("total", {"rate_value": float, "extra": float}, lambda value, extra: {"sum": value + extra, "hundred": value + 100})
    training_set(store, "features.totals", asks, ["rate", total], at="asked")
    assert store.wh.sql("SELECT total_sum, total_hundred FROM features.totals ORDER BY number").fetchall() == [(2.6, 100.6), (None, None)]
    with pytest.raises(BadOnDemand, match="no column `extra`"):
        training_set(store, "features.refused", f"SELECT * EXCLUDE (extra) FROM ({asks})", ["rate", total], at="asked")
    assert "features.refused" not in store.wh.names()


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(BadView, match="longer than nothing"):
        FeatureView("endless", "driver", "known", "FROM clean.trips", timedelta(0))
