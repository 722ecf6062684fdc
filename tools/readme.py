"""Writes README.md from nbs/index.ipynb; with --check, says whether they differ.

Usage: python tools/readme.py [--check]

Hidden cells (`#| hide`) and directive lines are left out. A link is written relative to the notebook, so that
it works there, and made relative to the root in README.md. A result is shown as text; a picture belongs into
a Markdown cell, as a link to a file.
"""

import posixpath
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
SOURCE = "nbs/index.ipynb"
HEADER = f"<!-- Written from {SOURCE} by `make readme`: do not edit. -->\n\n"
LINK = re.compile(r"""(\]\(|(?:src|href)=")([^)"\s]+)""")
HIDDEN = re.compile(r"^#\|\s*(hide|default_exp|include:\s*false)\b", re.MULTILINE)
DIRECTIVE = re.compile(r"^#\|.*\n?", re.MULTILINE)


def for_readers(notebook):
    """The notebook without the cells and the lines that are there for its tools."""
    shown = [cell for cell in notebook.cells if cell.cell_type != "raw" and not HIDDEN.search(cell.source)]
    for cell in shown:
        if cell.cell_type == "code":
            cell.source = DIRECTIVE.sub("", cell.source)
    notebook.cells = shown
    return notebook


def relink(source, folder):
    """Markdown whose relative links, written from `folder`, start at the root instead."""

    def from_root(match):
        start, target = match.groups()
        if re.match(r"[a-z]+:|#|/", target):
            return match[0]
        return start + posixpath.normpath(posixpath.join(folder, target))

    return LINK.sub(from_root, source)


def render(root):
    """README.md's text."""
    notebook = for_readers(nbformat.read(root / SOURCE, as_version=4))
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = relink(cell.source, posixpath.dirname(SOURCE))
    as_text = Config({"NbConvertBase": {"display_data_priority": ["text/markdown", "text/plain"]}})
    text, _ = MarkdownExporter(config=as_text).from_notebook_node(notebook)
    return HEADER + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def main(check, root=ROOT):
    """Write the file, or compare it."""
    readme, text = root / "README.md", render(root)
    if not check:
        readme.write_text(text, encoding="utf-8")
    elif not readme.exists() or readme.read_text(encoding="utf-8") != text:
        sys.exit(f"README.md is not what {SOURCE} says: run `make readme`.")


if __name__ == "__main__":
    main("--check" in sys.argv[1:])
