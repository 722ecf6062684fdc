"""`mlnb features`: what there is, found by words, shown with its past."""

import json
import sys
from datetime import datetime, timedelta, timezone

import pytest
from support.workspaces import make_workspace

from ml_notebooks.cli import features as commands
from ml_notebooks.cli.app import main
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.features.materialize import materialize
from ml_notebooks.features.store import FeatureStore
from ml_notebooks.features.training_set import training_set
from ml_notebooks.features.view import FeatureView

DELAYS = "SELECT range % 3 AS origin, TIMESTAMPTZ '2013-07-01 06:00:00Z' + to_minutes(range) AS landed_at, range % 50 AS delay FROM range(600)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A workspace with one view in two versions, one that is not materialised, and a training set."""
    workspace = make_workspace(tmp_path_factory.mktemp("features") / "w", threads=1)
    with open_warehouse(workspace) as wh:
        store = FeatureStore(wh)
        for query in (DELAYS, DELAYS.replace("% 50", "% 40")):
            about = {"description": "How late the last flight was.", "owner": "operations", "tags": ("delay",)}
            view = FeatureView("last", "origin", "landed_at", query, timedelta(days=1), **about)
            materialize(store, view, until=datetime(2013, 7, 1, 12, tzinfo=timezone.utc))
        store.register(FeatureView("sky", (), "known_at", "FROM clean.sky", description="What the weather was like."))
        training_set(store, "features.set", "SELECT 1 AS origin, TIMESTAMPTZ '2013-07-01 08:00:00Z' AS asked_at", ["last"])
    return workspace.root


@pytest.fixture
def say(folder, monkeypatch, capsys):
    """Call `mlnb features` in this process; returns its exit status, what it printed and what it complained of."""
    monkeypatch.setattr(commands, "used_by", lambda wh: {"late 3": {"last": FeatureStore(wh).view("last").version}})

    def call(*words):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["mlnb", "features", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return call


@pytest.mark.parametrize(
    ("words", "found", "others"),
    [
        ((), ["last", "sky", "360", "late 3", "everybody"], []),
        (("LATE", "operations"), ["last"], ["sky"]),
        (("find", "weather"), ["sky"], ["last"]),
        (("zebra",), ["None of 2 has zebra."], ["last"]),
    ],
)
def test_features_are_listed_and_found(say, words, found, others):
    status, out, err = say(*words)
    assert (status, err) == (0, "")
    assert all(text in out for text in found) and not any(text in out for text in others)


def test_a_view_is_shown_with_its_versions_statistics_and_sql(say):
    _, out, _ = say("show", "last")
    assert out.count("(in use)") == 1 and "range % 40" in out and "range % 50" not in out
    assert out.count("to 2013-07-01 12:00, 360 rows") == 2 and "features.set" in out
    older = json.loads(say("show", "last", "--json")[1])["versions"][0]["version"]
    _, out, _ = say("show", "last", "--version", older, "--limit", "1")
    assert "range % 50" in out and out.count("360 rows") == 1


def test_features_as_json(say):
    rows = json.loads(say("--json")[1])
    assert [(row["name"], row["rows"], row["versions"]) for row in rows] == [("last", 360, 2), ("sky", None, 1)]
    assert rows[0]["models"] == "late 3" and rows[0]["computed_to"] == "2013-07-01T12:00:00+00:00"
    shown = json.loads(say("show", "last", "--json")[1])
    assert [one["version"] for one in shown["versions"]][1] == shown["in_use"] and {look["feature"] for look in shown["statistics"]} == {"delay"}


@pytest.mark.parametrize("words", [("show", "lst"), ("show", "last", "--version", "000000000000")])
def test_what_is_not_there_is_refused_with_what_is(say, words):
    status, out, err = say(*words)
    assert (status, out) == (1, "") and "There is no feature" in err and "last" in err


def test_an_empty_store_says_how_it_is_filled(tmp_path, monkeypatch, capsys):
    workspace = make_workspace(tmp_path / "empty")
    open_warehouse(workspace).close()
    monkeypatch.chdir(workspace.root)
    monkeypatch.setattr(sys, "argv", ["mlnb", "features"])
    with pytest.raises(SystemExit):
        main()
    assert "There are no features yet" in capsys.readouterr().out


def latest(rows):
    """A function that only the module that defines it has."""
    return rows


def test_a_push_leaves_out_what_cannot_be_pushed_and_says_why(tmp_path, monkeypatch, capsys):
    workspace = make_workspace(tmp_path / "w", threads=1)
    with open_warehouse(workspace) as wh:
        wh.publish("clean.delays", DELAYS)
        store, about = FeatureStore(wh), {"entity": "origin", "timestamp": "landed_at", "online": True}
        materialize(store, FeatureView("a_function", transform=latest, reads="clean.delays", **about))
        materialize(store, FeatureView("last", query=DELAYS, **about))
        store.register(FeatureView("never", query=DELAYS, **about))
    monkeypatch.chdir(workspace.root)
    monkeypatch.setattr(sys, "argv", ["mlnb", "features", "push", "--json"])
    monkeypatch.delattr(sys.modules[__name__], "latest")  # as where a notebook defined it
    with pytest.raises(SystemExit, match="1"):
        main()
    printed = capsys.readouterr()
    assert [(one["view"], one["entities"]) for one in json.loads(printed.out)] == [("last", 3)]
    functions, never = printed.err.splitlines()
    assert functions.startswith("mlnb: `a_function` was left out: ") and "`push(store, a_function, " in functions
    assert never.startswith("mlnb: `never` was left out: ")
