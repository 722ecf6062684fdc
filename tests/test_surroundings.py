"""What is said when a workspace's surroundings are not as they should be, and when a step ends without an error of Python's."""

import errno
import os
import shutil
import tempfile

import nbformat
import pytest

from ml_notebooks.errors import BadRecordName, MLNotebooksError, SettingsError
from ml_notebooks.pipelines import engine
from ml_notebooks.pipelines.record import record
from ml_notebooks.settings import load_settings
from ml_notebooks.workspace import create_workspace

SMALL = "title: A small one\nsteps:\n  - {name: only, notebook: only.ipynb}\n"


def write_step(folder, source):
    """Write the pipeline `small`, whose only step has one cell."""
    place = folder / "nbs" / "pipelines" / "small"
    (place / "pipeline.yaml").write_text(SMALL)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), place / "only.ipynb")


def assert_said(process, *words):
    """One message that holds these words, and no word of what nobody planned for."""
    assert process.returncode == 1 and "not foreseen" not in process.stderr + process.stdout
    for word in words:
        assert word in process.stderr, process.stderr


# Folders


@pytest.mark.parametrize("name", ["data", "reports"])
@pytest.mark.parametrize("words", [("run", "small"), ("tables",), ("sql", "SELECT 1")], ids=" ".join)
def test_a_file_where_a_folder_is_to_be(workspace, mlnb, name, words):
    write_step(workspace, "1")
    (workspace / name).touch()
    assert_said(mlnb(*words, cwd=workspace), f"`{name}` is not right", f"{workspace / name}`, a file", "Move it away")


@pytest.mark.parametrize("name", ["data", "reports"])
def test_doctor_finds_a_file_where_a_folder_is_to_be(workspace, mlnb, name):
    (workspace / name).touch()
    process = mlnb("doctor", cwd=workspace)
    assert process.returncode == 1 and f"{workspace / name}`, a file" in process.stdout.replace("\n", "")


def test_a_link_that_leads_nowhere(workspace, mlnb):
    (workspace / "data").symlink_to(workspace / "disk" / "data")
    assert_said(mlnb("tables", cwd=workspace), "a link that leads nowhere")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=["disk", "interrupt"])
@pytest.mark.parametrize("made", [True, False], ids=["empty folder", "new folder"])
def test_a_workspace_that_cannot_be_made_to_its_end_leaves_nothing(tmp_path, monkeypatch, error, made):
    def full(source, target, **options):
        raise error

    monkeypatch.setattr(shutil, "copytree", full)
    folder = tmp_path / "new"
    if made:
        folder.mkdir()
    with pytest.raises((MLNotebooksError, KeyboardInterrupt)) as caught:
        create_workspace(folder)
    assert list(tmp_path.rglob("*")) == [folder] * made
    assert isinstance(error, KeyboardInterrupt) or "No space left on device" in str(caught.value)


def test_a_folder_below_a_file(workspace, mlnb):
    (workspace / "store").touch()
    process = mlnb("tables", cwd=workspace, MLNB_WORKSPACE__DATA="store/data")
    assert_said(process, f"`{workspace / 'store'}`, a file")


# The folder of warm kernels


@pytest.mark.parametrize("given", ["gone", "file", "shut"])
def test_a_runtime_folder_that_cannot_be_used_is_left_for_the_temporary_one(tmp_path, mlnb, monkeypatch, given):
    (tmp_path / "file").touch()
    (tmp_path / "shut").mkdir(mode=0o500)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    if given == "shut" and os.geteuid() == 0:
        pytest.skip("nothing is shut for root")
    process = mlnb("kernel", "status", cwd=tmp_path, XDG_RUNTIME_DIR=str(tmp_path / given))
    assert (process.returncode, process.stdout) == (0, "No warm parent runs. The first warm kernel starts one.\n"), process.stderr
    assert (tmp_path / "temporary" / f"mlnb-{os.getuid()}").stat().st_mode & 0o777 == 0o700


