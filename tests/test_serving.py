"""Serving: flows run by themselves when their plans say so, each time once, whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from tests.conftest import EPOCH_2026, ListJournal, LoopClock
from undertow import (
    At,
    Cron,
    Engine,
    EngineClosed,
    InvalidOption,
    Plan,
    ScheduleInvalid,
    ScheduleUnknown,
    SignatureMismatch,
    flow,
    runtime,
    serve,
    task,
)

MakeEngine = Callable[..., Engine]

NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
"""When virtual time begins."""


@task
async def work(n: int) -> int:
    return n


def ticking(seconds: float = 0) -> Any:
    """A flow that notes when it began, for which time, and takes that long."""

    @flow
    async def tick(n: int = 1) -> int:
        tick.began.append((anyio.current_time(), n))
        tick.times.append(runtime.flow_run.scheduled_start_time)
        await anyio.sleep(seconds)
        return await work(n)

    tick.began, tick.times = [], []
    return tick


def ended(journal: ListJournal) -> list[str]:
    """The names of the states in which runs of `tick` are, by the times they were for."""
    runs = [run for run in journal.of("tick") if run.fire is not None]
    return [run.history[-1][1] for run in sorted(runs, key=lambda run: run.fire.nominal)]


def messages(journal: ListJournal) -> list[str]:
    return [run.history[-1][2] for run in sorted(journal.of("tick"), key=lambda run: run.fire.nominal)]


# --- plans -----------------------------------------------------------------------------------------------------


def test_plan() -> None:
    """`flow.on(...)` is a frozen value that says the flow, the schedule, the parameters and the policies."""
    tick = ticking()
    plan = tick.on(cron="0 9 * * mon", timezone="Europe/Berlin", parameters={"n": 2}, overlap="allow")
    assert (plan.name, plan.flow, plan.parameters) == ("tick", tick, {"n": 2})
    assert (plan.schedule, plan.overlap) == (Cron("0 9 * * mon", timezone="Europe/Berlin"), "allow")
    with pytest.raises(AttributeError):
        plan.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({}, InvalidOption, "exactly one of cron, interval, rrule and schedule"),
        ({"cron": "@daily", "interval": 5}, InvalidOption, "exactly one"),
        ({"cron": "61 * * * *"}, ScheduleInvalid, "61"),
        ({"interval": 0}, ScheduleInvalid, "Interval"),
        ({"interval": "5"}, ScheduleInvalid, "Interval"),
        ({"schedule": "@daily"}, InvalidOption, "Cron"),
        ({"schedule": Cron("@daily"), "timezone": "UTC"}, InvalidOption, "timezone"),
        ({"cron": "@daily", "timezone": "Mars/Olympus"}, ScheduleInvalid, "Mars/Olympus"),
        ({"cron": "@daily", "parameters": {"m": 1}}, SignatureMismatch, "m"),
        ({"cron": "@daily", "parameters": [1]}, InvalidOption, "parameters"),
        ({"cron": "@daily", "overlap": "never"}, InvalidOption, "buffer_one"),
        ({"cron": "@daily", "catch_up": "some"}, InvalidOption, "latest"),
        ({"cron": "@daily", "grace": -1}, InvalidOption, "grace"),
        ({"cron": "@daily", "name": "a\nb"}, InvalidOption, "name"),
    ],
)
def test_impossible_plans(options: dict[str, Any], error: type[Exception], says: str) -> None:
    """What can't be served is refused where it is defined, with the option and what is allowed."""
    with pytest.raises(error, match=says):
        ticking().on(**options)


async def test_impossible_servings(engine: Engine) -> None:
    """Serving refuses what is no plan, nothing at all, and two plans of one name."""
    tick = ticking()
    for plans, says in (((), "one plan or more"), ((tick,), "plans"), ((tick.on(interval=1),) * 2, "no other plan")):
        with pytest.raises(InvalidOption, match=says):
            engine.serve(*plans)
    engine.serve(tick.on(interval=60))
    with pytest.raises(InvalidOption, match="no other plan"):
        engine.serve(tick.on(interval=30))


async def test_serving_after_the_end(make_engine: MakeEngine) -> None:
    """A closed engine serves nothing, and says so."""
    with pytest.raises(EngineClosed):
        make_engine().serve(ticking().on(interval=1))


