"""A notebook-first machine-learning workspace: notebooks are the source, the documentation, the tests, the pipeline and the report."""

__version__ = "0.1.0"

from importlib import import_module

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach(
    __name__,
    submodules=[
        "cli",
        "dashboards",
        "data",
        "errors",
        "evaluation",
        "features",
        "lineage",
        "logs",
        "monitoring",
        "pipelines",
        "settings",
        "training",
        "workspace",
    ],
)


def load_ipython_extension(ipython: object) -> None:
    """What `%load_ext ml_notebooks` does: cells of SQL."""
    magic = import_module("ml_notebooks.data.magic")  # by name, so that who imports the package does not reach it (see *Code*)
    ipython.register_magics(magic.SqlMagic)  # type: ignore[attr-defined]
