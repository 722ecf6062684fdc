"""The audit: what is recorded, by whom, at once, and how every change of it shows."""

import json
import os
import random
from multiprocessing import get_context

import pytest
from support.workspaces import make_workspace

from ml_notebooks.data.audit import read_audit, record, verify_audit
from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.errors import AuditNotWritten, BadData, BrokenAudit, MissingKey
from ml_notebooks.features.store import FeatureStore
from ml_notebooks.features.view import FeatureView
from ml_notebooks.workspace import find_workspace

KEY = "a key of the tests, no secret"


def recorded(root):
    """A workspace with twelve entries on record."""
    workspace = make_workspace(root)
    (root / "settings.ini").write_text("[workspace]\nname = test\n[privacy]\npersonal = raw.people, clean.*\n")
    wh = open_warehouse(find_workspace(workspace.root))
    wh.publish("raw.people", "SELECT range AS person FROM range(9)")
    wh.publish("raw.things", "SELECT range AS thing FROM range(9)")
    for number in range(10):
        record(wh.workspace, "read", [f"raw.table_{number}"])
    return wh


@pytest.fixture(params=["", KEY], ids=["plain", "keyed"])
def wh(request, tmp_path, monkeypatch):
    """A warehouse with twelve entries on record."""
    monkeypatch.setenv("MLNB_PRIVACY__KEY", request.param)
    with recorded(tmp_path / "w") as wh:
        yield wh


