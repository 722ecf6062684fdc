"""Point-in-time joins: seconds and peak memory, beside polars, pandas and DuckDB over files as they come.

    python benchmarks/features.py [--rows 10000000] [--asks 1000000] [--repeats 5]

Rows of four features, of 50,000 entities and uniform in one year, are materialised as a view once; then rows ask, with a ttl of 30 days. Each
way is a process of its own, called in turn. Its time covers reading the features and joining them; the rows that ask are in memory by then
(for DuckDB, in a temporary table). The answers of all ways are compared.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.features.materialize import materialize
from ml_notebooks.features.point_in_time import point_in_time_query
from ml_notebooks.features.store import FeatureStore
from ml_notebooks.features.view import FeatureView
from ml_notebooks.workspace import find_workspace

BAR_SECONDS, BAR_MEMORY, ENTITIES, TTL = 1.5, 2.0, 50_000, timedelta(days=30)
FEATURES = ["f1", "f2", "f3", "f4"]
INSTANT = "TIMESTAMPTZ '2024-01-01 00:00:00Z' + to_microseconds((hash(i + {0}) % 31536000000000)::BIGINT)"


def make(folder, rows, asks):
    """A workspace with the rows as a table and as a file, and a file of those that ask; how long it took to materialise them."""
    (folder / "settings.ini").write_text("[workspace]\nname = bench\n[warehouse]\nmemory_limit = 1.5GB\n")
    values = ", ".join(f"(hash(i + {number}) % 1000000) / 7 AS {name}" for number, name in enumerate(FEATURES, 5))
    with open_warehouse(find_workspace(folder)) as wh:
        wh.publish("raw.facts", f"SELECT (hash(i) % {ENTITIES})::BIGINT AS key, {INSTANT.format(1)} AS known_at, {values} FROM range({rows}) AS r(i)")
        asking = f"SELECT i AS number, (hash(i + 99) % {ENTITIES})::BIGINT AS key, {INSTANT.format(98)} AS asked_at FROM range({asks}) AS r(i)"
        wh._connection.execute(f"COPY ({asking}) TO '{folder}/asks.parquet'; COPY (FROM lake.raw.facts) TO '{folder}/facts.parquet'")
        return materialize(FeatureStore(wh), view()).seconds


def view():
    """What is asked for; of rows that share key and instant, which a hash makes now and then, the greatest."""
    return FeatureView("facts", "key", "known_at", "FROM raw.facts", TTL, ties="greatest")


def ours(folder):
    """The rows that ask, in a temporary table; then the join."""
    wh = open_warehouse(find_workspace(folder), read_only=True)
    wh._connection.execute(f"CREATE TEMP TABLE asking AS FROM '{folder}/asks.parquet'")

    def join():
        query = point_in_time_query(wh, "FROM temp.main.asking", [view()])
        return wh.sql(query).to_arrow_table().select(["number", *(f"facts_{name}" for name in FEATURES)])

    return join


def duckdb_files(folder):
    """DuckDB's as-of join on the file as it came."""
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"CREATE TEMP TABLE asking AS FROM '{folder}/asks.parquet'; SET memory_limit = '1.5GB'; SET temp_directory = '{folder}/spill'")
    alive = ", ".join(f"CASE WHEN asked_at - known_at <= INTERVAL 30 DAY THEN {name} END AS {name}" for name in FEATURES)
    query = f"SELECT number, {alive} FROM asking ASOF LEFT JOIN '{folder}/facts.parquet' AS facts ON asking.key = facts.key AND asked_at >= known_at"
    return lambda: connection.sql(query).to_arrow_table()


def polars(folder):
    """polars' as-of join."""
    import polars as pl

    asking = pl.read_parquet(folder / "asks.parquet")

    def join():
        facts = pl.read_parquet(folder / "facts.parquet").sort("known_at")
        joined = asking.sort("asked_at").join_asof(facts, left_on="asked_at", right_on="known_at", by="key", tolerance=TTL)
        return joined.select("number", *FEATURES).to_arrow()

    return join


def pandas(folder):
    """pandas' as-of join."""
    import pandas as pd
    import pyarrow as pa

    asking = pd.read_parquet(folder / "asks.parquet")

    def join():
        facts = pd.read_parquet(folder / "facts.parquet").sort_values("known_at")
        joined = pd.merge_asof(asking.sort_values("asked_at"), facts, left_on="asked_at", right_on="known_at", by="key", tolerance=TTL)
        return pa.Table.from_pandas(joined[["number", *FEATURES]], preserve_index=False)

    return join


WAYS = {"ours": ours, "polars": polars, "duckdb, the file": duckdb_files, "pandas": pandas}


def measure(name, folder):
    """Print, as JSON, how long one way took, its peak memory, and what its answers add up to."""
    import pyarrow.compute as pc

    join = WAYS[name](folder)
    began = time.perf_counter()
    rows = join()
    seconds = time.perf_counter() - began
    sums = [pc.sum(rows.column(index)).as_py() for index in range(1, rows.num_columns)]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "memory": memory, "answers": [rows.num_rows, rows.column(1).null_count, *(round(each) for each in sums)]}))


def main():
    """Measure all ways in turn and return whether a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--asks", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(options.measure[0], Path(options.measure[1]))
    with tempfile.TemporaryDirectory() as name:
        print(f"materialised in {make(Path(name), options.rows, options.asks):.1f} s\n")
        found = {way: [] for way in WAYS}
        for _ in range(options.repeats):
            for way in WAYS:
                said = subprocess.run([sys.executable, __file__, "--measure", way, name], capture_output=True, text=True, check=True)
                found[way].append(json.loads(said.stdout))
    seconds = {way: statistics.median(one["seconds"] for one in each) for way, each in found.items()}
    print(f"| {options.asks:,} rows ask {options.rows:,} | median s | slowest s | times ours | peak GiB |\n|---|---|---|---|---|")
    for way, each in found.items():
        slowest, memory = max(one["seconds"] for one in each), max(one["memory"] for one in each)
        print(f"| {way} | {seconds[way]:.2f} | {slowest:.2f} | {seconds[way] / seconds['ours']:.1f} | {memory:.2f} |")
    same = len({str(one["answers"]) for each in found.values() for one in each}) == 1
    met = seconds["ours"] <= min(BAR_SECONDS, seconds["polars"] / 2) and max(one["memory"] for one in found["ours"]) <= BAR_MEMORY
    print(f"\nanswers {'the same' if same else 'DIFFER'}; bar: at most {BAR_SECONDS} s, half of polars' time, {BAR_MEMORY} GiB: {'met' if met else 'missed'}")
    return int(not (same and met))


if __name__ == "__main__":
    sys.exit(main())
