"""Ten kinds of leaks, each found in its column; ten honest sets that look alike, none accused."""

import pytest
from support.leaks import CLEAN, LEAKS, make_set, make_sources
from support.soak import SOAK, soak
from support.workspaces import make_workspace

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.features.leaks import find_leaks
from ml_notebooks.features.store import FeatureStore

SEEDS = range(5 if SOAK else 1)


@pytest.fixture(scope="module", params=SEEDS)
def store(tmp_path_factory, request):
    with open_warehouse(make_workspace(tmp_path_factory.mktemp("leaks"))) as wh:
        make_sources(wh, request.param)
        yield FeatureStore(wh)


@soak
@pytest.mark.parametrize("kind", LEAKS)
def test_a_leak_is_found_in_its_column(store, kind):
    report = find_leaks(store, make_set(store, LEAKS[kind], "leaking_set"), ignore=["visit_id"])
    assert {leak.column for leak in report.leaks} == LEAKS[kind].leaking


@soak
@pytest.mark.parametrize("kind", CLEAN)
def test_an_honest_set_is_not_accused(store, kind):
    made = make_set(store, CLEAN[kind], "honest_set")
    assert not made.certificate.columns and not made.certificate.stale, made.certificate.problems
    assert not find_leaks(store, made, ignore=["visit_id"]).leaks
