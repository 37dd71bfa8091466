"""What the command line asks a journal: which run is meant, which flows ran lately, and all that ran inside one.

Answers are plain values (`RunRecord`, `FlowLine`); what a row looks like is known here and nowhere else in the console.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import attrs

from ..engine.errors import UndertowError
from ..engine.run import Run
from ..storage.owners import Process
from ..storage.reading import Reader

SHORTEST_ID = 8
LISTED = 5


class RunUnknown(UndertowError, LookupError):
    """No run has the id or name that was asked for."""

    def __init__(self, wanted: str, path: str, close: Sequence[str] = ()) -> None:
        hint = f"Did you mean {close[0]!r}?" if close else "`undertow ls` lists the flow runs."
        super().__init__(f"No run in {path} has an id that begins with {wanted!r}, or that name. {hint}")


class RunAmbiguous(UndertowError, LookupError):
    """More than one run is meant."""

    def __init__(self, wanted: str, matches: Sequence[tuple[str, str]], more: bool) -> None:
        listed = ", ".join(f"{run_id} ({name})" for run_id, name in matches)
        rest = ", and more" if more else ""
        super().__init__(f"{wanted!r} is more than one run: {listed}{rest}. Give more of the id.")


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

    @property
    def state(self) -> Change:
        return self.states[-1]

    @property
    def failed(self) -> bool:
        """Whether it ended badly by itself; what was cancelled or skipped did not."""
        return self.states[-1].type in ("FAILED", "CRASHED")


@attrs.frozen
class FlowLine:
    """One outermost flow run with what ran inside it, in numbers."""

    run: RunRecord
    short_id: str
    tasks: dict[str, int]
    """How many task runs are in which type of state."""
    gone: bool = False
    """Whether it has not ended, and never will: its process has."""


# --- which run -------------------------------------------------------------------------------------------------

_OUTERMOST = "kind = 'flow' AND parent_run_id IS NULL"
_BY_PREFIX = "SELECT id FROM run WHERE {} AND id >= ? AND id < ? ORDER BY id DESC LIMIT ?"
_BY_NAME = "SELECT id FROM {} WHERE name = ? ORDER BY id DESC LIMIT ?"


def resolve(reader: Reader, wanted: str) -> str:
    """The id of the one run that is meant by the beginning of its id, or by its name.

    Where an id is cut short, flow runs are meant before what ran inside them, whose ids often begin alike. Raises
    `RunUnknown` and `RunAmbiguous`.
    """
    wanted = wanted.strip()
    for ids in _candidates(reader, wanted):
        if len(ids) == 1 or wanted.lower() in ids:
            return wanted.lower() if wanted.lower() in ids else ids[0]
        if ids:
            raise RunAmbiguous(wanted, _named(reader, ids[:LISTED]), len(ids) > LISTED)
    names = [row["name"] for row in reader.rows("SELECT name FROM flow_runs ORDER BY id DESC LIMIT 500")]
    raise RunUnknown(wanted, reader.path, get_close_matches(wanted, names, 1))


def _candidates(reader: Reader, wanted: str) -> Iterator[list[str]]:
    if not wanted:
        return
    start = wanted.lower()
    end = start + "\U0010ffff"
    for condition in (_OUTERMOST, "kind = 'flow'", "true"):
        yield _ids(reader, _BY_PREFIX.format(condition), start, end)
    for view in ("flow_runs", "task_runs"):
        yield _ids(reader, _BY_NAME.format(view), wanted)


def _ids(reader: Reader, sql: str, *values: str) -> list[str]:
    return [row["id"] for row in reader.rows(sql, (*values, LISTED + 1))]


def _named(reader: Reader, ids: Sequence[str]) -> list[tuple[str, str]]:
    """Ids, as short as they may be typed, and names."""
    rows = [reader.run(run_id) for run_id in ids]
    shown = short_ids(reader, ids) if all(row["kind"] == "flow" for row in rows) else ids
    names = (row["name"] or default_name(row["function"], row["id"]) for row in rows)
    return list(zip(shown, names, strict=True))


def latest(reader: Reader) -> str | None:
    """The id of the outermost flow run that was made last."""
    rows = reader.rows(f"SELECT id FROM run WHERE {_OUTERMOST} ORDER BY id DESC LIMIT 1")
    return rows[0]["id"] if rows else None


_NEIGHBOURS = """
SELECT max(id) AS id FROM run WHERE kind = 'flow' AND id < ?
UNION ALL SELECT min(id) FROM run WHERE kind = 'flow' AND id > ?
"""


def short_ids(reader: Reader, ids: Sequence[str]) -> list[str]:
    """As much of each flow run's id as `resolve` needs to find it, the same length for all."""
    length = SHORTEST_ID
    for run_id in ids:
        for row in reader.rows(_NEIGHBOURS, (run_id, run_id)):
            length = max(length, _shared(run_id, row["id"] or "") + 1)
    return [run_id[:length].rstrip("-") for run_id in ids]