@pytest.fixture(scope="module", params=["", KEY], ids=["plain", "keyed"])
def shared(request, tmp_path_factory):
    """A warehouse like it, for tests that only change the file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLNB_PRIVACY__KEY", request.param)
        with recorded(tmp_path_factory.mktemp("shared") / "w") as wh:
            yield wh


@pytest.fixture
def kept(shared):
    """The shared warehouse, its audit put back afterwards."""
    before = audit_file(shared).read_bytes()
    yield shared
    audit_file(shared).write_bytes(before)


def audit_file(wh):
    """Its file."""
    return wh.workspace.path(wh.workspace.settings.privacy.audit)


def lines_of(wh):
    """Its lines, to be changed."""
    return audit_file(wh).read_text().splitlines(keepends=True)


def test_what_is_recorded(wh):
    before = len(read_audit(wh.workspace))
    wh.sql("SELECT count(*) FROM raw.things").fetchall()
    wh.sql("SELECT count(*) FROM raw.people JOIN raw.things ON person = thing").fetchall()
    wh.publish("clean.people", "FROM raw.people")
    with wh.transaction("two"):
        wh.publish("raw.a", "SELECT 1 AS a")
        wh.publish("raw.b", "SELECT 1 AS b")
    with pytest.raises(BadData), wh.transaction("none"):
        wh.upsert("raw.a", "SELECT 1 AS a", keys=[])
    assert wh.connection is not None
    told = [(entry["action"], entry["tables"]) for entry in read_audit(wh.workspace)[before:]]
    assert told == [
        ("read", ["raw.people"]), ("read", ["raw.people"]), ("publish", ["clean.people"]), ("publish", ["raw.a", "raw.b"]), ("read", ["clean.people", "raw.people"]),
    ]  # fmt: skip
    assert verify_audit(wh).problems == ()


@pytest.mark.parametrize("place", range(12))
@pytest.mark.parametrize("field", ["time", "user", "action", "tables", "number", "previous", "hash", "keyed"])
def test_a_changed_field_is_found(kept, place, field):
    lines = lines_of(kept)
    entry = json.loads(lines[place])
    entry[field] = {"number": 99, "keyed": not entry["keyed"], "tables": ["raw.other"]}.get(field, "other")
    lines[place] = json.dumps(entry) + "\n"
    audit_file(kept).write_text("".join(lines))
    error, words = (MissingKey, "MLNB_PRIVACY__KEY") if entry["keyed"] and not os.environ["MLNB_PRIVACY__KEY"] else (BrokenAudit, rf"[Ee]ntry {99 if field == 'number' else place + 1}\b")
    with pytest.raises(error, match=words):
        verify_audit(kept).raise_if_broken()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("how", ["drop", "swap", "double", "insert", "garbage", "move"])
def test_lines_that_were_moved_are_found(kept, how, seed):
    lines, dice = lines_of(kept), random.Random(seed)
    one, other = sorted(dice.sample(range(11), 2))
    if how == "drop":
        del lines[one]
    elif how == "swap":
        lines[one], lines[other] = lines[other], lines[one]
    elif how == "double":
        lines.insert(other, lines[one])
    elif how == "insert":
        lines.insert(one, json.dumps(json.loads(lines[one]) | {"user": "other"}) + "\n")
    elif how == "garbage":
        lines[one] = dice.choice(["\n", "{}\n", "[]\n", "no json\n", '{"number": "1"}\n', "null\n"])
    else:
        lines.append(lines.pop(one))
    audit_file(kept).write_text("".join(lines))
    assert verify_audit(kept).problems


@pytest.mark.parametrize("left", range(12))
def test_an_end_that_was_cut_off_is_found_beside_a_head(kept, left):
    head = verify_audit(kept).head
    audit_file(kept).write_text("".join(lines_of(kept)[:left]))
    assert any("is missing" in problem for problem in verify_audit(kept, head=head).problems)
    assert bool(verify_audit(kept).problems) == (left < 2)  # the catalogue knows of the first two


@pytest.mark.parametrize("wh", [KEY], indirect=True)  # without a key it is not found, as the notebook says
def test_a_chain_that_was_written_anew_with_another_key_is_found(wh, monkeypatch, tmp_path):
    monkeypatch.setenv("MLNB_PRIVACY__KEY", "")
    forged = make_workspace(tmp_path / "forged")
    record(forged, "publish", ["raw.people"], snapshot=6)
    record(forged, "publish", ["raw.things"], snapshot=7)
    anew = forged.path(forged.settings.privacy.audit).read_text()
    lines = lines_of(wh)
    audit_file(wh).write_text(lines[0] + anew)
    assert verify_audit(wh).problems
    monkeypatch.setenv("MLNB_PRIVACY__KEY", "another key of sixteen")
    with open_warehouse(find_workspace(wh.workspace.root), read_only=True) as reader:
        audit_file(wh).write_text("".join(lines))
        assert len(verify_audit(reader).problems) == 12


def test_verifying_keyed_entries_needs_the_key(wh, monkeypatch):
    keyed = bool(os.environ["MLNB_PRIVACY__KEY"])
    monkeypatch.setenv("MLNB_PRIVACY__KEY", "")
    with open_warehouse(find_workspace(wh.workspace.root), read_only=True) as reader:
        if keyed:
            with pytest.raises(MissingKey, match="MLNB_PRIVACY__KEY is not set"):
                verify_audit(reader)
        else:
            assert verify_audit(reader).problems == ()


def record_many(root, times):
    """Put many things on record."""
    workspace = find_workspace(root)
    for number in range(times):
        record(workspace, "read", [f"raw.t{number}"])


def test_processes_that_record_at_once_make_one_chain(wh):
    writers = [get_context("spawn").Process(target=record_many, args=(wh.workspace.root, 40)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    audit = verify_audit(wh)
    assert audit.problems == () and len(audit.entries) == 12 + 120
    assert len({entry["pid"] for entry in audit.entries}) == 4


@pytest.mark.parametrize("torn", [b"{", b'{"number": 13, "time": "20', b"x" * 9000])
def test_half_an_entry_is_taken_away_by_the_next(kept, torn):
    with audit_file(kept).open("ab") as file:
        file.write(torn)
    assert verify_audit(kept).problems
    record(kept.workspace, "read", ["raw.people"])
    audit = verify_audit(kept)
    assert audit.problems == () and audit.entries[-1]["torn"] == len(torn)


def test_long_entries_follow_one_another(kept):
    for number in range(4):
        record(kept.workspace, "read", [f"raw.{'t' * 3000}{n}" for n in range(4 * number)])
    assert verify_audit(kept).problems == ()


def test_what_cannot_be_recorded_is_an_error_and_the_commit_stands(wh):
    file = audit_file(wh)
    kept = file.read_bytes()
    file.unlink()
    file.mkdir()
    with pytest.raises(AuditNotWritten, match="is not on record"):
        wh.publish("raw.more", "SELECT 1 AS a")
    file.rmdir()
    file.write_bytes(kept)
    assert "raw.more" in wh.names()
    assert [problem for problem in verify_audit(wh).problems if "has no entry" in problem]


def test_the_command_line_verifies(wh, mlnb):
    key = os.environ["MLNB_PRIVACY__KEY"]
    ran = mlnb("audit", "verify", cwd=wh.workspace.root, MLNB_PRIVACY__KEY=key)
    assert ran.returncode == 0 and "12 entries" in ran.stdout, ran.stderr
    head = ran.stdout.split("Head: ")[1].strip()
    assert mlnb("audit", "verify", "--head", head, cwd=wh.workspace.root, MLNB_PRIVACY__KEY=key).returncode == 0
    assert "raw.table_9" in mlnb("audit", "list", cwd=wh.workspace.root, MLNB_PRIVACY__KEY=key).stdout
    lines = lines_of(wh)
    audit_file(wh).write_text("".join(lines[:3] + lines[4:]))
    ran = mlnb("audit", "verify", cwd=wh.workspace.root, MLNB_PRIVACY__KEY=key)
    assert ran.returncode == 1 and "Entry 4 is missing before entry 5" in ran.stderr


def test_what_the_feature_store_notes_down_is_no_change_of_the_audit(wh):
    view = FeatureView("numbered", "thing", "known_at", "SELECT thing, now() AS known_at FROM raw.things")
    FeatureStore(wh).register(view)
    assert verify_audit(wh).problems == ()
