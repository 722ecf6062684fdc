"""The transformers of features: scikit-learn's own checks, loops in plain Python that say the same, leaks that must not be, models that are saved and loaded."""

from math import asin, cos, nan, radians, sin, sqrt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from support.soak import SOAK, soak

from ml_notebooks.errors import BadTransform, MissingExtra
from ml_notebooks.features import calendar
from ml_notebooks.features.panel import STATISTICS
from ml_notebooks.features.transform import (
    CyclicalTime,
    Haversine,
    Holidays,
    Lags,
    OrderedCountEncoder,
    OrderedTargetEncoder,
    QuantileClipper,
    RareCategories,
    Rolling,
)
from ml_notebooks.training.registry import ALLOWED_TYPES, load_run_model, log_model, log_run, open_registry
from ml_notebooks.workspace import find_workspace

PLAIN = [
    CyclicalTime(),
    Haversine(start=(0, 1), end=(1, 0)),  # the checks have arrays of two columns
    Holidays(),
    Lags(),
    OrderedCountEncoder(),
    OrderedTargetEncoder(),
    QuantileClipper(),
    RareCategories(),
    Rolling(),
]
OTHERS = [
    CyclicalTime(["hour", "month"], "America/New_York"),
    Holidays("DE", "BY", "Europe/Berlin"),
    Lags(lags=[1, 3]),
    OrderedCountEncoder(normalize=True),
    OrderedTargetEncoder(smooth=0, target_type="continuous"),
    RareCategories(2, other=-1),
    Rolling(windows=["10s", "1D"], statistics=STATISTICS),
]
CHECKED = PLAIN + OTHERS if SOAK else PLAIN
property_test = settings(max_examples=300 if SOAK else 8, deadline=None)


@soak
@parametrize_with_checks(CHECKED)
def test_scikit_learns_checks_pass(estimator, check):
    check(estimator)


def at(seconds):
    """Instants from seconds, some of them missing."""
    return pd.to_datetime(pd.Series(seconds, dtype=float), unit="s", utc=True)


row = st.tuples(
    st.one_of(st.none(), st.integers(0, 12)),  # when it asks
    st.one_of(st.none(), st.integers(0, 15)),  # when it became known
    st.sampled_from(["a", "b", None]),
    st.one_of(st.just(nan), st.integers(-3, 3).map(float)),
    st.integers(0, 1),
)


def frame_of(rows):
    """Rows as a frame."""
    asked, known, who, value, label = zip(*rows, strict=True)
    return pd.DataFrame({"asked": at(asked), "known": at(known), "who": pd.Series(who, dtype=object), "value": value, "label": label})


def earlier(frame, facts, place, width=None):
    """The facts about a row's entity strictly before it, by the rule as it is written down."""
    asks = frame["asked"].iloc[place]
    who = frame["who"].iloc[place]
    same = (facts["who"] == who) | (facts["who"].isna() & (who is None))
    told = facts["known"].where(facts["asked"].isna() | (facts["known"] >= facts["asked"]), facts["asked"])
    told = told.where(facts["known"].notna())
    before = same & (told < asks)
    if width is not None:
        before &= told >= asks - width
    return facts.assign(told=told)[before]


def close(one, other):
    """Whether two numbers are the same, missing ones too."""
    return np.isclose(one, other, rtol=1e-9, atol=1e-9, equal_nan=True)


@soak
@property_test
@given(st.lists(row, min_size=1, max_size=14), st.lists(row, min_size=1, max_size=6))
def test_lags_are_those_of_a_loop(facts, questions):
    facts, questions = frame_of(facts), frame_of(questions)
    columns = ["asked", "known", "who", "value"]
    lags = Lags("asked", "who", [1, 2], known="known").fit(facts[columns])
    for frame in (facts, questions):
        made = lags.transform(frame[columns])
        for place in range(len(frame)):
            means = earlier(frame, facts, place).groupby("told")["value"].mean().tolist()
            wanted = [means[-lag] if lag <= len(means) else nan for lag in (1, 2)]
            assert all(map(close, made[place], wanted))


