"""Choosing features: known answers, kinds of columns and labels, small samples, and what a fitted pipeline keeps."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator
from skops.io import dumps, loads
from support.soak import SOAK, soak

from ml_notebooks.errors import BadTransform
from ml_notebooks.features.relevance import Problem, folds_of, mutual_information, stability
from ml_notebooks.features.select import METHODS, select_features
from ml_notebooks.features.selector import FeatureSelector
from ml_notebooks.features.shadows import _decided, shadows
from ml_notebooks.features.suspects import label_suspects, task_of
from ml_notebooks.training.registry import ALLOWED_TYPES


def flights(rows=600, seed=0):
    """Honest columns of every kind, and a label that follows from three of them."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame({
        "wind": random.normal(size=rows),
        "late_share": random.random(rows),
        "carrier": random.choice(["UA", "AA", "B6"], rows),
        "storm": pd.array(random.choice([True, False], rows), dtype="boolean"),
        "seats": pd.array(random.integers(100, 200, rows), dtype="Int64"),
        "airport": pd.Categorical(random.choice(["EWR", "JFK", "LGA"], rows)),
        "asked_at": pd.date_range("2013-07-01", periods=rows, freq="h", tz="UTC"),
        "tail": [f"N{number}" for number in random.permutation(rows)],
        "empty": None,
        "same": 1.0,
    })
    frame.loc[random.random(rows) < 0.1, ["wind", "storm", "seats"]] = None
    says = frame.wind.fillna(0) + 3 * frame.late_share + 1.5 * (frame.carrier == "B6") + random.normal(0, 0.7, rows)
    return frame, says


LABELS = {
    "binary": lambda says: says > says.median(),
    "words": lambda says: np.where(says > says.median(), "late", "on time"),
    "multiclass": lambda says: pd.qcut(says, 3, labels=["early", "on time", "late"]),
    "regression": lambda says: says,
}


# suspects


@pytest.mark.parametrize("kind", LABELS)
def test_honest_columns_are_no_suspects(kind):
    frame, says = flights()
    assert label_suspects(frame.assign(label=LABELS[kind](says)), "label") == []


@soak
@pytest.mark.parametrize("seed", range(200 if SOAK else 3))
def test_noise_and_strong_features_are_no_suspects(seed):
    random = np.random.default_rng(seed)
    rows = int(random.choice([8, 20, 60, 400]))
    label = random.random(rows) < random.choice([0.1, 0.5])
    label[:2] = [True, False]
    frame = pd.DataFrame(random.normal(size=(rows, 30))).add_prefix("noise_")
    frame["strong"] = random.normal(size=rows) + 1.8 * label  # AUC 0.9
    frame["city"] = random.integers(0, rows, rows).astype(str)
    frame.loc[random.random(rows) < 0.3, "noise_1"] = np.nan
    assert label_suspects(frame.assign(label=label), "label") == []


LEAKS = {
    "copy": lambda label, random: label,
    "other values": lambda label, random: np.where(label, "yes", "no"),
    "monotone": lambda label, random: np.exp(label.astype(float)) * 3,
    "gap": lambda label, random: np.where(label, np.nan, random.normal(size=len(label))),
    "some gaps": lambda label, random: np.where(label & (random.random(len(label)) < 0.3), None, "x"),
    "threshold": lambda label, random: np.where(label, 15, -15) + random.uniform(0, 15, len(label)),
    "band": lambda label, random: np.where(label, random.uniform(-1, 1, len(label)), random.choice([-1, 1], len(label)) * random.uniform(1, 3, len(label))),
    "codes": lambda label, random: np.where(label, random.choice(["a", "b"], len(label)), random.choice(["c", "d", "e"], len(label))),
    "number in order": lambda label, random: np.argsort(np.argsort(label + 0.5 * random.random(len(label)))),
    "text in order": lambda label, random: [f"{number:06}" for number in np.argsort(np.argsort(label + 0.5 * random.random(len(label))))],
    "nearly": lambda label, random: np.where(random.random(len(label)) < 0.01, ~label, label).astype(int),
}


@pytest.mark.parametrize("name", LEAKS)
@pytest.mark.parametrize("share", [0.5, 0.1])
def test_a_column_that_knows_the_label_is_found(name, share):
    random = np.random.default_rng(1)
    label = random.random(1500) < share
    frame = pd.DataFrame({"honest": random.normal(size=1500) + label, "leak": LEAKS[name](label, random), "label": label})
    if name == "nearly" and share == 0.1:
        frame["leak"] = np.where(random.random(1500) < 0.002, ~label, label).astype(int)
    assert [suspect.column for suspect in label_suspects(frame, "label")] == ["leak"]


def test_leaks_of_several_classes_and_of_numbers_are_found():
    frame, says = flights()
    classes = LABELS["multiclass"](says)
    several = frame.assign(copy=classes.astype(str), coded=classes.cat.codes, label=classes)
    assert {suspect.column for suspect in label_suspects(several, "label")} == {"copy", "coded"}
    numbers = frame.assign(cubed=says**3, nearly=says + np.random.default_rng(0).normal(0, 0.05, len(says)), label=says)
    assert {suspect.column: suspect.kind for suspect in label_suspects(numbers, "label")} == {"cubed": "copy", "nearly": "alone"}


