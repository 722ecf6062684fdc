"""Skew: none where all was pushed in time, whatever the types; each answer that was changed is found."""

import json
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from structlog.testing import capture_logs
from support.workspaces import make_workspace

from ml_notebooks.cli.app import main
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import BadSource
from ml_notebooks.features.events import Windowed, ingest_events
from ml_notebooks.features.materialize import materialize
from ml_notebooks.features.on_demand import OnDemand, keep_on_demand
from ml_notebooks.features.online import (
    EmbeddedStore,
    Request,
    RequestLog,
    logged_requests,
    online_features,
    online_reader,
    open_online,
    push,
)
from ml_notebooks.features.rolling import last
from ml_notebooks.features.skew import find_skew
from ml_notebooks.features.store import FeatureStore
from ml_notebooks.features.view import FeatureView

NOON = datetime(2013, 7, 1, 12, tzinfo=timezone.utc)
VALUES = {
    "share": "i / 7",
    "single": "(i / 7)::FLOAT",
    "price": "(i / 7)::DECIMAL(9, 3)",
    "large": "(100000000000000000000000000000::HUGEINT - i)::DECIMAL(38, 0)",
    "flag": "i % 2 = 0",
    "name": "'Zürich \"' || i",
    "day": "DATE '2013-07-01' + i::INTEGER",
    "when": "TIMESTAMPTZ '2013-07-01 10:00:00.000001Z' + INTERVAL (i) HOUR",
    "wait": "INTERVAL (i) MINUTE",
    "tail": "uuid()",
    "nothing": "NULL::DOUBLE",
    "sometimes": "CASE WHEN i % 2 = 0 THEN i END",
}
ROWS = (
    "SELECT ['EWR', 'J F K'][i % 2 + 1] AS origin, DATE '2013-07-01' AS planned, TIMESTAMPTZ '2013-07-01 12:00:00Z' + INTERVAL (i * 20) MINUTE AS known_at, "
    "TIMESTAMPTZ '2013-07-01 12:05:00Z' + INTERVAL (i * 20) MINUTE AS written_at, "
    + ", ".join(f"{value} AS {name}" for name, value in VALUES.items())
    + " FROM range(9) AS r(i)"
)


@pytest.fixture
def store(tmp_path):
    with open_warehouse(make_workspace(tmp_path)) as wh:
        yield FeatureStore(wh)


def test_what_is_pushed_in_time_has_no_skew_and_every_changed_answer_is_found(store, tmp_path):
    store.wh.publish("clean.facts", ROWS)
    view = FeatureView("facts", ("origin", "planned"), "known_at", "FROM clean.facts", timedelta(minutes=50), created="written_at", age=True)
    everybody = FeatureView("world", (), "known_at", "SELECT max(known_at) AS known_at, count(*) AS events FROM clean.facts WHERE known_at < '2013-07-01 13:00:00Z'")
    materialize(store, view)
    materialize(store, everybody)
    online, log = EmbeddedStore(tmp_path / "online"), RequestLog(tmp_path / "log")
    for minutes in (0, 4, 5, 30, 65, 66, 200, 250):
        at = NOON + timedelta(minutes=minutes)
        push(store, view, online, at=at)
        push(store, everybody, online, at=at)
        day = datetime(2013, 7, 1).date()
        asked = [{"origin": origin, "planned": day} for origin in ("EWR", "J F K", "nowhere")]
        online_reader(online, ["facts", "world:events"], log=log).read(asked, at=at)
    requests = list(logged_requests(tmp_path / "log"))
    skew = find_skew(store, requests)
    assert not skew.differences and not skew.not_compared
    assert skew.answers == {("facts", view.version): 24, ("world", everybody.version): 24}
    (file,) = (tmp_path / "log").iterdir()
    lines, changed = file.read_text().splitlines(), 0
    for number, line in enumerate(lines):
        said = json.loads(line)
        for place, row in enumerate(said["rows"]):
            column = (number * 3 + place) % len(row)
            row[column] = "another" if row[column] is None else None
            changed += 1
        lines[number] = json.dumps(said)
    file.write_text("\n".join(lines) + "\n")
    skew = find_skew(store, logged_requests(tmp_path / "log"))
    assert len(skew.differences) == changed == len(skew.to_frame()) == skew.by_view()[["missing", "expired", "late", "differs", "unknown"]].to_numpy().sum()
    assert "Skew(8 requests, 48 answers" in repr(skew) and "The first 20 of 24" in skew._repr_html_()


