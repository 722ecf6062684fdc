"""Online reads and pushes, beside plain SQLite, LMDB and Redis, and Feast.

    python benchmarks/online.py [--entities 20000] [--pushed 1000000] [--calls 2000] [--repeats 5] [--awake] [--feast PYTHON]

A read asks for ten features of 1 or 100 entities and answers a dict of feature -> values, called in turn with the other ways in one run. Ours checks types and `ttl` and
knows of each value when it became known; the plain ways do not. `--feast` names an interpreter that has Feast, whose environment cannot be ours. The Redis
is started here, on a loopback port. `--awake` keeps each processor from going to sleep between two calls, by a loop that runs where nothing else does. The push is of `--pushed` entities into the embedded store: first into an empty one, then the same again, then with later rows.
"""

import argparse
import json
import os
import shutil
import socket
import sqlite3
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

from peers.online_feast import FEATURES, percentiles

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.features.materialize import materialize
from ml_notebooks.features.online import EmbeddedStore, RedisStore, online_reader, push
from ml_notebooks.features.store import FeatureStore
from ml_notebooks.features.view import FeatureView
from ml_notebooks.workspace import find_workspace

BARS = {("ours, embedded", 1): (0.015, 0.05), ("ours, embedded", 100): (0.25, 0.6), ("ours, Redis", 1): (0.12, None), ("ours, Redis", 100): (1.0, None)}
BAR_PUSH = 20  # seconds
KEY, ROW = struct.Struct(">q"), struct.Struct("<10d")
VIEW = FeatureView("facts", "key", "known_at", "FROM raw.facts", timedelta(days=30))


def make(wh, entities, hours=1):
    """A materialised view of so many entities, whose rows became known some hours ago."""
    values = ", ".join(f"(hash(i + {number}) % 1000000) / 7 AS {name}" for number, name in enumerate(FEATURES))
    wh.publish("raw.facts", f"SELECT i AS key, now() - INTERVAL {hours} HOUR AS known_at, {values} FROM range({entities}) AS r(i)")
    store = FeatureStore(wh)
    materialize(store, VIEW)
    return store


def ours(online):
    """A read of ours."""
    reader = online_reader(online, ["facts"])
    return lambda keys: dict(zip(FEATURES, reader.read([{"key": key} for key in keys]).to_dict().values(), strict=True))


def plain_lmdb(folder, rows):
    """A get for each entity, in one transaction."""
    import lmdb

    env = lmdb.open(str(folder / "lmdb"), map_size=1 << 32)
    with env.begin(write=True) as transaction:
        for key, _, *values in rows:
            transaction.put(KEY.pack(key), ROW.pack(*values))

    def read(keys):
        with env.begin(buffers=True) as transaction:
            found = [ROW.unpack(transaction.get(KEY.pack(key))) for key in keys]
        return dict(zip(FEATURES, map(list, zip(*found, strict=True)), strict=True))

    return read


def plain_sqlite(folder, rows):
    """One statement, with a column for each feature."""
    connection = sqlite3.connect(folder / "plain.sqlite")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(f"CREATE TABLE online (key INTEGER PRIMARY KEY, {', '.join(f'{name} REAL' for name in FEATURES)})")
    connection.executemany(f"INSERT INTO online VALUES ({', '.join('?' * 11)})", ((row[0], *row[2:]) for row in rows))
    connection.commit()

    def read(keys):
        query = f"SELECT key, {', '.join(FEATURES)} FROM online WHERE key IN ({','.join('?' * len(keys))})"
        found = {row[0]: row[1:] for row in connection.execute(query, keys)}
        return dict(zip(FEATURES, map(list, zip(*(found[key] for key in keys), strict=True)), strict=True))

    return read


def plain_redis(port, rows):
    """A hash for each entity; of many entities in a pipeline."""
    import redis

    client = redis.Redis(port=port)
    for first in range(0, len(rows), 5000):
        pipe = client.pipeline(transaction=False)
        for key, _, *values in rows[first : first + 5000]:
            pipe.hset(f"e:{key}", mapping={name: struct.pack("<d", value) for name, value in zip(FEATURES, values, strict=True)})
        pipe.execute()

    def read(keys):
        if len(keys) == 1:
            found = [client.hmget(f"e:{keys[0]}", FEATURES)]
        else:
            pipe = client.pipeline(transaction=False)
            for key in keys:
                pipe.hmget(f"e:{key}", FEATURES)
            found = pipe.execute()
        return dict(zip(FEATURES, map(list, zip(*(ROW.unpack(b"".join(row)) for row in found), strict=True)), strict=True))

    return read


