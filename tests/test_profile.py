"""A profile says what pandas says, in one pass, whatever the columns are called and hold."""

import re
from datetime import datetime, timezone

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.workspaces import make_workspace

from ml_notebooks.data.comparison import compare
from ml_notebooks.data.profile import _chosen, _statement, profile
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import BadQuery, UnknownTable
from ml_notebooks.lineage import VARIABLE, begin_lineage, read_lineage

STRANGE = ['say "hi"', "a; DROP TABLE x", "(chosen)", "rows", "sample", "c0", "größe", "<b>bold</b>", "$x$"]


@pytest.fixture(scope="module")
def wh(tmp_path_factory):
    """A warehouse with a table of every kind of column."""
    with open_warehouse(make_workspace(tmp_path_factory.mktemp("profile"))) as wh:
        wh.publish(
            "raw.kinds",
            """SELECT range AS id, range % 7 AS day, if(range % 10 = 0, NULL, range % 5) AS gaps, range / 8 AS real, (range / 4)::DECIMAL(18, 2) AS price,
                range::HUGEINT * 147573952589676412928::HUGEINT AS huge, 'c' || range % 3 AS letter, range % 2 = 0 AS even, DATE '2013-01-01' + (range % 365)::INTEGER AS born,
                TIMESTAMPTZ '2013-01-01' + to_hours(range) AS seen, TIME '05:00' + to_minutes(range % 60) AS clock, [range] AS listed, {'a': range} AS nested,
                uuid() AS key, 'x'::BLOB AS raw_bytes, INTERVAL 1 DAY AS span, if(range % 2 = 0, 'a', 'b') AS chosen FROM range(1000)""",
        )
        yield wh


@settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    numbers=st.lists(st.none() | st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40),
    words=st.lists(st.none() | st.text(max_size=6), min_size=40, max_size=40),
)
def test_a_frame_is_described_as_pandas_describes_it(wh, numbers, words):
    frame = pd.DataFrame({"number": pd.Series(numbers, dtype=float), "word": pd.Series(words[: len(numbers)], dtype="str")})
    found = profile(wh, frame)
    for column in found.columns:
        series = frame[column.name]
        assert (column.rows, column.missing, column.distinct) == (len(series), series.isna().sum(), series.nunique())
        counts = series.value_counts()
        assert [rows for _, rows in column.top] == sorted(counts, reverse=True)[: len(column.top)]
    number, series = found["number"], frame["number"].dropna()
    if len(series):
        assert (number.low, number.high) == (series.min(), series.max())
        assert number.mean == pytest.approx(series.mean(), rel=1e-9, abs=1e-6)
        assert np.allclose(number.percentiles, np.percentile(series, range(101)))
        assert sum(number.counts) + sum(number.beyond) == len(series)
    if len(series) > 1:
        assert number.std == pytest.approx(series.std(), rel=1e-6, abs=1e-6)
    found._repr_html_()


def test_every_kind_of_column_is_described(wh):
    found = profile(wh, "raw.kinds")
    kinds = {c.name: c.kind for c in found.columns}
    assert [name for name, kind in kinds.items() if kind == "number"] == ["id", "day", "gaps", "real", "price", "huge"]
    assert [name for name, kind in kinds.items() if kind == "time"] == ["born", "seen", "clock"]
    assert [name for name, kind in kinds.items() if kind == "text"] == ["letter", "key", "chosen"]
    assert (found["even"].kind, found["even"].mean) == ("boolean", 0.5)
    assert {c.name for c in found.columns if c.distinct == 1000} == {"id", "real", "price", "huge", "seen", "listed", "nested", "key"}
    assert (found["born"].low, found["born"].high, found["clock"].low) == ("2013-01-01", "2013-12-31", "05:00:00")
    assert found["seen"].quantile(0) == "2013-01-01 00:00:00Z" and found["gaps"].missing == 100
    assert found.missing_together[["columns", "rows"]].to_numpy().tolist() == [[(), 900], [("gaps",), 100]]
    rho = found.correlations.set_index(["column", "other"])["rho"]
    assert rho["id", "price"] == pytest.approx(1) and rho["id", "day"] == pytest.approx(0, abs=0.05)


def test_the_table_is_read_once(wh):
    relation = wh.table("raw.kinds")
    columns = dict(zip(relation.columns, map(str, relation.types), strict=True))
    plan = wh.sql("EXPLAIN " + _statement(columns, "raw.kinds", _chosen(1000, 100, True))).fetchall()[0][1]
    assert len(re.findall(r"\bDUCKLAKE_SCAN\b|\b\w*_SCAN\b", plan)) == 1


@pytest.mark.parametrize("data", ["raw.kinds", "FROM raw.kinds"])
def test_a_sample_is_close_and_says_that_it_is_one(wh, data):
    every, some = profile(wh, data), profile(wh, data, sample=400)
    assert every.exact and not some.exact and 300 < some.sampled < 500
    assert f"from {some.sampled:,} rows" in some._repr_html_() and "every row" in every._repr_html_()
    for all_rows, few in zip(every.columns, some.columns, strict=True):
        assert (few.rows, few.missing, few.low, few.high) == (all_rows.rows, all_rows.missing, all_rows.low, all_rows.high)
        assert few.distinct == pytest.approx(all_rows.distinct, rel=0.3)
    assert some["real"].quantile(0.5) == pytest.approx(every["real"].quantile(0.5), rel=0.25)
    assert sum(some["day"].counts) == pytest.approx(1000, abs=5)


