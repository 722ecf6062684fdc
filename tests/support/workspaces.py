"""Workspaces in a folder of their own, and one on a disk that is soon full."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ml_notebooks.workspace import Workspace, find_workspace

LIGHT = """[kernel]
preload = duckdb,pandas,pyarrow,pydantic_settings,structlog,filelock
"""  # settings with which a warm parent imports what a small step needs, and no more


def make_workspace(
    folder: Path,  # made when it is not there
    **warehouse: object,  # settings of [warehouse]
) -> Workspace:
    """A workspace with nothing in it but its settings."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "[workspace]",
        "name = test",
        "[warehouse]",
        *(f"{key} = {value}" for key, value in warehouse.items()),
    ]
    (folder / "settings.ini").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return find_workspace(folder)


@contextmanager
def small_disk(
    folder: Path,  # where to mount it; made when it is not there
    size: str,  # as `mount` takes it: `8m`
) -> Iterator[Path]:
    """A file system in memory of that size; the test is skipped where mounting is not allowed."""
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size},uid={os.geteuid()},gid={os.getegid()}"
    command = [*as_root, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"there is no `{error.filename}` on PATH")
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small disk is not permitted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([*as_root, "umount", "--lazy", str(folder)], check=True)


def fill(
    folder: Path,  # on the disk to fill
) -> Path:  # delete it to have the space back
    """A file that takes every byte that is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for block in (1 << 16, 1 << 12, 1 << 9, 1):
            try:
                while True:
                    file.write(b"\0" * block)
            except OSError:
                continue
    return ballast
