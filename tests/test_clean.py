"""A recipe gives the same rows over a table, over a frame, and as an interpreter in plain Python says."""

import math
import os
import threading
from datetime import datetime

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from support.cleaning import Recipe
from support.soak import SOAK, soak
from support.workspaces import make_workspace

from ml_notebooks.data.clean import account, clean, fit
from ml_notebooks.data.cleaner import Cleaner
from ml_notebooks.data.profile import profile
from ml_notebooks.data.rules import (
    AsMissing,
    Categories,
    Duplicates,
    Missing,
    Outliers,
    Text,
    TimeZone,
    Types,
)
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import BadRecipe
from ml_notebooks.lineage import VARIABLE, begin_lineage, read_lineage

EXAMPLES = 1500 if SOAK else 15

clocks = st.one_of(
    st.sampled_from([datetime(2013, 3, 10, 2, 30), datetime(2013, 11, 3, 1, 30), datetime(2013, 11, 3, 1, 0)]),
    st.datetimes(datetime(2013, 3, 9), datetime(2013, 3, 12)).map(lambda t: t.replace(microsecond=0)),
    st.datetimes(datetime(2013, 11, 2), datetime(2013, 11, 5)).map(lambda t: t.replace(microsecond=0)),
)
texts = st.one_of(
    st.sampled_from(["UA", "ua", " UA", "B6", "N/A", "7", " 12 ", "-3", "", "cafe\u0301", "café"]),
    st.text(st.sampled_from("aAéÉüñ\u0301 \t\u00a0\u2003日🛫'\"\\"), max_size=5),
)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "n": st.none() | st.integers(-5, 5) | st.sampled_from([-999, 1301]),
            "x": st.none() | st.integers(-8, 8).map(lambda n: n / 2) | st.sampled_from([1e6, -999.0]),
            "s": st.none() | texts,
            "t": st.none() | clocks,
        }
    ),
    max_size=12,
)
numbers = st.sampled_from([(), ("n",), ("x",), ("n", "x")])
text = st.sampled_from([(), ("s",)])
one_rule = st.one_of(
    st.builds(AsMissing, st.sampled_from([(-999,), ("N/A", ""), (-999, "N/A", 1)])),
    st.builds(Text, text, st.sampled_from(["as is", "lower", "upper"]), st.booleans(), st.booleans(), st.booleans()),
    st.just(Types({"s": "BIGINT"})),
    st.builds(
        TimeZone,
        st.just(("t",)),
        st.sampled_from(["America/New_York", "Europe/Zurich", "Asia/Kolkata", "UTC"]),
        st.sampled_from(["first", "second", "null"]),
        st.sampled_from(["shift", "null"]),
    ),
    st.builds(Missing, numbers, st.sampled_from(["median", "mean"]), mark=st.booleans()),
    st.builds(Missing, st.sampled_from([(), ("s",), ("n", "t"), ("x",)]), st.just("most frequent")),
    st.builds(Missing, st.sampled_from([("s",), ("n", "x"), ()]), st.just("drop")),
    st.builds(Missing, numbers, st.just("value"), st.just(7)),
    st.builds(Missing, st.just(("s",)), st.just("value"), st.just("it's missing")),
    st.builds(
        Outliers,
        numbers,
        st.sampled_from(["iqr", "zscore", "quantile"]),
        st.sampled_from([None, 0.25]),
        st.sampled_from(["clip", "null", "drop"]),
    ),
    st.builds(
        Categories,
        text,
        st.sampled_from([{}, {"ua": "UA", "N/A": "it's"}]),
        st.sampled_from([0.0, 0.25, 0.5]),
        st.sampled_from([(), ("UA", "it's")]),
        st.sampled_from(["other", None]),
    ),
    st.builds(Duplicates, st.sampled_from([(), ("s",), ("n", "t")]), st.sampled_from([None, "x"])),
)
SCHEMA = pa.schema([("n", pa.int64()), ("x", pa.float64()), ("s", pa.string()), ("t", pa.timestamp("us"))])


@pytest.fixture(scope="module")
def wh(tmp_path_factory):
    """A warehouse."""
    with open_warehouse(make_workspace(tmp_path_factory.mktemp("clean"))) as wh:
        yield wh


def table_of(found):
    """Rows as an Arrow table."""
    return pa.Table.from_pylist(found, SCHEMA)


def frame_of(found):
    """Rows as a pandas frame, as a user has them: NaN, NaT, whole numbers that may be missing."""
    return table_of(found).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)


def ordered(found):
    """Rows in an order of their own, floats rounded where two ways of computing may differ in the last digit."""
    plain = [
        {k: float(f"{v:.12g}") if isinstance(v, float) and math.isfinite(v) else v for k, v in row.items()}
        for row in found
    ]
    return sorted(plain, key=lambda row: [(v is None, str(v)) for _, v in sorted(row.items())])


