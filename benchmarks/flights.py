"""`mlnb run flights` in an empty workspace: seconds by step, where they go, peak memory, and what the model scores.

Then the cached run: the same again with nothing changed, the command's start included, seven times after each run; its median
and its slowest are printed.

    python benchmarks/flights.py [--repeats 3]

Memory is the sum of the proportional set sizes of the runner and its kernels, read twice a second; it costs a little
of the time that is measured.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from ml_notebooks.pipelines.kernels import parents, stop_parents

AGAIN = 7
MLNB = [sys.executable, "-m", "ml_notebooks"]


def watch(process):
    """The peak memory, in GiB, of a process, its descendants and the kernels forked for it, until it ends."""
    peak, root = 0, psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        try:
            warm = [psutil.Process(parent["pid"]) for parent in parents()]
            for member in [each for top in (root, *warm) for each in (top, *top.children(recursive=True))]:
                total += member.memory_full_info().pss
        except psutil.Error:
            continue
        peak = max(peak, total)
        time.sleep(0.5)
    return peak / 2**30


def cells(report):
    """Seconds of the slowest cells, of imports (first code cell) and outside of cells."""
    slow, imports, outside = [], 0.0, 0.0
    for path in sorted(report.glob("*.ipynb")):
        notebook = json.loads(path.read_text())
        inside = [(c["metadata"]["papermill"]["duration"] or 0, c) for c in notebook["cells"] if c["cell_type"] == "code"]
        outside += notebook["metadata"]["papermill"]["duration"] - sum(seconds for seconds, _ in inside)
        imports += max((s for s, c in inside if "import" in "".join(c["source"])), default=0)
        slow += [(seconds, path.stem, "".join(c["source"]).strip().splitlines()[0][:50]) for seconds, c in inside]
    return sorted(slow, reverse=True)[:8], imports, outside


def once(folder):
    """Run once; returns seconds, peak memory, steps, cells and records."""
    subprocess.run([*MLNB, "init", str(folder)], check=True, capture_output=True)
    stop_parents()  # the first kernel waits for its parent, as on a fresh machine
    start = time.perf_counter()
    process = subprocess.Popen([*MLNB, "run", "flights"], cwd=folder, stdout=subprocess.DEVNULL)
    peak = watch(process)
    seconds = time.perf_counter() - start
    run = json.loads(subprocess.run([*MLNB, "runs", "--json"], cwd=folder, check=True, capture_output=True, text=True).stdout)[0]
    query = "SELECT step, seconds FROM ops.steps ORDER BY position"
    steps = json.loads(subprocess.run([*MLNB, "sql", query, "--json"], cwd=folder, check=True, capture_output=True, text=True).stdout)
    return seconds, peak, steps, cells(folder / run["report"]), run["records"], [unchanged(folder) for _ in range(AGAIN)]


def unchanged(folder):
    """Seconds of a run in which nothing changed, the command's start included."""
    start = time.perf_counter()
    done = subprocess.run([*MLNB, "run", "flights", "--json"], cwd=folder, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    assert {step["status"] for step in json.loads(done.stdout)["steps"]} == {"cached"}
    return seconds


def main():
    """Run several times and print medians, and the cells of the last run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    runs = []
    for _ in range(parser.parse_args().repeats):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(once(Path(folder) / "demo"))
            print(f"{runs[-1][0]:.0f} s, {runs[-1][1]:.2f} GiB", file=sys.stderr)
    print(f"seconds: median {statistics.median(r[0] for r in runs):.0f}, all {[round(r[0]) for r in runs]}")
    print(f"peak GiB: {max(r[1] for r in runs):.2f}")
    for number, step in enumerate(runs[0][2]):
        print(f"  {step['step']:<10} {statistics.median(r[2][number]['seconds'] for r in runs):6.1f} s")
    again = [seconds for run in runs for seconds in run[5]]
    print(f"cached run, with nothing changed: median {statistics.median(again):.2f} s, slowest {max(again):.2f} s, of {len(again)}")
    slow, imports, outside = runs[-1][3]
    print(f"imports in all kernels {imports:.0f} s, kernel start and end, saving {outside:.0f} s; slowest cells:")
    for seconds, step, source in slow:
        print(f"  {seconds:6.1f} s  {step}: {source}")
    records = runs[-1][4]
    for month in ("october", "november", "december"):
        low, high, base = (records[f"roc_auc_{month}_{which}"] for which in ("low", "high", "baseline"))
        print(f"roc_auc_{month} {records[f'roc_auc_{month}']:.4f} [{low:.4f}, {high:.4f}], schedule only {base:.4f}")


if __name__ == "__main__":
    main()
