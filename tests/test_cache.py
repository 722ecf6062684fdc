"""A step is left out only where running it would change nothing: held against a model, under random changes."""

import os
import random
import shutil
import socket
import sqlite3
import threading
from contextlib import closing
from itertools import zip_longest
from pathlib import Path

import nbformat
import pytest
from support.soak import SOAK, soak
from support.workspaces import LIGHT

import ml_notebooks
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import BadPipeline, GateFailed, StepFailed
from ml_notebooks.lineage import SETTINGS
from ml_notebooks.pipelines.code import installed_packages
from ml_notebooks.pipelines.ledger import read_steps
from ml_notebooks.pipelines.plan import Choice
from ml_notebooks.pipelines.run import prepare, run_pipeline
from ml_notebooks.workspace import find_workspace

OPEN = "from ml_notebooks.data.warehouse import open_warehouse\nfrom ml_notebooks.pipelines.record import record\nwh = open_warehouse()"
CHANGES = 150  # of the long version


class Shop:
    """A pipeline of three steps and what it must give: rows * rate * factor + offset + library, whatever was changed before."""

    def __init__(self, root: Path, package: Path | None = None):
        self.root, self.folder = root, root / "nbs" / "pipelines" / "shop"
        self.rows, self.rate, self.factor, self.offset, self.remark, self.installed = 3, 2, 5, 0, 0, 0
        self.package, self.library = package, 0
        self.folder.mkdir(parents=True, exist_ok=True)
        self.workspace = find_workspace(root)
        self.publish_offset()
        self.write()

    def notebook(self, name: str, *cells: str) -> None:
        """Write a notebook: the first cell holds its parameters."""
        tags = [{"tags": ["parameters"]}] + [{}] * (len(cells) - 1)
        made = [nbformat.v4.new_code_cell(cell, metadata=tag) for cell, tag in zip(cells, tags, strict=True)]
        made.insert(1, nbformat.v4.new_markdown_cell(f"Remark {self.remark}"))
        nbformat.write(nbformat.v4.new_notebook(cells=made), self.folder / f"{name}.ipynb")

    def write(self) -> None:
        """Write everything as it should be now."""
        (self.folder / "helper.py").write_text(
            f"# remark {self.remark}\ndef rate():\n    return {self.rate}\n"
        )
        self.notebook(
            "ingest",
            "rows: int = 3",
            OPEN,
            "wh.publish('raw.orders', f'SELECT range AS id FROM range({rows})')",
        )
        priced = "import helper\nwh.publish('clean.orders', f'SELECT count(*) * {helper.rate()} AS price FROM raw.orders')"
        self.notebook("price", "", OPEN, priced)
        total = f"price, = wh.table('clean.orders').fetchone()  # remark {self.remark}\nshift, = wh.table('raw.offset').fetchone()"
        surplus = ""
        if self.package:  # a module of the library that is the user's own to change
            (self.package / "surplus.py").write_text(f"# remark {self.remark}\nSURPLUS = {self.library}\n")
            found = f"import ml_notebooks\nml_notebooks.__path__.append({str(self.package)!r})"
            total, surplus = f"{found}\nfrom ml_notebooks.surplus import SURPLUS\n{total}", " + SURPLUS"
        self.notebook("total", "", OPEN, total, f"record('total', price * {self.factor} + shift{surplus})")
        (self.folder / "pipeline.yaml").write_text(
            "title: What do the orders cost?\nsteps:\n"
            "  - {name: ingest, notebook: ingest.ipynb, writes: [raw.orders]}\n"
            "  - {name: price, notebook: price.ipynb, reads: [raw.orders], writes: [clean.orders]}\n"
            "  - {name: total, notebook: total.ipynb, reads: [clean.orders, raw.offset]}\n"
        )

    def publish_offset(self) -> None:
        """Publish the table that no step writes."""
        with open_warehouse(self.workspace) as wh:
            wh.publish("raw.offset", f"SELECT {self.offset} AS offset")

    def drop(self, table: str) -> None:
        """Take a table away."""
        with open_warehouse(self.workspace) as wh, wh.transaction("drop"):
            wh._connection.execute(f"DROP TABLE lake.{table}")

    def run(self, **choice):
        """Run it; returns the run."""
        return run_pipeline(self.workspace, "shop", {"rows": str(self.rows)}, choice=Choice(**choice))

    @property
    def expected(self) -> int:
        """What has to come out."""
        return self.rows * self.rate * self.factor + self.offset + self.library


@pytest.fixture
def shop(workspace):
    """The pipeline, not run yet."""
    return Shop(workspace)


