"""Limits: what takes a slot, what shares one, how slots come back, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from tests.conftest import ListJournal
from tests.gauge import Gauge, MakeEngine, all_free
from undertow import (
    ConcurrencyLimit,
    Future,
    InvalidOption,
    LimitImpossible,
    LimitUnknown,
    RateLimit,
    RunCancelled,
    Skip,
    concurrency,
    flow,
    rate_limit,
    tags,
    task,
)

# --- what takes a slot -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decorator", [task, flow])
@pytest.mark.parametrize(
    "options",
    [
        {"tags": ["db"]},
        {"tags": ["other", "db"]},
        {"concurrency_limit": 3},
        {"concurrency_limit": ConcurrencyLimit(3)},
        {"concurrency_limit": ConcurrencyLimit(9), "tags": ["db"]},
        {"limits": ["db"]},
        {"limits": ["db"], "tags": ["db"]},
    ],
    ids=str,
)
async def test_never_more_than_the_limit(make_engine: MakeEngine, decorator: Any, options: dict[str, Any]) -> None:
    """No more runs than the limit has slots are going on at a time, and no fewer while there are enough of them."""
    if decorator is flow and "limits" in options:
        options = {"tags": options["limits"]}
    gauge = Gauge()

    @decorator(**options)
    async def work() -> None:
        await gauge.use(10)

    async with make_engine(limits={"db": 3}) as engine:
        futures = [work.submit() for _ in range(8)]
        for future in futures:
            await future
        assert gauge.peak == 3
        assert gauge.times == [0, 0, 0, 10, 10, 10, 20, 20]
        assert all_free(engine)


async def test_tags_around_a_call(make_engine: MakeEngine) -> None:
    """A tag that is set around a call takes a slot as one of the task's own does; others cost nothing."""
    gauge = Gauge()

    @task
    async def work() -> None:
        await gauge.use(10)

    async with make_engine(limits={"db": 1}):
        with tags("db", "no limit"):
            futures = [work.submit() for _ in range(3)]
        for future in futures:
            await future
    assert gauge.times == [0, 10, 20]


async def test_story_of_a_wait(make_engine: MakeEngine, journal: ListJournal) -> None:
    """A run that waits for a slot stands in AwaitingConcurrencySlot, and its message names the limit."""

    @task(tags=["db"])
    async def work() -> None:
        return

    async with make_engine(limits={"db": 1}):
        async with concurrency("db"):
            future = work.submit()
            await wait_all_tasks_blocked()
            assert (future.state.type, future.state.name) == ("SCHEDULED", "AwaitingConcurrencySlot")
            assert "'db'" in future.state.message
        await future
    assert journal.story("work") == ["Pending", "AwaitingConcurrencySlot", "Running", "Completed"]


async def test_limits_belong_to_an_engine(make_engine: MakeEngine) -> None:
    """A limit of one engine doesn't hold up the runs of another."""

    @task(concurrency_limit=1)
    async def work() -> float:
        await anyio.sleep(10)
        return anyio.current_time()

    async with make_engine() as one, make_engine() as two:
        begun = anyio.current_time()
        futures = [engine.start(work) for engine in (one, two, one)]
        assert sorted([await future - begun for future in futures]) == [10, 10, 20]


@pytest.mark.parametrize("decorator", [task, flow])
async def test_cancel_new(make_engine: MakeEngine, journal: ListJournal, decorator: Any) -> None:
    """With CANCEL_NEW, a run that finds its limit full ends Cancelled at once, and its body never runs."""

    @decorator(concurrency_limit=ConcurrencyLimit(2, "CANCEL_NEW"))
    async def work() -> str:
        await anyio.sleep(10)
        return "done"

    async with make_engine() as engine:
        first = [work.submit() for _ in range(2)]
        await anyio.sleep(1)
        with pytest.raises(RunCancelled, match="no slot"):
            await work()
        assert [await future for future in first] == ["done", "done"]
        assert await work() == "done"
        assert all_free(engine)
    assert journal.story("work", 2) == ["Pending", "Cancelled"]


async def test_cancel_new_is_for_its_own_limit(make_engine: MakeEngine) -> None:
    """CANCEL_NEW is about the run's own limit: for the slots of another it waits like any run."""

    @task(concurrency_limit=ConcurrencyLimit(2, "CANCEL_NEW"), tags=["db"])
    async def work() -> str:
        return "done"

    async with make_engine(limits={"db": 1}):
        async with concurrency("db"):
            future = work.submit()
            await anyio.sleep(1)
        assert await future == "done"


