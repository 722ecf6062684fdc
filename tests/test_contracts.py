"""Contracts against pandera's own answers, on awkward tables; their versions, severities and what they tell."""

import json
import os
import re
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import nbformat
import pandera.ibis as pa
import pytest
from support.workspaces import make_workspace

from ml_notebooks.data.contract_changes import diff_contracts, keep_contract, read_contract
from ml_notebooks.data.contract_drafts import infer_contract
from ml_notebooks.data.contract_pass import as_ibis, measures, one_pass
from ml_notebooks.data.contract_rules import TABLE, Freshness, References, Volume
from ml_notebooks.data.contract_terms import promises
from ml_notebooks.data.contracts import Contract, check, failing_rows
from ml_notebooks.data.upkeep import maintain
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import (
    BadContract,
    BadData,
    ContractBroken,
    ReadOnlyWarehouse,
    UnknownCheck,
    UnknownTable,
)
from ml_notebooks.lineage import VARIABLE, begin_lineage, read_lineage
from ml_notebooks.pipelines.ledger import read_steps
from ml_notebooks.workspace import find_workspace

AWKWARD = """
SELECT * FROM (VALUES
    (0, 0.5, 'EWR', true), (1, 'nan', '', false), (12, 'inf', 'ewr', NULL), (13, '-inf', 'JF K', true), (NULL, NULL, NULL, NULL),
    (-9223372036854775808, -0.0, 'L''GA', false), (9223372036854775807, 1e308, 'Zürich ✈', true), (12, 0.5, 'EWR', true)
) AS rows(n, x, word, flag)
"""


@pytest.fixture(scope="module")
def wh(tmp_path_factory):
    with open_warehouse(make_workspace(tmp_path_factory.mktemp("contracts"), lock_timeout=60)) as opened:
        opened.publish(
            "raw.awkward", f"SELECT n::BIGINT AS n, x::DOUBLE AS x, word, flag FROM ({AWKWARD.strip()})"
        )
        opened.publish("raw.empty", "FROM raw.awkward LIMIT 0")
        opened.publish(
            "raw.missing", "SELECT NULL::BIGINT AS n, NULL::DOUBLE AS x, NULL::VARCHAR AS word FROM range(3)"
        )
        yield opened


def failing(result):
    """(column, check) -> failing rows."""
    return result.checks.set_index(["column", "check"])["failing"].to_dict()


def by_pandera(wh, table, schema):
    """The failing rows of the one check of a schema, as pandera's own `validate` finds them."""
    try:
        schema.validate(as_ibis(wh, table), lazy=True)
    except pa.errors.SchemaErrors as errors:
        [error] = errors.schema_errors
        cases = error.failure_cases
        return int(cases.count().execute()) if hasattr(cases, "execute") else len(cases)
    return 0


CHECKS = {
    "eq": ("n", pa.Check.eq(12)),
    "ne": ("n", pa.Check.ne(12)),
    "gt": ("n", pa.Check.gt(12)),
    "ge": ("n", pa.Check.ge(12)),
    "lt": ("n", pa.Check.lt(0)),
    "le": ("n", pa.Check.le(0)),
    "in_range": ("n", pa.Check.in_range(0, 12)),
    "in_range, open": ("n", pa.Check.in_range(0, 12, include_min=False, include_max=False)),
    "isin": ("n", pa.Check.isin([0, 12])),
    "notin": ("n", pa.Check.notin([0, 12])),
    "float in_range": ("x", pa.Check.in_range(0, 1)),
    "float isin": ("x", pa.Check.isin([0.5])),
    "str_matches": ("word", pa.Check.str_matches("[A-Z]{3}$")),
    "str_contains": ("word", pa.Check.str_contains("G")),
    "str_startswith": ("word", pa.Check.str_startswith("L'")),
    "str_endswith": ("word", pa.Check.str_endswith("✈")),
    "str_length": ("word", pa.Check.str_length(3, 3)),
    "str_length, at least": ("word", pa.Check.str_length(min_value=1)),
    "str isin": ("word", pa.Check.isin(["EWR", "L'GA"])),
    "function": ("n", pa.Check(lambda d: d.table[d.key] % 2 == 0, name="even")),
    "function of missing": ("n", pa.Check(lambda d: d.table[d.key].notnull(), name="there")),
    "missing counts": ("n", pa.Check(lambda d: d.table[d.key].notnull(), name="there", ignore_na=False)),
}