@pytest.fixture
def library_shop(workspace, monkeypatch):
    """The same, where what a step's code is is read from a copy of this library, which has one module more."""
    copy = workspace / "library" / "ml_notebooks"
    shutil.copytree(Path(ml_notebooks.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(ml_notebooks.__spec__, "submodule_search_locations", [str(copy)])
    return Shop(workspace, copy)


def statuses(run):
    """Step -> how it went."""
    return {step.step: step.status for step in run.steps}


ALL, LATER, LAST = {"ingest", "price", "total"}, {"price", "total"}, {"total"}
KINDS = {  # what may change -> the steps that must then run: by rank, so that a change is seen beside one of lower rank
    **dict.fromkeys(("factor", "offset", "library"), LAST),
    **dict.fromkeys(("rate", "overwritten", "dropped clean.orders"), LATER),
    **dict.fromkeys(("rows", "package", "library below", "dropped raw.orders"), ALL),
    "remark": set(),
}


def change(shop: Shop, what: str, chance: random.Random) -> None:
    """Change something of a pipeline, or of what it stands on."""
    if what in ("rows", "rate", "factor", "library"):
        setattr(shop, what, getattr(shop, what) + chance.randint(1, 9))
        shop.write()
    elif what == "remark":
        shop.remark += 1
        shop.write()
    elif what == "offset":
        shop.offset += chance.randint(1, 9)
        shop.publish_offset()
    elif what == "overwritten":
        with open_warehouse(shop.workspace) as wh:
            wh.publish("clean.orders", "SELECT -1 AS price")
    elif what == "package":
        shop.installed += 1
        shutil.rmtree(shop.root / "site", ignore_errors=True)
        (shop.root / "site" / f"oracle-{shop.installed}.0.dist-info").mkdir(parents=True)
    elif what == "library below":
        with (shop.package / "data" / "lock.py").open("a") as file:
            file.write("NEW = True\n")
    else:
        shop.drop(what.removeprefix("dropped "))


def rounds(chance: random.Random):
    """Changes that are made together, those of fewer steps first: each kind once, or many at random."""
    ranks = [[kind for kind, steps in KINDS.items() if steps == rank] for rank in (set(), LAST, LATER, ALL)]
    if SOAK:
        for _ in range(CHANGES):
            chosen = [chance.choice(rank) for rank in ranks if chance.random() < 0.4]
            yield chosen or [chance.choice(list(KINDS))]
    else:
        shuffled = [chance.sample(rank, len(rank)) for rank in ranks]
        yield from ([kind for kind in kinds if kind] for kinds in zip_longest(*shuffled))


@soak
def test_no_change_is_missed_and_no_step_runs_in_vain(library_shop, monkeypatch):
    import site

    shop = library_shop
    folders = [*site.getsitepackages(), str(shop.root / "site")]
    monkeypatch.setattr(site, "getsitepackages", lambda: folders)
    chance, met = random.Random(20260314), set()
    assert shop.run().records == {"total": shop.expected}
    for kinds in rounds(chance):
        for what in kinds:
            change(shop, what, chance)
            with open_warehouse(shop.workspace, read_only=True) as wh:
                plan = prepare(wh, "shop", {"rows": str(shop.rows)}).plan
            assert {step for step, reasons in plan.items() if reasons} == KINDS[what], (what, plan)
        run = shop.run()
        assert run.records == {"total": shop.expected}, (kinds, statuses(run))
        assert {step for step, status in statuses(run).items() if status == "succeeded"} == KINDS[kinds[-1]], kinds
        met |= {*kinds}
    assert met == {*KINDS}


def test_what_else_a_step_depends_on(shop):
    """Files it opens, files it is told of, and modules found only at run time."""
    shop.notebook("total", "", OPEN, "import importlib\nfrom pathlib import Path\nextra = importlib.import_module('extra')",
                  "n = len(Path('../../../inbox/orders.csv').read_text().split())\nrecord('total', n + extra.more)")  # fmt: skip
    (shop.root / "inbox").mkdir()
    (shop.root / "inbox" / "orders.csv").write_text("1 2 3")
    (shop.folder / "extra.py").write_text("more = 10\n")
    assert shop.run().records == {"total": 13}
    assert statuses(shop.run())["total"] == "cached"
    (shop.root / "inbox" / "orders.csv").write_text("1 2 3 4")
    assert shop.run().records == {"total": 14}
    (shop.folder / "extra.py").write_text("more = 200\n")
    assert shop.run().records == {"total": 204}


def test_files_that_are_declared(shop):
    text = (shop.folder / "pipeline.yaml").read_text()
    declared = text.replace(
        "reads: [clean.orders, raw.offset]", 'reads: [clean.orders, raw.offset, "file:inbox/*.parquet"]'
    )
    (shop.folder / "pipeline.yaml").write_text(declared)
    with pytest.raises(BadPipeline, match=r"There is no file `inbox/\*\.parquet`"):
        shop.run()
    (shop.root / "inbox").mkdir()
    (shop.root / "inbox" / "a.parquet").write_bytes(b"1")
    assert statuses(shop.run())["total"] == "succeeded"
    assert statuses(shop.run())["total"] == "cached"
    (shop.root / "inbox" / "b.parquet").write_bytes(b"2")
    assert statuses(shop.run()) == {"ingest": "cached", "price": "cached", "total": "succeeded"}


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (
            "import socket\nsocket.create_connection(('127.0.0.1', PORT)).close()",
            "the network address 127.0.0.1",
        ),
        ("wh.tables()", "the list of tables"),
        ("wh.sql('FROM lake.snapshots()').fetchall()", "the function snapshots"),
        ("wh.connection.execute('SELECT 1')", "DuckDB's own connection"),
        ("wh.table('raw.orders').query('v', 'FROM lake.raw.offset').fetchall()", "DuckDB's own `.query`"),
        ("wh.table('raw.orders').aggregate('(SELECT max(id) FROM raw.offset) AS m').fetchall()", "a query inside DuckDB's own `.aggregate`"),
    ],
)
def test_what_has_no_versions_makes_a_step_run_each_time(shop, cell, why):
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept(), daemon=True).start()
        shop.notebook("total", "", OPEN, cell.replace("PORT", str(server.getsockname()[1])))
        assert statuses(shop.run())["total"] == "succeeded"
    with open_warehouse(shop.workspace, read_only=True) as wh:
        plan = prepare(wh, "shop", {"rows": "3"}).plan
    assert plan["ingest"] == [] and why in plan["total"][0] and "has no versions" in plan["total"][0]


