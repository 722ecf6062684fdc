"""Features as they are served: held against the join, in both stores; pushes killed, stores that go away, writers that race."""

import contextlib
import json
import os
import re
import signal
import subprocess
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.online import Paused, push_and_tell, read_rows
from support.processes import start
from support.servers import cutting_proxy, free_port, program, redis_server, running
from support.soak import SOAK, soak
from support.workspaces import fill, make_workspace, small_disk

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import (
    BadEntity,
    BadOnDemand,
    BadRequest,
    BadTime,
    DiskFull,
    NotPushed,
    NotServable,
    OnlineUnavailable,
    UnknownTrainingSet,
)
from ml_notebooks.features import push as pushing
from ml_notebooks.features.instants import microseconds
from ml_notebooks.features.materialize import materialize
from ml_notebooks.features.on_demand import OnDemand
from ml_notebooks.features.online import (
    EmbeddedStore,
    Reader,
    RedisStore,
    RequestLog,
    held_online,
    logged_requests,
    online_reader,
    open_online,
    push,
)
from ml_notebooks.features.online_rows import Layout
from ml_notebooks.features.online_store import is_before, takes_place
from ml_notebooks.features.point_in_time import point_in_time_query
from ml_notebooks.features.skew import find_skew
from ml_notebooks.features.store import FeatureStore
from ml_notebooks.features.training_set import find_training_set, training_set
from ml_notebooks.features.view import FeatureView
from ml_notebooks.workspace import find_workspace

START = datetime(2013, 7, 1, 12, tzinfo=timezone.utc)
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    with redis_server(tmp_path_factory.mktemp("redis")) as (port, password):
        yield f"redis://127.0.0.1:{port}/0", password


@pytest.fixture(scope="module", params=["embedded", "redis"])
def online(request, tmp_path_factory):
    if request.param == "embedded":
        store = EmbeddedStore(tmp_path_factory.mktemp("online"))
    else:
        store = RedisStore(*request.getfixturevalue("redis"), name="test [of*] names")
    yield store
    store.close()


@pytest.fixture(scope="module")
def wh(tmp_path_factory):
    with open_warehouse(make_workspace(tmp_path_factory.mktemp("pushed"))) as opened:
        yield opened


# rows and keys

VALUES = {
    "BIGINT": st.integers(-(2**63), 2**63 - 1),
    "UBIGINT": st.integers(0, 2**64 - 1),
    "HUGEINT": st.integers(-(2**127), 2**127 - 1),
    "DOUBLE": st.floats(),
    "FLOAT": st.floats(width=32),
    "BOOLEAN": st.booleans(),
    "VARCHAR": st.text(),
    "BLOB": st.binary(),
    "DATE": st.dates(),
    "TIME": st.times().map(lambda value: value.replace(fold=0)),
    "TIMESTAMP": st.datetimes().map(lambda value: value.replace(fold=0)),
    "TIMESTAMP WITH TIME ZONE": st.datetimes().map(lambda value: value.replace(fold=0, tzinfo=timezone.utc)),
    "INTERVAL": st.timedeltas(timedelta(days=-(10**6)), timedelta(days=10**6)),
    "DECIMAL(38,9)": st.decimals(allow_nan=False, allow_infinity=False, places=9, min_value=-(10**20), max_value=10**20),
    "UUID": st.uuids(),
}
COLUMNS = st.lists(st.sampled_from(sorted(VALUES)), max_size=12).flatmap(
    lambda types: st.tuples(st.just(types), st.tuples(*(st.none() | VALUES[kind] for kind in types)))
)
INSTANTS = st.datetimes(timezones=st.just(timezone.utc)).map(microseconds)


@soak
@settings(max_examples=20_000 if SOAK else 150, **QUIET)
@given(columns=COLUMNS, known=INSTANTS, written=INSTANTS)
def test_a_row_comes_back_with_values_and_types(columns, known, written):
    types, values = columns
    layout = Layout("v", "0" * 12, {}, {f"c{number}": kind for number, kind in enumerate(types)}, 1)
    fields = layout.fields(layout.row(known, written, values))
    assert fields[:2] == (known, written)
    assert repr(fields[3:]) == repr(values)  # NaN is NaN, 0.0 is not -0.0, 1 is not True