def learned(fit):
    """What was learned, and why a recipe was refused."""
    try:
        return fit(), ""
    except BadRecipe as error:
        return None, str(error)


def counted(report):
    """A report's rows as tuples."""
    names = ["step", "column", "changed", "filled", "emptied", "dropped"]
    return [tuple(row) for row in report.to_frame()[names].itertuples(index=False)]


@soak
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(rules=st.lists(one_rule, max_size=4), train=rows, rest=rows)
def test_table_frame_and_plain_python_agree(wh, rules, train, rest):
    wh.publish("raw.rows", table_of([*train, *rest]).append_column("part", pa.array([0] * len(train) + [1] * len(rest), pa.int64())))
    source = "(SELECT * EXCLUDE (part) FROM raw.rows WHERE part = 1)"
    cleaning, refused = learned(lambda: fit(wh, rules, "SELECT * EXCLUDE (part) FROM raw.rows WHERE part = 0"))
    cleaner, why = learned(lambda: Cleaner(rules).fit(frame_of(train)))
    assert refused == why
    if refused:
        return
    assert cleaner.cleaning_ == cleaning

    over_table = wh.sql(cleaning.sql(source)).to_arrow_table()
    over_frame = pa.Table.from_pandas(cleaner.transform(frame_of(rest)), over_table.schema, preserve_index=False)
    note(cleaning.sql(source))
    assert ordered(over_table.to_pylist()) == ordered(over_frame.to_pylist())

    expected, counts = Recipe(rules, train).clean(rest)
    assert ordered(over_table.to_pylist()) == ordered(expected)
    report = account(cleaning, source, cleaning.columns, lambda query: wh.sql(query).fetchall())
    assert (report.rows, report.kept) == (len(rest), len(expected))
    assert counted(report) == counted(cleaner.report(frame_of(rest)))
    assert counted(report) == counts


def test_frame_keeps_its_order_and_its_index():
    frame = pd.DataFrame({"a": [3.0, 1.0, None, 2.0]}, index=["w", "x", "y", "z"])
    kept = Cleaner([Missing(how="drop")]).fit_transform(frame)
    assert kept.index.tolist() == ["w", "x", "z"] and kept["a"].tolist() == [3.0, 1.0, 2.0]


@pytest.mark.parametrize("name", ['say "hi"', "a; DROP TABLE x", "SELECT", "größe", "(row) ", "v", "n", "rows", "total", "low"])
def test_any_column_name_is_a_name(wh, name):
    frame = pd.DataFrame({name: ["a", "a", "b", None], f"{name}!": [1.0, 2.0, None, 1000.0]})
    rules = [Text(), Missing(), Missing(how="most frequent"), Outliers(method="zscore", limit=1), Categories(at_least=0.3), Duplicates()]
    wh.publish("raw.named", frame)
    over_table = wh.sql(fit(wh, rules, "raw.named").sql("raw.named")).df()
    over_frame = Cleaner(rules).fit_transform(frame)
    assert sorted(map(tuple, over_table.to_numpy())) == sorted(map(tuple, over_frame.to_numpy()))
    assert set(over_frame[name]) == {"a", "other"}


def test_infinity_is_outside_every_fence_and_moves_none():
    train = pd.DataFrame({"x": [1.0, 2.0, 3.0, math.inf]})
    for method in ("iqr", "zscore", "quantile"):
        clipped = Cleaner([Outliers(method=method)]).fit_transform(train)["x"]
        assert math.isfinite(clipped.max()) and clipped[:3].between(0.9, 3.1).all()
    assert Cleaner([Missing(how="mean")]).fit(train).transform(pd.DataFrame({"x": [None]}, dtype=float))["x"].tolist() == [2.0]


def test_whole_numbers_stay_whole_at_the_ends_of_their_range():
    most = 2**63 - 1
    frame = pd.DataFrame({"n": pd.array([-most, 0, 0, 0, most, None], "Int64")})
    cleaned = Cleaner([Outliers(limit=0.0), Missing(how="mean")]).fit_transform(frame)
    assert cleaned["n"].dtype == "int64" and cleaned["n"].tolist() == [0] * 6
    kept = Cleaner([Outliers(method="zscore", limit=100)]).fit_transform(frame[:5])
    assert kept["n"].tolist() == [-most, 0, 0, 0, most]


def test_what_is_read_and_written_is_told(wh, tmp_path, monkeypatch):
    wh.publish("raw.told", "SELECT 1.5 AS a FROM range(3)")
    told = tmp_path / "lineage"
    begin_lineage(told, ["clean.told"])
    monkeypatch.setenv(VARIABLE, str(told))
    clean(wh, "raw.told", [Outliers()], into="clean.told")
    lineage = read_lineage(told)
    assert set(lineage.reads) == {"raw.told"} and set(lineage.writes) == {"clean.told"}


