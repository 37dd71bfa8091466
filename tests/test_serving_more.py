"""Serving under stress: a journal in trouble, jitter, grace, backfills, suspended runs, and engines that close."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from tests.conftest import ListJournal, ListTimetable, LoopClock
from undertow import (
    Cron,
    Engine,
    EngineClosed,
    JournalFull,
    flow,
    resume_flow_run,
    runtime,
    serve,
    suspend_flow_run,
)
from undertow.engine.states import micros
from undertow.engine.waking import Reply

MakeEngine = Callable[..., Engine]

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)


def ticking(seconds: float = 0) -> Any:
    """A flow that notes when it began, and takes that long."""

    @flow
    async def tick() -> None:
        tick.began.append(anyio.current_time())
        await anyio.sleep(seconds)

    tick.began = []
    return tick


def states(journal: ListJournal) -> list[str]:
    """The names of the states in which runs of `tick` are, by the times they were for."""
    runs = [run for run in journal.of("tick") if run.fire is not None]
    return [run.history[-1][1] for run in sorted(runs, key=lambda run: run.fire.nominal)]


def late(journal: ListJournal) -> list[str]:
    """Why runs of `tick` were late."""
    return [message for run in journal.of("tick") for _, name, message, _ in run.history if name == "Late"]


# --- a journal in trouble --------------------------------------------------------------------------------------


class FullJournal(ListJournal):
    """A journal that can't be written for a while."""

    full = False

    def commit(self) -> Reply[None]:
        if not self.full:
            return super().commit()
        reply: Reply[None] = Reply()
        reply.settle(error=JournalFull("app.db", "the disk is full", "Make room."))
        return reply


async def test_a_full_disk(make_engine: MakeEngine) -> None:
    """What fires while the journal can't be written waits for that, says so, and takes nobody along."""
    journal, tick = FullJournal(), ticking()
    async with make_engine(journal=journal) as engine:
        engine.serve(tick.on(interval=60))
        handle = engine.start(ticking(seconds=100))
        await anyio.sleep(50)
        journal.full = True
        await anyio.sleep(30)
        assert tick.began == []
        journal.full = False
        await anyio.sleep(30)
        assert await handle is None
    assert len(tick.began) == 1
    assert "the disk is full" in late(journal)[0]
    assert states(journal) == ["Completed"]


# --- jitter, grace ---------------------------------------------------------------------------------------------


async def test_jitter_is_not_late(make_engine: MakeEngine, journal: ListJournal) -> None:
    """A run that begins when its jitter says is in time, however long after its nominal time that is."""
    tick = ticking()
    async with make_engine() as engine:
        engine.serve(tick.on(schedule=Cron("*/10 * * * *", jitter=timedelta(minutes=9))))
        await anyio.sleep(3600)
    assert len(tick.began) >= 5
    assert late(journal) == []


class JumpyClock(LoopClock):
    """A wall clock that somebody sets."""

    ahead = 0.0

    def now(self) -> int:
        return super().now() + int(self.ahead * 1e6)


async def test_grace_of_a_fire_that_was_awaited(make_engine: MakeEngine, journal: ListJournal) -> None:
    """What is more than `grace` late is skipped, also when somebody served and only the machine was asleep."""
    clock, tick = JumpyClock(), ticking()
    async with make_engine(clock=clock) as engine:
        engine.serve(tick.on(cron="0 12 * * *", grace=timedelta(minutes=5)))
        await anyio.sleep(5)
        clock.ahead = 15 * 3600
        await anyio.sleep(10)
    assert tick.began == []
    [run] = journal.of("tick")
    assert run.history[-1][2] == "missed: the clock jumped by +54000 s; it was more than grace=0:05:00 late."


async def test_no_grace_at_all(make_engine: MakeEngine) -> None:
    """`grace=timedelta(0)` makes up for nothing, and lets what is in time run."""
    tick = ticking()
    async with make_engine() as engine:
        engine.serve(tick.on(interval=60, grace=timedelta(0)))
        await anyio.sleep(130)
    assert len(tick.began) == 2


