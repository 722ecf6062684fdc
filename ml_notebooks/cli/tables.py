"""The tables of the warehouse: what they hold and mean, what changed in them, and the way back."""

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from .app import At, Json, app, as_of, moment, reading, said, writing

if TYPE_CHECKING:
    from ..data.columns import ColumnProfile
    from ..data.comparison import Comparison



class Tables(TyperGroup):
    """Commands on tables, of which none is a table's name."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is meant, or what a table's name was meant for."""
        if args and "." in args[0] and args[0] not in self.commands:
            ctx.fail(f"No such command '{args[0]}'. A table is shown by `mlnb tables describe {args[0]}`.")
        return super().resolve_command(ctx, args)


tables = typer.Typer(cls=Tables, help="List the tables; profile, compare, describe, restore or tidy them.", invoke_without_command=True)
app.add_typer(tables, name="tables")
Table = Annotated[str, typer.Argument(help="A table, for example raw.flights.")]
EMPTY = "The warehouse is empty: run a pipeline, or load a file with `mlnb ingest`."
WHEN = "a snapshot (7), a day (2013-10-31) or an instant."


@tables.callback()
def list_tables(context: typer.Context, json: Json = False) -> None:
    """List the tables of the warehouse; or, with a command, do something with them."""
    from ..terminal import print_rows

    if context.invoked_subcommand:
        return
    with reading() as wh:
        frame = wh.tables()
    print_rows(frame.to_dict("records"), list(frame.columns), json, empty=EMPTY)


@tables.command("describe")
def describe_tables(
    table: Annotated[str, typer.Argument(help="A table; default all of them.")] = "",
    json: Json = False,
) -> None:
    """Show what a table means: its comment, tags, columns and who published it."""
    from ..terminal import print_facts, print_json, print_rows

    with reading() as wh:
        found = wh.describe(table)
    rows = found.lines.to_dict("records")
    if json:
        print_json({"title": found.title, "facts": dict(found.facts), "lines": rows})
        return
    print_facts({"table" if table else "workspace": found.title, **found.facts})
    columns = ["column", "type"] if table else ["table", "rows", "version"]
    columns += [name for name in ("comment", "tags") if any(row[name] for row in rows)]
    print_rows(rows, columns, json, empty=EMPTY)


@tables.command("profile")
def profile_table(table: Table, at: At = "", json: Json = False) -> None:
    """Show what the columns of a table hold, and what is suspicious about them."""
    from ..data.profile import profile
    from ..terminal import print_json, print_rows

    with reading(at) as wh:
        found = profile(wh, table)
    if json:
        print_json(found.to_dict())
        return
    print(said(found), end="\n\n")
    rows = [
        {
            "column": column.name,
            "type": column.type.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ"),
            "missing": share(column.missing_share),
            "distinct": f"{'' if column.exact else '~'}{column.distinct:,}",
            "values": values(column),
        }
        for column in found.columns
    ]
    print_rows(rows, ["column", "type", "missing", "distinct", "values"], json, right=("missing", "distinct"))
    print_remarks({name: "; ".join(remarks) for name, remarks in found.remarks().items()})


def share(part: float | None) -> str:
    """A share in percent; nothing where it is zero."""
    from ..data.drawings import percent

    return percent(part) if part else ""


def values(column: "ColumnProfile") -> str:
    """The range of numbers and times, the most frequent ones of other values."""
    from ..data.profile import end_in_words

    if column.kind in ("number", "time") and column.distinct > 1:
        return f"{end_in_words(column, column.low)} to {end_in_words(column, column.high)}"
    rest = " …" if column.distinct > len(column.top[:3]) else ""
    return ", ".join(end_in_words(column, value) for value, _ in column.top[:3]) + rest


def print_remarks(remarks: dict[str, str]) -> None:
    """Print what there is to remark on columns, below their table."""
    from ..terminal import print_rows

    if any(remarks.values()):
        print()
        print_rows([{"column": name, "remarks": text} for name, text in remarks.items() if text], ["column", "remarks"], as_json=False)


