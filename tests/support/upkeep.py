"""Readers and upkeep in processes of their own."""

from multiprocessing.connection import Connection
from pathlib import Path

from ml_notebooks.data.upkeep import maintain
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.settings import UpkeepSettings
from ml_notebooks.workspace import find_workspace


def read_slowly(line: Connection, root: Path, query: str) -> None:
    """Begin to read, say so, and read the rest when told to."""
    with open_warehouse(find_workspace(root), read_only=True) as wh:
        batches = wh.sql(query).to_arrow_reader(1000)
        first = batches.read_next_batch()
        line.send("reading")
        line.recv()
        rest = sum(sum(batch.column(0).to_pylist()) for batch in batches)
        line.send(sum(first.column(0).to_pylist()) + rest)


def append_and_maintain(line: Connection, root: Path) -> None:
    """Append, say so, tidy up, and so on."""
    with open_warehouse(find_workspace(root)) as wh:
        number = 0
        while True:
            number += 1
            wh.append("ops.log", f"SELECT {number} AS number, range AS n FROM range(2000)")
            line.send(number)
            maintain(wh, UpkeepSettings(keep_versions=1))