# --- firing ----------------------------------------------------------------------------------------------------


async def test_firing(make_engine: MakeEngine, journal: ListJournal) -> None:
    """A flow runs at each time of its schedule, with the parameters of the plan, and knows which time it is for."""
    tick = ticking()
    async with make_engine() as engine:
        engine.serve(tick.on(interval=60, parameters={"n": 7}))
        await anyio.sleep(200)
    assert tick.began == [(60, 7), (120, 7), (180, 7)]
    assert tick.times == [NEW_YEAR + timedelta(minutes=n) for n in (1, 2, 3)]
    assert journal.story("tick") == ["Scheduled", "Running", "Completed"]


async def test_a_minute_of_seconds(make_engine: MakeEngine, journal: ListJournal) -> None:
    """A schedule of every second fires sixty times in a minute, none lost and none twice."""
    tick = ticking()
    async with make_engine() as engine:
        engine.serve(tick.on(cron="* * * * * *"))
        await anyio.sleep(60.5)
    assert [at for at, _ in tick.began] == list(range(1, 61))
    assert ended(journal) == ["Completed"] * 60


async def test_serving_in_a_task_group(engine: Engine) -> None:
    """`await serve(...)` goes on in the caller's task group until it is cancelled, and its runs end with it."""
    tick = ticking(seconds=100)
    async with anyio.create_task_group() as group:
        group.start_soon(serve, tick.on(interval=60, overlap="allow"))
        await anyio.sleep(130)
        assert len(tick.began) == 2
        group.cancel_scope.cancel()
    assert engine.core.served == {}
    await anyio.sleep(300)
    assert len(tick.began) == 2


async def test_what_serve_leaves(engine: Engine, journal: ListJournal) -> None:
    """The runs of a cancelled `serve` are Cancelled."""
    tick = ticking(seconds=100)
    with anyio.move_on_after(70):
        await serve(tick.on(interval=60))
    assert ended(journal) == ["Cancelled"]


async def test_parameters_are_copies(make_engine: MakeEngine) -> None:
    """What one run does to its parameters, the next does not see."""
    seen: list[list[int]] = []

    @flow
    async def grows(numbers: list[int]) -> None:
        seen.append(list(numbers))
        numbers.append(1)

    async with make_engine() as engine:
        engine.serve(grows.on(interval=60, parameters={"numbers": []}))
        await anyio.sleep(130)
    assert seen == [[], []]


async def test_a_flow_that_fails(make_engine: MakeEngine, journal: ListJournal) -> None:
    """A run that fails does not end its schedule."""

    @flow
    async def tick() -> None:
        raise ValueError("no")

    async with make_engine() as engine:
        engine.serve(tick.on(interval=60))
        await anyio.sleep(130)
    assert ended(journal) == ["Failed", "Failed"]


async def test_one_time(make_engine: MakeEngine, journal: ListJournal) -> None:
    """A schedule of one time fires once; another of its kind beside it is not disturbed."""
    tick = ticking()
    async with make_engine() as engine:
        engine.serve(tick.on(schedule=At(NEW_YEAR + timedelta(seconds=5)) | At(NEW_YEAR + timedelta(seconds=9))))
        await anyio.sleep(3600)
    assert [at for at, _ in tick.began] == [5, 9]


async def test_jitter(make_engine: MakeEngine) -> None:
    """With jitter a run begins later than its time, by no more than that, and still once for each time."""
    tick = ticking()
    async with make_engine() as engine:
        engine.serve(tick.on(schedule=Cron("* * * * *", jitter=timedelta(seconds=30))))
        await anyio.sleep(631)
    delays = [at - 60 * number for number, (at, _) in enumerate(tick.began, 1)]
    assert len(delays) == 10
    assert all(0 <= delay <= 30 for delay in delays)
    assert len(set(delays)) > 5


