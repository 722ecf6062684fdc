"""Servers that rows are read from: each in a folder, on a free loopback port, gone at the end."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(*names: str) -> str:
    """The path of a program; the test is skipped where there is none."""
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", str(Path(sys.executable).parent)])
    for name in names:
        if found := shutil.which(name, path=places):
            return found
    pytest.skip(f"{names[0]} is not installed")


@contextmanager
def running(command: list[str], port: int, **options: object) -> Iterator[subprocess.Popen]:
    """A server's process, once it answers on its port."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **quiet, **options) as process:
        try:
            for _ in range(1200):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
                time.sleep(0.1)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


@dataclass(frozen=True)
class Maria:
    """A MariaDB server that was started here."""

    port: int
    password: str

    def connect(self, **options: object) -> object:
        """A connection of the driver's own."""
        import pymysql

        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="keeper",
            password=self.password,
            autocommit=True,
            local_infile=False,
            **options,
        )

    @property
    def address(self) -> str:
        """Its address, without the password."""
        return f"mariadb://keeper@127.0.0.1:{self.port}/shop"


@contextmanager
def mariadb_server(folder: Path) -> Iterator[Maria]:
    """A running MariaDB with a database `shop`; the test is skipped where it is not installed."""
    server = Maria(free_port(), secrets.token_urlsafe(16))
    data = folder / "mariadb"
    data.mkdir()
    init = folder / "init.sql"
    init.write_text(
        "CREATE DATABASE IF NOT EXISTS shop;\n"
        f"CREATE USER IF NOT EXISTS 'keeper'@'127.0.0.1' IDENTIFIED BY '{server.password}';\n"
        "GRANT ALL ON *.* TO 'keeper'@'127.0.0.1';\n"
    )
    root = ["--user=root"] if os.geteuid() == 0 else []
    common = ["--no-defaults", f"--datadir={data}", *root]
    install = [program("mariadb-install-db", "mysql_install_db"), *common, "--auth-root-authentication-method=normal"]
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    command = [program("mariadbd", "mysqld"), *common, f"--port={server.port}", "--bind-address=127.0.0.1"]
    command += [f"--socket={folder / 'maria.sock'}", f"--pid-file={folder / 'maria.pid'}", f"--init-file={init}"]
    with running([*command, "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0"], server.port):
        for _ in range(300):
            with suppress(Exception):
                server.connect().close()
                break
            time.sleep(0.1)
        yield server


@contextmanager
def redis_server(folder: Path) -> Iterator[tuple[int, str]]:
    """The port and the password of a running Redis; the test is skipped where it is not installed."""
    port, password = free_port(), secrets.token_urlsafe(16)
    config = folder / "redis.conf"
    config.write_text(f"port {port}\nbind 127.0.0.1\nrequirepass {password}\nsave \"\"\ndir {folder}\n")
    with running([program("redis-server"), str(config)], port):
        yield port, password


@contextmanager
def s3_server(folder: Path) -> Iterator[int]:
    """The port of moto's S3; the test is skipped where moto is not installed."""
    port = free_port()
    with running([program("moto_server"), "-H", "127.0.0.1", "-p", str(port)], port, cwd=folder):
        yield port


@contextmanager
def gcs_server(folder: Path) -> Iterator[int]:
    """The port of an emulator of Google's store with a bucket `shop`; the test is skipped where it is not installed."""
    port = free_port()
    command = [
        program("gcp-storage-emulator"),
        "start",
        "--host=127.0.0.1",
        f"--port={port}",
        "--in-memory",
        "--default-bucket=shop",
    ]
    with running(command, port, cwd=folder):
        yield port


@contextmanager
def azure_server(folder: Path) -> Iterator[int]:
    """The port of Azurite's blobs; the test is skipped where Azurite is not installed."""
    port = free_port()
    command = [
        program("azurite-blob"),
        "--blobHost",
        "127.0.0.1",
        "--blobPort",
        str(port),
        "--inMemoryPersistence",
    ]
    with running([*command, "--disableTelemetry", "--skipApiVersionCheck"], port, cwd=folder):
        yield port


@contextmanager
def mongo_server(folder: Path) -> Iterator[int]:
    """The port of NX-27017, which speaks MongoDB's protocol; the test is skipped where it is not installed."""
    port = free_port()
    files = ["--log-file", str(folder / "mongo.log"), "--pid-file", str(folder / "mongo.pid")]
    with running(
        [program("nx-27017"), "--db", "memory", "--host", "127.0.0.1", "-p", str(port), *files],
        port,
        cwd=folder,
    ):
        yield port


@contextmanager
def clickhouse_server(folder: Path) -> Iterator[tuple[int, str]]:
    """The port and the password of a ClickHouse; the test is skipped where `CHDB_PYTHON` names no interpreter that has chdb."""
    port, password = free_port(), secrets.token_urlsafe(16)
    if not (python := os.environ.get("CHDB_PYTHON")):
        pytest.skip("CHDB_PYTHON names no interpreter that has chdb")
    command = [python, str(Path(__file__).with_name("clickhouse.py")), str(port), password]
    with running(command, port, cwd=folder):
        yield port, password


@contextmanager
def http_server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """The address of a server whose answers a function writes."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            answer(self)

        do_PUT = do_GET

        def log_message(self, *arguments):
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def reply(
    request: BaseHTTPRequestHandler,
    body: bytes,
    status: int = 200,
    kind: str = "application/json",
    promised: int | None = None,  # bytes that are announced; default as many as come
    **headers: str,
) -> None:
    """Answer a request."""
    request.send_response(status)
    request.send_header("Content-Type", kind)
    request.send_header("Content-Length", str(len(body) if promised is None else promised))
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(body)
    if promised is not None:
        request.wfile.flush()
        request.close_connection = True
        request.connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting_proxy(
    port: int,  # of the server behind it
    after: int,  # bytes from the server after which a connection is cut
    times: int = 1_000_000,  # connections that are cut; later ones are left alone
) -> Iterator[tuple[int, list[int]]]:
    """The port of a proxy that cuts connections mid-stream, and the bytes that each carried."""
    listener = socket.create_server(("127.0.0.1", 0))
    carried: list[int] = []

    def pump(source, target, connection, limit):
        with suppress(OSError):
            while block := source.recv(1 << 14):
                if limit:
                    block = block[: max(0, after - carried[connection])]
                    carried[connection] += len(block)
                target.sendall(block)
                if limit and carried[connection] >= after and connection < times:
                    break
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept():
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
            except OSError:
                return
            number = len(carried)
            carried.append(0)
            cut = number < times
            threading.Thread(target=pump, args=(client, server, number, False), daemon=True).start()
            threading.Thread(target=pump, args=(server, client, number, cut), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], carried
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
