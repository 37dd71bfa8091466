"""`undertow schedules`, `schedule` and `ls --late`: what is served, what is overdue, and a say in it."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import Result

from undertow import At, Cron, Interval, RRule, Schedule
from undertow.console.moments import end_of, moment
from undertow.console.records import Change
from undertow.console.timetable import Served, said
from undertow.storage.owners import this_process

Invoke = Callable[..., Result]

SECOND = 1_000_000
HOUR = 3600 * SECOND
NOON = 1_772_452_800 * SECOND  # 2026-03-02T12:00Z, a Monday


# --- in words, and what is overdue -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (Cron("0 9 * * mon-fri", timezone="Europe/Berlin"), "at 09:00 on Monday through Friday, Europe/Berlin"),
        (Cron("@daily"), "at 00:00 every day, UTC"),
        (Interval(timedelta(minutes=90)), "every 90 min"),
        (Interval(timedelta(days=2), timezone="Asia/Tokyo"), "every 2 d, Asia/Tokyo"),
        (Interval(timedelta(seconds=1.5), jitter=timedelta(seconds=30)), "every 1.50 s, up to 30 s later"),
        (RRule("FREQ=WEEKLY;BYDAY=MO"), "by the rule FREQ=WEEKLY;BYDAY=MO, UTC"),
        (Cron("0 0 1-7 * mon", day_or=False), "on Monday (both must fit), UTC"),
        (
            Cron("@daily") | Cron("30 2 L * *"),
            "at 02:30 on the last day of every month, UTC; or at 00:00 every day, UTC",
        ),
        (None, "can't be read by this version of undertow"),
    ],
)
def test_schedules_in_words(schedule: Schedule | None, words: str) -> None:
    """Every kind of schedule is said in words, with its zone, its bounds and its jitter."""
    assert said(schedule).endswith(words)


def test_bounds_in_words() -> None:
    """The first and the last moment of a schedule are said, and the one of a schedule that fires once."""
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    assert re.search(r"from 202\d-.* until 202\d-", said(Cron("@daily", start=start, end=end)))
    assert re.fullmatch(r"once, at 202\d-[\d-]+ [\d:]+", said(At(start)))


def served(**changes: Any) -> Served:
    """A schedule of every hour, up to noon all decided, that nobody serves."""
    plain = Served("hourly", "jobs.hourly", Interval(timedelta(hours=1)), {}, "skip", "latest", NOON, None, None, 0)
    return attrs.evolve(plain, **changes)


@pytest.mark.parametrize(
    ("changes", "now", "missed"),
    [
        ({}, NOON + HOUR + 15 * SECOND, 0),
        ({}, NOON + HOUR + 16 * SECOND, 1),
        ({}, NOON + 5 * HOUR, 5),
        ({}, NOON + 5000 * HOUR, 1000),
        ({"server": "here:1"}, NOON + 5 * HOUR, 0),
        ({"paused_at": NOON}, NOON + 5 * HOUR, 0),
        ({"schedule": None}, NOON + 5 * HOUR, 0),
        ({"schedule": At(datetime(2026, 1, 1, tzinfo=UTC))}, NOON + 5 * HOUR, 0),
    ],
)
def test_what_is_overdue(changes: dict[str, Any], now: int, missed: int) -> None:
    """A schedule that nobody serves is overdue once its next time is longer ago than that; a paused one never is."""
    overdue = served(**changes).overdue(now, late_after=15)
    assert len(overdue) == missed
    assert overdue[:1] == [NOON + HOUR] * bool(missed)


def test_moments_in_a_zone() -> None:
    """What names no zone is meant in the zone that is asked for, and a day ends with its last microsecond."""
    now, zone = datetime(2026, 3, 2, 12, tzinfo=UTC), datetime.strptime("+0500", "%z").tzinfo
    midnight = moment("2026-03-02T00:00+05:00", now)
    assert moment("2026-03-02", now, zone) == moment("today", now, zone) == midnight
    assert end_of("2026-03-02", now, zone) == end_of("today", now, zone) == midnight + 24 * HOUR - 1
    assert end_of("2026-03-02T14:00", now, zone) == moment("14:00", now, zone) == midnight + 14 * HOUR


# --- a journal made by hand ------------------------------------------------------------------------------------


@pytest.fixture
def timed(journal_of: Any, record: Any, undertow: Invoke) -> Path:
    """A journal with four schedules: one served by this process, one overdue, one paused, and one with a late run."""
    late = Change("SCHEDULED", "Late", "No slot free of 'line'.", NOON + 15 * SECOND)
    ran = Change("RUNNING", "Running", "", NOON + 40 * SECOND)
    done = Change("COMPLETED", "Completed", "", NOON + 50 * SECOND)
    first = Change("SCHEDULED", "Scheduled", "", NOON + SECOND)
    skipped = Change(
        "SKIPPED", "Skipped", "overlap: run 00001 of the same schedule is still going.", NOON + 60 * SECOND
    )
    missed = Change("SKIPPED", "Skipped", "missed: nobody served the schedule; catch_up='latest'.", NOON)
    states = {1: (first, late, ran, done), 2: (first, skipped), 3: (first, missed)}
    times = {1: {"started": ran.at, "ended": done.at}, 2: {"started": None}, 3: {"started": None}}
    runs = [record(number, "hourly", None, kind="flow", states=states[number], **times[number]) for number in states]
    path: Path = journal_of(runs)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for run in runs:
            fired = json.dumps({"schedule": "late", "nominal": NOON})
            connection.execute("UPDATE run SET details = json_patch(details, ?) WHERE id = ?", (fired, run.id))
        connection.execute("INSERT INTO owner VALUES (2, ?, ?, ?, ?, ?, 0, NULL)", attrs.astuple(this_process()))
        daily = Cron("@daily", timezone="Asia/Tokyo")
        for name, schedule, mark, paused_at, owner in (
            ("late", At(datetime(2026, 3, 2, 12, tzinfo=UTC)), NOON, None, 2),
            ("overdue", Interval(timedelta(hours=1)), NOON, None, 1),
            ("paused", Interval(timedelta(hours=1)), NOON, NOON, 2),
            ("served", daily, 32_520_000_000 * SECOND, None, 2),
        ):
            plan = {"schedule": schedule.to_dict(), "parameters": {"n": 1}, "overlap": "skip", "catch_up": "latest"}
            row = (name, "jobs.hourly", json.dumps(plan | {"grace": None}), mark, paused_at, owner)
            connection.execute("INSERT INTO schedule VALUES (?, ?, ?, ?, ?, ?)", row)
        connection.execute("INSERT INTO fire VALUES ('late', ?, '00001', 1, NULL)", (NOON,))
        connection.execute("INSERT INTO fire VALUES ('paused', ?, 'swept', 1, NULL)", (NOON,))
    return path


pytestmark = pytest.mark.real_time


def test_schedules_are_listed(undertow: Invoke, timed: Path) -> None:
    """`schedules` says of each who serves it, how it fired last and when it fires next."""
    lines = undertow("schedules").stdout.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        [name, "hourly"] for name in ("late", "overdue", "paused", "served")
    ]
    me = f"{this_process().host}:{this_process().pid}"
    assert re.search(rf"{re.escape(me)} +202\d-\S+ Completed +never again$", lines[1])
    assert re.search(r"every 1 h +nobody +never +overdue since 202", lines[2])
    assert re.search(rf"{re.escape(me)} +202\d-\S+ \(not recorded any more\) +paused, 202\d-\S+$", lines[3])
    assert re.search(r"at 00:00 every day, Asia/Tokyo .* never +3000-07-", lines[4])


def test_schedules_as_a_document(undertow: Invoke, timed: Path) -> None:
    """`schedules --json` says the same to a program."""
    told = {each["name"]: each for each in json.loads(undertow("schedules", "--json").stdout)["schedules"]}
    late, overdue = told["late"], told["overdue"]
    assert (late["last_run_id"], late["last_state_name"], late["next_fire_at"]) == ("00001", "Completed", None)
    assert (overdue["served_by"], overdue["overdue"]) == (None, 1000)
    assert overdue["next_fire_at"] == overdue["overdue_since"] == "2026-03-02T13:00:00.000000Z"
    assert told["paused"]["paused_at"] == "2026-03-02T12:00:00.000000Z"
    assert told["served"]["schedule"] == {"cron": "@daily", "timezone": "Asia/Tokyo"}


def test_no_schedules_are_no_mistake(undertow: Invoke, journal_of: Any) -> None:
    """Where nothing was ever served, `schedules` and `ls --late` say so."""
    journal_of([])
    assert undertow("schedules").stdout.startswith("No schedule has been served yet on runs.db")
    assert undertow("ls", "--late").stdout == "Nothing is late in runs.db.\n"
    assert json.loads(undertow("ls", "--late", "--json").stdout)["overdue"] == []


def test_what_is_late_is_listed_with_its_reason(undertow: Invoke, timed: Path) -> None:
    """`ls --late` lists runs that were late with when they were due and why, and schedules that are overdue."""
    overdue, head, line = undertow("ls", "--late").stdout.splitlines()
    assert re.match(r"schedule overdue  1,000 or more fires are overdue, since 2026-.*: nobody serves it", overdue)
    assert head.split() == ["ID", "NAME", "STATE", "DUE", "LATE", "BY", "WHY"]
    assert re.search(r"hourly-1 +Completed +2026-\S+ \S+ +40.0 s +No slot free of 'line'.$", line)
    told = json.loads(undertow("ls", "--late", "--json").stdout)
    assert [(run["id"], run["late_because"]) for run in told["runs"]] == [("00001", "No slot free of 'line'.")]
    assert [each["name"] for each in told["overdue"]] == ["overdue"]


def test_why_a_run_was_late(undertow: Invoke, timed: Path) -> None:
    """`why` says how late a run began and for what reason."""
    assert undertow("why", "00001").stdout.splitlines()[1] == (
        "Its body returned. It began 40.0 s late. It was Late: No slot free of 'line'."
    )


def test_why_a_fire_was_skipped(undertow: Invoke, timed: Path) -> None:
    """`why` says which run was in the way of one that was skipped, or that nobody served its schedule."""
    told = json.loads(undertow("why", "00002", "--json").stdout)["reasons"]
    assert [(each["run_id"], each["reason"]) for each in told] == [("00002", "overlap"), ("00001", "completed")]
    (missed,) = json.loads(undertow("why", "00003", "--json").stdout)["reasons"]
    assert (missed["reason"], "Missed: nobody served the schedule" in missed["said"]) == ("missed", True)


def test_pausing_and_resuming(undertow: Invoke, timed: Path) -> None:
    """`schedule pause` and `resume` say whether they changed anything."""
    assert undertow("schedule", "pause", "served").stdout == "served is paused.\n"
    assert json.loads(undertow("schedule", "pause", "served", "--json").stdout)["changed"] is False
    assert undertow("schedule", "resume", "served").stdout == "served fires again.\n"
    assert undertow("schedule", "resume", "served").stdout == "served was not paused.\n"


def test_triggering_what_nobody_serves(undertow: Invoke, timed: Path) -> None:
    """A run that is asked for is written down, and it is said that it waits for somebody to serve the schedule."""
    result = undertow("schedule", "trigger", "overdue")
    assert re.fullmatch(r"Run \S{36} was asked for\.\n", result.stdout)
    assert result.stderr == "Nobody serves overdue now: nothing runs until somebody does.\n"
    assert "1 asked for" in undertow("schedules").stdout


def test_backfilling_days_of_the_schedules_own_zone(undertow: Invoke, timed: Path) -> None:
    """`schedule backfill` asks for each time between two days of the schedule's zone, both included, once."""
    words = ("schedule", "backfill", "served", "--from", "2026-01-01", "--to", "2026-01-03")
    assert undertow(*words).stdout == "3 runs were asked for.\n"
    with closing(sqlite3.connect(timed)) as connection:
        nominals = connection.execute("SELECT nominal FROM fire WHERE owner IS NULL ORDER BY 1").fetchall()
    first = datetime(2025, 12, 31, 15, tzinfo=UTC)  # midnight in Tokyo
    assert [datetime.fromtimestamp(at / 1e6, UTC) - first for (at,) in nominals] == [
        timedelta(days=n) for n in range(3)
    ]
    assert undertow(*words).stdout.startswith("There is nothing to run")
    assert json.loads(undertow(*words, "--json").stdout)["run_ids"] == []