KEYS = ["BIGINT", "UBIGINT", "HUGEINT", "VARCHAR", "BOOLEAN", "DATE", "TIMESTAMP WITH TIME ZONE", "UUID"]
ENTITIES = st.lists(st.sampled_from(KEYS), min_size=1, max_size=3).flatmap(
    lambda types: st.tuples(st.just(types), *(st.tuples(*(VALUES[kind] for kind in types)),) * 2)
)


@soak
@settings(max_examples=20_000 if SOAK else 150, **QUIET)
@given(entities=ENTITIES)
def test_two_entities_share_a_key_only_when_they_are_one(entities):
    types, first, second = entities
    layout = Layout("v", "0" * 12, {f"k{number}": kind for number, kind in enumerate(types)}, {}, 1)
    assert (layout.key(first) == layout.key(second)) == (first == second)


@pytest.mark.parametrize(("kind", "value"), [("DATE", datetime(2013, 7, 1, 12)), ("DATE", datetime(2013, 7, 1)), ("DATE", pd.Timestamp(2013, 7, 1)), ("TIMESTAMP", datetime(2013, 7, 1).date())])
def test_a_day_is_no_instant_and_an_instant_no_day(kind, value):
    with pytest.raises(BadEntity):
        Layout("v", "0" * 12, {"key": kind}, {}, 1).key((value,))


def test_entities_that_only_nanoseconds_tell_apart_are_not_served(tmp_path, wh):
    wh.publish("raw.nanos", "SELECT make_timestamp_ns(1372680000000000000 + i) AS key, TIMESTAMPTZ '2013-07-01 12:00:00Z' AS known_at, i AS a FROM range(2) AS r(i)")
    view, store = FeatureView("nanos", "key", "known_at", "FROM raw.nanos"), FeatureStore(wh)
    materialize(store, view)
    with contextlib.closing(EmbeddedStore(tmp_path)) as online, pytest.raises(NotServable, match="TIMESTAMP_NS"):
        push(store, view, online)


# what the join answers

EVERY_TYPE = """
    SELECT i AS key, TIMESTAMPTZ '2013-07-01 12:00:00Z' AS known_at, * EXCLUDE i FROM (VALUES
        (1, 1::TINYINT, -32767::SMALLINT, 2147483647::INTEGER, (-9223372036854775807 - 1)::BIGINT, 255::UTINYINT, 18446744073709551615::UBIGINT, 12345::HUGEINT,
         0.1::FLOAT, 'nan'::DOUBLE, 1.50::DECIMAL(6, 2), true, 'Zürich', 'b'::ENUM('a', 'b'), '\\x00\\xFF'::BLOB, DATE '0001-01-01', TIME '23:59:59.999999', TIMESTAMP '9999-12-31 23:59:58',
         TIMESTAMPTZ '1969-07-20 20:17:40.000001Z', INTERVAL '1 month 2 days 3 microseconds', '6d7ddfee-9b93-4401-8e09-a41e31ffd956'::UUID, '{"a": 1}'::JSON, NULL::VARCHAR),
        (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
        (3, 0, 0, 0, 0, 0, 0, 0, 'inf'::FLOAT, -0.0, 0.00, false, '', 'a', ''::BLOB, DATE '1970-01-01', TIME '00:00', TIMESTAMP '1970-01-01', TIMESTAMPTZ '1970-01-01 00:00:00Z', INTERVAL 0 DAYS,
         '00000000-0000-0000-0000-000000000000'::UUID, 'null'::JSON, '')
    ) AS rows(i, a, b, c, d, e, f, g, h, j, k, l, m, n, o, p, q, r, s, t, u, v, w)
"""


def joined(wh, view, asks, at):
    """What the join answers somebody who asks now, in the order of asking."""
    keys = ", ".join(view.entity)
    rows = ", ".join(f"({number}, {', '.join('NULL' if part is None else repr(part) for part in ask)})" for number, ask in enumerate(asks))
    spine = f"SELECT *, TIMESTAMPTZ '{at.isoformat()}' AS asked_at FROM (VALUES {rows}) AS asks({', '.join(['number', *view.entity])})"
    skip = len(view.entity) + 2
    return [row[skip:] for row in wh.sql(f"FROM ({point_in_time_query(wh, spine, [view])}) ORDER BY number").fetchall()], keys


