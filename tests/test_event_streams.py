"""Events through a real Redis: consumers that are killed, a Redis that goes away and comes back, entries that cannot be read."""

import random
import secrets
import threading
import time
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import partial

import pytest
from support.consumers import DELAYS, consume_for_ever, fold_in_turn, ingest, landings
from support.processes import start
from support.servers import free_port, program, redis_server, running
from support.soak import SOAK, soak
from support.workspaces import make_workspace

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import OnlineUnavailable, SourceUnavailable
from ml_notebooks.features import streams
from ml_notebooks.features.events import ingest_events, kept_layout
from ml_notebooks.features.instants import microseconds
from ml_notebooks.features.materialize import materialize
from ml_notebooks.features.online import open_online
from ml_notebooks.features.online_store import EmbeddedStore
from ml_notebooks.features.push import held_online, push
from ml_notebooks.features.redis_store import RedisStore
from ml_notebooks.features.store import FeatureStore
from ml_notebooks.features.streams import EventStream, connected, consume, rejected_events, send_events
from ml_notebooks.workspace import find_workspace

EMPTY = "SELECT '' AS carrier, '' AS flight, now() AS landed_at, 0.0::DOUBLE AS delay WHERE false"


@pytest.fixture(scope="module")
def redis_at(tmp_path_factory):
    with redis_server(tmp_path_factory.mktemp("redis")) as (port, password):
        yield f"redis://127.0.0.1:{port}", password


@pytest.fixture
def stream(redis_at):
    address, password = redis_at
    return EventStream(address, f"landings-{secrets.token_hex(4)}", password=password, turn=3.0, claim=0.2, batch=20)


@pytest.fixture
def folder(tmp_path):
    """A workspace with a view that was pushed, and no events yet."""
    with open_warehouse(make_workspace(tmp_path)) as wh:
        wh.publish("clean.landings", EMPTY)
        materialize(FeatureStore(wh), DELAYS.view)
        push(FeatureStore(wh), DELAYS.view, EmbeddedStore(tmp_path / "online"))
    return tmp_path


@pytest.fixture
def wh(folder):
    with open_warehouse(make_workspace(folder)) as opened:
        yield opened


def check_online(wh, online, events):
    """Every event is in what is served exactly once: it is what the batch would push."""
    wh.publish("clean.landings", f"{EMPTY} UNION ALL VALUES " + ", ".join(f"('{e['carrier']}', '{e['flight']}', '{e['landed_at']}'::TIMESTAMPTZ, {e['delay']!r})" for e in events))
    materialize(FeatureStore(wh), DELAYS.view)
    (held,) = held_online(online, "delays")
    rows, kept = held.layout, kept_layout(held.layout)
    for carrier, at, *values in wh.sql("FROM features.delays QUALIFY landed_at = max(landed_at) OVER (PARTITION BY carrier)").fetchall():
        known, _, _, *served = rows.fields(online.read([rows.key((carrier,))])[0])
        assert known == microseconds(at)
        assert served == pytest.approx(values, rel=1e-9)
        text = kept.fields(online.read([kept.key((carrier,))])[0])[3]
        assert text.count("flight") == sum(event["carrier"] == carrier for event in events)


def pending(stream):
    """How many entries nobody acknowledged."""
    with connected(stream) as client:
        return client.xpending(stream.key, stream.group)["pending"]


@soak
def test_a_consumer_that_is_killed_loses_nothing_and_folds_nothing_twice(wh, folder, stream):
    events, chance = landings(range(300)), random.Random(1)
    random.Random(2).shuffle(events)
    rounds = 12 if SOAK else 1
    size = len(events) // rounds
    for number in range(rounds):
        send_events(stream, events[number * size : (number + 1) * size])
        with start(consume_for_ever, folder, stream) as consumer:
            for _ in range(chance.randrange(1, 4)):
                consumer.hear()
            time.sleep(chance.choice([0, 0.005, 0.02]))
            consumer.kill()
    send_events(stream, events[-5:])
    done = consume(stream, ingest(wh, folder), rest=3.5)
    assert done.became["repeated"] >= 5 and pending(stream) == 0
    check_online(wh, EmbeddedStore(folder / "online"), events)


