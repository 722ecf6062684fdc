"""Consumers of a stream of events, in processes of their own that may be killed."""

from datetime import timedelta
from functools import partial
from pathlib import Path

from ml_notebooks.data.warehouse import Warehouse, open_warehouse
from ml_notebooks.features.events import Windowed, ingest_events
from ml_notebooks.features.online import open_online
from ml_notebooks.features.online_store import EmbeddedStore
from ml_notebooks.features.rolling import last
from ml_notebooks.features.streams import EventStream, consume
from ml_notebooks.workspace import find_workspace

DELAYS = Windowed(
    "delays",
    entity="carrier",
    timestamp="landed_at",
    event="flight",
    events="clean.landings",
    aggregates=last(2, "hours", delay=("mean", "count", "median", "deviation")) | last(1, "days", delay=("sum", "distinct")),
    ttl=timedelta(days=3),
)


def landings(numbers):
    """Events in an order of their own, of three carriers."""
    return [
        {
            "carrier": ("UA", "AA", "DL")[number % 3],
            "flight": f"flight {number}",
            "landed_at": f"2013-07-01 {number // 60 % 24:02}:{number * 7 % 60:02}:00Z",
            "delay": number * 0.1 - 3,
        }
        for number in numbers
    ]


def ingest(wh: Warehouse, folder: Path):
    """What folds events into the online store of a folder."""
    return partial(ingest_events, wh, EmbeddedStore(folder / "online"), DELAYS)


def consume_for_ever(line, folder: Path, stream: EventStream):
    """Fold what comes, and say so after each batch."""
    with open_warehouse(find_workspace(folder)) as wh:
        fold = ingest(wh, folder)

        def fold_and_tell(events):
            line.send(len(events))
            became = fold(events)
            line.send(became.rows)
            return became

        consume(stream, fold_and_tell)


def fold_in_turn(line, root: Path, numbers):
    """Fold landings three at a time into the online store of a workspace, once told to."""
    workspace = find_workspace(root)
    with open_warehouse(workspace) as wh:
        online = open_online(workspace)
        line.send("ready")
        line.recv()
        for first in range(0, len(numbers), 3):
            ingest_events(wh, online, DELAYS, landings(numbers[first : first + 3]))
        line.send("done")
