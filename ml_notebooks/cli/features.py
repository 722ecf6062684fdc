"""The feature store: what features there are, in which versions, and what was made of them."""

import sys
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from .app import Json, app, reading

if TYPE_CHECKING:
    from ..data.warehouse import Warehouse
    from ..features.catalogue import Entry, Models, Version
    from ..features.online import OnlineStore
    from ..features.store import FeatureStore

SPARE = ("features", "description", "entity")  # columns that a narrow terminal does without; `mlnb features show` has them


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
    from ..terminal import print_rows

    with reading() as wh:
        found = catalogue(FeatureStore(wh), used_by(wh))
    chosen = found.search(*words) if words else found
    empty = f"None of {len(found.entries)} has {' and '.join(words)}. `mlnb features` lists them." if found.entries else EMPTY
    rows = chosen.rows() if json else [line(entry) for entry in chosen.entries]
    columns = ["name", "entity", "features", "rows", "computed to (UTC)", "used by", "description"]
    columns = [column for column in columns if column in ("name", "rows") or any(row.get(column) for row in rows)]
    print_rows(rows, columns, json, empty=empty, right=("rows", "features"), spare=SPARE)


def used_by(wh: "Warehouse") -> "Models":
    """The models of the workspace, each with the versions of the features that it was trained with."""
    from ..training.uses import models_and_features

    return models_and_features(wh.workspace)


