"""Cancels a scenario at each of its checkpoints in turn, and looks at what is left each time.

A checkpoint is where a step of a task ends: of any task of the scenario, not only of the one that is cancelled. What
the scenarios are, and on which engines they run, is the business of the tests.
"""

from __future__ import annotations

import asyncio
import gc
import math
import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import count, pairwise
from typing import Any

import anyio
import anyio.lowlevel
import attrs
import pytest
import trio
import trio.testing

from tests.conftest import EPOCH_2026, ListJournal, LoopClock, VirtualLoop
from undertow import Engine, Future, RateLimit, RunCancelled, flow, task
from undertow.engine.context import CURRENT, ENGINE, TAGS, TRANSACTION
from undertow.engine.granting import HELD
from undertow.engine.host import Host
from undertow.engine.run import Run
from undertow.engine.states import CANCELLED, COMPLETED, RESUME, ROLL_BACK, TRANSITIONS

LEGAL = TRANSITIONS.keys() | RESUME.keys() | ROLL_BACK.keys()

AROUND = (CURRENT, ENGINE, HELD, TAGS, TRANSACTION)
"""What surrounds a call, and has to be afterwards what it was before."""

ENDS = frozenset({"Completed", "Cancelled"})


# --- counting steps ----------------------------------------------------------------------------------------------


class Steps(trio.abc.Instrument):
    """Counts the steps that the tasks of a loop take, and does something at the end of one of them."""

    def __init__(self) -> None:
        self._left = 0
        self._act: Callable[[], object] | None = None

    def arm(self, number: int, act: Callable[[], object]) -> None:
        """Call `act` at the end of the step of that number, counted from now on."""
        self._left, self._act = number, act

    def disarm(self) -> bool:
        """Stop counting, and say whether the step was reached."""
        reached, self._act = self._act is None, None
        return reached

    def after_task_step(self, task: object) -> None:
        self._left -= 1
        if self._left == 0 and self._act is not None:
            act, self._act = self._act, None
            act()


class SteppingLoop(asyncio.SelectorEventLoop):
    """An asyncio loop that says when a task has taken a step."""

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self._steps = steps

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        if isinstance(getattr(callback, "__self__", None), asyncio.Task):
            callback, args = self._step, (callback, *args)
        return super().call_soon(callback, *args, context=context)

    def _step(self, callback: Callable[..., object], *args: Any) -> None:
        callback(*args)
        self._steps.after_task_step(None)


class VirtualSteppingLoop(SteppingLoop, VirtualLoop):
    """The same in virtual time."""


# --- ways to cancel ----------------------------------------------------------------------------------------------


@attrs.frozen
class Trial:
    """One run of a scenario: whether it came to the step at which it was to be cancelled, and how it ended."""

    reached: bool
    cancelled: bool
    result: object = None


async def by_scope(stage: Stage, number: int) -> Trial:
    """By the cancel scope around it."""
    with anyio.CancelScope() as scope:
        stage.steps.arm(number, scope.cancel)
        result = await stage.play()
        return Trial(stage.steps.disarm(), False, result)
    return Trial(stage.steps.disarm(), scope.cancelled_caught)


async def by_deadline(stage: Stage, number: int) -> Trial:
    """By the deadline of the scope around it, which passes just then."""
    now = asyncio.get_running_loop().time if stage.backend == "asyncio" else trio.current_time

    def pass_deadline() -> None:
        scope.deadline = math.nextafter(now(), math.inf)

    with anyio.CancelScope() as scope:
        stage.steps.arm(number, pass_deadline)
        result = await stage.play()
        return Trial(stage.steps.disarm(), False, result)
    return Trial(stage.steps.disarm(), scope.cancelled_caught)


async def by_task(stage: Stage, number: int) -> Trial:
    """By `asyncio.Task.cancel`, which no shield keeps off."""
    playing = asyncio.ensure_future(stage.play())
    accepted: list[bool] = []
    stage.steps.arm(number, lambda: accepted.append(playing.cancel()))
    await asyncio.wait([playing])
    reached = stage.steps.disarm()
    assert playing.cancelled() or not any(accepted), "the cancellation was swallowed"
    return Trial(reached, playing.cancelled(), None if playing.cancelled() else playing.result())


