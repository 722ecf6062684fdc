"""The README's notebook and the guides, executed: their outputs are those committed (for flights: test_flights)."""

import re
from pathlib import Path

import pytest
from support.committed import execute_again

from ml_notebooks.pipelines.kernels import install_kernelspec
from ml_notebooks.workspace import create_workspace

NOTEBOOKS = Path(__file__).parents[1] / "nbs"
GUIDES = sorted((NOTEBOOKS / "guides").glob("*.ipynb"))


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("pipelines/flights/*.ipynb")) + GUIDES, ids=lambda path: path.stem)
def test_outputs_are_compared_in_every_notebook(path):
    assert "nbval-check-output" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [NOTEBOOKS / "index.ipynb", *GUIDES], ids=lambda path: path.stem)
def test_committed_outputs_are_what_the_notebook_gives(path, tmp_path):
    folder = tmp_path / "demo"
    create_workspace(folder)
    install_kernelspec()
    process = execute_again([path], tmp_path, folder)
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-2000:]
    assert re.search(r"\d+ passed", process.stdout)
