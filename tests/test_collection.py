"""How a library notebook becomes a test: what it exports is what ships, and the other cells are run."""

from pathlib import Path

import nbformat
import pytest

pytest_plugins = "pytester"

CONFTEST = Path(__file__).parent.parent / "conftest.py"
EXPORTED = '#| export\ndef quote(text: object) -> str:\n    """`text` as an SQL string literal."""\n    return "\'" + str(text).replace("\'", "\'\'") + "\'"'
FIRST = ["#| default_exp data.catalog", EXPORTED]


@pytest.fixture
def collected(pytester):
    """Run the cells of a notebook as `make test` would; returns what pytest said."""

    def run(*cells, tags=()):
        pytester.makeconftest(CONFTEST.read_text(encoding="utf-8"))
        folder = pytester.mkdir("nbs") / "library"
        folder.mkdir()
        made = [nbformat.v4.new_code_cell(cell) for cell in (*FIRST, *cells)]
        made[-1].metadata["tags"] = list(tags)
        nbformat.write(nbformat.v4.new_notebook(cells=made), folder / "01_catalog.ipynb")
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:cov", "nbs/library")

    return run


def test_cells_run_against_the_module_that_ships_with_its_private_names(collected):
    from_where = "import ml_notebooks.data.catalog as shipped\nassert quote is shipped.quote and _RESERVED is shipped._RESERVED"
    collected(from_where, "assert quote(1) == \"'1'\"").assert_outcomes(passed=1)


def test_a_module_that_is_not_what_its_notebook_exports_fails(collected):
    done = collected("#| export\ndef quote(text):\n    return text")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*01_catalog.ipynb cell 3 is not what ml_notebooks.data.catalog ships: run `make export`."])


def test_a_failing_cell_is_named_with_its_line(collected):
    done = collected("one = 1\nassert quote(one) == one")
    done.assert_outcomes(failed=1)
    done.stdout.fnmatch_lines(["*01_catalog.ipynb cell 3, line 2: assert quote(one) == one*", "AssertionError*"])


@pytest.mark.parametrize(
    ("cell", "tags"),
    [("#| eval: false\n1 / 0", ()), ("#| notest\n1 / 0", ()), ("1 / 0", ("skip",)), ("1 / 0", ("skip-execution",)), ("import nbdev\nnbdev.nbdev_export(1 / 0)", ())],
)
def test_a_cell_that_is_not_to_be_run_is_skipped(collected, cell, tags):
    collected(cell, tags=tags).assert_outcomes(passed=1)
