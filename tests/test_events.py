"""Events: folded one by one, or many at a time, into what the batch computes; streamed through a Redis that comes and goes."""

import contextlib
import math
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.servers import redis_server
from support.soak import SOAK, soak
from support.workspaces import make_workspace

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import BadData, BadTime
from ml_notebooks.features.events import Windowed, fold, ingest_events
from ml_notebooks.features.instants import microseconds
from ml_notebooks.features.materialize import materialize
from ml_notebooks.features.online import RedisStore, online_reader
from ml_notebooks.features.online_store import EmbeddedStore
from ml_notebooks.features.push import held_online, push
from ml_notebooks.features.rolling import last
from ml_notebooks.features.store import FeatureStore

START = datetime(2013, 3, 10, 7, tzinfo=timezone.utc)
SCHEMA = pa.schema(
    [
        ("origin", pa.string()),
        ("carrier", pa.int32()),
        ("known_at", pa.timestamp("us", tz="UTC")),
        ("event", pa.int64()),
        ("delay", pa.float64()),
        ("late", pa.bool_()),
        ("gate", pa.string()),
        ("bags", pa.int64()),
    ]
)
NUMBERS = ("mean", "sum", "count", "min", "max", "deviation", "median", "first", "last", "distinct")
WINDOWS = (
    last(30, "minutes", delay=NUMBERS, late=("share", "count", "first", "last"), gate=("min", "max", "count", "distinct", "first", "last"))
    | last(90, "minutes", delay=("mean", "median", "deviation"), bags=("sum", "mean", "min"))
    | {"events": ("count(*)", timedelta(minutes=15))}
)


@pytest.fixture(scope="module")
def wh(tmp_path_factory):
    with open_warehouse(make_workspace(tmp_path_factory.mktemp("events"))) as opened:
        yield opened


def moment(step):
    """One of a few instants, some a microsecond beside a full quarter of an hour."""
    quarter, beside = divmod(step, 3)
    return START + timedelta(minutes=15 * quarter, microseconds=beside - 1)


EVENT = st.tuples(
    st.sampled_from(["EWR", 'J"F,K', ""]),
    st.sampled_from([1, -2]),
    st.integers(0, 30).map(moment),
    st.integers(1, 3),
    st.one_of(st.none(), st.sampled_from([0.1, -7.25, 1e12, 3.0]), st.floats(-1e6, 1e6, width=32)),
    st.sampled_from([None, True, False]),
    st.sampled_from([None, "", "A 1", 'b"[', "ä\\n", "null"]),
    st.one_of(st.none(), st.integers(-(2**48), 2**48)),  # the warehouse keeps a sum of whole numbers as DOUBLE
)


def mapping(event):
    """An event as an application has it."""
    return dict(zip(SCHEMA.names, event, strict=True))


def windows(wh, events, entity=("origin", "carrier")):
    """The definition, and a table with the events of the batch."""
    wh._connection.register("batch_rows", pa.Table.from_pylist([mapping(event) for event in events], SCHEMA))
    wh._connection.execute("CREATE OR REPLACE TEMP TABLE batch_events AS FROM batch_rows")
    return Windowed("windows", entity, "known_at", "event", "FROM temp.main.batch_events", WINDOWS)


def batch_rows(wh, definition):
    """The latest row of each entity as the view's query has it."""
    by = f"PARTITION BY {', '.join(definition.entity)}" if definition.entity else ""
    query = f"SELECT * REPLACE (epoch_us(known_at) AS known_at) FROM ({definition.view.query}) QUALIFY known_at = max(known_at) OVER ({by})"
    keys = len(definition.entity)
    return {line[:keys]: line[keys:] for line in wh.sql(query).fetchall()}


