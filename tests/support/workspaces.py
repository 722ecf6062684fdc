"""Workspaces in a folder of their own, and one on a disk that is soon full."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ml_notebooks.workspace import Workspace, find_workspace


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
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("there is no `mount` on PATH")
    if mounted.returncode != 0:
        pytest.skip(f"mounting a small disk is not permitted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


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
