"""What `mlnb` prints: tables, JSON and the live display of a run. Written by hand, like `cli`."""

import json
import math
import sys
import time
from collections.abc import Collection, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .logs import configure_logs
from .pipelines.record import format_value
from .settings import secret_values

if TYPE_CHECKING:
    from .pipelines.ledger import Run, StepResult
    from .pipelines.run import Observer
    from .pipelines.spec import Pipeline, Step
    from .workspace import Workspace

STYLES = {"succeeded": "green", "cached": "blue", "failed": "red", "running": "cyan", "ok": "green", "wrong": "red", "missing": "yellow"}
LEAST, EASY = 18, 36  # characters to which the widest column of a table is folded at the most, and to which it still reads easily


def plain(value: Any) -> Any:
    """`value` as JSON can say it: instants in ISO form, no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        return plain(value.item())
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def show(value: Any) -> str:
    """`value` as a cell of a table."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {show(item)}" for key, item in value.items())
    value = plain(value)
    return "" if value is None else format_value(value) if isinstance(value, float) else str(value)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False))


def print_rows(
    rows: Sequence[dict[str, Any]],
    columns: Sequence[str],
    as_json: bool,
    empty: str = "No rows.",
    right: Collection[str] = (),  # columns of figures that are text already
    spare: Sequence[str | tuple[str, ...]] = (),  # columns that a narrow terminal may do without, the first one first; those of a tuple go together
) -> None:
    """Print rows as a table that fits the terminal, or as JSON."""
    if as_json:
        print_json(list(rows))
        return
    if not rows:
        print(empty)
        return
    screen = console(sys.stdout)
    columns = without_spare(rows, columns, spare, screen.width)
    cells = [[show(row[column]) for column in columns] for row in rows]
    widest, fits = widest_and_fit(rows, columns, screen.width, LEAST)
    if not fits:
        print_blocks(screen, columns, cells)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(columns):
        values = [row[column] for row in rows if row[column] is not None]
        numbers = column in right or (bool(values) and all(isinstance(value, int | float) for value in values))
        table.add_column(column, justify="right" if numbers else "left", overflow="fold", no_wrap=place != widest)
    for line in cells:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in line))
    put(screen, table)


def widest_and_fit(rows: Sequence[dict[str, Any]], columns: Sequence[str], room: int, least: int) -> tuple[int, bool]:
    """The place of the widest column, and whether the rows fit into so many characters once it is folded to no less than `least`."""
    widths = [max(len(column), *(len(show(row[column])) for row in rows)) for column in columns]
    widest = widths.index(max(widths))
    left = room - sum(widths) - 2 * (len(widths) - 1) + widths[widest]
    return widest, left >= min(least, widths[widest])


def without_spare(rows: Sequence[dict[str, Any]], columns: Sequence[str], spare: Sequence[str | tuple[str, ...]], room: int) -> Sequence[str]:
    """The columns less those that must go for a table to be easily read; all, where no table fits."""
    groups = [(one,) if isinstance(one, str) else one for one in spare]
    kept = list(columns)
    for number in range(len(groups) + 1):
        gone = [name for group in groups[:number] for name in group]
        kept = [column for column in columns if column not in gone] or kept
        if widest_and_fit(rows, kept, room, EASY)[1]:
            return with_what_fits(rows, columns, kept, groups[:number], room)
    return kept if widest_and_fit(rows, kept, room, LEAST)[1] else columns


def with_what_fits(rows: Sequence[dict[str, Any]], columns: Sequence[str], kept: Sequence[str], gone: Sequence[tuple[str, ...]], room: int) -> Sequence[str]:
    """The columns that are kept, and of those that are gone what fits beside them, the last that went first."""
    for group in reversed(gone):
        more = [column for column in columns if column in (*kept, *group)]
        kept = more if widest_and_fit(rows, more, room, EASY)[1] else kept
    return kept