def alike(one, other):
    """Whether two values are the same, numbers but for their last digits."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-3 if max(abs(one), abs(other)) > 1e3 else 1e-6)
    return type(one) is type(other) and one == other


def check_same(folded, batch):
    """Compare rows that were folded with those of the batch."""
    assert folded.keys() == batch.keys()
    for entity, row in folded.items():
        known_at, *values = batch[entity]
        assert round((row.known_at - datetime(1970, 1, 1, tzinfo=timezone.utc)) / timedelta(microseconds=1)) == known_at
        differ = {name: (mine, theirs) for (name, mine), theirs in zip(row.features.items(), values, strict=True) if not alike(mine, theirs)}
        assert not differ


def fold_all(wh, definition, batches):
    """Fold one batch after the other, keeping nothing in between but what a store would keep."""
    rows, became = {}, []
    for batch in batches:
        known = dict(rows)
        done, new = fold(wh, definition, batch, lambda entities, known=known: [known[entity].kept for entity in entities if entity in known])
        rows |= new
        became.append(done)
    return rows, became


def cut(events, places):
    """The events in pieces."""
    ends = [0, *sorted(min(place, len(events)) for place in places), len(events)]
    return [events[begin:end] for begin, end in pairwise(ends)]


@soak
@settings(max_examples=150 if SOAK else 10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    events=st.lists(EVENT, max_size=16),
    again=st.lists(st.integers(0, 15), max_size=6),
    places=st.lists(st.integers(0, 20), max_size=5),
    entity=st.sampled_from([("origin", "carrier"), ("carrier",), ()]),
)
def test_events_fold_into_what_the_batch_computes(wh, events, again, places, entity):
    events = events + [events[place] for place in again if place < len(events)]
    definition = windows(wh, events, entity)
    rows, became = fold_all(wh, definition, cut([mapping(event) for event in events], places))
    check_same(rows, batch_rows(wh, definition))
    assert sum(done.events for done in became) == len(events)
    whole, (once,) = fold_all(wh, definition, ["FROM temp.main.batch_events"])
    assert {entity: row.kept for entity, row in whole.items()} == {entity: row.kept for entity, row in rows.items()}
    counts = ("in_order", "late", "outside")
    assert [sum(getattr(done, name) for done in became) for name in counts] == [getattr(once, name) for name in counts]


@soak
@settings(max_examples=30 if SOAK else 3, deadline=None, suppress_health_check=list(HealthCheck))
@given(events=st.lists(EVENT, min_size=1, max_size=12), places=st.lists(st.integers(0, 12), max_size=3), seed=st.uuids())
def test_what_is_served_is_what_a_push_would_write(wh, tmp_path_factory, events, places, seed):
    folder, store = tmp_path_factory.mktemp("online"), FeatureStore(wh)
    wh.publish("clean.events", pa.Table.from_pylist([], SCHEMA))
    definition = Windowed(f"view_{seed.hex}", ("origin", "carrier"), "known_at", "event", "clean.events", WINDOWS)
    materialize(store, definition.view)
    push(store, definition.view, EmbeddedStore(folder))
    for batch in cut([mapping(event) for event in events], places):
        streamed = EmbeddedStore(folder)  # as after a restart: what it knows is what is in the folder
        ingest_events(wh, streamed, definition, batch)
        streamed.close()
    wh.publish("clean.events", pa.Table.from_pylist([mapping(event) for event in events], SCHEMA))
    materialize(store, definition.view)
    pushed = EmbeddedStore(tmp_path_factory.mktemp("pushed"))
    push(store, definition.view, pushed)
    layout = held_online(pushed, definition.name)[0].layout
    keys = [layout.key(key) for key in sorted({event[:2] for event in events})]
    for one, other in zip(streamed.read(keys), pushed.read(keys), strict=True):
        assert all(map(alike, layout.fields(one), layout.fields(other)))
    assert push(store, definition.view, streamed).taken_out == 0


def test_a_window_begins_with_what_the_warehouse_has_and_a_stream_may_pause(wh, tmp_path):
    store, online = FeatureStore(wh), EmbeddedStore(tmp_path)
    events = [mapping(("EWR", 1, START + timedelta(minutes=5 * number), number, number / 3, True, "A", number)) for number in range(9)]
    definition = Windowed("begun", "origin", "known_at", "event", "clean.begun", WINDOWS)

    def batch(count):
        wh.publish("clean.begun", pa.Table.from_pylist(events[:count], SCHEMA))
        materialize(store, definition.view)
        push(store, definition.view, online)

    def streamed(event):
        ingest_events(wh, online, definition, [event])
        layout = held_online(online, "begun")[0].layout
        return layout.fields(online.read([layout.key(["EWR"])])[0])[3:]

    batch(3)
    served = [streamed(events[3])]
    batch(7)  # the stream pauses, and the batch does not
    served.append(streamed(events[7]))
    for count, row in zip((4, 8), served, strict=True):
        wh.publish("clean.begun", pa.Table.from_pylist(events[:count], SCHEMA))
        assert all(map(alike, row, batch_rows(wh, definition)["EWR",][1:]))


@pytest.mark.parametrize("stored", ["embedded", "redis"])
def test_a_push_leaves_events_alone_that_the_warehouse_may_still_lack(wh, tmp_path, stored):
    with contextlib.ExitStack() as rest:
        if stored == "redis":
            port, password = rest.enter_context(redis_server(tmp_path))
            online = RedisStore(f"redis://127.0.0.1:{port}/0", password)
        else:
            online = EmbeddedStore(tmp_path)
        rest.callback(online.close)
        store, now = FeatureStore(wh), datetime.now(timezone.utc)
        wh.publish("clean.slow", "SELECT 'EWR' AS origin, 1 AS event, now() - INTERVAL 30 MINUTE AS known_at, 10.0::DOUBLE AS delay")
        slow = Windowed("slow", "origin", "known_at", "event", "clean.slow", last(1, "hours", delay=("mean", "count")), late=timedelta(hours=2))
        materialize(store, slow.view)
        push(store, slow.view, online)
        event = {"origin": "EWR", "event": 2, "known_at": now - timedelta(minutes=10), "delay": 20.0}
        ingest_events(wh, online, slow, [event, event | {"origin": "JFK"}])
        materialize(store, slow.view, since="last")  # neither has come to the warehouse yet
        assert (done := push(store, slow.view, online)).written == done.taken_out == 0
        reader = online_reader(online, ["slow"])
        assert reader.read([("EWR",), ("JFK",)]).rows == [(15.0, 2), (20.0, 1)]
        prompt = replace(slow, late=timedelta(0))  # says that the table has all
        materialize(store, prompt.view)
        push(store, prompt.view, online)
        ingest_events(wh, online, prompt, [event, event | {"origin": "JFK"}])
        materialize(store, prompt.view)
        push(store, prompt.view, online)
        assert online_reader(online, ["slow"]).read([("EWR",), ("JFK",)]).rows == [(10.0, 1), (None, None)]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"known_at": "2013-07-01"}, "`2013-07-01`, which names no time zone"),
        ({"known_at": datetime(2013, 7, 1)}, "names no time zone"),
        ({"known_at": "2013-02-30 10:00:00Z"}, "is no TIMESTAMP WITH TIME ZONE"),
        ({"known_at": 1372672800000}, "is no TIMESTAMP WITH TIME ZONE"),
        ({"known_at": "infinity"}, "names no time zone"),
        ({"known_at": None}, "no `known_at`"),
        ({"carrier": None}, "no `carrier`"),
        ({"carrier": 1.5}, "`1.5`, which is no INTEGER"),
        ({"carrier": 2**40}, "is no INTEGER"),
        ({"event": None}, "no `event`"),
        ({"event": ""}, "is no BIGINT"),
        ({"late": "perhaps"}, "is no BOOLEAN"),
        ({"delay": [1]}, "`[1]`, which is no DOUBLE"),
        ({"bags": "1e3"}, "`1e3`, which is no BIGINT"),
        ({"delay": "x" * 5000}, "is no DOUBLE"),
        ({"fare": "12.345"}, "`12.345`, which is no DECIMAL(6,2)"),
        ({"fare": 12345.6}, "is no DECIMAL(6,2)"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_reason(wh, value, reason):
    good = mapping(("EWR", 1, START, 1, 0.5, True, "A", 3))
    definition = windows(wh, [])
    with_fare = replace(definition, events=f"SELECT *, NULL::DECIMAL(6, 2) AS fare FROM ({definition.events})")
    became, rows = fold(wh, with_fare, [good | {"fare": "12.50"}, good | value])
    assert list(became.refused) == [1] and reason in became.refused[1] and len(became.refused[1]) < 300
    assert became.in_order == 1 and len(rows) == 1


@pytest.mark.parametrize("events", [None, 5, [5], [None], b"UA", [{"origin": "EWR"}, ("EWR", 1)]], ids=repr)
def test_what_is_no_event_is_said_and_changes_nothing(wh, tmp_path, events):
    wh.publish("clean.none", "SELECT '' AS origin, 0 AS event, now() AS known_at, 0.0::DOUBLE AS delay WHERE false")
    windows, store = Windowed("none", "origin", "known_at", "event", "clean.none", last(1, "hours", delay="sum")), FeatureStore(wh)
    materialize(store, windows.view)
    with contextlib.closing(EmbeddedStore(tmp_path)) as online:
        push(store, windows.view, online)
        with pytest.raises(BadData, match=r"Event \d is .*Nothing was folded"):
            ingest_events(wh, online, windows, events)
        layout = held_online(online, "none")[0].layout
        assert online.read([layout.key(("EWR",))]) == [None]


def test_every_instant_with_a_time_zone_is_read(wh):
    written = ["2013-07-01T10:00:00Z", "2013-07-01 12:00:00+02", "2013-07-01 06:00:00.000000-04:00", "2013-07-01T15:30:00.0+0530", datetime(2013, 7, 1, 10, tzinfo=timezone.utc)]
    for place, at in enumerate(written):
        _, rows = fold(wh, windows(wh, []), [mapping(("EWR", 1, START, place, 0.5, True, "A", 3)) | {"known_at": at}])
        assert rows["EWR", 1].known_at == datetime(2013, 7, 1, 10, tzinfo=timezone.utc)


def test_frames_rows_and_mappings_fold_alike(wh):
    events = [("EWR", 1, moment(3 * number), number, number / 3, number % 2 == 0, "ä", 2**53 + number) for number in range(9)]
    definition = windows(wh, events)
    table = pa.Table.from_pylist([mapping(event) for event in events], SCHEMA)
    frame = table.to_pandas()
    results = [fold(wh, definition, given)[1] for given in ([mapping(event) for event in events], table, frame, "FROM temp.main.batch_events", frame.to_dict("records"))]
    assert all(result == results[0] for result in results) and len(results[0]) == 1


def test_what_is_kept_does_not_grow_beyond_the_window(wh):
    definition, kept = windows(wh, []), ""
    for number in range(0, 400, 20):
        batch = [mapping(("EWR", 1, START + timedelta(minutes=at), at, 1.0, True, "A", 1)) for at in range(number, number + 20)]
        became, rows = fold(wh, definition, batch, lambda _, kept=kept: [kept] if kept else [])
        kept = rows["EWR", 1].kept
        assert became.in_order == 20 and kept.count("EWR") == min(number + 20, 91)
    assert microseconds(rows["EWR", 1].known_at) == microseconds(START + timedelta(minutes=399))


def test_columns_may_have_any_name(wh):
    names = ["number", "select", "fate", "content", "at", 'a "b"', "refused", "ahead"]
    columns = ", ".join('1 AS "' + name.replace('"', '""') + '"' for name in names)
    events = f"SELECT {columns}, TIMESTAMPTZ '2013-07-01 10:00:00Z' AS \"when\", 2.5::DOUBLE AS \"value of it\""
    definition = Windowed("odd", ("number", 'a "b"'), "when", "select", events, last(1, "hours", fate="count", **{"value of it": "mean"}))
    _, rows = fold(wh, definition, events)
    assert rows[1, 1].features == {"fate_count_1h": 1, "value of it_mean_1h": 2.5}
    _, again = fold(wh, definition, events, lambda _: [rows[1, 1].kept])
    assert again == rows and wh.sql(definition.view.query).fetchall()[0][3:] == (1, 2.5)


def test_a_clock_that_names_no_zone_is_refused(wh):
    wh.publish("clean.zoneless", "SELECT 'a' AS who, now() AS at, 1 AS number, 0.5 AS value")
    windows = Windowed("zoneless", "who", "at", "number", "clean.zoneless", last(1, "hours", value="mean"))
    with pytest.raises(BadTime, match="names no time zone"):
        fold(wh, windows, [], lambda *_: [], datetime(2013, 7, 1))