@pytest.mark.parametrize("table", ["raw.awkward", "raw.empty", "raw.missing"])
@pytest.mark.parametrize("name", CHECKS)
def test_the_one_pass_counts_what_pandera_finds(wh, name, table):
    column, tested = CHECKS[name]
    schema = pa.DataFrameSchema({column: pa.Column(None, tested, nullable=True)})
    result = check(wh, Contract(table, schema))
    assert failing(result)[column, str(tested.error or tested.name)] == by_pandera(wh, table, schema)


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        (lambda d: d.table.n > d.table.x, "n <= x"),
        (lambda d: d.table.n.isnull() | d.table.x.notnull(), "n IS NOT NULL AND x IS NULL"),
        (lambda d: d.table.count() == 8, "false"),
        (lambda d: d.table.n.count() > 100, "true"),
        (lambda d: d.table.x.max() < 0, "true"),
        (lambda d: {"a": d.table.n >= 0, "b": d.table.word != "EWR"}, "n < 0 OR word = 'EWR'"),
        (lambda d: d.table.n < d.table.n.mean(), "n >= (SELECT avg(n) FROM raw.awkward)"),
    ],
)
def test_conditions_of_the_table(wh, condition, rows):
    schema = pa.DataFrameSchema({}, checks=pa.Check(condition, name="condition"))
    expected = wh.sql(f"SELECT count(*) FROM raw.awkward WHERE {rows}").fetchall()[0][0]
    assert failing(check(wh, Contract("raw.awkward", schema))) == {(TABLE, "condition"): expected}


def test_all_checks_are_one_statement(wh):
    columns = {
        name: pa.Column(None, [one for at, one in CHECKS.values() if at == name], nullable=False)
        for name in ("n", "x", "word")
    }
    schema = pa.DataFrameSchema(columns)
    table = as_ibis(wh, "raw.awkward")
    statement = one_pass(table, measures(promises(schema), table, "raw.awkward"))
    assert statement.count("FROM") == 1 and statement.count(' AS "m') == len(CHECKS) + 3


@pytest.mark.parametrize("table", ["raw.awkward", "raw.empty", "raw.missing"])
def test_a_table_fulfils_the_contract_that_was_drafted_from_it(wh, table):
    draft = infer_contract(wh, table)
    result = check(wh, draft.contract())
    broken = result.checks[~result.checks["ok"]]
    assert set(zip(broken["column"], broken["check"], strict=True)) <= {("x", "not missing")}  # NaN
    assert infer_contract(wh, table).contract().version == draft.contract().version


def test_uniqueness_counts_every_row_that_is_not_alone(wh):
    wh.publish(
        "raw.twice",
        'SELECT * FROM (VALUES (1, 1), (1, 1), (1, 2), (NULL, 2), (NULL, 2), (3, 3)) AS r("a ""b", c)',
    )
    schema = pa.DataFrameSchema({'a "b': pa.Column(None, unique=True, nullable=True)}, unique=['a "b', "c"])
    found = failing(check(wh, Contract("raw.twice", schema)))
    assert found['a "b', "unique"] == 5 and found['a "b, c', "unique together"] == 4
    rows = failing_rows(wh, Contract("raw.twice", schema), 'a "b, c', "unique together")
    assert sorted(rows["c"]) == [1, 1, 2, 2]