def print_blocks(screen: Console, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Print each row as lines of name and value: for a terminal that is too narrow for a table."""
    for line in cells:
        block = Table(box=None, pad_edge=False, show_header=False)
        block.add_column(style="bold", no_wrap=True)
        block.add_column(overflow="fold")
        for column, cell in zip(columns, line, strict=True):
            block.add_row(column, Text(cell, style=STYLES.get(cell, "")))
        put(screen, block)
        print(file=screen.file)


def print_facts(facts: dict[str, Any]) -> None:
    """Print names and their values, a line each."""
    print_blocks(console(sys.stdout), list(facts), [[show(value) for value in facts.values()]])


def put(screen: Console, table: Table) -> None:
    """Print a table; where there is no terminal, its lines end with their last character."""
    if screen.file.isatty():
        screen.print(table)
        return
    with screen.capture() as captured:
        screen.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()), file=screen.file)


def console(stream: Any) -> Console:
    """A console on `stream`; where it is no terminal, lines are not cut."""
    return Console(file=stream) if stream.isatty() else Console(file=stream, width=10_000 if stream is sys.stdout else 120)


def observer(workspace: "Workspace") -> "Observer":
    """What shows a run: a live table in a terminal, where the log then leaves out what it shows; a table at the end elsewhere."""
    if not sys.stdout.isatty():
        return Summary()
    logs = workspace.settings.logs
    if logs.level == "info" and logs.format == "console" and logs.file is None and sys.stderr.isatty():
        configure_logs(logs.model_copy(update={"level": "warning"}), secret_values(workspace.settings))
    return LiveDisplay()


def recorded(result: "StepResult") -> str:
    """What a step recorded, in a line."""
    return ", ".join(f"{name} {format_value(value)}" for name, value in result.records.items())


class Summary:
    """Which run it is, and how it went; what happens in between is the log's to tell."""

    def run_started(self, run: "Run", pipeline: "Pipeline") -> None:
        """Say which run it is."""
        print(f"{pipeline.name}: {pipeline.title} (run {run.run})", flush=True)

    def cell_started(self, step: "Step", cell: int, cells: int) -> None:
        """Say nothing."""

    def step_finished(self, result: "StepResult") -> None:
        """Say nothing."""

    def run_finished(self, run: "Run") -> None:
        """Say how each step and the run ended."""
        columns = ["step", "status", "seconds", "recorded"]
        rows = [{"step": s.step, "status": s.status, "seconds": s.seconds, "recorded": recorded(s)} for s in run.steps]
        print_rows(rows, columns, as_json=False)
        print(f"{run.status} after {run.seconds:.0f} s", flush=True)
        if run.status == "failed":
            print(f"Report: {run.report}/index.html", flush=True)


class LiveDisplay:
    """A table that is drawn anew while the run goes on: step, status, cell, seconds, what it recorded."""

    def __init__(self) -> None:
        self.console = Console()
        self.results: dict[str, StepResult] = {}
        self.places: dict[str, tuple[str, float]] = {}  # step that runs -> where it is, since when it runs

    def run_started(self, run: "Run", pipeline: "Pipeline") -> None:
        """Begin to draw."""
        self.console.print(Text(f"{pipeline.name}: {pipeline.title} (run {run.run})"))
        self.steps = [step.name for step in pipeline.steps]
        self.live = Live(get_renderable=self.table, console=self.console, refresh_per_second=4)
        self.live.start()

    def cell_started(self, step: "Step", cell: int, cells: int) -> None:
        """Remember where the step is."""
        _, since = self.places.get(step.name, ("", time.monotonic()))
        self.places[step.name] = f"cell {cell}/{cells}", since

    def step_finished(self, result: "StepResult") -> None:
        """Keep the step's result."""
        self.results[result.step] = result

    def run_finished(self, run: "Run") -> None:
        """Draw a last time."""
        self.live.stop()
        self.console.print(f"[{STYLES[run.status]}]{run.status}[/] after {run.seconds:.0f} s")
        if run.status == "failed":
            self.console.print(Text(f"Report: {run.report}/index.html"))

    def table(self) -> Table:
        """The table as it is now."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("step", "status", "seconds", "recorded"):
            table.add_column(column, justify="right" if column == "seconds" else "left", overflow="fold")
        for name in self.steps:
            table.add_row(*self.row(name))
        return table

    def row(self, name: str) -> tuple[str | Text, ...]:
        """One step's row."""
        if name in self.results:
            result = self.results[name]
            return name, Text(result.status, STYLES[result.status]), f"{result.seconds:.1f}", Text(recorded(result))
        if name in self.places:
            place, since = self.places[name]
            return name, Text(place, STYLES["running"]), f"{time.monotonic() - since:.1f}", ""
        return Text(name, "dim"), "", "", ""
