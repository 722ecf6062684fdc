"""A notebook of imports: plain papermill, papermill on a warm kernel, and the runner's engine, side by side.

    python benchmarks/pipelines.py [--repeats 7] [--many 200]

The notebook imports pandas, scikit-learn, duckdb, mlflow, shap and matplotlib and prints a line. Every way is called in
turn, so that a busy moment meets all of them. Then so many notebooks, four at a time; what the runner adds to a step; and Voila's
pages of the same notebook, in turn too: the first of a server that has just started, and the next. A run of flights in which
nothing changed is measured by flights.py.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import nbformat
import papermill

from ml_notebooks.pipelines.engine import execute
from ml_notebooks.pipelines.kernels import KERNEL_NAME, install_kernelspec, parents

IMPORTS = "import pandas, sklearn.ensemble, duckdb, mlflow, shap, matplotlib.pyplot"


def notebook(path, *cells):
    """Write a notebook of code cells."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book.metadata.kernelspec = {"name": "python3", "display_name": "python3", "language": "python"}
    nbformat.write(book, path)
    return path


def plain(path, kernel):
    """papermill as its users call it."""
    papermill.execute_notebook(
        str(path), str(path.with_suffix(".out.ipynb")), kernel_name=kernel, progress_bar=False
    )


def ours(path, kernel):
    """What the runner calls."""
    execute(path, path.with_suffix(".out.ipynb"), {}, kernel=kernel)


def starts(folder, repeats):
    """Seconds of the ways to run a notebook of imports."""
    path = notebook(folder / "imports.ipynb", IMPORTS, "print('here')")
    ways = {
        "papermill, ordinary kernel": lambda: plain(path, "python3"),
        "papermill, warm kernel": lambda: plain(path, KERNEL_NAME),
        "the runner's engine, warm kernel": lambda: ours(path, KERNEL_NAME),
    }
    times = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn:  # the first turn starts the warm parent and fills the file cache
                times[name].append(time.perf_counter() - start)
    base = statistics.median(times["papermill, ordinary kernel"])
    print("| what | median s | slowest s | times faster |\n|---|---|---|---|")
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"| {name} | {middle:.3f} | {max(values):.3f} | {base / middle:.1f} |")


def many(folder, count):
    """So many notebooks, four at a time: failures, what leaked from one to another, the parent's memory."""
    check = "import os, random, numpy; print(os.environ['MARK'], random.random(), numpy.random.random(), 'mark' in dir())"
    path = notebook(folder / "many.ipynb", IMPORTS, check, "mark = numpy.mark = os.environ['MARK']")

    def run(number):
        env = os.environ | {"MARK": str(number)}
        done = execute(path, folder / f"many.{number}.out.ipynb", {}, kernel=KERNEL_NAME, env=env)
        return done.cells[1].outputs[0].text.split()

    before, start = parents()[-1], time.perf_counter()
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(run, range(count)))
    seconds, after = time.perf_counter() - start, parents()[-1]
    leaks = sum(words[0] != str(number) or words[3] != "False" for number, words in enumerate(said))
    same = 2 * count - len({number for words in said for number in words[1:3]})
    print(
        f"\n{count} notebooks, four at a time: {seconds:.1f} s, {seconds / count:.3f} s each; {leaks} leaks, {same} random numbers twice"
    )
    print(
        f"parent before {before['memory'] / 2**20:.1f} MiB, after {after['memory'] / 2**20:.1f} MiB, forked {after['forked']}"
    )


def first_pages(folder, kernel):
    """Seconds until a Voila that has just started has sent the whole page of a notebook of imports, and then the page again."""
    path = notebook(folder / f"page_{kernel}.ipynb", IMPORTS, "print('here')")
    book = nbformat.read(path, 4)
    book.metadata.kernelspec["name"] = kernel
    nbformat.write(book, path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "voila",
        str(path),
        f"--port={port}",
        "--no-browser",
        "--Voila.log_level=ERROR",
    ]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            return [page_seconds(f"http://127.0.0.1:{port}/") for _ in range(2)]
        finally:
            server.send_signal(signal.SIGINT)