async def by_task_again(stage: Stage, number: int) -> Trial:
    """By `asyncio.Task.cancel` twice, the second time while the first is being dealt with."""
    playing = asyncio.ensure_future(stage.play())
    accepted: list[bool] = []

    def cancel() -> None:
        accepted.append(playing.cancel())
        if len(accepted) == 1:
            stage.steps.arm(2, cancel)

    stage.steps.arm(number, cancel)
    await asyncio.wait([playing])
    stage.steps.disarm()
    assert playing.cancelled() or not any(accepted), "the cancellation was swallowed"
    return Trial(bool(accepted), playing.cancelled(), None if playing.cancelled() else playing.result())


async def by_request(stage: Stage, number: int) -> Trial:
    """By the engine, as when another process asks for it: every outermost flow whose body is running."""

    def request() -> None:
        for engine in stage.engines:
            for run in list(engine.core.flows.values()):
                if run.flow is None:
                    engine.core.cancel_flow(run.id, "somebody asked for it")

    stage.steps.arm(number, request)
    try:
        result = await stage.play()
    except RunCancelled:
        return Trial(stage.steps.disarm(), True)
    return Trial(stage.steps.disarm(), False, result)


WAYS = {
    "scope": by_scope,
    "deadline": by_deadline,
    "task": by_task,
    "task again": by_task_again,
    "request": by_request,
}
CASES = [(backend, way) for way in WAYS for backend in ("asyncio", "trio") if backend == "asyncio" or "task" not in way]


# --- bodies -------------------------------------------------------------------------------------------------------

bodies: list[object] = []
"""Bodies that are running now, one entry each."""


@contextmanager
def body() -> Iterator[None]:
    """Around what must not be running when all is over."""
    bodies.append(body)
    try:
        yield
    finally:
        bodies.pop()


# --- the stage ---------------------------------------------------------------------------------------------------


@task
async def double(number: int) -> int:
    await anyio.sleep(0.01)
    return 2 * number


@flow
async def afterwards() -> list[int]:
    """What shows that an engine still works."""
    return await double.map([1, 2])


class StageClock(LoopClock):
    """Wall-clock time that follows a loop's own, also in threads."""

    def __init__(self, time: Callable[[], float]) -> None:
        super().__init__()
        self._time = time

    def now(self) -> int:
        return EPOCH_2026 + int(self._time() * 1e6)


@attrs.define(eq=False, repr=False)
class Stage:
    """Where a scenario is played: its engines, and all that is noted of what happens on them."""

    backend: str
    play_on: Callable[[Stage], Awaitable[object]]
    steps: Steps = attrs.field(factory=Steps)
    journal: Any = attrs.field(factory=ListJournal)
    ends: frozenset[str] = ENDS
    """The names of states that runs may end in."""
    cancels_itself: bool = False
    """Whether it cancels some of its runs also when it isn't cancelled."""
    beside: Callable[[], Awaitable[object]] | None = None
    """What goes on at the same time, and isn't cancelled."""
    path: str = ""
    """Of a real journal, on which it is played in real time."""
    stride: int = 1
    """How many steps later it is cancelled the next time."""
    keeps: frozenset[str] = frozenset()
    """Of what the process has, that which may differ afterwards."""
    engines: list[Engine] = attrs.field(factory=list)
    runs: dict[str, Run] = attrs.field(factory=dict)
    futures: list[Future[Any]] = attrs.field(factory=list)
    mortals: list[weakref.ref[Any]] = attrs.field(factory=list)
    """What must not be kept alive."""
    time: Callable[[], float] = time.monotonic

    async def play(self) -> object:
        return await self.play_on(self)

    def engine(self, **options: Any) -> Engine:
        """Another engine on this stage."""
        options = {
            "journal": self.path or self.journal,
            "limits": {"line": 1, "pair": 2, "api": RateLimit(1, per="1s")},
            "observers": [self.observe],
            "random": random.Random(1),
        } | ({} if self.path else {"clock": StageClock(self.time), "monotonic": self.time}) | options  # fmt: skip
        self.engines.append(Engine(**options))
        return self.engines[-1]

    def observe(self, run: Run) -> None:
        self.runs[run.id] = run

    @contextmanager
    def noting_futures(self) -> Iterator[None]:
        """Note every future of a member, whoever holds it."""
        spawn = Host.spawn

        def noted(host: Host, life: Any, run: Run, future: Future[Any]) -> None:
            self.futures.append(future)
            self.observe(run)
            spawn(host, life, run, future)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Host, "spawn", noted)
            yield

    def clear(self) -> None:
        """Begin the next trial with nothing noted."""
        self.runs.clear()
        self.futures.clear()
        self.mortals.clear()
        if isinstance(self.journal, ListJournal):
            self.journal.runs.clear()
            self.journal.kept.clear()