def test_the_version_is_the_same_in_another_process(wh):
    source = """
import pandera.ibis as pa
from ml_notebooks.data.contracts import Contract
limit = 60
checks = [pa.Check.isin({"EWR", "JFK", "LGA", "SWF"}), pa.Check(lambda d: d.table[d.key].length() < limit, name="short")]
print(Contract("raw.flights", pa.DataFrameSchema({"origin": pa.Column(str, checks)})).version)
"""
    said = {
        subprocess.run(
            [sys.executable, "-c", source],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(said) == 1 and len(said.pop().strip()) == 12


@pytest.mark.parametrize("severity", ["warn", "error"])
def test_a_warning_stops_nothing(wh, severity):
    metadata = {"severity": severity}
    schema = pa.DataFrameSchema(
        {
            "n": pa.Column(float, pa.Check.gt(0, raise_warning=severity == "warn"), metadata=metadata),
            "gate": pa.Column(str, metadata=metadata),
        },
        strict=True,
        unique=["n"],
        metadata=metadata,
    )
    rules = [References("word", "raw.empty", severity=severity), Freshness(timedelta(0), severity=severity)]
    result = check(wh, Contract("raw.awkward", schema, rules))
    broken = int((~result.checks["ok"]).sum())
    assert broken == 8 and set(result.checks["severity"]) == {severity}
    assert (result.ok, result.warnings) == ((True, broken) if severity == "warn" else (False, 0))


@pytest.mark.parametrize(
    ("newest", "expected"),
    [
        ("TIMESTAMPTZ '2026-03-14 00:00:00+00'", 0),
        ("TIMESTAMP '2026-03-14 00:00'", 0),
        ("DATE '2026-03-14'", 0),
        ("'2026-03-14T00:00:00'", 0),
        ("DATE '2026-03-12'", 1),
        ("NULL::DATE", 1),
    ],
)
def test_freshness_of_every_kind_of_time(wh, newest, expected):
    wh.publish("raw.clock", f"SELECT {newest} AS t")
    rule = Freshness(timedelta(days=1), "t", as_of=datetime(2026, 3, 14, 12, tzinfo=timezone.utc))
    assert rule.measure(wh, "raw.clock", 1).failing == expected


def test_the_volume_is_compared_with_versions_and_not_with_upkeep(tmp_path):
    with open_warehouse(make_workspace(tmp_path)) as wh:
        for rows in (1000, 1100, 900):
            wh.publish("raw.daily", f"SELECT range AS n FROM range({rows})")
        maintain(wh)
        assert Volume().measure(wh, "raw.daily", 900).found == "900 rows, usually 1,050"
        wh.append("raw.daily", "SELECT range AS n FROM range(2000)")
        assert Volume().measure(wh, "raw.daily", 2900).failing == 2900


def test_a_contract_holds_of_an_old_snapshot(wh):
    old = wh.publish("raw.aging", "SELECT 1 AS n")
    wh.publish("raw.aging", "SELECT -1 AS n")
    contract = Contract("raw.aging", pa.DataFrameSchema({"n": pa.Column(None, pa.Check.gt(0))}))
    broken = Contract("raw.aging", pa.DataFrameSchema({"n": pa.Column(None, pa.Check.lt(0))}))
    with wh.at(old) as past:
        assert check(past, contract).ok and not check(wh, contract).ok
        assert not check(past, broken).ok and check(past, broken).kept == 0
        with pytest.raises(ReadOnlyWarehouse, match="contract_failures"):
            check(past, broken, keep=1)


def kept_rows(wh, table):
    """What is kept of a table: check -> how many rows."""
    query = "SELECT check_name, count(*) FROM ops.contract_failures WHERE table_name = ? GROUP BY ALL"
    return dict(wh.sql(query, [table]).fetchall()) if "ops.contract_failures" in wh.names() else {}


def test_rows_that_break_a_contract_are_kept_and_no_more_than_said(wh):
    wh.publish("raw.many", "SELECT range AS n, 'a''b' AS word FROM range(1000)")
    checks = [pa.Check.lt(0), pa.Check.ne(5), pa.Check.le(1000)]
    contract = Contract("raw.many", pa.DataFrameSchema({"n": pa.Column(None, checks)}))
    assert check(wh, contract).kept == 21 and kept_rows(wh, "raw.many") == {"less_than(0)": 20, "not_equal_to(5)": 1}
    snapshots = len(wh.snapshots())
    assert check(wh, contract).kept == 21 and check(wh, contract, keep=2).kept == 3 and check(wh, contract, keep=0).kept == 0
    assert len(wh.snapshots()) == snapshots  # the same rows are kept once
    assert check(wh, contract, keep=100).kept == 101 and kept_rows(wh, "raw.many") == {"less_than(0)": 100, "not_equal_to(5)": 1}
    kept = wh.sql("FROM ops.contract_failures WHERE table_name = 'raw.many'").df()
    assert set(kept["failing"]) == {1000, 1} and set(kept["contract"]) == {contract.version}
    assert set(kept["version"]) == {wh.version("raw.many")} and kept["row"].str.contains("\"word\":\"a'b\"").all()
    wh.append("raw.many", "SELECT -1 AS n, 'later' AS word")  # another version
    assert check(wh, contract).kept == 21 and kept_rows(wh, "raw.many") == {"less_than(0)": 120, "not_equal_to(5)": 2}


def test_another_sample_is_kept_when_another_table_changed_what_fails(wh):
    wh.publish("raw.known", "SELECT 1 AS n")
    wh.publish("raw.asking", "SELECT range AS n FROM range(3)")
    contract = Contract("raw.asking", pa.DataFrameSchema({}), References("n", "raw.known"))
    for known in (1, 2):
        wh.publish("raw.known", f"SELECT range AS n FROM range({known})")
        assert check(wh, contract).kept == 3 - known
    assert wh.sql("SELECT row FROM ops.contract_failures WHERE table_name = 'raw.asking'").fetchall() == [('{"n":2}',)]


def test_inside_a_transaction_kept_rows_share_its_fate(wh):
    contract = Contract("raw.inside", pa.DataFrameSchema({"n": pa.Column(None, pa.Check.lt(0))}))
    with pytest.raises(ContractBroken), wh.transaction():  # noqa: PT012
        wh.publish("raw.inside", "SELECT 1 AS n")
        check(wh, contract).raise_if_broken()
    assert "raw.inside" not in wh.names() and kept_rows(wh, "raw.inside") == {}
    with wh.transaction():
        wh.publish("raw.inside", "SELECT 1 AS n")
        assert check(wh, contract).kept == 1
    assert kept_rows(wh, "raw.inside") == {"less_than(0)": 1}


def test_a_step_need_not_announce_the_rows_that_a_check_keeps(wh, tmp_path, monkeypatch):
    begin_lineage(tmp_path / "facts", [])
    monkeypatch.setenv(VARIABLE, str(tmp_path / "facts"))
    schema = pa.DataFrameSchema({"n": pa.Column(None, pa.Check.gt(100), unique=True)})
    contract = Contract("raw.awkward", schema, [References("word", "raw.empty")])
    assert check(wh, contract).kept > 0
    told = read_lineage(tmp_path / "facts")
    assert set(told.reads) == {"raw.awkward", "raw.empty"} and told.unseen == () and told.writes == {}
    (one,) = told.contracts
    assert (one["table"], one["version"], one["held"]) == ("raw.awkward", contract.version, False)


def test_a_kept_contract_is_read_again_as_it_was(wh):
    column = pa.Column(
        int, [pa.Check.in_range(0, 9), pa.Check(lambda d: d.table[d.key] != 5, name="not five")], unique=True
    )
    contract = Contract(
        "raw.kept", pa.DataFrameSchema({"n": column}), [Volume(), References("n", "raw.other")]
    )
    assert keep_contract(wh, contract) == contract.version == read_contract(wh, "raw.kept").version
    assert not len(diff_contracts(read_contract(wh, "raw.kept"), contract).changes)


CHECKING = """
import pandera.ibis as pa
from ml_notebooks.data.contracts import Contract, check
from ml_notebooks.data.warehouse import open_warehouse

wh = open_warehouse()
wh.publish("raw.orders", "SELECT range AS item FROM range(9)")
found = check(wh, Contract("raw.orders", pa.DataFrameSchema({"item": pa.Column(int, pa.Check.ge(0))})))
"""
BROKEN = 'check(wh, Contract("raw.orders", pa.DataFrameSchema({"item": pa.Column(int, pa.Check.ge(3))}))).raise_if_broken()'


def held(step):
    """(table, whether it held) of a step's contracts."""
    return [(each["table"], each["held"]) for each in step["contracts"]]


def test_a_run_keeps_which_contract_held_and_what_it_said(workspace, mlnb):
    folder = workspace / "nbs" / "pipelines" / "small"
    (folder / "pipeline.yaml").write_text("title: One step\nsteps:\n  - {name: make, notebook: make.ipynb, writes: [raw.orders]}\n")
    runs = []
    for cells in ([CHECKING], [CHECKING, BROKEN]):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell, id=f"c{n}") for n, cell in enumerate(cells)])
        nbformat.write(notebook, folder / "make.ipynb")
        runs.append(json.loads(mlnb("run", "small", "--json", cwd=workspace).stdout))
    assert [step["status"] for run in runs for step in run["steps"]] == ["succeeded", "failed"]
    first, last = (run["steps"][0] for run in runs)
    assert held(first) == [("raw.orders", True)] and held(last) == [("raw.orders", True), ("raw.orders", False)]
    assert first["contracts"] == last["contracts"][:1] and set(first["outputs"]) == {"raw.orders"}
    assert f"raw.orders held {first['contracts'][0]['version']}" in (workspace / runs[0]["report"] / "index.html").read_text()
    assert f"raw.orders broke {last['contracts'][1]['version']}" in (workspace / runs[1]["report"] / "index.html").read_text()
    with open_warehouse(find_workspace(workspace), read_only=True) as wh:
        assert read_steps(wh, runs[0]["run"])[0]["contracts"] == first["contracts"]
        said = [read_contract(wh, "raw.orders", each["version"]) for each in last["contracts"]]
        assert wh.sql("SELECT run, list(row ORDER BY row) FROM ops.contract_failures GROUP BY run").fetchall() == [(runs[1]["run"], [f'{{"item":{n}}}' for n in range(3)])]
        assert [one.promises[-1].terms["min_value"] for one in said] == [0, 3] and len(wh.table("ops.contracts")) == 2


