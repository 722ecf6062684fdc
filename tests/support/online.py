"""Pushes that say where they are, so that a test can end them, or their store, there."""

from multiprocessing.connection import Connection
from pathlib import Path

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.features import push as pushing
from ml_notebooks.features.online import OnlineStore, open_online
from ml_notebooks.features.store import FeatureStore
from ml_notebooks.workspace import find_workspace


class Paused:
    """An online store that calls somebody after every batch."""

    def __init__(self, online: OnlineStore, after):
        self._online, self._after = online, after

    def write(self, rows, until):
        count = self._online.write(rows, until)
        self._after(count)
        return count

    def __getattr__(self, name):
        return getattr(self._online, name)


def push_and_tell(line: Connection, root: Path, view: str, batch: int) -> None:
    """Push a view in small batches, and after each say so and wait for an answer."""
    pushing._BATCH = batch
    workspace = find_workspace(root)

    def tell(count: int) -> None:
        line.send(count)
        line.recv()

    with open_warehouse(workspace) as wh:
        line.send(pushing.push(FeatureStore(wh), view, Paused(open_online(workspace), tell)))


def read_rows(line: Connection, root: Path, view: str, keys: int) -> None:
    """Read all rows again and again until told to stop; say how often, and the reads whose rows were torn."""
    from ml_notebooks.features.online import online_reader

    reader = online_reader(open_online(find_workspace(root)), [view])
    entities, reads, torn = [(key,) for key in range(keys)], 0, []
    line.send("reading")
    while not line.poll():
        reads += 1
        torn += [row for row in reader.read(entities).rows if len(set(row)) > 1]
    line.send((reads, torn))
