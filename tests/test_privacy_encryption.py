"""An encrypted warehouse: what is on disk, who can open it, many at once, killed, restored, damaged."""

import os
import shutil
import stat
from pathlib import Path

import pytest
from support.processes import start
from support.soak import SOAK, soak
from support.workspaces import make_workspace

from ml_notebooks.data.catalog import open_copy, sealed_file
from ml_notebooks.data.encryption import decrypt, encrypt
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import SealedWarehouse
from ml_notebooks.workspace import find_workspace

VARIABLE, KEY = "MLNB_WAREHOUSE__ENCRYPTION_KEY", "a key of the tests, no secret"


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A workspace whose warehouse is to be encrypted."""
    monkeypatch.setenv(VARIABLE, KEY)
    workspace = make_workspace(tmp_path / "w", encrypted="true")
    yield workspace
    shutil.rmtree(open_copy(workspace).parent, ignore_errors=True)


def power_cut(workspace):
    """What is in memory only is gone."""
    shutil.rmtree(open_copy(workspace).parent)


def rows(workspace):
    """The numbers in `raw.t`, as a new reader sees them."""
    with open_warehouse(find_workspace(workspace.root), read_only=True) as reader:
        return sorted(number for (number,) in reader.sql("FROM raw.t").fetchall())


def test_every_commit_survives_a_power_cut(workspace):
    for number in range(3):
        with open_warehouse(workspace) as wh:
            wh.append("raw.t", f"SELECT {number} AS n")
            wh.append("raw.t", f"SELECT {number + 10} AS n")
        if number % 2:
            power_cut(workspace)
        assert rows(workspace) == sorted([*range(number + 1), *range(10, number + 11)])


def test_nothing_can_be_read_on_disk(workspace):
    with open_warehouse(workspace) as wh:
        wh.publish("raw.small", "SELECT 'canary7351' AS secret_column")
        wh.publish("raw.large", "SELECT 'canary7351' || range AS secret_column FROM range(3000)")
        wh.publish("features.wide", "SELECT 'canary7351' AS secret_column")
        assert wh.sql("SELECT max(secret_column) FROM raw.large").fetchall() == [("canary7351999",)]
        assert wh.sql("SELECT count(*) FROM __ducklake_metadata_lake.ducklake_data_file WHERE encryption_key IS NULL").fetchall() == [(0,)]
    content = b"".join(file.read_bytes() for file in workspace.root.rglob("*") if file.is_file())
    assert not any(text in content for text in (b"canary7351", b"secret_column", b"SQLite format", KEY.encode()))
    assert not list(workspace.root.rglob("catalog.sqlite")) and not list(workspace.root.rglob("*-wal"))


def test_the_open_copy_is_the_users_alone(workspace):
    open_warehouse(workspace).close()
    folder = open_copy(workspace).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700 and folder.stat().st_uid == os.getuid()


@pytest.mark.parametrize(("key", "words"), [("", "is not set"), ("another key of sixteen", "not the key that it was made with")])
@pytest.mark.parametrize("cut", [False, True], ids=["open in memory", "after a power cut"])
def test_without_the_key_nobody_opens_it(workspace, monkeypatch, key, words, cut):
    with open_warehouse(workspace) as wh:
        wh.publish("raw.t", "SELECT 1 AS n")
    if cut:
        power_cut(workspace)
    monkeypatch.setenv(VARIABLE, key)
    for settings in ("[warehouse]\nencrypted = true\n", ""):  # the setting does not decide, the file does
        (workspace.root / "settings.ini").write_text(f"[workspace]\nname = test\n{settings}")
        for read_only in (True, False):
            with pytest.raises(SealedWarehouse, match=words):
                open_warehouse(find_workspace(workspace.root), read_only=read_only)
    monkeypatch.setenv(VARIABLE, KEY)
    assert rows(workspace) == [1]


def test_the_command_line_says_so(workspace, mlnb):
    with open_warehouse(workspace) as wh:
        wh.publish("raw.t", "SELECT 1 AS n")
    ran = mlnb("tables", cwd=workspace.root)
    assert ran.returncode == 1 and "is encrypted" in ran.stderr and VARIABLE in ran.stderr
    ran = mlnb("sql", "FROM raw.t", "--json", cwd=workspace.root, MLNB_WAREHOUSE__ENCRYPTION_KEY=KEY)
    assert ran.returncode == 0 and '"n": 1' in ran.stdout


def test_a_warehouse_is_not_encrypted_by_a_setting_afterwards(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, KEY)
    plain = make_workspace(tmp_path / "p")
    with open_warehouse(plain) as wh:
        wh.publish("raw.t", "SELECT 1 AS n")
    (plain.root / "settings.ini").write_text("[workspace]\nname = test\n[warehouse]\nencrypted = true\n")
    with pytest.raises(SealedWarehouse, match="made without encryption"):
        open_warehouse(find_workspace(plain.root))


def write_many(line, root, who, times):
    """Append row after row, each acknowledged."""
    with open_warehouse(find_workspace(root)) as wh:
        for number in range(times):
            wh.append("raw.t", f"SELECT {who * 1000 + number} AS n")
            line.send(who * 1000 + number)
    line.send("done")


def test_writers_at_once_lose_nothing(workspace):
    with open_warehouse(workspace) as wh:
        wh.publish("raw.t", "SELECT -1 AS n")
    power_cut(workspace)
    acknowledged = [-1]
    writers = [start(write_many, workspace.root, who, 5) for who in range(3)]
    for context in writers:
        with context as writer:
            while (said := writer.hear()) != "done":
                acknowledged.append(said)
            writer.join()
    assert rows(workspace) == sorted(acknowledged) and len(acknowledged) == 16
    power_cut(workspace)
    assert rows(workspace) == sorted(acknowledged)


@soak
@pytest.mark.parametrize("after", [1, 3, 9] if SOAK else [3])
def test_what_a_killed_writer_acknowledged_survives_a_power_cut(workspace, after):
    with open_warehouse(workspace) as wh:
        wh.publish("raw.t", "SELECT -1 AS n")
    acknowledged = {-1}
    with start(write_many, workspace.root, 1, 500) as writer:
        while len(acknowledged) <= after:
            acknowledged.add(writer.hear())
        writer.kill()
        while writer.line.poll(0):
            try:
                acknowledged.add(writer.line.recv())
            except EOFError:
                break
    power_cut(workspace)
    found = rows(workspace)
    assert acknowledged <= set(found) and len(found) <= len(acknowledged) + 1
    with open_warehouse(workspace) as wh:
        wh.append("raw.t", "SELECT 9999 AS n")
    assert 9999 in rows(workspace)


def test_a_backup_that_is_put_back_is_read(workspace):
    with open_warehouse(workspace) as wh:
        wh.publish("raw.t", "SELECT 1 AS n")
        backup = sealed_file(workspace).read_bytes()
        wh.append("raw.t", "SELECT 2 AS n")
    assert rows(workspace) == [1, 2]
    sealed_file(workspace).write_bytes(backup)
    assert rows(workspace) == [1]


@pytest.mark.parametrize("place", [0, 20, 60, -1])
def test_a_sealed_file_that_was_changed_is_refused(workspace, place):
    with open_warehouse(workspace) as wh:
        wh.publish("raw.t", "SELECT 1 AS n")
    power_cut(workspace)
    file = sealed_file(workspace)
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(SealedWarehouse, match=r"damaged|not the key"):
        open_warehouse(workspace)


@pytest.mark.parametrize("size", [10, 1000])
def test_a_sealed_file_that_was_cut_is_refused(workspace, size):
    with open_warehouse(workspace) as wh:
        wh.publish("raw.t", "SELECT 1 AS n")
    power_cut(workspace)
    sealed_file(workspace).write_bytes(sealed_file(workspace).read_bytes()[:size])
    with pytest.raises(SealedWarehouse, match="damaged"):
        open_warehouse(workspace)


def test_a_new_workspace_in_the_place_of_an_old_one_is_empty(workspace):
    with open_warehouse(workspace) as wh:
        wh.publish("raw.t", "SELECT 1 AS n")
    shutil.rmtree(workspace.root / "data")
    with open_warehouse(workspace) as wh:
        assert wh.names() == []


def test_a_folder_of_somebody_else_is_not_used(workspace, monkeypatch, tmp_path):
    (tmp_path / "theirs").mkdir()
    folder = open_copy(workspace).parent
    folder.symlink_to(tmp_path / "theirs")
    try:
        with pytest.raises(SealedWarehouse, match="belongs to somebody else"):
            open_warehouse(workspace)
    finally:
        folder.unlink()
    assert list(Path(tmp_path / "theirs").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"x", os.urandom(100_000)])
def test_what_is_sealed_comes_back(content):
    sealed = encrypt(content, KEY, os.urandom(16))
    assert decrypt(sealed, KEY) == content and len(sealed) == len(content) + 14 + 16 + 16 + 12 + 16
    assert encrypt(content, KEY, b"0" * 16) != encrypt(content, KEY, b"0" * 16)
