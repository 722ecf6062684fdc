"""The program: its options, what its commands share, and its last word when one of them fails."""

import os
import re
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from ..data.warehouse import Warehouse
    from ..workspace import Workspace

PANELS = {  # of `mlnb --help`, with their commands, in this order
    "Pipelines": ("init", "run", "backfill", "schedule", "graph", "runs", "lineage"),
    "Tables and features": ("ingest", "sql", "tables", "features"),
    "Personal data": ("privacy", "audit"),
    "This machine": ("dashboard", "kernel", "doctor"),
}
INTERRUPTED = 130  # exit status of a command that Ctrl-C ended
ENDED = "Interrupted. What was published and executed so far is kept; `mlnb runs` shows the runs."
ONE = re.compile(r"(?<![\d.,])(1 (?:row|column|table|snapshot|file|text|trace|place|line|check))s\b")  # of which there is one
COMMENT = re.compile(r"--[^=\s]*\s")  # how a query begins that begins with a comment; an option holds no space there
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
At = Annotated[str, typer.Option("--at", metavar="WHEN", help="Read as of a snapshot (7), a day (2013-10-31) or an instant.")]


class Panels(TyperGroup):
    """Commands that stand in panels."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        places = {name: panel for panel, names in PANELS.items() for name in names}
        self.commands = {name: self.commands[name] for name in places} | dict(self.commands)
        for name, panel in places.items():
            self.commands[name].rich_help_panel = panel  # type: ignore[attr-defined]


app = typer.Typer(
    name="mlnb",
    cls=Panels,
    help="Machine learning from notebooks: pipelines, warehouse, models, dashboards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        from .. import __version__

        print(f"mlnb {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error, and debug logs.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Machine learning from notebooks: pipelines, warehouse, models, dashboards."""
    if debug:
        os.environ["MLNB_LOGS__LEVEL"] = "debug"


def find() -> "Workspace":
    """The workspace at or above the working folder."""
    from ..workspace import find_workspace

    return find_workspace()


def reading(at: str = "") -> "Warehouse":
    """The workspace's warehouse, open for reading; as it was then, where that is asked for."""
    from ..data.warehouse import open_warehouse

    wh = open_warehouse(find(), read_only=True)
    if not at:
        return wh
    with wh:
        return wh.at(moment(at))


def as_of(wh: "Warehouse", at: str) -> AbstractContextManager["Warehouse"]:
    """A warehouse as it was then; itself, where nothing is asked for."""
    return wh.at(moment(at)) if at else nullcontext(wh)


def writing() -> "Warehouse":
    """The workspace's warehouse, open for writing."""
    from ..data.warehouse import open_warehouse

    return open_warehouse(find())


def moment(text: str) -> int | str:
    """The number of a snapshot, or an instant as text."""
    return int(text) if text.isdecimal() else text


def pairs(texts: list[str] | None, option: str) -> dict[str, str]:
    """NAME=VALUE texts as a dictionary."""
    wrong = [text for text in texts or [] if "=" not in text]
    if wrong:
        raise typer.BadParameter(f"`{wrong[0]}` is not of the form NAME=VALUE.", param_hint=option)
    return dict(text.partition("=")[::2] for text in texts or [])


def said(noun: object) -> str:
    """What a noun of ours says of itself, without the name of its class."""
    return ONE.sub(r"\1", repr(noun).partition("(")[2].removesuffix(")"))


def main() -> None:
    """Run a command; an error that we foresaw is one message and exit status 1, Ctrl-C is 130."""
    from ..errors import MLNotebooksError

    debug = "--debug" in sys.argv
    if debug:  # wherever it stands
        sys.argv = [sys.argv[0], "--debug", *(word for word in sys.argv[1:] if word != "--debug")]
    if "sql" in sys.argv:  # a query that begins with a comment is no option
        sys.argv = [f" {word}" if COMMENT.match(word) else word for word in sys.argv]
    try:
        app()
    except MLNotebooksError as error:
        fail(str(error), error, debug)
    except SystemExit as error:
        if error.code != INTERRUPTED:  # typer makes this of Ctrl-C
            raise
        fail(ENDED, error, debug, INTERRUPTED)
    except RuntimeError as error:
        if "Query interrupted" not in str(error):  # DuckDB makes this of it
            fail(unforeseen(error), error, debug)
        fail(ENDED, error, debug, INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:  # noqa: BLE001 - the last word before the shell
        fail(unforeseen(error), error, debug)


def unforeseen(error: Exception) -> str:
    """What to say about an error that no one planned for."""
    if isinstance(error, OSError) and error.errno == 28:
        return f"The disk is full: {error}. Free some space and run it again; what was published before stands."
    return f"{type(error).__name__}: {error}. This was not foreseen: `mlnb --debug …` shows where it happened."


def fail(message: str, error: BaseException, debug: bool, status: int = 1) -> None:
    """Print a message, and the traceback when asked for, and end."""
    if debug:
        import traceback

        traceback.print_exception(error)
    print(f"mlnb: {message}", file=sys.stderr)
    sys.exit(status)