@soak
@property_test
@given(st.lists(row, min_size=1, max_size=14), st.lists(row, min_size=1, max_size=6), st.integers(1, 9))
def test_windows_are_those_of_a_loop(facts, questions, seconds):
    facts, questions = frame_of(facts), frame_of(questions)
    columns = ["asked", "known", "who", "value"]
    rolling = Rolling("asked", "who", f"{seconds}s", STATISTICS, known="known").fit(facts[columns])
    for frame in (facts, questions):
        made = rolling.transform(frame[columns])
        for place in range(len(frame)):
            values = earlier(frame, facts, place, pd.Timedelta(seconds=seconds))["value"]
            wanted = [getattr(values, statistic)() for statistic in STATISTICS]
            wanted[STATISTICS.index("sum")] = values.sum(min_count=1)
            assert all(map(close, made[place], wanted)), (place, made[place], wanted)


@soak
@property_test
@given(st.lists(row, min_size=1, max_size=14), st.lists(row, min_size=1, max_size=6), st.sampled_from([0.0, 2.5]))
def test_encodings_are_those_of_a_loop(facts, questions, smooth):
    facts, questions = frame_of(facts), frame_of(questions)
    columns = ["asked", "known", "who"]
    encoder = OrderedTargetEncoder("asked", known="known", smooth=smooth).fit(facts[columns], facts["label"])
    counter = OrderedCountEncoder("asked", columns="who").fit(facts[columns])
    everybody = facts.assign(who="all")
    for frame in (facts, questions):
        made, counted = encoder.transform(frame[columns]), counter.transform(frame[columns])
        for place in range(len(frame)):
            own, every = earlier(frame, facts, place)["label"], earlier(frame.assign(who="all"), everybody, place)["label"]
            weight = len(own) + smooth
            drawn = (own.sum() + smooth * every.mean()) / weight if weight else every.mean()
            assert close(made[place, 0], drawn if len(every) else nan)
            seen = earlier(frame, facts.assign(known=facts["asked"]), place)
            assert close(counted[place, 0], nan if pd.isna(frame["asked"].iloc[place]) else len(seen))


HISTORIES = [
    (Lags("asked", "who", [1, 2], known="known"), ["asked", "known", "who", "value"]),
    (Rolling("asked", "who", "5s", STATISTICS, known="known"), ["asked", "known", "who", "value"]),
    (OrderedTargetEncoder("asked", known="known"), ["asked", "known", "who"]),
    (OrderedCountEncoder("asked", columns="who"), ["asked", "known", "who"]),
]


@soak
@pytest.mark.parametrize(("transformer", "columns"), HISTORIES, ids=["lags", "rolling", "target", "count"])
@property_test
@given(data=st.data())
def test_order_of_rows_batches_and_what_comes_later_do_not_matter(transformer, columns, data):
    rows = data.draw(st.lists(row, min_size=2, max_size=12))
    frame = frame_of(rows)
    whole = clone(transformer).fit(frame[columns], frame["label"])
    made = whole.transform(frame[columns])

    order = data.draw(st.permutations(range(len(rows))))
    shuffled = frame.iloc[list(order)]
    again = clone(transformer).fit(shuffled[columns], shuffled["label"]).transform(shuffled[columns])
    np.testing.assert_allclose(again, made[list(order)], rtol=1e-9)

    cut = data.draw(st.integers(1, len(rows) - 1))
    parts = clone(transformer).fit(frame[columns][:cut], frame["label"][:cut]).partial_fit(frame[columns][cut:], frame["label"][cut:])
    np.testing.assert_allclose(parts.transform(frame[columns]), made, rtol=1e-9)

    alone = np.vstack([whole.transform(frame[columns].iloc[[place]]) for place in range(len(rows))])
    np.testing.assert_allclose(alone, made, rtol=1e-9)

    place = data.draw(st.integers(0, len(rows) - 1))
    asks = frame["asked"].iloc[place]
    told = frame["known"].where(~(frame["known"] < frame["asked"]), frame["asked"])
    later = (told >= asks) | told.isna() | pd.isna(asks)
    assert later.iloc[place]
    other = frame.assign(value=frame["value"].where(~later, 1e6), label=frame["label"].where(~later, 1 - frame["label"]))
    changed = clone(transformer).fit(other[columns], other["label"]).transform(other[columns])
    np.testing.assert_array_equal(changed[place], made[place])