async def test_grace_begins_when_it_is_due(make_engine: MakeEngine, journal: ListJournal) -> None:
    """With jitter, how late a fire is counts from when it was due."""
    plan = ticking().on(schedule=Cron("0 * * * *", jitter=timedelta(minutes=50)), grace=timedelta(minutes=1))
    due = plan.schedule.due(NEW_YEAR + timedelta(hours=1), "tick")
    assert due > NEW_YEAR + timedelta(hours=1, minutes=2)
    async with make_engine() as engine:
        engine.serve(plan)
        await anyio.sleep(1)
    await anyio.sleep((due - NEW_YEAR).total_seconds())
    async with make_engine() as engine:
        engine.serve(plan)
        await anyio.sleep(1)
    assert states(journal) == ["Completed"]


# --- by hand ---------------------------------------------------------------------------------------------------


async def test_backfilling_to_the_end_of_today(make_engine: MakeEngine) -> None:
    """A backfill runs what is past; times to come fire when they come."""
    tick = ticking()
    async with make_engine() as engine:
        engine.serve(tick.on(interval=60))
        await anyio.sleep(130)
        ids = await engine.schedules.backfill("tick", NEW_YEAR - timedelta(minutes=2), NEW_YEAR + timedelta(hours=1))
        assert len(ids) == 3
        await anyio.sleep(60)
    assert tick.began == [60, 120, 130, 130, 130, 180]


async def test_a_backfill_is_not_late(make_engine: MakeEngine, journal: ListJournal) -> None:
    """What is made up for by a backfill is not Late for having been missed long ago."""
    async with make_engine() as engine:
        engine.serve(ticking().on(interval=60))
        await anyio.sleep(1)
        await engine.schedules.backfill("tick", NEW_YEAR - timedelta(hours=1), NEW_YEAR)
        await anyio.sleep(1)
    assert len(states(journal)) == 61
    assert late(journal) == []


async def test_two_triggers_at_once(make_engine: MakeEngine) -> None:
    """Two triggers in the same microsecond are two runs."""
    tick = ticking()
    async with make_engine() as engine:
        engine.serve(tick.on(cron="0 0 1 6 *"))
        await anyio.sleep(1)
        assert await engine.schedules.trigger("tick") != await engine.schedules.trigger("tick")
        await anyio.sleep(1)
    assert len(tick.began) == 2


async def test_a_long_backfill(make_engine: MakeEngine, journal: ListJournal) -> None:
    """A backfill of thousands of times is begun a few at a time, in order, and takes time in proportion."""
    tick = ticking(seconds=1)
    asked: list[int] = []
    going = ListTimetable.going

    def counted(self: ListTimetable, *args: Any) -> Any:
        reply = going(self, *args)
        asked.append(len(reply.wait()))
        return reply

    async with make_engine() as engine:
        engine.serve(tick.on(interval=60))
        await anyio.sleep(1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ListTimetable, "going", counted)
            await engine.schedules.backfill("tick", NEW_YEAR - timedelta(minutes=299), NEW_YEAR)
            await anyio.sleep(20)
            assert len(journal.of("tick")) <= 120
    assert max(asked) <= 100


async def test_a_backfill_beside_a_run(make_engine: MakeEngine) -> None:
    """A backfilled run waits for one that is going, though that is for a later time."""
    tick = ticking(seconds=40)
    async with make_engine() as engine:
        engine.serve(tick.on(interval=60))
        await anyio.sleep(70)
        await engine.schedules.backfill("tick", NEW_YEAR - timedelta(minutes=1), NEW_YEAR - timedelta(minutes=1))
        await anyio.sleep(40)
    assert tick.began == [60, 100]


# --- runs that wait for people ---------------------------------------------------------------------------------


