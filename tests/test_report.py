"""The report as people see it: in a browser, without a network, on paper."""

import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import nbformat
import pytest

from ml_notebooks.errors import StepFailed
from ml_notebooks.pipelines.report import write_step_page
from ml_notebooks.pipelines.run import run_pipeline
from ml_notebooks.pipelines.spec import load_pipeline
from ml_notebooks.workspace import find_workspace

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium was found (apt-get install chromium)"),
]

OPEN = "import pandas as pd\nfrom ml_notebooks.data.warehouse import open_warehouse\nfrom ml_notebooks.pipelines.record import record\nwh = open_warehouse()"
PLOT = "import matplotlib.pyplot as plt\nfigure, axes = plt.subplots()\naxes.plot([1, 2, 3])\nrecord('by_day', figure)"
TABLE = "record('by_month', pd.DataFrame({'month': ['May', 'June'], 'late': [0.21, 0.18]}))"


def write(root, name, *cells):
    """Write a step's notebook."""
    made = [nbformat.v4.new_markdown_cell(f"# {name.title()}"), *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(
        nbformat.v4.new_notebook(cells=made), root / "nbs" / "pipelines" / "small" / f"{name}.ipynb"
    )


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The reports of a green run, of one with changes, and of one that failed."""
    root = tmp_path_factory.mktemp("reports")
    (root / "settings.ini").write_text("[workspace]\nname = small\n")
    (root / "nbs" / "pipelines" / "small").mkdir(parents=True)
    (root / "nbs" / "pipelines" / "small" / "pipeline.yaml").write_text(
        "title: How many orders?\nsteps:\n"
        "  - {name: ingest, notebook: ingest.ipynb, writes: [raw.orders]}\n"
        "  - {name: count, notebook: count.ipynb, reads: [raw.orders]}\n"
    )
    workspace = find_workspace(root)
    publish = "wh.publish('raw.orders', 'SELECT range AS id FROM range({})')"
    write(root, "ingest", OPEN, publish.format(5))
    write(root, "count", OPEN, "record('orders', len(wh.table('raw.orders').df()))", TABLE, PLOT)
    runs = [run_pipeline(workspace, "small")]
    write(root, "ingest", OPEN, publish.format(7))
    runs.append(run_pipeline(workspace, "small"))
    write(
        root, "count", OPEN, "record('orders', 1)", "raise ValueError('<b>no</b> orders')", "print('never')"
    )
    with pytest.raises(StepFailed):
        run_pipeline(workspace, "small")
    failed = max(path.name for path in (root / "reports" / "small").iterdir())
    return root / "reports", [*(run.run for run in runs), failed]


@pytest.fixture(scope="module")
def browser():
    """A browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser):
    """A page that notes what it asks for and what goes wrong."""
    page = browser.new_page(viewport={"width": 1100, "height": 800})
    page.asked, page.wrong = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda message: page.wrong.append(message.text) if message.type == "error" else None)
    yield page
    assert page.wrong == [] and all(url.startswith(("file:", "data:")) for url in page.asked)
    page.close()


def shown(page, path: Path):
    """Open a page of a report."""
    page.goto(path.as_uri())
    return page


def test_from_the_list_of_runs_to_the_cell_that_recorded_a_figure(reports, page):
    folder, runs = reports
    shown(page, folder / "index.html").get_by_role("link", name=runs[1]).click()
    assert page.get_by_role("heading", level=1).inner_text() == "How many orders?"
    box = page.locator(".figures a", has_text="orders")
    assert re.sub(r"\s+", " ", box.inner_text()) == "7 orders +2"
    box.click()
    assert page.url.endswith("count.html#cell-2")
    cell = page.locator("#cell-2")
    assert "orders = 7" in cell.inner_text() and cell.is_visible()
    code = cell.locator("details.code")
    assert not code.locator("pre").is_visible()
    code.locator("summary").click()
    assert "record('orders'" in code.locator("pre").inner_text()


def test_tables_plots_and_what_changed_are_on_the_page(reports, page):
    folder, runs = reports
    shown(page, folder / "small" / runs[1] / "index.html")
    assert page.get_by_role("cell", name="June").is_visible()
    assert page.get_by_role("img", name="by_day").evaluate("image => image.naturalWidth") > 100
    said = page.locator("main, body").first.inner_text()
    assert "5 rows, version" in said and "7 rows, version" in said and "its cell 2 changed" in said
    page.get_by_role("link", name=runs[0]).first.click()
    assert "There is no earlier run that succeeded." in page.locator("body").inner_text()


