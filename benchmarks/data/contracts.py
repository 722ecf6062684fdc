"""Twenty checks on ten million rows: a contract, one hand-written SQL pass, pandera's own `validate`, pointblank.

    python benchmarks/data.py contracts [--rows 10000000] [--repeats 5] [--pointblank PYTHON]

`--pointblank` is the Python of another environment that has `pointblank[duckdb]`: it does not go with ours. Each way is
called in turn, medians are printed; every way must find the same failing rows. Exit status 1 when one does not, or when the
contract takes more than three times the hand-written pass.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

import ibis
import pandera.ibis as pa
from support.workspaces import make_workspace

from ml_notebooks.data.contract_rules import References
from ml_notebooks.data.contracts import Contract, check
from ml_notebooks.data.warehouse import open_warehouse

BAR = 3.0
ROWS = """
SELECT range AS id, 1 + range % 12 AS month, 1 + hash(range) % 28 AS day, ['EWR', 'JFK', 'LGA'][1 + range % 3] AS origin,
    chr((65 + hash(range, 1) % 26)::INT) || chr((65 + hash(range, 2) % 26)::INT) || 'X' AS dest,
    CASE WHEN range % 100003 = 1 THEN 'EV' ELSE ['UA', 'AA', 'DL', 'B6', '9E'][1 + (hash(range, 3) % 5)::INT] END AS carrier,
    (1 + hash(range, 4) % 8000)::BIGINT AS flight,
    CASE WHEN range % 40 > 0 THEN (hash(range, 5) % 24 * 100 + 1 + hash(range, 10) % 59)::BIGINT END AS dep_time,
    CASE WHEN range % 40 > 0 THEN (hash(range, 6) % 300)::BIGINT - 59 END AS dep_delay,
    CASE WHEN range % 40 > 0 THEN (hash(range, 7) % 300)::BIGINT - 80 END AS arr_delay,
    CASE WHEN range % 100019 = 1 THEN 9999 ELSE (80 + hash(range, 8) % 4820)::DOUBLE END AS distance,
    (hash(range, 9) % 24)::BIGINT AS hour
FROM range({rows})
"""
CHECKS = {  # the condition that a row must fulfil, as by hand; twenty of them
    "id there": "id IS NOT NULL",
    "month there": "month IS NOT NULL",
    "origin there": "origin IS NOT NULL",
    "dest there": "dest IS NOT NULL",
    "carrier there": "carrier IS NOT NULL",
    "flight there": "flight IS NOT NULL",
    "distance there": "distance IS NOT NULL AND NOT isnan(distance)",
    "hour there": "hour IS NOT NULL",
    "id": "id >= 0",
    "month": "month BETWEEN 1 AND 12",
    "origin": "origin IN ('EWR', 'JFK', 'LGA')",
    "dest": "regexp_matches(dest, '^[A-Z]{3}$')",
    "carrier": "carrier IN ('UA', 'AA', 'DL', 'B6', '9E')",
    "flight": "flight > 0",
    "dep_time": "dep_time BETWEEN 1 AND 2400",
    "minutes": "dep_time % 100 < 60",
    "dep_delay": "dep_delay BETWEEN -59 AND 1440",
    "distance": "distance <= 4900",
    "hour": "hour BETWEEN 0 AND 23",
    "landed": "arr_delay IS NULL OR dep_delay IS NOT NULL",
}


def schema(**more) -> pa.DataFrameSchema:
    """The same twenty checks in pandera, without types."""
    check = pa.Check
    return pa.DataFrameSchema(
        {
            "id": pa.Column(None, check.ge(0), **more),
            "month": pa.Column(None, check.in_range(1, 12)),
            "origin": pa.Column(None, check.isin(["EWR", "JFK", "LGA"])),
            "dest": pa.Column(None, check.str_matches("^[A-Z]{3}$")),
            "carrier": pa.Column(None, check.isin(["UA", "AA", "DL", "B6", "9E"])),
            "flight": pa.Column(None, check.gt(0)),
            "dep_time": pa.Column(
                None,
                [check.in_range(1, 2400), check(lambda d: d.table[d.key] % 100 < 60, name="minutes")],
                nullable=True,
            ),
            "dep_delay": pa.Column(None, check.in_range(-59, 1440), nullable=True),
            "distance": pa.Column(None, check.le(4900)),
            "hour": pa.Column(None, check.in_range(0, 23)),
        },
        checks=check(lambda d: d.table.arr_delay.isnull() | d.table.dep_delay.notnull(), name="landed"),
    )


def by_hand(wh) -> int:
    """The failing rows of all checks, in one SQL pass."""
    counts = ", ".join(f"count(*) FILTER (NOT ({condition}))" for condition in CHECKS.values())
    return sum(wh.sql(f"SELECT {counts} FROM raw.flights").fetchall()[0])


def by_contract(wh) -> int:
    """The same by a contract."""
    checks = check(wh, Contract("raw.flights", schema())).checks
    assert (checks["check"] != "is there").sum() == len(CHECKS)
    return int(checks["failing"].sum())


def by_pandera(wh) -> int:
    """The same by pandera's own `validate`; it writes all failing rows into its message, so there are few."""
    table = ibis.duckdb.from_connection(wh.connection).table("flights", database=("lake", "raw"))
    try:
        schema().validate(table, lazy=True)
    except pa.errors.SchemaErrors as errors:
        cases = [error.failure_cases for error in errors.schema_errors]
        return sum(int(each.count().execute()) if hasattr(each, "execute") else len(each) for each in cases)
    return 0