def test_a_runtime_folder_that_is_open_to_others(tmp_path, mlnb):
    (tmp_path / f"mlnb-{os.getuid()}").mkdir()
    (tmp_path / f"mlnb-{os.getuid()}").chmod(0o755)
    for word in ("status", "stop"):
        process = mlnb("kernel", word, cwd=tmp_path, XDG_RUNTIME_DIR=str(tmp_path))
        assert_said(process, "only this user may enter", "its mode is 755", "XDG_RUNTIME_DIR")


def test_a_runtime_folder_that_is_a_file(tmp_path, mlnb):
    (tmp_path / f"mlnb-{os.getuid()}").touch()
    assert_said(mlnb("kernel", "status", cwd=tmp_path, XDG_RUNTIME_DIR=str(tmp_path)), "It is no folder.")


# Settings


def test_a_number_that_may_be_left_out_says_what_it_may_be(workspace, mlnb):
    (workspace / "settings.ini").write_text("[workspace]\nname = small\n[run]\njobs = 0\n")
    assert_said(mlnb("tables", cwd=workspace), "`jobs` is not right", "Found `0`", "Allowed: an integer above 0 (steps at the same time")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("MLNB_RUN__JOBS 3\n", 1),
        ("# jobs\n\nMLNB_RUN__JOBS: 3\n", 3),
        ("OTHER=1\n\nMLNB_RUN__JOBS\n", 3),
        ("OTHER=1\nhunter2 is the password\n", 2),
        ("OTHER='1\n", 1),
    ],
)
def test_a_line_of_dotenv_that_is_none(workspace, text, line):
    (workspace / ".env").write_text(text)
    with pytest.raises(SettingsError, match=rf"\.env: `line {line}` is not right\. Found a line without `NAME=value`") as caught:
        load_settings(workspace)
    assert "hunter2" not in str(caught.value)


def test_lines_of_dotenv_that_are_right(workspace):
    (workspace / ".env").write_text("# jobs\n\nexport MLNB_RUN__JOBS=3\nPASSED_ON\nOTHER='a\nb'\nEMPTY=\n")
    assert load_settings(workspace).run.jobs == 3


# Steps that end without an error of Python's


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("a = 1\nassert a == 2", ["failed in cell 1, line 2.", "AssertionError without a message."]),
        ("a = 1\nraise SystemExit(3)", ["failed in cell 1, line 2.", "SystemExit: 3."]),
        ("import sys\n\nsys.exit('no rows today')", ["failed in cell 1, line 3.", "SystemExit: no rows today."]),
    ],
)
def test_an_error_that_says_little_has_its_line(workspace, mlnb, source, words):
    write_step(workspace, source)
    assert_said(mlnb("run", "small", cwd=workspace, MLNB_KERNEL__PRELOAD="json"), *words)


def test_an_exit_without_a_status_is_no_failure(workspace, mlnb):
    write_step(workspace, "raise SystemExit(0)")
    assert mlnb("run", "small", cwd=workspace, MLNB_KERNEL__PRELOAD="json").returncode == 0


@pytest.mark.parametrize("kernel", ["mlnb", "python3"])
@pytest.mark.parametrize(
    ("source", "status"), [("import os; os._exit(3)", 3), ("import ctypes; ctypes.string_at(0)", -11), ("import os; os.kill(os.getpid(), 9)", -9)]
)
def test_how_a_kernel_ended_is_told(tmp_path, kernel, source, status):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)]), tmp_path / "only.ipynb")
    (tmp_path / "settings.ini").write_text("[workspace]\n[kernel]\npreload = json\n")
    with pytest.raises(engine.KernelEnded, match="Kernel died with status") as caught:
        engine.execute(tmp_path / "only.ipynb", tmp_path / "out.ipynb", {}, kernel=kernel)
    assert caught.value.status == status


# Records


@pytest.mark.parametrize("name", [3, None, "", "  "])
def test_what_is_recorded_needs_a_name(name):
    with pytest.raises(BadRecordName, match=r'What is recorded needs a name\. Found .*`record\("roc_auc", 0\.78\)`'):
        record(name, 4)