def test_rows_that_come_twice_are_counted_with_and_without_their_label():
    frame, says = flights()
    label = says > says.median()
    again = pd.concat([frame.drop(columns="tail"), frame.drop(columns="tail").head(60)], ignore_index=True)
    (found,) = label_suspects(again.assign(label=[*label, *label.head(40), *~label[40:60]]), "label")
    assert found.kind == "repeated" and found.reason.startswith("60 rows (9.1%)") and "40 of them with the same" in found.reason


def test_rows_without_a_label_do_not_count():
    frame, says = flights()
    label = (says > says.median()).astype("boolean")
    label[says.index % 2 == 0] = None
    assert label_suspects(frame.assign(copy=says > says.median(), label=label), "label")[0].column == "copy"


# relevance


def test_mutual_information_of_noise_is_rarely_more_than_chance():
    random = np.random.default_rng(3)
    frame = pd.DataFrame(random.normal(size=(500, 200))).assign(**{f"word_{i}": random.integers(0, 60, 500).astype(str) for i in range(50)})
    for kind, label in {"binary": random.random(500) < 0.2, "multiclass": random.integers(0, 4, 500), "regression": random.normal(size=500)}.items():
        assert mutual_information(Problem(frame, pd.Series(label), kind)).found.mean() < 0.04


def test_stability_keeps_its_bound_on_noise():
    random = np.random.default_rng(4)
    frame = pd.DataFrame(random.normal(size=(200, 30)))
    wrong = [stability(Problem(frame, pd.Series(random.normal(size=200)), "regression", seed=seed)).found.sum() for seed in range(20)]
    assert np.mean(wrong) <= 1  # what the theorem promises


def test_boruta_decides_as_a_coin_would_be_judged():
    hits = np.array([20, 10, 0, 18, 15])
    assert _decided(hits, 20, 0.05).tolist() == [1, 0, -1, 1, 0]
    assert not _decided(np.array([5]), 5, 0.01).any() and _decided(np.array([5]), 5, 0.05).all()


def test_shadows_find_what_is_relevant_the_same_each_time():
    frame, says = flights(300)
    columns = ["wind", "late_share", "carrier", "seats"]
    problem = Problem(frame[columns], says > says.median(), "binary")
    judged = shadows(problem, rounds=15, trees=25)
    assert judged.found["wind"] and judged.found["late_share"] and not judged.found["seats"]
    assert judged.scores.equals(shadows(problem, rounds=15, trees=25).scores)


# selection


@pytest.mark.parametrize("kind", LABELS)
def test_the_selection_finds_what_the_label_follows_from(kind):
    frame, says = flights()
    selection = select_features(frame.assign(copy=LABELS[kind](says), wind_in_knots=frame.wind * 1.9, label=LABELS[kind](says)), "label")
    reasons = {verdict.feature: verdict.reason for verdict in selection.verdicts}
    assert set(selection.kept) in ({"wind", "late_share", "carrier"}, {"wind_in_knots", "late_share", "carrier"})
    assert "correlated with `wind" in reasons["wind"] + reasons["wind_in_knots"]
    assert reasons["empty"] == "is missing in every row" and reasons["same"] == "has the same value in every row" and "label" in reasons["copy"]
    assert [verdict.rank for verdict in selection.verdicts] == list(range(1, len(reasons) + 1))
    assert "<table" in selection._repr_html_() and len(selection.to_frame()) == 12 and selection.figure(3).axes


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_every_method_bears_every_kind_of_column(kind):
    frame, says = flights(150)
    frame = frame[["wind", "late_share", "carrier", "storm", "airport"]]
    folds = None if kind != "binary" else TimeSeriesSplit(2)
    selection = select_features(frame.assign(label=LABELS[kind](says)), "label", [*METHODS], folds=folds, sample=120)
    assert selection.sampled == 120 and {"wind", "late_share"} <= set(selection.kept)
    assert selection.to_frame()[list(METHODS)].notna().any().all()


