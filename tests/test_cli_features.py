"""`mlnb features`: what there is, found by words, shown with its past."""

import json
import sys
from datetime import datetime, timedelta, timezone

import pytest
from rich.text import Text
from support.terminals import in_terminal
from support.workspaces import make_workspace
from typer.main import get_command

from ml_notebooks.cli import features as features_commands
from ml_notebooks.cli.app import app, main
from ml_notebooks.cli.skew import apart
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
    monkeypatch.setattr(features_commands, "used_by", lambda wh: {"late 3": {"last": FeatureStore(wh).view("last").version}})

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


def test_the_list_counts_the_users_that_are_shown(say):
    (line,) = (line for line in say()[1].splitlines() if line.startswith("last "))
    assert "late 3 +1" in line and "late 3; features.set" in say("show", "last")[1]


def test_a_view_is_shown_with_its_versions_statistics_and_sql(say):
    _, out, _ = say("show", "last")
    assert out.count("(in use)") == 1 and "range % 40" in out and "range % 50" not in out
    assert out.count("to 2013-07-01 12:00, 360 rows") == 2 and "features.set" in out
    older = json.loads(say("show", "last", "--json")[1])["versions"][0]["version"]
    _, out, _ = say("show", "last", "--version", older, "--limit", "1")
    assert "range % 50" in out and out.count("360 rows") == 1
    assert "not computed yet" in say("show", "sky")[1]


def test_features_as_json(say):
    rows = json.loads(say("--json")[1])
    assert [(row["name"], row["rows"], row["versions"]) for row in rows] == [("last", 360, 2), ("sky", None, 1)]
    assert rows[0]["models"] == "late 3" and rows[0]["computed_to"] == "2013-07-01T12:00:00+00:00"
    assert "least" in json.loads(say("show", "last", "--json")[1])["statistics"][0]
    shown = json.loads(say("show", "last", "--json")[1])
    assert [one["version"] for one in shown["versions"]][1] == shown["in_use"] and {look["feature"] for look in shown["statistics"]} == {"delay"}


@pytest.mark.parametrize("words", [("show", "lst"), ("show", "last", "--version", "000000000000")])
def test_what_is_not_there_is_refused_with_what_is(say, words):
    status, out, err = say(*words)
    assert (status, out) == (1, "") and "There is no feature" in err and "last" in err


