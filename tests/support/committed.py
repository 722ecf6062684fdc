"""Committed outputs held against those of a run, by nbval: in a new kernel, or as an executed notebook has them.

As a plugin of pytest (`-p support.committed --executed FOLDER`) it makes nbval take the outputs of each cell from the
notebook of the same name in FOLDER instead of from a kernel.
"""

import os
import subprocess
import sys
from collections import deque
from pathlib import Path

import nbformat
from nbval.plugin import IPyNbFile

from ml_notebooks.pipelines.kernels import KERNEL_NAME
from ml_notebooks.pipelines.warm import CALM_THREADS

INJECTED = "injected-parameters"  # the tag of papermill's own cell
PYTEST = [
    sys.executable,
    "-c",
    "import sys; sys.modules['rfc3987_syntax'] = None; import pytest; sys.exit(pytest.main())",  # as ml_notebooks/__main__.py does
    "-q",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:cov",
    "-c",
    os.devnull,
    "--noconftest",
]


def numbered(path, folder):
    """A copy whose cells are numbered: nbdev-clean takes the numbers out, and nbval asks for them beside outputs."""
    notebook = nbformat.read(path, as_version=4)
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), 1):
        cell.execution_count = number
    nbformat.write(notebook, folder / Path(path).name)
    return str(folder / Path(path).name)


def execute_again(notebooks, folder, workspace):
    """nbval's process, after it executed the notebooks in a workspace; copies of them are written to `folder`."""
    options = ["--nbval-lax", f"--nbval-kernel-name={KERNEL_NAME}", "--nbval-cell-timeout=600"]
    return _call_nbval(options, notebooks, folder, workspace, {})  # with the paths of other tests, so that they share a warm parent


def compare_with_executed(notebooks, folder, executed):
    """nbval's process, after it compared the notebooks with those of the same names in the folder `executed`."""
    paths = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    options = ["-p", "support.committed", f"--executed={executed}"]
    return _call_nbval(options, notebooks, folder, folder, {"PYTHONPATH": paths})


def _call_nbval(options, notebooks, folder, workspace, ours):
    environment = os.environ | CALM_THREADS | {"MLNB_HOME": str(workspace)} | ours
    command = [*PYTEST, f"--rootdir={folder}", *options, *(numbered(path, folder) for path in notebooks)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=workspace)


def pytest_addoption(parser):
    """Where the executed notebooks are."""
    parser.addoption("--executed", type=Path)


def pytest_collect_file(file_path, parent):
    """Have nbval check a notebook; without its own options it collects none."""
    return ExecutedNotebook.from_parent(parent, path=file_path) if file_path.suffix == ".ipynb" else None


class ExecutedNotebook(IPyNbFile):
    """A notebook for nbval that was executed already."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.compare_outputs = False  # as with --nbval-lax: only cells that are marked

    def setup(self):
        """Put the executed notebook in the place of a kernel."""
        self.kernel = RecordedKernel(self.config.option.executed / self.path.name)
        self.setup_sanitize_files()


class RecordedKernel:
    """What nbval asks of a kernel, answered from an executed notebook: the cells must come in its order."""

    def __init__(self, path):
        cells = nbformat.read(path, as_version=4).cells
        self.path, self.messages = path, deque()
        self.cells = deque(
            cell
            for cell in cells
            if cell.cell_type == "code" and INJECTED not in cell.metadata.get("tags", [])
        )

    def execute_cell_input(self, source, allow_stdin=None):
        """The number of the request, whose answers are the outputs that the cell had."""
        cell = self.cells.popleft() if self.cells else None
        if cell is None or cell.source != source:
            raise LookupError(
                f"{self.path} is not the notebook that is committed: it ran no such cell here:\n{source}"
            )
        for output in cell.outputs:
            self.say(output.output_type, output)
        self.say("status", {"execution_state": "idle"})
        return "request"

    def say(self, kind, content):
        """Queue a message."""
        self.messages.append({"msg_type": kind, "content": content, "parent_header": {"msg_id": "request"}})

    def get_message(self, stream, timeout=None):
        """The next message."""
        return self.messages.popleft()

    def await_reply(self, request, timeout=None):
        """Nothing: it has ended already."""

    def await_idle(self, request, timeout=None):
        """Nothing: it has ended already."""

    def is_alive(self):
        """Always."""
        return True

    def stop(self):
        """Nothing."""