# --- overlap ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overlap", "began", "states"),
    [
        ("skip", [60, 180, 300], ["Completed", "Skipped", "Completed", "Skipped", "Running"]),
        ("buffer_one", [60, 155, 250], ["Completed", "Completed", "Running", "Skipped", "Scheduled"]),
        ("buffer_all", [60, 155, 250], ["Completed", "Completed", "Running", "Scheduled", "Scheduled"]),
        ("cancel_running", [60, 120, 180, 240, 300], ["Cancelled"] * 4 + ["Running"]),
        ("allow", [60, 120, 180, 240, 300], ["Completed"] * 3 + ["Running"] * 2),
    ],
)
async def test_overlap(
    make_engine: MakeEngine, journal: ListJournal, overlap: Any, began: list[int], states: list[str]
) -> None:
    """While a run is going, the next fire is skipped, waits, has it cancelled or joins it, as `overlap` says."""
    tick = ticking(seconds=95)
    async with make_engine(late_after=1000.0) as engine:
        engine.serve(tick.on(interval=60, overlap=overlap))
        await anyio.sleep(305)
        assert ([at for at, _ in tick.began], ended(journal)) == (began, states)


async def test_why_it_was_skipped(make_engine: MakeEngine, journal: ListJournal) -> None:
    """A skipped fire is a Skipped run, and its message names the run that was in its way."""
    tick = ticking(seconds=90)
    async with make_engine() as engine:
        engine.serve(tick.on(interval=60))
        await anyio.sleep(130)
        first, second = journal.of("tick")
    assert second.history[-1][1:3] == ("Skipped", f"overlap: run {first.id} of the same schedule is still going.")


async def test_skipping_in_the_buffer(make_engine: MakeEngine, journal: ListJournal) -> None:
    """With `buffer_one`, a fire is skipped when another waits already, and its message names both."""
    tick = ticking(seconds=1000)
    async with make_engine(late_after=10_000.0) as engine:
        engine.serve(tick.on(interval=60, overlap="buffer_one"))
        await anyio.sleep(190)
        going, waits, skipped = journal.of("tick")
    assert waits.id in skipped.history[1][2]
    assert going.id in skipped.history[1][2]


# --- what nobody served ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("catch_up", "states"),
    [
        ("latest", ["Completed", "Skipped", "Skipped", "Completed", "Completed"]),
        ("all", ["Completed"] * 5),
        ("skip", ["Completed", "Skipped", "Skipped", "Skipped", "Completed"]),
    ],
)
async def test_catching_up(make_engine: MakeEngine, journal: ListJournal, catch_up: Any, states: list[str]) -> None:
    """Of the times that came while nobody served, the last, all or none are made up for; the rest are recorded."""
    plan = ticking().on(interval=60, catch_up=catch_up, overlap="allow")
    async with make_engine() as engine:
        engine.serve(plan)
        await anyio.sleep(70)
    await anyio.sleep(180)
    async with make_engine() as engine:
        engine.serve(plan)
        await anyio.sleep(55)
    assert ended(journal) == states


async def test_why_it_was_missed(make_engine: MakeEngine, journal: ListJournal) -> None:
    """A time that is not made up for is a Skipped run which says that nobody served, and the policy."""
    plan = ticking().on(interval=60, catch_up="skip")
    async with make_engine() as engine:
        engine.serve(plan)
        await anyio.sleep(1)
    await anyio.sleep(60)
    async with make_engine() as engine:
        engine.serve(plan)
        await anyio.sleep(1)
    assert messages(journal) == ["missed: nobody served the schedule; catch_up='skip'."]


async def test_grace(make_engine: MakeEngine, journal: ListJournal) -> None:
    """Nothing that is more than `grace` late is made up for."""
    plan = ticking().on(interval=60, catch_up="all", grace=timedelta(seconds=90), overlap="allow")
    async with make_engine() as engine:
        engine.serve(plan)
        await anyio.sleep(1)
    await anyio.sleep(200)
    async with make_engine() as engine:
        engine.serve(plan)
        await anyio.sleep(1)
    assert ended(journal) == ["Skipped", "Completed", "Completed"]


async def test_a_long_absence(make_engine: MakeEngine, journal: ListJournal) -> None:
    """Of many missed times the oldest are recorded together, in one run that says how many it stands for."""
    plan = ticking().on(interval=1)
    async with make_engine() as engine:
        engine.serve(plan)
        await anyio.sleep(0.5)
    await anyio.sleep(5000)
    async with make_engine() as engine:
        engine.serve(plan)
        await anyio.sleep(0.4)
    assert ended(journal) == ["Skipped"] * 101 + ["Completed"]
    assert "It stands for 4899 fires, from 2026-01-01 00:00:01+00:00 on." in messages(journal)[0]