def line(entry: "Entry") -> dict[str, Any]:
    """An entry as a row of the list."""
    one = entry.version
    users = [user.partition(" (")[0] for user in (*one.models, *one.training_sets)]
    return {
        "name": one.name,
        "entity": "on demand" if one.kind == "on demand" else ", ".join(entry.entity) or "everybody",
        "features": len(entry.features) or "",
        "rows": "" if entry.rows is None else f"{entry.rows:,}",
        "computed to (UTC)": f"{entry.computed_to:%Y-%m-%d %H:%M}" if entry.computed_to else "",
        "used by": users[0] + (f" +{len(users) - 1}" if users[1:] else "") if users else "",
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
        newest = newest_row(wh, entry)
    chosen = {one.version: one for one in kept}.get(version or entry.version.version)
    if chosen is None:
        raise UnknownFeature(f"{name} {version}", [f"{name} {one.version}" for one in kept])
    if json:
        print_json({"versions": [vars(one) for one in kept], "in_use": entry.version.version, "rows": entry.rows, "computed_to": entry.computed_to, "newest_row": newest, "statistics": looks})
        return
    said, row = chosen.definition, line(entry)
    facts = {"name": name, "entity": row["entity"], "description": said["description"], "owner": said["owner"], "tags": ", ".join(said["tags"])}
    computed = f"{row['computed to (UTC)']} UTC" if entry.computed_to else "not computed yet" * (entry.version.kind == "view")
    facts |= {"rows": row["rows"], "computed to": computed, "newest row": f"{newest:%Y-%m-%d %H:%M} UTC" if newest else ""}
    facts |= {"ttl": str(timedelta(seconds=said["ttl"])).removesuffix(", 0:00:00") if "ttl" in said else ""}
    print_facts({key: value for key, value in facts.items() if value})
    rows = [version_line(one, entry) for one in kept]
    print_rows(rows, [column for column in rows[0] if any(row[column] for row in rows)], json, spare=("run", "by", "registered"))
    print_looks(sorted(looks, key=lambda look: look["version"] == entry.version.version), limit)
    print(f"\n{chosen.text.strip()}")


def newest_row(wh: "Warehouse", entry: "Entry") -> datetime | None:
    """When the newest row of a view became known; nothing where it has none."""
    from ..data.catalog import identifier

    if not entry.rows:
        return None
    found: datetime = wh.sql(f"SELECT max({identifier(entry.version.definition['timestamp'])}) FROM features.{entry.version.name}").fetchall()[0][0]
    return found.astimezone(timezone.utc)


def version_line(one: "Version", entry: "Entry") -> dict[str, Any]:
    """A version as a row."""
    from ..pipelines.features_page import by_model

    in_use = " (in use)" if one.version == entry.version.version else ""
    return {
        "version": one.version + in_use,
        "registered": f"{one.registered_at:%Y-%m-%d %H:%M}",
        "by": one.registered_by,
        "run": one.run,
        "used by": by_model((*one.models, *one.training_sets)),
    }


def print_looks(looks: list[dict[str, Any]], limit: int) -> None:
    """Print what a view looked like in its last increments, the newest first."""
    from ..terminal import print_rows

    increments: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for look in looks:
        increments.setdefault((look["version"], look["since"], look["until"]), []).append(look)
    for (version, since, until), found in list(increments.items())[-limit:][::-1]:
        begin = f" from {since:%Y-%m-%d %H:%M}" if since is not None and since == since else ""
        print(f"\n{version}{begin} to {until:%Y-%m-%d %H:%M}, {found[0]['rows']:,} rows")
        rows = [look_line(look) for look in found]
        columns = [column for column in rows[0] if any(row[column] for row in rows)]
        print_rows(rows, columns, as_json=False, right=columns[1:], spare=("median", ("least", "greatest")))


def look_line(look: dict[str, Any]) -> dict[str, str]:
    """What a feature looked like, as a row."""
    from ..pipelines.features_page import figures_of

    figures, moved = figures_of(look), look["moved"]
    said = "" if moved is None or moved != moved else f"{moved:.2f}".replace("-0.00", "0.00")
    return {"feature": look["feature"], "missing": figures["missing"], "mean": figures["mean"], "moved": said} | figures


@features.command("push")
def push_features(
    names: Annotated[list[str] | None, typer.Argument(metavar="VIEW", help="Views; default those that say `online=True`.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """Put the latest row of each entity into the online store of \\[online] in settings.ini; exit status 1 where a view was left out.

    Of each view: `written`, rows that are new or differ; `taken_out`, rows of entities that its table holds no more; `expired`, entities whose row is older
    than the view's `ttl` by now, so that it is online and nobody is answered with it; `until`, the instant, in UTC, before which all rows had been computed.
    """
    from ..features.online import open_online
    from ..features.store import FeatureStore, online_names
    from ..terminal import print_rows

    with reading() as wh:
        store, online = FeatureStore(wh), open_online(wh.workspace)
        done, left_out = push_each(store, names or online_names(store), online)
        online.close()
    columns = ["view", "version", "entities", "written", "taken_out", "expired", "until"]
    rows = done if json else [one | {"until": f"{one['until']:%Y-%m-%d %H:%M}"} for one in done]
    empty = "Nothing was pushed." if left_out else "No view says `online=True`. Name one: `mlnb features push VIEW`."
    print_rows(rows, [*columns, "seconds"] if json else columns, json, empty=empty, right=("entities", "written", "taken_out", "expired"), spare=("version", "taken_out", "expired"))
    if not json and (said := mostly_expired(done)):
        print(said)
    for name, why in left_out.items():
        print(f"mlnb: `{name}` was left out: {why}", file=sys.stderr)
    if left_out:
        raise typer.Exit(1)


def mostly_expired(done: list[dict[str, Any]]) -> str:
    """What it means, and what to do, where most of the rows that are online by some pushes are past their `ttl`; otherwise nothing."""
    expired, entities = (sum(one[name] for one in done) for name in ("expired", "entities"))
    if 2 * expired <= entities:
        return ""
    what = f"{expired:,} of {entities:,} rows are older than the `ttl` of their view by now: who asks now gets `expired` and no values."
    return f"\n{what} Compute newer ones and push again; of data of the past ask as of then, `online_features(…, at=…)`."


def push_each(store: "FeatureStore", names: list[str], online: "OnlineStore") -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Push views one after the other: what each push did, and why others were left out. Raises the online store's errors."""
    from ..errors import BadView, MLNotebooksError, UnknownTable
    from ..features.online import push

    done, left_out = [], {}
    for name in names:
        try:
            done.append(vars(push(store, name, online)))
        except BadView as error:
            left_out[name] = f"{error} Or push it where its function is: `push(store, {name}, open_online(wh.workspace))`."
        except UnknownTable:
            left_out[name] = f"Nothing of it was computed yet: `materialize(store, \"{name}\")` does."
        except MLNotebooksError as error:
            if isinstance(error, OSError):
                raise
            left_out[name] = str(error)
    return done, left_out
