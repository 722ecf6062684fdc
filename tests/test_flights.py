"""The flights pipeline, end to end, on all its rows; OpenMP has one thread, since another test runs beside it."""

import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from support.committed import compare_with_executed

from ml_notebooks.dashboards.overview import last_run_html
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.features.online import EmbeddedStore, online_reader, push
from ml_notebooks.features.store import FeatureStore, online_names
from ml_notebooks.pipelines.graph import COLOURS
from ml_notebooks.pipelines.ledger import read_steps
from ml_notebooks.workspace import find_workspace

STEPS = ["ingest", "validate", "features", "train", "evaluate", "register", "score", "monitor"]
NOTEBOOKS = Path(__file__).parents[1] / "nbs" / "pipelines" / "flights"

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def run(flights, mlnb):
    """The run as `mlnb runs --json` tells it."""
    folder, _ = flights
    runs = json.loads(mlnb("runs", "flights", "--json", cwd=folder).stdout)
    return runs[-1]


def test_every_step_succeeded_and_says_what_comes_next(flights):
    _, process = flights
    for step in STEPS:
        assert re.search(rf"^{step} +succeeded +\d+", process.stdout, re.MULTILINE)
    assert re.search(r"^evaluate .*roc_auc_october 0\.7", process.stdout, re.MULTILINE)
    assert re.search(r"^Report: reports/flights/\S+/index.html$", process.stdout, re.MULTILINE)
    assert "mlnb dashboard" in process.stdout and "jupyter lab" in process.stdout
    assert all("[info " in line for line in process.stderr.splitlines())


def test_the_champion_reaches_the_bars(run):
    records = run["records"]
    assert records["roc_auc_october"] >= 0.74
    assert records["roc_auc_december"] >= 0.75
    assert records["roc_auc_november"] >= 0.70
    for month in ("october", "november", "december"):
        assert records[f"roc_auc_{month}_low"] < records[f"roc_auc_{month}"] < records[f"roc_auc_{month}_high"]
        assert records[f"roc_auc_{month}_low"] > records[f"roc_auc_{month}_baseline"]


def test_features_use_nothing_from_the_future(run):
    assert run["records"]["flights_checked_for_leaks"] > 1000
    assert run["records"]["flights_changed_by_the_future"] == 0


def test_all_rows_arrived(run, flights, mlnb):
    folder, _ = flights
    assert run["records"]["flights_rows"] == 336_776
    tables = {row["table"]: row for row in json.loads(mlnb("tables", "--json", cwd=folder).stdout)}
    for table in ("raw.flights", "clean.schedule", "clean.outcomes", "features.flights"):
        assert tables[table]["rows"] == 336_776
    assert tables["predictions.flights"]["rows"] == run["records"]["predictions"] == 84_292
    assert tables["raw.flights"]["message"].endswith(f"({run['run']}/ingest)")


def test_the_ledger_tells_the_run(run):
    assert (run["pipeline"], run["status"]) == ("flights", "succeeded")
    assert run["seconds"] > 0 and run["report"].startswith("reports/flights/") and run["started"].endswith("+00:00")


def test_the_run_knows_which_contracts_held(run, flights):
    folder, _ = flights
    with open_warehouse(find_workspace(folder), read_only=True) as wh:
        (contracts,) = (step["contracts"] for step in read_steps(wh, run["run"]) if step["step"] == "validate")
        kept = set(wh.sql("SELECT table_name, contract FROM ops.contracts").fetchall())
    tables = ["raw.airlines", "raw.airports", "raw.flights", "raw.planes", "raw.weather", "clean.schedule"]
    assert sorted(each["table"] for each in contracts) == sorted(tables) and all(each["held"] for each in contracts)
    assert kept == {(each["table"], each["version"]) for each in contracts}


def test_online_answers_as_the_training_set_does(flights, tmp_path):
    folder, _ = flights
    with open_warehouse(find_workspace(folder), read_only=True) as wh:
        asked = "FROM clean.schedule SEMI JOIN (SELECT asked_at FROM clean.schedule WHERE month = 12 GROUP BY ALL ORDER BY count(*) DESC, asked_at LIMIT 1) USING (asked_at)"
        flights_asked = wh.sql(f"{asked} ORDER BY flight_id").df()
        moment, store, online = flights_asked["asked_at"][0].to_pydatetime(), FeatureStore(wh), EmbeddedStore(tmp_path / "online")
        names = online_names(store)
        for view in names:
            push(store, view, online, at=moment)
        reader = online_reader(online, names)
        answers = reader.read(flights_asked.astype(object).where(flights_asked.notna(), None).to_dict("records"), moment)
        shared = [column for column in answers.columns if re.match("(origin|carrier|region|service|weather)_", column)]
        chosen = ", ".join(f'"{column}"' for column in shared)
        told = wh.sql(f"SELECT {chosen} FROM features.flights SEMI JOIN ({asked}) USING (flight_id) ORDER BY flight_id").fetchall()
    assert len(names) == 11 and len(flights_asked) > 10 and len(shared) > 25
    assert list(zip(*(answers.to_dict()[column] for column in shared), strict=True)) == told