@tables.command("compare")
def compare_tables(
    table: Table,
    other: Annotated[str, typer.Argument(help="The table to compare it with; default itself.")] = "",
    at: Annotated[str, typer.Option("--at", metavar="WHEN", help=f"The first as of {WHEN}")] = "",
    later: Annotated[str, typer.Option("--with", metavar="WHEN", help=f"The second as of {WHEN}")] = "",
    json: Json = False,
) -> None:
    """Show how far the columns of two tables, or of one at two times, are apart."""
    from ..data.comparison import compare
    from ..data.profile import profile
    from ..terminal import print_json, print_rows

    if not (other or at or later):
        raise typer.BadParameter("Name a second table, or say with --at or --with when.", param_hint="OTHER")
    with reading() as wh, as_of(wh, at) as before, as_of(wh, later) as after:
        found = compare(profile(before, table), profile(after, other or table))
    if json:
        print_json(found.to_frame().to_dict("records"))
        return
    print(said(found), end="\n\n")
    rows = compared(found)
    columns = [name for name in ("column", "change", "distance", "missing", "median") if any(row[name] for row in rows)]
    print_rows(rows, columns, json, right=("distance",))
    print_remarks(dict(found.to_frame()[["column", "remarks"]].itertuples(index=False)))


def compared(found: "Comparison") -> list[dict[str, Any]]:
    """A row for each column of a comparison: one value where both sides agree."""
    from ..data.profile import end_in_words

    rows = []
    for line, (_, *both) in zip(found.to_frame().to_dict("records"), found.pairs(), strict=True):
        sides = [side for side in both if side]
        missing = " → ".join(dict.fromkeys(share(side.missing_share) or "none" for side in sides))
        median = " → ".join(dict.fromkeys(end_in_words(side, side.quantile(0.5)) for side in sides if side.percentiles))
        distance = "" if line["distance"] is None or math.isnan(line["distance"]) else f"{line['distance']:.2f}"
        rows.append({**line, "distance": distance, "missing": "" if missing == "none" else missing, "median": median})
    return rows


@tables.command("history")
def list_snapshots(
    table: Annotated[str, typer.Argument(help="Only the snapshots that changed this table.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Show at most so many, the newest.")] = 20,
    json: Json = False,
) -> None:
    """List the snapshots, newest first: what changed, when and by whom."""
    from ..terminal import print_rows

    with reading() as wh:
        rows = [row | {"tables": list(row["tables"])} for row in wh.snapshots().to_dict("records") if not table or table in row["tables"]]
        if table and not rows:
            wh.table(table)  # raises where there is none
    shown = [row | {"tables": ", ".join(row["tables"])} for row in rows[:limit]]
    print_rows(rows[:limit] if json else shown, ["snapshot", "published", "author", "message", "tables"], json, empty="There is no snapshot yet.")


@tables.command("diff")
def diff_table(
    table: Table,
    before: Annotated[str, typer.Argument(metavar="FROM", help=f"As of {WHEN}")],
    key: Annotated[list[str], typer.Option("--key", metavar="NAME", help="A column that tells rows apart; repeatable.")],
    after: Annotated[str, typer.Argument(metavar="TO", help="As of another; default now.")] = "",
    json: Json = False,
) -> None:
    """Show which rows and values of a table changed between two points in time."""
    from ..terminal import print_json, print_rows

    with reading() as wh:
        found = wh.diff(table, moment(before), moment(after) if after else None, key)
    columns, sample = found.columns.to_dict("records"), found.sample.to_dict("records")
    if json:
        print_json(vars(found) | {"columns": columns, "sample": sample})
        return
    print(said(found))
    for rows, frame in ((columns, found.columns), (sample, found.sample)):
        if rows:
            print()
            print_rows(rows, list(frame.columns), json)


@tables.command("restore")
def restore_table(
    table: Table,
    when: Annotated[str, typer.Argument(metavar="WHEN", help=f"As of {WHEN}")],
) -> None:
    """Make a table what it was. What it is now stays in the snapshots."""
    with writing() as wh:
        snapshot = wh.restore(table, moment(when))
        rows = wh.tables(table)["rows"].iloc[0]
    print(f"{table} has the {rows:,} rows again that it had at {'snapshot ' if when.isdecimal() else ''}{when}; snapshot {snapshot}")


@tables.command("maintain")
def maintain_tables(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which snapshots and files would go.")] = False,
    json: Json = False,
) -> None:
    """Merge small files, let snapshots expire as settings.ini says, delete what nothing refers to."""
    from ..data.upkeep import maintain
    from ..terminal import print_rows

    with writing() as wh:
        done = maintain(wh, dry_run=dry_run)
    print_rows(done.steps.to_dict("records"), list(done.steps.columns), json, empty="Nothing to do.")
