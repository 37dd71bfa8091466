"""Serving schedules: deciding each nominal time once, and starting the runs of those that fire.

Where a schedule stands is in the journal, so a restart goes on where it was, and of several processes that serve one
schedule each fire goes to one. What comes due while nobody serves is made up for as the plan's `catch_up` says, and
what does not run is recorded as a Skipped run. The life of a run that was fired is in `firing.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import anyio
import attrs

from .background import start
from .context import current_core
from .core import Core, logger
from .errors import EngineClosed, InvalidOption, JournalError
from .finishing import undisturbed
from .firing import TROUBLE_SECONDS, Fire, fired
from .futures import Future
from .gathering import wait_async
from .host import Host, open_host
from .plans import Plan
from .states import EPOCH, SCHEDULED, micros, moment
from .waking import Waker

LOOK_SECONDS = 2.0
"""How often to look for a clock that has jumped, and for what other processes ask for."""

MOST = 10_000
"""Missed fires that are gone through at once."""

AT_ONCE = 100
"""Runs that make up for something, or that were asked for, and that may wait in memory at once."""

SINGLY = 100
"""Of missed fires that are not made up for, so many are recorded singly; older ones together."""

JUMP = 1.0
"""Seconds by which the wall clock may differ from the steady one before it has jumped."""


async def serve(*plans: Plan) -> None:
    """Run flows when their plans say so, until it is cancelled: `await serve(flow.on(cron="0 9 * * *"), ...)`.

    Its runs belong to it: when it is cancelled, so are they. `Engine.serve` has the engine own them. Raises
    `InvalidOption` for what is no plan, and for two plans of one name, and `EngineClosed` when the engine is.
    """
    core = current_core()
    claim_names(core, plans)
    try:
        async with open_host(keep_members=True, lasting=True) as host:
            await serve_plans(core, plans, host)
    finally:
        for plan in plans:
            core.served.pop(plan.name, None)
    raise EngineClosed("Serving schedules")


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
    """Serve these, with runs in that host, for as long as the engine is open."""
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
    _waiting: int = 0
    """Its runs that make up for something, or were asked for, and have not ended."""
    _more: bool = False
    """Perhaps there is more to be made up for, once there is room."""
    _broken_off: dict[datetime, str] = attrs.field(factory=dict)
    """Ids of runs for fires whose taker died before they began; they are decided anew."""
    _contested: bool = False
    """It has been said that another process has defined the schedule otherwise."""
    _told: str = attrs.field(init=False, default=attrs.Factory(lambda self: self.plan.told(), takes_self=True))

    async def serve(self) -> None:
        """Decide what comes due, for as long as the engine is open."""
        registered = False
        with self.core.listening(self.plan.name) as bell:
            while self.core.is_open:
                try:
                    if not registered:
                        await self._register()
                        registered = True
                    await self._serve_what_is_due()
                except JournalError as error:
                    if self.core.is_open:
                        logger.error("Schedule %r: %s", self.plan.name, error)
                        await anyio.sleep(TROUBLE_SECONDS)
                except Exception:
                    logger.exception("Schedule %r could not be served; it is tried again.", self.plan.name)
                    await anyio.sleep(TROUBLE_SECONDS)
                else:
                    await self._wait(bell)

    async def _register(self) -> None:
        flow, now = self.plan.flow, self.core.clock.now()
        standing = await self.core.journal.timetable.register(self.plan.name, flow.key, self._told, now)
        self._mark = moment(standing.mark)

    async def _serve_what_is_due(self) -> None:
        timetable = self.core.journal.timetable
        standing = await timetable.look(self.plan.name)
        if standing is None or standing.paused_at is not None:
            self._expected = None
            return
        self._compare(standing.told)
        self._more = standing.has_free
        if standing.has_free and self._waiting < AT_ONCE:
            await undisturbed(self._take_free)
        self._mark = max(self._mark, moment(standing.mark))
        due = found = sorted([*self._broken_off, *self._due()])
        if self.plan.catch_up == "all" and due != [self._expected]:
            due = due[: max(0, AT_ONCE - self._waiting)]
        if due:
            await self._decide(due)
            self._mark = max(self._mark, due[-1])
            await timetable.decide(self.plan.name, micros(self._mark))
        if len(due) == len(found) < MOST:
            self._expected = self.plan.schedule.next(self._mark)
            return
        self._more, self._expected = True, None
        if self._waiting < AT_ONCE:
            self.core.ring(self.plan.name)

    def _compare(self, told: str) -> None:
        if told != self._told and not self._contested:
            self._contested = True
            logger.warning("Schedule %r was defined otherwise by another process: each serves its own.", self.plan.name)

    async def _take_free(self) -> None:
        """Take what was asked for, and what was taken by somebody who died before it began: that is decided anew."""
        room = AT_ONCE - self._waiting
        taken = await self.core.journal.timetable.take_free(self.plan.name, room)
        self._more = len(taken) == room
        for nominal, run_id, asked_at in taken:
            if asked_at is None:
                self._broken_off[moment(nominal)] = run_id
            else:
                self._start(moment(nominal), run_id, asked_at=asked_at)

    def _due(self) -> list[datetime]:
        """The nominal times that are due by now and not decided, the oldest of them first."""
        now = moment(self.core.clock.now())
        due: list[datetime] = []
        nominal = self.plan.schedule.next(self._mark)
        while nominal is not None and len(due) < MOST and self._due_at(nominal) <= now:
            due.append(nominal)
            nominal = self.plan.schedule.next(nominal)
        return due

    def _due_at(self, nominal: datetime) -> datetime:
        return self.plan.schedule.due(nominal, self.plan.name)

    async def _wait(self, bell: Waker) -> None:
        """Until the next fire is due, or it is time for a look; and note whether the clock has jumped meanwhile."""
        wall, steady = self.core.clock.now(), self.core.monotonic()
        patience = LOOK_SECONDS
        if self._expected is not None:
            patience = min(patience, max(0.0, (micros(self._due_at(self._expected)) - wall) / 1e6))
        with anyio.move_on_after(patience):
            await bell.wait()
        drift = (self.core.clock.now() - wall) / 1e6 - (self.core.monotonic() - steady)
        self._cause = f"the clock jumped by {drift:+.0f} s" if abs(drift) > JUMP else "the event loop was held up"

    # --- deciding ----------------------------------------------------------------------------------------------

    async def _decide(self, due: list[datetime]) -> None:
        """Fire what is to fire of these, and record the rest as skipped."""
        if due == [self._expected] and self._is_in_time(due[0], at_least=LOOK_SECONDS):
            await self._fire(due[0])
            return
        plan = self.plan
        newest = due[-1:] if len(due) < MOST else []  # else there are newer ones
        kept = {"skip": [], "latest": newest, "all": due}[plan.catch_up]
        in_time = [each for each in kept if self._is_in_time(each)]
        left = [each for each in due if each not in in_time]
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
            await self._fire(nominal, makes_up=True)

    def _is_in_time(self, nominal: datetime, at_least: float = 0) -> bool:
        grace = self.plan.grace
        late = moment(self.core.clock.now()) - self._due_at(nominal)
        return grace is None or late <= max(grace, timedelta(seconds=at_least))

    async def _fire(self, nominal: datetime, *, skipped: str = "", makes_up: bool = False) -> Future[Any] | None:
        started: list[Future[Any] | None] = []

        async def take_and_start() -> None:
            run_id = self._broken_off.pop(nominal, None)
            if run_id is None:
                run_id = self.core.new_id()
                if not await self.core.journal.timetable.take(self.plan.name, micros(nominal), run_id):
                    return
            started.append(self._start(nominal, run_id, skipped=skipped, makes_up=makes_up))

        await undisturbed(take_and_start)  # what is taken is started, though it be only to be cancelled
        return started[0] if started else None

    def _start(
        self, nominal: datetime, run_id: str, *, skipped: str = "", makes_up: bool = False, asked_at: int | None = None
    ) -> Future[Any] | None:
        plan = self.plan
        try:
            run = plan.flow.make_run((), plan.fresh_parameters(), core=self.core, run_id=run_id, parentless=True)
        except Exception:
            logger.exception("Schedule %r could not start a run for %s.", plan.name, nominal)
            return None
        run.fire = Fire(plan.name, micros(nominal), asked_at or micros(self._due_at(nominal)))
        run.history[:] = [(SCHEDULED, "Scheduled", "", self.core.clock.now())]
        self.core.journal.record(run)
        # What a person asked for waits for its turn, whatever the schedule's own fires do.
        overlap = "buffer_all" if asked_at and plan.overlap in ("skip", "buffer_one") else plan.overlap
        life = partial(fired, overlap=overlap, skipped=skipped, cause=self._cause)
        future = start(self.core, run, life, self.host)
        if makes_up or asked_at:
            self._waiting += 1
            future.on_done(self._makes_room)
        return future

    def _makes_room(self) -> None:
        self._waiting -= 1
        if self._more:
            self.core.ring(self.plan.name)
