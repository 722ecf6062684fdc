"""What the wheel holds, built from the source distribution, and that it lays out a workspace by itself."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.packaging import ROOT, build_wheel, copy_sources

from ml_notebooks.workspace import PARTS


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the sources, with what must not be shipped beside them."""
    root = tmp_path_factory.mktemp("source")
    copy_sources(root)
    leftovers = root / "nbs" / "pipelines" / ".ipynb_checkpoints"
    leftovers.mkdir(parents=True)
    (leftovers / "old-checkpoint.ipynb").write_text("{}")
    (root / "tests").mkdir()
    (root / "tests" / "test_nothing.py").write_text("")
    (root / "data" / "catalog.sqlite").write_text("private")
    return root


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    """The wheel, built from the source distribution."""
    return build_wheel(source, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def names(wheel):
    """The paths inside the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The wheel's contents, installed to a folder of their own."""
    target = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        target,
        wheel,
    ]
    subprocess.run(command, check=True)
    return target


@pytest.mark.parametrize("part", PARTS)
def test_wheel_holds_the_workspace_part(names, part):
    inside = f"ml_notebooks/_workspace/{part}"
    here = (
        [path for path in (ROOT / part).rglob("*") if path.is_file()]
        if (ROOT / part).is_dir()
        else [ROOT / part]
    )
    kept = [path for path in here if not {".ipynb_checkpoints", "__pycache__"} & set(path.parts)]
    expected = {f"ml_notebooks/_workspace/{path.relative_to(ROOT).as_posix()}" for path in kept}
    assert expected
    assert {name for name in names if name == inside or name.startswith(f"{inside}/")} == expected


@pytest.mark.parametrize("name", ["ml_notebooks/py.typed", "ml_notebooks/data/warehouse.py"])
def test_wheel_holds(names, name):
    assert name in names


def test_wheel_holds_the_licence(names):
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)


@pytest.mark.parametrize(
    "word", ["tests/", "conftest", ".ipynb_checkpoints", "__pycache__", "catalog.sqlite", "nbs/library"]
)
def test_wheel_leaves_out(names, word):
    assert [name for name in names if word in name] == []


def test_building_copies_nothing_into_the_sources(wheel, source):
    assert not (source / "ml_notebooks" / "_workspace").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="`make` is not installed")
def test_a_second_make_run_installs_nothing_until_what_is_asked_for_changes(source, tmp_path):
    for name in ("pyproject.toml", "setup.py", "constraints.txt"):
        shutil.copy(source / name, tmp_path)
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("bin/python", ".pip", ".run"):
        (tmp_path / ".venv" / name).touch()
    dry = ["make", "--no-print-directory", "-n", "run"]
    assert subprocess.check_output(dry, cwd=tmp_path, text=True).splitlines() == [".venv/bin/mlnb run flights"]
    later = (tmp_path / ".venv" / ".run").stat().st_mtime + 1
    os.utime(tmp_path / "constraints.txt", (later, later))
    assert "pip install" in subprocess.check_output(dry, cwd=tmp_path, text=True)


def test_installed_wheel_lays_out_a_workspace(installed, tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLNB_")}
    shown = subprocess.run(
        [sys.executable, "-m", "ml_notebooks", "init", "demo"],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert [part for part in PARTS if not (tmp_path / "demo" / part).exists()] == []


def test_installed_package_is_the_one_that_is_tested(installed, tmp_path):
    source = "import ml_notebooks.workspace as w; print(w.template_folder())"
    shown = subprocess.run(
        [sys.executable, "-c", source],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(shown.stdout.strip()) == installed / "ml_notebooks" / "_workspace"