def test_sql_reads_what_the_run_wrote(flights, mlnb):
    folder, _ = flights
    query = "SELECT period, round(roc_auc, 2) AS roc_auc FROM ops.performance ORDER BY period"
    rows = json.loads(mlnb("sql", query, "--json", cwd=folder).stdout)
    assert [row["period"] for row in rows] == [10, 11, 12]
    assert "period" in mlnb("sql", query, cwd=folder).stdout
    versions = {row["table"]: row["version"] for row in json.loads(mlnb("tables", "--json", cwd=folder).stdout)}
    words = ["sql", "SELECT count(*) AS n FROM raw.flights", "--at", str(versions["raw.flights"]), "--json"]
    early = json.loads(mlnb(*words, cwd=folder).stdout)
    assert early == [{"n": 336_776}]


def test_the_report_is_whole_and_loads_nothing(run, flights):
    folder, _ = flights
    report = folder / run["report"]
    pages = sorted(path.name for path in report.glob("*.html"))
    assert pages == sorted([*(f"{number:02}_{step}.html" for number, step in enumerate(STEPS, 1)), "features-page.html", "index.html"])
    for page in report.glob("*.html"):
        text = page.read_text()
        assert not re.findall(r"""<(?:script|link|img)[^>]+(?:src|href)=["']?https?:""", text)
    index = (report / "index.html").read_text()
    assert "roc_auc_december" in index and "04_train.html" in index


def test_executed_notebooks_are_ordinary(run, flights):
    folder, _ = flights
    for path in (folder / run["report"]).glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert all(output.output_type != "error" for cell in notebook.cells for output in cell.get("outputs", []))


def test_committed_outputs_are_those_of_the_run(run, flights, tmp_path):
    folder, _ = flights
    process = compare_with_executed(sorted(NOTEBOOKS.glob("*.ipynb")), tmp_path, folder / run["report"])
    assert process.returncode == 0, process.stdout[-4000:] + process.stderr[-2000:]
    assert re.search(r"\d{2,} passed", process.stdout)


def change_output(cell):
    """Change a digit of what the cell gave."""
    (output,) = cell.outputs
    output.data["text/plain"] = re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), output.data["text/plain"], count=1)


def drop_output(cell):
    """Take away what the cell gave."""
    cell.outputs = []


def change_source(cell):
    """Have the cell be another one than was run."""
    cell.source += "  # changed"


SPOILT = {
    "05_evaluate": (change_output, "mismatch 'text/plain'"),
    "06_register": (change_source, "not the notebook that is committed"),
    "07_score": (drop_output, "Unexpected output fields"),
}


def test_a_committed_output_that_is_not_the_runs_is_named(run, flights, tmp_path):
    folder, _ = flights
    (tmp_path / "spoilt").mkdir()
    wanted = {}
    for name, (spoil, said) in SPOILT.items():
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        number = next(n for n, cell in enumerate(code) if "nbval-check-output" in cell.metadata.get("tags", []))
        spoil(code[number])
        nbformat.write(notebook, tmp_path / "spoilt" / f"{name}.ipynb")
        wanted[f"{name}.ipynb::Cell {number}"] = said
    process = compare_with_executed(sorted((tmp_path / "spoilt").glob("*.ipynb")), tmp_path, folder / run["report"])
    found = re.findall(r"^_+ (\S+::Cell \d+) _+$(.*?)(?=^_+ \S+::Cell|^=+ short)", process.stdout, re.MULTILINE | re.DOTALL)
    assert process.returncode == 1 and [cell for cell, _ in found] == list(wanted), process.stdout + process.stderr
    assert all(wanted[cell] in text for cell, text in found), found


def test_doctor_finds_nothing_wrong(flights, mlnb):
    folder, _ = flights
    process = mlnb("doctor", "--json", cwd=folder)
    assert process.returncode == 0
    states = {row["what"]: row["state"] for row in json.loads(process.stdout)}
    assert states["warehouse"] == states["tracking"] == states["pipeline flights"] == states["kernel"] == "ok"


def test_where_nothing_changed_nothing_is_executed(flights, mlnb, tmp_path):
    folder = shutil.copytree(flights[0], tmp_path / "copy")
    plan = json.loads(mlnb("run", "flights", "--why", "--json", cwd=folder).stdout)
    assert [step["step"] for step in plan if step["runs"]] == [] and len(plan) == 8, plan
    process = mlnb("run", "flights", "--json", cwd=folder)
    run = json.loads(process.stdout)
    assert {step["status"] for step in run["steps"]} == {"cached"}, process.stderr
    assert run["records"]["roc_auc_october"] > 0.7 and "kernels.log" not in os.listdir(folder / run["report"])
    with open_warehouse(find_workspace(folder), read_only=True) as wh:
        assert last_run_html(wh).count(COLOURS["cached"]) == 8
    page = (folder / run["report"] / "index.html").read_text()
    assert "Nothing, since" in page and 'href="08_monitor.html#cell-' in page
