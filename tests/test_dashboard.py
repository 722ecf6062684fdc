"""The overview dashboard in a real browser, over the warehouse of a real run."""

import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.pipeline,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium"),
]


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def served(flights):
    """The address of `mlnb dashboard` over the flights warehouse."""
    folder, _ = flights
    command = [sys.executable, "-m", "ml_notebooks", "dashboard", "--no-browser", "--port", str(free_port())]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    address = re.search(r"http\S+", process.stdout.readline()).group()
    yield address
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


@pytest.fixture(scope="module")
def page(served):
    """The dashboard's page, once its figures are drawn."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        wait_for_server(served)
        page.goto(served)
        page.wait_for_selector(".js-plotly-plot .heatmaplayer", timeout=120_000)
        yield page
        browser.close()


def wait_for_server(address):
    """Return once something listens at the address."""
    import time

    port = int(re.search(r":(\d+)/", address).group(1))
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(address)


def test_it_shows_the_last_run(page):
    text = page.inner_text("body")
    assert "succeeded" in text and "monitor" in text and "roc_auc_december" in text


def test_it_shows_performance_by_month(page):
    plot = page.locator(".js-plotly-plot").first
    assert "Performance by month" in plot.inner_text()
    assert plot.locator(".scatterlayer .trace").count() == 2


def test_the_filters_change_the_drift_figure(page):
    names = page.locator(".js-plotly-plot").nth(1).locator(".ytick")
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot')[1].querySelectorAll('.ytick').length > 3")
    before = names.count()
    page.locator("input[placeholder='part of its name']").fill("temp")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot')[1].querySelectorAll('.ytick').length === 1")
    assert before > 1 and "weather_temp" in names.first.text_content()


def test_no_token_no_page(served):
    from urllib.request import urlopen

    wait_for_server(served)
    with urlopen(served.partition("?")[0], timeout=30) as response:
        assert "/login" in response.url and "jp-Cell" not in response.read().decode()


def test_a_taken_port_is_said(flights, mlnb):
    folder, _ = flights
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = mlnb("dashboard", "--no-browser", "--port", str(port), cwd=folder)
    assert process.returncode == 1
    assert f"port {port}" in process.stderr and "--port" in process.stderr and "Traceback" not in process.stderr


def test_no_such_dashboard(workspace, mlnb):
    process = mlnb("dashboard", "ovreview", cwd=workspace)
    assert process.returncode == 1 and "no dashboard `ovreview`" in process.stderr


