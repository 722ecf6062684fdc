"""`mlnb` in a terminal of some width, at which somebody types."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from pathlib import Path


def in_terminal(
    *words: str,
    cwd: Path,
    columns: int = 100,
    answers: Sequence[tuple[str, str]] = (),  # what is waited for, and what is typed then
    **ours: str,  # environment variables
) -> tuple[int, str]:  # the exit status, and what is shown, without escape sequences
    """What `mlnb` shows in a terminal of so many columns."""
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")} | {"TERM": "xterm"} | ours
    command = [sys.executable, "-m", "ml_notebooks", *words]
    process = subprocess.Popen(command, cwd=cwd, stdin=there, stdout=there, stderr=there, env=environment)
    os.close(there)
    shown, waiting = b"", list(answers)
    while True:
        try:
            part = os.read(here, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not part:
            break
        shown += part
        if waiting and waiting[0][0].encode() in shown:
            os.write(here, waiting.pop(0)[1].encode())
    os.close(here)
    return process.wait(), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
