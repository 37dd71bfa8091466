"""Serving schedules: deciding each nominal time once, and starting the runs of those that fire.

Where a schedule stands is in the journal, so a restart goes on where it was, and of several processes that serve one
schedule each fire goes to one. What comes due while nobody serves is made up for as the plan's `catch_up` says, and
what does not run is recorded as a Skipped run. The life of a run that was fired is in `firing.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

import anyio
import attrs

from .background import start
from .context import current_core
from .core import Core, logger
from .errors import InvalidOption, JournalError
from .firing import Fire, fired, micros, moment
from .futures import Future, wait_async
from .host import Host, open_host
from .plans import Plan
from .states import EPOCH, SCHEDULED
from .waking import Waker

LOOK_SECONDS = 2.0
"""How often to look for a clock that has jumped, and for what other processes ask for."""

TROUBLE_SECONDS = 5.0
"""How long to wait when the journal is in trouble."""

MOST = 10_000
"""Missed fires that are gone through at once."""

SINGLY = 100
"""Of missed fires that are not made up for, so many are recorded singly; older ones together."""

JUMP = 1.0
"""Seconds by which the wall clock may differ from the steady one before it has jumped."""


async def serve(*plans: Plan) -> None:
    """Run flows when their plans say so, until it is cancelled: `await serve(flow.on(cron="0 9 * * *"), ...)`.

    Its runs belong to it: when it is cancelled, so are they. `Engine.serve` has the engine own them. Raises
    `InvalidOption` for what is no plan, and for two plans of one name.
    """
    core = current_core()
    claim_names(core, plans)
    try:
        async with open_host(keep_members=True, lasting=True) as host:
            await serve_plans(core, plans, host)
    finally:
        for plan in plans:
            core.served.pop(plan.name, None)


def claim_names(core: Core, plans: Sequence[Plan]) -> None:
    """Note what is served. Raises `InvalidOption`."""
    for number, plan in enumerate(plans):
        if not isinstance(plan, Plan):
            raise InvalidOption("serve", plan, "plans, such as flow.on(cron='0 9 * * *')")
        if plan.name in core.served or plan.name in [each.name for each in plans[:number]]:
            raise InvalidOption("name", plan.name, "a name that no other plan has: flow.on(..., name='another')")
    if not plans:
        raise InvalidOption("serve", plans, "one plan or more, such as flow.on(cron='0 9 * * *')")
    core.served.update((plan.name, plan) for plan in plans)


async def serve_plans(core: Core, plans: Sequence[Plan], host: Host) -> None:
    """Serve these, with runs in that host. Never returns."""
    async with anyio.create_task_group() as group:
        for plan in plans:
            group.start_soon(Server(core, plan, host).serve, name=plan.name)


@attrs.define(eq=False)
class Server:
    """Serves one plan."""

    core: Core
    plan: Plan
    host: Host
    _mark: datetime = EPOCH
    """All nominal times up to this one are decided."""
    _expected: datetime | None = None
    """The nominal time that it has been waiting for."""
    _cause: str = "nobody served the schedule"
    """Why what is late now is late."""

    async def serve(self) -> None:
        """Decide what comes due, for ever."""
        registered = False
        with self.core.listening(self.plan.name) as bell:
            while True:
                try:
                    if not registered:
                        await self._register()
                        registered = True
                    await self._serve_what_is_due()
                except JournalError as error:
                    logger.error("Schedule %r: %s", self.plan.name, error)
                    await anyio.sleep(TROUBLE_SECONDS)
                except Exception:
                    logger.exception("Schedule %r could not be served; it is tried again.", self.plan.name)
                    await anyio.sleep(TROUBLE_SECONDS)
                else:
                    await self._wait(bell)

    async def _register(self) -> None:
        flow, now = self.plan.flow, self.core.clock.now()
        standing = await self.core.journal.timetable.register(self.plan.name, flow.key, self.plan.told(), now)
        self._mark = moment(standing.mark)

    async def _serve_what_is_due(self) -> None:
        timetable = self.core.journal.timetable
        for nominal, run_id in await timetable.asked(self.plan.name):
            self._start(moment(nominal), run_id, asked_for=True)
        standing = await timetable.look(self.plan.name)
        if standing is None or standing.paused_at is not None:
            self._expected = None
            return
        self._mark = max(self._mark, moment(standing.mark))
        due = self._due()
        if due:
            await self._decide(due)
            await timetable.decide(self.plan.name, micros(due[-1]))
            self._mark = due[-1]
        self._expected = self.plan.schedule.next(self._mark)

    def _due(self) -> list[datetime]:
        """The nominal times that are due by now and not decided, the oldest of them first."""
        now = moment(self.core.clock.now())
        due: list[datetime] = []
        nominal = self.plan.schedule.next(self._mark)
        while nominal is not None and len(due) < MOST and self.plan.schedule.due(nominal, self.plan.name) <= now:
            due.append(nominal)
            nominal = self.plan.schedule.next(nominal)
        return due

    async def _wait(self, bell: Waker) -> None:
        """Until the next fire is due, or it is time for a look; and note whether the clock has jumped meanwhile."""
        wall, steady = self.core.clock.now(), self.core.monotonic()
        patience = LOOK_SECONDS
        if self._expected is not None:
            due = self.plan.schedule.due(self._expected, self.plan.name)
            patience = min(patience, max(0.0, (micros(due) - wall) / 1e6))
        with anyio.move_on_after(patience):
            await bell.wait()
        drift = (self.core.clock.now() - wall) / 1e6 - (self.core.monotonic() - steady)
        self._cause = f"the clock jumped by {drift:+.0f} s" if abs(drift) > JUMP else "the event loop was held up"

    # --- deciding ----------------------------------------------------------------------------------------------

    async def _decide(self, due: list[datetime]) -> None:
        """Fire what is to fire of these, and record the rest as skipped."""
        if due == [self._expected]:
            await self._fire(due[0])
            return
        now, plan = moment(self.core.clock.now()), self.plan
        kept = [] if plan.catch_up == "skip" else due[-1:] if plan.catch_up == "latest" else due
        in_time = [each for each in kept if plan.grace is None or now - each <= plan.grace]
        left = due[: len(due) - len(in_time)]
        why = f"catch_up={plan.catch_up!r}"
        if kept and not in_time:
            why = f"it was more than grace={plan.grace} late"
        skipped = []
        if len(left) > SINGLY:
            together, left = left[:-SINGLY], left[-SINGLY:]
            span = f"It stands for {len(together)} fires, from {together[0]} on."
            skipped.append(await self._fire(together[-1], skipped=f"missed: {self._cause}; {why}. {span}"))
        for nominal in left:
            skipped.append(await self._fire(nominal, skipped=f"missed: {self._cause}; {why}."))
        # Those that fire are not to find these in their way.
        await wait_async([future for future in skipped if future is not None])
        for nominal in in_time:
            await self._fire(nominal)

    async def _fire(self, nominal: datetime, skipped: str = "") -> Future[Any] | None:
        run_id = self.core.new_id()
        if await self.core.journal.timetable.take(self.plan.name, micros(nominal), run_id):
            return self._start(nominal, run_id, skipped=skipped)
        return None

    def _start(
        self, nominal: datetime, run_id: str, *, skipped: str = "", asked_for: bool = False
    ) -> Future[Any] | None:
        plan = self.plan
        try:
            run = plan.flow.make_run((), plan.fresh_parameters(), core=self.core, run_id=run_id, parentless=True)
        except Exception:
            logger.exception("Schedule %r could not start a run for %s.", plan.name, nominal)
            return None
        run.fire = Fire(plan.name, micros(nominal))
        run.history[:] = [(SCHEDULED, "Scheduled", "", self.core.clock.now())]
        self.core.journal.record(run)
        # What a person asked for waits for its turn, whatever the schedule's own fires do.
        overlap = "buffer_all" if asked_for and plan.overlap in ("skip", "buffer_one") else plan.overlap
        return start(self.core, run, partial(fired, overlap=overlap, skipped=skipped, cause=self._cause), self.host)