async def test_another_schedule_of_that_name(make_engine: MakeEngine, journal: ListJournal) -> None:
    """Times at which a changed schedule would have fired before it was changed are not made up for."""
    async with make_engine() as engine:
        engine.serve(ticking().on(cron="0 0 1 1 *"))
        await anyio.sleep(1)
    await anyio.sleep(600)
    tick = ticking()
    async with make_engine() as engine:
        engine.serve(tick.on(interval=60))
        await anyio.sleep(60)
    assert len(tick.began) == 1


# --- clocks that jump ------------------------------------------------------------------------------------------


class JumpyClock(LoopClock):
    """A wall clock that somebody sets."""

    ahead = 0.0

    def now(self) -> int:
        return super().now() + int(self.ahead * 1e6)


async def test_a_clock_set_back(make_engine: MakeEngine, journal: ListJournal) -> None:
    """A clock that is set back makes nothing fire twice."""
    clock, tick = JumpyClock(), ticking()
    async with make_engine(clock=clock) as engine:
        engine.serve(tick.on(interval=60))
        await anyio.sleep(130)
        clock.ahead = -100
        await anyio.sleep(155)
    assert tick.times == [NEW_YEAR + timedelta(minutes=n) for n in (1, 2, 3)]


async def test_a_clock_set_ahead(make_engine: MakeEngine, journal: ListJournal) -> None:
    """What a clock jumps over is noticed within seconds and made up for; the rest says that the clock jumped."""
    clock, tick = JumpyClock(), ticking()
    async with make_engine(clock=clock) as engine:
        engine.serve(tick.on(interval=60))
        await anyio.sleep(65)
        clock.ahead = 3600
        await anyio.sleep(10)
        assert len(tick.began) == 2
        assert tick.times[-1] == NEW_YEAR + timedelta(minutes=61)
    assert messages(journal)[1] == "missed: the clock jumped by +3600 s; catch_up='latest'."


# --- by hand ---------------------------------------------------------------------------------------------------


async def test_pausing_a_schedule(make_engine: MakeEngine) -> None:
    """A paused schedule does not fire, nor make up for it when it is resumed; it then fires as before."""
    tick = ticking()
    async with make_engine() as engine:
        engine.serve(tick.on(interval=60))
        await anyio.sleep(70)
        assert await engine.schedules.pause("tick")
        assert not await engine.schedules.pause("tick")
        await anyio.sleep(180)
        assert await engine.schedules.resume("tick")
        assert not await engine.schedules.resume("tick")
        await anyio.sleep(55)
    assert [at for at, _ in tick.began] == [60, 300]


async def test_triggering(make_engine: MakeEngine, journal: ListJournal) -> None:
    """A triggered run begins at once, beside the schedule's own times; its id is told."""
    tick = ticking()
    async with make_engine() as engine:
        engine.serve(tick.on(interval=60, parameters={"n": 3}))
        await anyio.sleep(30)
        run_id = await engine.schedules.trigger("tick")
        await anyio.sleep(1)
        assert tick.began == [(30, 3)]
        await anyio.sleep(30)
    assert journal.runs[run_id].history[-1][1] == "Completed"
    assert [at for at, _ in tick.began] == [30, 60]


async def test_triggering_while_it_runs(make_engine: MakeEngine) -> None:
    """A triggered run waits for one that is going, where a fire of the schedule's own would be skipped."""
    tick = ticking(seconds=40)
    async with make_engine() as engine:
        engine.serve(tick.on(interval=60))
        await anyio.sleep(70)
        await engine.schedules.trigger("tick")
        await anyio.sleep(40)
    assert [at for at, _ in tick.began] == [60, 100]


async def test_backfill(make_engine: MakeEngine, journal: ListJournal) -> None:
    """A backfill runs the flow for each time of a range that it has not fired for, one after the other; once."""
    tick = ticking(seconds=1)
    async with make_engine() as engine:
        engine.serve(tick.on(interval=3600))
        await anyio.sleep(1)
        day = NEW_YEAR - timedelta(days=1)
        ids = await engine.schedules.backfill("tick", day, day + timedelta(hours=3))
        again = await engine.schedules.backfill("tick", day, day + timedelta(hours=4))
        await anyio.sleep(60)
    assert tick.times == [day + timedelta(hours=n) for n in range(5)]
    assert [journal.runs[run_id].fire.nominal for run_id in ids] == [
        EPOCH_2026 - 86_400_000_000 + n * 3_600_000_000 for n in range(4)
    ]
    assert len(again) == 1


