"""The same warehouse with its catalogue in PostgreSQL: same code, other settings."""

from contextlib import ExitStack

import pytest
from support import load, writers
from support.postgres import postgres_server
from support.processes import start
from support.workspaces import make_workspace

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import (
    BadQuery,
    MLNotebooksError,
    UnknownSnapshot,
    UnknownTable,
    WarehouseUnavailable,
)
from ml_notebooks.workspace import find_workspace

pytestmark = pytest.mark.postgres
WRITERS = 3


@pytest.fixture(scope="module")
def server(place):
    with postgres_server(place / "server") as running:
        yield running


@pytest.fixture(scope="module")
def folder(server, tmp_path_factory):
    """One workspace for the server, whose catalogue knows where the tables lie."""
    folder = tmp_path_factory.mktemp("postgres") / "workspace"
    make_workspace(folder, lock_timeout=100)
    return folder


@pytest.fixture
def workspace(server, folder, monkeypatch):
    for name, value in server.env().items():
        monkeypatch.setenv(name, value)
    return find_workspace(folder)


def test_everything_works_as_with_sqlite(workspace):
    with open_warehouse(workspace) as wh:
        first = wh.publish("raw.planes", "SELECT 'N1' AS tailnum, 2001 AS year")
        wh.append("raw.planes", "SELECT 2009 AS year, 'N2' AS tailnum")
        last = wh.upsert(
            "raw.planes",
            "SELECT unnest(['N2', 'N3']) AS tailnum, unnest([2010, 2011]) AS year",
            keys=["tailnum"],
        )
        expected = [("N1", 2001), ("N2", 2010), ("N3", 2011)]
        assert wh.sql("SELECT tailnum, year FROM raw.planes ORDER BY ALL").fetchall() == expected
        assert wh.at(first).table("raw.planes").fetchall() == [("N1", 2001)]
        assert wh.versions()["raw.planes"] == last > first

        with pytest.raises(ZeroDivisionError, match="division"), wh.transaction():  # noqa: PT012
            wh.publish("clean.planes", "FROM raw.planes")
            1 / 0  # noqa: B018
        assert "clean.planes" not in wh.names()
        with wh.transaction("two tables"):
            wh.publish("clean.planes", "FROM raw.planes")
            wh.publish("clean.years", "SELECT DISTINCT year FROM raw.planes")
        newest = wh.snapshots().iloc[0]
        assert (newest["message"], sorted(newest["tables"])) == (
            "two tables",
            ["clean.planes", "clean.years"],
        )
        tables = wh.tables().set_index("table")
        assert tables.loc["raw.planes", ["rows", "columns", "version"]].tolist() == [3, 2, last]
        assert tables.loc["clean.years", "message"] == "two tables"
        with pytest.raises(UnknownTable, match=r"Did you mean `raw\.planes`"):
            wh.sql("FROM raw.plane")
        with pytest.raises(UnknownSnapshot, match="Snapshot 9999 is not"):
            wh.at(9999)
        with pytest.raises(BadQuery, match="a query may only read"):
            wh.sql("DROP TABLE raw.planes")
    with open_warehouse(workspace, read_only=True) as reader:
        assert reader.sql("SELECT count(*) FROM raw.planes").fetchall() == [(3,)]


def test_concurrent_writers_lose_nothing(workspace, server):
    rounds = 3
    with open_warehouse(workspace) as wh:
        load.prepare(wh, WRITERS)
    with ExitStack() as stack:
        reader = stack.enter_context(start(load.read, workspace.root, WRITERS, env=server.env()))
        assert reader.hear() == "reading"
        processes = [
            stack.enter_context(start(load.write, workspace.root, w, rounds, 0, env=server.env()))
            for w in range(WRITERS)
        ]
        written = [process.hear() for process in processes]
        reader.tell("stop")
        seen = reader.hear()
    assert [error for report in [*written, seen] for error in report.errors] == []
    assert seen.torn == []
    with open_warehouse(workspace) as wh:
        assert load.lost_and_doubled(wh, [rounds] * WRITERS) == (0, 0)
        assert wh.sql("FROM features.state ORDER BY ALL").fetchall() == [(w, rounds) for w in range(WRITERS)]


def test_opening_to_read_does_not_wait_for_a_writer(workspace, server, monkeypatch):
    open_warehouse(workspace).close()
    with start(writers.hold_lock, workspace.root, env=server.env()) as writer:
        assert writer.hear() == "holding"
        monkeypatch.setenv("MLNB_WAREHOUSE__LOCK_TIMEOUT", "0.2")
        for read_only in (True, False):
            with open_warehouse(find_workspace(workspace.root), read_only=read_only) as wh:
                assert wh.sql("SELECT 1").fetchall() == [(1,)]
        writer.tell("let go")
        writer.join()


def test_a_wrong_password_is_an_error_that_does_not_tell_it(workspace, server, monkeypatch):
    monkeypatch.setenv("MLNB_WAREHOUSE__PASSWORD", "not-the-password")
    with pytest.raises(
        WarehouseUnavailable, match=rf"(?s)127\.0\.0\.1 port={server.port}.*password"
    ) as caught:
        open_warehouse(find_workspace(workspace.root))
    assert "not-the-password" not in str(caught.value) + repr(caught.value)


def chain(error):
    """The texts of an error and of those that it came from."""
    texts = []
    while error is not None:
        texts.append(f"{error!r} {error}")
        error = error.__cause__ or error.__context__
    return texts


def test_a_stopped_server_is_unavailable_and_its_password_is_not_told(workspace, server):
    with open_warehouse(workspace) as wh:
        wh.publish("raw.flights", "SELECT 1 AS flight")
        server.stop()
        try:
            with pytest.raises(
                WarehouseUnavailable, match=rf"127\.0\.0\.1 port={server.port}.*could not be opened"
            ) as opening:
                open_warehouse(workspace)
            with pytest.raises(WarehouseUnavailable, match="could not be opened") as reading:
                open_warehouse(workspace, read_only=True)
            with pytest.raises(MLNotebooksError, match="could not be") as writing:
                wh.publish("raw.flights", "SELECT 2 AS flight")
        finally:
            server.start()
    for caught in (opening, reading, writing):
        assert not any(server.password in text for text in chain(caught.value))
    with open_warehouse(workspace) as wh:
        assert wh.table("raw.flights").fetchall() == [(1,)]
        wh.publish("raw.flights", "SELECT 3 AS flight")
        assert wh.table("raw.flights").fetchall() == [(3,)]
