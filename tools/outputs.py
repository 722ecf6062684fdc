"""Puts the outputs of a run into the notebooks that were run, so that they can be read without running them.

Usage: python tools/outputs.py REPORT FOLDER    (for example reports/flights/<run> nbs/pipelines/flights)

Only outputs are taken over: cells, ids and tags stay as they are. What a kernel wrote to standard error is left out.
"""

import sys
from pathlib import Path

import nbformat

INJECTED = "injected-parameters"


def kept(output):
    """An output as it is committed: without a count, and None for what is not."""
    if output.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in output.get("data", {}):
        return None
    if "execution_count" in output:
        output["execution_count"] = None
    return output


def main(report, folder):
    """Take over the outputs of each executed notebook."""
    for path in sorted(folder.glob("*.ipynb")):
        notebook, executed = nbformat.read(path, as_version=4), nbformat.read(report / path.name, as_version=4)
        cells = [cell for cell in executed.cells if INJECTED not in cell.metadata.get("tags", [])]
        if [cell.source for cell in cells] != [cell.source for cell in notebook.cells]:
            sys.exit(f"{path} is not the notebook that was run: run the pipeline again.")
        for cell, run in zip(notebook.cells, cells, strict=True):
            if cell.cell_type == "code":
                cell.outputs = [output for output in map(kept, run.outputs) if output]
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