def test_a_step_that_adds_to_its_own_table_runs_each_time(shop):
    shop.notebook(
        "ingest", "rows: int = 3", OPEN, "wh.append('raw.orders', f'SELECT range AS id FROM range({rows})')"
    )
    first, second = shop.run(), shop.run()
    assert statuses(second)["ingest"] == "succeeded" and second.records == {
        "total": 2 * first.records["total"]
    }


def test_cache_false_makes_a_step_run_each_time(shop):
    text = (shop.folder / "pipeline.yaml").read_text()
    (shop.folder / "pipeline.yaml").write_text(text.replace("{name: ingest,", "{name: ingest, cache: false,"))
    shop.run()
    assert set(statuses(shop.run()).values()) == {"succeeded"}


@pytest.mark.parametrize("write", ["wh.publish('clean.extra', 'SELECT 1 AS price')", "wh.sql('SELECT 1 AS price').create('lake.clean.extra')"])
def test_an_undeclared_write_fails_the_step_and_writes_nothing(shop, write):
    shop.notebook(
        "price",
        "",
        OPEN,
        "wh.publish('clean.orders', 'SELECT 1 AS price')",
        write,
    )
    with pytest.raises(
        StepFailed, match=r"cell 3.*`price` may not write `clean.extra`.*names `clean.orders` under"
    ):
        shop.run()
    with open_warehouse(shop.workspace, read_only=True) as wh:
        assert "clean.extra" not in wh.names() and "clean.orders" in wh.names()


def test_an_undeclared_read_warns_and_counts_from_then_on(shop):
    (shop.root / "settings.ini").write_text(f"[workspace]\nname = shop\n[logs]\nfile = run.log\n{LIGHT}")
    shop.workspace, log = find_workspace(shop.root), shop.root / "run.log"
    text = (shop.folder / "pipeline.yaml").read_text()
    (shop.folder / "pipeline.yaml").write_text(
        text.replace("reads: [clean.orders, raw.offset]", "reads: [clean.orders]")
    )
    shop.run()
    assert log.read_text().count("undeclared read") == 1
    shop.offset = 7
    shop.publish_offset()
    run = shop.run()
    assert (
        statuses(run) == {"ingest": "cached", "price": "cached", "total": "succeeded"}
        and run.records["total"] == shop.expected
    )


def test_a_notebook_that_is_edited_while_it_runs_is_run_again(shop):
    edited = "from pathlib import Path\ntext = Path('total.ipynb').read_text()\nPath('total.ipynb').write_text(text.replace('oldest', 'newest'))"
    shop.notebook("total", "", OPEN, edited, "record('total', 'oldest')")
    assert shop.run().records == {"total": "oldest"}
    shop.notebook("total", "", OPEN, edited, "record('total', 'oldest')")  # as it was when the run began
    assert statuses(shop.run())["total"] == "succeeded"


