"""Runs as values: what a row of the journal's table of runs says, and how a program is told.

What such a row looks like is known here and nowhere else in the console.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import attrs

from ..engine.run import Run
from .wording import cut, iso

_SAID_BY_STATE = ("Task run raised ", "Flow run raised ", "Crash detected! Execution was ")


TROUBLE_FIRST = (
    "FAILED",
    "CRASHED",
    "CANCELLED",
    "CANCELLING",
    "PAUSED",
    "RUNNING",
    "SCHEDULED",
    "PENDING",
    "COMPLETED",
    "SKIPPED",
)
"""The types of state, in the order in which they are told: what is told first is not what is cut."""


class Change(NamedTuple):
    """One state that a run was in, and since when, in microseconds."""

    type: str
    name: str
    message: str
    at: int


@attrs.frozen
class RunRecord:
    """One run, as the journal has it. Times are microseconds since 1970."""

    id: str
    kind: str
    function: str
    name: str
    parent_id: str | None
    attempts: int
    states: tuple[Change, ...]
    started: int | None
    ended: int | None
    tags: tuple[str, ...] = ()
    map_index: int | None = None
    version: str | None = None
    parameters: dict[str, Any] | None = None
    upstreams: tuple[str, ...] = ()
    error: str | None = None
    expected_start: int | None = None
    """When its next attempt is to begin."""
    schedule: str | None = None
    """The schedule that fired it."""
    nominal: int | None = None
    """The time that the schedule fired it for."""

    @property
    def expected(self) -> int | None:
        """When it, or its next attempt, is to begin."""
        return self.nominal if self.expected_start is None else self.expected_start

    @property
    def late(self) -> Change | None:
        """When it was found to be late in beginning, and why."""
        return next((change for change in self.states if change.name == "Late"), None)

    @property
    def state(self) -> Change:
        return self.states[-1]

    @property
    def made(self) -> int:
        return self.states[0].at

    @property
    def failed(self) -> bool:
        """Whether it ended badly by itself; what was cancelled or skipped did not."""
        return self.states[-1].type in ("FAILED", "CRASHED")

    @property
    def said(self) -> str:
        """What its state says, without the words that the state itself says already."""
        text = self.states[-1].message
        for start in _SAID_BY_STATE:
            text = text.removeprefix(start)
        return "" if text == "All states completed." else text

    def lasted(self, now: int) -> int | None:
        """How long it has been at it, from its first attempt on; `None` if it never began."""
        return None if self.started is None else (self.ended or now) - self.started


class StateCount(NamedTuple):
    """So many runs are in this state."""

    type: str
    name: str
    number: int


def by_state(runs: Iterable[RunRecord]) -> list[StateCount]:
    """How many of the runs are in which state, trouble first."""
    counts = Counter((run.state.type, run.state.name) for run in runs)
    return sorted((StateCount(*state, number) for state, number in counts.items()), key=_trouble)


def by_type(runs: Iterable[RunRecord]) -> list[StateCount]:
    """How many of the runs are in which type of state, trouble first."""
    return of_types(Counter(run.state.type for run in runs))


def of_types(counts: Mapping[str, int]) -> list[StateCount]:
    """Numbers by type of state, trouble first."""
    return sorted((StateCount(kind, kind.capitalize(), number) for kind, number in counts.items()), key=_trouble)


def _trouble(count: StateCount) -> tuple[int, str]:
    known = count.type in TROUBLE_FIRST
    return TROUBLE_FIRST.index(count.type) if known else len(TROUBLE_FIRST), count.name


def in_words(counts: Iterable[StateCount]) -> str:
    """`2 Failed · 298 Completed`."""
    return " · ".join(f"{number:,} {cut(name, 60)}" for _, name, number in counts)


def default_name(function: str, run_id: str) -> str:
    """The name of a run that was given none, as the journal's views say it."""
    return f"{function}-{run_id[-4:]}"