# --- a run and its children --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["called", "submitted", "state"])
@pytest.mark.parametrize("outer_kind", [task, flow])
@pytest.mark.parametrize("inner_kind", [task, flow])
async def test_children_share(make_engine: MakeEngine, outer_kind: Any, inner_kind: Any, form: str) -> None:
    """A child uses the slot that a run around it holds, so one that needs the same limit can't wait for its parent."""

    @inner_kind(tags=["db"])
    async def inner() -> str:
        return "done"

    @task
    async def between() -> Any:
        return await inner()

    @outer_kind(tags=["db"])
    async def outer() -> Any:
        await between()
        if form == "called":
            return await inner()
        future = inner.submit()
        return await future if form == "submitted" else (await future.wait_async()).result()

    async with make_engine(limits={"db": 1}) as engine:
        with anyio.fail_after(100):
            assert await outer() == "done"
        assert all_free(engine)


async def test_recursion(make_engine: MakeEngine) -> None:
    """A task with a limit of one can call itself."""

    @task(concurrency_limit=1)
    async def factorial(n: int) -> int:
        return n * await factorial(n - 1) if n > 1 else 1

    async with make_engine() as engine:
        with anyio.fail_after(100):
            assert await factorial(5) == 120
        assert all_free(engine)


async def test_a_child_may_outlive_its_parent(make_engine: MakeEngine) -> None:
    """A child that goes on when the run around it has ended keeps the limits: nobody comes in beside it."""
    gauge = Gauge()

    @task(tags=["a", "b"])
    async def child() -> None:
        await gauge.use(10)

    @task(tags=["a"])
    async def parent() -> None:
        child.submit()
        await anyio.sleep(1)

    @task(tags=["a"])
    async def stranger() -> None:
        await gauge.use(10)

    async with make_engine(limits={"a": 1, "b": 1}) as engine:
        async with concurrency("b"):
            await parent()
            await anyio.sleep(1)
            after = stranger.submit()
            await anyio.sleep(1)
        await after
        await engine.core.host.drain(100, "the test ended")  # type: ignore[union-attr]
        assert gauge.peak == 1
        assert len(gauge.entered) == 2
        assert all_free(engine)


@pytest.mark.parametrize("inside", ["runs", "blocks"])
async def test_who_waits_for_several_blocks_nobody_inside(make_engine: MakeEngine, inside: str) -> None:
    """Who waits for two limits can't keep one of them from somebody who holds the other, and so never lets go."""

    @task(tags=["b"])
    async def child() -> str:
        return "done"

    @task(tags=["a"])
    async def parent() -> str:
        await anyio.sleep(2)
        return await child()

    async def blocks() -> str:
        async with concurrency("a"):
            await anyio.sleep(2)
            async with concurrency("b"):
                return "done"

    @task(tags=["a", "b"])
    async def both() -> str:
        return "had its turn"

    async with make_engine(limits={"a": 1, "b": 1}) as engine, anyio.create_task_group() as group:
        future: Future[str] | None = None

        async def come_between() -> None:
            nonlocal future
            await anyio.sleep(1)
            future = both.submit()

        group.start_soon(come_between)
        with anyio.fail_after(100):
            assert await (parent() if inside == "runs" else blocks()) == "done"
            assert future is not None
            assert await future == "had its turn"
        assert all_free(engine)


# --- nothing leaks -----------------------------------------------------------------------------------------------


class Stop(BaseException):
    """What is no `Exception`, as KeyboardInterrupt is."""


async def _fail() -> None:
    raise ValueError("by design")


async def _stop() -> None:
    raise Stop


async def _skip() -> None:
    raise Skip("no news")


@pytest.mark.parametrize("ending", [anyio.lowlevel.checkpoint, _fail, _stop, _skip, anyio.sleep_forever])
@pytest.mark.parametrize("decorator", [task, flow])
@pytest.mark.parametrize("timeout", [None, 5])
async def test_slots_come_back(make_engine: MakeEngine, decorator: Any, ending: Any, timeout: float | None) -> None:
    """Slots are given back however the run ends: result, exception, interrupt, skip, time-out or cancellation."""

    @decorator(concurrency_limit=1, tags=["db"], timeout_seconds=timeout, retries=1)
    async def work() -> None:
        async with concurrency("net"):
            await ending()

    async with make_engine(limits={"db": 1, "net": 1}) as engine:
        for _ in range(2):
            with anyio.move_on_after(50):
                try:
                    await work(return_state=True)
                except Stop:
                    continue
            assert all_free(engine)


