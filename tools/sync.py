"""Cleans the notebooks, exports them, compares README.md; fails when any of it changed a file.

Usage: python tools/sync.py

What it changes stays changed, so a second run passes: look at the change, then commit it.
"""

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import readme

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def fingerprints(root):
    """Path → hash of every notebook, every module and the overview that nbdev writes beside them."""
    files = [*root.glob("nbs/**/*.ipynb"), *root.glob("nbs/llms.txt"), *root.glob("ml_notebooks/**/*.py")]
    own = [file for file in files if ".ipynb_checkpoints" not in file.parts]
    return {str(file.relative_to(root)): sha256(file.read_bytes()).hexdigest() for file in own}


def changed_by(command, root):
    """The files that a command of nbdev changed, added or removed."""
    before = fingerprints(root)
    subprocess.run([BIN / command], cwd=root, check=True)
    after = fingerprints(root)
    return sorted(path for path in before | after if before.get(path) != after.get(path))


def main(root=ROOT):
    """Run the three, in order."""
    for command, what in {
        "nbdev-clean": "not clean",
        "nbdev-export": "not what the notebooks export",
    }.items():
        if files := changed_by(command, root):
            sys.exit(f"{command} changed what was {what}: {', '.join(files)}. Look at it, then commit it.")
    readme.main(check=True, root=root)
    print("In sync: notebooks clean, modules exported, README.md written.")


if __name__ == "__main__":
    main()