def test_entities_of_several_columns_and_of_mixed_types_are_told_apart():
    frame = pd.DataFrame({"at": [0.0, 1, 2, 3], "a": pd.Series([1, "1", 1.0, True], dtype=object), "b": ["x", "x", "x", "x"], "v": [1.0, 2, 3, 4]})
    made = Lags("at", ["a", "b"]).fit_transform(frame).ravel()
    np.testing.assert_array_equal(made, [nan, nan, 1, 3])  # in Python and pandas, True is 1


def test_arrays_frames_and_names_say_the_same():
    frame = pd.DataFrame({"at": [3.0, 1, 2], "who": [1.0, 1, 2], "value": [5.0, 7, 9]})
    by_name = Rolling("at", "who", "5s").set_output(transform="pandas").fit(frame)
    by_place = Rolling(0, 1, "5s").fit(frame.to_numpy())
    np.testing.assert_array_equal(by_name.transform(frame).to_numpy(), by_place.transform(frame.to_numpy()))
    assert by_name.get_feature_names_out().tolist() == by_name.transform(frame).columns.tolist() == ["value_mean_5s"]
    assert by_place.get_feature_names_out().tolist() == ["x2_mean_5s"]


@pytest.mark.parametrize("transformer", [*PLAIN, *OTHERS], ids=repr)
def test_a_frame_without_rows_is_refused(transformer):
    columns = ["a", "b", "c", "d"]
    with pytest.raises(ValueError, match="no row"):
        clone(transformer).fit(pd.DataFrame({name: pd.Series(dtype=float) for name in columns}), pd.Series(dtype=int))


# Great-circle distances in km on a sphere of 6371.0088 km, from the airports' published coordinates.
@pytest.mark.parametrize(
    ("start", "end", "km"),
    [
        ((51.4775, -0.461389), (40.639722, -73.778889), 5540),  # Heathrow to JFK
        ((-33.946111, 151.177222), (35.553333, 139.781111), 7822),  # Sydney to Haneda, across the equator
        ((37.618889, -122.375), (21.318611, -157.922222), 3859),  # San Francisco to Honolulu
    ],
)
def test_distances_between_cities(start, end, km):
    assert Haversine().fit_transform([[*start, *end]])[0, 0] == pytest.approx(km, rel=0.005)


@soak
@property_test
@given(*(st.tuples(st.floats(-90, 90), st.floats(-180, 180)) for _ in range(2)))
def test_distances_are_those_of_the_law_of_cosines_and_the_same_both_ways(start, end):
    one, other = Haversine().fit_transform([[*start, *end], [*end, *start]]).ravel()
    points = [(cos(radians(a)) * cos(radians(o)), cos(radians(a)) * sin(radians(o)), sin(radians(a))) for a, o in (start, end)]
    chord = sqrt(sum((x - y) ** 2 for x, y in zip(*points, strict=True)))
    assert one == pytest.approx(2 * 6371.0088 * asin(min(chord / 2, 1)), abs=0.5)
    assert one == pytest.approx(other, abs=1e-6)


@soak
@property_test
@given(st.datetimes(min_value=pd.Timestamp("1900-01-01").to_pydatetime(), max_value=pd.Timestamp("2100-01-01").to_pydatetime()), st.sampled_from(["UTC", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]))
def test_times_lie_where_the_clock_on_the_wall_says(moment, zone):
    instant = pd.Timestamp(moment, tz="UTC")
    clock = instant.tz_convert(zone)
    sine, cosine = CyclicalTime("day", zone).fit_transform(pd.DataFrame({"t": [instant]}))[0]
    share = (clock.hour * 3600 + clock.minute * 60 + clock.second + clock.microsecond / 1e6) / 86400
    assert (sine, cosine) == pytest.approx((np.sin(2 * np.pi * share), np.cos(2 * np.pi * share)), abs=1e-9)


