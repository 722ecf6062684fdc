"""The page of features beside that of a run, in a browser: reached from the run, searched, without a network."""

import shutil

import nbformat
import pytest

from ml_notebooks.pipelines.run import run_pipeline
from ml_notebooks.workspace import find_workspace

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium was found (apt-get install chromium)"),
]

OPEN = """
from datetime import timedelta
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.features.materialize import materialize
from ml_notebooks.features.store import FeatureStore
from ml_notebooks.features.training_set import training_set
from ml_notebooks.features.view import FeatureView
store = FeatureStore(open_warehouse())
"""
VIEWS = """
QUERY = "SELECT range % 3 AS {0}, TIMESTAMPTZ '2013-07-01 06:00:00Z' + to_minutes(range) AS landed_at, range % 50 AS delay FROM range(600)"
for name in ("origin", "carrier"):
    materialize(store, FeatureView(name, name, "landed_at", QUERY.format(name), timedelta(days=1), description=f"How late flights of an {name} <were>."))
training_set(store, "features.flights", "SELECT 1 AS origin, 2 AS carrier, TIMESTAMPTZ '2013-07-01 08:00:00Z' AS asked_at", ["origin", "carrier"])
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a run that makes features, and trains on them in another step."""
    root = tmp_path_factory.mktemp("page")
    (root / "settings.ini").write_text("[workspace]\nname = page\n")
    folder = root / "nbs" / "pipelines" / "small"
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text(
        "title: How late?\nsteps:\n"
        "  - {name: features, notebook: features.ipynb, writes: [features.origin, features.carrier, features.flights]}\n"
        "  - {name: train, notebook: train.ipynb, reads: [features.flights]}\n"
    )
    for name, cells in (("features", [OPEN, VIEWS]), ("train", [OPEN, "store.wh.table('features.flights').df()"])):
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), folder / f"{name}.ipynb")
    return root / run_pipeline(find_workspace(root), "small").report


STANDS = """
() => [...document.querySelectorAll("thead")].flatMap(head => [...head.rows[0].cells].flatMap((title, place) => {
  const cells = [title, ...[...head.parentElement.tBodies[0].rows].map(row => row.cells[place])];
  return title.textContent && new Set(cells.map(cell => getComputedStyle(cell).textAlign)).size === 1 ? [] : [title.textContent || "no title"];
}))
"""  # headings that are empty, or stand otherwise than the cells below them


@pytest.mark.parametrize("width", [390, 1280])
def test_headings_stand_as_their_cells_and_a_narrow_page_holds_its_contents(report, width):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        for name in ("features-page.html", "index.html"):
            page.goto((report / name).as_uri())
            assert page.evaluate(STANDS) == []
        page.goto((report / "features-page.html").as_uri())
        assert page.evaluate("() => [document.documentElement, document.querySelector('table')].every(part => part.scrollWidth <= part.clientWidth)")
        assert page.locator("table").first.locator("th:visible").all_inner_texts() == [
            *(["name", "rows", "computed to (UTC)"] if width == 390 else ["name", "entity", "features", "rows", "computed to (UTC)", "description"])
        ]
        browser.close()


def test_a_run_that_took_over_all_leads_to_the_page_of_the_run_that_executed_it(report):
    again = report.parents[2] / run_pipeline(find_workspace(report.parents[2]), "small").report
    assert (again / "features.html").exists() and not (again / "features-page.html").exists()  # the first is the page of a step
    assert f'<a href="../{report.name}/features-page.html">The features that run {report.name} read and wrote</a>' in (again / "index.html").read_text()


def test_from_the_run_to_its_features_and_to_what_was_sought(report):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page, wrong, asked = browser.new_page(), [], []
        page.on("console", lambda message: wrong.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((report / "index.html").as_uri())
        page.get_by_role("link", name="The features that this run read and wrote").click()
        assert page.get_by_role("heading", level=2).all_inner_texts() == ["carrier", "origin"]
        section = page.locator("section#origin")
        assert "How late flights of an origin <were>." in section.inner_text() and "features.flights" in section.inner_text()
        assert page.locator("section#origin td", has_text="bigint").count() == 1 and not section.locator("pre").is_visible()
        section.locator("summary").click()
        assert "range % 3 AS origin" in section.locator("pre").inner_text()
        page.get_by_role("searchbox").fill("late CARRIER")
        assert page.locator("section:visible").count() == page.locator("tbody tr[data-words]:visible").count() == 1
        page.get_by_role("searchbox").fill("")
        assert page.locator("section:visible").count() == 2
        page.get_by_role("link", name="the run").click()
        assert page.get_by_role("heading", level=1).inner_text() == "How late?"
        assert wrong == [] and all(url.startswith("file:") for url in asked)
        browser.close()
