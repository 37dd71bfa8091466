"""`undertow why`: what a run waits for, or why it ended so."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from undertow import Engine, flow, task, wait
from undertow.console.reasons import Reason, reasons
from undertow.console.records import Change, RunRecord

Invoke = Callable[..., Result]
Record = Callable[..., RunRecord]

NOW = 1_772_452_800_000_000
SECOND = 1_000_000
TRACEBACK = 'Traceback (most recent call last):\n  File "jobs.py", line 3, in work\nValueError: bad\n'


class Some:
    """A few runs that can be looked up; the process of those that are named is gone."""

    def __init__(self, *runs: RunRecord, gone: str = "") -> None:
        self._runs = {run.id: run for run in runs}
        self._gone = gone

    def run(self, run_id: str) -> RunRecord | None:
        return self._runs.get(run_id)

    def inside(self, run_id: str) -> list[RunRecord]:
        return [run for run in self._runs.values() if run.parent_id == run_id]

    def gone(self, run: RunRecord) -> bool:
        return run.id == self._gone


@pytest.fixture
def going(record: Record) -> Record:
    """Makes a record of a run that has not ended: by number, function, state's type and name, message."""

    def make(
        number: int, function: str, type: str, name: str, message: str = "", parent: int | None = 0, **more: Any
    ) -> RunRecord:
        states = (Change("PENDING", "Pending", "", NOW - 60 * SECOND), Change(type, name, message, NOW - 5 * SECOND))
        return record(number, function, parent, **{"states": states, "started": None, "ended": None} | more)

    return make


def told(chain: list[Reason]) -> list[tuple[str, str]]:
    return [(reason.run.name, reason.word) for reason in chain]


# --- what has not ended ----------------------------------------------------------------------------------------


def test_why_names_the_limit(going: Record) -> None:
    """Of a run that waits for a slot it is said which limit is full, for how long, and who of its kind is running."""
    waits = going(2, "fetch", "SCHEDULED", "AwaitingConcurrencySlot", "No slot free of 'github', 'db'.")
    runs = [going(0, "root", "RUNNING", "Running", parent=None), going(1, "fetch", "RUNNING", "Running"), waits]
    (reason,) = reasons(waits, Some(*runs), NOW)
    assert reason.word == "limit"
    assert reason.said == (
        "It waits for a slot of 'github', 'db', for 5.00 s now; all are taken. Meanwhile fetch-1 is running."
    )


@pytest.mark.parametrize(
    ("message", "expected", "said"),
    [
        ("Attempt 2 failed; the next is in 30 s.", None, "in 25.0 s"),
        ("Attempt 2 failed; the next is in 1e+06 s.", None, "in 11 d 13 h"),
        ("Attempt 2 failed; the next is in 30 s.", NOW + 7 * SECOND, "in 7.00 s"),
        ("Attempt 2 failed; the next is in 2 s.", None, "3.00 s ago, and has not"),
        ("", None, "is to begin at a time that is not recorded"),
    ],
)
def test_why_names_the_next_attempt(going: Record, message: str, expected: int | None, said: str) -> None:
    """Of a run that waits for a retry it is said what the last attempt raised, and when the next begins."""
    waits = going(
        1, "fetch", "SCHEDULED", "AwaitingRetry", message, attempts=2, error=TRACEBACK, expected_start=expected
    )
    (reason,) = reasons(waits, Some(waits), NOW)
    assert reason.word == "retry"
    assert reason.said.startswith("Attempt 2 failed: ValueError: bad. The next one ")
    assert said in reason.said


def test_why_follows_upstreams(going: Record, record: Record) -> None:
    """Of a run that waits for others it is said for which, and of the first of them what it waits for."""
    runs = [
        record(1, "read"),
        going(2, "parse", "PENDING", "Pending", upstreams=("00001",)),
        going(3, "store", "PENDING", "Pending", upstreams=("00001", "00002", "removed")),
    ]
    chain = reasons(runs[2], Some(*runs), NOW)
    assert told(chain) == [("store-3", "upstream"), ("parse-2", "turn")]
    assert chain[0].said == "It waits for its upstream parse-2. 1 other ended."


