"""Four writers and two readers at once: nothing lost, nothing doubled, nothing torn."""

import os
import subprocess
import sys
import threading
from contextlib import ExitStack

import pytest
from support import load
from support.processes import start
from support.soak import SOAK, soak
from support.workspaces import make_workspace

from ml_notebooks.data.catalog import catalog_file
from ml_notebooks.data.warehouse import open_warehouse

WRITERS = 4


@pytest.fixture
def workspace(tmp_path):
    return make_workspace(tmp_path / "workspace", lock_timeout=100)


@soak
def test_writers_lose_and_double_nothing_and_readers_see_whole_states(workspace):
    rounds = 60 if SOAK else 2
    with open_warehouse(workspace) as wh:
        load.prepare(wh, WRITERS)
    with ExitStack() as stack:
        readers = [stack.enter_context(start(load.read, workspace.root, WRITERS)) for _ in range(2)]
        assert [reader.hear() for reader in readers] == ["reading"] * 2
        writers = [
            stack.enter_context(start(load.write, workspace.root, w, rounds, 0)) for w in range(WRITERS)
        ]
        written = [writer.hear(600 + 30 * rounds) for writer in writers]
        for reader in readers:
            reader.tell("stop")
        seen = [reader.hear() for reader in readers]

    assert [error for report in written + seen for error in report.errors] == []
    assert [torn for report in seen for torn in report.torn] == []
    assert all(report.operations["read"] > 0 for report in seen)
    kinds = {"append": rounds, "publish": rounds, "two tables": rounds, "upsert": rounds}
    assert [dict(report.operations) for report in written] == [kinds] * WRITERS
    with open_warehouse(workspace) as wh:
        assert load.lost_and_doubled(wh, [rounds] * WRITERS) == (0, 0)
        assert wh.sql("FROM features.state ORDER BY ALL").fetchall() == [(w, rounds) for w in range(WRITERS)]
        snapshots = wh.snapshots().query("message.notna()")
        assert len(snapshots) == 1 + WRITERS * rounds * len(kinds)


def test_processes_that_open_a_new_warehouse_at_once_make_it_once(workspace):
    with ExitStack() as stack:
        writers = [stack.enter_context(start(load.write, workspace.root, w, 1, 0)) for w in range(WRITERS)]
        written = [writer.hear() for writer in writers]
    assert [error for report in written for error in report.errors] == []
    with open_warehouse(workspace) as wh:
        assert load.lost_and_doubled(wh, [1] * WRITERS) == (0, 0)
        assert len(wh.names()) == WRITERS + 4


def test_a_reader_does_not_wait_for_a_transaction_that_stays_open(workspace):
    with open_warehouse(workspace) as wh, open_warehouse(workspace, read_only=True) as reader:
        wh.publish("raw.flights", "SELECT 1 AS flight")
        with wh.transaction():
            wh.publish("raw.flights", "SELECT 2 AS flight")
            assert reader.sql("FROM raw.flights").fetchall() == [(1,)]
            with open_warehouse(workspace, read_only=True) as fresh:
                assert fresh.sql("FROM raw.flights").fetchall() == [(1,)]
        assert reader.sql("FROM raw.flights").fetchall() == [(2,)]


def test_a_reader_that_reads_slowly_sees_the_state_it_began_with(workspace):
    with open_warehouse(workspace) as wh, open_warehouse(workspace, read_only=True) as reader:
        wh.publish("raw.numbers", "SELECT range AS n, 1 AS version FROM range(500000)")
        batches = reader.table("raw.numbers").to_arrow_reader(1000)
        first = batches.read_next_batch()
        wh.publish("raw.numbers", "SELECT range AS n, 2 AS version FROM range(500000)")
        rest = batches.read_all()
        assert first.num_rows + rest.num_rows == 500_000
        assert set(rest["version"].to_pylist()) == {1}


_SHUT = """
import fcntl, sys
with open(sys.argv[1], "r+b") as catalog:
    fcntl.lockf(catalog, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(sys.argv[2]))  # as SQLite locks a byte
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the locks that hold the catalogue open are Linux's")
@pytest.mark.parametrize(("suffix", "byte"), [("", 0x40000000), ("-shm", 128)])
def test_while_a_warehouse_is_open_no_process_can_shut_its_catalogue(workspace, suffix, byte):
    def shut():
        file = f"{catalog_file(workspace)}{suffix}"
        return subprocess.run([sys.executable, "-c", _SHUT, file, str(byte)], capture_output=True, text=True)

    with open_warehouse(workspace) as wh:
        with open_warehouse(workspace, read_only=True):
            assert "BlockingIOError" in shut().stderr
        wh.publish("raw.numbers", "SELECT 1 AS n")
        assert "BlockingIOError" in shut().stderr
    assert shut().returncode == 0


def test_threads_with_a_warehouse_each_lose_nothing(workspace):
    failed = []

    def append(writer):
        try:
            with open_warehouse(workspace) as wh:
                for number in range(1, 6):
                    wh.append("ops.events", f"SELECT {writer} AS writer, {number} AS number")
        except Exception as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=append, args=(writer,)) for writer in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with open_warehouse(workspace) as wh:
        assert load.lost_and_doubled(wh, [5] * WRITERS) == (0, 0)


def test_queries_that_do_not_fit_into_memory_do_not_meet_on_the_disk(tmp_path):
    workspace = make_workspace(tmp_path, memory_limit="60MB", threads=1)
    large = "CREATE TEMP TABLE {0} AS SELECT range AS n, hash(range) AS mix, hash(range + 2)::VARCHAR || hash(range + 3) AS words FROM range(2_000_000)"
    with open_warehouse(workspace) as one:
        one._connection.execute(large.format("first"))
        with open_warehouse(workspace) as other:
            other._connection.execute(large.format("second").replace("hash(range)", "hash(range + 1)"))
            folders = list((tmp_path / "data" / "spill").glob("*-*"))
            assert len(folders) == 2 and all(any(folder.iterdir()) for folder in folders)
            sums = [wh._connection.execute(f"SELECT count(*), bit_xor(mix) FROM temp.main.{name}").fetchall() for wh, name in ((one, "first"), (other, "second"))]
        expected = [one._connection.execute(f"SELECT count(*), bit_xor(hash(range + {more})) FROM range(2_000_000)").fetchall() for more in (0, 1)]
        assert sums == expected
    assert not list((tmp_path / "data" / "spill").glob("*-*"))


def test_what_a_killed_process_spilled_is_taken_away(tmp_path):
    workspace = make_workspace(tmp_path)
    open_warehouse(workspace).close()
    left, own = (tmp_path / "data" / "spill" / f"{pid}-0" for pid in (2**22 + 1, os.getpid()))
    for folder in (left, own):
        folder.mkdir()
        (folder / "duckdb_temp_storage_DEFAULT-0.tmp").write_bytes(b"rows")
    open_warehouse(workspace).close()
    assert own.exists() and not left.exists()
