"""Generated features: held against pandas, and against a world whose future was deleted or altered."""

from datetime import datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.soak import SOAK, soak
from support.workspaces import make_workspace

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import BadTransform
from ml_notebooks.features.generate import generate
from ml_notebooks.features.materialize import materialize
from ml_notebooks.features.relations import Events, State
from ml_notebooks.features.store import FeatureStore
from ml_notebooks.features.training_set import training_set

START = datetime(2013, 7, 1, tzinfo=timezone.utc)
INSTANT = pa.timestamp("us", tz="UTC")
WINDOWS = (timedelta(minutes=30), timedelta(hours=2))
KEYS = ["a", "b", None]


@pytest.fixture(scope="module")
def wh(tmp_path_factory):
    with open_warehouse(make_workspace(tmp_path_factory.mktemp("generate"))) as opened:
        yield opened


def moments(most):
    """Instants of a few quarters of an hour, so that ties and edges of windows are met."""
    return st.integers(0, most).map(lambda quarter: START + timedelta(minutes=15 * quarter))


ITEMS = st.lists(
    st.tuples(
        st.sampled_from([1, 2, None]),
        moments(14),
        st.one_of(st.none(), st.integers(-5, 5)),
        st.sampled_from([True, False, None]),
        st.sampled_from(["x", "y", "z y", None]),
    ),
    min_size=2,
    max_size=14,
)
ORDERS = st.lists(st.tuples(st.sampled_from([1, 2]), moments(10), st.sampled_from(KEYS)), max_size=6)
ASKS = st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), moments(24)), min_size=1, max_size=6)
ITEM = pa.schema(
    {"order_id": pa.int64(), "known_at": INSTANT, "price": pa.int64(), "gift": pa.bool_(), "colour": pa.string()}
)
ORDER = pa.schema({"order_id": pa.int64(), "ordered_at": INSTANT, "customer": pa.string()})
ASK = pa.schema({"customer": pa.string(), "asked_at": INSTANT})


def publish(wh, items, orders, asks):
    """Write the three tables, the asks with a number."""
    for name, rows, schema in (("items", items, ITEM), ("orders", orders, ORDER), ("asks", asks, ASK)):
        table = pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)
        if name == "asks":
            table = table.append_column("number", pa.array(range(len(rows))))
        wh.publish(f"clean.{name}", table)


def owner(orders, order, moment):
    """Whose an order was at a moment; of several rows of one instant the greatest."""
    known = [row for row in orders if row[0] == order and row[1] <= moment]
    last = max((row[1] for row in known), default=None)
    names = [row[2] for row in known if row[1] == last and row[2] is not None]
    return max(names, default=None)


