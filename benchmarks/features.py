"""Point-in-time joins, beside polars, pandas and DuckDB over files as they come; the flights' training set; leaks that are found.

    python benchmarks/features.py joins [--rows 10000000] [--asks 1000000] [--repeats 5] [--feast PYTHON]
    python benchmarks/features.py flights [--repeats 5]
    python benchmarks/features.py leaks [--seeds 5]

joins: rows of four features, of 50,000 entities and uniform in one year, are materialised as a view once; then rows ask, with a ttl of 30 days. Each
way is a process of its own, called in turn. Its time covers reading the features and joining them; the rows that ask are in memory by then
(for DuckDB, in a temporary table). The answers of all ways are compared. Feast wants other versions of pandas: `--feast` names an interpreter
that has `feast[duckdb]`; it is run once, and loses rows that share key and instant.

flights: every flight against the hourly weather of its airport, the rows in memory for polars and pandas, in the warehouse for DuckDB and for us; then the training set of six views, published: of the table of
the flights, and of the pipeline's own spine, which counts the departures around each flight in two windows, without and with its certificate.

leaks: sets with a leak of ten kinds, and honest ones that look alike, each made from so many seeds.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.features.leaks import find_leaks
from ml_notebooks.features.materialize import materialize
from ml_notebooks.features.point_in_time import point_in_time_query
from ml_notebooks.features.store import FeatureStore
from ml_notebooks.features.training_set import training_set
from ml_notebooks.features.view import FeatureView
from ml_notebooks.workspace import find_workspace

BAR_SECONDS, BAR_MEMORY, ENTITIES, TTL = 1.5, 2.0, 50_000, timedelta(days=30)
BAR_WEATHER, BAR_SET = 0.1, 2.0
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


def joins(options):
    """Measure all ways in turn and return whether a bar was missed."""
    with tempfile.TemporaryDirectory() as name:
        print(f"materialised in {make(Path(name), options.rows, options.asks):.1f} s\n")
        found = {way: [] for way in WAYS}
        for _ in range(options.repeats):
            for way in WAYS:
                said = subprocess.run([sys.executable, __file__, "--measure", way, name], capture_output=True, text=True, check=True)
                found[way].append(json.loads(said.stdout))
        peer = Path(__file__).parent / "peers" / "joins_feast.py"
        said = subprocess.run([options.feast, peer, name], capture_output=True, text=True, check=True).stdout if options.feast else ""
    seconds = {way: statistics.median(one["seconds"] for one in each) for way, each in found.items()}
    print(f"| {options.asks:,} rows ask {options.rows:,} | median s | slowest s | times ours | peak GiB |\n|---|---|---|---|---|")
    for way, each in found.items():
        slowest, memory = max(one["seconds"] for one in each), max(one["memory"] for one in each)
        print(f"| {way} | {seconds[way]:.2f} | {slowest:.2f} | {seconds[way] / seconds['ours']:.1f} | {memory:.2f} |")
    if said:
        feast = json.loads(said.splitlines()[-1])
        print(f"| Feast, its DuckDB store, once | {feast['seconds']:.2f} | | {feast['seconds'] / seconds['ours']:.1f} | {feast['memory']:.2f} |")
        print(f"\nFeast answered {feast['answers'][0]:,} of {options.asks:,} rows")
    same = len({str(one["answers"]) for each in found.values() for one in each}) == 1
    met = seconds["ours"] <= min(BAR_SECONDS, seconds["polars"] / 2) and max(one["memory"] for one in found["ours"]) <= BAR_MEMORY
    print(f"\nanswers {'the same' if same else 'DIFFER'}; bar: at most {BAR_SECONDS} s, half of polars' time, {BAR_MEMORY} GiB: {'met' if met else 'missed'}")
    return int(not (same and met))


SIX = ["origin", "carrier", "region", "route", "aircraft", "weather"]
KNOWN = {"clean.outcomes": "known_at", "clean.weather": "known_at"}
WEATHER = "SELECT origin, known_at, temp, humid, visib, precip, wind_speed FROM clean.weather"


def prepared(folder):
    """A workspace with the flights' clean tables, and what the notebook of the features defines."""
    mlnb = Path(sys.executable).with_name("mlnb")
    subprocess.run([mlnb, "init", folder], check=True, capture_output=True)
    for step in ("ingest", "validate"):
        subprocess.run([mlnb, "run", "flights", "--only", step], cwd=folder, check=True, capture_output=True)
    os.chdir(folder)
    named = {}
    for cell in json.loads((folder / "nbs" / "pipelines" / "flights" / "03_features.ipynb").read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and not any(word in source for word in ("materialize(store", "compare_worlds(", "record(", "wh.sql(", "wh.table(")):
            exec(source, named)
    return named


def timed(call, repeats):
    """The seconds of each call."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return seconds


def added_up(rows, columns):
    """How many rows there are, how many of them have a value in each column, and what the values add up to, to the tenth."""
    return [len(rows), *((int(rows[column].count()), round(float(rows[column].sum()), 1)) for column in columns)]


def weather(wh, store, repeats):
    """Each flight and the weather that was known: seconds by way, and whether the answers of all ways agree."""
    view = FeatureView("hourly", "origin", "known_at", WEATHER, timedelta(days=1))
    materialize(store, view)
    wh._connection.execute("CREATE OR REPLACE TEMP TABLE asking AS SELECT flight_id, origin, asked_at FROM clean.schedule")
    query = point_in_time_query(wh, "FROM temp.main.asking", [view])
    measures = ["temp", "humid", "visib", "precip", "wind_speed"]
    alive = ", ".join(f"CASE WHEN a.asked_at - w.known_at <= INTERVAL 1 DAY THEN w.{name} END AS {name}" for name in measures)
    plain = f"SELECT flight_id, {alive} FROM temp.main.asking AS a ASOF LEFT JOIN ({WEATHER}) AS w ON a.origin = w.origin AND a.asked_at >= w.known_at"
    asks, rows = wh.sql("FROM temp.main.asking ORDER BY asked_at"), wh.sql(f"FROM ({WEATHER}) ORDER BY known_at")
    frames, tables = (asks.df(), rows.df()), (asks.pl(), rows.pl())
    import pandas as pd

    ways = {
        "ours": lambda: wh.sql(query).to_arrow_table(),
        "polars": lambda: tables[0].join_asof(tables[1], left_on="asked_at", right_on="known_at", by="origin", tolerance=view.ttl, check_sortedness=False),
        "pandas": lambda: pd.merge_asof(*frames, left_on="asked_at", right_on="known_at", by="origin", tolerance=view.ttl),
        "duckdb, the table": lambda: wh.sql(plain).to_arrow_table(),
    }
    found = {way: [] for way in ways}
    for _ in range(repeats):
        for way, call in ways.items():
            found[way] += timed(call, 1)
    answers = {}
    for way, call in ways.items():
        rows = call()
        frame = rows if isinstance(rows, pd.DataFrame) else rows.to_pandas()
        answers[way] = added_up(frame.rename(columns=lambda name: name.removeprefix("hourly_")), measures)
    return found, len({str(each) for each in answers.values()}) == 1


def flights(options):
    """Measure the flights and return whether a bar was missed."""
    with tempfile.TemporaryDirectory() as name:
        named = prepared(Path(name))
        wh, store = named["wh"], named["store"]
        found, same = weather(wh, store, options.repeats)
        views = [view for view in named["views"] if view.name in SIX]
        for view in views:
            materialize(store, view)
        cuts = [datetime.fromisoformat(cut) for cut in named["cuts"]]
        table = timed(lambda: training_set(store, "features.table", "clean.schedule", views), options.repeats)
        plain = timed(lambda: training_set(store, "features.plain", named["SPINE"], views), options.repeats)
        sure = timed(lambda: training_set(store, "features.sure", named["SPINE"], views, known=KNOWN, cuts=cuts, key="flight_id"), 2)
        wh.close()
    print("| flights against hourly weather | median s | slowest s |\n|---|---|---|")
    for way, seconds in found.items():
        print(f"| {way} | {statistics.median(seconds):.3f} | {max(seconds):.3f} |")
    print("\n| the training set of six views, 336,776 rows | median s | slowest s |\n|---|---|---|")
    for what, seconds in (("of the table of flights", table), ("of the pipeline's spine", plain), ("the same, with its certificate", sure)):
        print(f"| {what} | {statistics.median(seconds):.2f} | {max(seconds):.2f} |")
    met = statistics.median(found["ours"]) <= BAR_WEATHER and statistics.median(table) <= BAR_SET
    print(f"\nanswers about the weather {'the same' if same else 'DIFFER'}; bar: {BAR_WEATHER} s against the weather, {BAR_SET} s for the set of the table: {'met' if met else 'missed'}")
    return int(not (same and met))


def leaks(options):
    """Count the leaks that are found in their column, and the honest sets that are accused."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from support.leaks import CLEAN, LEAKS, make_set, make_sources

    found, accused = 0, 0
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "settings.ini").write_text("[workspace]\nname = bench\n")
            with open_warehouse(find_workspace(Path(name))) as wh:
                make_sources(wh, seed)
                store = FeatureStore(wh)
                for kind, case in LEAKS.items():
                    told = {leak.column for leak in find_leaks(store, make_set(store, case, "leaking_set"), ignore=["visit_id"]).leaks}
                    found += told == case.leaking
                    if told != case.leaking:
                        print(f"seed {seed}, {kind}: {sorted(told)} instead of {sorted(case.leaking)}")
                for kind, case in CLEAN.items():
                    told = find_leaks(store, make_set(store, case, "honest_set"), ignore=["visit_id"]).leaks
                    accused += bool(told)
                    if told:
                        print(f"seed {seed}, {kind}: accused {told}")
    print(f"{found} of {len(LEAKS) * options.seeds} leaks found, each in its column and nothing else; {accused} of {len(CLEAN) * options.seeds} honest sets accused")
    return int(found < len(LEAKS) * options.seeds or accused > 0)


def main():
    """Run one of the measurements, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=["joins", "flights", "leaks"])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--asks", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--feast", metavar="PYTHON", help="an interpreter that has feast[duckdb]")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(options.measure[0], Path(options.measure[1]))
    chosen = [call for call in (joins, flights, leaks) if options.what in (None, call.__name__)]
    return max(call(options) for call in chosen)


if __name__ == "__main__":
    sys.exit(main())