@pytest.mark.real_time
async def test_slots_of_a_thread_that_goes_on(make_engine: MakeEngine) -> None:
    """A sync body that is given up at its deadline keeps its slots until its thread has really ended."""
    go_on = threading.Event()

    @task(tags=["db"], timeout_seconds=0.02)
    def slow() -> None:
        go_on.wait(10)

    async with make_engine(limits={"db": 1}, monotonic=None) as engine:
        assert (await slow.submit().wait_async()).name == "TimedOut"  # type: ignore[union-attr]
        assert engine.core.limits.active("db") == 1
        go_on.set()
        async with concurrency("db", timeout_seconds=10):
            assert engine.core.limits.active("db") == 1
        assert all_free(engine)


# --- what can't be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [4, 3.5])
async def test_impossible_requests(make_engine: MakeEngine, asked: float) -> None:
    """Asking for more slots than a limit has is an error at once, naming the limit, its size and what was asked."""
    async with make_engine(limits={"db": 3, "net": 9}) as engine:
        with pytest.raises(LimitImpossible, match=rf"'db' has 3 slots; {asked:g}"):
            async with concurrency("net", "db", occupy=asked):
                raise AssertionError("there is no slot")
        assert all_free(engine)


async def test_a_limit_of_nothing(make_engine: MakeEngine) -> None:
    """A run that needs a slot of a limit of 0 fails at once instead of waiting for ever."""

    @task(tags=["closed"])
    async def work() -> None:
        raise AssertionError("this body must not run")

    async with make_engine(limits={"closed": 0}):
        with pytest.raises(LimitImpossible, match="'closed' has 0 slots"):
            await work()


async def test_unknown_limits(make_engine: MakeEngine) -> None:
    """A limit that the engine doesn't have is an error at the call, naming it and those there are."""

    @task(limits=["bd"])
    async def work() -> None:
        raise AssertionError("this body must not run")

    async with make_engine(limits={"db": 1, "api": RateLimit(1)}):
        with pytest.raises(LimitUnknown, match=r"'bd'.*api, db"):
            work.submit()
        with pytest.raises(LimitUnknown, match=r"'bd'.*api, db"):
            await concurrency("bd").__aenter__()
        with pytest.raises(LimitUnknown, match="'bd'"):
            await rate_limit("bd")
        with pytest.raises(InvalidOption, match=r"'db'.*RateLimit"):
            await rate_limit("db")


@pytest.mark.parametrize(
    "limits",
    [{"db": -1}, {"db": "five"}, {"db": True}, {"db": None}, {"db": float("nan")}, {"": 1}, {3: 1}, ["db"], "db"],
    ids=repr,
)
def test_bad_limits_of_an_engine(make_engine: MakeEngine, limits: Any) -> None:
    """A limit that can't be is refused when the engine is made."""
    with pytest.raises(InvalidOption, match="limits"):
        make_engine(limits=limits)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: RateLimit(0), "times"),
        (lambda: RateLimit("5"), "times"),  # type: ignore[arg-type]
        (lambda: RateLimit(5, per=0), "per"),
        (lambda: RateLimit(5, per="soon"), "per"),
        (lambda: RateLimit(5, per=""), "per"),
        (lambda: RateLimit(5, burst=0), "burst"),
        (lambda: task(concurrency_limit=0)(print), "concurrency_limit"),
        (lambda: flow(concurrency_limit=-1)(lambda: None), "concurrency_limit"),
        (lambda: task(concurrency_limit="3")(lambda: None), "concurrency_limit"),
        (lambda: task(concurrency_limit=True)(lambda: None), "concurrency_limit"),
        (lambda: task(concurrency_limit=ConcurrencyLimit(0))(lambda: None), "concurrency_limit"),
        (lambda: ConcurrencyLimit(1, "WAIT"), "collision_strategy"),
        (lambda: task(limits="db")(lambda: None), "limits"),
        (lambda: task(limits=[3])(lambda: None), "limits"),  # type: ignore[list-item]
        (lambda: task(limits=3)(lambda: None), "limits"),  # type: ignore[arg-type]
        (lambda: task(tags="db")(lambda: None), "tags"),
        (lambda: task(tags=3)(lambda: None), "tags"),  # type: ignore[arg-type]
        (lambda: task(priority="high")(lambda: None), "priority"),  # type: ignore[arg-type]
        (lambda: concurrency(), "names"),
        (lambda: concurrency(3), "names"),  # type: ignore[arg-type]
        (lambda: concurrency("db", occupy=0), "occupy"),
        (lambda: rate_limit("api", occupy=-1), "occupy"),
        (lambda: rate_limit("api", occupy="2"), "occupy"),  # type: ignore[arg-type]
    ],
)
def test_bad_options(make: Callable[[], object], named: str) -> None:
    """A bad option of a limit, a rate or a request is refused on the spot, by name."""
    with pytest.raises(InvalidOption, match=named):
        make()
