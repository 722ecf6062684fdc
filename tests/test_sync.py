"""Notebooks, modules and README.md say the same, and nbdev's cleaning keeps what papermill needs."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
COPIED = ("nbs", "ml_notebooks", "tools", "pyproject.toml", "settings.ini", "README.md")


@pytest.fixture
def checkout(tmp_path):
    """A copy of what cleaning and exporting read and write."""
    skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=skip)
        elif source.exists():
            shutil.copy(source, tmp_path)
    return tmp_path


@pytest.fixture
def tools(monkeypatch):
    """A function that imports a script of `tools`."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module


def write_index(root, *cells):
    """Put a small nbs/index.ipynb into a copy."""
    nbformat.write(nbformat.v4.new_notebook(cells=list(cells)), root / "nbs" / "index.ipynb")


@pytest.mark.parametrize("command", ["nbdev-clean", "nbdev-export"])
def test_command_changes_nothing(checkout, tools, command):
    assert tools("sync").changed_by(command, checkout) == []


def test_readme_is_its_notebook(checkout):
    shown = subprocess.run(
        [sys.executable, "tools/readme.py", "--check"],
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr


def test_sync_names_a_module_that_was_edited(checkout, tools, capsys):
    with (checkout / "ml_notebooks" / "errors.py").open("a") as module:
        module.write("\nEDITED = True\n")
    with pytest.raises(SystemExit, match=r"what the notebooks export: ml_notebooks/errors\.py"):
        tools("sync").main(checkout)


def test_sync_names_a_notebook_that_is_not_clean(checkout, tools):
    path = checkout / "nbs" / "library" / "01_errors.ipynb"
    notebook = json.loads(path.read_text())
    next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")["execution_count"] = 3
    path.write_text(json.dumps(notebook))
    with pytest.raises(SystemExit, match=r"not clean: nbs/library/01_errors\.ipynb"):
        tools("sync").main(checkout)


def test_cleaning_keeps_the_parameters_tag(checkout, tools):
    path = checkout / "nbs" / "step.ipynb"
    cell = nbformat.v4.new_code_cell("rows = 10", metadata={"tags": ["parameters"], "collapsed": True})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    tools("sync").changed_by("nbdev-clean", checkout)
    assert json.loads(path.read_text())["cells"][0]["metadata"] == {"tags": ["parameters"]}


def test_readme_check_fails_on_an_edited_readme(checkout, tools):
    write_index(checkout, nbformat.v4.new_markdown_cell("# Title"))
    readme = tools("readme")
    readme.main(check=False, root=checkout)
    readme.main(check=True, root=checkout)
    (checkout / "README.md").write_text("# Other\n")
    with pytest.raises(SystemExit, match="run `make readme`"):
        readme.main(check=True, root=checkout)


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("[a](library/01_errors.ipynb)", "[a](nbs/library/01_errors.ipynb)"),
        ("[a](../CONTRIBUTING.md#tests)", "[a](CONTRIBUTING.md#tests)"),
        ("[a](https://example.org/a)", "[a](https://example.org/a)"),
        ("[a](#below)", "[a](#below)"),
        ('<img src="images/a.png">', '<img src="nbs/images/a.png">'),
    ],
)
def test_readme_links_start_at_the_root(tools, written, shown):
    assert tools("readme").relink(written, "nbs") == shown


def test_readme_shows_results_and_hides_tool_lines(checkout, tools):
    hidden = nbformat.v4.new_code_cell("#| hide\nimport secrets")
    table = nbformat.v4.new_output("execute_result", {"text/html": "<b>5</b>", "text/plain": "five"})
    shown = nbformat.v4.new_code_cell("#| eval: false\n2 + 3", outputs=[table])
    write_index(checkout, nbformat.v4.new_markdown_cell("# Title"), hidden, shown)
    text = tools("readme").render(checkout)
    assert "```python\n2 + 3\n```" in text
    assert "five" in text
    assert not any(word in text for word in ("secrets", "#|", "<b>"))