def test_rows_of_a_group_stay_on_one_side():
    frame, says = flights(300)
    frame = frame.assign(label=says > says.median(), trip=np.arange(300) // 10)
    selection = select_features(frame, "label", ["permutation"], groups="trip")
    assert "trip" not in {verdict.feature for verdict in selection.verdicts} and "late_share" in selection.kept
    positions = [(np.arange(200), np.arange(200, 300))]
    assert select_features(frame, "label", ["permutation"], folds=positions, sample=90).sampled == 90


@pytest.mark.parametrize("rows", [2, 9])
def test_few_rows_give_an_answer(rows):
    frame, _ = flights(rows)
    selection = select_features(frame.assign(label=np.arange(rows) % 2), "label", ["permutation", "stability"])
    assert len(selection.verdicts) == frame.shape[1]


def test_no_features_give_an_empty_report():
    selection = select_features(pd.DataFrame({"label": [0, 1, 0]}), "label", ["permutation"])
    assert selection.verdicts == () and selection.kept == [] and "<table" in selection._repr_html_()


def test_the_same_call_gives_the_same_report():
    frame, says = flights(200)
    frame = frame.assign(label=says > says.median())
    assert select_features(frame, "label", ["permutation"]) == select_features(frame, "label", ["permutation"])


def test_words_that_stand_one_to_one_are_the_same_and_numbers_that_do_not_are_not():
    random = np.random.default_rng(0)
    code = random.integers(0, 4, 300)
    frame = pd.DataFrame({"code": code, "name": np.array(["a", "b", "c", "d"])[code], "other": random.integers(0, 4, 300), "label": (code > 1) ^ (random.random(300) < 0.2)})
    reasons = {verdict.feature: verdict.reason for verdict in select_features(frame, "label").verdicts}
    assert reasons["name"] == "is the same as `code`, value for value" and "same" not in reasons["other"]


# the transformer


CHECKS = [pair for pair in estimator_checks_generator(FeatureSelector()) if "array_api" not in str(pair[1])]


@pytest.mark.filterwarnings("ignore:No features were selected")
@pytest.mark.parametrize(("estimator", "check"), CHECKS)
def test_scikit_learns_own_checks(estimator, check):
    check(clone(estimator))


def test_a_pipeline_with_a_selector_is_saved_and_loaded_with_our_types_alone():
    frame, says = flights()
    numbers = frame[["wind", "late_share", "same"]].fillna(0)
    pipeline = make_pipeline(FeatureSelector(), LogisticRegression()).fit(numbers, says > says.median())
    loaded = loads(dumps(pipeline), trusted=list(ALLOWED_TYPES))
    assert (loaded.predict(numbers) == pipeline.predict(numbers)).all()
    assert loaded[0].to_frame().equals(pipeline[0].to_frame()) and loaded[0].get_feature_names_out().tolist() == ["wind", "late_share"]


def test_frames_come_back_as_frames_and_other_columns_are_refused():
    frame, says = flights()
    selector = FeatureSelector(most=2).fit(frame, says > says.median())
    kept = selector.transform(frame)
    assert list(kept) == selector.get_feature_names_out().tolist() and kept.shape == (600, 2)
    assert selector.transform(frame.head(1)).shape == (1, 2)
    with pytest.raises(ValueError, match="feature names"):
        selector.transform(frame.rename(columns={"wind": "gusts"}))


@pytest.mark.parametrize(("values", "kind"), [(["a", "b"], "binary"), ([1.5, 2.5, 3.5], "regression"), ([1, 2, 3], "multiclass"), ([0, 1, None], "binary")])
def test_the_kind_of_a_label(values, kind):
    label = pd.Series(values)
    assert task_of(label) == kind and len(folds_of(label.dropna(), kind)) >= 2


GROUPS = {
    "one": (lambda rows: rows.assign(plane="N1"), "plane", "All 60 rows with a label have one `plane`"),
    "one among the rows with a label": (lambda rows: rows.assign(late=rows.late.where(rows.plane == "N1")), "plane", "All 20 rows with a label have one `plane`"),
    "missing in some": (lambda rows: rows.assign(plane=rows.plane.where(rows.plane != "N1")), "plane", "`plane` is missing in 20 of 60 rows"),
    "numbers missing in some": (lambda rows: rows.assign(plane=rows.index.where(rows.index > 5)), "plane", "`plane` is missing in 6 of 60 rows"),
    "missing in all": (lambda rows: rows.assign(plane=None), "plane", "`plane` is missing in 60 of 60 rows"),
    "the label": (lambda rows: rows, "late", "`groups` is `late`, which is the label"),
}


@pytest.mark.parametrize(("change", "groups", "said"), GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("folds", [None, GroupKFold(2)], ids=["", "splitter"])
def test_groups_that_part_nothing_are_refused(change, groups, said, folds):
    random = np.random.default_rng(0)
    rows = pd.DataFrame({"wind": random.normal(size=60), "late": pd.Series([True, False, False, True] * 15, dtype=object), "plane": ["N1", "N2", "N3"] * 20})
    with pytest.raises(BadTransform, match=said):
        select_features(change(rows), "late", "permutation", groups=groups, folds=folds)


@pytest.mark.parametrize("most", [-1, 0, 2.5, "3", True])
def test_a_number_of_features_below_one_is_refused(most):
    frame, says = flights(80)
    with pytest.raises(BadTransform, match=f"`most` is {most!r}"):
        select_features(frame.assign(late=says > 0), "late", most=most)
    with pytest.raises(BadTransform, match=f"`most` is {most!r}"):
        FeatureSelector(most=most).fit(frame, says > 0)


def test_one_value_and_gaps_are_compared_without_a_warning(recwarn):
    frame, says = flights()
    chosen = select_features(frame.assign(late=says > says.median(), seen=pd.Series(1.0, frame.index).where(frame.wind > 0)), "late")
    assert {"wind", "seen", "late_share"} <= {verdict.feature for verdict in chosen.verdicts} and not [one for one in recwarn if one.category is RuntimeWarning]