def brute_force(items, orders, customer, asked):
    """What was known of a customer, found by looking at every row."""
    mine = [row for row in items if row[0] is not None and owner(orders, row[0], row[1]) == customer and row[1] <= asked]
    if not mine:
        return {}
    last, longest = max(row[1] for row in mine), max(WINDOWS)
    if asked - last > longest:
        return {}
    said = {"age": (asked - last) // timedelta(minutes=1)}
    for window, letters in zip(WINDOWS, ("30min", "2h"), strict=True):
        rows = pd.DataFrame([row for row in mine if row[1] >= last - window], columns=ITEM.names)
        price, gift, colour = rows.price.astype(float), rows.gift.dropna().astype(float), rows.colour.dropna()
        said |= {
            f"count_{letters}": len(rows),
            f"price_mean_{letters}": price.mean(),
            f"price_deviation_{letters}": price.std(),
            f"price_max_{letters}": price.max(),
            f"price_min_{letters}": price.min(),
            f"gift_share_{letters}": gift.mean(),
            f"colour_distinct_{letters}": colour.nunique(),
        }
        shares = {"x": "x", "y": "y", "z y": "z_y"}
        said |= {f"colour_is_{name}_share_{letters}": (colour == text).mean() for text, name in shares.items() if len(colour)}
    return said


@soak
@settings(max_examples=300 if SOAK else 4, deadline=None, suppress_health_check=list(HealthCheck))
@given(items=ITEMS, orders=ORDERS, asks=ASKS)
def test_two_steps_along_keys_give_what_a_search_through_all_rows_gives(wh, items, orders, asks):
    publish(wh, items, orders, asks)
    store, relation = FeatureStore(wh), Events("clean.items", "customer", "known_at", State("clean.orders", "order_id", "ordered_at"))
    made = generate(wh, "clean.asks", [relation], WINDOWS, budget=99)
    for view in made.views:
        materialize(store, view)
    training_set(store, "features.found", "clean.asks", made.views, finish=made.finish)
    found = wh.table("features.found").df().set_index("number")
    for number, (customer, asked) in enumerate(asks):
        said = brute_force(items, orders, customer, asked)
        for one in made.features:
            if one.view:
                value = found.loc[number, one.name]
                want = said.get(one.short, np.nan)
                assert (pd.isna(value) and pd.isna(want)) or value == pytest.approx(want), (one.name, customer, asked)


@pytest.fixture(scope="module")
def landed(wh):
    """Landings and planes of a few days, and those who ask."""
    random = np.random.default_rng(0)
    rows = 600
    minutes = np.sort(random.integers(0, 5 * 24 * 60, rows))
    landings = pd.DataFrame({
        "carrier": random.choice(["UA", "AA", "B6"], rows),
        "known_at": pd.to_datetime(START) + pd.to_timedelta(minutes, unit="min"),
        "delay": random.normal(10, 30, rows).round(),
        "Gate Name": random.choice(["A 1", "B-2", "B 2"], rows),
    })
    planes = pd.DataFrame({
        "tail": [f"N{number % 20}" for number in range(60)],
        "known_at": pd.to_datetime(START) + pd.to_timedelta(random.integers(0, 5 * 24 * 60, 60), unit="min"),
        "seats": random.integers(100, 110, 60),
    })
    asks = pd.DataFrame({
        "carrier": random.choice(["UA", "AA", "DL"], 150),
        "tail_number": [f"N{number}" for number in random.integers(0, 22, 150)],
        "asked_at": pd.to_datetime(START) + pd.to_timedelta(random.integers(0, 6 * 24 * 60, 150), unit="min"),
        "distance": random.integers(100, 900, 150),
        "hours": random.integers(0, 3, 150),
        "number": range(150),
    })
    for name, frame in (("landings", landings), ("planes", planes), ("questions", asks)):
        wh.publish(f"clean.{name}", frame)
    relations = [Events("clean.landings", "carrier", "known_at"), State("clean.planes", {"tail_number": "tail"}, "known_at")]
    return generate(wh, "clean.questions", relations, plain=["distance", "hours", "carrier"], budget=80)


KNOWN = {"clean.landings": "known_at", "clean.planes": "known_at"}
CUTS = [START + timedelta(days=days) for days in (1, 2.5, 4)]


def test_nothing_from_after_the_asking_instant_counts(wh, landed):
    store = FeatureStore(wh)
    for view in landed.views:
        materialize(store, view)
    paper = training_set(store, "features.certified", "clean.questions", landed.views, finish=landed.finish, known=KNOWN, cuts=CUTS, key="number").certificate
    assert paper.holds and len(paper.trials) == 3 and all(trial.rows > 10 for trial in paper.trials)


def test_an_altered_future_changes_no_training_set(wh, landed):
    store = FeatureStore(wh)
    early = "SELECT * FROM clean.questions WHERE asked_at <= TIMESTAMPTZ '2013-07-03 00:00:00Z'"
    digests = []
    for _ in range(2):
        for view in landed.views:
            materialize(store, view)
        digests.append(training_set(store, "features.early", early, landed.views, finish=landed.finish).digest)
        wh.publish("clean.landings", "SELECT * REPLACE (CASE WHEN known_at > '2013-07-03 00:00:00Z' THEN delay + 500 ELSE delay END AS delay) FROM clean.landings")
    assert digests[0] == digests[1]


def test_a_view_that_looks_ahead_would_be_seen(wh, landed):
    wh.publish("clean.early", "SELECT * REPLACE (known_at - INTERVAL 6 HOURS AS known_at), known_at AS really_at FROM clean.landings")
    made, store = generate(wh, "clean.questions", [Events("clean.early", "carrier", "known_at")], budget=12), FeatureStore(wh)
    for view in made.views:
        materialize(store, view)
    paper = training_set(store, "features.ahead", "clean.questions", made.views, known={"clean.early": "really_at"}, cuts=CUTS, key="number").certificate
    assert not paper.holds and "early_by_carrier_count_6h" in paper.columns


def test_the_budget_takes_from_the_front(wh, landed):
    relations = [Events("clean.landings", "carrier", "known_at")]
    all_of_them = [one.name for one in generate(wh, "clean.questions", relations, budget=999, interactions=0).features]
    for budget in (0, 1, 7, 20):
        made = generate(wh, "clean.questions", relations, budget=budget, interactions=0)
        assert [one.name for one in made.features] == all_of_them[:budget]
        assert made.over_budget >= len(all_of_them) - budget
    both = generate(wh, "clean.questions", relations, plain=["distance", "hours"], budget=20, interactions=5)
    assert len(both.features) == 20 and sum(not one.view for one in both.features) >= 5


@pytest.mark.parametrize(("budget", "views", "of_two_columns"), [(2, 1, 1), (3, 2, 1), (5, 2, 2), (7, 2, 3), (24, 2, 5)])
def test_a_small_budget_leaves_no_table_out(wh, landed, budget, views, of_two_columns):
    relations = [Events("clean.landings", "carrier", "known_at"), State("clean.planes", {"tail_number": "tail"}, "known_at")]
    made = generate(wh, "clean.questions", relations, plain=["distance", "hours", "carrier"], budget=budget)
    assert len(made.features) == budget and len(made.views) == views
    assert sum(not one.view and not one.rank for one in made.features) == of_two_columns
    alone = generate(wh, "clean.questions", relations, budget=5, interactions=0)
    assert [one.view for one in alone.features[:2]] == ["planes_of_tail_number", "landings_by_carrier"] and all(one.view for one in alone.features)


@pytest.mark.parametrize("zone", ["Mars", "", 5, "../UTC"])
def test_a_zone_that_is_none_is_refused_at_once(wh, landed, zone):
    with pytest.raises(BadTransform, match="There is no time zone"):
        generate(wh, "clean.questions", [Events("clean.landings", "carrier", "known_at")], zone=zone)


HOURS = timedelta(hours=6)


@pytest.mark.parametrize("windows", [(timedelta(0),), (timedelta(0), HOURS), (timedelta(hours=-1), HOURS), ("6h",), "6h", "", HOURS, None, (6,), ((HOURS, HOURS),)], ids=repr)
def test_windows_that_are_none_are_refused_at_once(wh, landed, windows):
    with pytest.raises(BadTransform, match=r"`windows` is .* Give lengths of time"):
        generate(wh, "clean.questions", [Events("clean.landings", "carrier", "known_at")], windows=windows)


@pytest.mark.parametrize("number", [None, -1, 2.5, "5", True])
@pytest.mark.parametrize("name", ["budget", "interactions"])
def test_a_number_of_features_that_is_none_is_refused_at_once(wh, landed, name, number):
    with pytest.raises(BadTransform, match=f"`{name}` is {number!r}"):
        generate(wh, "clean.questions", [Events("clean.landings", "carrier", "known_at")], **{name: number})


def test_what_a_window_says_is_what_is_counted(wh):
    wh.publish("clean.seen", "SELECT 'a' AS customer, TIMESTAMPTZ '2013-07-01 00:00:00Z' + to_hours(range) AS known_at, range % 7 AS price FROM range(8)")
    wh.publish("clean.later", "SELECT 'a' AS customer, TIMESTAMPTZ '2013-07-01 12:00:00Z' AS asked_at")  # five hours after the last
    made, store = generate(wh, "clean.later", [Events("clean.seen", "customer", "known_at")], windows=(HOURS, timedelta(days=1))), FeatureStore(wh)
    says = {one.short: one.says for one in made.features if one.view}
    assert says["count_6h"] == "number of rows of clean.seen by customer, in the 6 hours up to the last event"
    assert says["count_1d"].endswith(", in the day up to the last event") and "last 6 hours" not in "".join(says.values())
    for view in made.views:
        materialize(store, view)
    training_set(store, "features.later", "clean.later", made.views)
    assert wh.sql("SELECT seen_by_customer_count_6h, seen_by_customer_age FROM features.later").fetchall() == [(7, 300)]


def test_names_are_plain_and_every_feature_has_sql_that_runs(wh, landed):
    names = [one.name for one in landed.features]
    assert len(set(names)) == len(names) and all(name.isidentifier() for name in names)
    assert {"landings_by_carrier_gate_name_distinct_6h", "landings_by_carrier_gate_name_is_a_1_share_6h", "distance_over_hours"} <= set(names)
    for one in landed.features:
        if one.view:
            assert wh.sql(landed.sql(one.name)).columns[-1] in (one.short, "known_at")


def test_an_as_of_state_gives_the_latest_row(wh, landed):
    store = FeatureStore(wh)
    for view in landed.views:
        materialize(store, view)
    training_set(store, "features.states", "clean.questions", landed.views)
    found = wh.table("features.states").df()
    planes = wh.table("clean.planes").df()
    for row in found.itertuples():
        known = planes[(planes["tail"] == row.tail_number) & (planes.known_at <= row.asked_at)]
        latest = known[known.known_at == known.known_at.max()].seats
        value = row.planes_of_tail_number_seats
        assert pd.isna(value) if latest.empty else value == latest.max()


def test_empty_tables_make_no_features_of_their_columns(wh):
    wh.publish("clean.nothing", "SELECT 'a' AS customer, TIMESTAMPTZ '2013-07-01 00:00:00Z' AS known_at, 1 AS price WHERE false")
    wh.publish("clean.who", "SELECT 'a' AS customer, TIMESTAMPTZ '2013-07-01 00:00:00Z' AS asked_at")
    made = generate(wh, "clean.who", [Events("clean.nothing", "customer", "known_at")])
    assert made.left_out["nothing_by_customer"]["price"] == "is missing in every row"
    store = FeatureStore(wh)
    for view in made.views:
        materialize(store, view)
    assert training_set(store, "features.none", "clean.who", made.views, finish=made.finish).rows == 1
    assert "<table" in made._repr_html_() and list(made.to_frame()) == ["feature", "view", "says"]