@pytest.mark.parametrize("stored", [False, True])
def test_a_batch_that_fails_is_folded_again(wh, folder, stream, stored):
    events, fold, failures = landings(range(50)), ingest(wh, folder), [OSError("the disk is gone"), OnlineUnavailable("there", "It is gone.")]

    def fail_at_first(batch):
        became = fold(batch) if stored else None
        if failures:
            raise failures.pop(0)
        return became or fold(batch)

    send_events(stream, events)
    with pytest.raises(OSError, match="the disk is gone"):
        consume(stream, fail_at_first, rest=0.3)
    assert pending(stream) == 20
    done = consume(stream, fail_at_first, rest=0.3)  # an online store that does not answer is asked again
    assert pending(stream) == 0 and not failures
    assert done.became["repeated"] == (20 if stored else 0)
    assert done.became["in_order"] + done.became["late"] == (30 if stored else 50)
    check_online(wh, EmbeddedStore(folder / "online"), events)


def test_what_cannot_be_read_is_kept_with_its_reason(wh, folder, stream):
    good, midnight = landings(range(3)), datetime(2013, 7, 2, tzinfo=timezone.utc)
    before, after = (partial(ingest(wh, folder), now=midnight + timedelta(seconds=seconds)) for seconds in (-1, 1))
    early = [
        {"carrier": "UA", "flight": "early", "landed_at": midnight, "delay": 1},
        {"carrier": "UA", "flight": "far", "landed_at": "2199-01-01 00:00:00Z", "delay": 1},
    ]
    bad = [{"carrier": "UA", "flight": "x", "landed_at": "yesterday"}, {"carrier": "UA"}, {"nothing": ""}, good[0] | {"delay": "much"}, good[1] | {"flight": "nan", "delay": "nan"}]
    send_events(stream, [*good, *bad, *early])
    with connected(stream) as client:
        client.xadd(stream.key, {"carrier": b"\xff\xfe", "flight": "raw"})
    done = consume(stream, before, rest=0.3)
    assert done.became["in_order"] + done.became["late"] == 3 and done.became["refused"] == 6
    assert pending(stream) == 2 and done.became["ahead"] >= 2
    assert consume(stream, after, rest=0.3).became["in_order"] == 1 and pending(stream) == 1
    assert consume(EventStream(**vars(stream) | {"ahead": 0.0}), after, rest=0.3).became == {"refused": 1}
    assert pending(stream) == 0
    refused = rejected_events(stream)
    assert [said["flight"] for said in refused["event"] if "flight" in said] == ["x", good[0]["flight"], "nan", "far", "raw"]
    reasons = " ".join(refused["reason"])
    for part in ("`landed_at` is `yesterday`", "no `landed_at`", "no `carrier`", "`much`, which is no DOUBLE", "has not come", "not UTF-8", "STDDEV_SAMP is out of range"):
        assert part in reasons


def test_one_consumer_folds_and_another_takes_over(wh, folder, stream):
    events, results = landings(range(60)), {}

    def run(name, rest):
        results[name] = consume(stream, ingest(wh, folder), rest=rest)

    send_events(stream, events[:30])
    run("first", 0.2)
    with start(consume_for_ever, folder, stream) as other:
        send_events(stream, events[30:50])
        other.hear(), other.hear()
        thread = threading.Thread(target=run, args=("second", 4.0))
        thread.start()
        time.sleep(0.3)
        send_events(stream, events[50:55])
        other.hear(), other.hear()
        other.kill()
    send_events(stream, events[55:])
    thread.join()
    assert results["first"].entries == 30 and 5 <= results["second"].entries <= 10
    check_online(wh, EmbeddedStore(folder / "online"), events)


def test_one_redis_holds_the_stream_and_the_rows(wh, stream):
    events, online = landings(range(70)), RedisStore(stream.address, stream.password, stream.key)
    wh.publish("clean.landings", EMPTY)
    materialize(FeatureStore(wh), DELAYS.view)
    push(FeatureStore(wh), DELAYS.view, online)
    send_events(stream, [*events, *events[:10]])
    done = consume(stream, partial(ingest_events, wh, online, DELAYS), rest=0.3)
    assert done.entries == 80 and done.became["repeated"] == 10
    check_online(wh, online, events)
    online.close()


