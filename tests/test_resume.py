"""A run that is resumed goes on with what it was asked to do: its parameters, and its choice of steps."""

import json
import shutil

import nbformat
import pytest
from support.workspaces import make_workspace

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import MLNotebooksError, NothingToResume
from ml_notebooks.pipelines.ledger import read_runs
from ml_notebooks.pipelines.plan import Choice
from ml_notebooks.pipelines.run import prepare, run_pipeline
from ml_notebooks.workspace import find_workspace

PUBLISH = "from ml_notebooks.data.warehouse import open_warehouse\nopen_warehouse().publish('raw.{}', f'SELECT range AS id FROM range({{rows}})')"
FAIL_ONCE = "import pathlib\nassert pathlib.Path('mended').exists(), 'not yet'"


def write(folder, name, *cells):
    """Write a step's notebook into the pipeline `small`, with the parameter `rows`."""
    made = [nbformat.v4.new_code_cell("rows: int = 5", metadata={"tags": ["parameters"]}), *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(nbformat.v4.new_notebook(cells=made), folder / "nbs" / "pipelines" / "small" / f"{name}.ipynb")


TABLES = [("first", ""), ("second", "raw.first"), ("third", "raw.second")]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A workspace whose three steps follow one another, each with a table; all have run, with `rows` 7."""
    root = tmp_path_factory.mktemp("resume")
    folder = make_workspace(root).pipelines / "small"
    folder.mkdir(parents=True)
    lines = [f"  - {{name: {name}, notebook: {name}.ipynb, writes: [raw.{name}], reads: [{reads}]}}" for name, reads in TABLES]
    (folder / "pipeline.yaml").write_text("\n".join(["title: Three", "steps:", *lines]))
    for name, _ in TABLES:
        write(root, name, PUBLISH.format(name))
    run_pipeline(find_workspace(root), "small", {"rows": "7"})
    return root


@pytest.fixture
def three(done, tmp_path):
    """A copy of that workspace, in which the second step now fails until it is mended."""
    root = shutil.copytree(done, tmp_path / "copy")
    write(root, "second", FAIL_ONCE, PUBLISH.format("second"))
    return find_workspace(root)


def resume(workspace):
    """What `--resume --why` says, and how the steps then go."""
    (workspace.root / "nbs" / "pipelines" / "small" / "mended").touch()
    with open_warehouse(workspace, read_only=True) as wh:
        why = prepare(wh, "small", {}, Choice(resume=True)).plan
    run = run_pipeline(workspace, "small", choice=Choice(resume=True))
    assert {step for step, reasons in why.items() if reasons} == {step.step for step in run.steps if step.status == "succeeded"}
    return run, {step.step: step.status for step in run.steps}


@pytest.mark.parametrize(
    ("choice", "given", "expected"),
    [
        (Choice(only=("second",)), {}, {"second": "succeeded"}),
        (Choice(begin="second"), {"rows": "2"}, {"second": "succeeded", "third": "succeeded"}),
        (Choice(force=True), {"rows": "7"}, {"first": "cached", "second": "succeeded", "third": "succeeded"}),
    ],
    ids=["only", "from", "force"],
)
def test_a_run_is_resumed_with_its_choice_and_its_parameters(three, choice, given, expected):
    with pytest.raises(MLNotebooksError, match="not yet"):
        run_pipeline(three, "small", given, choice=choice)
    with pytest.raises(MLNotebooksError, match="not yet"):
        run_pipeline(three, "small", choice=Choice(resume=True))  # resumed in vain, it can be resumed again
    run, went = resume(three)
    assert went == expected and run.parameters == given and run.choice == choice.to_json()
    assert f"rows = {given['rows']}" in page(three, run) if given else True
    with open_warehouse(three, read_only=True) as wh:
        assert len(wh.table("raw.first")) == 7 and len(wh.table("raw.second")) == int(given.get("rows", 5))
        assert read_runs(wh)[0]["choice"] == choice.to_json()


def page(workspace, run):
    """The page of a run."""
    return (workspace.root / run.report / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("words", "said"), [(["--only", "third"], "the choice that it had: all"), (["-p", "rows=3"], "those that it had: none")])
def test_a_resumed_run_is_not_given_another_choice(three, mlnb, words, said):
    with pytest.raises(MLNotebooksError, match="not yet"):
        run_pipeline(three, "small")
    done = mlnb("run", "small", "--resume", *words, cwd=three.root)
    assert done.returncode == 1 and said in done.stderr


def test_a_parameter_that_held_a_secret_is_not_resumed_with_stars(three, monkeypatch):
    monkeypatch.setenv("MLNB_WAREHOUSE__S3_SECRET", "canary-7351")
    secret = find_workspace(three.root)
    write(three.root, "first", "raise ValueError('not yet')")
    folder = three.root / "nbs" / "pipelines" / "small"
    notebook = json.loads((folder / "first.ipynb").read_text())
    notebook["cells"][0]["source"] = "rows: int = 5\nkey: str = ''"
    (folder / "first.ipynb").write_text(json.dumps(notebook))
    with pytest.raises(MLNotebooksError, match="not yet"):
        run_pipeline(secret, "small", {"key": "canary-7351"})
    with pytest.raises(NothingToResume, match="`key` held a secret"):
        run_pipeline(secret, "small", choice=Choice(resume=True))
