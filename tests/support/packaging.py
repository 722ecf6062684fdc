"""The wheel, built from a copy of the sources."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SOURCES = ("ml_notebooks", "nbs", "data/README.md", "reports/README.md", "settings.ini", "env.example")
FILES = (
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "constraints.txt",
)


def copy_sources(
    root: Path,  # an empty folder
) -> None:
    """Copy what the wheel is built from, and nothing else, to `root`."""
    skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in (*SOURCES, *FILES):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=skip)
        else:
            shutil.copy(ROOT / name, root / name)


def build_wheel(
    source: Path,  # a copy of the sources
    folder: Path,  # where it is put
) -> Path:
    """The wheel, built from the source distribution."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stdout[-2000:] + shown.stderr[-2000:]
    return next(folder.glob("*.whl"))