def test_why_goes_down_to_the_body_at_work(going: Record, record: Record) -> None:
    """Of a run that runs it is said what is open inside it, down to the body that has been at work for longest."""
    old = (Change("RUNNING", "Running", "", NOW - 90 * SECOND),)
    runs = [
        going(0, "root", "RUNNING", "Running", parent=None),
        record(1, "work"),
        going(2, "work", "PENDING", "Pending"),
        going(3, "work", "RUNNING", "Running"),
        going(4, "work", "RUNNING", "Retrying", states=old, attempts=2),
    ]
    chain = reasons(runs[0], Some(*runs), NOW)
    assert told(chain) == [("root-0", "inside"), ("work-4", "body")]
    assert chain[0].said.endswith("Open inside it: 2 Running · 1 Pending.")
    assert chain[1].said.startswith("Attempt 2 runs for 1 min 30 s now")


@pytest.mark.parametrize(
    ("type", "name", "message", "more", "word", "said"),
    [
        ("SCHEDULED", "Scheduled", "", {"expected_start": NOW + 3600 * SECOND}, "scheduled", "in 1 h 00 min"),
        (
            "SCHEDULED",
            "Late",
            "No process serves it.",
            {"expected_start": NOW - SECOND},
            "late",
            "No process serves it.",
        ),
        ("SCHEDULED", "Resuming", "", {}, "resuming", "It was resumed 5.00 s ago"),
        ("PENDING", "Pending", "", {}, "turn", "it waits for its turn, for 5.00 s now"),
        ("PAUSED", "Suspended", "Approve?", {}, "paused", "until somebody resumes it. Approve?"),
        ("CANCELLING", "Cancelling", "Asked for.", {}, "cleanup", "told to stop 5.00 s ago, and cleans up. Asked for."),
        ("SCHEDULED", "Odd", "", {}, "scheduled", "at a time that is not recorded"),
        ("DREAMING", "Dreaming", "Of sheep.", {}, "state", "Of sheep."),
    ],
)
def test_why_of_other_states(
    going: Record, type: str, name: str, message: str, more: dict[str, Any], word: str, said: str
) -> None:
    """Every state that is not final has its words, one that is unknown its own message."""
    run = going(1, "f", type, name, message, **more)
    (reason,) = reasons(run, Some(run), NOW)
    assert (reason.word, said in reason.said) == (word, True), reason.said


def test_why_of_a_dead_process(going: Record) -> None:
    """Of a run whose process is gone that is said, whatever state it is in."""
    run = going(1, "f", "RUNNING", "Running")
    (reason,) = reasons(run, Some(run, gone=run.id), NOW)
    assert (reason.word, reason.said.startswith("Its process has ended.")) == ("process gone", True)


# --- what has ended --------------------------------------------------------------------------------------------


def test_why_finds_the_first_cause(undertow: Invoke) -> None:
    """A failed flow is followed through subflow and task to the one that raised, whose traceback is shown."""
    undertow("run", "jobs:nested")
    document = json.loads(undertow("why", "--json").stdout)
    assert [reason["reason"] for reason in document["reasons"]] == ["passed on", "passed on", "raised"]
    out = undertow("why").stdout
    assert "The last of its 3 attempts failed: ValueError: no rows at 17." in out
    assert out.count("Traceback") == 1
    assert out.endswith("  ValueError: no rows at 17\n")


def test_why_a_flow_that_nobody_failed(undertow: Invoke) -> None:
    """A flow that ends Failed for its children's sake is followed to the child that failed first."""
    undertow("run", "jobs:careless")
    chain = json.loads(undertow("why", "--json").stdout)["reasons"]
    assert [reason["reason"] for reason in chain] == ["inside failed", "raised"]
    assert "2/2 states failed." in chain[0]["said"] or "1/1 states failed." in chain[0]["said"]


def test_why_a_run_was_skipped(undertow: Invoke) -> None:
    """A task that was skipped for its upstream's sake is followed to what that one raised."""
    undertow("run", "jobs:careless")
    inside = json.loads(undertow("show", "--json").stdout)["inside"]
    (skipped,) = [run["id"] for run in inside if run["state_type"] == "SKIPPED"]
    chain = json.loads(undertow("why", skipped, "--json").stdout)["reasons"]
    assert [reason["reason"] for reason in chain] == ["upstream failed", "raised"]


