"""Features computed when somebody asks: a training set and a server get the same from the same function."""

import math
from datetime import datetime, timedelta, timezone
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.soak import SOAK, soak
from support.workspaces import make_workspace

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import BadOnDemand
from ml_notebooks.features.materialize import materialize
from ml_notebooks.features.on_demand import OnDemand, compute, with_on_demand
from ml_notebooks.features.online import EmbeddedStore, RequestLog, logged_requests, online_reader, push
from ml_notebooks.features.store import FeatureStore
from ml_notebooks.features.view import FeatureView

START = datetime(2013, 3, 10, 6, tzinfo=timezone.utc)


def several(count, share, late, carrier, asked):
    """Of each kind of column something, with branches, texts and instants."""
    day = (asked - asked.astype("datetime64[D]")) / np.timedelta64(1, "h")
    return {
        "sum": count + share,
        "worst": np.where(late > 0, np.maximum(count, 0), share),
        "known": np.array([one is not None for one in carrier]),
        "carrier": np.array([None if one is None else one.lower() for one in carrier], object),
        "hour": day,
        "later": asked + np.timedelta64(90, "m"),
    }


KINDS = {"count": float, "share": float, "late": float, "carrier": str, "asked": datetime}
TYPES = {"count": pa.int32(), "share": pa.float32(), "late": pa.bool_(), "carrier": pa.string(), "asked": pa.timestamp("us", tz="UTC")}
VALUES = {
    "count": st.integers(-(2**31), 2**31 - 1),
    "share": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "late": st.booleans(),
    "carrier": st.sampled_from(["UA", "", "Ü'\"", "nan"]),
    "asked": st.integers(0, 10**12).map(lambda beside: START + timedelta(microseconds=beside)),
}
REQUESTS = st.lists(st.fixed_dictionaries({name: st.one_of(st.none(), values) for name, values in VALUES.items()}), max_size=9)
FEATURES = OnDemand("all", KINDS, several)


@pytest.fixture(scope="module")
def wh(tmp_path_factory):
    with open_warehouse(make_workspace(tmp_path_factory.mktemp("on_demand"))) as opened:
        yield opened


def same(one, other):
    """Whether two values are the same; a missing one is None in both."""
    return one is other is None or one == other or (isinstance(one, float) and isinstance(other, float) and math.isclose(one, other, rel_tol=1e-12))


@soak
@settings(max_examples=1000 if SOAK else 40, deadline=None, suppress_health_check=list(HealthCheck))
@given(requests=REQUESTS)
def test_a_training_set_and_a_server_get_the_same(wh, requests):
    table = pa.table({name: pa.array([request[name] for request in requests], kind) for name, kind in TYPES.items()})
    wh._connection.register("asking_arrow", table)
    wh._connection.execute("CREATE OR REPLACE TEMP TABLE asking AS FROM asking_arrow")
    found = wh._connection.sql(with_on_demand(wh, "temp.main.asking", [FEATURES]))
    rows = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
    assert len(rows) == len(requests)
    for row, request in zip(rows, requests, strict=True):
        served = compute(FEATURES, request)
        assert {name for name, value in served.items() if not same(value, row[name])} == set()


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_rows_and_columns_stay_in_their_order(wh, rows):
    wh._connection.execute(f"CREATE OR REPLACE TEMP TABLE numbered AS SELECT range AS number, range * 2.5 AS amount FROM range({rows})")
    features = [OnDemand("twice", {"amount": float}, lambda amount: amount * 2), OnDemand("sum", {"twice": float, "number": float}, np.add)]
    found = wh._connection.sql(with_on_demand(wh, "temp.main.numbered", features))
    assert found.columns == ["number", "amount", "twice", "sum"]
    assert found.fetchall() == [(number, number * 2.5, number * 5.0, number * 6.0) for number in range(rows)]


def test_a_large_table_keeps_each_value_beside_its_row(wh):
    wh._connection.execute("CREATE OR REPLACE TEMP TABLE many AS SELECT hash(range) AS key, (hash(range) % 1000003)::DOUBLE AS amount FROM range(300000)")
    joined = with_on_demand(wh, "temp.main.many", [OnDemand("half", {"amount": float}, lambda amount: amount / 2)])
    assert wh._connection.sql(f"SELECT count(*), count(*) FILTER (half * 2 <> (key % 1000003)) FROM ({joined})").fetchall() == [(300000, 0)]


def test_a_view_of_no_entity_answers_with_what_is_computed_from_it(wh, tmp_path):
    wh.publish("clean.weather", "SELECT now() - INTERVAL 1 HOUR AS known_at, 21 AS degrees")
    store, online, log = FeatureStore(wh), EmbeddedStore(tmp_path / "online"), RequestLog(tmp_path / "log")
    materialize(store, FeatureView("weather", (), "known_at", "FROM clean.weather", timedelta(days=9), online=True))
    push(store, "weather", online)
    twice = OnDemand("twice", {"weather_degrees": float}, lambda degrees: degrees * 2)
    reader = online_reader(online, ["weather"], on_demand=[twice], log=log)
    assert reader.read({}).to_dict() == {"weather_degrees": [21], "twice": [42.0]}
    (request,) = logged_requests(log.folder)
    assert dict(request.on_demand) == {"twice": twice.version}


@pytest.mark.parametrize("made", [lambda factor: lambda late, factor=factor: late * factor, lambda factor: lambda late: late * factor[0]], ids=["a default", "an array around it"])
def test_what_a_function_took_along_counts_for_its_version(made):
    first, second, again = (OnDemand("scaled", {"late": float}, made(np.where(np.arange(2000) == 1000, factor, 0.0))) for factor in (3.0, 7.0, 3.0))
    assert first.version == again.version != second.version


@pytest.mark.parametrize("function", [partial(max, 3), 5], ids=["partial", "a number"])
def test_a_function_whose_content_cannot_be_told_is_refused(function):
    with pytest.raises(BadOnDemand, match="Give a plain function"):
        OnDemand("scaled", {"late": float}, function)
