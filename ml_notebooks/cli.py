"""The command `mlnb`.

Written by hand: it is no story, only the way from a terminal to the verbs of the package. Every import of weight
stands inside the command that needs it, so that `mlnb --help` is quick.
"""

import os
import re
import shutil
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from .pipelines.ledger import Run
    from .pipelines.run import Observer
    from .workspace import Workspace

app = typer.Typer(
    name="mlnb",
    help="Machine learning from notebooks: pipelines, warehouse, models, dashboards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
INTERRUPTED = 130  # exit status of a command that Ctrl-C ended
ENDED = "Interrupted. What was published and executed so far is kept; `mlnb runs` shows the runs."
SHOW_TABLES = re.compile(r"\s*show\s+tables\s*;?\s*", re.IGNORECASE)
NO_TABLES = "No rows: this looks into the schema `main` only. `mlnb tables` lists the tables of all schemas."
COMMENT = re.compile(r"--[^=\s]*\s")  # how a query begins that begins with a comment; an option holds no space there
FIGURES = 4  # of a run, in a table of runs
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Steps at the same time; default as many as cores.")]
Force = Annotated[bool, typer.Option("--force", help="Run every step, even where nothing changed.")]


def version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        from . import __version__

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


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="A new folder.")]) -> None:
    """Make a workspace with the reference pipeline in it."""
    from .workspace import create_workspace

    create_workspace(folder)
    print(f"Made a workspace in {folder}.\nNext: cd {folder} && mlnb run flights")


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="A pipeline: a folder in nbs/pipelines.")],
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="NAME=VALUE for every step that declares it, or STEP.NAME=VALUE.")
    ] = None,
    jobs: Jobs = None,
    force: Force = False,
    begin: Annotated[str, typer.Option("--from", metavar="STEP", help="Run this step and all that need it, even where nothing changed; leave the others.")] = "",
    only: Annotated[list[str] | None, typer.Option("--only", metavar="STEP", help="Run this step alone, even where nothing changed; repeatable.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the last run, which failed: what it did stays done.")] = False,
    scheduled: Annotated[
        bool, typer.Option("--scheduled", help="With the parameters of its schedule; where another run goes on, wait for it.")
    ] = False,
    why: Annotated[bool, typer.Option("--why", help="Say for each step why it would run, and run nothing.")] = False,
    json: Json = False,
) -> None:
    """Run a pipeline's notebooks, each after those that it needs; a step whose last result still stands is not run again."""
    from .pipelines.plan import Choice
    from .pipelines.run import run_pipeline
    from .pipelines.spec import load_pipeline, scheduled_parameters
    from .terminal import observer

    workspace, given = find(), split_parameters(parameter or [])
    given = scheduled_parameters(load_pipeline(workspace, name)) | given if scheduled else given
    choice = Choice(force, begin, tuple(only or ()), resume)
    if why:
        print_plan(name, given, choice, json)
        return
    run = run_pipeline(workspace, name, given, json_observer() if json else observer(workspace), jobs, choice, patient=scheduled)
    if json:
        return
    report = Path(os.path.relpath(workspace.path(run.report) / "index.html"))
    print(f"Report: {report}")
    dashboard, lab = f"{typed('mlnb')} dashboard", f"{typed('jupyter')} lab"
    width = max(len(dashboard), len(lab))
    print(f"Next:   {dashboard:{width}}   performance and drift in the browser")
    print(f"        {lab:{width}}   open the steps in nbs/pipelines and change them")


def print_plan(name: str, parameters: dict[str, str], choice: Any, as_json: bool) -> None:
    """Print for each step of a pipeline whether it would run, and why."""
    from .pipelines.run import prepare
    from .terminal import print_rows

    with reading() as wh:
        plan = prepare(wh, name, parameters, choice).plan
    rows = [{"step": step, "runs": bool(reasons), "why": reasons} for step, reasons in plan.items()]
    said = [
        {"step": step, "runs": "yes" if reasons else "no", "why": "; ".join(reasons) or "its last result stands"}
        for step, reasons in plan.items()
    ]
    print_rows(rows if as_json else said, ["step", "runs", "why"], as_json)


def typed(program: str) -> str:
    """How to call a program of this environment from the working folder: by its name, or by its path where the shell would find none or another."""
    ours, found = Path(sys.executable).parent / program, shutil.which(program)
    if not ours.exists() or (found and os.path.samefile(found, ours)):
        return program
    path = os.path.relpath(ours)
    return str(ours) if path.startswith(os.pardir) else path