def test_every_type_is_served_as_the_join_gives_it(wh, online, monkeypatch):
    monkeypatch.setattr("ml_notebooks.features.materialize.summarise", lambda *_: [])  # no deviation of infinity
    wh.publish("clean.every", EVERY_TYPE)
    view = FeatureView("every", "key", "known_at", "FROM clean.every", timedelta(days=2), age=True)
    store, at = FeatureStore(wh), START + timedelta(days=1, seconds=59)
    materialize(store, view)
    push(store, view, online)
    asks = [(1,), (2,), (3,), (4,)]
    answers, _ = joined(wh, view, asks, at)
    assert repr(online_reader(online, ["every"]).read(asks, at).rows) == repr(answers).replace("<UTC>", "datetime.timezone.utc")


MOMENTS = st.integers(-6, 6).map(lambda step: START + timedelta(minutes=step // 2, microseconds=step % 2))
ROWS = st.lists(st.tuples(st.sampled_from(["EWR", "JFK"]), st.integers(1, 2), MOMENTS, MOMENTS, st.none() | st.integers(0, 9)), max_size=12)


@soak
@settings(max_examples=300 if SOAK else 3, **QUIET)
@given(data=st.data())
def test_what_is_pushed_answers_as_the_join_does(wh, online, data):
    rows, now = data.draw(ROWS), data.draw(MOMENTS)
    later = now + timedelta(microseconds=data.draw(st.integers(0, 300_000_000)))
    keys, created = data.draw(st.sampled_from([(), ("origin",), ("origin", "carrier")])), data.draw(st.booleans())
    rows = list({(row[: len(keys)], row[2], row[3] if created else None): row for row in rows}.values())
    visible = [max(row[2], row[3]) if created else row[2] for row in rows]
    rows = [row for row, moment in zip(rows, visible, strict=True) if moment <= now or moment > later]  # what becomes known in between, the next push puts
    values = ", ".join(f"('{row[0]}', {row[1]}, TIMESTAMPTZ '{row[2].isoformat()}', TIMESTAMPTZ '{row[3].isoformat()}', {'NULL' if row[4] is None else row[4]})" for row in rows)
    none = "SELECT '', 0, now(), now(), 0 WHERE false"
    wh.publish("clean.few", f"FROM ({f'VALUES {values}' if rows else none}) AS rows(origin, carrier, known_at, written_at, value)")
    ttl = data.draw(st.sampled_from([timedelta(microseconds=1), timedelta(minutes=2), timedelta(days=1)]))
    wanted = ", ".join([*keys, "known_at", *(["written_at"] if created else []), "value"])
    view = FeatureView("few", keys, "known_at", f"SELECT {wanted} FROM clean.few", ttl, created="written_at" if created else "", age=True)
    store = FeatureStore(wh)
    materialize(store, view)
    for one in held_online(online, "few"):  # of another example, whose clock may have stood later: its rows would rightly stay
        online.drop(one.layout.place)
    push(store, view, online, at=now)
    asks = [tuple(part for _, part in zip(keys, ask, strict=False)) for ask in [("EWR", 1), ("JFK", 2), ("LGA", 1), (None, 1)]]
    answers, _ = joined(wh, view, asks, later)
    found = online_reader(online, ["few"]).read(asks, later)
    assert found.rows == answers
    assert all(status == "present" or row == (None, None) for status, row in zip(found.status("few"), found.rows, strict=True))


# which row stays

STAMPS = st.sampled_from([-(2**62), -(2**32) - 1, -(2**32), -1, 0, 1, 2**32 - 1, 2**32, 2**53 + 1, 2**62])
WRITES = st.lists(st.tuples(st.integers(0, 2), STAMPS, STAMPS, st.integers(0, 1)), max_size=4)
SWEEPS = st.sets(st.integers(0, 2))
LAYOUT = Layout("model", "0" * 12, {"key": "BIGINT"}, {"value": "BIGINT"}, 1)


@soak
@settings(max_examples=3000 if SOAK else 60, **QUIET)
@given(steps=st.lists(st.tuples(STAMPS, WRITES | SWEEPS), max_size=6))
def test_both_stores_keep_what_the_rule_says(online, steps):
    online.drop(LAYOUT.place)
    kept = {}
    for until, step in steps:
        if isinstance(step, set):
            gone = [key for key, row in kept.items() if key not in step and is_before(row, until)]
            assert online.sweep(LAYOUT.place, {LAYOUT.key((key,)) for key in step}, until) == len(gone)
            kept = {key: row for key, row in kept.items() if key not in gone}
        else:
            count = 0
            for key, known, written, value in step:
                row = LAYOUT.row(known, written, [value])
                if takes_place(kept.get(key), row, until):
                    kept[key], count = row, count + 1
            rows = [(LAYOUT.key((key,)), LAYOUT.row(known, written, [value])) for key, known, written, value in step]
            assert online.write(rows, until) == count
        assert list(online.read([LAYOUT.key((key,)) for key in range(3)])) == [kept.get(key) for key in range(3)]


def test_places_do_not_touch_one_another(online):
    other = Layout("other", "0" * 12, {"key": "BIGINT"}, {"value": "BIGINT"}, 1)
    online.drop(LAYOUT.place)
    for layout in (LAYOUT, other):
        online.note(layout.place, layout.to_json())
        online.write([(layout.key((7,)), layout.row(1, 0, [7]))])
    assert online.drop(LAYOUT.place) == 1
    assert list(online.read([LAYOUT.key((7,)), other.key((7,))])) == [None, other.row(1, 0, [7])]
    assert LAYOUT.place not in online.notes() and online.notes()[other.place] == other.to_json()
    online.drop(other.place)


# pushes that are ended in the middle


def some_facts(wh, name, value, keys=400):
    """A materialised view of so many entities, both of whose features are one value."""
    wh.publish(f"raw.{name}", f"SELECT i AS key, TIMESTAMPTZ '2013-07-01 12:00:00Z' AS known_at, {value} AS a, {value} AS b FROM range({keys}) AS r(i)")
    view = FeatureView(name, "key", "known_at", f"FROM raw.{name}", timedelta(days=100_000))
    materialize(FeatureStore(wh), view)
    return view


def test_the_version_pushed_last_is_read_where_a_clock_was_put_back(wh, online, monkeypatch):
    class Back(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) - timedelta(hours=2)

    old = some_facts(wh, "clocked", 1, keys=3)
    push(FeatureStore(wh), old, online)
    new = replace(old, ttl=timedelta(days=99_999))
    materialize(FeatureStore(wh), new)
    monkeypatch.setattr(pushing, "datetime", Back)
    push(FeatureStore(wh), new, online)
    first, last = held_online(online, "clocked")
    assert last.pushed_at < first.pushed_at and [first.layout.version, last.layout.version] == [old.version, new.version]
    assert online_reader(online, ["clocked"]).versions == {"clocked": new.version}


def workspace_with(folder, store, password=""):
    workspace = make_workspace(folder)
    (folder / "settings.ini").write_text(f"[workspace]\nname = test\n[online]\nstore = {store}\n")
    if password:
        (folder / ".env").write_text(f"MLNB_ONLINE__PASSWORD={password}\n")
    return find_workspace(workspace.root)


@pytest.fixture(params=["embedded", "redis"])
def workspace(request, tmp_path):
    if request.param == "embedded":
        return workspace_with(tmp_path, "data/online")
    return workspace_with(tmp_path, *request.getfixturevalue("redis"))


def test_a_push_that_is_killed_is_completed_by_the_next(workspace):
    with open_warehouse(workspace) as wh:
        some_facts(wh, "facts", 1)
    online, asks = open_online(workspace), [(key,) for key in range(400)]
    with start(push_and_tell, workspace.root, "facts", 100) as worker:
        assert worker.hear() == 100
        worker.tell("on")
        assert worker.hear() == 100
        worker.kill()
    with pytest.raises(NotPushed, match="its first push was not completed"):
        online_reader(online, ["facts"])
    with open_warehouse(workspace) as wh:
        done = push(FeatureStore(wh), "facts", online)
        assert (done.entities, done.written) == (400, 200)
        reader = online_reader(online, ["facts"])
        assert set(reader.read(asks).rows) == {(1, 1)}
        some_facts(wh, "facts", 2)
    with start(push_and_tell, workspace.root, "facts", 100) as worker:
        assert worker.hear() == 100
        worker.kill()
    assert [reader.read(asks).rows.count(row) for row in [(1, 1), (2, 2)]] == [300, 100]
    with open_warehouse(workspace) as wh:
        assert push(FeatureStore(wh), "facts", online).written == 300
    assert set(reader.read(asks).rows) == {(2, 2)}
    online.close()


def test_a_reader_sees_whole_rows_while_rows_are_pushed(workspace):
    with open_warehouse(workspace) as wh:
        view = some_facts(wh, "facts", 0, keys=300)
        online, store = open_online(workspace), FeatureStore(wh)
        push(store, view, online)
        with start(read_rows, workspace.root, "facts", 300) as worker:
            assert worker.hear() == "reading"
            layout = held_online(online)[0].layout
            for value in range(1, 40):
                online.write([(layout.key((key,)), layout.row(microseconds(START), 0, [value, value])) for key in range(300)])
            worker.tell("stop")
            reads, torn = worker.hear()
    assert reads > 0 and torn == []
    online.close()


@contextlib.contextmanager
def lasting_redis(folder, port):
    """A Redis that keeps what it acknowledged, to be killed."""
    command = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "yes", "--appendfsync", "always"]
    with running(command, port) as process:
        yield process


def test_a_redis_that_goes_away_and_comes_back(wh, tmp_path, monkeypatch):
    port = free_port()
    view, store = some_facts(wh, "lasting", 1), FeatureStore(wh)
    monkeypatch.setattr(pushing, "_BATCH", 100)
    online = RedisStore(f"redis://127.0.0.1:{port}")
    batches = []
    with lasting_redis(tmp_path, port) as process:

        def kill_after_three(count):
            batches.append(count)
            if len(batches) == 3:
                process.send_signal(signal.SIGKILL)
                process.wait()

        with pytest.raises(OnlineUnavailable, match=r"does not answer.*Nothing is lost"):
            push(store, view, Paused(online, kill_after_three))
    with pytest.raises(OnlineUnavailable, match="does not answer"):
        online_reader(online, ["lasting"])
    with lasting_redis(tmp_path, port):
        assert (done := push(store, view, online)).written == 100 and done.entities == 400
        assert set(online_reader(online, ["lasting"]).read([(key,) for key in range(400)]).rows) == {(1, 1)}


@pytest.mark.parametrize("restarted", [False, True])
def test_a_redis_that_lost_what_was_put_is_not_noted_as_pushed(wh, tmp_path, monkeypatch, restarted):
    port = free_port()
    command = [program("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", ""]
    view, store = some_facts(wh, "forgotten", 1), FeatureStore(wh)
    monkeypatch.setattr(pushing, "_BATCH", 100)
    online = RedisStore(f"redis://127.0.0.1:{port}")
    with contextlib.ExitStack() as servers:
        process, batches = servers.enter_context(running(command, port)), []

        def lose_after_two(count):
            batches.append(count)
            if len(batches) == 2 and restarted:
                process.kill()
                process.wait()
                servers.enter_context(running(command, port))
            elif len(batches) == 2:
                online._client.flushall()

        with pytest.raises(NotPushed, match=r"has lost what this push noted.*Push again"):
            push(store, view, Paused(online, lose_after_two))
        with pytest.raises(NotPushed):
            online_reader(online, ["forgotten"])
        assert push(store, view, online).written == 400
        assert set(online_reader(online, ["forgotten"]).read([(key,) for key in range(400)]).rows) == {(1, 1)}
        online.close()


# pushes that overlap, and what a stream has put


class Between:
    """An online store that calls somebody once, before a batch is put, or before rows are taken out."""

    def __init__(self, online, call, of):
        self._online, self._calls, self._of = online, [call], of

    def _call(self, of):
        if of == self._of and self._calls:
            self._calls.pop()()

    def write(self, rows, until):
        self._call("write")
        return self._online.write(rows, until)

    def sweep(self, place, keep, until):
        self._call("sweep")
        return self._online.sweep(place, keep, until)

    def __getattr__(self, name):
        return getattr(self._online, name)


@pytest.mark.parametrize("of", ["write", "sweep"])
@pytest.mark.parametrize("changed", [True, False])
def test_an_older_push_undoes_nothing_of_a_newer_one(tmp_path, online, of, changed):
    late = "TIMESTAMPTZ '2013-07-01 13:00:00Z'"
    rows = "FROM range({}) AS r(key), (SELECT TIMESTAMPTZ '2013-07-01 12:00:00Z' AS known_at)"
    view = FeatureView("raced", "key", "known_at", "FROM raw.raced", timedelta(days=100_000))
    with open_warehouse(make_workspace(tmp_path)) as wh, open_warehouse(make_workspace(tmp_path)) as other:
        wh.publish("raw.raced", f"SELECT key, known_at, 1 AS value {rows.format(3)}")
        materialize(FeatureStore(wh), view)

        def push_newer():
            if changed:
                other.publish("raw.raced", f"SELECT key, known_at, 2 AS value {rows.format(3)} UNION ALL SELECT key, {late}, 3 {rows.format(5)} WHERE key > 1")
                materialize(FeatureStore(other), view)
            push(FeatureStore(other), view, online)

        done = push(FeatureStore(wh), view, Between(online, push_newer, of))
    assert online_reader(online, ["raced"]).read([(key,) for key in range(6)]).rows == ([(2,), (2,), (3,), (3,), (3,), (None,)] if changed else [(1,)] * 3 + [(None,)] * 3)
    assert done.entities == held_online(online, "raced")[-1].entities == (5 if changed else 3)
    online.drop(held_online(online, "raced")[-1].layout.place)


def test_a_push_that_cannot_see_the_newer_state_says_so(tmp_path):
    online = EmbeddedStore(tmp_path / "online")
    with open_warehouse(make_workspace(tmp_path)) as wh:
        store, view = FeatureStore(wh), some_facts(wh, "stuck", 1, keys=3)

        def push_from_elsewhere():
            (held,) = held_online(online)
            pushing._note(online, replace(held, push="another", state=held.state + 100))

        with pytest.raises(NotPushed, match="Let the other end"):
            push(store, view, Between(online, push_from_elsewhere, "sweep"))
        assert push(store, view, online).entities == 3 and held_online(online)[0].pushed_at  # one that begins afterwards is not held up
        online.close()


def test_what_is_past_its_ttl_is_counted(tmp_path, wh):
    view = replace(some_facts(wh, "aged", 1, keys=3), ttl=timedelta(hours=1))
    materialize(FeatureStore(wh), view)
    with contextlib.closing(EmbeddedStore(tmp_path)) as online:
        assert push(FeatureStore(wh), view, online, at=START + timedelta(hours=1)).expired == 0
        done = push(FeatureStore(wh), view, online, at=START + timedelta(hours=1, microseconds=1))
    assert done.expired == 3 and "3 past their `ttl`" in repr(done)


def test_a_connection_that_is_cut_in_the_middle_of_an_answer(wh, redis):
    view, store = some_facts(wh, "cut", 1), FeatureStore(wh)
    address, password = redis
    port = int(address.rpartition(":")[2].partition("/")[0])
    with cutting_proxy(port, after=20, times=5) as (through, _):
        online = RedisStore(f"redis://127.0.0.1:{through}/0", password)
        for _ in range(10):
            with contextlib.suppress(OnlineUnavailable):
                push(store, view, online)
                break
        assert set(online_reader(online, ["cut"]).read([(key,) for key in range(400)]).rows) == {(1, 1)}
        online.close()


def test_a_wrong_password_and_a_server_that_says_no(redis):
    address, password = redis
    for wrong in (None, "hunter2"):
        with pytest.raises(OnlineUnavailable, match="does not answer") as caught:
            RedisStore(address, wrong).notes()
        assert "hunter2" not in str(caught.value)
    online = RedisStore(address, password)
    online._client.config_set("maxmemory", "1")
    try:
        with pytest.raises(OnlineUnavailable, match="maxmemory"):
            online.write([(b"key", bytes(16))])
    finally:
        online._client.config_set("maxmemory", "0")


def test_a_full_disk_loses_nothing(tmp_path):
    with small_disk(tmp_path / "disk", "6m") as disk:
        online = EmbeddedStore(disk / "online")
        rows = [(LAYOUT.key((key,)), LAYOUT.row(1, 0, [key])) for key in range(30_000)]
        online.write(rows[:1000])
        ballast = fill(disk)
        with pytest.raises(DiskFull):
            online.write(rows)
        assert list(online.read([key for key, _ in rows[:1001]])) == [*(row for _, row in rows[:1000]), None]
        ballast.unlink()
        assert online.write(rows) == 29_000
        online.close()


def test_the_command_pushes(tmp_path):
    workspace = workspace_with(tmp_path, "data/online")
    with open_warehouse(workspace) as wh:
        some_facts(wh, "facts", 1, keys=3)
        FeatureStore(wh).register(FeatureView("lasting", "key", "known_at", "FROM raw.facts"))
    environment = {**os.environ, "MLNB_HOME": str(workspace.root)}

    def run(*words):
        return subprocess.run([program("mlnb"), "features", "push", *words], capture_output=True, text=True, env=environment, check=False)

    done = run("facts", "--json")
    assert done.returncode == 0, done.stderr
    (said,) = json.loads(done.stdout)
    assert (said["view"], said["entities"], said["written"], said["expired"]) == ("facts", 3, 3, 0)
    assert "No view says `online=True`" in run().stdout
    lost = run("lastin")
    assert lost.returncode == 1
    assert "Did you mean `lasting`?" in lost.stderr


def test_a_fork_while_threads_read_is_told_and_the_parent_reads_on(tmp_path):
    online = EmbeddedStore(tmp_path)
    row = LAYOUT.row(1, 0, [7])
    online.write([(LAYOUT.key((7,)), row)])
    with online._env.begin():  # as a thread that is reading holds it
        child = os.fork()
        if child == 0:
            try:
                online.read([LAYOUT.key((7,))])
            except OnlineUnavailable as error:
                os._exit(7 if "`spawn`" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    for _ in range(2000):
        assert list(online.read([LAYOUT.key((7,))])) == [row]
    assert online._env.info()["num_readers"] < 10
    online.close()


# what a model was trained on


ONE_ROW = "SELECT 1 AS k, TIMESTAMPTZ '2013-07-01 11:00:00Z' AS known_at, "


@pytest.mark.parametrize(
    ("asked", "columns", "words"),
    [
        ("s", "0 AS a, 6.0::DOUBLE AS x, 5.0::DOUBLE AS v", ""),  # another column is there, and the order is another
        ("s", "'five' AS v, 6.0::DOUBLE AS x", "Column `v` .* `v` was DOUBLE and is VARCHAR.*Train again"),
        ("s", "6.0::DOUBLE AS x", "Column `v` .* `v` is gone"),
        ("s:x", "'five' AS v, 6.0::DOUBLE AS x", ""),
        ("s:x", "5.0::DOUBLE AS v", "Column `x` .* `x` is gone"),
    ],
)
@pytest.mark.parametrize("recalled", [False, True])
def test_a_model_is_served_the_columns_that_it_was_trained_on_or_nothing(tmp_path, asked, columns, words, recalled):
    view = FeatureView("s", "k", "known_at", "FROM clean.s", age=True)
    with open_warehouse(make_workspace(tmp_path)) as wh, contextlib.closing(EmbeddedStore(tmp_path / "online")) as online:
        store = FeatureStore(wh)

        def put(columns):
            wh.publish("clean.s", ONE_ROW + columns)
            materialize(store, view)
            push(store, view, online, at=START)

        put("5.0::DOUBLE AS v, 6.0::DOUBLE AS x")
        made = training_set(store, "features.ts", "SELECT 1 AS k, TIMESTAMPTZ '2013-07-01 12:00:00Z' AS asked_at", [asked])
        assert find_training_set(store, "features.ts") == made
        old = online_reader(online, made)
        assert old.columns == made.columns[2:] and old.read([(1,)], START).rows == [wh.table("features.ts").fetchall()[0][2:]]
        put(columns)
        with pytest.raises(NotPushed, match=r"as this reader reads it, of the view `s` is not online. The version is there with other columns: .*Make a new reader"):
            old.read([(1,)], START)
        if words:
            with pytest.raises(NotServable, match=words):
                online_reader(online, find_training_set(store, "features.ts") if recalled else made)
        else:
            reader = online_reader(online, find_training_set(store, "features.ts") if recalled else made)
            assert reader.columns == made.columns[2:] and reader.read([(1,)], START).rows == [wh.table("features.ts").fetchall()[0][2:]]
        older = replace(made, features=None)  # of books that do not say: all that is there is read
        assert "s_age" in online_reader(online, older).columns


def test_a_model_is_served_what_it_was_trained_on_after_its_set_was_made_anew(tmp_path):
    with open_warehouse(make_workspace(tmp_path)) as wh, contextlib.closing(EmbeddedStore(tmp_path / "online")) as online:
        store, sets = FeatureStore(wh), []
        wh.publish("clean.s", ONE_ROW + "5.0::DOUBLE AS v")
        for sign in ("", "-"):
            view = FeatureView("s", "k", "known_at", f"SELECT k, known_at, {sign}v AS v FROM clean.s")
            materialize(store, view)
            push(store, view, online, at=START)
            sets.append(training_set(store, "features.ts", "SELECT 1 AS k, TIMESTAMPTZ '2013-07-01 12:00:00Z' AS asked_at", "s"))
        first, last = (find_training_set(store, "features.ts", made.digest, made.views) for made in sets)
        assert [first, last] == sets and find_training_set(store, "features.ts") == last
        assert [online_reader(online, made).read([(1,)], START).rows for made in (first, last)] == [[(5.0,)], [(-5.0,)]]
        with pytest.raises(UnknownTrainingSet, match=rf"`features\.ts {first.digest}` was not made.*There is one: `features\.ts`"):
            find_training_set(store, "features.ts", first.digest, last.views)


def test_a_training_set_of_on_demand_features_alone_is_served(tmp_path):
    twice = OnDemand("twice", {"x": float}, lambda x: x * 2)
    log = RequestLog(str(tmp_path / "log"))
    with open_warehouse(make_workspace(tmp_path)) as wh, contextlib.closing(EmbeddedStore(tmp_path / "online")) as online:
        made = training_set(FeatureStore(wh), "features.od", "SELECT 2.0::DOUBLE AS x, TIMESTAMPTZ '2013-07-01 12:00:00Z' AS asked_at", [twice])
        reader = online_reader(online, made, log=log, on_demand=[twice])
        assert reader.read({"x": 3.0}, START).to_dict() == {"twice": [6.0]} and reader.read([{"x": 1.0}, {"x": None}]).rows == [(2.0,), (None,)] and reader.read([]).rows == []
        with pytest.raises(BadOnDemand):
            reader.read([(3.0,)])
        skew = find_skew(FeatureStore(wh), logged_requests(str(tmp_path / "log")), [twice])
        assert skew.answers == {("twice", twice.version): 3} and not skew.differences


# what is no request


WHOM = [
    (5, "Found 5 (int)"),
    (None, "Found None (NoneType)"),
    ("EWR", "Found 'EWR' (str)"),
    ({"EWR"}, "(set)"),
    ([5], "Found 5 (int) for an entity"),
    (["EWR"], "Found 'EWR' (str) for an entity"),
    ([("EWR",), "JFK"], "Found 'JFK' (str) for an entity"),
    ([b"EWR"], "Found b'EWR' (bytes) for an entity"),
    ([("EWR",), {"origin": "JFK"}], "not all given in one way"),
    ([{"origin": "JFK"}, ("EWR",)], "not all given in one way"),
    (pd.DataFrame({"origin": ["EWR"]}), "(DataFrame)"),
]


@pytest.mark.parametrize(("entities", "words"), WHOM, ids=repr)
@pytest.mark.parametrize("demanding", [False, True])
def test_a_request_that_names_nobody_says_what_was_found(tmp_path, entities, words, demanding):
    layout = Layout("last", "0123456789ab", {"origin": "VARCHAR"}, {"delay": "BIGINT"}, 1)
    store = EmbeddedStore(tmp_path)
    store.note(layout.place, "")
    twice = OnDemand("twice", {"last_delay": float}, lambda delay: delay * 2)
    reader = Reader(store, [layout], {"last": ["delay"]}, on_demand=[twice] if demanding else ())
    with contextlib.closing(store), pytest.raises(BadRequest, match=re.escape(words)):
        reader.read(entities)


def test_a_text_is_no_list_of_entities_for_a_view_of_everybody_either():
    with pytest.raises(BadRequest, match="Found 'abc'"):
        Reader(None, [Layout("world", "0123456789ab", {}, {"events": "BIGINT"}, 1)], {"world": ["events"]}).read("abc")


@pytest.mark.parametrize(("at", "words"), [(START.replace(tzinfo=None), "names no time zone"), ("2013-07-01T12:00Z", "is a str"), (START.date(), "is a date"), (5, "is a int")])
def test_an_instant_that_is_none_says_why(at, words):
    with pytest.raises(BadTime, match=f"{words}.*tzinfo=timezone.utc"):
        Reader(None, [], {}).read([], at=at)


def test_whoever_asks_a_view_of_everybody_is_answered_and_a_log_keeps_keys_alone(tmp_path):
    everybody, last = Layout("world", "0123456789ab", {}, {"events": "BIGINT"}, 10**6), Layout("last", "0123456789ab", {"origin": "VARCHAR"}, {"delay": "BIGINT"}, 1)
    log = RequestLog(tmp_path / "log")
    with contextlib.closing(EmbeddedStore(tmp_path)) as store:
        for layout in (everybody, last):
            store.note(layout.place, "")
        store.write([(everybody.key(()), everybody.row(microseconds(START), 0, [7]))])
        assert Reader(store, [everybody], {"world": ["events"]}, log).read([5, ()], at=START).rows == [(7,), (7,)]
        Reader(store, [last], {"last": ["delay"]}, log).read([("EWR", "more")], at=START)
    assert [request.entities for request in logged_requests(tmp_path / "log")] == [[[], []], [["EWR"]]]
