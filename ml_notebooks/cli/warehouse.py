"""Rows into the warehouse, and queries on it."""

import re
from typing import Annotated, Literal

import typer

from ..errors import MLNotebooksError
from .app import At, Json, app, pairs, reading, said, writing

SHOW_TABLES = re.compile(r"\s*show\s+tables\s*;?\s*", re.IGNORECASE)
OPTIONS = """What the source takes besides, as missing=NA or types.zip=VARCHAR; repeatable.
Files: format, delimiter, missing, encoding, types.COLUMN, part, decimal, thousands, date_format, timestamp_format; of a store, credential, storage.KEY.
Databases: table, query, credential, batch; ClickHouse also secure.
Web: parameters.NAME, format, records, pages, page, size, next, auth, credential, header, since, timeout, retries, patience, per_second, most; of CSV, what files take.
MongoDB: collection, filter.FIELD, credential, batch. Redis: match, kind, credential, batch."""
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
        typer.Option("--option", "-o", metavar="NAME=VALUE", help=OPTIONS),
    ] = None,
    json: Json = False,
) -> None:
    """Load files, a database or a web address into a table; malformed rows are kept aside."""
    from ..data.sources import options_from_text
    from ..terminal import print_json

    try:
        options = options_from_text(source, given(option))
        with writing() as wh:
            done = wh.ingest(table, source, mode=mode, keys=key or (), cursor=cursor, on_change=on_change, max_rejects=max_rejects, delete=delete, **options)
    except MLNotebooksError as error:
        error.what, error.found, error.do = map(in_a_terminal, (error.what, error.found, error.do))
        raise
    if json:
        print_json(vars(done))
        return
    print(f"{said(done)}; snapshot {done.snapshot}")
    for change in done.changes:
        print(f"Column {change}")
    for remark in done.remarks:
        print(in_a_terminal(remark))
    if done.rejected:
        print(f"The rejected rows, each with its line and the reason: {table}__rejects")
    if done.watermark is not None:
        print(f"Read up to {cursor} {done.watermark}")


def given(texts: list[str] | None) -> dict[str, str | list[str]]:
    """NAME=VALUE texts as a dictionary; a name that is given several times has a list."""
    found: dict[str, str | list[str]] = {}
    for text in texts or []:
        ((name, value),) = pairs([text], "--option").items()
        held = found.get(name)
        found[name] = value if held is None else [*([held] if isinstance(held, str) else held), value]
    return found


def in_a_terminal(text: str) -> str:
    """A message of `wh.ingest`, its arguments as words of the command line."""
    text = text.replace("; `.rejects` of this error holds them", "").replace('`missing=["-", "n/a"]`', "`-o missing=- -o missing=n/a`")
    text = re.sub(r"`(on_change|mode)=[\"']?(\w+)[\"']?`", lambda found: f"`--{found[1].replace('_', '-')} {found[2]}`", text)
    for name, flag in (("max_rejects", "--max-rejects"), ("on_change", "--on-change"), ("keys", "--key"), ("cursor", "--cursor"), ("delete", "--delete")):
        text = text.replace(f"`{name}`", f"`{flag}`")
    return re.sub(r"`(\w+)=[\"']?([^`\"']*)[\"']?`", r"`-o \1=\2`", text)


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
