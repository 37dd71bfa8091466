"""Questions about runs that are to run again: taking them, and what is recorded about their steps.

Taking a run is one statement that compares and sets, so of several processes one gets it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from ..engine.ports import Earlier, Past, Record
from ..engine.run import Run
from ..engine.states import TERMINAL, Entry, StateType
from .rows import COLUMNS, parameters, statement
from .service import Service

logger = logging.getLogger("undertow")

_EARLIER = """
id, history, function, step, json_extract(details, '$.expected_start_at'), json_extract(details, '$.call'),
json_extract(details, '$.schedule'), json_extract(details, '$.nominal')
"""

_SUSPENDED = "state_type = 'PAUSED' AND json_extract(history, '$[#-1][1]') = 'Suspended'"

CLAIM = f"""
UPDATE run SET owner = ?, state_type = ?, ended_at = ?, history = json_insert(history, '$[#]', json(?))
WHERE id = ? AND (ended_at IS NOT NULL OR {_SUSPENDED}) AND state_type IN (SELECT value FROM json_each(?))
RETURNING {_EARLIER}
"""

FIND = f"SELECT {_EARLIER} FROM run WHERE id = ?"

ENROLL = f"{statement(1).partition(' ON CONFLICT')[0]} ON CONFLICT (id) DO NOTHING RETURNING id"
assert ENROLL.count("?") == len(COLUMNS)

RECORDED = """
SELECT key, CASE WHEN length(value) <= ? THEN value END, serializer, run_id, kept_at, about,
       EXISTS (SELECT 1 FROM run WHERE run.id = result.run_id)
FROM result WHERE key >= 'step:' || ? || '/' AND key < 'step:' || ? || '0'
"""

UNFINISHED = f"""
SELECT {_EARLIER} FROM run WHERE step >= ?1 || '/' AND step < ?1 || '0' AND id != ?1 AND ended_at IS NOT NULL
ORDER BY id
"""

FORK = """
WITH RECURSIVE around(id) AS (
    SELECT :at UNION SELECT parent_run_id FROM run JOIN around USING (id) WHERE parent_run_id IS NOT NULL)
INSERT INTO result (key, value, file, serializer, run_id, kept_at, expires_at, about)
SELECT 'step:' || :new || substr(key, 6 + length(:old)), value, file, serializer, run_id, kept_at, expires_at,
       json_set(about, '$.forked', json('true'))
FROM result WHERE key >= 'step:' || :old || '/' AND key < 'step:' || :old || '0'
    AND run_id < :at AND run_id NOT IN around
"""

RECOVERABLE = f"""
SELECT {_EARLIER} FROM result JOIN run ON run.id = substr(result.key, 7)
WHERE key >= 'start:' AND key < 'start;' AND (
    ended_at IS NOT NULL AND (state_type = 'CRASHED' OR json_extract(history, '$[#-1][1]') = 'Interrupted')
    OR {_SUSPENDED} AND EXISTS (
        SELECT 1 FROM result AS asked
        WHERE asked.key >= 'ask:resume:' || run.id || ':' AND asked.key < 'ask:resume:' || run.id || ';'))
ORDER BY id
"""

RESERVE = """
INSERT INTO result (key, serializer, run_id, kept_at, about) VALUES (?, 'reserved', ?, 0, json_object('run', ?))
ON CONFLICT (key) DO NOTHING RETURNING key
"""

MAX_AHEAD = 4096
"""Recorded results up to this size, in bytes, are read all at once; a bigger one when its step is asked for."""


async def reserve(service: Service, key: str, run_id: str) -> bool:
    """Put a key aside for this process."""
    return await service.row(RESERVE, (key, str(service.owner), run_id)) is not None


async def claim(service: Service, run_id: str, types: Sequence[StateType], entry: Entry) -> Earlier | None:
    """Take a run that ended in one of these types, or end one that is suspended."""
    kind, _, _, at = entry
    values = (service.owner, kind, at if kind in TERMINAL else None, json.dumps(entry), run_id, json.dumps(types))
    return _earlier(await service.row(CLAIM, values))


async def enroll(service: Service, run: Run) -> Earlier | None:
    """Write a run of a chosen id, or return the one that is there."""
    if await service.row(ENROLL, parameters([run], service.owner)) is not None:
        return None
    return await find(service, run.id)


async def find(service: Service, run_id: str) -> Earlier | None:
    """What is written of a run."""
    return _earlier(await service.row(FIND, (run_id,)))


async def past(service: Service, root: str) -> Past:
    """All recorded steps of a durable run."""
    found = Past()
    for row in await service.rows(RECORDED, (MAX_AHEAD, root, root)):
        key, value, serializer, run_id, kept_at, about, has_row = row
        step, told = key.removeprefix("step:"), json.loads(about)
        if not has_row:
            told["rowless"] = True  # its process died between the two
        record = Record(value, serializer, run_id, kept_at, None, told)
        found.recorded.setdefault(f"{root}/{told['parent']}", {})[step] = record
    for row in await service.rows(UNFINISHED, (root,)):
        earlier = _earlier(row)
        if earlier is not None and earlier.step is not None:
            found.unfinished[earlier.step] = earlier
    return found


async def fork(service: Service, root: str, at: str, new_root: str) -> None:
    """Copy what was recorded before the run `at` was called, without what that run is part of."""
    await service.connection.execute(FORK, {"old": root, "at": at, "new": new_root})


async def recoverable(service: Service) -> list[Earlier]:
    """Durable runs that were broken off; one whose row is damaged keeps none of the others from going on."""
    found = []
    for row in await service.rows(RECOVERABLE):
        try:
            earlier = _earlier(row)
        except (ValueError, TypeError) as error:
            logger.error("Run %s can't be recovered: its row is damaged (%s).", row[0], error)
            continue
        if earlier is not None:
            found.append(earlier)
    return found


def _earlier(row: Any) -> Earlier | None:
    if row is None:
        return None
    run_id, history, function, step, expected, call, schedule, nominal = row
    entries = [(StateType(kind), name, message, at) for kind, name, message, at in json.loads(history)]
    fire = None if schedule is None else (schedule, nominal)
    return Earlier(run_id, entries, function, step, expected, call, fire)
