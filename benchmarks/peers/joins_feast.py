"""Feast's point-in-time join by its DuckDB store, by an interpreter of its own: `benchmarks/features.py joins --feast PYTHON` runs it.

    PYTHON benchmarks/peers/joins_feast.py FOLDER

FOLDER holds `facts.parquet` (key, known_at, f1 to f4) and `asks.parquet` (number, key, asked_at). One line of JSON: seconds, GiB, and what the answers add up to.
"""

import json
import resource
import sys
import time
from datetime import timedelta
from pathlib import Path

FEATURES = ["f1", "f2", "f3", "f4"]


def main():
    """Join once."""
    import pandas as pd
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float64

    folder = Path(sys.argv[1])
    source = FileSource(path=str(folder / "facts.parquet"), timestamp_field="known_at")
    key = Entity(name="key", join_keys=["key"], value_type=ValueType.INT64)
    schema = [Field(name=name, dtype=Float64) for name in FEATURES]
    view = FeatureView(name="facts", entities=[key], ttl=timedelta(days=30), schema=schema, source=source, online=False)
    config = RepoConfig(project="peer", provider="local", registry=str(folder / "feast.registry"), offline_store={"type": "duckdb"}, entity_key_serialization_version=3)
    store = FeatureStore(config=config)
    store.apply([key, view])
    asks = pd.read_parquet(folder / "asks.parquet").rename(columns={"asked_at": "event_timestamp"})
    began = time.perf_counter()
    rows = store.get_historical_features(entity_df=asks, features=[f"facts:{name}" for name in FEATURES]).to_df()
    seconds = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    answers = [len(rows), int(rows["f1"].isna().sum()), *(round(float(rows[name].sum())) for name in FEATURES)]
    print(json.dumps({"seconds": seconds, "memory": memory, "answers": answers}))


if __name__ == "__main__":
    main()
