"""Schedules in the journal: what is served, up to when it is decided, and every fire, once.

A fire is taken by the insertion of its row, whose key is the schedule's name and the nominal time; so of several
processes, and of several lives of one, exactly one runs it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..engine.ports import Standing
from ..engine.waking import Reply

if TYPE_CHECKING:
    from .service import Service

REGISTER = """
INSERT INTO schedule (name, flow, told, mark, owner) VALUES (:name, :flow, :told, :now, :owner)
ON CONFLICT (name) DO UPDATE SET flow = :flow, told = :told, owner = :owner, mark = CASE
    WHEN json_extract(told, '$.schedule') = json_extract(:told, '$.schedule') THEN mark ELSE max(mark, :now) END
RETURNING told, mark, paused_at, 1
"""

LOOK = """
SELECT told, mark, paused_at, EXISTS (SELECT 1 FROM fire WHERE schedule = schedule.name AND owner IS NULL)
FROM schedule WHERE name = ?
"""

TAKE = """
INSERT INTO fire (schedule, nominal, run_id, owner) SELECT name, :nominal, :run, :owner FROM schedule
WHERE name = :name AND paused_at IS NULL ON CONFLICT (schedule, nominal) DO NOTHING RETURNING run_id
"""

DECIDE = "UPDATE schedule SET mark = max(mark, ?), owner = ? WHERE name = ?"

ASK = """
INSERT INTO fire (schedule, nominal, run_id, asked_at)
SELECT ?, json_extract(value, '$[0]'), json_extract(value, '$[1]'), ? FROM json_each(?) WHERE true
ON CONFLICT (schedule, nominal) DO NOTHING RETURNING nominal, run_id
"""

TAKE_FREE = """
UPDATE fire SET owner = ?1 WHERE schedule = ?2 AND nominal IN (
        SELECT nominal FROM fire WHERE schedule = ?2 AND owner IS NULL ORDER BY nominal LIMIT ?3)
    AND EXISTS (SELECT 1 FROM schedule WHERE name = ?2 AND paused_at IS NULL)
RETURNING nominal, run_id, asked_at
"""

GOING = """
SELECT id, started_at IS NOT NULL FROM run
WHERE parent_run_id IS NULL AND ended_at IS NULL AND id != :run AND json_extract(details, '$.schedule') = :name
    AND (started_at IS NOT NULL OR json_extract(details, '$.nominal') < :nominal)
ORDER BY json_extract(details, '$.nominal')
"""
"""By way of the runs that have not ended, which are few; the fires of a schedule grow many."""

PAUSE = "UPDATE schedule SET paused_at = ? WHERE name = ? AND paused_at IS NULL RETURNING name"

RESUME = """
UPDATE schedule SET paused_at = NULL, mark = max(mark, ?) WHERE name = ? AND paused_at IS NOT NULL RETURNING name
"""


class Timetable:
    """The schedules of a journal. Each answer is one statement, that SQLite commits by itself."""

    def __init__(self, ask: Callable[..., Reply[Any]]) -> None:
        self._ask = ask

    def register(self, name: str, flow: str, told: str, now: int) -> Reply[Standing]:
        """This process serves a schedule: write it down, and say where it stands."""
        return self._ask(_register, name, flow, told, now)

    def look(self, name: str) -> Reply[Standing | None]:
        """Where a schedule stands."""
        return self._ask(_look, name)

    def take(self, name: str, nominal: int, run_id: str) -> Reply[bool]:
        """Take a fire for this process."""
        return self._ask(_take, name, nominal, run_id)

    def decide(self, name: str, nominal: int) -> Reply[None]:
        """All nominal times up to this one are decided."""
        return self._ask(_decide, name, nominal)

    def ask(self, name: str, nominals: Sequence[int], run_ids: Sequence[str], now: int) -> Reply[list[tuple[int, str]]]:
        """Have these nominal times fired by whoever serves the schedule."""
        return self._ask(_tuples, ASK, name, now, json.dumps(list(zip(nominals, run_ids, strict=True))))

    def take_free(self, name: str, most: int) -> Reply[list[tuple[int, str, int | None]]]:
        """Take fires that stand there and are nobody's, for this process."""
        return self._ask(_take_free, name, most)

    def going(self, name: str, nominal: int, run_id: str) -> Reply[list[tuple[str, bool]]]:
        """Other runs of the schedule that have not ended, and that a run of that time has to mind."""
        return self._ask(_going, name, nominal, run_id)

    def pause(self, name: str, at: int) -> Reply[bool]:
        """Let a schedule fire no more."""
        return self._ask(_found, PAUSE, at, name)

    def resume(self, name: str, at: int) -> Reply[bool]:
        """End a pause."""
        return self._ask(_found, RESUME, at, name)


async def _register(service: Service, name: str, flow: str, told: str, now: int) -> Standing:
    values = {"name": name, "flow": flow, "told": told, "now": now, "owner": service.owner}
    return _standing(await service.row(REGISTER, values))


async def _look(service: Service, name: str) -> Standing | None:
    found = await service.row(LOOK, (name,))
    return None if found is None else _standing(found)


def _standing(row: Any) -> Standing:
    told, mark, paused_at, has_free = row
    return Standing(told, mark, paused_at, bool(has_free))


async def _take(service: Service, name: str, nominal: int, run_id: str) -> bool:
    values = {"name": name, "nominal": nominal, "run": run_id, "owner": service.owner}
    return await service.row(TAKE, values) is not None


async def _decide(service: Service, name: str, nominal: int) -> None:
    await service.rows(DECIDE, (nominal, service.owner, name))


async def _take_free(service: Service, name: str, most: int) -> list[tuple[Any, ...]]:
    return sorted(await _tuples(service, TAKE_FREE, service.owner, name, most))


async def _going(service: Service, name: str, nominal: int, run_id: str) -> list[tuple[str, bool]]:
    values = {"name": name, "nominal": nominal, "run": run_id}
    return [(other, bool(begun)) for other, begun in await service.rows(GOING, values)]


async def _tuples(service: Service, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await service.rows(sql, values)]


async def _found(service: Service, sql: str, *values: Any) -> bool:
    return await service.row(sql, values) is not None
