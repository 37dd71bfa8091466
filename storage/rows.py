"""From runs to rows: one row says all that a run has lived through so far, and one statement writes a whole group."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from ..engine.run import Run
from ..engine.states import RUNNING, TERMINAL, Entry, StateType

IDENTITY = ("id", "kind", "function", "parent_run_id", "flow_run_id", "tags", "step")
STORY = ("name", "state_type", "started_at", "ended_at", "attempts", "history", "owner", "details")
COLUMNS = IDENTITY + STORY

MAX_ROWS = 500
"""Rows of one statement. SQLite allows 32 766 parameters; longer statements cost memory and save no time."""


SIZES = (1, 4, 16, 64, 256, MAX_ROWS)
"""How many rows a statement has: few sizes, so that SQLite need not prepare one anew for every group."""


def _size(rows: int) -> int:
    return next(size for size in SIZES if size >= rows)


def statement(rows: int) -> str:
    """SQL that writes that many rows, or more of which the last are NULL; a row that is there gets the new story."""
    return _statement(_size(rows))


@lru_cache(maxsize=len(SIZES))
def _statement(size: int) -> str:
    row = f"({', '.join('?' * len(COLUMNS))})"
    news = ", ".join(f"{column} = excluded.{column}" for column in STORY)
    return (
        f"INSERT INTO run ({', '.join(COLUMNS)}) SELECT * FROM (VALUES {', '.join([row] * size)})"
        f" WHERE column1 IS NOT NULL ON CONFLICT (id) DO UPDATE SET {news}"
    )


LOG_LINE = "(?, ?, ?, ?, ?)"


def log_statement(lines: int) -> str:
    """SQL that writes that many log records."""
    return f"INSERT INTO log (run_id, at, level, logger, message) VALUES {', '.join([LOG_LINE] * lines)}"


def parameters(runs: Iterable[Run], owner: int) -> list[Any]:
    """The parameters of the statement for these runs.

    Called in the writer's thread while the runs go on in theirs: all that changes about a run is read from one copy
    of its history, so a row is consistent in itself, and a later change brings a later row.
    """
    values: list[Any] = []
    for run in runs:
        # First the flag, then the copy: what comes after the copy is recorded anew.
        run.recorded = False
        history = run.history.copy()
        definition, parent = run.definition, run.parent
        state_type, _, _, at = history[-1]
        values += (
            run.id,
            definition.kind,
            clean(definition.name),
            None if parent is None else parent.id,
            None if run.flow is parent else "" if run.flow is None else run.flow.id,
            _tags(run.tags) if run.tags else None,
            run.step,
            None if run.given_name is None else clean(run.given_name),
            state_type,
            _first_running(history),
            at if state_type in TERMINAL else None,
            run.attempts,
            _history(history),
            owner,
            _details(run),
        )
    rows = len(values) // len(COLUMNS)
    values += [None] * ((_size(rows) - rows) * len(COLUMNS))
    return values


_NOTHING = (None, None, None, None, None, None)


def _details(run: Run) -> str | None:
    """What only some runs have, as one JSON object."""
    parameters = run.parameters
    rare = (parameters, run.error, run.cache_key, run.definition.version, run.expected_start_at, run.call)
    if rare == _NOTHING and not run.upstream_ids:
        return None if run.map_index is None else f'{{"map_index":{run.map_index}}}'
    details = {
        "version": run.definition.version,
        "map_index": run.map_index,
        "parameters": parameters,
        "cache_key": run.cache_key,
        "upstreams": run.upstream_ids or None,
        "expected_start_at": run.expected_start_at,
        "call": run.call,
        "error": None if run.error is None else clean(run.error),
    }
    return json.dumps({name: value for name, value in details.items() if value is not None})


def clean(value: object) -> str:
    """A text that SQLite gives back whole: NUL, and what UTF-8 can't say, stand as escapes."""
    text = str(value).replace("\0", "\\x00")
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _first_running(history: list[Entry]) -> int | None:
    for entry in history:
        if entry[0] is RUNNING:
            return entry[3]
    return None


def _history(history: list[Entry]) -> str:
    return f"[{','.join([f'[{_head(kind, name, message)},{at}]' for kind, name, message, at in history])}]"


@lru_cache(maxsize=1024)
def _head(kind: StateType, name: str, message: str) -> str:
    return json.dumps([kind, clean(name), clean(message)])[1:-1]


@lru_cache(maxsize=1024)
def _tags(tags: frozenset[str]) -> str:
    return json.dumps(sorted(tags))
