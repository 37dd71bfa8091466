"""From runs to rows: one row says all that a run has lived through so far, and one statement writes a whole group.

And the statements for results and log records, of which one writes many as well.
"""

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

RESULT_COLUMNS = ("key", "value", "file", "serializer", "run_id", "kept_at", "expires_at", "about")

MAX_ROWS = 500
"""Rows of one statement. SQLite allows 32 766 parameters; longer statements cost memory and save no time."""


SIZES = (1, 4, 16, 64, 256, MAX_ROWS)
"""How many rows a statement has: few sizes, so that SQLite need not prepare one anew for every group."""


def _size(rows: int) -> int:
    return next(size for size in SIZES if size >= rows)


def padded(values: list[Any], columns: int) -> list[Any]:
    """The parameters of so many rows, and NULL for those that their statement has beyond them."""
    rows = len(values) // columns
    return values + [None] * ((_size(rows) - rows) * columns)


def statement(rows: int) -> str:
    """SQL that writes that many runs; a row that is there gets the new story."""
    return _upsert("run", COLUMNS, "id", STORY, _size(rows))


def result_statement(rows: int) -> str:
    """SQL that writes that many results; one that is there under the same key is replaced."""
    return _upsert("result", RESULT_COLUMNS, "key", RESULT_COLUMNS[1:], _size(rows))


def deletion(rows: int) -> str:
    """SQL that deletes the results under that many keys."""
    return f"DELETE FROM result WHERE key IN ({', '.join('?' * _size(rows))})"


@lru_cache(maxsize=2 * len(SIZES))
def _upsert(table: str, columns: tuple[str, ...], key: str, news: tuple[str, ...], size: int) -> str:
    row = f"({', '.join('?' * len(columns))})"
    changes = ", ".join(f"{column} = excluded.{column}" for column in news)
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM (VALUES {', '.join([row] * size)})"
        f" WHERE column1 IS NOT NULL ON CONFLICT ({key}) DO UPDATE SET {changes}"
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
    return padded(values, len(COLUMNS))


_NOTHING = (None, None, None, None, None, None)


def _details(run: Run) -> str | None:
    """What only some runs have, as one JSON object."""
    parameters = run.parameters
    rare = (parameters, run.error, run.cache_key, run.definition.version, run.expected_start_at, run.call)
    if rare == _NOTHING and not run.upstream_ids and run.fire is None:
        return None if run.map_index is None else f'{{"map_index":{run.map_index}}}'
    details = {
        "version": run.definition.version,
        "map_index": run.map_index,
        "parameters": parameters,
        "cache_key": run.cache_key,
        "upstreams": run.upstream_ids or None,
        "expected_start_at": run.expected_start_at,
        "call": run.call,
        "schedule": None if run.fire is None else run.fire.schedule,
        "nominal": None if run.fire is None else run.fire.nominal,
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
