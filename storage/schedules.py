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
RETURNING told, mark, paused_at
"""

LOOK = "SELECT told, mark, paused_at FROM schedule WHERE name = ?"

TAKE = """
INSERT INTO fire (schedule, nominal, run_id, owner) SELECT name, :nominal, :run, :owner FROM schedule
WHERE name = :name AND paused_at IS NULL ON CONFLICT (schedule, nominal) DO NOTHING RETURNING run_id
"""

DECIDE = "UPDATE schedule SET mark = max(mark, ?), owner = ? WHERE name = ?"

ASK = """
INSERT INTO fire (schedule, nominal, run_id) SELECT ?, time.value, id.value
FROM json_each(?) AS time JOIN json_each(?) AS id USING (key) WHERE true
ON CONFLICT (schedule, nominal) DO NOTHING RETURNING nominal, run_id
"""

ASKED = """
UPDATE fire SET owner = ? WHERE schedule = ? AND owner IS NULL
    AND EXISTS (SELECT 1 FROM schedule WHERE name = fire.schedule AND paused_at IS NULL)
RETURNING nominal, run_id
"""

GOING = """
SELECT run.id, run.started_at IS NOT NULL FROM fire JOIN run ON run.id = fire.run_id
WHERE fire.schedule = ? AND fire.nominal < ? AND run.ended_at IS NULL ORDER BY fire.nominal
"""

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

    def ask(self, name: str, nominals: Sequence[int], run_ids: Sequence[str]) -> Reply[list[tuple[int, str]]]:
        """Have these nominal times fired by whoever serves the schedule."""
        return self._ask(_pairs, ASK, name, json.dumps(nominals), json.dumps(run_ids))

    def asked(self, name: str) -> Reply[list[tuple[int, str]]]:
        """Take what was asked for, for this process."""
        return self._ask(_asked, name)

    def going(self, name: str, nominal: int) -> Reply[list[tuple[str, bool]]]:
        """Runs of earlier fires that have not ended."""
        return self._ask(_going, name, nominal)

    def pause(self, name: str, at: int) -> Reply[bool]:
        """Let a schedule fire no more."""
        return self._ask(_found, PAUSE, at, name)

    def resume(self, name: str, at: int) -> Reply[bool]:
        """End a pause."""
        return self._ask(_found, RESUME, at, name)


async def _register(service: Service, name: str, flow: str, told: str, now: int) -> Standing:
    values = {"name": name, "flow": flow, "told": told, "now": now, "owner": service.owner}
    return Standing(*await service.row(REGISTER, values))


async def _look(service: Service, name: str) -> Standing | None:
    found = await service.row(LOOK, (name,))
    return None if found is None else Standing(*found)


async def _take(service: Service, name: str, nominal: int, run_id: str) -> bool:
    values = {"name": name, "nominal": nominal, "run": run_id, "owner": service.owner}
    return await service.row(TAKE, values) is not None


async def _decide(service: Service, name: str, nominal: int) -> None:
    await service.rows(DECIDE, (nominal, service.owner, name))


async def _asked(service: Service, name: str) -> list[tuple[int, str]]:
    return sorted(await _pairs(service, ASKED, service.owner, name))


async def _going(service: Service, name: str, nominal: int) -> list[tuple[str, bool]]:
    return [(run_id, bool(begun)) for run_id, begun in await service.rows(GOING, (name, nominal))]


async def _pairs(service: Service, sql: str, *values: Any) -> list[tuple[int, str]]:
    return [tuple(row) for row in await service.rows(sql, values)]


async def _found(service: Service, sql: str, *values: Any) -> bool:
    return await service.row(sql, values) is not None
