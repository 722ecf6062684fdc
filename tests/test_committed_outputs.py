"""The pipeline notebooks and the README's, run once more from an empty workspace: their outputs are those committed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat

from ml_notebooks.pipelines.kernels import KERNEL_NAME, install_kernelspec
from ml_notebooks.pipelines.warm import CALM_THREADS
from ml_notebooks.workspace import create_workspace

NOTEBOOKS = Path(__file__).parents[1] / "nbs" / "pipelines" / "flights"


def numbered(path, folder):
    """A copy whose cells are numbered: nbdev-clean takes the numbers out, and nbval asks for them beside outputs."""
    notebook = nbformat.read(path, as_version=4)
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        cell.execution_count = number
    nbformat.write(notebook, folder / Path(path).name)
    return str(folder / Path(path).name)


def test_committed_outputs_are_what_the_notebooks_give(tmp_path):
    folder = tmp_path / "demo"
    create_workspace(folder)
    install_kernelspec()
    notebooks = [*sorted(str(path) for path in NOTEBOOKS.glob("*.ipynb")), str(NOTEBOOKS.parents[1] / "index.ipynb")]
    notebooks = [numbered(path, tmp_path) for path in notebooks]
    command = [sys.executable, "-m", "pytest", "--nbval-lax", f"--nbval-kernel-name={KERNEL_NAME}", "-q", "-p", "no:cacheprovider", "-p", "no:cov"]
    unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}  # the run of flights is
    environment = unmeasured | CALM_THREADS | {"MLNB_HOME": str(folder)}
    options = ["-c", os.devnull, f"--rootdir={tmp_path}", "--noconftest", "--nbval-cell-timeout=600"]
    process = subprocess.run([*command, *options, *notebooks], env=environment, capture_output=True, text=True, cwd=folder)
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-2000:]
    assert re.search(r"\d{2,} passed", process.stdout)