def test_a_table_can_be_cleaned_in_its_place(wh):
    wh.publish("raw.same", "SELECT unnest([1.0, 2.0, NULL]) AS a")
    report = clean(wh, "raw.same", [Missing()], into="raw.same")
    assert counted(report) == [(1, "a", 0, 1, 0, 0)]
    assert sorted(wh.table("raw.same").fetchall()) == [(1.0,), (1.5,), (2.0,)]


def test_a_transaction_cleans_what_it_wrote_itself(wh):
    wh.publish("raw.fresh", "SELECT 1.0 AS a")
    with wh.transaction("both"):
        wh.publish("raw.fresh", "SELECT unnest([5.0, NULL]) AS a")
        wh.publish("raw.new", "SELECT unnest([7.0, NULL]) AS a")
        clean(wh, "raw.fresh", [Missing()], into="clean.fresh")
        clean(wh, "raw.new", [Missing()], into="clean.new")
        assert profile(wh, "raw.new").version is None
    assert wh.table("clean.fresh").fetchall() == [(5.0,)] * 2
    assert wh.table("clean.new").fetchall() == [(7.0,)] * 2


def test_a_recipe_learns_from_a_snapshot(wh):
    wh.publish("raw.then", "SELECT 1.0 AS a")
    before = wh.version("raw.then")
    wh.publish("raw.then", "SELECT 9.0 AS a")
    with wh.at(before) as past:
        assert fit(past, [Missing()], "raw.then").learned == ({"a": "1.0"},)
    assert fit(wh, [Missing()], "raw.then").learned == ({"a": "9.0"},)


def test_threads_clean_at_the_same_time():
    frame = pd.DataFrame({"a": [float(n % 97) for n in range(5000)]})
    cleaner = Cleaner([Outliers(method="quantile", limit=0.1)]).fit(frame)
    expected, found = cleaner.transform(frame), []
    threads = [threading.Thread(target=lambda: found.append(cleaner.transform(frame).equals(expected))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8


def test_a_forked_process_cleans_with_an_engine_of_its_own():
    cleaner = Cleaner([Missing()]).fit(pd.DataFrame({"a": [1.0, 3.0]}))
    child = os.fork()
    if child == 0:
        os._exit(0 if cleaner.transform(pd.DataFrame({"a": [float("nan")]}))["a"].tolist() == [2.0] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_cleaner_is_saved_and_loaded_without_pickle():
    import skops.io

    frame = pd.DataFrame({"a": [1.0, 9.0, None], "s": ["x", "x", "y"]})
    cleaner = Cleaner([Outliers(limit=0.1), Missing(mark=True), Categories(at_least=0.5)]).fit(frame)
    data = skops.io.dumps(cleaner)
    untrusted = skops.io.get_untrusted_types(data=data)
    assert all(name.startswith("ml_notebooks.data.") for name in untrusted)
    assert skops.io.loads(data, trusted=untrusted).transform(frame).equals(cleaner.transform(frame))


@pytest.mark.parametrize("columns", ["word", ["word"], ("word",), {"word": 1}])
def test_one_name_is_a_name_and_not_its_letters(wh, columns):
    wh.publish("raw.one", "SELECT ' A ' AS word, ' B ' AS w, ' C ' AS o")
    for rules in ([Text(columns)], Text(columns)):
        clean(wh, "raw.one", rules, "clean.one")
        assert wh.sql("FROM clean.one").fetchall() == [("A", " B ", " C ")]


def test_every_rule_takes_one_name_and_one_value(wh):
    wh.publish("raw.one", "SELECT unnest([1, 1, -999, 5]) AS n, unnest(['x', 'x', 'y', NULL]) AS word, TIMESTAMP '2013-01-01 12:00:00' AS clock")
    rules = [AsMissing(-999, "n"), Missing("n"), Outliers(["n"]), Categories("word", keep="x"), TimeZone("clock", "America/New_York"), Duplicates("n")]
    clean(wh, "raw.one", rules, "clean.one")
    assert wh.sql("SELECT n, word, hour(clock) FROM clean.one ORDER BY n").fetchall() == [(1, "other", 17), (3, None, 17)]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Text("wrod"), "no column `wrod`. Did you mean `word`"),
        (Text(3), "no column `3`"),
        (Categories("word", at_least=2), "`at_least` is 2"),
        (Types("word"), "`types` is 'word'"),
        (Text, "`Text` cannot be applied. It is no rule"),
        ("Text", "`'Text'` cannot be applied. It is no rule|`Text` cannot be applied. It is no rule"),
    ],
)
def test_what_is_no_rule_or_no_column(wh, rule, message):
    wh.publish("raw.one", "SELECT 'A' AS word")
    with pytest.raises(BadRecipe, match=message):
        fit(wh, [rule], "raw.one")
