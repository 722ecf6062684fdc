"""`mlnb features skew`: what was served, held against what the warehouse says of the same instants."""

from pathlib import Path
from typing import Annotated, Any

import typer

from .app import Json, reading
from .features import features

COLUMNS = ["view", "version", "entity", "asked_at", "feature", "online", "offline", "kind"]
KEPT = "What is asked of a store that `open_online` opens is kept from then on: start the server again."
ALWAYS = ("view", "version", "compared", "skewed")  # of the columns of a view; kinds of difference are shown where there are some


@features.command("skew")
def show_skew(
    since: Annotated[str, typer.Option(help="Requests from then on, such as `2013-07-01T12:00Z`; default all.", show_default=False)] = "",
    each: Annotated[bool, typer.Option("--each", help="Show every difference, not only their number.")] = False,
    json: Json = False,
) -> None:
    """Compare the requests that \\[online] of settings.ini lets be kept with the warehouse; exit status 1 where they differ."""
    from ..data.history import to_instant
    from ..errors import SettingsError
    from ..features.online import logged_requests, open_request_log
    from ..features.skew import find_skew
    from ..features.store import FeatureStore
    from ..terminal import print_rows

    with reading() as wh:
        log = open_request_log(wh.workspace)
        if log is None:
            raise SettingsError("settings.ini", "online.requests", "nothing", "a folder, such as `data/requests`", KEPT)
        skew = find_skew(FeatureStore(wh), logged_requests(log.folder, to_instant(since) if since else None))
    frame = (skew.to_frame() if each else skew.by_view()).astype(object)
    if each:
        frame["entity"] = [", ".join(f"{key} {value}" for key, value in entity.items()) for entity in frame["entity"]]
        frame["asked_at"] = [f"{at:%Y-%m-%d %H:%M:%S}" for at in frame["asked_at"]]
    rows = frame[COLUMNS if each else list(frame.columns)].to_dict("records")
    if each and not json:
        rows = [row | dict(zip(("online", "offline"), apart(row["online"], row["offline"]), strict=True)) for row in rows]
    columns = COLUMNS if each else [name for name in frame.columns if name in ALWAYS or any(frame[name])]
    print_rows(rows, columns, json, empty="No difference." if each and skew.requests else none_kept(log.folder, since), spare=("version",))
    if skew.differences:
        raise typer.Exit(1)


def none_kept(folder: Path, since: str) -> str:
    """That a log holds no request, and who writes into it."""
    asked = f" that was asked since {since}" if since else ""
    return f"`{folder}` holds no request{asked}. A store that `open_online` opens keeps what it is asked there, if it was opened since `requests` is set; a reader of another store is given `log=open_request_log(workspace)`."


def apart(online: Any, offline: Any) -> tuple[str, str]:
    """Two values as people read them; numbers in four digits, or in as many as tell them apart."""
    from ..terminal import show

    if not (isinstance(online, float) and isinstance(offline, float)):
        return show(online), show(offline)
    texts = [(f"{online:.{digits}g}", f"{offline:.{digits}g}") for digits in range(4, 18)]
    return next((pair for pair in texts if pair[0] != pair[1]), texts[0])