def test_a_gate_is_asked_of_a_cached_step_too(shop):
    shop.run()
    text = (shop.folder / "pipeline.yaml").read_text()
    (shop.folder / "pipeline.yaml").write_text(
        text.replace("{name: total,", '{name: total, gate: "total > 1000",')
    )
    with pytest.raises(GateFailed, match="`total` is 30"):
        shop.run()


def test_choosing_steps(shop):
    shop.run()
    assert statuses(shop.run(only=("price",))) == {"price": "succeeded"}
    assert statuses(shop.run(begin="price")) == {"price": "succeeded", "total": "succeeded"}
    assert statuses(shop.run(force=True)) == dict.fromkeys(("ingest", "price", "total"), "succeeded")
    assert statuses(shop.run()) == dict.fromkeys(("ingest", "price", "total"), "cached")


def test_an_ordinary_kernel_tells_as_a_warm_one_does(shop, monkeypatch):
    monkeypatch.setenv("MLNB_RUN__KERNEL", "python3")
    shop.workspace = find_workspace(shop.root)
    first = shop.run()
    with open_warehouse(shop.workspace, read_only=True) as wh:
        rows = {row["step"]: row for row in read_steps(wh, first.run)}
    assert (
        [name for name in rows["ingest"]["inputs"] if not name.startswith("file:/")] == [SETTINGS]
        and rows["ingest"]["outputs"]
        and rows["ingest"]["peak_memory"] > 10
    )
    assert set(statuses(shop.run()).values()) == {"cached"}


FILES = {  # case -> what its step reads
    "made": "Path('inputs').mkdir(exist_ok=True)\nfound = Path('inputs/x.txt').read_text()",
    "link": "found = Path('latest.txt').read_text()",
    "missing": "found = Path('override.txt').read_text() if 'override.txt' in os.listdir('overrides') else 1",
    "updated": "with open('state.txt', 'r+') as file:\n    found = file.read()",
    "hidden": "found = Path('.rates.json').read_text()",
    "in_data": "found = Path('../../../data/x.csv').read_text()",
    "same_stamp": "found = Path('stamp.txt').read_text()",
    "home": "found = wh.sql(\"FROM read_csv('~/mlnb_home.csv')\").fetchone()[0]",
    "database": "import sqlite3\nfound = sqlite3.connect('s.db').execute('SELECT a FROM t').fetchone()[0]",
    "variable": "found = os.environ.get('EXAMPLE_RATE', '1')",
    "settings": "from ml_notebooks.workspace import find_workspace\nfound = find_workspace().settings.workspace.name",
}

UNSEEN = {  # case -> what nobody can see
    "program": "import subprocess\nsubprocess.run(['cat', 'state.txt'])",
    "shell": "os.system('cat state.txt')",
    "bang": "!cat state.txt",
    "workers": "from joblib import Parallel, delayed\nParallel(n_jobs=2)(delayed(len)(word) for word in ['a', 'b'])",
    "inside": "from ml_notebooks.data.warehouse import open_warehouse\nopen_warehouse(read_only=True).sql('SELECT 1 AS a').filter('a IN (SELECT 1)').fetchall()",
    "client": "from ml_notebooks.training.registry import open_registry\nopen_registry().client.search_registered_models()",
}


