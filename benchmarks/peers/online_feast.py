"""Feast's online reads, by an interpreter of its own: `benchmarks/online.py --feast PYTHON` starts it and asks it line by line.

    PYTHON benchmarks/peers/online_feast.py FOLDER sqlite|redis [PORT]

FOLDER holds `rows.parquet`: key, known_at and ten features. Each line of standard input is JSON, `{"keys": [7, 5]}` for the answer to it or
`{"size": 100, "calls": 250}` for its median and 99th percentile in milliseconds; the answer is a line of JSON.
"""

import json
import random
import sys
import time
from datetime import timedelta
from pathlib import Path

FEATURES = [f"f{number}" for number in range(10)]


def percentiles(read, entities, size, calls):
    """The median and the 99th percentile of one call, in milliseconds; the keys are drawn beforehand."""
    times = []
    for keys in [random.sample(range(entities), size) for _ in range(calls)]:
        began = time.perf_counter()
        read(keys)
        times.append(time.perf_counter() - began)
    times.sort()
    return times[len(times) // 2] * 1e3, times[int(len(times) * 0.99)] * 1e3


def reader(folder, online):
    """What reads by Feast, and how many entities it wrote in how many seconds."""
    import pandas as pd
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float64

    source = FileSource(path=str(folder / "rows.parquet"), timestamp_field="known_at")
    key = Entity(name="key", join_keys=["key"], value_type=ValueType.INT64)
    schema = [Field(name=name, dtype=Float64) for name in FEATURES]
    view = FeatureView(name="facts", entities=[key], ttl=timedelta(days=30), schema=schema, source=source)
    registry = str(folder / f"{online['type']}.registry")
    config = RepoConfig(project="peer", provider="local", registry=registry, online_store=online, entity_key_serialization_version=3)
    store = FeatureStore(config=config)
    store.apply([key, view])
    rows = pd.read_parquet(folder / "rows.parquet")
    began = time.perf_counter()
    store.write_to_online_store("facts", rows)
    seconds = time.perf_counter() - began
    wanted = [f"facts:{name}" for name in FEATURES]
    return lambda keys: store.get_online_features(features=wanted, entity_rows=[{"key": key} for key in keys]).to_dict(), len(rows), seconds


def main():
    """Answer until standard input ends."""
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    place = {"path": str(folder / "feast.db")} if kind == "sqlite" else {"connection_string": f"127.0.0.1:{sys.argv[3]}"}
    read, entities, seconds = reader(folder, {"type": kind} | place)
    print(json.dumps({"entities": entities, "seconds": seconds}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        answer = read(asked["keys"]) if "keys" in asked else percentiles(read, entities, asked["size"], asked["calls"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
