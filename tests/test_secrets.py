"""Secrets whose characters are escaped where they are written: logs and notebooks hold stars instead."""

import base64
import html
import io
import json
from urllib.parse import quote, quote_plus

import nbformat
import pytest
import structlog
from support.workspaces import LIGHT

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.logs import configure_logs, get_logger, redact
from ml_notebooks.pipelines.engine import write_notebook
from ml_notebooks.settings import LogSettings
from ml_notebooks.workspace import find_workspace

SECRETS = [  # each ends in zqxjkw, which nothing escapes and no number holds: a text with it gives one away
    "plain-zqxjkw",
    'pa"sszqxjkw',
    "pässwdzqxjkw",
    r"a\bzqxjkw",
    "o'k\"xzqxjkw",
    "it'szqxjkw",
    "two words/&<zqxjkw",
    "tab\tbell\x07zqxjkw",
    "\\\"'ü\\zqxjkw",
    "🔑+%zqxjkw",
]
WRITTEN = {
    "raw": str,
    "json": lambda secret: json.dumps(secret)[1:-1],
    "json, not ascii": lambda secret: json.dumps(secret, ensure_ascii=False)[1:-1],
    "repr": lambda secret: repr(secret)[1:-1],
    "ascii": lambda secret: ascii(secret)[1:-1],
    "repr in json": lambda secret: json.dumps(repr(secret)[1:-1], ensure_ascii=False)[1:-1],
    "json in json": lambda secret: json.dumps(json.dumps(secret)[1:-1])[1:-1],
    "json in repr": lambda secret: repr(json.dumps(secret))[2:-2],
    "bytes": lambda secret: repr(secret.encode())[2:-1],
    "sql": lambda secret: secret.replace("'", "''"),
    "html": html.escape,
    "html without quotes": lambda secret: html.escape(secret, quote=False),
    "html in json": lambda secret: json.dumps(html.escape(secret))[1:-1],
    "address": quote,
    "part of an address": lambda secret: quote(secret, safe=""),
    "form": quote_plus,
    "base64": lambda secret: base64.b64encode(secret.encode()).decode().rstrip("="),
    "base64 for addresses": lambda secret: base64.urlsafe_b64encode(secret.encode()).decode().rstrip("="),
}


@pytest.fixture(autouse=True)
def default_logs():
    """Logs as they are before anybody configures them."""
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("secret", [*SECRETS, "line\nbreakzqxjkw"])
def test_every_written_form_becomes_stars(secret, written):
    assert redact(f"<{written(secret)}> and {written(secret)}", [secret]) == "<***> and ***"


def test_a_longer_secret_is_replaced_before_its_part():
    assert redact("hunter2-long", ["hunter2", "hunter2-long"]) == "***"
    assert redact("hunter2-long", iter(["", "hunter2"])) == "***-long"


@pytest.mark.parametrize("secret", ["tuna", "n", r"ends\ "[:-1], r"\\ "[:-1], '"', r"\u"])
@pytest.mark.parametrize("text", ["a\tuna", "C:\\tuna", 'ends"', "ends\\", 'ends\\"', "ends\nnext\\n", "\\\\", r"\u0041"])
def test_json_can_still_be_read(secret, text):
    written = json.dumps(text)[1:-1]
    if secret != '"':  # a quote by itself is what JSON is written with
        assert isinstance(json.loads(f'"{redact(written, [secret])}"'), str)
    assert secret not in redact(text, [secret]) or set(secret) == {"\\"}


def log_all(secret, format):
    """What is logged of events that hold the secret in all the ways in which one does."""
    out = io.StringIO()
    configure_logs(LogSettings(format=format), secrets=[secret], stream=out)
    log = get_logger("demo")
    log.info("text", value=secret, around=f"it's \"{secret}\" there", shown=repr(secret))
    log.info("nested", value={"deep": [secret, (secret,)]}, error=ValueError(secret), data=secret.encode())
    log.info(f"event {secret}", dumped=json.dumps({"password": secret}), html=f"<td>{html.escape(secret)}</td>")
    try:
        raise ConnectionError(f"cannot log in with {secret!r}, {secret}")
    except ConnectionError:
        log.exception("failed", address=f"https://ann:{quote(secret, safe='')}@host")
    return out.getvalue()