@pytest.mark.parametrize(
    "words",
    [
        ("pause", "overdu"),
        ("trigger", "nothing"),
        ("backfill", "served", "--from", "2026-01-01", "--to", "soon"),
        ("backfill", "overdue", "--from", "2000-01-01", "--to", "2026-01-01"),
        ("backfill", "served"),
        ("pause", "served", "--journal", "none.db"),
    ],
)
def test_mistakes_are_one_line(
    undertow: Invoke, timed: Path, complaint: Callable[[Result], str], words: tuple[str, ...]
) -> None:
    """A schedule that is not there, a moment that is none and too long a span are one line each."""
    said = complaint(undertow("schedule", *words))
    assert "Did you mean 'overdue'?" in said or words[1] != "overdu"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("told = '{'", "makes no sense"),
        ("told = json_remove(told, '$.overlap')", "makes no sense"),
        ("told = json_set(told, '$.parameters', 7)", "makes no sense"),
        ("mark = -5", "makes no sense"),
        ("mark = 9e18", "makes no sense"),
        ("flow = x'00ff'", "makes no sense"),
    ],
)
def test_damaged_schedules_are_one_line(
    undertow: Invoke, timed: Path, complaint: Callable[[Result], str], change: str, said: str
) -> None:
    """A row that says what no schedule can is a damaged journal, said in one line, and no traceback."""
    with closing(sqlite3.connect(timed, isolation_level=None)) as connection:
        connection.execute(f"UPDATE schedule SET {change} WHERE name = 'overdue'")
    for words in (["schedules"], ["ls", "--late"], ["schedule", "pause", "served"]):
        assert said in complaint(undertow(*words))


def test_schedules_of_a_kind_that_is_not_known(undertow: Invoke, timed: Path) -> None:
    """A schedule that this version can't read is listed as such, and the others as ever."""
    with closing(sqlite3.connect(timed, isolation_level=None)) as connection:
        connection.execute("""UPDATE schedule SET told = json_set(told, '$.schedule', json('{"moon": "full"}'))
            WHERE name = 'overdue'""")
    lines = undertow("schedules").stdout.splitlines()
    assert "can't be read by this version of undertow" in lines[2]
    assert "at 00:00 every day, Asia/Tokyo" in lines[4]
