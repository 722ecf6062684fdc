"""Make a workspace, run its pipelines, see how that went."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .app import Json, app, find, pairs, reading

if TYPE_CHECKING:
    from ..pipelines.ledger import Run
    from ..pipelines.run import Observer

FIGURES = 4  # of a run, in a table of runs
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Steps at the same time; default as many as cores.")]
Force = Annotated[bool, typer.Option("--force", help="Run every step, even where nothing changed.")]


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="A new folder.")]) -> None:
    """Make a workspace with the reference pipeline in it."""
    from ..workspace import create_workspace

    create_workspace(folder)
    print(f"Made a workspace in {folder}.\nNext: cd {shlex.quote(str(folder))} && mlnb run flights")


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
    from ..pipelines.plan import Choice
    from ..pipelines.run import run_pipeline
    from ..pipelines.spec import load_pipeline, scheduled_parameters
    from ..terminal import observer

    workspace, given = find(), pairs(parameter, "--parameter")
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
    ways = {f"{typed('jupyter')} lab": "open the steps in nbs/pipelines and change them"}
    if any(workspace.dashboards.glob("*.ipynb")):
        ways = {f"{typed('mlnb')} dashboard": "performance and drift in the browser"} | ways
    width = max(map(len, ways))
    for number, (way, what) in enumerate(ways.items()):
        print(f"{'' if number else 'Next:':7} {way:{width}}   {what}")


def print_plan(name: str, parameters: dict[str, str], choice: Any, as_json: bool) -> None:
    """Print for each step of a pipeline whether it would run, and why."""
    from ..pipelines.run import prepare
    from ..terminal import print_rows

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


def json_observer() -> "Observer":
    """An observer that prints a run as JSON when it has ended, however it did."""
    from ..pipelines.run import Silent

    class AtTheEnd(Silent):
        """Says nothing before."""

        def run_finished(self, run: "Run") -> None:
            """Print the run."""
            print_run(run.run)

    return AtTheEnd()


def print_run(name: str) -> None:
    """Print a run as JSON: what `mlnb runs --json` says of it, and its steps."""
    from ..pipelines.ledger import read_runs, read_steps
    from ..terminal import print_json

    with reading() as wh:
        for run in (run for run in read_runs(wh) if run["run"] == name):  # none, where the ledger could not be written
            print_json(run | {"steps": read_steps(wh, name)})


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
    from ..pipelines.backfill import Filled, check_backfill, plan_backfill, run_backfill
    from ..pipelines.plan import Choice
    from ..pipelines.run import Silent
    from ..terminal import observer, print_rows

    ranged, fixed = [text for text in parameter if "=" not in text], [text for text in parameter if "=" in text]
    if len(ranged) != 1:
        raise typer.BadParameter(f"Give one parameter without a value; found {len(ranged)}.", param_hint="--parameter")
    workspace, filled = find(), list[Filled]()
    plan = plan_backfill(workspace, name, ranged[0], first, last, step, pairs(fixed, "--parameter"))
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
def runs(
    name: Annotated[str | None, typer.Argument(help="Only this pipeline's.")] = None,
    json: Json = False,
) -> None:
    """List runs, newest first."""
    from ..errors import UnknownPipeline
    from ..pipelines.ledger import read_runs
    from ..pipelines.spec import pipeline_names
    from ..terminal import print_rows

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
    from ..terminal import show

    rest = f", … {len(records)} in all" if len(records) > FIGURES else ""
    return show(dict(list(records.items())[:FIGURES])) + rest
