"""What several test files share: a workspace in which the flights pipeline has run, and the command line."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pytest
import structlog
from support.workspaces import LIGHT, make_workspace

from ml_notebooks.__main__ import main
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.workspace import create_workspace, find_workspace

MLNB = [sys.executable, "-m", "ml_notebooks"]


@pytest.fixture(scope="session", autouse=True)
def runtime_folder():
    """Warm parents of these tests' own, gone when they end."""
    from ml_notebooks.pipelines.kernels import stop_parents

    with tempfile.TemporaryDirectory(prefix="mlnb-tests-") as folder:
        before = os.environ.get("XDG_RUNTIME_DIR")
        os.environ["XDG_RUNTIME_DIR"] = folder
        yield
        stop_parents()
        os.environ.pop("XDG_RUNTIME_DIR") if before is None else os.environ.update(XDG_RUNTIME_DIR=before)


@pytest.fixture(scope="session", autouse=True)
def ctrl_c():
    """Ctrl-C is heard, also where a shell has started these tests in the background and it would be ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _environment(further):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLNB_") or name == "MLNB_WAREHOUSE__THREADS"}
    return kept | further


@pytest.fixture(scope="session")
def mlnb_process():
    """Call `mlnb` in a folder, in a process of its own; returns the finished process."""

    def call(*words, cwd, **environment):
        return subprocess.run([*MLNB, *words], cwd=cwd, env=_environment(environment), capture_output=True, text=True, timeout=600)

    return call


@pytest.fixture(scope="session")
def mlnb():
    """Call `mlnb` in a folder, in this process, which saves its start; returns what a finished process would say."""

    def call(*words, cwd, **environment):
        out, err, status, here = StringIO(), StringIO(), 0, Path.cwd()
        with patch.dict(os.environ, _environment(environment), clear=True), patch.object(sys, "argv", ["mlnb", *map(str, words)]):
            os.chdir(cwd)
            try:
                with redirect_stdout(out), redirect_stderr(err):
                    main()
            except SystemExit as ended:
                status = ended.code or 0
            finally:
                os.chdir(here)
                structlog.reset_defaults()
        return subprocess.CompletedProcess(words, status, out.getvalue(), err.getvalue())

    return call


@pytest.fixture(scope="session")
def flights(tmp_path_factory, mlnb_process):
    """A workspace in which `mlnb run flights` has run on all rows, and how that went.

    Each kernel has one thread for its trees: `make test` has two processes, and threads that wait for one another on
    cores that others use take many times as long.
    """
    folder = tmp_path_factory.mktemp("flights") / "demo"
    create_workspace(folder)
    process = mlnb_process("run", "flights", cwd=folder, OMP_NUM_THREADS="1")
    assert process.returncode == 0, process.stdout + process.stderr
    return folder, process


@pytest.fixture
def workspace(tmp_path) -> Path:
    """The folder of an empty workspace with a folder for one pipeline, `small`."""
    (tmp_path / "settings.ini").write_text(f"[workspace]\nname = small\n{LIGHT}")
    (tmp_path / "nbs" / "pipelines" / "small").mkdir(parents=True)
    return tmp_path


@pytest.fixture(scope="module")
def place():
    """A folder that servers' own users can reach."""
    folder = Path(tempfile.mkdtemp(prefix="mlnb-servers-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The folder of an empty workspace."""
    folder = tmp_path_factory.mktemp("servers")
    make_workspace(folder)
    return folder


@pytest.fixture
def a_warehouse(root, monkeypatch):
    """Opens the warehouse of `root` with a credential called `server`."""
    opened = []

    def open_with(secret="none"):
        monkeypatch.setenv("MLNB_SOURCES__CREDENTIALS__SERVER", secret)
        opened.append(open_warehouse(find_workspace(root)))
        return opened[-1]

    yield open_with
    for wh in opened:
        wh.close()