async def test_schedules_that_are_not_there(engine: Engine) -> None:
    """What is asked of an unknown schedule, or with impossible times, is refused by name."""
    for ask in (engine.schedules.pause, engine.schedules.resume, engine.schedules.trigger):
        with pytest.raises(ScheduleUnknown, match="'nightly'"):
            await ask("nightly")
    engine.serve(ticking().on(interval=1))
    await anyio.sleep(0.5)
    with pytest.raises(InvalidOption, match="time zone"):
        await engine.schedules.backfill("tick", datetime(2025, 1, 1), NEW_YEAR)
    with pytest.raises(InvalidOption, match="10000 fires"):
        await engine.schedules.backfill("tick", NEW_YEAR - timedelta(days=1), NEW_YEAR)


# --- being late ------------------------------------------------------------------------------------------------


async def late_runs(journal: ListJournal) -> list[str]:
    return [message for run in journal.of("tick") for _, name, message, _ in run.history if name == "Late"]


async def test_late_for_a_limit(make_engine: MakeEngine, journal: ListJournal) -> None:
    """A run that waits for a slot past `late_after` is Late, once, and says which limit is full; it still runs."""
    tick = ticking()
    limited = tick.with_options(concurrency_limit=None)
    limited.limit_names = ("db",)

    @flow
    async def holds() -> None:
        async with anyio.create_task_group():
            await anyio.sleep(100)

    limited.__dict__.update(tick.__dict__ | {"limit_names": ("db",)})
    async with make_engine(limits={"db": 1}) as engine:
        lease = engine.core.limits.try_acquire(["db"])
        assert lease is not None
        engine.serve(limited.on(interval=60))
        await anyio.sleep(74)
        assert await late_runs(journal) == []
        await anyio.sleep(20)
        assert await late_runs(journal) == ["No slot free of 'db'."]
        lease.release()
        await anyio.sleep(5)
    assert journal.story("tick") == ["Scheduled", "AwaitingConcurrencySlot", "Late", "Running", "Completed"]


async def test_late_for_another_run(make_engine: MakeEngine, journal: ListJournal) -> None:
    """A run that waits for an earlier one of its schedule past `late_after` is Late, and says which one."""
    tick = ticking(seconds=90)
    async with make_engine() as engine:
        engine.serve(tick.on(interval=60, overlap="buffer_one"))
        await anyio.sleep(140)
        first = journal.of("tick")[0]
        assert await late_runs(journal) == [f"Overlap: waits for run {first.id} of the same schedule."]


async def test_late_for_nobody_served(make_engine: MakeEngine, journal: ListJournal) -> None:
    """A run that makes up for a time long past is Late first, for nobody served the schedule."""
    plan = ticking().on(interval=60)
    async with make_engine() as engine:
        engine.serve(plan)
        await anyio.sleep(1)
    await anyio.sleep(100)
    async with make_engine() as engine:
        engine.serve(plan)
        await anyio.sleep(1)
    assert journal.story("tick") == ["Scheduled", "Late", "Running", "Completed"]
    assert await late_runs(journal) == ["Nobody served the schedule."]


async def test_late_for_the_clock(make_engine: MakeEngine, journal: ListJournal) -> None:
    """A run that is late because the clock has jumped says so."""
    clock, tick = JumpyClock(), ticking()
    async with make_engine(clock=clock) as engine:
        engine.serve(tick.on(interval=60))
        await anyio.sleep(30)
        clock.ahead = 60
        await anyio.sleep(5)
    assert await late_runs(journal) == ["The clock jumped by +60 s."]


async def test_in_time(make_engine: MakeEngine, journal: ListJournal) -> None:
    """A run that began in time is never Late, however long it takes."""
    async with make_engine(late_after=5.0) as engine:
        engine.serve(ticking(seconds=50).on(interval=60))
        await anyio.sleep(115)
    assert await late_runs(journal) == []


def test_a_plan_is_a_value() -> None:
    """Two plans that say the same are equal."""
    tick = ticking()
    assert tick.on(interval=60) == tick.on(interval=60)
    assert isinstance(tick.on(interval=60), Plan)
