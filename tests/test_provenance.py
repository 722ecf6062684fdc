"""`mlnb lineage`, and cells of SQL in a real kernel."""

import json

import nbformat
import pytest
from nbclient import NotebookClient

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.workspace import find_workspace


@pytest.fixture
def pipeline(workspace):
    """A workspace whose pipeline `small` makes one table of another."""
    folder = workspace / "nbs" / "pipelines" / "small"
    code = "from ml_notebooks.data.warehouse import open_warehouse\nwh = open_warehouse()\n"
    sources = {
        "make": 'wh.publish("raw.made", "SELECT 42 AS n")',
        "use": 'wh.publish("clean.used", "FROM raw.made JOIN raw.hidden USING (n)")',
    }
    for name, source in sources.items():
        cells = [nbformat.v4.new_code_cell(code + source)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / f"{name}.ipynb")
    (folder / "pipeline.yaml").write_text(
        "title: Two steps\nsteps:\n"
        "  - {name: make, notebook: make.ipynb, writes: [raw.made]}\n"
        "  - {name: use, notebook: use.ipynb, reads: [raw.made], writes: [clean.used]}\n"
    )
    with open_warehouse(find_workspace(workspace)) as wh:
        wh.publish("raw.hidden", "SELECT 42 AS n", message="by hand")
    return workspace


def lineage(mlnb, folder, name):
    """What `mlnb lineage --json` says."""
    process = mlnb("lineage", name, "--json", cwd=folder)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_lineage_before_and_after_a_run(pipeline, mlnb):
    before = lineage(mlnb, pipeline, "raw.made")
    assert before["dependents"] == {"clean.used": 1} and before["published"] == ""
    assert [(step["what"], step["step"], step["known from"]) for step in before["steps"]] == [
        ("made by", "make", "pipeline.yaml"),
        ("read by", "use", "pipeline.yaml"),
    ]
    ran = mlnb("run", "small", cwd=pipeline)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    after = lineage(mlnb, pipeline, "clean.used")
    assert after["sources"] == {"raw.hidden": 1, "raw.made": 1}
    assert [step["known from"] for step in after["steps"]] == ["pipeline.yaml and the ledger"]
    assert mlnb("run", "small", cwd=pipeline).stdout.count("cached") == 2
    assert lineage(mlnb, pipeline, "clean.used") == after and after["since"] == ""
    with open_warehouse(find_workspace(pipeline)) as wh:
        wh.publish("clean.used", "SELECT 43 AS n")
    assert "was not made by a run: the last one," in mlnb("lineage", "clean.used", cwd=pipeline).stdout
    hidden = lineage(mlnb, pipeline, "raw.hidden")
    assert [(step["step"], step["known from"]) for step in hidden["steps"]] == [("use", "the ledger")]
    assert "by hand" in hidden["published"] and hidden["dependents"] == {"clean.used": 1}
    shown = mlnb("lineage", "raw.made", cwd=pipeline).stdout
    assert "made by" in shown and "Leads to: clean.used" in shown


def test_lineage_of_nothing(pipeline, mlnb):
    process = mlnb("lineage", "raw.maid", cwd=pipeline)
    assert process.returncode == 1 and "Did you mean `raw.made`?" in process.stderr


def test_cells_of_sql_in_a_kernel(workspace):
    with open_warehouse(find_workspace(workspace)) as wh:
        wh.publish("raw.flights", "SELECT range AS n, 'EWR' AS origin FROM range(5)")
    sources = [
        "%load_ext ml_notebooks",
        "%%sql few <<\nSELECT origin, count(*) AS flights\nFROM raw.flights GROUP BY ALL",
        "few.to_dict('records')",
        "origin = 'EWR'\nlimit = 2",
        "%%sql\nFROM raw.flights WHERE origin = $origin AND n < $limit",
        "%sql SELECT count(*) AS n FROM raw.flights WHERE origin = $origin",
        "%%sql\nDROP TABLE raw.flights",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    client = NotebookClient(
        notebook, kernel_name="python3", allow_errors=True, resources={"metadata": {"path": str(workspace)}}
    )
    cells = client.execute().cells
    assert not cells[1].outputs
    assert cells[2].outputs[0].data["text/plain"] == "[{'origin': 'EWR', 'flights': 5}]"
    assert cells[4].outputs[0].data["text/html"].count("<tr") == 3
    assert "5" in cells[5].outputs[0].data["text/plain"]
    assert cells[6].outputs[0].ename == "BadQuery" and "may only read" in cells[6].outputs[0].evalue