class Cases:
    """A pipeline with one small step a case, and a second state in which every input differs."""

    def __init__(self, root: Path):
        self.root, self.folder = root, root / "nbs" / "pipelines" / "cases"
        for folder in (self.folder / "inputs", self.folder / "overrides", root / "data"):
            folder.mkdir(parents=True)
        steps = {
            name: [f"{OPEN}\nimport os\nfrom pathlib import Path\n{cell}\nrecord('{name}', found)"]
            for name, cell in FILES.items()
        }
        steps |= {name: [f"import os\n{cell}"] for name, cell in UNSEEN.items()}
        steps["magic"] = ["%%html\n<h1>State 1</h1>"]
        for name, cells in steps.items():
            self.notebook(name, cells)
        self.notebook("values", ["values: list = [1]", f"{OPEN}\nrecord('values', str(type(values[0])))"])
        self.names = [*steps, "values"]
        self.write(1)

    def notebook(self, name: str, cells: list[str]) -> None:
        """Write a step's notebook; where it has two cells, the first holds its parameters."""
        tags = [["parameters"], []] if len(cells) == 2 else [[]]
        made = [
            nbformat.v4.new_code_cell(cell, metadata={"tags": tag})
            for cell, tag in zip(cells, tags, strict=True)
        ]
        nbformat.write(nbformat.v4.new_notebook(cells=made), self.folder / f"{name}.ipynb")

    def write(self, state: int) -> None:
        """Write what the steps read."""
        for file in (
            "inputs/x.txt",
            "state.txt",
            ".rates.json",
            "stamp.txt",
            "../../../data/x.csv",
            f"v{state}.txt",
        ):
            (self.folder / file).write_text(str(state))
        (self.root / "home").mkdir(exist_ok=True)
        (self.root / "home" / "mlnb_home.csv").write_text(f"a\n{state}\n")
        os.utime(self.folder / "stamp.txt", (315532800, 315532800))
        (self.folder / "latest.txt").unlink(missing_ok=True)
        (self.folder / "latest.txt").symlink_to(f"v{state}.txt")
        if state == 2:
            (self.folder / "overrides" / "override.txt").touch()
            (self.folder / "override.txt").write_text("2")
        with closing(sqlite3.connect(self.folder / "s.db")) as store, store:
            store.execute("CREATE TABLE IF NOT EXISTS t (a INTEGER)")
            store.execute("DELETE FROM t")
            store.execute("INSERT INTO t VALUES (?)", [state])
        self.notebook("magic", [f"%%html\n<h1>State {state}</h1>"])
        (self.root / "settings.ini").write_text(f"[workspace]\nname = state-{state}\n[logs]\nlevel = error\n[kernel]\npreload = duckdb,pandas,pyarrow,mlflow,joblib,pydantic_settings,structlog,filelock\n")
        given = {"values": f"parameters: {{values: [{'1' if state == 1 else '1.0'}]}}"}
        lines = [
            f"  - {{name: {name}, notebook: {name}.ipynb, {given.get(name, 'writes: []')}}}\n"
            for name in self.names
        ]
        (self.folder / "pipeline.yaml").write_text("title: What is read?\nsteps:\n" + "".join(lines))
        os.environ["EXAMPLE_RATE"] = str(state)

    def run(self):
        """Run it; returns how each step went and what it found."""
        run = run_pipeline(find_workspace(self.root), "cases", {})
        return statuses(run), run.records


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Three runs of the pipeline: the first, one after nothing changed, one after everything did but the settings, which change at last."""
    root = tmp_path_factory.mktemp("cases")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(root / "home"))
        patch.setenv("EXAMPLE_RATE", "1")
        (root / "settings.ini").write_text("[workspace]\nname = state-1\n")
        made = Cases(root)
        first, unchanged = made.run(), made.run()
        settings = (root / "settings.ini").read_text()
        made.write(2)
        (root / "settings.ini").write_text(settings)
        changed = made.run()
        (root / "settings.ini").write_text(settings.replace("state-1", "state-2"))
        return first, unchanged, changed, made.run()


@pytest.mark.parametrize("name", [*FILES, "magic", "values"])
def test_a_step_runs_again_when_what_it_reads_changes_and_only_then(cases, name):
    (first, _), (unchanged, _), (changed, found), (at_last, named) = cases
    assert first[name] == "succeeded" and unchanged[name] == "cached"
    if name == "settings":
        assert (changed[name], at_last[name], named[name]) == ("cached", "succeeded", "state-2")
    else:
        assert changed[name] == "succeeded" and str(found.get(name, 2)) in ("2", "<class 'float'>")


@pytest.mark.parametrize("name", UNSEEN)
def test_a_step_that_looks_at_what_nobody_sees_runs_each_time(cases, name):
    assert {statuses[name] for statuses, _ in cases} == {"succeeded"}


def test_a_package_of_our_own_that_is_installed_again_under_its_version_counts(tmp_path, monkeypatch):
    import site

    monkeypatch.setattr(site, "getsitepackages", lambda: [str(tmp_path)])
    places = [
        tmp_path / name for name in ("shop-1.0.dist-info", "fetched-1.0.dist-info", "old-1.0-py3.11.egg-info")
    ]
    for place in places:
        place.mkdir()
    (places[0] / "direct_url.json").write_text('{"url": "file:///shop"}')
    found = []
    for state in (1, 2):
        for place, file in zip(places, ("RECORD", "RECORD", "PKG-INFO"), strict=True):
            (place / file).write_text(f"state {state}")
        found.append(installed_packages())
    changed = {name for name in ("shop", "fetched", "old") if found[0][name] != found[1][name]}
    assert changed == {"shop", "old"} and found[0]["fetched"] == "1.0" and found[0]["shop"].startswith("1.0 ")