@pytest.mark.parametrize(
    ("old", "new", "effect"),
    [
        (pa.Check.in_range(0, 10), pa.Check.in_range(0, 11), "breaks readers"),
        (pa.Check.in_range(0, 10), pa.Check.in_range(1, 10), "asks more of the source"),
        (pa.Check.in_range(0, 10), pa.Check.in_range(-1, 9), "breaks readers, asks more of the source"),
        (pa.Check.in_range(0, 10), pa.Check.in_range(0, 10, include_max=False), "asks more of the source"),
        (pa.Check.isin([1, 2]), pa.Check.isin([1, 2, 3]), "breaks readers"),
        (pa.Check.isin([1, 2]), pa.Check.isin([1]), "asks more of the source"),
        (pa.Check.notin([1, 2]), pa.Check.notin([1]), "breaks readers"),
        (pa.Check.notin([1]), pa.Check.notin([1, 2]), "asks more of the source"),
        (pa.Check.str_length(2, 3), pa.Check.str_length(min_value=2), "breaks readers"),
        (pa.Check.str_length(min_value=2), pa.Check.str_length(2, 3), "asks more of the source"),
        (pa.Check.str_matches("a"), pa.Check.str_matches("b"), "breaks readers, asks more of the source"),
        (pa.Check.gt(0), pa.Check.gt(0, raise_warning=True), "breaks readers"),
        (pa.Check.gt(0, raise_warning=True), pa.Check.gt(0), "asks more of the source"),
    ],
)
def test_whom_a_change_touches(old, new, effect):
    one, other = (Contract("raw.t", pa.DataFrameSchema({"n": pa.Column(None, each)})) for each in (old, new))
    assert diff_contracts(one, other).changes["effect"].tolist() == [effect]
    assert diff_contracts(one, other).breaks_readers == ("readers" in effect)


