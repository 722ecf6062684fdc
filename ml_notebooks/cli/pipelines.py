"""What is known of pipelines beside their runs: graph, schedule, lineage."""

import re
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from .app import Json, app, find, reading


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
        from ..pipelines.timers import export_schedules

        for file in export_schedules(find(), export, to):
            print(file)
    else:
        from ..pipelines.schedule import serve_schedules

        serve_schedules(find(), lambda: print("The scheduler runs; Ctrl-C ends it. `mlnb schedule --list` shows what is next.", flush=True))


def list_schedules(json: bool) -> None:
    """Print what is scheduled, and end with exit status 1 where a pipeline.yaml is wrong."""
    from ..pipelines.schedule import schedule_rows
    from ..terminal import print_rows

    rows = schedule_rows(find())
    columns = ["pipeline", "cron", "time zone", "next run", "last run", "status", *["missed"] * any(row["missed"] for row in rows)]
    shown = [{name: value.isoformat(" ", "seconds") if isinstance(value, datetime) else value for name, value in row.items()} for row in rows]
    print_rows(rows if json else shown, columns, json, empty="No pipeline has a schedule: add a line such as `schedule: \"0 6 * * *\"` to a pipeline.yaml.")
    for row in rows:
        if row["error"]:
            print(f"mlnb: {row['error']}", file=sys.stderr)
    if any(row["error"] for row in rows):
        raise typer.Exit(1)


@app.command()
def graph(
    name: Annotated[str, typer.Argument(help="A pipeline: a folder in nbs/pipelines; default a list of them.")] = "",
    json: Json = False,
) -> None:
    """Draw which step of a pipeline waits for which; without a name, list the pipelines."""
    from ..pipelines.graph import check_graph, graph_rows, graph_text
    from ..pipelines.spec import load_pipeline, pipeline_names
    from ..terminal import print_rows

    if not name:
        rows = [{"pipeline": each} for each in pipeline_names(find())]
        print_rows(rows, ["pipeline"], json, empty="No pipeline: make a folder with a pipeline.yaml in nbs/pipelines.")
        return
    pipeline = load_pipeline(find(), name)
    check_graph(pipeline)
    if not json:
        print(graph_text(pipeline), end="\n\n")
    columns = ["stage", "step", "waits for", "reads", "writes"]
    print_rows(graph_rows(pipeline), columns if json else columns[:3], json)


@app.command()
def lineage(
    name: Annotated[str, typer.Argument(help="A table, `model:NAME` or `file:PATH`.")],
    json: Json = False,
) -> None:
    """Show what made a table and what reads it, from pipeline.yaml and from the runs."""
    from ..pipelines.provenance import provenance
    from ..terminal import print_json, print_rows

    with reading() as wh:
        found = provenance(wh, name)
    if json:
        print_json(found.to_dict())
        return
    if found.published:
        print(f"{name}: {found.published}")
    if found.since:
        print(found.since)
    columns = ["what", "pipeline", "step", "run", "when", "version", "known from"]
    print_rows(found.to_rows(), columns, json, empty="No step of a pipeline makes or reads it.")
    for words, names in (("Follows from", found.sources), ("Leads to", found.dependents)):
        if names:
            print(f"{words}: {', '.join(re.sub('^run:', 'MLflow run ', each) for each in names)}")
