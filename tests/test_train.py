"""What `train` takes for the rows of a training set: the same values in any width, and nothing that was changed on the way."""

from datetime import timedelta

import pandas as pd
import pytest
from sklearn.dummy import DummyClassifier
from support.workspaces import make_workspace

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import NotCertified
from ml_notebooks.features.materialize import materialize
from ml_notebooks.features.store import FeatureStore
from ml_notebooks.features.training_set import training_set
from ml_notebooks.features.view import FeatureView
from ml_notebooks.training.candidates import Candidate
from ml_notebooks.training.registry import open_registry
from ml_notebooks.training.train import check_rows, train

SET = """
    SELECT i AS id, (i % 7)::TINYINT AS small, CASE WHEN i % 5 > 0 THEN i * 0.5 END AS real, CASE WHEN i % 3 > 0 THEN 'c' || (i % 11) END AS text, i % 4 = 0 AS late,
        CASE WHEN i % 6 > 0 THEN i % 2 = 0 END AS maybe, TIMESTAMPTZ '2013-01-01 00:00:00Z' + to_minutes(i) AS known_at, DATE '2013-01-01' + (i % 300)::INTEGER AS day,
        (i / 7)::DECIMAL(12, 3) AS exact, (i / 3)::FLOAT AS narrow, (15000000000000 + i / 7)::DECIMAL(38, 6) AS large, CASE WHEN i % 2 > 0 THEN i END AS whole, TIME '10:00:00' AS hour, [i, i + 1] AS list
    FROM range(2000) AS rows(i)
"""


@pytest.fixture(scope="module")
def wh(tmp_path_factory):
    with open_warehouse(make_workspace(tmp_path_factory.mktemp("trained"))) as opened:
        opened.publish("features.trained", SET)
        yield opened


@pytest.fixture(scope="module")
def rows(wh):
    return wh.table("features.trained").df()