class Feast:
    """Feast, in a process of its own that measures itself."""

    def __init__(self, python, folder, kind, *port):
        command = [python, str(Path(__file__).with_name("peers") / "online_feast.py"), str(folder), kind, *map(str, port)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        said = self._said()
        print(f"Feast on {kind}: {said['entities']:,} entities written in {said['seconds']:.2f} s")

    def _said(self):
        return json.loads(next(line for line in self.process.stdout if line.startswith(("{", "["))))

    def ask(self, **asked):
        """Its answer."""
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return self._said()

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def __enter__(self):
        return self


def redis_server(stack, folder):
    """The port of a Redis that ends with the stack."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", ""], cwd=folder, stdout=subprocess.DEVNULL)
    stack.callback(server.wait)
    stack.callback(server.terminate)
    time.sleep(1)
    return port


def keep_awake(stack):
    """Have each processor run a loop that gives way to everything else."""
    loop = "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile os.getppid() != 1: pass"
    for _ in os.sched_getaffinity(0):
        busy = subprocess.Popen([sys.executable, "-c", loop])
        stack.callback(busy.wait)
        stack.callback(busy.terminate)


def measure(way, entities, size, calls):
    """Median and 99th percentile of a way."""
    return way.ask(size=size, calls=calls) if isinstance(way, Feast) else percentiles(way, entities, size, calls)


def time_pushes(folder, entities):
    """Print how long pushes into the embedded store take; whether the bar was missed, and a read of what was pushed."""
    (folder / "settings.ini").write_text("[workspace]\nname = bench\n")
    with open_warehouse(find_workspace(folder)) as wh:
        online, seconds, busy = EmbeddedStore(folder / "online"), {}, {}
        for what, hours in (("into an empty store", 2), ("the same again", None), ("later rows", 1)):
            if hours:
                make(wh, entities, hours)
            began = time.process_time()
            seconds[what] = push(FeatureStore(wh), "facts", online).seconds
            busy[what] = time.process_time() - began
    size = sum(file.stat().st_blocks * 512 for file in (folder / "online").iterdir()) / 2**20
    print(f"push of {entities:,} entities: {', '.join(f'{what} {took:.1f} s ({busy[what]:.1f} s of processor time)' for what, took in seconds.items())}; {size:,.0f} MiB on disk; bar: {BAR_PUSH} s\n")
    return max(seconds.values()) > BAR_PUSH, ours(online)


def main():
    """Measure pushes, then all reads in turn, and return whether a bar was missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entities", type=int, default=20_000, help="of which reads are made")
    parser.add_argument("--pushed", type=int, default=1_000_000, help="entities that are pushed")
    parser.add_argument("--calls", type=int, default=2_000, help="of a way in each repeat; a quarter of it for 100 entities")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--awake", action="store_true", help="keep the processors awake")
    parser.add_argument("--feast", help="an interpreter that has Feast")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "large").mkdir()
        missed, of_many = time_pushes(folder / "large", options.pushed)
        (folder / "settings.ini").write_text("[workspace]\nname = bench\n")
        with open_warehouse(find_workspace(folder)) as wh:
            store = make(wh, options.entities)
            rows = wh.sql("FROM features.facts ORDER BY key").fetchall()
            wh._connection.execute(f"COPY (FROM features.facts) TO '{folder}/rows.parquet'")
            embedded = EmbeddedStore(folder / "online")
            push(store, "facts", embedded)
            ways = {"ours, embedded": ours(embedded), "plain LMDB": plain_lmdb(folder, rows), "plain SQLite": plain_sqlite(folder, rows)}
            ways[f"ours, embedded, of {options.pushed:,}"] = of_many
            if shutil.which("redis-server"):
                port = redis_server(stack, folder)
                push(store, "facts", RedisStore(f"redis://127.0.0.1:{port}"))
                ways |= {"ours, Redis": ours(RedisStore(f"redis://127.0.0.1:{port}")), "plain Redis, pipeline": plain_redis(port, rows)}
            if options.feast:
                ways["Feast, SQLite"] = stack.enter_context(Feast(options.feast, folder, "sqlite"))
                ways["Feast, Redis"] = stack.enter_context(Feast(options.feast, folder, "redis", port))
        if options.awake:
            keep_awake(stack)
        expected = {feature: [rows[key][number] for key in (7, 5)] for number, feature in enumerate(FEATURES, 2)}
        for way, read in ways.items():
            answer = read.ask(keys=[7, 5]) if isinstance(read, Feast) else read([7, 5])
            assert {feature: answer[feature] for feature in FEATURES} == expected, way
        found = {}
        for _ in range(options.repeats):
            for size, calls in ((1, options.calls), (100, options.calls // 4)):
                for way, read in ways.items():
                    count = options.pushed if way.startswith("ours, embedded, of") else options.entities
                    found.setdefault((size, way), []).append(measure(read, count, size, calls))
    print("| way | entities | p50 ms | p99 ms | times ours, embedded | bar |\n|---|---|---|---|---|---|")
    for (size, way), pairs in sorted(found.items(), key=lambda item: item[0][0]):
        p50, p99 = (statistics.median(pair[place] for pair in pairs) for place in (0, 1))
        base = statistics.median(pair[0] for pair in found[size, "ours, embedded"])
        bar50, bar99 = BARS.get((way, size), (None, None))
        met = (bar50 is None or p50 <= bar50) and (bar99 is None or p99 <= bar99)
        missed |= not met
        said = f"{bar50}{f', {bar99}' if bar99 else ''}: {'met' if met else '**missed**'}" if bar50 else ""
        print(f"| {way} | {size} | {p50:.4f} | {p99:.4f} | {p50 / base:.1f} | {said} |")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