# --- what is left ------------------------------------------------------------------------------------------------


POOLS = ("AnyIO worker thread", "Trio thread", "asyncio_")
"""Names of threads that wait for more work, and belong to the loop."""


def surroundings(backend: str) -> dict[str, Any]:
    """What the process has, which a scenario must leave as it was."""
    return {
        "tasks": len(asyncio.all_tasks()) if backend == "asyncio" else trio.lowlevel.current_statistics().tasks_living,
        "threads": {each for each in threading.enumerate() if not each.name.startswith(POOLS)},
        "descriptors": len(os.listdir("/proc/self/fd")),
    } | {each.name: each.get() for each in AROUND}


def changes(stage: Stage, before: dict[str, Any]) -> list[str]:
    """What the process has now that it had not before, or the other way round, in words."""
    if "threads" not in stage.keeps:
        for each in surroundings(stage.backend)["threads"] - before["threads"]:
            each.join(5)  # that of a closed connection has said its last word, and is just ending
    after = surroundings(stage.backend)
    return [
        f"{each}: {was}, then {after[each]}"
        for each, was in before.items()
        if was != after[each] and each not in stage.keeps
    ]


def problems_of(stage: Stage, trial: Trial) -> Iterator[str]:
    """What a scenario left behind on its stage, in words."""
    if bodies:
        yield f"{len(bodies)} bodies still run"
    if waiting := [repr(future) for future in stage.futures if not future.done]:
        yield f"{waiting} are not settled"
    started = {future.run for future in stage.futures}
    for run in (stage.runs | getattr(stage.journal, "runs", {})).values():
        yield from problems_of_run(run, stage.ends)
        if run.parent is None and run not in started and run.type is CANCELLED and not trial.cancelled:
            yield f"{run.name} is Cancelled, but its caller was told nothing"
        if (
            run.parent is not None
            and not stage.cancels_itself
            and (run.type, run.parent.type) == (CANCELLED, COMPLETED)
        ):
            yield f"{run.name} is Cancelled, but {run.parent.name} Completed"
    for engine in stage.engines:
        yield from problems_of_engine(engine)
    stage.futures.clear()
    if stage.mortals and gc.collect() and any(each() is not None for each in stage.mortals):
        yield f"{[each() for each in stage.mortals]} are kept alive"


def problems_of_run(run: Run, ends: frozenset[str]) -> Iterator[str]:
    story = " ".join(name for _, name, _, _ in run.history)
    kinds = [kind for kind, *_ in run.history]
    if not run.ended or run.history[-1][1] not in ends:
        yield f"{run.name}: {story} ({run.history[-1][2]})"
    if not set(pairwise(kinds)) <= LEGAL:
        yield f"{run.name} took an illegal way: {story}"
    if run.leases or run.straggler or run.flight or run.args or run.kwargs or run.awaiting or run.waits_on:
        yield f"{run.name} ended {story}, and holds something"