def page_seconds(address):
    """Seconds until a page is there; waits for the server first."""
    while True:
        start = time.perf_counter()
        try:
            with urlopen(address, timeout=60) as page:
                assert b"here" in page.read()
            return time.perf_counter() - start
        except URLError:
            time.sleep(0.1)


def pages(folder, repeats):
    """Voila's pages with an ordinary and with a warm kernel, each page with a kernel of its own."""
    kernels = ("python3", KERNEL_NAME)
    first_pages(folder, KERNEL_NAME)  # starts the warm parent
    turns = [{kernel: first_pages(folder, kernel) for kernel in kernels} for _ in range(repeats)]
    print("\n| Voila, the whole page | first, median s | slowest s | next, median s | slowest s |\n|---|---|---|---|---|")
    for kernel in kernels:
        values = zip(*(turn[kernel] for turn in turns), strict=True)
        figures = [f"{statistics.median(each):.3f} | {max(each):.3f}" for each in values]
        print(f"| {kernel} | {' | '.join(figures)} |")


def overhead(folder, repeats):
    """What the runner adds to a step beyond its cells: within the step, and of the whole run, from pipelines of two lengths."""
    short, long = 10, 30
    (folder / "settings.ini").write_text("[workspace]\nname = bench\n")
    for count in (short, long):
        write_pipeline(folder, count)
    beyond(folder, short, 1)  # starts the warm parent
    print("\n| beyond its cells | within a step, median s | a further step of a run s | a run besides s |\n|---|---|---|---|")
    for jobs in (1, 2):
        runs = [(beyond(folder, short, jobs), beyond(folder, long, jobs)) for _ in range(repeats)]
        within = statistics.median(each for pair in runs for steps, _ in pair for each in steps)
        further = statistics.median((more - few) / (long - short) for (_, few), (_, more) in runs)
        besides = statistics.median(few for (_, few), _ in runs) - short * further
        print(f"| {jobs} at a time | {within:.3f} | {further:.3f} | {besides:.2f} |")


def write_pipeline(folder, count):
    """A pipeline of so many steps, none of which needs another."""
    steps = folder / "nbs" / "pipelines" / f"of_{count}"
    steps.mkdir(parents=True)
    names = [f"step_{number}" for number in range(count)]
    for name in names:
        notebook(steps / f"{name}.ipynb", IMPORTS, "print('here')")
    lines = [f"  - name: {name}\n    notebook: {name}.ipynb" for name in names]
    (steps / "pipeline.yaml").write_text("title: Steps\nsteps:\n" + "\n".join(lines) + "\n")


def beyond(folder, count, jobs):
    """Seconds beyond its cells of each step of a run, and of the whole run."""
    command = [sys.executable, "-m", "ml_notebooks", "run", f"of_{count}", "--force", "--json", "--jobs", str(jobs)]
    run = json.loads(subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout)
    inside = [cell_seconds(folder / step["notebook"]) for step in run["steps"]]
    steps = [step["seconds"] - cells for step, cells in zip(run["steps"], inside, strict=True)]
    return steps, run["seconds"] - sum(inside)


def cell_seconds(path):
    """How long the cells of an executed notebook took."""
    cells = json.loads(path.read_text())["cells"]
    return sum(cell["metadata"]["papermill"]["duration"] or 0 for cell in cells)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--many", type=int, default=200)
    arguments = parser.parse_args()
    install_kernelspec()
    with tempfile.TemporaryDirectory() as folder:
        starts(Path(folder), arguments.repeats)
        many(Path(folder), arguments.many)
        overhead(Path(folder), arguments.repeats)
        pages(Path(folder), arguments.repeats)


if __name__ == "__main__":
    main()
