"""A real scheduler: what it missed, what it never does twice, how it ends; and times and files compared with systemd's."""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from itertools import pairwise

import nbformat
import psutil
import pytest
from support.workspaces import LIGHT

from ml_notebooks.data.warehouse import open_warehouse
from ml_notebooks.pipelines import schedule as module
from ml_notebooks.pipelines.cron import Schedule, find_zone, next_firing, parse_cron
from ml_notebooks.pipelines.ledger import read_runs, read_steps
from ml_notebooks.pipelines.schedule import Last, Scheduler, read_last, write_last
from ml_notebooks.pipelines.timers import export_schedules, on_calendar
from ml_notebooks.workspace import find_workspace

LONG_AGO = datetime(2024, 7, 1, tzinfo=timezone.utc)
YEARLY = "0 6 1 jan *"
UNTIL_GO = """
import pathlib, time
pathlib.Path("here").touch()
while not pathlib.Path("go").exists():
    time.sleep(0.02)
"""
STUBBORN = """
import os, pathlib, time
pathlib.Path("pid").write_text(str(os.getpid()))
pathlib.Path("pid").rename("here")
while True:
    try:
        time.sleep(1000)
    except KeyboardInterrupt:
        pathlib.Path("heard").touch()
"""


def wait_for(condition, what):
    """Return once something holds; fail when it never does."""
    end = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.05)