def problems_of_engine(engine: Engine) -> Iterator[str]:
    core = engine.core
    for limits in (core.limits, core.threads.places):  # type: ignore[attr-defined]
        for name, bucket in limits.buckets.items():
            if limits.waiting(name) or (limits.active(name) and not bucket.limit.rate):
                yield f"limit {name}: {limits.active(name)} taken, {limits.waiting(name)} waiting"
    if core.flows or core.flights:
        yield f"{core.flows or core.flights} are still known"
    if core.host is not None and core.host._members:
        yield f"{core.host._members} are still members"
    if not core.is_open and getattr(core.journal, "is_open", False):
        yield "the engine is closed, and its journal open"


# --- playing -----------------------------------------------------------------------------------------------------


async def try_every_step(stage: Stage, way: str) -> int:
    """Play the scenario again and again, cancelled one step later each time, until it isn't; how often that was."""
    results: list[object] = []
    if stage.backend == "asyncio":
        stage.time = asyncio.get_running_loop().time
    async with stage.engine():
        await check_use(stage)
        with stage.noting_futures():
            for number in count(1, stage.stride):
                before = surroundings(stage.backend)
                trio._core._run._r.seed(1)  # so that the steps come in the same order each time
                trial = await play_once(stage, way, number)
                problems = list(problems_of(stage, trial))
                problems += changes(stage, before)
                assert not problems, f"cancelled at step {number}: " + "; ".join(problems)
                if not trial.cancelled:
                    results.append(trial.result)
                await check_use(stage)
                if not trial.reached:
                    break
    assert results == [results[-1]] * len(results)
    return len(range(1, number, stage.stride))


async def play_once(stage: Stage, way: str, number: int) -> Trial:
    if stage.beside is None:
        return await WAYS[way](stage, number)
    async with anyio.create_task_group() as group:
        group.start_soon(stage.beside)
        return await WAYS[way](stage, number)


async def check_use(stage: Stage) -> None:
    """The engine that was there all the time still works, and nothing else happens any more."""
    engine, told = stage.engines[0], {run.id: len(run.history) for run in stage.runs.values()}
    del stage.engines[1:]
    await anyio.sleep(0 if stage.path else 100)
    assert told == {run.id: len(run.history) for run in stage.runs.values()}
    assert await afterwards() == [2, 4]
    lease = engine.core.limits.try_acquire(["line"])
    assert lease is not None
    lease.release()
    if stage.path:
        check_journal(engine)
    stage.clear()


def check_journal(engine: Engine) -> None:
    """What a real journal has is on disk; every run in it has ended; no question is unanswered, no transaction open."""
    journal: Any = engine.journal
    journal.commit().wait()
    assert unfinished(journal.path) == []
    assert not journal._pending
    assert not journal._backlog
    assert not journal._service.connection.in_transaction


def unfinished(path: str) -> list[tuple[str, str, str]]:
    """The runs in a journal's file that have not ended, or have crashed; none where there is no file yet."""
    if not os.path.exists(path):
        return []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        runs = "SELECT flow, state_type, state_name FROM flow_runs UNION ALL SELECT task, state_type, state_name FROM task_runs"
        return [row for row in connection.execute(runs) if row[1] not in ("COMPLETED", "CANCELLED", "FAILED")]


def explore(stage: Stage, way: str) -> int:
    """`try_every_step` in an event loop of its own, in virtual time, and with one order of steps."""
    options: dict[str, Any]
    if stage.backend == "asyncio":
        loop = SteppingLoop if stage.path else VirtualSteppingLoop
        options = {"loop_factory": lambda: loop(stage.steps)}
    else:
        options = {"instruments": [stage.steps]}
        if not stage.path:
            options["clock"] = trio.testing.MockClock(autojump_threshold=0)
            stage.time = options["clock"].current_time
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING", True)
        return anyio.run(partial(try_every_step, stage, way), backend=stage.backend, backend_options=options)