def test_the_same_table_gives_the_same_sample(wh):
    assert profile(wh, "raw.kinds", sample=400).sampled == profile(wh, "raw.kinds", sample=400).sampled
    assert profile(wh, "SELECT id, day, born FROM raw.kinds") == profile(wh, "SELECT id, day, born FROM raw.kinds")


@pytest.mark.parametrize("name", STRANGE)
def test_any_column_name_is_a_name(wh, name):
    frame = pd.DataFrame({name: [1.0, 2.0, None], "other": ["a", "b", "b"]})
    wh.publish("raw.named", frame)
    for found in (profile(wh, frame), profile(wh, frame, sample=2), profile(wh, "raw.named"), profile(wh, "raw.named", sample=2)):
        assert found.columns[0].name == name and found.columns[0].missing == 1 and found.rows == 3
    page = compare(found, found)._repr_html_() + found._repr_html_()
    assert "<b>bold" not in page


def test_a_page_needs_no_network_and_no_script_and_stays_small(wh):
    wide = pd.DataFrame({f"column {n}": np.random.default_rng(n).normal(size=500) for n in range(100)})
    page = profile(wh, wide)._repr_html_()
    assert not re.search(r"<script|<link|<img|url\(|@import|javascript:", page)
    assert set(re.findall(r"https?://[^\"' ]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert len(page) < 250_000


@pytest.mark.parametrize(
    ("values", "remark"),
    [
        ("[1, 5, 9, -999]", "-999 may stand for missing (1 row)"),
        ("[0, 5, 9, 99999]", "99999 may stand for missing (1 row)"),
        ("['x ', 'y']", "spaces around 1 value"),
        ("['NA', 'y', 'NA']", "`NA` may stand for missing"),
        ("['a', 'A', 'b']", "1 value in several spellings, for example `A`, `a`"),
        ("['1', '22', '3']", "all values are numbers, kept as text"),
        ("['1,5', '22', '1.203,75']", "all values are numbers with a decimal comma, kept as text"),
        ("list_append(range(20)::VARCHAR[], '1,5')", "all values but `1,5` are numbers, kept as text"),
        ("['28.02.2013 5:15', '1.3.2013 17:40']", "all values are dates, kept as text"),
        ("['2013-01-01', '2013-01-02']", "all values are dates, kept as text"),
        ("[DATE '20133-01-01', '2013-01-01']", "1 date before 1900 or after 2099"),
        ("[DATE '1970-01-01', '2013-01-01', '2013-01-02', '2013-02-03']", "1970-01-01 may stand for missing (1 row)"),
        ("[7, 7]", "constant: `7`"),
        ("[NULL::INTEGER]", "empty"),
        ("['inf'::DOUBLE, 1, 2]", "1 value infinite"),
    ],
)
def test_what_is_suspicious_is_said(wh, values, remark):
    assert remark in profile(wh, f"SELECT unnest({values}) AS v")["v"].remarks


@pytest.mark.parametrize("values", ["[1, 9, 99, 100, 101]", "[-1, -2, 5]", "['a', 'b', 'a']", "['007', '12', '12']", "['1', 'two']", "['1, 2', '3, 4']", "[0.5, 1.5, 1.5]", "range(1000)"])
def test_what_is_ordinary_is_not_suspected(wh, values):
    assert set(profile(wh, f"SELECT unnest({values}) AS v")["v"].remarks) <= {"unique"}


def test_an_enumeration_is_text(wh):
    found = profile(wh, "SELECT unnest(['a', 'b', 'a'])::ENUM('a', 'b') AS v")["v"]
    assert (found.kind, found.top) == ("text", (("a", 2), ("b", 1)))


def test_what_is_read_is_told(wh, tmp_path, monkeypatch):
    told = tmp_path / "lineage"
    begin_lineage(told, [])
    monkeypatch.setenv(VARIABLE, str(told))
    profile(wh, "raw.kinds")
    assert set(read_lineage(told).reads) == {"raw.kinds"}


@pytest.mark.parametrize(("data", "error"), [("raw.kindss", UnknownTable), ("SELECT nothing FROM raw.kinds", BadQuery), ("DROP TABLE raw.kinds", BadQuery)])
def test_what_cannot_be_profiled_is_refused(wh, data, error):
    with pytest.raises(error, match=r"raw\.kinds|nothing|DROP"):
        profile(wh, data)


def test_a_profile_is_plain_data(wh):
    import json

    text = json.dumps(profile(wh, "raw.kinds").to_dict())
    assert json.loads(text)["columns"][0]["name"] == "id"


def test_two_snapshots_are_compared(wh):
    wh.publish("raw.orders", pd.DataFrame({"amount": [1.0, 2.0], "when": [datetime(2013, 1, 1, tzinfo=timezone.utc)] * 2}))
    before = wh.version("raw.orders")
    wh.publish("raw.orders", pd.DataFrame({"amount": ["1", "2"], "who": ["a", "b"]}))
    with wh.at(before) as past:
        found = compare(profile(past, "raw.orders"), profile(wh, "raw.orders"))
    assert found.to_frame().set_index("column")["change"].to_dict() == {"amount": "DOUBLE → VARCHAR", "when": "gone", "who": "new"}
    assert f"version {before}" in repr(found)
