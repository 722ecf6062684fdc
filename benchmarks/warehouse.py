"""Four processes write, two read from a warehouse they keep open, one opens it for each read: who waits?

    python benchmarks/warehouse.py --seconds 60

Prints what was done, what was lost, how long reads took beside the writers and without them, and a row for
benchmarks/README.md. The bar: a read never waits for a writer more than 0.2 s (99th percentile). Waiting is
the time that the reading thread neither computed nor was queued for a core (Linux tells): the lock and the
disk, not how busy the machine is. Connections have one thread for that. Opening also waits for DuckDB's own
threads, which verify the extensions' signatures.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import load
from support.processes import start
from support.workspaces import make_workspace

from ml_notebooks.data.warehouse import open_warehouse

WRITERS, READERS = 4, 2
BAR = 200  # milliseconds


def read_for(root: Path, seconds: float) -> tuple[load.Report, list[load.Report]]:
    """What the opener and the readers saw when no one wrote."""
    with ExitStack() as stack:
        opener, *readers = _start_readers(stack, root)
        time.sleep(seconds)
        return _stop(opener), [_stop(reader) for reader in readers]


def read_and_write_for(
    root: Path, seconds: float
) -> tuple[load.Report, list[load.Report], list[load.Report]]:
    """What the opener, the readers and the writers did and saw."""
    with ExitStack() as stack:
        opener, *readers = _start_readers(stack, root)
        writers = [stack.enter_context(start(load.write, root, w, None, seconds)) for w in range(WRITERS)]
        time.sleep(seconds)
        seen = _stop(opener), [_stop(reader) for reader in readers]
        return *seen, [writer.hear() for writer in writers]


def _start_readers(stack, root):
    found = [
        stack.enter_context(start(load.read, root, WRITERS, fresh)) for fresh in (True, *[False] * READERS)
    ]
    assert [reader.hear() for reader in found] == ["reading"] * len(found)
    return found


def _stop(reader) -> load.Report:
    reader.tell("stop")
    return reader.hear()


def percentiles(name: str, values: list[list[float]]) -> tuple[float, float, float]:
    """50th and 99th percentile and the longest, in milliseconds, printed too."""
    taken = 1e3 * np.concatenate([np.array(some) for some in values])
    p50, p99, longest = (*np.percentile(taken, [50, 99]), taken.max())
    print(f"{name:<32} n {len(taken):>6}   p50 {p50:7.1f} ms   p99 {p99:7.1f} ms   max {longest:7.1f} ms")
    return float(p50), float(p99), float(longest)


def main() -> int:
    """Run it; 1 when a row was lost or doubled, a read torn, an operation failed or the bar missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="how long the writers write")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder:
        workspace = make_workspace(Path(folder) / "workspace", lock_timeout=110, threads=1)
        with open_warehouse(workspace) as wh:
            load.prepare(wh, WRITERS)
        opener, readers, writers = read_and_write_for(workspace.root, seconds)
        with open_warehouse(workspace) as wh:
            appended = [report.operations["append"] for report in writers]
            lost, doubled = load.lost_and_doubled(wh, appended)
            snapshots = len(wh.snapshots())
        quiet_opener, quiet = read_for(workspace.root, min(seconds / 4, 10))

    everyone = [opener, *readers, *writers, quiet_opener, *quiet]
    errors = [error for report in everyone for error in report.errors]
    torn = [torn for report in everyone for torn in report.torn]
    done = sum((report.operations for report in writers), Counter())
    who = f"{WRITERS} writers, {READERS} readers, 1 opener, {seconds:g} s"
    print(f"{who}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {snapshots} snapshots at the end")
    print(f"written: {dict(done)}")
    print(f"errors {len(errors)}, lost rows {lost}, doubled rows {doubled}, torn reads {len(torn)}")
    print(*[f"   {line}" for line in [*errors, *torn][:5]], sep="\n")
    for kind in done:
        percentiles(f"{kind}, its turn included", [report.seconds[kind] for report in writers])
    read = percentiles("read, kept open", [report.seconds["read"] for report in readers])
    waited = percentiles("  of it waiting", [report.waited["read"] for report in readers])
    alone = percentiles("read, kept open, no writer", [report.seconds["read"] for report in quiet])
    fresh = percentiles("open", [opener.seconds["open"]])
    percentiles("  of it waiting", [opener.waited["open"]])
    percentiles("open, no writer", [quiet_opener.seconds["open"]])
    ok = not errors and not torn and lost == doubled == 0 and waited[1] <= BAR
    cells = [
        f"warehouse: {who}",
        f"{done.total()} writes, {lost} lost, {doubled} doubled, {len(errors)} errors, {len(torn)} torn",
        f"read p50 {read[0]:.0f}, p99 {read[1]:.0f} ms ({alone[1]:.0f} without writers), "
        f"of it waiting p99 {waited[1]:.1f}, max {waited[2]:.0f} ms; "
        f"open p50 {fresh[0]:.0f}, p99 {fresh[1]:.0f} ms",
        f"a read waits for a writer at most {BAR:g} ms (p99): {'met' if ok else 'MISSED'}",
    ]
    print("\n| " + " | ".join(cells) + " |")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