def _shared(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


# --- lists and families ----------------------------------------------------------------------------------------

_RECENT = """
SELECT run.* FROM run JOIN flow_runs USING (id)
WHERE run.kind = 'flow' AND run.parent_run_id IS NULL
  AND (:state IS NULL OR lower(flow_runs.state_type) = :state OR lower(flow_runs.state_name) = :state)
ORDER BY run.id DESC LIMIT :limit
"""

# Ids are ordered in time, so nothing inside the oldest of the runs has a smaller one.
_TASKS_INSIDE = """
WITH RECURSIVE
  later AS MATERIALIZED (SELECT id, parent_run_id, kind, state_type FROM run WHERE id >= :oldest),
  inside (id, root, kind, state_type) AS (
    SELECT id, id, kind, state_type FROM later WHERE id IN (SELECT value FROM json_each(:roots))
    UNION ALL
    SELECT later.id, inside.root, later.kind, later.state_type
    FROM later JOIN inside ON later.parent_run_id = inside.id)
SELECT root, state_type, count(*) AS tasks FROM inside WHERE kind = 'task' GROUP BY root, state_type
"""


def recent_flows(reader: Reader, limit: int, state: str | None = None) -> list[FlowLine]:
    """The newest outermost flow runs, newest first; `state` is a type or a name, in any case."""
    rows = reader.rows(_RECENT, {"state": state.lower() if state else None, "limit": limit})
    runs = [decode(row) for row in rows]
    if not runs:
        return []
    tasks: dict[str, dict[str, int]] = {run.id: {} for run in runs}
    roots = {"oldest": runs[-1].id, "roots": json.dumps([run.id for run in runs])}
    for row in reader.rows(_TASKS_INSIDE, roots):
        tasks[row["root"]][row["state_type"]] = row["tasks"]
    short = short_ids(reader, [run.id for run in runs])
    return [
        FlowLine(run, short_id, tasks[run.id], process_gone(reader, run))
        for run, short_id in zip(runs, short, strict=True)
    ]


def family(reader: Reader, run_id: str) -> list[RunRecord]:
    """A run and all that ran inside it, in the order in which they were made, itself first."""
    return [decode(row) for row in reader.family(run_id)]


def process_gone(reader: Reader, run: RunRecord) -> bool:
    """Whether the run has not ended although it is certain that its process has.

    It is marked Crashed when the journal is next opened for writing; who only reads must say so.
    """
    if run.ended is not None:
        return False
    owners = reader.rows(
        "SELECT host, boot, namespace, pid, started, closed_at FROM owner"
        " WHERE id = (SELECT owner FROM run WHERE id = ?)",
        (run.id,),
    )
    return any(owner.pop("closed_at") is not None or Process(**owner).is_gone() for owner in owners)


def tasks_of(runs: Sequence[RunRecord]) -> dict[str, int]:
    """How many of the runs inside the first are tasks in which type of state."""
    return dict(Counter(run.state.type for run in runs[1:] if run.kind == "task"))


# --- rows to records -------------------------------------------------------------------------------------------


def default_name(function: str, run_id: str) -> str:
    """The name of a run that was given none, as the journal's views say it."""
    return f"{function}-{run_id[-4:]}"


def decode(row: dict[str, Any]) -> RunRecord:
    """A record of a row of the journal's table of runs."""
    details = json.loads(row["details"]) if row["details"] else {}
    parameters = details.get("parameters")
    return RunRecord(
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
    )