def test_a_failed_run_shows_the_failing_cell_first(reports, page):
    folder, runs = reports
    shown(page, folder / "small" / runs[2] / "index.html")
    error = page.locator(".error")
    assert page.get_by_role("heading", level=2).first.inner_text() == "What went wrong"
    assert "<b>no</b> orders" in error.inner_text() and "raise ValueError" in error.inner_text()
    assert page.locator(".graph .cached, .graph a").count() == 2
    error.get_by_role("link", name="cell 3 of count").click()
    assert (
        page.locator("#cell-3 details.code").get_attribute("open") is not None
        and "ValueError" in page.locator("#cell-3").inner_text()
    )
    assert "never" not in page.locator("body").inner_text().replace("print('never')", "")


def test_a_report_can_be_moved_and_printed_and_read_on_a_telephone(reports, page, tmp_path):
    folder, runs = reports
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    shown(page, moved / "small" / runs[1] / "index.html")
    assert page.get_by_role("link", name="count").first.get_attribute("href") == "count.html"
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible() and page.pdf()[:4] == b"%PDF"
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


@pytest.fixture
def served():
    """The address of a server that notes what it is asked for, and these notes."""
    asked = []

    class Noting(BaseHTTPRequestHandler):
        """Answers nothing of use."""

        def do_GET(self):
            """Note what is asked for."""
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *words):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Noting)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


FETCHES = """<img src="{0}/image.png"><script src="{0}/script.js"></script><link rel="stylesheet" href="{0}/style.css">
<style>@import "{0}/more.css"; p {{ background: url({0}/back.png) }}</style><iframe src="{0}/frame"></iframe>
<script>fetch("{0}/data").catch(() => {{}}); new Image().src = "{0}/beacon"; document.title = "ran"</script>"""


def test_a_step_page_loads_nothing_whatever_its_cells_ask_for(browser, served, tmp_path):
    address, asked = served
    page = browser.new_page()
    page.set_content(FETCHES.format(address), wait_until="networkidle")
    assert {"/image.png", "/script.js", "/beacon"} <= set(asked)  # without the policy
    asked.clear()
    output = nbformat.v4.new_output("display_data", {"text/html": FETCHES.format(address)})
    cells = [nbformat.v4.new_code_cell("show()", outputs=[output]), nbformat.v4.new_markdown_cell(f"![a picture]({address}/markdown.png)")]
    write_step_page(nbformat.v4.new_notebook(cells=cells), tmp_path / "step.html", "step")
    page.goto((tmp_path / "step.html").as_uri(), wait_until="networkidle")
    assert page.title() == "ran" and asked == []
    page.close()


def test_a_plotly_figure_is_drawn_in_its_place(page, tmp_path, recwarn, capfd):
    pytest.importorskip("plotly")
    figure = {"data": [{"type": "bar", "x": ["May", "June"], "y": [0.2, 0.3]}], "layout": {"title": {"text": "Late </script><b>flights</b>"}}}
    shapes = {"application/vnd.plotly.v1+json": figure, "application/x-unknown": "?"}
    outputs = [nbformat.v4.new_output("display_data", {kind: shape}) for kind, shape in shapes.items()]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("figure", outputs=outputs)])
    write_step_page(notebook, tmp_path / "step.html", "step")
    assert not recwarn.list and capfd.readouterr().err == "" and (tmp_path / "step.html").stat().st_size < 3_000_000
    shown(page, tmp_path / "step.html")
    drawn = page.locator("#cell-1 .plotly-figure .main-svg").first
    drawn.wait_for()
    assert drawn.bounding_box()["height"] > 300 and "Late" in page.locator(".gtitle").text_content()
    assert page.locator(".bars path").count() == 2 and "application/x-unknown: open the notebook" in page.locator("#cell-1").inner_text()


def test_a_step_of_a_notebook_called_index_has_a_page_beside_the_reports_own(tmp_path):
    (tmp_path / "settings.ini").write_text("[workspace]\nname = small\n")
    folder = tmp_path / "nbs" / "pipelines" / "small"
    folder.mkdir(parents=True)
    (folder / "pipeline.yaml").write_text("title: A table of contents\nsteps:\n  - {name: list, notebook: index.ipynb}\n  - {name: count, notebook: count.ipynb}\n")
    for name in ("index", "count"):
        write(tmp_path, name, "1 + 1")
    steps = load_pipeline(find_workspace(tmp_path), "small").steps
    assert [step.output for step in steps] == ["index.list.ipynb", "count.ipynb"]
