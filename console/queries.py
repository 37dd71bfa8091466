"""What the command line asks a journal: which run is meant, which flows ran lately, and all that ran inside one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches

import attrs

from ..engine.errors import UndertowError
from ..storage.owners import Process
from ..storage.reading import Reader
from .records import RunRecord, decode, default_name

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


class NoRuns(UndertowError, LookupError):
    """The newest run was asked for, and there is none."""

    def __init__(self, path: str) -> None:
        super().__init__(f"No flow has run yet in {path}. Run one: undertow run module:flow")


@attrs.frozen
class Filter:
    """Which flow runs are asked for: those that fit everything that is given here."""

    states: tuple[str, ...] = ()
    """Types or names of states, in any case: the run is in one of them."""
    flow: str | None = None
    """The name of the flow; `*` stands for any characters."""
    tags: tuple[str, ...] = ()
    """The run has all of them."""
    since: int | None = None
    until: int | None = None
    """When it was made, in microseconds."""
    late: bool | None = None
    """A schedule fired it, and it was late in beginning."""


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
_MADE = "json_extract(history, '$[0][3]')"
_BY_PREFIX = "SELECT id FROM run WHERE {} AND id >= ? AND id < ? ORDER BY id DESC LIMIT ?"
_BY_NAME = "SELECT id FROM {} WHERE name = ? ORDER BY id DESC LIMIT ?"


def resolve(reader: Reader, wanted: str | None) -> str:
    """The id of the one run that is meant by the beginning of its id, or by its name; of the newest, by nothing.

    Where an id is cut short, flow runs are meant before what ran inside them, whose ids often begin alike. Raises
    `RunUnknown`, `RunAmbiguous` and `NoRuns`.
    """
    if wanted is None:
        newest = latest(reader)
        if newest is None:
            raise NoRuns(reader.path)
        return newest
    for ids in _candidates(reader, wanted.strip()):
        if len(ids) == 1:
            return ids[0]
        if ids:
            raise RunAmbiguous(wanted, _named(reader, ids[:LISTED]), len(ids) > LISTED)
    names = [row["name"] for row in reader.rows("SELECT name FROM flow_runs ORDER BY id DESC LIMIT 500")]
    raise RunUnknown(wanted, reader.path, get_close_matches(wanted, names, 1))


def _candidates(reader: Reader, wanted: str) -> Iterator[list[str]]:
    if not wanted:
        return
    spellings = dict.fromkeys((wanted, wanted.lower()))  # ids are small letters, unless a caller chose otherwise
    for start in spellings:
        yield _ids(reader, "SELECT id FROM run WHERE id = ? LIMIT ?", start)
    for condition in (_OUTERMOST, "kind = 'flow'", "true"):
        for start in spellings:
            yield _ids(reader, _BY_PREFIX.format(condition), start, start + "\U0010ffff")
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
    rows = reader.rows(f"SELECT id FROM run WHERE {_OUTERMOST} ORDER BY {_MADE} DESC LIMIT 1")
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

_RECENT = f"SELECT run.* FROM run WHERE {{}} ORDER BY {_MADE} DESC LIMIT :limit"

_TASKS_INSIDE = """
WITH RECURSIVE inside (id, root, kind, state_type) AS (
    SELECT id, id, kind, state_type FROM run WHERE id IN (SELECT value FROM json_each(:roots))
    UNION ALL
    SELECT run.id, inside.root, run.kind, run.state_type FROM inside JOIN run ON run.parent_run_id = inside.id)
SELECT root, state_type, count(*) AS tasks FROM inside WHERE kind = 'task' GROUP BY root, state_type
"""

_CONDITIONS = {
    "states": """(lower(state_type) IN (SELECT value FROM json_each(:states))
        OR lower(json_extract(history, '$[#-1][1]')) IN (SELECT value FROM json_each(:states)))""",
    "flow": "function GLOB :flow",
    "tags": "NOT EXISTS (SELECT value FROM json_each(:tags) EXCEPT SELECT value FROM json_each(run.tags))",
    "since": f"{_MADE} >= :since",
    "until": f"{_MADE} < :until",
    "late": """history LIKE '%"Late"%' AND :late AND EXISTS (
        SELECT 1 FROM json_each(history) WHERE json_extract(value, '$[1]') = 'Late')""",
}


def recent_flows(reader: Reader, limit: int, wanted: Filter = Filter()) -> list[FlowLine]:
    """The newest outermost flow runs that are wanted, newest first."""
    given = {
        "states": json.dumps([state.lower() for state in wanted.states]) if wanted.states else None,
        "flow": None if wanted.flow is None else wanted.flow.replace("[", "[[]"),
        "tags": json.dumps(wanted.tags) if wanted.tags else None,
        "since": wanted.since,
        "until": wanted.until,
        "late": wanted.late,
    }
    given = {name: value for name, value in given.items() if value is not None}
    conditions = " AND ".join([_OUTERMOST, *(_CONDITIONS[name] for name in given)])
    runs = [decode(row) for row in reader.rows(_RECENT.format(conditions), given | {"limit": limit})]
    tasks: dict[str, dict[str, int]] = {run.id: {} for run in runs}
    for row in reader.rows(_TASKS_INSIDE, {"roots": json.dumps(list(tasks))}):
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

    It is marked Crashed when the journal is next opened for writing; who only reads must say so. A suspended run needs
    no process.
    """
    if run.ended is not None or run.state.name == "Suspended":
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


class Lookup:
    """Runs looked up one by one, each once."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._runs: dict[str, RunRecord | None] = {}
        self._inside: dict[str, list[RunRecord]] = {}

    def run(self, run_id: str) -> RunRecord | None:
        """The run of this id, if the journal has it."""
        if run_id not in self._runs:
            rows = self._reader.rows("SELECT * FROM run WHERE id = ?", (run_id,))
            self._runs[run_id] = decode(rows[0]) if rows else None
        return self._runs[run_id]

    def inside(self, run_id: str) -> list[RunRecord]:
        """The runs that this one called, in the order in which they were made."""
        if run_id not in self._inside:
            rows = self._reader.rows("SELECT * FROM run WHERE parent_run_id = ? ORDER BY id", (run_id,))
            self._inside[run_id] = [decode(row) for row in rows]
        return self._inside[run_id]

    def gone(self, run: RunRecord) -> bool:
        """Whether its process is."""
        return process_gone(self._reader, run)
