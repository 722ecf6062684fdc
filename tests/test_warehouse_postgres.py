"""The same warehouse with its catalogue in PostgreSQL: same code, other settings."""

import itertools
import socket
import urllib.request
from contextlib import ExitStack

import psycopg
import pytest
from support import load, writers
from support.postgres import postgres_server
from support.processes import start
from support.servers import s3_server
from support.workspaces import make_workspace

from ml_notebooks.data.catalog import table_files
from ml_notebooks.data.erasure import erase
from ml_notebooks.data.upkeep import maintain
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
LAKES = itertools.count()


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


@pytest.fixture(scope="module")
def store(place):
    """The port of an object store with a bucket `lake`."""
    with s3_server(place) as port:
        bucket = urllib.request.Request(f"http://127.0.0.1:{port}/lake", data=b"", method="PUT")
        urllib.request.urlopen(bucket).close()
        yield port


@pytest.fixture(params=["postgresql", "sqlite"])
def in_a_store(request, server, store, tmp_path, monkeypatch):
    """A workspace whose tables lie in the store, by settings alone; its catalogue is either one."""
    secrets, name = {"S3_KEY_ID": "a-key-id", "S3_SECRET": "s3same-secret"}, f"lake_{next(LAKES)}"
    if request.param == "postgresql":
        with psycopg.connect(f"{server.catalog.removeprefix('postgres:')} password={server.password}", autocommit=True) as keeper:  # fmt: skip
            keeper.execute(f"CREATE DATABASE {name}")
        secrets |= {"CATALOG": server.catalog.replace("dbname=postgres", f"dbname={name}"), "PASSWORD": server.password}
    for variable, value in secrets.items():
        monkeypatch.setenv(f"MLNB_WAREHOUSE__{variable}", value)
    place = {"data_path": f"s3://lake/{name}/", "s3_endpoint": f"127.0.0.1:{store}"}
    return make_workspace(tmp_path / "workspace", **place, s3_region="us-east-1", s3_use_ssl="false")


def test_tables_may_lie_in_an_object_store(in_a_store):
    with open_warehouse(in_a_store) as wh:
        first = wh.publish("raw.flights", "SELECT range AS flight, 'N' || range % 100 AS tailnum FROM range(5000)")
        assert len(table_files(in_a_store, wh.connection)) == 1 and not list(in_a_store.root.rglob("*.parquet"))
        wh.append("raw.flights", "SELECT range AS flight, 'N7' AS tailnum FROM range(5000, 6000)")
        wh.upsert("raw.flights", "SELECT 7 AS flight, 'N8' AS tailnum", keys="flight")
        with pytest.raises(ZeroDivisionError, match="division"), wh.transaction():  # noqa: PT012
            wh.publish("clean.flights", "FROM raw.flights")
            1 / 0  # noqa: B018
        (in_a_store.root / "planes.csv").write_text("tailnum,seats\n" + "".join(f"N{n},{n}\n" for n in range(100)))
        assert wh.ingest("raw.planes", in_a_store.root / "planes.csv", mode="merge", keys="tailnum").inserted == 100
        assert wh.at(first).sql("SELECT count(*) FROM raw.flights").fetchall() == [(5000,)]
    with open_warehouse(in_a_store, read_only=True) as reader:
        assert reader.names() == ["ops.ingests", "raw.flights", "raw.planes"]
        assert reader.sql("SELECT count(*), count(*) FILTER (tailnum = 'N8') FROM raw.flights").fetchall() == [(6000, 51)]
    with open_warehouse(in_a_store) as wh:
        assert not erase(wh, "tailnum", "N42").raise_if_traced().traces
        assert wh.sql("SELECT count(*) FROM raw.flights JOIN raw.planes USING (tailnum)").fetchall() == [(5950,)]
        maintain(wh)
        assert wh.sql("SELECT count(*) FROM raw.flights").fetchall() == [(5950,)]
        with wh.at(wh.version("raw.flights")) as past:
            assert past.sql("SELECT count(*) FROM raw.flights").fetchall() == [(5950,)]


def test_a_store_that_does_not_answer_is_said_without_its_secret(in_a_store, monkeypatch):
    with open_warehouse(in_a_store) as wh:
        wh.publish("raw.kept", "SELECT range AS n FROM range(5000)")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLNB_WAREHOUSE__S3_ENDPOINT", f"127.0.0.1:{nobody.getsockname()[1]}")
        with open_warehouse(find_workspace(in_a_store.root)) as wh, pytest.raises(MLNotebooksError) as caught:
            wh.publish("raw.kept", "SELECT range AS n FROM range(9000)")
    assert not [text for text in chain(caught.value) if "s3same-secret" in text]
    monkeypatch.undo()


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
