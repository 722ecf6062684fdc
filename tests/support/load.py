"""Writers and readers that check one another: what is acknowledged is counted, what is read must agree."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ml_notebooks.data.warehouse import Warehouse, open_warehouse
from ml_notebooks.errors import MLNotebooksError
from ml_notebooks.workspace import find_workspace

ROWS = 1000  # of a published table


@dataclass
class Report:
    """What one process did and saw."""

    operations: Counter[str] = field(default_factory=Counter)  # by kind, acknowledged
    errors: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)  # kind -> how long each took
    waited: dict[str, list[float]] = field(
        default_factory=dict
    )  # of it, neither computing nor queued for a core
    torn: list[str] = field(default_factory=list)  # reads that saw what never was

    def run(self, kind: str, operation: Callable[[], Any]) -> Any:
        """Do it, time it, count it."""
        start, busy = time.perf_counter(), _busy()
        try:
            result = operation()
        except MLNotebooksError as error:
            self.errors.append(f"{kind}: {type(error).__name__}: {error}")
            return None
        taken = time.perf_counter() - start
        self.seconds.setdefault(kind, []).append(taken)
        self.waited.setdefault(kind, []).append(max(taken - (_busy() - busy), 0.0))
        self.operations[kind] += 1
        return result


def _busy() -> float:  # seconds that this thread has computed or been queued for a core
    try:
        computed, queued, _ = Path("/proc/thread-self/schedstat").read_text().split()
        return (int(computed) + int(queued)) / 1e9
    except OSError:
        return time.thread_time()


def prepare(wh: Warehouse, writers: int) -> None:
    """The tables that the load works on."""
    with wh.transaction("prepare"):
        wh.publish("ops.events", "SELECT 0 AS writer, 0 AS number LIMIT 0")
        wh.publish("features.state", "SELECT 0 AS writer, 0 AS number LIMIT 0")
        wh.publish("clean.left", "SELECT 0 AS stamp")
        wh.publish("clean.right", "SELECT 0 AS stamp")
        for writer in range(writers):
            wh.publish(f"raw.own_{writer}", f"SELECT 0 AS number FROM range({ROWS})")


def write(line: Connection, root: Path, writer: int, rounds: int | None, seconds: float) -> None:
    """Publish, append, upsert and write two tables at once, for `rounds` rounds or `seconds`."""
    report = Report()
    with open_warehouse(find_workspace(root)) as wh:
        for number in _rounds(rounds, seconds):
            report.run(
                "append",
                lambda n=number: wh.append("ops.events", f"SELECT {writer} AS writer, {n} AS number"),
            )
            report.run(
                "publish",
                lambda n=number: wh.publish(f"raw.own_{writer}", f"SELECT {n} AS number FROM range({ROWS})"),
            )
            report.run("two tables", lambda n=number: _write_pair(wh, writer * 1_000_000 + n))
            report.run(
                "upsert",
                lambda n=number: wh.upsert(
                    "features.state", f"SELECT {writer} AS writer, {n} AS number", ["writer"]
                ),
            )
    line.send(report)


def _rounds(rounds: int | None, seconds: float) -> Iterator[int]:
    end, number = time.monotonic() + seconds, 0
    while number < rounds if rounds is not None else time.monotonic() < end:
        number += 1
        yield number


def _write_pair(wh: Warehouse, stamp: int) -> None:
    with wh.transaction(f"pair {stamp}"):
        wh.publish("clean.left", f"SELECT {stamp} AS stamp FROM range({ROWS})")
        wh.publish("clean.right", f"SELECT {stamp} AS stamp FROM range({ROWS})")


_PAIR = """
SELECT l.low = l.high AND r.low = r.high AND l.low = r.low AND l.rows = r.rows AS whole, l, r
FROM (SELECT min(stamp) AS low, max(stamp) AS high, count(*) AS rows FROM clean.left) AS l,
    (SELECT min(stamp) AS low, max(stamp) AS high, count(*) AS rows FROM clean.right) AS r
"""
_EVENTS = """
SELECT coalesce(bool_and(rows = newest AND rows = different), true) AS whole,
    list((writer, rows, newest, different))
FROM (
    SELECT writer, count(*) AS rows, max(number) AS newest, count(DISTINCT number) AS different
    FROM ops.events GROUP BY writer
) AS counts
"""
_STATE = "SELECT count(*) = count(DISTINCT writer) AS whole, list((writer, number)) FROM features.state"


def _reads(
    writers: int,
) -> dict[str, str]:  # kind -> a query whose first value says whether what it saw is whole
    own = " UNION ALL ".join(
        f"SELECT min(number) = max(number) AND count(*) = {ROWS} AS whole FROM raw.own_{w}"
        for w in range(writers)
    )
    return {
        "two tables": _PAIR,
        "appended": _EVENTS,
        "upserted": _STATE,
        "published": f"SELECT bool_and(whole) FROM ({own}) AS o",
    }


def read(line: Connection, root: Path, writers: int, fresh: bool = False) -> None:
    """Read and check every table until told to stop; with `fresh`, open the warehouse for every read."""
    report, workspace = Report(), find_workspace(root)
    wh = open_warehouse(workspace, read_only=True)
    line.send("reading")
    while not (line.poll() and report.operations["read"]):
        for kind, query in _reads(writers).items():
            if fresh:
                wh.close()
                wh = report.run("open", lambda: open_warehouse(workspace, read_only=True))
            _check(report, wh, kind, query)
    wh.close()
    line.send(report)


def _check(report: Report, wh: Warehouse, kind: str, query: str) -> None:
    seen = report.run("read", lambda: wh.sql(query).fetchall())
    if seen is not None and seen[0][0] is not True:
        report.torn.append(f"{kind}: {seen}")


def lost_and_doubled(
    wh: Warehouse,
    acknowledged: list[int],  # how many appends each writer had acknowledged
) -> tuple[int, int]:  # rows that are missing, rows that are there more than once
    """Compare the appended rows with what was acknowledged; every writer numbered its own from 1."""
    counts = wh.sql("SELECT writer, number, count(*) FROM ops.events GROUP BY ALL").fetchall()
    have = {(writer, number): count for writer, number, count in counts}
    wanted = {(writer, number) for writer, rows in enumerate(acknowledged) for number in range(1, rows + 1)}
    return len(wanted - set(have)), sum(count - 1 for count in have.values()) + len(set(have) - wanted)