def at(hour):
    return datetime(2013, 7, 1, hour, tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def backfilled(tmp_path_factory):
    """A workspace with a view of raw floats that was computed three times over, went on, and had an old range computed again; used by a training set."""
    workspace = make_workspace(tmp_path_factory.mktemp("backfilled") / "w", threads=1)
    with open_warehouse(workspace) as wh:
        store = FeatureStore(wh)
        query = DELAYS.replace("range % 50 AS delay", "(range % 7 + 1)::DOUBLE * 0.1 AS share_of_flights_that_are_late, 'N' || range AS tail")
        about = {"description": "How late the last flight was, and which aircraft it was, as far as it is known.", "owner": "operations"}
        last = FeatureView("last_landing", "origin", "landed_at", query, timedelta(days=1), **about)
        for until in (9, 9, 9):
            materialize(store, last, until=at(until))
        materialize(store, last, since="last", until=at(12))
        materialize(store, last, since=at(7), until=at(8))
        store.register(FeatureView("sky", (), "known_at", "FROM clean.sky"))
        training_set(store, "features.flights_of_the_day", "SELECT 1 AS origin, TIMESTAMPTZ '2013-07-01 08:00:00Z' AS asked_at", ["last_landing"])
    return workspace.root


@pytest.mark.parametrize(("columns", "seen"), [(60, "name rows computed to (UTC) used by"), (80, "name entity rows computed to (UTC) used by"), (100, "name entity features rows computed to (UTC) used by"), (140, "name entity features rows computed to (UTC) used by description")])
def test_freshness_and_users_are_seen_in_a_terminal_of_any_width(backfilled, columns, seen):
    status, shown = in_terminal("features", cwd=backfilled, columns=columns)
    heading, first, *_ = shown.splitlines()
    assert status == 0 and heading.split() == seen.split() and max(map(len, shown.splitlines())) <= columns
    assert all(text in first for text in ("last_landing", "360", "2013-07-01 12:00", "features.flights"))


@pytest.mark.parametrize("columns", [60, 140])
def test_each_range_is_shown_as_it_was_computed_last_in_few_digits(backfilled, columns):
    _, shown = in_terminal("features", "show", "last_landing", cwd=backfilled, columns=columns)
    ranges = [line.partition(" ")[2] for line in shown.splitlines() if " rows" in line and " to " in line]
    assert ranges == ["from 2013-07-01 07:00 to 2013-07-01 08:00, 60 rows", "from 2013-07-01 09:00 to 2013-07-01 12:00, 180 rows", "to 2013-07-01 09:00, 180 rows"]
    assert "computed to  2013-07-01 12:00 UTC" in shown and "0.30000000000000004" not in shown and "0.7000000000000001" not in shown and ("0.7" in shown) == ("least" in shown) == (columns > 60)
    table = [line.rstrip() for line in shown.splitlines() if line.startswith(("name", "feature ", "share_of", "tail", "version"))]
    assert max(map(len, table)) <= columns


def test_how_long_rows_count_and_the_newest_are_shown(say):
    shown = say("show", "last")[1]
    assert "newest row   2013-07-01 11:59 UTC\n" in shown and "ttl          1 day\n" in shown
    assert json.loads(say("show", "last", "--json")[1])["newest_row"] == "2013-07-01T11:59:00+00:00"
    assert "newest row" not in say("show", "sky")[1] and "ttl" in say("show", "sky")[1]


def test_the_ends_of_a_feature_are_shown_both_or_neither(backfilled):
    for columns in (60, 100):
        shown = in_terminal("features", "show", "last_landing", cwd=backfilled, columns=columns)[1]
        headings = [line.split() for line in shown.splitlines() if line.startswith("feature ")]
        assert len(headings) == 3 and all(("least" in heading) == ("greatest" in heading) for heading in headings)
        assert "greatest" not in headings[-1] if columns == 60 else "greatest" in headings[-1]


@pytest.mark.parametrize("columns", [60, 76, 100])
def test_no_name_of_a_user_is_broken_in_its_midst(backfilled, columns):
    _, shown = in_terminal("features", "show", "last_landing", cwd=backfilled, columns=columns)
    assert "features.flights_of_the_day" in shown and max(len(line.rstrip()) for line in shown.splitlines()[:12]) <= columns


@pytest.mark.parametrize(
    ("online", "offline", "shown"),
    [
        (0.1 + 0.2, 0.5, ("0.3", "0.5")),
        (1 / 3, 1 / 3 + 1e-7, ("0.3333333", "0.3333334")),
        (0.1 + 0.2, 0.3, ("0.30000000000000004", "0.29999999999999999")),
        (0.5, 0.5, ("0.5", "0.5")),
        (None, 0.25, ("", "0.25")),
        ("N1", "N2", ("N1", "N2")),
    ],
)
def test_what_differs_is_seen_to_differ(online, offline, shown):
    assert apart(online, offline) == shown


def commands(command, path="mlnb"):
    """Every command of the program, by its path."""
    yield path, command
    for name, one in getattr(command, "commands", {}).items():
        yield from commands(one, f"{path} {name}")


def test_no_help_text_is_taken_for_markup(monkeypatch, capsys):
    texts = [(path, text) for path, one in commands(get_command(app)) for text in (one.help, *(getattr(parameter, "help", "") for parameter in one.params))]
    assert len(texts) > 100 and [(path, text) for path, text in texts if text and Text.from_markup(text).plain != text.replace("\\[", "[")] == []
    monkeypatch.setattr(sys, "argv", ["mlnb", "features", "push", "--help"])
    with pytest.raises(SystemExit):
        main()
    assert "into the online store of [online] in" in " ".join(capsys.readouterr().out.split())


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
    assert never == 'mlnb: `never` was left out: Nothing of it was computed yet: `materialize(store, "never")` does.'


def test_a_push_of_rows_of_the_past_says_that_nobody_gets_them_and_the_help_what_its_figures_are(tmp_path, monkeypatch, capsys):
    workspace = make_workspace(tmp_path / "w", threads=1)
    with open_warehouse(workspace) as wh:
        store, about = FeatureStore(wh), {"entity": "origin", "timestamp": "landed_at"}
        materialize(store, FeatureView("past", query=DELAYS, ttl=timedelta(days=1), **about))
        materialize(store, FeatureView("lasting", query=DELAYS, ttl=timedelta(days=36_500), **about))
    monkeypatch.chdir(workspace.root)

    def say(*words):
        monkeypatch.setattr(sys, "argv", ["mlnb", "features", "push", *words])
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr().out

    assert "\n3 of 3 rows are older than the `ttl`" in (said := say("past")) and "at=" in said
    assert "older than" not in say("past", "lasting") and len(json.loads(say("past", "--json"))) == 1
    assert all(f"`{name}`" in say("--help") for name in ("written", "taken_out", "expired", "until"))
