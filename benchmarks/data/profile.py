"""A profile of 10 million rows and 25 columns: seconds and peak memory, and ydata-profiling on 100,000 rows beside it.

    python benchmarks/data.py profile [--rows 10000000] [--repeats 3] [--ydata /path/to/python]

The table: eight whole numbers, seven decimals (two with missing values), six texts of few to many values, three instants, one truth
value. Each profile is made by a process of its own, so that the memory is its peak and not that of what came before; the time is
that of the call. ydata-profiling cannot share this environment (it wants older NumPy and pandas): name an interpreter that has it
(`python -m venv`, `pip install ydata-profiling`). It is given the first 100,000 rows as a pandas frame, with and without `minimal`.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ml_notebooks.data.profile import profile
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.workspace import find_workspace

BAR_SECONDS, BAR_MEMORY, SMALL = 10, 2.0, 100_000
COLUMNS = {
    **{f"whole_{n}": f"(hash(range + {n}) % {10 ** (n + 1)})::BIGINT" for n in range(6)},
    "id": "range",
    "code": "CASE WHEN hash(range + 77) % 1000 = 0 THEN -999 ELSE (hash(range + 78) % 90)::INTEGER END",
    **{f"real_{n}": f"ln(1 + hash(range + {20 + n}) % 1000000) * {n + 1}" for n in range(5)},
    "gaps": "CASE WHEN hash(range + 31) % 10 > 0 THEN (hash(range + 32) % 100000) / 7 END",
    "holes": "CASE WHEN hash(range + 31) % 10 > 1 THEN (hash(range + 33) % 100000) / 9 END",
    "carrier": "['UA', 'AA', 'B6', 'DL', 'EV', 'MQ', 'ua'][(1 + hash(range + 40) % 7)::INTEGER]",
    "city": "'city ' || (hash(range + 41) % 300)",
    "tailnum": "'N' || (hash(range + 42) % 4000)",
    "product": "'product number ' || (hash(range + 43) % 50000)",
    "reference": "'R' || range || '-' || (hash(range + 44) % 97)",
    "comment": "CASE WHEN hash(range + 45) % 4 > 0 THEN 'a longer remark, number ' || (hash(range + 46) % 1000) END",
    "created": "TIMESTAMPTZ '2013-01-01' + to_seconds(range)",
    "seen": "TIMESTAMPTZ '2013-01-01' + to_seconds((hash(range + 50) % 31536000)::BIGINT)",
    "born": "DATE '1930-01-01' + (hash(range + 51) % 29000)::INTEGER",
    "late": "hash(range + 60) % 5 = 0",
}
YDATA = """
import json, resource, sys, time
import pandas as pd
frame = pd.read_parquet(sys.argv[1])
import ydata_profiling
from ydata_profiling import ProfileReport
start = time.perf_counter()
ProfileReport(frame, minimal=sys.argv[2] == "minimal", progress_bar=False).to_html()
seconds = time.perf_counter() - start
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"seconds": seconds, "memory": memory, "version": ydata_profiling.__version__}))
"""


def make(folder, rows):
    """A workspace with the table, and the small one as a Parquet file."""
    (folder / "settings.ini").write_text("[workspace]\nname = bench\n")
    columns = ", ".join(f"{sql} AS {name}" for name, sql in COLUMNS.items())
    with open_warehouse(find_workspace(folder)) as wh:
        for start in range(0, rows, 1_000_000):
            end = min(start + 1_000_000, rows)
            wh.append("raw.wide", f"SELECT {columns} FROM range({start}, {end})")
        wh.sql(f"FROM raw.wide LIMIT {SMALL}").df().to_parquet(folder / "small.parquet")


def measure(folder, what):
    """Profile a table once; prints seconds, those of processors, and the peak memory in GiB."""
    with open_warehouse(find_workspace(Path(folder)), read_only=True) as wh:
        wh.sql("SELECT 1").fetchall()
        data = "raw.wide" if what == "all" else f"SELECT * FROM raw.wide LIMIT {SMALL}"
        start, busy = time.perf_counter(), time.process_time()
        found = profile(wh, data)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        start = time.perf_counter()
        page = time.perf_counter() - start if found._repr_html_() else 0
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "busy": busy, "page": page, "memory": memory, "rows": found.rows, "columns": len(found.columns)}))


def call(*words):
    """The JSON that a process prints last."""
    process = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(process.stderr[-2000:])
    return json.loads(process.stdout.strip().splitlines()[-1])


def row(name, runs, bar=""):
    """A row of benchmarks/README.md."""
    seconds, memory = [run["seconds"] for run in runs], max(run["memory"] for run in runs)
    busy = f"{statistics.median(run['busy'] for run in runs):.1f}" if "busy" in runs[0] else ""
    print(f"| {name} | {statistics.median(seconds):.1f} | {max(seconds):.1f} | {busy} | {memory:.2f} | {bar} |")


def main():
    """Measure and print the rows; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ydata", help="an interpreter that has ydata-profiling")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(*options.measure)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, options.rows)
        runs = {
            what: [call(sys.executable, __file__, "--measure", folder, what) for _ in range(options.repeats)] for what in ("all", "small")
        }
        theirs = {}
        if options.ydata:
            modes = ("minimal", "full")
            theirs = {mode: [call(options.ydata, "-c", YDATA, folder / "small.parquet", mode)] for mode in modes}
    ok = statistics.median(run["seconds"] for run in runs["all"]) <= BAR_SECONDS and max(run["memory"] for run in runs["all"]) < BAR_MEMORY
    print("| what | median s | slowest s | processor s | peak GiB | bar |\n|---|---|---|---|---|---|")
    row(f"profile, {options.rows:,} x {len(COLUMNS)}", runs["all"], f"{BAR_SECONDS} s, {BAR_MEMORY:g} GiB: {'met' if ok else '**missed**'}")
    row(f"profile, {SMALL:,} x {len(COLUMNS)}, all rows exact", runs["small"])
    for mode, found in theirs.items():
        row(f"ydata-profiling {found[0]['version']}, {SMALL:,} x {len(COLUMNS)}, {mode}", found)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
