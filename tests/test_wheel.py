"""The wheel as a stranger gets it: installed into an empty environment, far from the checkout, it runs the pipeline."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.packaging import ROOT, build_wheel, copy_sources
from support.soak import SOAK, soak

STEPS = ["ingest", "validate", "features", "train", "evaluate", "register", "score", "monitor"]

pytestmark = [
    pytest.mark.pipeline,
    soak,
    pytest.mark.skipif(not SOAK, reason="installs every dependency anew and runs flights, about 5 minutes: `make soak` does"),
]


def run(*command, cwd: Path):
    """Run a command that knows nothing of the checkout or its environment; return what it printed."""
    ours = ("MLNB_", "PYTHON", "VIRTUAL_ENV", "COVERAGE_", "JUPYTER")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment["PATH"] = os.pathsep.join([str(Path(command[0]).parent), "/usr/local/bin", "/usr/bin", "/bin"])
    shown = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stdout[-4000:] + shown.stderr[-4000:]
    return shown.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The folder of programs of an environment that holds the wheel with its extras `demo` and `lab`."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("stranger")
    copy_sources(source)
    wheel = build_wheel(source, tmp_path_factory.mktemp("dist"))
    run(sys.executable, "-m", "venv", str(folder / "venv"), cwd=folder)
    programs = folder / "venv" / "bin"
    pip = [str(programs / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "-c", str(ROOT / "constraints.txt"), f"{wheel}[demo,lab]", cwd=folder)
    return programs


def test_the_installed_wheel_runs_flights(programs, tmp_path):
    where = "import ml_notebooks; print(ml_notebooks.__file__)"
    assert Path(run(str(programs / "python"), "-c", where, cwd=tmp_path).strip()).is_relative_to(programs.parent)
    mlnb = str(programs / "mlnb")
    run(mlnb, "init", "demo", cwd=tmp_path)
    run(mlnb, "run", "flights", cwd=tmp_path / "demo")
    [ran] = json.loads(run(mlnb, "runs", "--json", cwd=tmp_path / "demo"))
    assert (ran["pipeline"], ran["status"], ran["error"]) == ("flights", "succeeded", "")
    steps = json.loads(run(mlnb, "sql", f"FROM ops.steps WHERE run = '{ran['run']}' ORDER BY position", "--json", cwd=tmp_path / "demo"))
    assert [(step["step"], step["status"]) for step in steps] == [(step, "succeeded") for step in STEPS]
