"""Rows into the warehouse, and queries on it."""

import re
from typing import Annotated, Literal

import typer

from .app import At, Json, app, pairs, reading, said, writing

SHOW_TABLES = re.compile(r"\s*show\s+tables\s*;?\s*", re.IGNORECASE)
AS_TEXT = "CAST(COLUMNS(*) AS VARCHAR)"  # DuckDB's own: nothing rounded, an instant with its zone
FIGURES = re.compile(r"(U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|UINTEGER|FLOAT|DOUBLE|DECIMAL\(.*\))")
NO_TABLES = "No rows: this looks into the schema `main` only. `mlnb tables` lists the tables of all schemas."


@app.command()
def ingest(
    table: Annotated[str, typer.Argument(help="The table that the rows go into, for example raw.orders.")],
    source: Annotated[str, typer.Argument(help="A file, a folder, a pattern in quotes, or an address: https://…, postgresql://…, s3://….")],
    mode: Annotated[
        Literal["replace", "append", "merge", "incremental"],
        typer.Option(help="Instead of the table's rows; beside them; by key; or only what is new by --cursor."),
    ] = "replace",
    key: Annotated[list[str] | None, typer.Option("--key", metavar="NAME", help="A column that tells rows apart; repeatable.")] = None,
    cursor: Annotated[str, typer.Option(metavar="NAME", help="A column that only grows, such as updated_at.")] = "",
    on_change: Annotated[
        Literal["fail", "add", "widen"],
        typer.Option(help="Where columns differ from the table's: fail, add the new ones, or widen types too."),
    ] = "fail",
    max_rejects: Annotated[int, typer.Option(min=0, metavar="N", help="Malformed rows that are allowed for; they go to TABLE__rejects.")] = 0,
    delete: Annotated[bool, typer.Option("--delete", help="In a merge, remove the rows that the source no longer has.")] = False,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", metavar="NAME=VALUE", help="What the source takes besides: missing=NA, types.zip=VARCHAR; repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Load files, a database or a web address into a table; malformed rows are kept aside."""
    from ..data.sources import options_from_text
    from ..terminal import print_json

    options = options_from_text(source, pairs(option, "--option"))
    with writing() as wh:
        done = wh.ingest(table, source, mode=mode, keys=key or (), cursor=cursor, on_change=on_change, max_rejects=max_rejects, delete=delete, **options)
    if json:
        print_json(vars(done))
        return
    print(f"{said(done)}; snapshot {done.snapshot}")
    for change in done.changes:
        print(f"Column {change}")
    if done.rejected:
        print(f"The rejected rows, each with its line and the reason: {table}__rejects")
    if done.watermark is not None:
        print(f"Read up to {cursor} {done.watermark}")


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help='One query, for example "FROM raw.flights LIMIT 5". It may begin with a comment.')],
    at: At = "",
    limit: Annotated[int, typer.Option(min=1, help="Print at most so many rows; JSON prints all.")] = 100,
    json: Json = False,
) -> None:
    """Query the warehouse."""
    import duckdb

    from ..data.messages import explain_query
    from ..terminal import print_rows

    with reading(at) as wh:
        relation = wh.sql(query)
        try:
            found = (relation if json else relation.limit(limit + 1).project(AS_TEXT)).to_arrow_table()
            rows = found.rename_columns(columns := told_apart(relation.columns)).to_pylist()
            figures = [column for column, kind in zip(columns, relation.types, strict=True) if FIGURES.fullmatch(str(kind))]
        except duckdb.Error as error:
            raise explain_query(error, wh.workspace, query, wh.names, wh.snapshot) from error
    empty = NO_TABLES if SHOW_TABLES.fullmatch(query) else "No rows."
    print_rows(rows if json else rows[:limit], columns, json, empty, right=figures)
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
