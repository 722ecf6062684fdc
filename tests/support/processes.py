"""Writers and readers in processes that start at once and inherit no connection."""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["support.load", "support.writers"])
PATIENCE = 120.0  # seconds until a process that says nothing counts as hung


class Worker:
    """A process that was started, and the line to it."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], env: Mapping[str, str]):
        self.line, theirs = _SERVER.Pipe()
        self.process = _SERVER.Process(
            target=_run, args=(function, theirs, arguments, {**_ours(), **env}), daemon=True
        )
        self.process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return int(self.process.pid or 0)

    def hear(self, patience: float = PATIENCE) -> Any:
        """What it says next. Raises `AssertionError` with its traceback when it failed or says nothing for so many seconds."""
        assert self.line.poll(patience), f"process {self.pid} said nothing for {patience:g} s"
        said = self.line.recv()
        assert not isinstance(said, Failure), said.trace
        return said

    def tell(self, what: object) -> None:
        """Say something to it."""
        self.line.send(what)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.process.kill()
        self.process.join(PATIENCE)
        assert self.process.exitcode == -signal.SIGKILL, (
            f"it ended by itself: exit code {self.process.exitcode}"
        )

    def join(self) -> None:
        """Wait for its end, which must be a good one."""
        self.process.join(PATIENCE)
        assert self.process.exitcode == 0, f"exit code {self.process.exitcode}"


class Failure:
    """What a process says last when it fails."""

    def __init__(self, trace: str):
        self.trace = trace


def _ours() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("MLNB_")}


def _run(
    function: Callable[..., Any], line: Connection, arguments: tuple[Any, ...], env: Mapping[str, str]
) -> None:
    for name in _ours():  # of whoever started the server that forks
        del os.environ[name]
    os.environ.update(env)
    try:
        function(line, *arguments)
    except BaseException:
        line.send(Failure(traceback.format_exc()))
        raise


@contextmanager
def start(
    function: Callable[..., Any],  # of a module; called with its end of the line and `arguments`
    *arguments: Any,
    env: Mapping[str, str] | None = None,  # environment variables that it gets
) -> Iterator[Worker]:
    """A process that runs `function`, killed at the end of the block when it still runs."""
    worker = Worker(function, arguments, env or {})
    try:
        yield worker
    finally:
        worker.process.kill()
        worker.process.join(PATIENCE)
        worker.line.close()
