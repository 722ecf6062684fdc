"""The feature store: what features there are, in which versions, and what was made of them."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from .app import Json, app, reading

if TYPE_CHECKING:
    from ..data.warehouse import Warehouse
    from ..features.catalogue import Entry, Models, Version
    from ..features.online import OnlineStore
    from ..features.store import FeatureStore

WIDE = 110  # columns of a terminal that has room for who uses a view


class Features(TyperGroup):
    """Commands on features; what is none of them is a word to search for."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is meant, `find` where the first word names none."""
        known = not args or args[0] in self.commands or args[0].startswith("-")
        return super().resolve_command(ctx, args if known else ["find", *args])


features = typer.Typer(cls=Features, help="List, search and show features: `mlnb features late airport` finds those with both words.", invoke_without_command=True)
app.add_typer(features, name="features")
EMPTY = "There are no features yet: run a pipeline that registers views, or `FeatureStore(wh).register(view)`."


@features.callback()
def list_features(context: typer.Context, json: Json = False) -> None:
    """List the views and on-demand features of the store; or, with words, those in which all are found."""
    if not context.invoked_subcommand:
        find_features([], json)


@features.command("find")
def find_features(
    words: Annotated[list[str], typer.Argument(help="Words, of which each is found in name, description, owner, tags, entity or features.")],
    json: Json = False,
) -> None:
    """Search for features by words; `find` may be left out."""
    from ..features.catalogue import catalogue
    from ..features.store import FeatureStore
    from ..terminal import console, print_rows

    with reading() as wh:
        found = catalogue(FeatureStore(wh), used_by(wh))
    chosen = found.search(*words) if words else found
    empty = f"None of {len(found.entries)} has {' and '.join(words)}. `mlnb features` lists them." if found.entries else EMPTY
    rows = chosen.rows() if json else [line(entry) for entry in chosen.entries]
    columns = ["name", "entity", "features", "rows", *(["computed to", "used by"] * (console(sys.stdout).width >= WIDE)), "description"]
    columns = [column for column in columns if column in ("name", "rows") or any(row.get(column) for row in rows)]
    print_rows(rows, columns, json, empty=empty, right=("rows", "features"))


def used_by(wh: "Warehouse") -> "Models":
    """The models of the workspace, each with the versions of the features that it was trained with."""
    from ..training.uses import models_and_features

    return models_and_features(wh.workspace)


def line(entry: "Entry") -> dict[str, Any]:
    """An entry as a row of the list."""
    one = entry.version
    users = one.models or one.training_sets
    return {
        "name": one.name,
        "entity": "on demand" if one.kind == "on demand" else ", ".join(entry.entity) or "everybody",
        "features": len(entry.features) or "",
        "rows": "" if entry.rows is None else f"{entry.rows:,}",
        "computed to": f"{entry.computed_to:%Y-%m-%d %H:%M}" if entry.computed_to else "",
        "used by": users[0] + (f" and {len(users) - 1} more" if users[1:] else "") if users else "",
        "description": one.definition["description"],
    }


@features.command("show")
def show_features(
    name: Annotated[str, typer.Argument(help="A view, or on-demand features.")],
    version: Annotated[str, typer.Option(help="The version whose definition to print; default the one in use.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Show the statistics of at most so many increments, the newest.")] = 3,
    json: Json = False,
) -> None:
    """Show a view: its versions and who uses them, what it looked like increment by increment, its SQL."""
    from ..errors import UnknownFeature
    from ..features.catalogue import catalogue, statistics, versions
    from ..features.store import FeatureStore
    from ..terminal import print_facts, print_json, print_rows

    with reading() as wh:
        store, models = FeatureStore(wh), used_by(wh)
        kept = versions(store, name, models)
        (entry,) = (one for one in catalogue(store, models).entries if one.version.name == name)
        looks = statistics(store, name).to_dict("records")
    chosen = {one.version: one for one in kept}.get(version or entry.version.version)
    if chosen is None:
        raise UnknownFeature(f"{name} {version}", [f"{name} {one.version}" for one in kept])
    if json:
        print_json({"versions": [vars(one) for one in kept], "in_use": entry.version.version, "rows": entry.rows, "statistics": looks})
        return
    said, row = chosen.definition, line(entry)
    facts = {"name": name, "entity": row["entity"], "description": said["description"], "owner": said["owner"], "tags": ", ".join(said["tags"])}
    print_facts({key: value for key, value in (facts | {"rows": row["rows"], "computed to": row["computed to"]}).items() if value})
    rows = [version_line(one, entry) for one in kept]
    print_rows(rows, [column for column in rows[0] if any(row[column] for row in rows)], json)
    print_looks(looks, limit)
    print(f"\n{chosen.text.strip()}")


def version_line(one: "Version", entry: "Entry") -> dict[str, Any]:
    """A version as a row."""
    in_use = " (in use)" if one.version == entry.version.version else ""
    return {
        "version": one.version + in_use,
        "registered": f"{one.registered_at:%Y-%m-%d %H:%M}",
        "by": one.registered_by,
        "run": one.run,
        "used by": ", ".join((*one.models, *one.training_sets)),
    }


def print_looks(looks: list[dict[str, Any]], limit: int) -> None:
    """Print what a view looked like in its last increments, the newest first."""
    from ..data.drawings import percent
    from ..terminal import print_rows

    increments = list(dict.fromkeys((look["version"], look["until"]) for look in looks))[-limit:][::-1]
    for version, until in increments:
        shown = [look | {"missing": percent(look["missing"])} for look in looks if (look["version"], look["until"]) == (version, until)]
        print(f"\n{version} to {until:%Y-%m-%d %H:%M}, {shown[0]['rows']:,} rows")
        print_rows(shown, ["feature", "missing", "mean", "moved", "median", "least", "greatest"], as_json=False, right=("missing", "least", "greatest"))


@features.command("push")
def push_features(
    names: Annotated[list[str] | None, typer.Argument(metavar="[VIEW]...", help="Views; default those that say `online=True`.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Put the latest row of each entity into the online store of [online] in settings.ini; exit status 1 where a view was left out."""
    from ..features.online import open_online
    from ..features.store import FeatureStore, online_names
    from ..terminal import print_rows

    with reading() as wh:
        store, online = FeatureStore(wh), open_online(wh.workspace)
        done, left_out = push_each(store, names or online_names(store), online)
        online.close()
    columns = ["view", "version", "entities", "written", "taken_out", "until"]
    rows = done if json else [one | {"until": f"{one['until']:%Y-%m-%d %H:%M}"} for one in done]
    empty = "Nothing was pushed." if left_out else "No view says `online=True`. Name one: `mlnb features push VIEW`."
    print_rows(rows, [*columns, "seconds"] if json else columns, json, empty=empty, right=("entities", "written", "taken_out"))
    for name, why in left_out.items():
        print(f"mlnb: `{name}` was left out: {why}", file=sys.stderr)
    if left_out:
        raise typer.Exit(1)


def push_each(store: "FeatureStore", names: list[str], online: "OnlineStore") -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Push views one after the other: what each push did, and why others were left out. Raises the online store's errors."""
    from ..errors import BadView, MLNotebooksError
    from ..features.online import push

    done, left_out = [], {}
    for name in names:
        try:
            done.append(vars(push(store, name, online)))
        except BadView as error:
            left_out[name] = f"{error} Or push it where its function is: `push(store, {name}, open_online(wh.workspace))`."
        except MLNotebooksError as error:
            if isinstance(error, OSError):
                raise
            left_out[name] = str(error)
    return done, left_out