@pytest.mark.parametrize("where", ["embedded", "redis"])
def test_two_programs_that_fold_at_once_lose_nothing(wh, folder, redis_at, where):
    if where == "redis":
        address, password = redis_at
        (folder / "settings.ini").write_text(f"[workspace]\nname = two\n[online]\nstore = {address}\n")
        (folder / ".env").write_text(f"MLNB_ONLINE__PASSWORD={password}\n")
    online, numbers = open_online(find_workspace(folder)), range(36)
    push(FeatureStore(wh), DELAYS.view, online)
    with start(fold_in_turn, folder, numbers[::2]) as other:
        assert other.hear() == "ready"
        other.tell("go")
        for first in range(0, 18, 3):
            ingest_events(wh, online, DELAYS, landings(numbers[1::2][first : first + 3]))
        assert other.hear() == "done"
    check_online(wh, online, landings(numbers))
    online.close()


@contextmanager
def lasting_redis(folder, port, password):
    """A Redis that finds its data again."""
    config = folder / "lasting.conf"
    config.write_text(f'port {port}\nbind 127.0.0.1\nrequirepass {password}\nsave ""\nappendonly yes\nappendfsync always\ndir {folder}\n')
    with running([program("redis-server"), str(config)], port):
        yield


def test_a_redis_that_goes_away_is_waited_for(wh, folder, tmp_path):
    port, password, events = free_port(), secrets.token_urlsafe(16), landings(range(80))
    stream = EventStream(f"redis://127.0.0.1:{port}", "landings", password=password, turn=3.0, patience=20.0, batch=10)
    results = []
    thread = threading.Thread(target=lambda: results.append(consume(stream, ingest(wh, folder), rest=2.0)))
    with lasting_redis(tmp_path, port, password):
        send_events(stream, events[:40])
        thread.start()
        time.sleep(0.3)
    time.sleep(0.5)
    with lasting_redis(tmp_path, port, password):
        send_events(stream, events[40:])
        thread.join(60)
        assert results and pending(stream) == 0
        check_online(wh, EmbeddedStore(folder / "online"), events)
    began = time.monotonic()
    with pytest.raises(SourceUnavailable, match="run it again when it answers") as gone:
        consume(EventStream(**vars(stream) | {"patience": 0.5}), ingest(wh, folder), rest=5)
    assert time.monotonic() - began < 5 and password not in str(gone.value)


def test_a_consumer_goes_on_with_the_turn_that_it_had_when_redis_went_away(wh, folder, tmp_path, monkeypatch):
    port, password, events, fold = free_port(), secrets.token_urlsafe(16), landings(range(40)), ingest(wh, folder)
    stream = EventStream(f"redis://127.0.0.1:{port}", "landings", password=password, turn=600.0, batch=10)
    folding, stopped, away, results = threading.Event(), threading.Event(), threading.Event(), []

    @contextmanager
    def connected_and_told(stream):
        try:
            with connected(stream) as client:
                yield client
        except SourceUnavailable:
            away.set()  # the turn could not be given back
            raise

    def fold_once_stopped(batch):
        folding.set()
        assert stopped.wait(60)
        return fold(batch)

    monkeypatch.setattr(streams, "connected", connected_and_told)
    thread = threading.Thread(target=lambda: results.append(consume(stream, fold_once_stopped, rest=1.0)))
    with lasting_redis(tmp_path, port, password):
        send_events(stream, events)
        thread.start()
        assert folding.wait(60)
        assert consume(stream, fold, rest=0.1).entries == 0  # a second one of the same program waits for its turn
    stopped.set()
    assert away.wait(60)
    with lasting_redis(tmp_path, port, password):
        thread.join(60)
        (done,) = results
        assert done.entries == 40 and done.became["repeated"] == 10 and pending(stream) == 0
        check_online(wh, EmbeddedStore(folder / "online"), events)
