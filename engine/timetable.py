"""What a person does to schedules while they are served: `engine.schedules`, through the journal, from any process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime

from .core import Core
from .errors import EngineClosed, InvalidOption, ScheduleUnknown
from .ports import Standing
from .schedules import Schedule
from .states import micros, moment

MOST = 10_000
"""Fires that one backfill asks for at most."""


class Schedules:
    """The schedules in an engine's journal, whichever process serves them."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def pause(self, name: str) -> bool:
        """Let a schedule fire no more until `resume`; whether that changed anything. Raises `ScheduleUnknown`."""
        await self._standing(name)
        return await self._core.journal.timetable.pause(name, self._core.clock.now())

    async def resume(self, name: str) -> bool:
        """End a pause; what came due meanwhile does not fire. Whether that changed anything. Raises as `pause`."""
        await self._standing(name)
        changed = await self._core.journal.timetable.resume(name, self._core.clock.now())
        self._core.ring(name)
        return changed

    async def trigger(self, name: str) -> str:
        """Have a schedule's flow run now, beside its own times, and return the run's id. Raises `ScheduleUnknown`.

        It waits for runs of the schedule that are going, unless these may overlap, and for somebody to serve it.
        """
        await self._standing(name)
        at = self._core.clock.now()
        while not (ids := await self._ask(name, [at])):
            at += 1  # there is a fire of that very microsecond
        return ids[0]

    async def backfill(self, name: str, start: datetime, end: datetime) -> list[str]:
        """Have the flow run for the schedule's times from `start` to `end` that it has not fired for; the runs' ids.

        What is still to come when this is called fires when it comes.
        They run in order, one after the other unless runs may overlap. Raises `ScheduleUnknown`, and `InvalidOption`
        for times without a zone, and for more than 10 000 fires.
        """
        told = json.loads((await self._standing(name)).told)
        schedule = Schedule.from_dict(told["schedule"])
        for option, value in (("start", start), ("end", end)):
            if not isinstance(value, datetime) or value.tzinfo is None:
                raise InvalidOption(option, value, "a datetime with a time zone")
        end = min(end, moment(self._core.clock.now()))
        times: list[int] = []
        nominal = schedule.next(start - datetime.resolution)
        while nominal is not None and nominal <= end:
            times.append(micros(nominal))
            if len(times) > MOST:
                raise InvalidOption("end", end, f"a time with at most {MOST} fires since the start, {start}")
            nominal = schedule.next(nominal)
        return await self._ask(name, times)

    async def _standing(self, name: str) -> Standing:
        if not self._core.is_open:
            raise EngineClosed(f"Asking for schedule {name!r}")
        standing = await self._core.journal.timetable.look(name)
        if standing is None:
            raise ScheduleUnknown(name)
        return standing

    async def _ask(self, name: str, nominals: Sequence[int]) -> list[str]:
        ids = [self._core.new_id() for _ in nominals]
        taken = await self._core.journal.timetable.ask(name, nominals, ids, self._core.clock.now())
        self._core.ring(name)
        return [run_id for _, run_id in sorted(taken)]
