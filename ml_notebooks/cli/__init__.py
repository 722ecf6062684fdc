"""The command `mlnb`.

Written by hand: it is no story, only the way from a terminal to the verbs of the package. Every import of weight
stands inside the command that needs it, so that `mlnb --help` is quick.
"""

from . import features, machine, pipelines, privacy, runs, skew, tables, warehouse
from .app import main

__all__ = ["features", "machine", "main", "pipelines", "privacy", "runs", "skew", "tables", "warehouse"]