@pytest.mark.parametrize("secret", SECRETS)
def test_a_json_log_holds_no_secret(secret):
    lines = [json.loads(line) for line in log_all(secret, "json").splitlines()]
    assert len(lines) == 4 and lines[0]["value"] == "***"
    assert all("zqxjkw" not in json.dumps({**line, "timestamp": ""}) for line in lines)


@pytest.mark.parametrize("secret", SECRETS)
def test_a_console_log_holds_no_secret(secret):
    written = "\n".join(line.partition("Z ")[2] or line for line in log_all(secret, "console").splitlines())
    assert "***" in written and "zqxjkw" not in written


@pytest.mark.parametrize("secret", [*SECRETS, "line\nbreakzqxjkw"])
def test_a_saved_notebook_holds_no_secret(secret, tmp_path):
    outputs = [
        nbformat.v4.new_output("stream", name="stdout", text=f"{secret}\n{secret!r}\n{json.dumps(secret)}\n"),
        nbformat.v4.new_output("execute_result", {"text/plain": repr({"password": secret}), "text/html": html.escape(secret)}),
        nbformat.v4.new_output("display_data", {"application/json": {secret: [secret]}}),
        nbformat.v4.new_output("error", ename="ValueError", evalue=secret, traceback=[f"ValueError: {secret}"]),
    ]
    cells = [nbformat.v4.new_markdown_cell(f"The password is {secret}."), nbformat.v4.new_code_cell(f"login({secret!r})", outputs=outputs)]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    path = tmp_path / "saved.ipynb"
    write_notebook(nbformat.v4.new_notebook(cells=cells), path, [secret])
    assert "zqxjkw" not in path.read_text(encoding="utf-8")
    read = nbformat.read(path, as_version=4)
    assert read.cells[0].source == "The password is ***." and read.cells[1].outputs[0].text.startswith("***\n")


LEAK = """
import base64, os, sys, urllib.parse
import pandas as pd
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.logs import get_logger
from ml_notebooks.pipelines.record import record
secret = os.environ["MLNB_WAREHOUSE__S3_SECRET"]
print(secret, file=sys.__stderr__, flush=True)
os.system("printenv MLNB_WAREHOUSE__S3_SECRET")
print(secret, base64.b64encode(secret.encode()).decode(), urllib.parse.quote(secret, safe=""))
get_logger("leak").warning("told", secret=secret)
record("said", secret)
record("listed", pd.DataFrame({"secret": [secret]}))
open_warehouse().sql("SELECT 1", [])
pd.DataFrame({secret: [secret]})
"""


@pytest.mark.parametrize("last", ["", "raise ValueError(secret)"], ids=["succeeded", "failed"])
@pytest.mark.parametrize("secret", ["canary/+ 'x'zqxjkw", "line\nbreakzqxjkw"], ids=["line", "lines"])
def test_no_sink_of_a_run_holds_a_secret(workspace, mlnb, secret, last):
    folder = workspace / "nbs" / "pipelines" / "small"
    cells = [nbformat.v4.new_code_cell("text: str = ''", metadata={"tags": ["parameters"]}), *map(nbformat.v4.new_code_cell, [LEAK, last])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "leak.ipynb")
    (folder / "pipeline.yaml").write_text("title: A leak\nsteps:\n  - {name: leak, notebook: leak.ipynb}\n")
    (workspace / "settings.ini").write_text(f"[workspace]\nname = small\n[logs]\nfile = run.log\nlevel = debug\n{LIGHT}")
    process = mlnb("run", "small", "-p", f"text={secret}", cwd=workspace, MLNB_WAREHOUSE__S3_SECRET=secret)
    assert process.returncode == (1 if last else 0), process.stderr
    told = [process.stdout, process.stderr]
    with open_warehouse(find_workspace(workspace), read_only=True) as wh:
        told += [json.dumps(wh.table(f"ops.{name}").fetchall(), default=str, ensure_ascii=False) for name in ("runs", "steps", "records")]
        told.append(wh.snapshots().to_json())
    told += [file.read_text(errors="replace") for file in sorted((workspace / "reports").rglob("*")) if file.is_file()]
    told.append((workspace / "run.log").read_text())
    assert any("***" in log.read_text() for log in (workspace / "reports").rglob("kernels.log"))
    assert len(told) > 8 and "***" in "".join(told)
    for form in WRITTEN.values():
        assert all(form(secret) not in text and "zqxjkw" not in text.replace("\n", "") for text in told), form
