"""A PostgreSQL server of our own: in a folder, on a free loopback port, with a password."""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server that was started here."""

    programs: Path  # where initdb and pg_ctl are
    folder: Path  # its data and its log
    port: int
    password: str

    @property
    def catalog(self) -> str:
        """The `catalog` setting that points to its database."""
        return f"postgres:host=127.0.0.1 port={self.port} dbname=postgres user=keeper"

    def env(self) -> dict[str, str]:
        """The environment variables that make a workspace use it."""
        return {"MLNB_WAREHOUSE__CATALOG": self.catalog, "MLNB_WAREHOUSE__PASSWORD": self.password}

    def control(self, *arguments: str) -> None:
        """Run pg_ctl on it."""
        data, log = self.folder / "data", self.folder / "log"
        _run([str(self.programs / "pg_ctl"), "-D", str(data), "-l", str(log), "-w", "-t", "120", *arguments])

    def start(self) -> None:
        """Start it."""
        listen = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder}"
        self.control("-o", f"{listen} -c fsync=off", "start")

    def stop(self) -> None:
        """Stop it, its connections too."""
        if (self.folder / "data" / "postmaster.pid").exists():
            self.control("-m", "immediate", "stop")


def _programs() -> Path:
    on_path = shutil.which("pg_ctl")
    found = [Path(on_path).resolve().parent] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in found:
        if (folder / "pg_ctl").exists() and (folder / "initdb").exists():
            return folder
    pytest.skip("PostgreSQL is not installed: no initdb and pg_ctl on PATH nor in /usr/lib/postgresql")


def _account() -> pwd.struct_passwd | None:  # whom the server runs as when we are root
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody`")


def _run(command: list[str]) -> None:
    account = _account()
    more = {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    # no pipe: the server would inherit it and keep it open
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        check=False,
        **more,
    )
    assert done.returncode == 0, f"{' '.join(command)} failed with {done.returncode}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgres_server(
    folder: Path,  # made here; a folder that its user can reach, so not below pytest's own
) -> Iterator[Server]:
    """A running server, stopped at the end; the test is skipped where PostgreSQL is missing."""
    server = Server(_programs(), folder, _free_port(), secrets.token_urlsafe(16))
    folder.mkdir(mode=0o700)
    word = folder / "password"
    word.write_text(server.password, encoding="utf-8")
    account = _account()
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)
        os.chown(word, account.pw_uid, account.pw_gid)
    _run(
        [str(server.programs / "initdb"), "-D", str(folder / "data"), "-U", "keeper", "-A", "scram-sha-256"]
        + ["--pwfile", str(word), "-E", "UTF8", "--locale=C", "--no-sync"]
    )
    word.unlink()
    server.start()
    try:
        yield server
    finally:
        server.stop()