@app.command()
def backfill(
    name: Annotated[str, typer.Argument(help="A pipeline: a folder in nbs/pipelines.")],
    first: Annotated[str, typer.Option("--from", help="The first value: a whole number, a day (2013-01-31) or a month (2013-01).")],
    last: Annotated[str, typer.Option("--to", help="The last value; it is run too.")],
    parameter: Annotated[
        list[str], typer.Option("--parameter", "-p", help="The parameter that takes these values; NAME=VALUE for another that keeps one.")
    ],
    step: Annotated[int, typer.Option(min=1, help="From one value to the next: numbers, days or months.")] = 1,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Go on after a run that failed.")] = False,
    jobs: Jobs = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Run a pipeline once for each value of a range."""
    from .pipelines.backfill import Filled, check_backfill, plan_backfill, run_backfill
    from .pipelines.plan import Choice
    from .pipelines.run import Silent
    from .terminal import observer, print_rows

    ranged, fixed = [text for text in parameter if "=" not in text], [text for text in parameter if "=" in text]
    if len(ranged) != 1:
        raise typer.BadParameter(f"Give one parameter without a value; found {len(ranged)}.", param_hint="--parameter")
    workspace, filled = find(), list[Filled]()
    plan = plan_backfill(workspace, name, ranged[0], first, last, step, split_parameters(fixed))
    watch, tell = (Silent(), lambda value: None) if json else (observer(workspace), lambda value: print(f"\n{ranged[0]} = {value}", flush=True))
    try:
        for one in run_backfill(workspace, plan, watch, jobs, Choice(force), keep_going, tell):
            filled.append(one)
    except KeyboardInterrupt:
        print(f"mlnb: Go on with `{plan.command(plan.values[len(filled)])}`", file=sys.stderr)
        raise
    finally:
        print("" if json else "\n", end="")
        print_rows([vars(one) for one in filled], ["value", "status", "run", "seconds"], json, empty="No run has ended.")
    check_backfill(plan, filled)


@app.command()
def schedule(
    listed: Annotated[bool, typer.Option("--list", help="Show what is scheduled, when it runs next and how it went.")] = False,
    export: Annotated[Literal["cron", "systemd"] | None, typer.Option("--export", help="Write files for cron or systemd instead.")] = None,
    to: Annotated[Path, typer.Option("--to", help="The folder for these files.")] = Path(),
    json: Json = False,
) -> None:
    """Run pipelines as the schedules in their pipeline.yaml say, until Ctrl-C."""
    if export and listed:
        raise typer.BadParameter("Give one of them.", param_hint="--list, --export")
    if listed or json:
        list_schedules(json)
    elif export:
        from .pipelines.timers import export_schedules

        for file in export_schedules(find(), export, to):
            print(file)
    else:
        from .pipelines.schedule import serve_schedules

        serve_schedules(find(), lambda: print("The scheduler runs; Ctrl-C ends it. `mlnb schedule --list` shows what is next.", flush=True))


def list_schedules(json: bool) -> None:
    """Print what is scheduled, and end with exit status 1 where a pipeline.yaml is wrong."""
    from .pipelines.schedule import schedule_rows
    from .terminal import print_rows

    rows = schedule_rows(find())
    columns = ["pipeline", "cron", "time zone", "next run", "last run", "status"]
    shown = [{name: value.isoformat(" ", "seconds") if isinstance(value, datetime) else value for name, value in row.items()} for row in rows]
    print_rows(rows if json else shown, columns, json, empty="No pipeline has a schedule: add a line such as `schedule: \"0 6 * * *\"` to a pipeline.yaml.")
    for row in rows:
        if row["error"]:
            print(f"mlnb: {row['error']}", file=sys.stderr)
    if any(row["error"] for row in rows):
        raise typer.Exit(1)


@app.command()
def graph(
    name: Annotated[str, typer.Argument(help="A pipeline: a folder in nbs/pipelines.")],
    json: Json = False,
) -> None:
    """Draw which step of a pipeline waits for which."""
    from .pipelines.graph import check_graph, graph_rows, graph_text
    from .pipelines.spec import load_pipeline
    from .terminal import print_rows

    pipeline = load_pipeline(find(), name)
    check_graph(pipeline)
    if not json:
        print(graph_text(pipeline), end="\n\n")
    columns = ["stage", "step", "waits for", "reads", "writes"]
    print_rows(graph_rows(pipeline), columns if json else columns[:3], json)


def json_observer() -> "Observer":
    """An observer that prints a run as JSON when it has ended, however it did."""
    from .pipelines.run import Silent

    class AtTheEnd(Silent):
        """Says nothing before."""

        def run_finished(self, run: "Run") -> None:
            """Print the run."""
            print_run(run.run)

    return AtTheEnd()


def print_run(name: str) -> None:
    """Print a run as JSON: what `mlnb runs --json` says of it, and its steps."""
    from .pipelines.ledger import read_runs, read_steps
    from .terminal import print_json

    with reading() as wh:
        for run in (run for run in read_runs(wh) if run["run"] == name):  # none, where the ledger could not be written
            print_json(run | {"steps": read_steps(wh, name)})


def split_parameters(texts: list[str]) -> dict[str, str]:
    """NAME=VALUE texts as a dictionary."""
    pairs = dict(text.partition("=")[::2] for text in texts)
    wrong = [text for text in texts if "=" not in text]
    if wrong:
        raise typer.BadParameter(f"`{wrong[0]}` is not of the form NAME=VALUE.", param_hint="--parameter")
    return pairs


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help='One query, for example "FROM raw.flights LIMIT 5". It may begin with a comment.')],
    at: Annotated[int | None, typer.Option(help="Read as of this snapshot.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Print at most so many rows; JSON prints all.")] = 100,
    json: Json = False,
) -> None:
    """Query the warehouse."""
    import duckdb

    from .data.messages import explain_query
    from .terminal import print_rows

    with reading() as wh:
        source = wh if at is None else wh.at(at)
        relation = source.sql(query)
        try:
            found = (relation if json else relation.limit(limit + 1)).to_arrow_table()
            rows = found.rename_columns(columns := told_apart(relation.columns)).to_pylist()
        except duckdb.Error as error:
            raise explain_query(error, wh.workspace, query, source.names, at) from error
        print_rows(rows if json else rows[:limit], columns, json, empty=NO_TABLES if SHOW_TABLES.fullmatch(query) else "No rows.")
    if not json and len(rows) > limit:
        print(f"… and more: --limit {limit * 10} shows more of them")


def told_apart(names: list[str]) -> list[str]:
    """The names of columns, the second of one name numbered: `n`, `n_1`."""
    seen: dict[str, int] = {}
    found: list[str] = []
    for name in names:
        number = seen.get(name, 0)
        while (told := f"{name}_{number}" if number else name) in found or (number and told in names):
            number += 1
        seen[name] = number + 1
        found.append(told)
    return found


tables = typer.Typer(help="List the tables of the warehouse, or tidy them up.", invoke_without_command=True)
app.add_typer(tables, name="tables")


@tables.callback()
def list_tables(context: typer.Context, json: Json = False) -> None:
    """List the tables of the warehouse."""
    from .terminal import print_rows

    if context.invoked_subcommand:
        return
    with reading() as wh:
        frame = wh.tables()
        print_rows(frame.to_dict("records"), list(frame.columns), json, empty="The warehouse is empty: run a pipeline first.")


@tables.command("maintain")
def maintain_tables(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which snapshots and files would go.")] = False,
    json: Json = False,
) -> None:
    """Merge small files, let snapshots expire as settings.ini says, delete what nothing refers to."""
    from .data.upkeep import maintain
    from .data.warehouse import open_warehouse
    from .terminal import print_rows

    with open_warehouse(find()) as wh:
        done = maintain(wh, dry_run=dry_run)
    print_rows(done.steps.to_dict("records"), list(done.steps.columns), json, empty="Nothing to do.")


@app.command()
def lineage(
    name: Annotated[str, typer.Argument(help="A table, `model:NAME` or `file:PATH`.")],
    json: Json = False,
) -> None:
    """Show what made a table and what reads it, from pipeline.yaml and from the runs."""
    from .pipelines.provenance import provenance
    from .terminal import print_json, print_rows

    with reading() as wh:
        found = provenance(wh, name)
    if json:
        print_json(found.to_dict())
        return
    if found.published:
        print(f"{name}: {found.published}")
    columns = ["what", "pipeline", "step", "run", "when", "version", "known from"]
    print_rows(found.to_rows(), columns, json, empty="No step of a pipeline makes or reads it.")
    for words, names in (("Follows from", found.sources), ("Leads to", found.dependents)):
        if names:
            print(f"{words}: {', '.join(names)}")


@app.command()
def runs(
    name: Annotated[str | None, typer.Argument(help="Only this pipeline's.")] = None,
    json: Json = False,
) -> None:
    """List runs, newest first."""
    from .errors import UnknownPipeline
    from .pipelines.ledger import read_runs
    from .pipelines.spec import pipeline_names
    from .terminal import print_rows

    with reading() as wh:
        rows = read_runs(wh, name)
        if name and not rows:
            known = pipeline_names(wh.workspace)
            if name not in known:
                raise UnknownPipeline(name, {*known, *(run["pipeline"] for run in read_runs(wh))})
    shown = ["run", "pipeline", "status", "started", "seconds", "records", "report"]
    empty = f"No run of `{name}` yet." if name else "No run yet."
    print_rows(rows if json else [row | {"records": first_figures(row["records"])} for row in rows], shown, json, empty=empty)


def first_figures(records: dict[str, Any]) -> str:
    """The first few figures of a run, and how many it has."""
    from .terminal import show

    rest = f", … {len(records)} in all" if len(records) > FIGURES else ""
    return show(dict(list(records.items())[:FIGURES])) + rest


@app.command()
def dashboard(
    name: Annotated[str, typer.Argument(help="A notebook in nbs/dashboards.")] = "overview",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on; default from settings.ini.")] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Serve a dashboard with Voila."""
    from .dashboards.serve import serve

    serve(find(), name, port, browser)


kernel = typer.Typer(help="Warm kernels: install the kernelspec, see and stop their parents.", no_args_is_help=True)
app.add_typer(kernel, name="kernel")


@kernel.command("install")
def kernel_install() -> None:
    """Install the kernelspec `mlnb`, for JupyterLab, papermill, nbval and Voila."""
    from .pipelines.kernels import KERNEL_NAME, install_kernelspec

    print(f"Installed `{KERNEL_NAME}`, Python 3 (warm), in {install_kernelspec()}")


@kernel.command("status")
def kernel_status(json: Json = False) -> None:
    """List the processes that warm kernels are forked from."""
    from .pipelines.kernels import parents
    from .terminal import print_rows

    rows = [
        {
            "pid": parent["pid"],
            "since": datetime.fromtimestamp(parent["since"], timezone.utc),
            "kernels": len(parent["kernels"]),
            "forked": parent["forked"],
            "MiB": round(parent["memory"] / 2**20),
            "loaded": len(parent["loaded"]),
        }
        for parent in parents()
    ]
    columns = ["pid", "since", "kernels", "forked", "MiB", "loaded"]
    print_rows(rows, columns, json, empty="No warm parent runs. The first warm kernel starts one.")


@kernel.command("stop")
def kernel_stop() -> None:
    """Stop these processes; kernels that were forked from them go on."""
    from .pipelines.kernels import stop_parents

    print(f"Stopped {stop_parents()}.")


audit = typer.Typer(help="Who published, who read personal data, who erased: the record, and whether it is as it was written.", no_args_is_help=True)
app.add_typer(audit, name="audit")


@audit.command("list")
def audit_list(
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many, the newest.")] = 20,
    json: Json = False,
) -> None:
    """List what is on record, the oldest first."""
    from .data.audit import read_audit
    from .terminal import print_rows

    rows = read_audit(find())[-limit:]
    shown = [{"run": "", "step": ""} | row | {"tables": ", ".join(row.get("tables", []))} for row in rows]
    print_rows(rows if json else shown, ["number", "time", "user", "run", "step", "action", "tables"], json, empty="Nothing is on record yet.")


@audit.command("verify")
def audit_verify(
    head: Annotated[str, typer.Option(help="The head that was noted earlier: its entry must still be there.")] = "",
) -> None:
    """Hold the record against its chain of hashes and against the warehouse's snapshots; exit status 1 where it was changed."""
    from .data.audit import verify_audit

    with reading() as wh:
        audit = verify_audit(wh, head).raise_if_broken()
    keyed = sum(bool(entry["keyed"]) for entry in audit.entries)
    print(f"{len(audit.entries)} entries, {keyed} of them with the key: as they were written.\nHead: {audit.head or 'none'}")


@app.command()
def doctor(json: Json = False) -> None:
    """Say what is installed, where things live, what is wrong and how to mend it."""
    from .doctor import examine
    from .terminal import print_rows

    findings = examine()
    print_rows([vars(finding) for finding in findings], ["what", "state", "found", "do"], json)
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(1)


def find() -> "Workspace":
    """The workspace at or above the working folder."""
    from .workspace import find_workspace

    return find_workspace()


def reading() -> Any:
    """The workspace's warehouse, open for reading."""
    from .data.warehouse import open_warehouse

    return open_warehouse(find(), read_only=True)


def main() -> None:
    """Run a command; an error that we foresaw is one message and exit status 1, Ctrl-C is 130."""
    from .errors import MLNotebooksError

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
