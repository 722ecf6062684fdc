"""Writers that say where they are, so that a test can end them there."""

from multiprocessing.connection import Connection
from pathlib import Path

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.workspace import find_workspace

ROWS = 2000  # of `raw.rounds` in every round
ENDLESS = "(SELECT count(*) FROM range(10000000000) AS a, range(10000000000) AS b)"


def round_query(number: int) -> str:
    """The rows of `raw.rounds` in a round."""
    return f"SELECT {number} AS round, range AS i, hash(range * {number}) AS h FROM range({ROWS})"


def write_rounds(line: Connection, root: Path, first: int) -> None:
    """Round after round: publish one table and append to another in one transaction, and say where it is."""
    with open_warehouse(find_workspace(root)) as wh:
        number = first
        while True:
            line.send(("opened", number))
            with wh.transaction(f"round {number}"):
                wh.publish("raw.rounds", round_query(number))
                line.send(("loading", number))
                wh.append("ops.log", f"SELECT {number} AS round")
                line.send(("committing", number))
            line.send(("done", number))
            number += 1


def wait_for_lock(line: Connection, root: Path, number: int) -> None:
    """Publish, and say so before."""
    with open_warehouse(find_workspace(root)) as wh:
        line.send("writing")
        wh.publish("raw.rounds", round_query(number))
        line.send("done")


def stage_forever(line: Connection, root: Path, number: int) -> None:
    """Publish a query that does not end."""
    with open_warehouse(find_workspace(root)) as wh:
        line.send("writing")
        wh.publish("raw.rounds", f"SELECT {number} AS round, {ENDLESS} AS i, 0::UBIGINT AS h")


def hold_lock(line: Connection, root: Path) -> None:
    """Hold the write lock until told to let go."""
    with open_warehouse(find_workspace(root)) as wh, wh.transaction("holding"):
        line.send("holding")
        line.recv()