@pytest.mark.parametrize(
    ("flow", "words"),
    [
        ("echo", ["completed"]),
        ("idle", ["skipped"]),
        ("leaves", ["raised"]),
        ("nightly", ["completed"]),
    ],
)
def test_why_of_other_ends(undertow: Invoke, flow: str, words: list[str]) -> None:
    """Runs that completed, skipped themselves or were interrupted say so, and there is nothing to follow."""
    undertow("run", f"jobs:{flow}", *(["-p", "text=x"] if flow == "echo" else []))
    chain = json.loads(undertow("why", "--json").stdout)["reasons"]
    assert [reason["reason"] for reason in chain] == words


def test_why_of_cancellation_goes_up(record: Record) -> None:
    """A run that was cancelled with its caller is followed up to how that one ended."""
    message = "Cancelled: its caller was cancelled."
    states = (Change("RUNNING", "Running", "", 1), Change("CANCELLED", "Cancelled", message, 5))
    runs = [record(0, "root", None, "Failed", error=TRACEBACK), record(1, "work", 0, states=states)]
    assert told(reasons(runs[1], Some(*runs), NOW)) == [("work-1", "caller"), ("root-0", "raised")]


@pytest.mark.parametrize(
    ("state", "name", "message", "error", "word"),
    [
        ("COMPLETED", "Cached", "Result of run 7.", None, "cached"),
        ("COMPLETED", "RolledBack", "", None, "rolled back"),
        ("COMPLETED", "Completed", "", None, "completed"),
        ("FAILED", "TimedOut", "Task run 'x' exceeded its timeout of 5 s.", TRACEBACK, "timed out"),
        ("FAILED", "Failed", "no rows", None, "said so"),
        ("FAILED", "Failed", "", None, "said so"),
        ("CRASHED", "Crashed", "Crash detected! Its process 7 on x is gone.", None, "said so"),
        ("CANCELLED", "Cancelled", "Cancelled: cancel() was called on its future.", None, "cancelled"),
        ("SKIPPED", "Skipped", "Trigger any_failed not met: a Completed", None, "trigger"),
        ("VANISHED", "Vanished", "", None, "state"),
    ],
)
def test_why_says_something_of_every_end(
    record: Record, state: str, name: str, message: str, error: str | None, word: str
) -> None:
    """Every final state has its words, also where nothing more is recorded."""
    run = record(1, "f", states=(Change("PENDING", "Pending", "", 1), Change(state, name, message, 5)), error=error)
    (reason,) = reasons(run, Some(run), NOW)
    assert reason.word == word
    assert reason.said


def test_why_of_a_circle_has_an_end(going: Record) -> None:
    """Runs that wait for each other, as only a damaged journal has them, are each told once."""
    runs = [
        going(1, "a", "PENDING", "Pending", upstreams=("00002",)),
        going(2, "b", "PENDING", "Pending", upstreams=("00001",)),
    ]
    assert told(reasons(runs[0], Some(*runs), NOW)) == [("a-1", "upstream"), ("b-2", "upstream")]


# --- as the engine records it ----------------------------------------------------------------------------------


@pytest.mark.real_time
def test_why_understands_what_the_engine_records(undertow: Invoke) -> None:
    """A real run that waits for a slot, and one that waits for its next attempt, are explained from the journal."""
    go_on, waiting = (
        threading.Event(),
        {name: threading.Event() for name in ("AwaitingRetry", "AwaitingConcurrencySlot")},
    )

    @task(limits=["line"])
    def hold() -> None:
        go_on.wait()

    @task(retries=1, retry_delay_seconds=60)
    async def unlucky() -> None:
        raise ConnectionError("busy")

    @flow
    def both() -> None:
        future = unlucky.submit()
        wait([hold.submit(), hold.submit()])
        future.cancel()

    def observe(run: Any) -> None:
        if (event := waiting.get(run.history[-1][1])) is not None:
            event.set()

    with Engine("runs.db", limits={"line": 1}, observers=[observe]) as engine:
        outermost = engine.start(both)
        for event in waiting.values():
            event.wait()
        engine.journal.commit().wait()
        inside = json.loads(undertow("show", "--json").stdout)["inside"]
        chains = [json.loads(undertow("why", run["id"], "--json").stdout)["reasons"] for run in inside]
        go_on.set()
        outermost.wait()
    told = {chain[0]["reason"]: chain[0]["said"] for chain in chains}
    assert "It waits for a slot of 'line'," in told["limit"]
    assert re.match("Attempt 1 failed: ConnectionError: busy. The next one is to begin at .*, in .* s.$", told["retry"])
