"""A step is left out only where running it would change nothing: held against a model, under random changes."""

import random
import shutil
import socket
import threading
from pathlib import Path

import nbformat
import pytest
from support.soak import SOAK, soak

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import BadPipeline, GateFailed, StepFailed
from ml_notebooks.pipelines.ledger import read_steps
from ml_notebooks.pipelines.plan import Choice
from ml_notebooks.pipelines.run import prepare, run_pipeline
from ml_notebooks.workspace import find_workspace

OPEN = "from ml_notebooks.data.warehouse import open_warehouse\nfrom ml_notebooks.pipelines.record import record\nwh = open_warehouse()"
CHANGES = 150 if SOAK else 8


class Shop:
    """A pipeline of three steps and what it must give: rows * rate * factor + offset, whatever was changed before."""

    def __init__(self, root: Path):
        self.root, self.folder = root, root / "nbs" / "pipelines" / "shop"
        self.rows, self.rate, self.factor, self.offset, self.remark, self.package = 3, 2, 5, 0, 0, 0
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
        self.notebook("total", "", OPEN, total, f"record('total', price * {self.factor} + shift)")
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
        return self.rows * self.rate * self.factor + self.offset


@pytest.fixture
def shop(workspace):
    """The pipeline, not run yet."""
    return Shop(workspace)


def statuses(run):
    """Step -> how it went."""
    return {step.step: step.status for step in run.steps}


def change(shop: Shop, what: str, chance: random.Random) -> set[str]:
    """Change something and return the steps that must run at least."""
    if what in ("rows", "rate", "factor"):
        setattr(shop, what, getattr(shop, what) + chance.randint(1, 9))
        shop.write()
        return {"rows": {"ingest", "price", "total"}, "rate": {"price", "total"}, "factor": {"total"}}[what]
    if what == "remark":
        shop.remark += 1
        shop.write()
    elif what == "offset":
        shop.offset += chance.randint(1, 9)
        shop.publish_offset()
        return {"total"}
    elif what == "dropped":
        table, steps = chance.choice(
            [("raw.orders", {"ingest", "price", "total"}), ("clean.orders", {"price", "total"})]
        )
        shop.drop(table)
        return steps
    elif what == "overwritten":
        with open_warehouse(shop.workspace) as wh:
            wh.publish("clean.orders", "SELECT -1 AS price")
        return {"price", "total"}
    elif what == "package":
        shop.package += 1
        shutil.rmtree(shop.root / "site", ignore_errors=True)
        (shop.root / "site" / f"oracle-{shop.package}.0.dist-info").mkdir(parents=True)
        return {"ingest", "price", "total"}
    return set()


@soak
def test_no_change_is_missed_and_no_step_runs_in_vain(shop, monkeypatch):
    import site

    folders = [*site.getsitepackages(), str(shop.root / "site")]
    monkeypatch.setattr(site, "getsitepackages", lambda: folders)
    chance = random.Random(20260314)
    kinds = ["rows", "rate", "factor", "remark", "offset", "dropped", "overwritten", "package"]
    assert shop.run().records == {"total": shop.expected}
    for number in range(CHANGES):
        what = kinds[number] if number < len(kinds) else chance.choice(kinds)
        wanted = change(shop, what, chance)
        if chance.random() < 0.2:
            wanted |= change(shop, "remark", chance)
        with open_warehouse(shop.workspace, read_only=True) as wh:
            plan = prepare(wh, "shop", {"rows": str(shop.rows)}).plan
        assert {step for step, reasons in plan.items() if reasons} == wanted, (what, plan)
        run = shop.run()
        assert run.records == {"total": shop.expected}, (what, statuses(run))
        assert {step for step, status in statuses(run).items() if status == "succeeded"} == wanted, what


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


def test_an_undeclared_write_fails_the_step_and_writes_nothing(shop):
    shop.notebook(
        "price",
        "",
        OPEN,
        "wh.publish('clean.orders', 'SELECT 1 AS price')",
        "wh.publish('clean.extra', 'SELECT 1 AS price')",
    )
    with pytest.raises(
        StepFailed, match=r"cell 3.*`price` may not write `clean.extra`.*names `clean.orders` under"
    ):
        shop.run()
    with open_warehouse(shop.workspace, read_only=True) as wh:
        assert "clean.extra" not in wh.names() and "clean.orders" in wh.names()


def test_an_undeclared_read_warns_and_counts_from_then_on(shop):
    (shop.root / "settings.ini").write_text("[workspace]\nname = shop\n[logs]\nfile = run.log\n")
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
    assert [name for name in rows["ingest"]["inputs"] if not name.startswith("file:/")] == [] and rows["ingest"]["outputs"] and rows["ingest"]["peak_memory"] > 10
    assert set(statuses(shop.run()).values()) == {"cached"}
