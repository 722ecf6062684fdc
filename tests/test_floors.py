"""Every module imports from its own package or from a floor below, and importing the package is cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ml_notebooks"
FLOORS = [
    {"errors", "settings", "logs"},
    {"lineage", "workspace"},
    {"data"},
    {"features"},
    {"training"},
    {"evaluation"},
    {"pipelines", "serving", "monitoring"},
    {"cli", "dashboards"},
]
COMMAND_LINE = {
    "__main__",
    "doctor",
    "terminal",
}  # modules that stand beside `cli` and are one package with it
FLOOR = {name: number for number, names in enumerate(FLOORS, 1) for name in names}
MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if path not in (PACKAGE / "__init__.py", PACKAGE / "_modidx.py")
)
SHARED_FLOOR = 1  # its modules may import one another
SIDEWAYS = {("cli", "dashboards")}  # the command starts the server; nothing else looks sideways


def dotted(path):
    """A module's dotted name below ml_notebooks, a package's own name for its __init__."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree, module, is_package=False):
    """The dotted names below ml_notebooks that a module imports, wherever in it."""
    package = ["ml_notebooks", *module.split(".")]
    package = package if is_package else package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{start}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.removeprefix("ml_notebooks.") for name in names if name.startswith("ml_notebooks."))


def package_of(name):
    """The package, in the sense of the floors, that a dotted name belongs to."""
    first = name.split(".")[0]
    return "cli" if first in COMMAND_LINE else first


def broken(module, name):
    """What is wrong with a module's import of a name, or nothing."""
    own, other = package_of(module), package_of(name)
    if own == other or (own, other) in SIDEWAYS or name == "__version__":
        return ""
    if other not in FLOOR:
        return f"`{other}` stands on no floor"
    if FLOOR[other] < FLOOR[own] or FLOOR[other] == FLOOR[own] == SHARED_FLOOR:
        return ""
    return f"{own} (floor {FLOOR[own]}) imports {other} (floor {FLOOR[other]})"


def parsed(path):
    """A module's tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


def called(tree):
    """The names that a module calls, as written."""
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_module_imports_only_downwards(path):
    module = dotted(path)
    assert package_of(module) in FLOOR
    found = imported(parsed(path), module, path.name == "__init__.py")
    assert [why for why in (broken(module, name) for name in found) if why] == []


def test_lowest_floor_has_no_cycle():
    needs = {
        name: {n.split(".")[0] for n in imported(parsed(PACKAGE / f"{name}.py"), name)} for name in FLOORS[0]
    }
    while free := {name for name, others in needs.items() if not others & set(needs)}:
        needs = {name: others for name, others in needs.items() if name not in free}
    assert needs == {}


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("data.lock", "from ..errors import DiskFull", ""),
        ("data.lock", "from .catalog import Catalog", ""),
        ("data.lock", "from ml_notebooks.workspace import Workspace", ""),
        ("settings", "from .errors import SettingsError", ""),
        ("cli.app", "from .. import __version__", ""),
        ("cli.runs", "from ..terminal import show", ""),
        ("dashboards.serve", "from ..terminal import show", "dashboards (floor 8) imports cli (floor 8)"),
        ("data.lock", "from ..features.view import FeatureView", "data (floor 3) imports features (floor 4)"),
        ("data.lock", "def f():\n    import ml_notebooks.cli", "data (floor 3) imports cli (floor 8)"),
        ("serving.app", "from .. import monitoring", "serving (floor 7) imports monitoring (floor 7)"),
        ("cli.machine", "from ..dashboards.serve import serve", ""),
        ("errors", "from . import plotting", "`plotting` stands on no floor"),
    ],
)
def test_rule_on_floors(module, source, why):
    assert [broken(module, name) for name in imported(ast.parse(source), module)] == [why]


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_only_one_module_opens_a_connection(path):
    tree = parsed(path)
    aliases = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "duckdb"
    ]
    bare = {alias.name for node in aliases for alias in node.names}
    assert dotted(path) == "data.connection" or not ("duckdb.connect" in called(tree) or "connect" in bare)


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_only_the_catalogue_knows_where_it_is(path):
    used = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.Attribute)]
    places = [ast.unparse(node) for node in used if node.attr in ("catalog", "data_path")]
    assert dotted(path) in ("data.catalog", "data.connection", "data.warehouse") or places == []


def test_that_module_opens_it():
    assert "duckdb.connect" in called(parsed(PACKAGE / "data" / "connection.py"))


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_module_has_no_wildcard_import(path):
    nodes = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.ImportFrom)]
    assert not any(alias.name == "*" for node in nodes for alias in node.names)


@pytest.mark.parametrize("module", ["ml_notebooks", "ml_notebooks.cli"])
def test_importing_the_package_and_its_command_line_leaves_out_what_is_heavy(module):
    heavy = {"pandas", "numpy", "duckdb", "pyarrow", "mlflow", "sklearn", "pydantic", "nbformat"}
    source = f"import sys, {module}; print(*{heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout.split() == []


def test_the_program_reads_notebooks_without_compiling_grammars():
    source = """import sys
from ml_notebooks.__main__ import main
sys.argv = ["mlnb", "--version"]
try:
    main()
except SystemExit:
    import nbformat
nbformat.validate(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("one")]))
sys.exit("jsonschema" not in sys.modules or "lark" in sys.modules)"""
    assert subprocess.run([sys.executable, "-c", source], capture_output=True, check=False).returncode == 0
