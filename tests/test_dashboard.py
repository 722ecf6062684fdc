"""The overview dashboard in a real browser, over the warehouse of a real run, and what its server keeps to itself."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from ml_notebooks.pipelines.kernels import parents
from ml_notebooks.workspace import create_workspace

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]

in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")


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
    port = int(re.search(r":(\d+)/", address).group(1))
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(address)


@in_a_browser
@pytest.mark.browser
@pytest.mark.pipeline
def test_it_shows_the_last_run(page):
    text = page.inner_text("body")
    assert "succeeded" in text and "monitor" in text and "roc_auc_december" in text


@in_a_browser
@pytest.mark.browser
@pytest.mark.pipeline
def test_it_shows_performance_by_month(page):
    plot = page.locator(".js-plotly-plot").first
    assert "Performance by month" in plot.inner_text()
    assert plot.locator(".scatterlayer .trace").count() == 2


@in_a_browser
@pytest.mark.browser
@pytest.mark.pipeline
def test_the_filters_change_the_drift_figure(page):
    names = page.locator(".js-plotly-plot").nth(1).locator(".ytick")
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot')[1].querySelectorAll('.ytick').length > 3")
    before = names.count()
    page.locator("input[placeholder='part of its name']").fill("temp")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelectorAll('.js-plotly-plot')[1].querySelectorAll('.ytick').length === 1")
    assert before > 1 and "weather_temp" in names.first.text_content()


@pytest.mark.pipeline
def test_no_token_no_page(served):
    wait_for_server(served)
    with urlopen(served.partition("?")[0], timeout=30) as response:
        assert "/login" in response.url and "jp-Cell" not in response.read().decode()


@pytest.mark.pipeline
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


RECORDER = """#!/bin/sh
tr '\\0' ' ' < /proc/$$/cmdline > "$RECORDED.part"
mv "$RECORDED.part" "$RECORDED"
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A dashboard that was opened in a browser: its process, its token, and the command line of the browser."""
    place = tmp_path_factory.mktemp("opened")
    folder, program, recorded = place / "demo", place / "browser", place / "recorded"
    create_workspace(folder)
    program.write_text(RECORDER)
    program.chmod(0o755)
    ours = {"BROWSER": f"{program} %s", "RECORDED": str(recorded), "JUPYTER_RUNTIME_DIR": str(place / "runtime")}
    command = [sys.executable, "-m", "ml_notebooks", "dashboard", "--port", str(free_port())]
    process = subprocess.Popen(command, cwd=folder, env=os.environ | ours, stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http\S+", process.stdout.readline()).group()
        for _ in range(600):
            if recorded.exists():
                break
            time.sleep(0.1)
        yield process, address, recorded.read_text()
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="warm kernels need Linux")
def test_a_page_comes_from_a_warm_kernel(opened):
    process, address, _ = opened
    before = {parent["pid"]: parent["forked"] for parent in parents()}
    with urlopen(address, timeout=120) as response:
        assert "jp-Cell" in response.read().decode()
    assert sum(parent["forked"] - before.get(parent["pid"], 0) for parent in parents()) >= 1
    ours = [each.cmdline() for each in psutil.Process(process.pid).children(recursive=True)]
    assert any("voila" in word for words in ours for word in words) and not any("ipykernel_launcher" in words for words in ours)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc on this system")
def test_no_command_line_shows_the_token(opened):
    process, address, browser = opened
    place, _, token = address.partition("?token=")
    with urlopen(address, timeout=60) as response:
        assert response.status == 200 and "/login" not in response.url
    for wrong in (place, f"{place}?token=wrong"):
        with urlopen(wrong, timeout=30) as response:
            assert "/login" in response.url

    running = [process, *psutil.Process(process.pid).children(recursive=True)]
    lines = [Path(f"/proc/{each.pid}/cmdline").read_text() for each in running]
    assert len(token) > 10 and any("voila" in line for line in lines)
    assert [line for line in [*lines, browser] if token in line] == []

    [page] = re.findall(r"file://(\S+)", browser)
    assert os.stat(page).st_mode & 0o077 == 0 and address in Path(page).read_text()