POINTBLANK = """
import json, sys, time
import ibis
import pointblank as pb

path, repeats = sys.argv[1], int(sys.argv[2])
connection = ibis.duckdb.connect(threads=2)
connection.raw_sql(f"CREATE TABLE flights AS FROM '{path}'")
seconds = []
for _ in range(repeats):
    began, v = time.perf_counter(), pb.Validate(connection.table("flights"))
    for name in ("id", "month", "origin", "dest", "carrier", "flight", "distance", "hour"):
        v = v.col_vals_not_null(name)
    v = v.col_vals_ge("id", 0).col_vals_between("month", 1, 12).col_vals_in_set("origin", ["EWR", "JFK", "LGA"])
    v = v.col_vals_regex("dest", "^[A-Z]{3}$").col_vals_in_set("carrier", ["UA", "AA", "DL", "B6", "9E"])
    v = v.col_vals_gt("flight", 0).col_vals_between("dep_time", 1, 2400, na_pass=True)
    v = v.col_vals_expr(lambda t: (t.dep_time % 100 < 60) | t.dep_time.isnull())
    v = v.col_vals_between("dep_delay", -59, 1440, na_pass=True).col_vals_le("distance", 4900)
    v = v.col_vals_between("hour", 0, 23).col_vals_expr(lambda t: t.arr_delay.isnull() | t.dep_delay.notnull())
    v = v.interrogate(get_first_n=0, collect_extracts=False)
    seconds.append(time.perf_counter() - began)
failing = sum(v.n_failed().values())
print(json.dumps({"seconds": seconds, "failing": failing, "version": pb.__version__}))
"""


def by_pointblank(python: str, wh, folder: Path, repeats: int) -> dict:
    """What pointblank takes, in a process of its own, on a table of DuckDB in memory."""
    path = folder / "flights.parquet"
    wh.table("raw.flights").write_parquet(str(path))
    call = [python, "-c", POINTBLANK, str(path), str(repeats)]
    said = subprocess.run(call, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout.splitlines()[-1])


def timed(way, wh) -> tuple[float, int]:
    """Seconds that a way takes, and the failing rows that it finds."""
    began = time.perf_counter()
    failing = way(wh)
    return time.perf_counter() - began, failing


def main() -> int:
    """Measure, print, and say whether the bar is met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pointblank", default="", help="the Python of an environment that has it")
    options = parser.parse_args()
    ways = {"one SQL pass by hand": by_hand, "a contract": by_contract, "pandera's validate": by_pandera}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        workspace = make_workspace(Path(folder) / "workspace", memory_limit="4GB")
        with open_warehouse(workspace) as wh:
            wh.publish("raw.flights", ROWS.format(rows=options.rows))
            for _ in range(options.repeats):
                for name, way in ways.items():
                    taken, found[name] = timed(way, wh)
                    seconds[name].append(taken)
            wh.publish("raw.dests", "SELECT DISTINCT dest FROM raw.flights")
            rules = [References("dest", "raw.dests")]
            unique, _ = timed(lambda wh: check(wh, Contract("raw.flights", schema(unique=True))), wh)
            known, _ = timed(lambda wh: check(wh, Contract("raw.flights", schema(), rules)), wh)
            if options.pointblank:
                peer = by_pointblank(options.pointblank, wh, Path(folder), max(options.repeats // 2, 1))
                name = f"pointblank {peer['version']}"
                seconds[name], found[name] = peer["seconds"], peer["failing"]
    middle = {name: statistics.median(taken) for name, taken in seconds.items()}
    base = middle["one SQL pass by hand"]
    print(
        f"{len(CHECKS)} checks, {options.rows:,} rows, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n"
    )
    print("| what | median s | slowest s | times the hand-written pass | failing rows |")
    print("|---|---|---|---|---|")
    for name, taken in seconds.items():
        print(
            f"| {name} | {middle[name]:.2f} | {max(taken):.2f} | {middle[name] / base:.1f} | {found[name]:,} |"
        )
    print(
        f"\nthe contract with `id` unique too: {unique:.2f} s; with `dest` known in another table: {known:.2f} s"
    )
    met = middle["a contract"] <= BAR * base and len(set(found.values())) == 1
    print(f"bar: at most {BAR:g} times, and the same rows: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