def test_what_was_streamed_in_order_is_what_the_batch_says_of_each_instant(store, tmp_path):
    store.wh.publish("clean.landings", "SELECT '' AS origin, 0 AS flight, now() AS landed_at, 0.0::DOUBLE AS delay WHERE false")
    windows = Windowed("delays", "origin", "landed_at", "flight", "clean.landings", last(1, "hours", delay=("mean", "deviation", "last", "count")), timedelta(hours=2))
    online, log = EmbeddedStore(tmp_path / "online"), RequestLog(tmp_path / "log")
    materialize(store, windows.view)
    push(store, windows.view, online)
    reader = online_reader(online, ["delays"], log=log)
    events = [{"origin": "EJ"[i % 2], "flight": i, "landed_at": NOON + timedelta(minutes=17 * i // 2), "delay": i * 1.1} for i in range(24)]
    for event in events:
        ingest_events(store.wh, online, windows, [event])
        reader.read([{"origin": origin} for origin in "EJX"], at=event["landed_at"])
    values = ", ".join(f"('{e['origin']}', {e['flight']}, '{e['landed_at'].isoformat()}'::TIMESTAMPTZ, {e['delay']!r})" for e in events)
    store.wh.append("clean.landings", f"SELECT origin, flight, landed_at, delay::DOUBLE AS delay FROM (VALUES {values}) AS e(origin, flight, landed_at, delay)")
    assert {one.kind for one in find_skew(store, logged_requests(tmp_path / "log")).differences} == {"unknown"}
    materialize(store, windows.view)
    skew = find_skew(store, logged_requests(tmp_path / "log"))
    assert not skew.differences and skew.answers["delays", windows.view.version] == 72


@pytest.fixture
def served(store, tmp_path):
    """Put rows of a view online and ask for them; what was logged."""
    online, log = EmbeddedStore(tmp_path / "online"), RequestLog(tmp_path / "log")

    def serve(*views, at=NOON, known=NOON):
        for view in views:
            materialize(store, view)
            push(store, view, online, at=known)
        online_reader(online, [view.name for view in views], log=log).read([(1,), (2,)], at=at)
        return list(logged_requests(tmp_path / "log"))

    yield serve
    online.close()


def test_a_served_column_that_offline_lacks_now_is_told(store, served):
    rows = "SELECT 1 AS k, TIMESTAMPTZ '2013-07-01 11:00:00Z' AS known_at, "
    store.wh.publish("clean.a", rows + "5 AS v, 6 AS b_x, NULL::INTEGER AS nothing")
    store.wh.publish("clean.ab", rows + "7 AS x, 8 AS y")
    short, long = FeatureView("a", "k", "known_at", "FROM clean.a"), FeatureView("a_b", "k", "known_at", "SELECT k, known_at, y FROM clean.ab")
    requests = served(short, long)
    assert not find_skew(store, requests).differences  # `a_b_x` is of `a`
    store.wh.publish("clean.a", rows + "5 AS v, 6 AS b_x")
    materialize(store, short)
    assert not find_skew(store, requests).differences  # no value was given
    store.wh.publish("clean.a", rows + "6 AS b_x")
    materialize(store, short)
    (one,) = (skew := find_skew(store, requests)).differences
    assert (one.view, one.entity, one.feature, one.online, one.offline, one.kind) == ("a", {"k": 1}, "v", 5, None, "lacking")
    assert list(skew.by_view()["lacking"]) == [1, 0]


def test_a_version_that_is_registered_and_not_computed_does_not_end_the_check(store, served):
    store.wh.publish("clean.a", "SELECT 1 AS k, TIMESTAMPTZ '2013-07-01 11:00:00Z' AS known_at, 5 AS v")
    view = FeatureView("a", "k", "known_at", "FROM clean.a")
    requests = served(view)
    store.register(replace(view, ttl=timedelta(minutes=10)))
    for one in (store, FeatureStore(store.wh)):  # as known in this program, and as the books have it
        skew = find_skew(one, requests)
        assert skew.answers == {("a", view.version): 2} and not skew.not_compared and not skew.differences
    materialize(store, replace(view, ttl=timedelta(minutes=10)))
    assert not find_skew(store, requests).answers


def test_a_row_whose_instant_had_not_come_is_ahead(store, served):
    rows = "SELECT 1 AS k, TIMESTAMPTZ '2013-07-01 {}:00Z' AS known_at, TIMESTAMPTZ '2013-07-01 {}:00Z' AS written_at, {} AS v"
    store.wh.publish("clean.a", f"{rows.format('11:00', '11:00', 5)} UNION ALL {rows.format('11:30', '12:30', 6)}")
    view = FeatureView("a", "k", "known_at", "FROM clean.a", created="written_at")
    (one,) = find_skew(store, served(view, known=NOON + timedelta(hours=1))).differences
    assert (one.kind, one.online, one.offline) == ("ahead", None, 5)


def test_a_view_that_the_warehouse_does_not_know_is_named(store, tmp_path):
    view = FeatureView("gone", "origin", "known_at", "SELECT 'EWR' AS origin, TIMESTAMPTZ '2013-07-01 12:00:00Z' AS known_at, 1 AS value")
    materialize(store, view)
    online, log = EmbeddedStore(tmp_path / "online"), RequestLog(tmp_path / "log")
    push(store, view, online)
    online_reader(online, ["gone"], log=log).read({"origin": "EWR"}, at=NOON)
    with open_warehouse(make_workspace(tmp_path / "other")) as wh:
        skew = find_skew(FeatureStore(wh), logged_requests(tmp_path / "log"))
    assert skew.not_compared == {("gone", view.version): ("", 1)} and "offline is no version" in skew._repr_html_()
    assert find_skew(store, []).requests == 0


def minutes_to(departs, delay, at):
    """Minutes from the end of a delay to a departure, and the hour of asking."""
    return {"left": (departs - at) / np.timedelta64(1, "m") - delay, "hour": (at - at.astype("datetime64[D]")) / np.timedelta64(1, "h")}


def test_on_demand_features_are_computed_again_from_what_the_request_gave(store, tmp_path):
    store.wh.publish("clean.facts", "SELECT 'EWR' AS origin, TIMESTAMPTZ '2013-07-01 11:00:00Z' AS known_at, 5.5::DOUBLE AS delay")
    view = FeatureView("facts", "origin", "known_at", "FROM clean.facts")
    rush = OnDemand("rush", {"departs": datetime, "facts_delay": float, "asked": datetime}, minutes_to)
    late = OnDemand("late", {"rush_left": float, "limit": float}, lambda left, limit: np.where(np.isnan(left), np.nan, left < limit))
    materialize(store, view)
    keep_on_demand(store, rush, late)
    online, log = EmbeddedStore(tmp_path / "online"), RequestLog(tmp_path / "log")
    push(store, view, online)
    given = {"departs": NOON.astimezone(ZoneInfo("America/New_York")), "asked": np.datetime64("2013-07-01T11:30:00"), "limit": Decimal("25.0")}
    asked = [{"origin": "EWR", **given}, {"origin": "JFK", **given}, {"origin": "EWR", **given, "departs": None}]
    online_reader(online, ["facts"], log=log, on_demand=[rush, late]).read(asked, at=NOON)
    (request,) = logged_requests(log.folder)
    assert [row[1:] for row in request.rows] == [[24.5, 11.5, 1.0], [None, 11.5, None], [None, 11.5, None]] and list(request.given) == ["departs", "asked", "limit"]
    skew = find_skew(store, [request])
    assert not skew.differences and skew.answers == {("facts", view.version): 3, ("rush", rush.version): 3}
    assert skew.not_compared == {("late", late.version): ("", 3)}  # its function has no name by which it could be found
    assert not find_skew(store, [request], [late]).not_compared and not find_skew(store, [request], [late]).differences
    request.rows[0][3] = 0.0
    (one,) = find_skew(store, [request], [late]).differences
    assert (one.view, one.feature, one.kind, one.online, one.offline) == ("late", "late", "differs", 0.0, 1.0)
    materialize(store, FeatureView("facts", "origin", "known_at", "SELECT *, 1 AS more FROM clean.facts"))
    assert find_skew(store, [request], [late]).not_compared.keys() == {("facts", view.version), ("rush", rush.version), ("late", late.version)}


def doubled(delay):
    """Twice a delay."""
    return delay * 2


def beyond(twice, limit):
    """How much more than a limit twice a delay is."""
    return twice - limit


@pytest.mark.parametrize("backwards", [False, True])
def test_on_demand_features_follow_what_they_need_however_a_log_names_them(store, tmp_path, backwards):
    view = FeatureView("facts", "origin", "known_at", "SELECT 'EWR' AS origin, TIMESTAMPTZ '2013-07-01 11:00:00Z' AS known_at, 5.5::DOUBLE AS delay")
    twice, over = OnDemand("twice", {"facts_delay": float}, doubled), OnDemand("over", {"twice": float, "limit": float}, beyond)
    materialize(store, view)
    keep_on_demand(store, twice, over)
    online, log = EmbeddedStore(tmp_path / "online"), RequestLog(tmp_path / "log")
    push(store, view, online)
    alone, both = (online_reader(online, ["facts"], log=log, on_demand=some) for some in ([over], [twice, over]))
    alone.read({"origin": "EWR", "twice": 3.0, "limit": 1.0}, at=NOON)  # what the other computes is given here
    both.read({"origin": "EWR", "limit": 1.0}, at=NOON)
    both.read({"origin": "EWR", "twice": 99.0, "limit": 1.0}, at=NOON)  # what is computed goes before what is given
    requests = list(logged_requests(log.folder))
    assert [request.rows[0][-1] for request in requests] == [2.0, 10.0, 10.0]
    if backwards:
        requests = [requests[0], replace(requests[1], on_demand=dict(reversed(requests[1].on_demand.items())))]
    skew = find_skew(store, requests)
    assert not skew.differences and not skew.not_compared
    assert skew.answers["over", over.version] == len(requests) and skew.answers["twice", twice.version] == len(requests) - 1
    poor = [replace(request, given={name: values for name, values in request.given.items() if name != "limit"}) for request in requests]
    skew = find_skew(store, poor)
    assert skew.not_compared == {("over", over.version): ("", len(requests))} and not skew.differences
    assert "`limit` is neither in the log nor known offline" in skew.by_view().note.iloc[-1]


def test_a_line_that_is_not_finished_is_passed_over_and_any_other_that_is_no_request_is_named(tmp_path):
    log = RequestLog(tmp_path)
    log.append(Request(1, {"facts": "0123456789ab"}, ["origin"], [["EWR"]], ["facts_delay"], [[1.0]], {"facts": [[1, 0]]}))
    (file,) = tmp_path.iterdir()
    fine = file.read_bytes()
    file.write_bytes(json.dumps(json.loads(fine) | {"asked": -1}).encode() + b"\n")
    assert [request.asked for request in logged_requests(tmp_path)] == [-1]  # before 1970
    for cut in (1, len(fine) // 2, len(fine) - 1):
        file.write_bytes(fine + fine[:cut])
        with capture_logs() as remarks:
            assert len(list(logged_requests(tmp_path))) == 1
        assert [(remark["log_level"], remark["line"]) for remark in remarks] == [("warning", 2)]
    said = json.loads(fine)
    spoilt = [{**said, "rows": [[1.0], [2.0]]}, {**said, "rows": [[]]}, {**said, "asked": "noon"}, {**said, "rows": 5}, {**said, "stamps": []}, {**said, "stamps": {}}, {**said, "versions": ["facts"]}, {**said, "on_demand": None}, {"asked": 1}, 5, None]
    for line in (b"", b"\xff\xfe", b"\0" * 9, fine[:20], *(json.dumps(one).encode() for one in spoilt)):
        file.write_bytes(fine + line + b"\n" + fine)
        with pytest.raises(BadSource, match=r"\.jsonl, line 2` could not be read\. The line is no request: "):
            list(logged_requests(tmp_path))


def test_skew_in_a_terminal(tmp_path, monkeypatch, capsys):
    def say(*words):
        monkeypatch.setattr(sys, "argv", ["mlnb", "features", "skew", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, capsys.readouterr()

    monkeypatch.chdir(tmp_path)
    with open_warehouse(make_workspace(tmp_path)) as wh:
        wh.publish("clean.facts", "SELECT 'EWR' AS origin, TIMESTAMPTZ '2013-07-01 11:00:00Z' AS known_at, 1 AS value")
        store, online, log = FeatureStore(wh), EmbeddedStore(tmp_path / "online"), RequestLog(tmp_path / "log")
        view = FeatureView("facts", "origin", "known_at", "FROM clean.facts")
        materialize(store, view)
        push(store, view, online)
        online_reader(online, ["facts"], log=log).read({"origin": "EWR"}, at=NOON)
    status, said = say()
    assert status == 1 and "online.requests" in said.err
    monkeypatch.setenv("MLNB_ONLINE__REQUESTS", "log")
    status, said = say("--json")
    assert status == 0 and json.loads(said.out)[0]["compared"] == 1
    (file,) = (tmp_path / "log").iterdir()
    file.write_text(file.read_text().replace('"rows":[[1]]', '"rows":[[2]]'))
    status, said = say("--each")
    assert status == 1 and "origin EWR" in said.out and "differs" in said.out
    whole = file.read_text()
    file.write_text(whole + whole[:20])
    status, said = say("--json")
    assert status == 1 and json.loads(said.out)[0]["skewed"] == 1 and "not finished and was passed over" in said.err
    file.write_text(whole[:20] + "\n" + whole)
    status, said = say()
    assert status == 1 and ".jsonl, line 1`" in said.err and "not foreseen" not in said.err
    file.write_text(whole)
    assert say()[0] == 1 and say("--since", "2013-07-02")[0] == 0 and say("--since", "noon")[0] == 1


def test_a_store_of_a_workspace_keeps_what_it_is_asked_where_the_setting_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLNB_ONLINE__REQUESTS", "log")
    monkeypatch.setattr(sys, "argv", ["mlnb", "features", "skew"])
    workspace = make_workspace(tmp_path)
    with open_warehouse(workspace) as wh:
        wh.publish("clean.facts", "SELECT 'EWR' AS origin, TIMESTAMPTZ '2013-07-01 11:00:00Z' AS known_at, 1 AS value")
        store = FeatureStore(wh)
        materialize(store, FeatureView("facts", "origin", "known_at", "FROM clean.facts"))
        push(store, "facts", open_online(workspace))
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "`open_online`" in (said := capsys.readouterr().out) and "holds no request" in said
    for _ in range(3):  # as a server that opens the store for each request
        online_features(open_online(workspace), [{"origin": "EWR"}], "facts", at=NOON)
    elsewhere = RequestLog(tmp_path / "elsewhere")
    online_reader(open_online(workspace), "facts", log=elsewhere).read({"origin": "EWR"}, at=NOON)
    assert len(list(logged_requests(tmp_path / "log"))) == 3 and len(list(logged_requests(elsewhere.folder))) == 1
    assert len(list((tmp_path / "log").iterdir())) == 1
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "facts" in capsys.readouterr().out