def decode(row: dict[str, Any]) -> RunRecord:
    """A record of a row of the journal's table of runs. One that makes no sense raises a `ValueError` or the like."""
    details = json.loads(row["details"]) if row["details"] else {}
    parameters = details.get("parameters")
    run = RunRecord(
        id=row["id"],
        kind=row["kind"],
        function=row["function"],
        name=row["name"] or default_name(row["function"], row["id"]),
        parent_id=row["parent_run_id"],
        attempts=row["attempts"],
        states=tuple(Change(*entry) for entry in json.loads(row["history"])),
        started=row["started_at"],
        ended=row["ended_at"],
        tags=tuple(json.loads(row["tags"])) if row["tags"] else (),
        map_index=details.get("map_index"),
        version=details.get("version"),
        parameters=json.loads(parameters) if parameters else None,
        upstreams=tuple(details.get("upstreams") or ()),
        error=details.get("error"),
        expected_start=details.get("expected_start_at"),
        schedule=details.get("schedule"),
        nominal=details.get("nominal"),
    )
    if not _makes_sense(run):
        raise ValueError(f"a row of run {run.id!r}")
    return run


LAST = 253_370_764_800_000_000
"""No moment lies beyond the year 9998, so that all have a date in every time zone."""


def _makes_sense(run: RunRecord) -> bool:
    """Whether a run that was read says what a run can say: somebody else may have made the file."""
    said = [
        run.id,
        run.kind,
        run.function,
        run.name,
        run.parent_id,
        run.version,
        run.error,
        run.schedule,
        *run.tags,
        *run.upstreams,
    ]
    said += [text for change in run.states for text in change[:3]]
    times = [run.started, run.ended, run.expected_start, run.nominal, *(change.at for change in run.states)]
    return (
        bool(run.states)
        and all(text is None or isinstance(text, str) for text in said)
        and all(at is None or (isinstance(at, int) and 0 <= at < LAST) for at in times)
        and isinstance(run.attempts, int)
        and isinstance(run.map_index, int | None)
        and isinstance(run.parameters, dict | None)
    )


def record_of(run: Run) -> RunRecord:
    """A record of a run of this process, for when there is no journal to ask."""
    states = tuple(Change(str(entry[0]), *entry[1:]) for entry in run.history)
    return RunRecord(
        id=run.id,
        kind=run.kind,
        function=run.definition.name,
        name=run.name,
        parent_id=run.parent.id if run.parent is not None else None,
        attempts=run.attempts,
        states=states,
        started=next((change.at for change in states if change.type == "RUNNING"), None),
        ended=states[-1].at if run.ended else None,
        tags=tuple(sorted(run.tags)),
        version=run.definition.version,
        parameters=json.loads(run.parameters) if run.parameters else None,
        error=run.error,
        schedule=None if run.fire is None else run.fire.schedule,
        nominal=None if run.fire is None else run.fire.nominal,
    )


def as_document(run: RunRecord) -> dict[str, Any]:
    """A run for a program to read; the keys are those of the journal's views where these have the thing."""
    return {
        "id": run.id,
        "kind": run.kind,
        "name": run.name,
        "function": run.function,
        "version": run.version,
        "state_type": run.state.type,
        "state_name": run.state.name,
        "state_message": run.state.message,
        "parent_run_id": run.parent_id,
        "map_index": run.map_index,
        "attempts": run.attempts,
        "parameters": run.parameters,
        "tags": list(run.tags),
        "schedule": run.schedule,
        "created_at": iso(run.made),
        "expected_start_at": iso(run.expected),
        "started_at": iso(run.started),
        "ended_at": iso(run.ended),
        "duration_seconds": None if run.ended is None or run.started is None else (run.ended - run.started) / 1e6,
        "upstream_ids": list(run.upstreams),
        "error": run.error,
        "states": [
            {"type": change.type, "name": change.name, "message": change.message, "at": iso(change.at)}
            for change in run.states
        ],
    }
