"""Makes every library notebook a test: its examples and asserts run against the exported module."""

import ast
import functools
import gc
import importlib
import json
import os
import re
import sys
import types
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parent
LIBRARY = ROOT / "nbs" / "library"
SKIP_TAGS = {"skip", "skip-execution"}
SHOW_SETTINGS = {"02_settings", "02_catalog", "03_messages"}  # notebooks that show the settings which a reader has
NEED_FLIGHTS = {"tests/test_dashboard.py", "tests/test_flights.py"}
# To measure coverage takes these half as long again: their libraries call thousands of functions for each of ours, or they run the same lines for many examples.
NOT_MEASURED = {f"test_{name}.py" for name in ("cache", "clean", "event_streams", "events", "feature_mistakes", "features", "generate", "leaks", "point_in_time_cases", "privacy_find", "select", "skew", "transform")}

# Queries of tests are small: threads that hand them to one another take longer than the queries, and there are other test processes.
os.environ.setdefault("MLNB_WAREHOUSE__THREADS", "1")
sys.modules.setdefault("rfc3987_syntax", None)  # jsonschema would compile its grammars (see ml_notebooks/__main__.py)
gc.set_threshold(50_000, 20, 100)  # the libraries' objects are many and stay: to look through them took a seventh of the time


def pytest_collect_file(file_path, parent):
    """Collect the notebooks of nbs/library."""
    if file_path.suffix == ".ipynb" and LIBRARY in file_path.parents:
        return LibraryNotebook.from_parent(parent, path=file_path)
    return None


def pytest_collection_modifyitems(items):
    """Leave some tests out of what coverage measures."""
    for item in items:
        if item.path.name in NOT_MEASURED:
            item.add_marker("no_cover")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Under `make test`, give each process whole files, and all files that need the run of flights to the same one."""
    from xdist.scheduler import LoadFileScheduling

    class OneRunOfFlights(LoadFileScheduling):
        """Files by their names; those that need the run of flights count as one."""

        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "flights" if file in NEED_FLIGHTS else file

    return OneRunOfFlights(config, log)


class CellError(Exception):
    """An error that a notebook's cell raised: which cell, which line."""


def directives(source):
    """The `#|` directives of a cell, as a dictionary from name to value."""
    pairs = (re.match(r"#\|\s*([\w-]*):?\s*(.*)", line) for line in source.splitlines() if line.startswith("#|"))
    return {pair.group(1): pair.group(2).strip() for pair in pairs if pair}


def is_skipped(cell, marks):
    """Whether a cell says that it is not to be run, or is the one that exports."""
    told = marks.get("eval", "").lower() == "false" or "notest" in marks
    return told or bool(SKIP_TAGS & set(cell["metadata"].get("tags", []))) or "nbdev_export(" in "".join(cell["source"])


class Nearer(ast.NodeTransformer):
    """Takes from imports how far away their module is, which the export changes."""

    def visit_ImportFrom(self, node):
        """`from ..data.lock import turn` as `from lock import turn`."""
        return ast.ImportFrom((node.module or "").rpartition(".")[2], node.names, 0)


def meaning(node):
    """What a statement says, apart from its layout."""
    return ast.dump(Nearer().visit(node))


@functools.cache
def statements(file):
    """What a module says, statement by statement."""
    return {meaning(node) for node in ast.parse(Path(file).read_text(encoding="utf-8")).body}


def display_last(tree):
    """Turn a last bare expression into a call of repr, as a notebook would show it."""
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        value = tree.body[-1].value
        call = ast.Call(ast.Name("__show__", ast.Load()), [value], [])
        tree.body[-1] = ast.copy_location(ast.Expr(call), tree.body[-1])
    return ast.fix_missing_locations(tree)


def show(value):
    """What a notebook does with a last value: its plain and its HTML representation."""
    repr(value)
    html = getattr(value, "_repr_html_", None)
    if html is not None and not isinstance(value, type):
        html()


class LibraryNotebook(pytest.File):
    """A notebook of the library, one test."""

    def collect(self):
        """Yield the one test."""
        yield NotebookTest.from_parent(self, name="cells")


class NotebookTest(pytest.Item):
    """Runs a notebook's cells, its exported ones replaced by an import of the module that they export to."""

    def runtest(self):
        """Run in an empty folder and an environment of its own."""
        folder = Path(self.config._tmp_path_factory.mktemp(re.sub(r"\W", "_", self.path.stem)))
        cwd, environ = Path.cwd(), dict(os.environ)
        os.environ["MPLBACKEND"] = "agg"
        if self.path.stem in SHOW_SETTINGS:
            os.environ.pop("MLNB_WAREHOUSE__THREADS", None)
        os.chdir(folder)
        try:
            self.run_cells()
        finally:
            os.chdir(cwd)
            os.environ.clear()
            os.environ.update(environ)
            if "matplotlib.pyplot" in sys.modules:  # as Jupyter does after each cell
                sys.modules["matplotlib.pyplot"].close("all")

    def run_cells(self):
        """Run cell by cell in one fresh module."""
        cells = [cell for cell in json.loads(self.path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        module = types.ModuleType("notebook_" + re.sub(r"\W", "_", self.path.stem))
        module.__dict__["__show__"] = show
        sys.modules[module.__name__] = module
        target = None
        with warnings.catch_warnings():
            for number, cell in enumerate(cells, 1):
                source = "".join(cell["source"])
                marks = directives(source)
                target = marks.get("default_exp", target)
                if is_skipped(cell, marks):
                    continue
                if {"export", "exporti", "exports"} & set(marks):
                    shipped = importlib.import_module(f"ml_notebooks.{target}")
                    self.check_shipped(shipped, source, number)
                    module.__dict__.update({k: v for k, v in vars(shipped).items() if not k.startswith("__")})
                else:
                    self.run_cell(module, source, number)

    def run_cell(self, module, source, number):
        """Run one cell that is not exported."""
        name = f"{self.path.relative_to(ROOT)} cell {number}"
        try:
            exec(compile(display_last(ast.parse(source, name)), name, "exec"), module.__dict__)
        except Exception as error:
            frames, traceback = [], error.__traceback__
            while traceback:
                frames.append((traceback.tb_frame.f_code.co_filename, traceback.tb_lineno))
                traceback = traceback.tb_next
            line = next((number for file, number in frames if file == name), 0)
            text = source.splitlines()[line - 1] if line else ""
            raise CellError(f"{name}, line {line}: {text.strip()}\n{type(error).__name__}: {error}") from error

    def check_shipped(self, shipped, source, number):
        """Fail when what the cell defines is not what the module ships."""
        if not {meaning(node) for node in ast.parse(source).body} <= statements(shipped.__file__):
            raise CellError(f"{self.path.relative_to(ROOT)} cell {number} is not what {shipped.__name__} ships: run `make export`.")

    def repr_failure(self, excinfo, style=None):
        """A cell's failure with the traceback below the cell."""
        if isinstance(excinfo.value, CellError):
            cause = excinfo.value.__cause__
            trace = "" if cause is None else "\n" + "".join(__import__("traceback").format_exception(cause)[-6:])
            return f"{excinfo.value}{trace}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self):
        """What pytest prints for this test."""
        return self.path, 0, str(self.path.relative_to(ROOT))
