"""Personal data: where it is, what is held of a person, how she is erased; and the record of all that."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import Json, app, find, pairs, reading, said, writing

if TYPE_CHECKING:
    from ..data.subjects import SubjectData

privacy = typer.Typer(help="Find personal data; hand out, or erase, what is held of a person.", no_args_is_help=True)
app.add_typer(privacy, name="privacy")
Key = Annotated[str, typer.Argument(help="The column that people are known by, for example customer_id.")]
Value = Annotated[str, typer.Argument(help="Which person.")]
Also = Annotated[
    list[str] | None, typer.Option("--also", metavar="TABLE=COLUMN", help="A table in which that column is called otherwise; repeatable.")
]


@privacy.command("find")
def find_in_table(
    table: Annotated[str, typer.Argument(help="A table, for example raw.customers.")],
    sample: Annotated[int, typer.Option(min=0, metavar="ROWS", help="Rows to look at, drawn at random; 0 for all.")] = 20_000,
    json: Json = False,
) -> None:
    """Show which columns of a table hold personal data, with masked evidence."""
    from ..data.drawings import percent
    from ..data.personal_data import find_personal_data
    from ..terminal import print_json, print_rows

    with reading() as wh:
        found = find_personal_data(wh, table, sample or None)
    rows = [vars(finding) for finding in found.findings]
    if json:
        print_json(vars(found) | {"findings": rows})
        return
    print(said(found), end="\n\n")
    shown = [row | {"sure": percent(row["confidence"]), "for example": next(iter(row["evidence"]), "")} for row in rows]
    columns = ["column", "kind", "sure", "for example", "why"]
    print_rows(shown, columns, json, empty="No column looks as if it held personal data.", right=("sure",))


@privacy.command("export")
def export_person(
    key: Key,
    value: Value,
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Write the rows into this file, as JSON, for the person herself.")] = None,
    also: Also = None,
    json: Json = False,
) -> None:
    """Show, or write into a file, what is held of a person. It is put on record."""
    from ..data.subjects import export
    from ..terminal import print_json, print_rows

    with reading() as wh:
        found = export(wh, key, value, pairs(also, "--also"))
    if to:
        save(found, to)
    traces = [vars(trace) for trace in found.traces]
    if json:
        print_json({"key": key, "tables": found.to_dict(), "history": found.history, "traces": traces, "unsure": found.unsure})
        return
    print(said(found), end="\n\n")
    print_rows(found.to_frame().to_dict("records"), ["table", "rows", "columns"], json, empty=f"No row of today's has this {key}.")
    if traces:
        print("\nElsewhere in the workspace:")
        print_rows(traces, ["place", "how", "what"], json)
    if to:
        print(f"\nThe rows are in {to}.")


def save(found: "SubjectData", file: Path) -> None:
    """Write a person's rows into a file."""
    try:
        found.save(file)
    except OSError as error:
        raise typer.BadParameter(f"`{file}` cannot be written: {error.strerror}.", param_hint="--to") from None


@privacy.command("erase")
def erase_person(
    key: Key,
    value: Value,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    also: Also = None,
    json: Json = False,
) -> None:
    """Remove a person's rows from every table, snapshot and file, and search for what is left. It is put on record."""
    from ..data.erasure import erase
    from ..terminal import print_json, print_rows

    called = pairs(also, "--also")
    if not yes:
        confirm(key, value)
    with writing() as wh:
        done = erase(wh, key, value, called)
    traces = [vars(trace) for trace in done.traces]
    if json:
        print_json(vars(done) | {"rows": dict(done.rows), "traces": traces})
    else:
        nobody = not (done.rows or done.snapshots or done.traces)
        print(f"Nobody with {key} {value} was found, in any table or snapshot. Nothing was erased." if nobody else said(done))
        for rows, columns in (([{"table": name, "rows": count} for name, count in done.rows.items()], ["table", "rows"]), (traces, ["place", "how", "what"])):
            if rows:
                print()
                print_rows(rows, columns, json)
    done.raise_if_traced()


def confirm(key: str, value: str) -> None:
    """Ask whether a person is really to be erased, and end where she is not."""
    if not sys.stdin.isatty():
        raise typer.BadParameter("Nothing was erased: there is no terminal to ask in. Give --yes if you are sure.", param_hint="--yes")
    print(f"All rows with {key} = {value} go, from every table, snapshot and file. There is no way back.", file=sys.stderr)
    if typer.prompt(f"Type {value} to erase them", default="", show_default=False, err=True) != value:
        print("mlnb: Nothing was erased: what you typed is not that.", file=sys.stderr)
        raise typer.Exit(1)


audit = typer.Typer(help="Who published, who read personal data, who erased: the record, and whether it is as it was written.", no_args_is_help=True)
app.add_typer(audit, name="audit")



@audit.command("list")
def audit_list(
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many, the newest.")] = 20,
    json: Json = False,
) -> None:
    """List what is on record, the oldest first."""
    from ..data.audit import read_audit
    from ..terminal import console, print_rows

    rows = read_audit(find())[-limit:]
    shown = [{"run": "", "step": ""} | row | {"time": f"{row['time'][:19].replace('T', ' ')}Z", "tables": ", ".join(row.get("tables", []))} for row in rows]
    run = ["run"] * (console(sys.stdout).width >= 120)  # a narrower terminal keeps the rest of an entry on its line
    print_rows(rows if json else shown, ["number", "time", "user", *run, "step", "action", "tables"], json, empty="Nothing is on record yet.")


@audit.command("verify")
def audit_verify(
    head: Annotated[str, typer.Option(help="The head that was noted earlier: its entry must still be there.")] = "",
) -> None:
    """Hold the record against its chain of hashes and against the warehouse's snapshots; exit status 1 where it was changed."""
    from ..data.audit import verify_audit

    with reading() as wh:
        audit = verify_audit(wh, head).raise_if_broken()
    keyed = sum(bool(entry["keyed"]) for entry in audit.entries)
    print(f"{len(audit.entries)} entries, {keyed} of them with the key: as they were written.\nHead: {audit.head or 'none'}")
