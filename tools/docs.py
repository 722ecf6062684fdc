"""Builds the documentation site, into _docs, from the notebooks under nbs and _quarto.yml.

Usage: python tools/docs.py [--stage]    (--stage only writes _proc, the folder that Quarto renders)
"""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
from readme import for_readers

ROOT = Path(__file__).resolve().parent.parent
MISSING = """\
The site is built by Quarto, a program that is not installed here.
Get it from https://quarto.org/docs/get-started/ (no account, one package), then run `make docs` again."""


def stage(root, folder):
    """Copy nbs and _quarto.yml to a folder, the notebooks without what is there for their tools."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / "nbs", folder, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    shutil.copy(root / "_quarto.yml", folder)
    for path in folder.rglob("*.ipynb"):
        nbformat.write(for_readers(nbformat.read(path, as_version=4)), path)


def main(only_stage, root=ROOT):
    """Stage, render, and put the site where people look for it."""
    quarto = shutil.which("quarto")
    if not (quarto or only_stage):
        sys.exit(MISSING)
    stage(root, root / "_proc")
    if only_stage:
        return
    subprocess.run([quarto, "render", root / "_proc"], check=True)
    shutil.rmtree(root / "_docs", ignore_errors=True)
    shutil.move(root / "_proc" / "_docs", root / "_docs")
    print("_docs/index.html")


if __name__ == "__main__":
    main("--stage" in sys.argv[1:])