@pytest.mark.parametrize("table", ["raw.nothing", "raw.awkwart"])
def test_no_such_table(wh, table):
    with pytest.raises(UnknownTable, match=table):
        check(wh, Contract(table, pa.DataFrameSchema({"n": pa.Column()})))
    with pytest.raises(UnknownTable, match=table):
        infer_contract(wh, table)


def test_rows_of_a_check_that_has_none(wh):
    contract = Contract("raw.awkward", pa.DataFrameSchema({"n": pa.Column(int, nullable=True)}))
    with pytest.raises(
        UnknownCheck, match=r"no check `n: is int64` of which rows could be shown\. It has: none"
    ):
        failing_rows(wh, contract, "n", "is int64")


def test_a_rule_with_sql_in_a_name_is_refused(wh):
    with pytest.raises((BadData, ValueError), match=r"schema\.table"):
        References("n", "raw.empty; DROP TABLE raw.awkward").rows_query("raw.awkward")


def test_a_misspelt_severity_is_said():
    rule = Freshness(timedelta(0), severity="warning")
    with pytest.raises(BadContract, match="`severity` is `warning`"):
        promises(pa.DataFrameSchema({}), (rule,))
    with pytest.raises(BadContract, match="`severity` is `warning`"):
        promises(pa.DataFrameSchema({}, metadata={"severity": "warning"}))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Contract("raw.awkward", {"n": int}).version, "Its schema is a `dict`"),
        (lambda: Contract("raw.awkward", pa.DataFrameSchema({"n(": pa.Column(regex=True)})).version, r"`n\(` is no pattern"),
        (lambda: Contract("raw.awkward", pa.DataFrameSchema({}), "fresh").version, "`'fresh'` is no rule"),
        (lambda: Freshness(24), "`within` is `24`"),
        (lambda: References(["a", "b"], "raw.empty", "a"), r"2 columns refer to 1 of raw\.empty"),
    ],
)
def test_what_makes_no_contract(make, message):
    with pytest.raises(BadContract, match=message):
        make()


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        (Freshness(timedelta(1), "nope"), "BadQuery.*nope"),
        (Freshness(timedelta(1), "word"), "isoformat"),
        (References("word", "raw.nowhere"), r"`raw\.nowhere` is not in the warehouse"),
        (References("word", "raw.empty", "nope"), "BadQuery"),
        (References("word", "raw.awkward", "n"), "Could not convert"),
    ],
)
def test_a_rule_that_cannot_be_computed_does_not_hold(wh, rule, found):
    result = check(wh, Contract("raw.awkward", pa.DataFrameSchema({"n": pa.Column(nullable=True)}), rule), keep=3)
    (line,) = [row for row in result.checks.itertuples() if not row.ok]
    assert line.failing == result.rows and re.search(found, line.found) and result.kept == 0


def test_a_time_without_a_zone_is_utc(wh):
    wh.publish("raw.timed", "SELECT TIMESTAMP '2026-01-01 10:00:00' AS at")
    for hours, ok in ((1, True), (3, False)):
        rule = Freshness(timedelta(hours=2), "at", as_of=datetime(2026, 1, 1, 10 + hours))
        assert check(wh, Contract("raw.timed", pa.DataFrameSchema({}), rule)).ok == ok