def test_holidays_are_those_of_the_package_day_by_day():
    from holidays import country_holidays

    days = pd.date_range("2012-12-01 17:00", "2014-01-31", tz="America/New_York")
    known = country_holidays("US", years=range(2011, 2016))
    made = Holidays(zone="America/New_York").fit_transform(pd.DataFrame({"t": days}))
    for day, (is_one, until, since) in zip(days, made, strict=True):
        assert is_one == (day.date() in known)
        assert until == min((one - day.date()).days for one in known if one >= day.date())
        assert since == min((day.date() - one).days for one in known if one <= day.date())


def test_holidays_say_what_to_install(monkeypatch):
    monkeypatch.setattr(calendar, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"ml-notebooks\[calendar\]"):
        Holidays().fit([[0.0]])


def test_what_is_saved_with_a_model_is_loaded_again(tmp_path):
    (tmp_path / "settings.ini").write_text("[workspace]\nname = example\n")
    registry = open_registry(find_workspace(tmp_path))
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({
        "asked": at(generator.uniform(0, 1e6, 60)), "who": generator.choice(["a", "b", "c"], 60), "value": generator.normal(size=60),
        "lat": generator.uniform(-90, 90, 60), "lon": generator.uniform(-180, 180, 60),
    })  # fmt: skip
    transformers = [
        ("lags", Lags("asked", "who"), ["asked", "who", "value"]),
        ("rolling", Rolling("asked", "who"), ["asked", "who", "value"]),
        ("target", OrderedTargetEncoder("asked"), ["asked", "who"]),
        ("count", OrderedCountEncoder("asked"), ["asked", "who"]),
        ("cyclical", CyclicalTime(), ["asked"]),
        ("holidays", Holidays(), ["asked"]),
        ("distance", Haversine(("lat", "lon"), ("lat", "lon")), ["lat", "lon"]),
        ("clipped", QuantileClipper(), ["value"]),
        ("rare", make_pipeline(RareCategories(0.3), OneHotEncoder(handle_unknown="ignore")), ["who"]),
    ]
    assert {type(one).__name__ for one in PLAIN} <= {name.rpartition(".")[2] for name in ALLOWED_TYPES}
    model = make_pipeline(ColumnTransformer(transformers), SimpleImputer(), StandardScaler(), LogisticRegression()).fit(frame, generator.integers(0, 2, 60))
    run = log_run(registry, "example", "linear", {}, {})
    log_model(registry, run, model, frame.head())
    loaded = load_run_model(registry, run)
    np.testing.assert_array_equal(loaded.predict_proba(frame), model.predict_proba(frame))
    assert loaded[0].get_feature_names_out().tolist() == model[0].get_feature_names_out().tolist()
    loaded[0].named_transformers_["lags"].partial_fit(frame[["asked", "who", "value"]])


@pytest.mark.parametrize("given", [[7, 8], [7.0, 8.5], pd.array([7, None], dtype="Int64"), pd.Categorical([7, 8]), [True, False]], ids=repr)
def test_numbers_are_others_where_training_saw_texts(given):
    rare = RareCategories(2)
    for texts in (["UA", "UA", "7", "7"], ["UA", "7"]):  # some are kept, none is
        made = rare.fit(pd.DataFrame({"who": texts})).transform(pd.DataFrame({"who": given}))["who"]
        assert made.dropna().unique().tolist() == ["other"] and made.isna().tolist() == pd.Series(given).isna().tolist()
    assert rare.fit(pd.DataFrame({"who": [7, 7]})).transform(pd.DataFrame({"who": [7, 8]}))["who"].isna().tolist() == [False, True]


def test_a_part_of_a_history_does_not_take_other_columns():
    lags = Lags("asked", "who").fit(frame_of([(0, 0, "a", 1.0, 0)])[["asked", "who", "value"]])
    with pytest.raises(ValueError, match="feature names"):
        lags.partial_fit(pd.DataFrame({"asked": at([1]), "who": ["a"], "delay": [1.0]}))
    with pytest.raises(BadTransform, match="no number"):
        lags.partial_fit(pd.DataFrame({"asked": at([1]), "who": ["a"], "value": ["late"]}))