def write_pipeline(folder, cell, schedule):
    """The pipeline `small` of one step; returns its folder."""
    place = folder / "nbs" / "pipelines" / "small"
    made = [nbformat.v4.new_code_cell("month: int = 1", metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(cell)]
    nbformat.write(nbformat.v4.new_notebook(cells=made), place / "only.ipynb")
    (place / "pipeline.yaml").write_text(f"title: A small one\nsteps: [{{name: only, notebook: only.ipynb}}]\nschedule: {schedule}\n")
    return place


@pytest.fixture
def missed(workspace):
    """A workspace whose pipeline has missed its times of some years. A test writes the pipeline."""
    (workspace / "settings.ini").write_text(f"[workspace]\nname = small\n[logs]\nformat = json\n{LIGHT}")
    write_last(find_workspace(workspace), "small", Last(f"{YEARLY} UTC", settled=LONG_AGO))
    return workspace


class Running:
    """A process of `mlnb`, and what it logged, in a file that does not fill as a pipe does."""

    def __init__(self, folder, *words):
        self.log = folder / f"{'-'.join(words)}-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "ml_notebooks", *words]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)

    def said(self, text):
        """Whether a text is in the log; fails when the process has ended without it."""
        ended = self.process.poll() is not None
        found = text in self.log.read_text()
        assert found or not ended, self.log.read_text()
        return found

    def end(self, number=signal.SIGINT):
        """Send a signal, and return the exit status and the log."""
        self.process.send_signal(number)
        return self.process.wait(100), self.log.read_text()


@pytest.fixture
def start():
    """Start `mlnb` in a folder; whatever still runs at the end is killed."""
    started = []

    def begin(folder, *words):
        started.append(Running(folder, *words))
        return started[-1]

    yield begin
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


def ledger(folder):
    """The runs of a workspace."""
    with open_warehouse(find_workspace(folder), read_only=True) as wh:
        return read_runs(wh)


def known(folder):
    """What is known of the pipeline's scheduled runs."""
    return read_last(find_workspace(folder), "small")


# A real scheduler


def test_what_was_missed_is_run_once_and_not_again_after_a_restart(missed, start, mlnb):
    write_pipeline(missed, "from ml_notebooks.pipelines.record import record\nrecord('month', month)", f"{{cron: {YEARLY}, parameters: {{month: 7}}}}")
    (row,) = json.loads(mlnb("schedule", "--list", "--json", cwd=missed).stdout)
    assert (row["status"], row["last run"]) == ("missed", None)
    first = start(missed, "schedule")
    wait_for(lambda: first.said("scheduled run ended"), "the run")
    status, log = first.end(signal.SIGTERM)
    assert status == 0 and "Traceback" not in log and "scheduler ends" in log
    second = start(missed, "schedule")
    wait_for(lambda: second.said("schedule taken up"), "the second scheduler")
    assert second.end()[0] == 0
    (run,) = ledger(missed)
    assert run["status"] == "succeeded" and run["records"] == {"month": 7}
    (row,) = json.loads(mlnb("schedule", "--list", "--json", cwd=missed).stdout)
    assert (row["cron"], row["time zone"], row["status"]) == (YEARLY, "UTC", "succeeded") and row["next run"].endswith("-01-01T06:00:00+00:00")
    assert "succeeded" in mlnb("schedule", "--list", cwd=missed).stdout


def test_a_run_that_succeeded_is_told_so_beside_a_time_that_was_missed_since(missed, mlnb):
    write_pipeline(missed, "pass", f'"{YEARLY}"')
    write_last(find_workspace(missed), "small", Last(f"{YEARLY} UTC", LONG_AGO, "succeeded", LONG_AGO))
    (row,) = json.loads(mlnb("schedule", "--list", "--json", cwd=missed).stdout)
    assert row["status"] == "succeeded" and row["missed"] > row["last run"]
    assert "missed" in mlnb("schedule", "--list", cwd=missed).stdout


def test_a_run_outlives_a_scheduler_that_is_killed_and_is_not_repeated(missed, start, mlnb):
    place = write_pipeline(missed, UNTIL_GO, f'"{YEARLY}"')
    first = start(missed, "schedule")
    wait_for((place / "here").exists, "the run")
    wait_for(lambda: known(missed).status == "running", "the note of it")
    first.process.kill()
    first.process.wait()
    child = psutil.Process(known(missed).pid)
    assert json.loads(mlnb("schedule", "--list", "--json", cwd=missed).stdout)[0]["status"] == "running"
    second = start(missed, "schedule")
    wait_for(lambda: second.said("schedule taken up"), "the second scheduler")
    (place / "go").touch()
    child.wait(100)
    assert second.end()[0] == 0
    assert [run["status"] for run in ledger(missed)] == ["succeeded"]
    assert json.loads(mlnb("schedule", "--list", "--json", cwd=missed).stdout)[0]["status"] == "unseen"


def test_a_run_that_fails_is_told_and_the_scheduler_goes_on(missed, start, mlnb):
    write_pipeline(missed, "1 / 0", f'"{YEARLY}"')
    scheduler = start(missed, "schedule")
    wait_for(lambda: scheduler.said("scheduled run ended"), "the run")
    assert scheduler.process.poll() is None
    status, log = scheduler.end()
    ended = next(json.loads(line) for line in log.splitlines() if "scheduled run ended" in line)
    assert status == 0 and (ended["status"], ended["exit_status"], ended["level"]) == ("failed", 1, "error") and "ZeroDivisionError" in log
    assert json.loads(mlnb("schedule", "--list", "--json", cwd=missed).stdout)[0]["status"] == "failed"


def test_ctrl_c_interrupts_the_run_which_keeps_what_it_has(missed, start):
    place = write_pipeline(missed, f"print('kept')\n{UNTIL_GO}", f'"{YEARLY}"')
    scheduler = start(missed, "schedule")
    wait_for((place / "here").exists, "the run")
    status, log = scheduler.end()
    assert status == 0 and "Traceback" not in log
    assert known(missed).status == "interrupted" and known(missed).exit_status == 130
    (run,) = ledger(missed)
    assert "interrupted" in run["error"] and "kept" in (missed / run["report"] / "only.ipynb").read_text()


def test_a_second_ctrl_c_kills_a_run_that_does_not_listen(missed, start):
    place = write_pipeline(missed, STUBBORN, f'"{YEARLY}"')
    scheduler = start(missed, "schedule")
    wait_for((place / "here").exists, "the run")
    kernel = psutil.Process(int((place / "here").read_text()))
    scheduler.process.send_signal(signal.SIGINT)
    wait_for((place / "heard").exists, "the interrupt")
    status, log = scheduler.end()
    assert status == 0 and "Traceback" not in log and known(missed).exit_status == -signal.SIGKILL
    kernel.wait(30)


def test_a_second_scheduler_is_refused(missed, start, mlnb):
    write_pipeline(missed, "pass", '"0 0 29 2 *"')
    first = start(missed, "schedule")
    wait_for(lambda: first.said("The scheduler runs"), "the scheduler")
    refused = mlnb("schedule", cwd=missed)
    assert refused.returncode == 1 and "has a scheduler already" in refused.stderr and f"process {first.process.pid} " in refused.stderr
    assert first.end()[0] == 0 and ledger(missed) == []


def test_a_scheduled_run_waits_for_one_that_was_started_by_hand(missed, start, mlnb):
    place = write_pipeline(missed, UNTIL_GO, f'"{YEARLY}"')
    by_hand = start(missed, "run", "small")
    wait_for((place / "here").exists, "the run by hand")
    assert mlnb("run", "small", cwd=missed).returncode == 1
    scheduler = start(missed, "schedule")
    wait_for(lambda: scheduler.said("run waits for its turn"), "the wait")
    assert f"process {by_hand.process.pid} " in scheduler.log.read_text() and len(ledger(missed)) == 1
    (place / "go").touch()
    wait_for(lambda: scheduler.said("scheduled run ended"), "the scheduled run")
    assert scheduler.end()[0] == 0 and by_hand.process.wait(100) == 0
    later, earlier = ledger(missed)
    assert later["status"] == earlier["status"] == "succeeded"
    with open_warehouse(find_workspace(missed), read_only=True) as wh:
        (step,) = read_steps(wh, earlier["run"])
    assert later["started"] >= step["started"] + timedelta(seconds=step["seconds"])


# A scheduler in this process, with children that are no pipelines


@pytest.fixture
def scheduler(workspace, monkeypatch):
    """A scheduler whose runs are processes that sleep until they are ended."""
    sleep = [sys.executable, "-c", "import time; time.sleep(100)"]
    monkeypatch.setattr(module, "_start", lambda workspace, name: subprocess.Popen(sleep))
    (workspace / "settings.ini").write_text("[workspace]\nname = small\n[logs]\nfile = run.log\n")
    made = Scheduler(find_workspace(workspace))
    made.clock.start()
    yield made
    made.end()


def test_runs_of_one_pipeline_never_overlap_and_a_time_that_came_meanwhile_follows(workspace, scheduler):
    write_pipeline(workspace, "pass", f'"{YEARLY}"')
    scheduler.refresh()
    runs = scheduler.runs
    runs.notes.change("small", settled=LONG_AGO)
    scheduler.refresh()
    wait_for(lambda: runs.notes.last["small"].status == "running", "the first run")
    first = runs.children["small"]
    runs.notes.change("small", settled=LONG_AGO)  # as if a time had come meanwhile
    scheduler.refresh()
    runs.run("small", scheduler.files.schedules["small"])
    assert runs.children == {"small": first} and first.poll() is None
    first.terminate()
    wait_for(lambda: "small" not in runs.children, "its end")
    scheduler.refresh()
    wait_for(lambda: runs.notes.last["small"].status == "running", "the second run")
    assert runs.children["small"].pid != first.pid
    runs.children["small"].kill()
    wait_for(lambda: runs.notes.last["small"].status == "failed", "its end")
    wait_for(lambda: runs.children == {}, "the end of its thread")
    scheduler.refresh()
    time.sleep(0.5)
    assert runs.children == {} and runs.notes.last["small"].exit_status == -signal.SIGKILL


def test_each_time_is_fired_by_the_clock(workspace, scheduler, monkeypatch):
    monkeypatch.setattr(module, "next_firing", lambda schedule, after: after + timedelta(seconds=0.2))
    monkeypatch.setattr(module, "_start", lambda workspace, name: subprocess.Popen([sys.executable, "-c", ""]))
    seen = []
    change = scheduler.runs.notes.change
    monkeypatch.setattr(scheduler.runs.notes, "change", lambda name, **changes: (seen.append(changes), change(name, **changes)))
    write_pipeline(workspace, "pass", f'"{YEARLY}"')
    scheduler.refresh()  # once: the clock does the rest
    wait_for(lambda: sum(changes.get("status") == "succeeded" for changes in seen) >= 3, "three runs")


def test_a_changed_file_is_taken_up_and_a_broken_one_is_not(workspace, scheduler):
    place = write_pipeline(workspace, "pass", '"0 6 * * *"')
    scheduler.refresh()
    write_last(find_workspace(workspace), "small", Last("0 6 * * * UTC", LONG_AGO))
    scheduler.refresh()
    assert scheduler.runs.children == {}  # what is known is read once
    shown = lambda: {name: str(schedule) for name, schedule in scheduler.files.schedules.items()}  # noqa: E731
    write_pipeline(workspace, "pass", "{cron: 0 7 * * *, timezone: Europe/Berlin}")
    scheduler.refresh()
    (job,) = scheduler.clock.get_jobs()
    assert shown() == {"small": "0 7 * * * Europe/Berlin"} and job.next_run_time.strftime("%H:%M") == "07:00"
    assert scheduler.runs.children == {} and scheduler.runs.notes.last["small"].settled > LONG_AGO  # not made up for
    write_pipeline(workspace, "pass", '"0 77 * * *"')
    scheduler.refresh()
    assert shown() == {"small": "0 7 * * * Europe/Berlin"} and "`77` is no hour" in str(scheduler.files.problems["small"])
    (place / "pipeline.yaml").unlink()
    scheduler.refresh()
    assert shown() == {} and scheduler.clock.get_jobs() == [] and scheduler.files.problems == {}
    events = (workspace / "run.log").read_text()
    assert "schedule taken up" in events and "schedule is left as it was" in events and "schedule removed" in events


def test_a_child_that_cannot_be_started_is_told(workspace, scheduler, monkeypatch):
    def refuse(workspace, name):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(module, "_start", refuse)
    write_pipeline(workspace, "pass", f'"{YEARLY}"')
    scheduler.refresh()
    scheduler.runs.notes.change("small", settled=LONG_AGO)
    scheduler.refresh()
    wait_for(lambda: "could not be started" in (workspace / "run.log").read_text(), "the message")
    assert scheduler.runs.notes.last["small"].settled == LONG_AGO and scheduler.runs.children == {}


# The command line


def test_nothing_is_scheduled(workspace, mlnb):
    for words in (["schedule"], ["schedule", "--export", "cron"]):
        refused = mlnb(*words, cwd=workspace)
        assert refused.returncode == 1 and "No pipeline of this workspace has a schedule." in refused.stderr and "Traceback" not in refused.stderr
    assert "No pipeline has a schedule" in mlnb("schedule", "--list", cwd=workspace).stdout
    place = write_pipeline(workspace, "pass", "")
    assert "Pipeline `small` has no schedule." in mlnb("run", "small", "--scheduled", cwd=workspace).stderr
    assert sorted(file.name for file in place.iterdir()) == ["only.ipynb", "pipeline.yaml"]


def test_a_wrong_schedule_is_shown_with_its_line(workspace, mlnb):
    write_pipeline(workspace, "pass", "{cron: 0 6 * * *, timezone: Europe/Berln}")
    shown = mlnb("schedule", "--list", cwd=workspace)
    assert shown.returncode == 1 and "wrong" in shown.stdout
    for command in (["schedule", "--list"], ["schedule"], ["schedule", "--export", "systemd"], ["run", "small"]):
        process = mlnb(*command, cwd=workspace)
        assert process.returncode == 1 and "Traceback" not in process.stderr
        assert "line 3, `schedule.timezone`" in process.stderr and "Did you mean `Europe/Berlin`?" in process.stderr
    assert mlnb("schedule", "--list", "--export", "cron", cwd=workspace).returncode == 2


# Times


ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata")


def word(dice, low, high, names=()):
    """A random word of a cron expression."""
    first, last = sorted(dice.choices(range(low, high + 1), k=2))
    choices = ["*", "*", f"*/{dice.randint(2, high)}", f"{first}", f"{first}-{last}", f"{first}-{last}/{dice.randint(1, 5)}", f"{first},{last}"]
    return dice.choice(choices + ([dice.choice(names)] if names else []))


def matches(text, low, high, number):
    """Whether a number is among those of a word; written anew, to compare."""
    for part in text.split(","):
        span, _, step = part.partition("/")
        bounds = [low, high] if span == "*" else [int(end) for end in span.split("-")] * 2
        if number in range(bounds[0], bounds[1] + 1, int(step or 1)):
            return True
    return False


@pytest.mark.parametrize("seed", range(12))
def test_times_are_those_of_a_walk_through_every_minute(seed):
    dice = random.Random(seed)
    minute, hour, day, month, weekday = (word(dice, *bounds) for bounds in ((0, 59), (0, 23), (1, 31), (6, 7), (0, 7)))
    schedule = Schedule(parse_cron(f"{minute} {hour} {day} {month} {weekday}"), find_zone(dice.choice(ZONES)))
    begin = datetime(2026, 6, 3, dice.randrange(24), dice.randrange(60), tzinfo=timezone.utc)
    expected = []
    for number in range(1, 45 * 24 * 60):  # no zone changes its clock meanwhile
        instant = begin + timedelta(minutes=number)
        local = instant.astimezone(schedule.zone)
        if not (matches(minute, 0, 59, local.minute) and matches(hour, 0, 23, local.hour)):
            continue
        dated = matches(day, 1, 31, local.day)
        on_weekday = any(matches(weekday, 0, 7, each) for each in ({0, 7} if local.isoweekday() == 7 else {local.isoweekday()}))
        fits = (dated and on_weekday) if "*" in (day[0], weekday[0]) else (dated or on_weekday)
        if fits and matches(month, 1, 12, local.month):
            expected.append(instant)
    found, moment = [], begin
    while len(found) < min(len(expected), 200):
        moment = next_firing(schedule, moment)
        found.append(moment)
    assert found == expected[:200]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Africa/Cairo", "Australia/Lord_Howe", "America/Santiago", "Atlantic/Azores"])
def test_every_hour_is_met_once_and_each_day_of_a_year_whatever_the_clock_does(zone):
    schedule = Schedule(parse_cron("0 * * * *"), find_zone(zone))
    daily = Schedule(parse_cron("30 0,2 * * *"), schedule.zone)
    noon, days, changes = datetime(2026, 1, 1, 12, tzinfo=timezone.utc), [], 0
    for number in range(364):
        before, after = (noon + timedelta(days=number + more) for more in (0, 1))
        if before.astimezone(schedule.zone).utcoffset() == after.astimezone(schedule.zone).utcoffset():
            continue
        moment, hours = before - timedelta(days=1), []
        while moment < after + timedelta(days=1):
            moment = next_firing(schedule, moment).astimezone(timezone.utc)
            hours.append(moment)
        gaps = {later - earlier for earlier, later in pairwise(hours)}
        assert gaps <= {timedelta(minutes=minutes) for minutes in (30, 60, 90)} and len(set(hours)) == len(hours)
        changes += 1
    assert changes == 2
    moment = noon
    while moment.year == 2026:
        moment = next_firing(daily, moment)
        days.append(moment.date())
    assert {days.count(day) for day in set(days[:-2])} == {2}


NEEDS_SYSTEMD = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")


@NEEDS_SYSTEMD
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
@pytest.mark.parametrize(
    "text",
    ["0 6 * * mon-fri", "*/15 8-18 * * *", "0 0 13 * fri", "30 4 1,15 * 5", "0 0 29 feb *", "5 */6 * 3-5 0", "0 12 * * 7", "0 0 */2 * 1", "59 23 31 12 *"],
)
def test_systemd_reads_the_same_times(text, zone):
    schedule, begin = Schedule(parse_cron(text), find_zone(zone)), datetime(2026, 4, 15, 11, 59, tzinfo=timezone.utc)
    theirs = set()
    for event in on_calendar(schedule):
        command = ["systemd-analyze", "calendar", "--iterations=8", "--base-time=2026-04-15 11:59:00 UTC", event]
        shown = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "TZ": "UTC", "LC_ALL": "C"}).stdout
        lines = [line.partition(": ")[2] for line in shown.splitlines() if "Next elapse:" in line or "Iter. #" in line]
        theirs |= {datetime.strptime(line[4:], "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=timezone.utc) for line in lines}
    ours = []
    while len(ours) < 8:
        begin = next_firing(schedule, begin)
        ours.append(begin)
    assert ours == sorted(theirs)[:8]


# Files for others


@pytest.fixture
def odd_place(workspace):
    """A workspace whose path has a space and a percent sign."""
    folder = workspace / "100% my work"
    (folder / "nbs" / "pipelines" / "small").mkdir(parents=True)
    (folder / "settings.ini").write_text("[workspace]\nname = my 100% work\n")
    write_pipeline(folder, "assert month == 7", "{cron: 0 6 13 * fri, timezone: Europe/Berlin, parameters: {month: 7}}")
    return folder


@NEEDS_SYSTEMD
def test_systemd_accepts_the_units(odd_place):
    files = export_schedules(find_workspace(odd_place), "systemd", odd_place / "units")
    checked = subprocess.run(["systemd-analyze", "verify", *map(str, files)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0 and "small" not in checked.stderr, checked.stderr


def test_a_line_of_the_crontab_runs_the_pipeline(odd_place, tmp_path, mlnb):
    done = mlnb("schedule", "--export", "cron", "--to", str(tmp_path / "out"), cwd=odd_place)
    (file,) = (tmp_path / "out").iterdir()
    assert done.stdout.strip() == str(file) and file.name == "mlnb-my-100-work.cron"
    zone, line = file.read_text().splitlines()[-2:]
    assert zone == "CRON_TZ=Europe/Berlin" and line.startswith("0 6 13 * fri cd ")
    command = line.split(" ", 5)[5]
    assert "%" not in command.replace(r"\%", "")
    command = command.replace(r"\%", "%")  # as cron does
    assert shlex.split(command)[1] == str(odd_place.resolve())
    subprocess.run(["/bin/sh", "-c", command], cwd="/", capture_output=True, text=True, check=True)
    assert [run["status"] for run in ledger(odd_place)] == ["succeeded"]