SAME = {
    "all": lambda rows: rows,
    "none": lambda rows: rows.iloc[:0],
    "some, some of them twice": lambda rows: rows.sample(frac=1.5, replace=True, random_state=0),
    "another index": lambda rows: rows.set_index(rows.id * 2),
    "columns in another order": lambda rows: rows[[*rows.columns[::-1]]],
    "more columns": lambda rows: rows.assign(more=1),
    "a target of 0 and 1": lambda rows: rows.assign(late=rows.late.astype(int)),
    "categories": lambda rows: rows.assign(text=rows.text.astype("category")),
    "32 bits": lambda rows: rows.assign(real=rows.real.astype("float32")),
    "missing as NaN": lambda rows: rows.assign(whole=rows.whole.astype("float64"), maybe=rows.maybe.astype("float64")),
    "another zone": lambda rows: rows.assign(known_at=rows.known_at.dt.tz_convert("America/New_York")),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_the_rows_of_the_set_pass(wh, rows, change):
    check_rows(wh, "features.trained", change(rows), tuple(rows.columns))


def test_what_no_feature_reads_may_differ(wh, rows):
    check_rows(wh, "features.trained", rows.assign(real=0.0), ("small", "text", "late", "not a column"))


CHANGED = {
    "the answer in a column": ("real", lambda rows: rows.assign(real=rows.late * 1.0)),
    "another row's value": ("real", lambda rows: rows.assign(real=rows.real.to_numpy()[::-1])),
    "what is missing filled in": ("real", lambda rows: rows.fillna({"real": 0.0})),
    "a value taken away": ("text", lambda rows: rows.assign(text=rows.text.where(rows.id != 4))),
    "another target": ("late", lambda rows: rows.assign(late=~rows.late)),
    "an hour of a day": ("day", lambda rows: rows.assign(day=rows.day + pd.to_timedelta(rows.late * 13, "h"))),
    "a fraction in a list": ("list", lambda rows: rows.assign(list=[[value + 0.4 for value in values] for values in rows["list"]])),
    "an hour later": ("known_at", lambda rows: rows.assign(known_at=rows.known_at + pd.Timedelta(hours=1))),
}


@pytest.mark.parametrize(("column", "change"), CHANGED.values(), ids=CHANGED)
def test_a_changed_column_is_named(wh, rows, column, change):
    with pytest.raises(NotCertified, match=f"What differs is `{column}`"):
        check_rows(wh, "features.trained", change(rows), tuple(rows.columns))


def test_several_changed_columns_are_refused(wh, rows):
    with pytest.raises(NotCertified, match=r"2,000 distinct rows .* What differs is `small`, `real`"):
        check_rows(wh, "features.trained", rows.assign(real=-1.0, small=99), tuple(rows.columns))


NOT_TO_BE_COMPARED = {
    "numbers and texts in a column": lambda rows: rows.assign(real=rows.real.astype(object).where(rows.id % 2 == 0, "x")),
    "no such column": lambda rows: rows.drop(columns="real"),
    "two columns of one name": lambda rows: pd.concat([rows, rows[["real"]]], axis=1),
    "a sparse column": lambda rows: rows.assign(small=pd.arrays.SparseArray(rows.small)),
}


@pytest.mark.parametrize("change", NOT_TO_BE_COMPARED.values(), ids=NOT_TO_BE_COMPARED)
def test_rows_that_cannot_be_compared_are_refused(wh, rows, change):
    with pytest.raises(NotCertified, match="cannot be compared"):
        check_rows(wh, "features.trained", change(rows), tuple(rows.columns))


def test_what_differs_among_many_columns_is_named(wh):
    wh.publish("features.wide", f"SELECT {', '.join(f'(i * {number}) % 97 AS c{number}' for number in range(60))} FROM range(20000) AS rows(i)")
    wide = wh.table("features.wide").df()
    check_rows(wh, "features.wide", wide, tuple(wide.columns))
    with pytest.raises(NotCertified, match=r"What differs is `c7`\."):
        check_rows(wh, "features.wide", wide.assign(c7=-1), tuple(wide.columns))


ASKS = """
    SELECT i AS id, md5(i::VARCHAR)::UUID AS ticket, [i, NULL] AS list, 'EWR' AS origin, i % 24 AS hour, TIMESTAMPTZ '2013-07-01 01:00:00Z' + to_minutes(20 * i) AS asked_at, (i * 37) % 50 > 30 AS late
    FROM range(300) AS asks(i)
"""


@pytest.fixture(scope="module")
def certified(wh):
    """A set with a certificate that holds, in which a feature of 0 and 1 stands beside each answer in some rows."""
    wh.publish("clean.landings", "SELECT 'EWR' AS origin, TIMESTAMPTZ '2013-07-01' + to_minutes(20 * range) AS landed_at, (range * 11 % 3 = 0)::INT AS late FROM range(300)")
    store = FeatureStore(wh)
    last = FeatureView("last", "origin", "landed_at", "FROM clean.landings", timedelta(hours=3))
    materialize(store, last)
    assert training_set(store, "features.certified", ASKS, [last], label="late", known={"clean.landings": "landed_at"}, key="id").certificate.holds
    return wh.table("features.certified").df()


def fit(wh, rows, *features, target="late", **how):
    """Train a model that needs no time."""
    candidate = Candidate("dummy", DummyClassifier(), features or ("last_late",))
    return train(wh, open_registry(wh.workspace), "trained", candidate, rows, target, "features.certified", **how)


CERTIFIED = {
    "all": lambda rows: rows,
    "some, some of them twice": lambda rows: rows.sample(frac=1.5, replace=True, random_state=0),
    "another index": lambda rows: rows.set_index(rows.id * 2),
    "more columns": lambda rows: rows.assign(more=1),
    "the key alone beside what is used": lambda rows: rows[["id", "last_late", "late"]],
    "a target of 0 and 1": lambda rows: rows.assign(late=rows.late.astype(int)),
    "categories, 32 bits": lambda rows: rows.assign(origin=rows.origin.astype("category"), last_late=rows.last_late.astype("float32")),
    "nullable, another zone": lambda rows: rows.assign(last_late=rows.last_late.astype("Int64"), asked_at=rows.asked_at.dt.tz_convert("America/New_York")),
}


@pytest.mark.parametrize("change", CERTIFIED.values(), ids=CERTIFIED)
def test_a_model_is_trained_on_the_rows_of_a_certified_set(wh, certified, change):
    assert fit(wh, change(certified)).certificate


def test_a_feature_that_holds_the_answer_is_refused_where_other_rows_have_both(wh, certified):
    assert len(certified[["last_late", "late"]].drop_duplicates()) == 4
    for change in ({"last_late": certified.late * 1.0}, {"last_late": certified.late.astype(int), "hour": 5}):
        with pytest.raises(NotCertified, match=f"What differs is {', '.join(f'`{name}`' for name in sorted(change))}"):
            fit(wh, certified.assign(**change))


def test_a_key_that_was_moved_along_is_refused(wh, certified):
    moved = certified.sort_values(["late", "last_late"], ignore_index=True)
    with pytest.raises(NotCertified, match="distinct rows"):
        fit(wh, moved.assign(id=certified.id))


def test_rows_that_cannot_be_told_apart_are_refused(wh, certified):
    for kept in (["last_late", "late"], ["hour", "last_late", "late"]):
        with pytest.raises(NotCertified, match=r"The frame lacks `id`, .*without which its rows cannot be told apart"):
            fit(wh, certified[kept].assign(last_late=certified.late * 1.0))


def test_of_many_columns_that_a_frame_lacks_some_are_named(wh, certified):
    with pytest.raises(NotCertified, match="`id`, `ticket`, `origin`, `hour`, `asked_at`, without"):
        fit(wh, certified[["last_late", "late"]])
    wide = ", ".join(f"i AS c{number}" for number in range(8))
    training_set(FeatureStore(wh), "features.certified", ASKS.replace("i AS id", f"i AS id, {wide}"), ["last"], label="late", known={"clean.landings": "landed_at"}, key="id")
    with pytest.raises(NotCertified, match="`id`, `c0`, `c1`, `c2`, `c3` and 8 more, without"):
        fit(wh, certified[["last_late", "late"]])
    training_set(FeatureStore(wh), "features.certified", ASKS, ["last"], label="late", known={"clean.landings": "landed_at"}, key="id")


def test_the_answer_is_no_feature(wh, certified):
    for rows, target in ((certified, "late"), (certified.assign(answer=certified.late), "answer")):
        with pytest.raises(NotCertified, match="`late` is what is to be predicted"):
            fit(wh, rows, "last_late", "late", target=target)
    with pytest.raises(NotCertified, match="`answer` is not among its columns"):
        fit(wh, certified.assign(answer=certified.late), "last_late", "answer", target="answer")
    with pytest.warns(UserWarning, match="nevertheless: to see it"):
        assert fit(wh, certified, "late", uncertified="to see it").certificate is None
