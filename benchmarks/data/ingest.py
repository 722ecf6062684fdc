"""A CSV of ten million rows and twelve columns into the warehouse, and a merge of 100,000 rows into them.

    python benchmarks/data.py ingest [--rows 10000000]

Each is measured in a process of its own, with its largest memory; beside it what pandas takes to read the same
file, and to merge. The bars: 1,000,000 rows/s under 2 GiB, and 5 s. Prints rows for benchmarks/README.md.
"""

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from support.workspaces import make_workspace

from ml_notebooks.data.ingest import ingest
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.workspace import find_workspace

MERGED = 100_000
COLUMNS = """
    range AS id, (range * 7919) % 500000 AS customer, DATE '2013-01-01' + (range % 365)::INTEGER AS day,
    TIMESTAMP '2013-01-01' + to_seconds(range % 31536000) AS placed, 'item ' || (range % 5000) AS item,
    (['EWR', 'JFK', 'LGA'])[1 + range % 3] AS store, range % 40 AS units, (range % 10007) / 100 AS price,
    ((range * 31) % 10007) / 1000.0 AS discount, range % 11 = 0 AS returned,
    CASE WHEN range % 50 > 0 THEN 'N' || (range % 99999) END AS code, hash(range) % 1000000 AS weight
"""


def _measured(work, arguments, answer):
    began = time.perf_counter()
    said = work(*arguments)
    took, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    answer.send((took, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20, said))


def measure(work, *arguments):
    """Seconds, seconds of a core, the largest memory in GiB, and what the work returned, in a fresh process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_measured, args=(work, arguments, there))
    process.start()
    there.close()
    found = here.recv()
    process.join()
    return found


def write_files(root: Path, rows: int) -> None:
    """The CSV, and the one that is merged: half of its rows are changed ones, half new."""
    with open_warehouse(find_workspace(root)) as wh:
        for name, start, count in (("large", 0, rows), ("merged", rows - MERGED // 2, MERGED)):
            query = f"SELECT {COLUMNS} FROM range({start}, {start + count})"
            query = query.replace("range % 40 AS units", "99 AS units") if name == "merged" else query
            wh.connection.execute(f"COPY ({query}) TO '{root / name}.csv' (HEADER)")


def by_ingest(root: Path, name: str, **options):
    """What the warehouse says it did."""
    with open_warehouse(find_workspace(root)) as wh:
        return repr(ingest(wh, "raw.orders", root / f"{name}.csv", **options))


def merge_by_ingest(root: Path) -> str:
    """The merge, on the key."""
    return by_ingest(root, "merged", mode="merge", keys="id")


def by_pandas(root: Path) -> str:
    """The file into a Parquet file, as pandas does it with its faster engine."""
    import pandas as pd

    frame = pd.read_csv(root / "large.csv", engine="pyarrow")
    frame.to_parquet(root / "large.parquet", index=False)
    return f"{len(frame):,} rows"


def merge_by_pandas(root: Path) -> str:
    """The merge, of a Parquet file into a Parquet file."""
    import pandas as pd

    held, new = pd.read_parquet(root / "large.parquet"), pd.read_csv(root / "merged.csv", engine="pyarrow")
    kept = pd.concat([held[~held["id"].isin(new["id"])], new], ignore_index=True)
    kept.to_parquet(root / "merged.parquet", index=False)
    return f"{len(kept):,} rows"


def main() -> int:
    """Run all; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--without-pandas", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_workspace(root, memory_limit="1GB", threads=2)
        write_files(root, options.rows)
        size = (root / "large.csv").stat().st_size / 1e6
        print(f"{options.rows:,} rows, {size:,.0f} MB; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        runs = [
            ("CSV into the warehouse", measure(by_ingest, root, "large")),
            ("merge of 100,000 rows", measure(merge_by_ingest, root)),
        ]
        if not options.without_pandas:
            runs.append(("pandas: CSV to Parquet", measure(by_pandas, root)))
            runs.append(("pandas: merge, Parquet to Parquet", measure(merge_by_pandas, root)))
    for name, (seconds, core, memory, said) in runs:
        print(f"| {name} | {seconds:.1f} | {core:.1f} | {memory:.2f} | {said} |")
    fast = options.rows / runs[0][1][0] >= 1e6 and runs[0][1][2] < 2 and runs[1][1][0] <= 5
    print("met" if fast else "MISSED")
    return 0 if fast else 1


if __name__ == "__main__":
    sys.exit(main())