def asking() -> Any:
    """A durable flow that suspends itself the first time it runs."""

    @flow(durable=True)
    async def tick() -> None:
        tick.began.append(anyio.current_time())
        tick.times.append(runtime.flow_run.scheduled_start_time)
        if len(tick.began) == 1:
            await anyio.sleep(5)
            await suspend_flow_run()

    tick.began, tick.times = [], []
    return tick


async def test_cancelling_a_suspended_run(make_engine: MakeEngine, journal: ListJournal) -> None:
    """With `overlap="cancel_running"` a suspended run is Cancelled when the next one fires."""
    tick = asking()
    async with make_engine() as engine:
        engine.serve(tick.on(interval=60, overlap="cancel_running"))
        await anyio.sleep(130)
    assert states(journal) == ["Cancelled", "Completed"]


async def test_waiting_for_a_suspended_run(make_engine: MakeEngine, journal: ListJournal) -> None:
    """What waits for a suspended run does so at rest, and begins when that was resumed and has ended."""
    tick = asking()
    async with make_engine() as engine:
        engine.serve(tick.on(interval=60, overlap="buffer_one"))
        await anyio.sleep(61)
        first = engine.handle(journal.of("tick")[0].id)  # held, as a web page might
        await anyio.sleep(80)
        assert states(journal)[:2] == ["Suspended", "Late"]
        assert first is not None
        await resume_flow_run(first.run_id)
        await anyio.sleep(5)
    assert states(journal)[:2] == ["Completed", "Completed"]
    assert tick.times[1] == NEW_YEAR + timedelta(minutes=1)  # the first again


# --- engines that close ----------------------------------------------------------------------------------------


async def test_serving_longer_than_the_engine(make_engine: MakeEngine) -> None:
    """`await serve(...)` ends with an error that says so when its engine is closed under it."""
    with pytest.raises(ExceptionGroup) as caught:
        async with anyio.create_task_group() as group:
            async with make_engine():
                group.start_soon(serve, ticking().on(interval=60))
                await anyio.sleep(1)
            await anyio.sleep(60)
            group.cancel_scope.cancel()
    assert caught.group_contains(EngineClosed, match="Serving")


async def test_two_definitions_of_one_schedule(make_engine: MakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    """Who serves a schedule that another process has meanwhile defined otherwise says so, once."""
    async with make_engine() as one, make_engine() as other:
        one.serve(ticking().on(interval=60))
        await anyio.sleep(1)
        other.serve(ticking().on(interval=50))
        await anyio.sleep(300)
    assert len([line for line in caplog.messages if "defined otherwise" in line]) == 1


async def test_a_very_long_absence(make_engine: MakeEngine, journal: ListJournal) -> None:
    """However many times were missed, the one that is made up for is the last of them."""
    tick = ticking()
    plan = tick.on(interval=1)
    async with make_engine() as engine:
        engine.serve(plan)
        await anyio.sleep(0.5)
    await anyio.sleep(25_000)
    async with make_engine() as engine:
        engine.serve(plan)
        await anyio.sleep(0.4)
    assert states(journal).count("Completed") == 1
    assert states(journal)[-1] == "Completed"


@pytest.mark.parametrize(("catch_up", "ended"), [("skip", "Skipped"), ("latest", "Completed")])
async def test_taken_by_somebody_who_died(
    make_engine: MakeEngine, journal: ListJournal, catch_up: Any, ended: str
) -> None:
    """A fire whose taker died before it began is decided anew, as the plan says of those that nobody served."""
    timetable, nominal = journal.timetable, micros(NEW_YEAR)
    timetable.fires["tick", nominal] = "its-run"
    timetable.asked_for.append(("tick", nominal, None))
    async with make_engine() as engine:
        engine.serve(ticking().on(cron="0 0 1 1 *", catch_up=catch_up))
        await anyio.sleep(1)
    assert journal.runs["its-run"].history[-1][1] == ended
