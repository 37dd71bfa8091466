"""Limits: how many may go on at a time or per second, who is next, and that no slot is ever lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import pytest
import trio.testing
from anyio import wait_all_tasks_blocked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from undertow import (
    ConcurrencyLimit,
    Engine,
    Future,
    InvalidOption,
    LimitImpossible,
    LimitUnknown,
    RateLimit,
    RunCancelled,
    Skip,
    SlotTimeout,
    WouldBlock,
    concurrency,
    flow,
    rate_limit,
    tags,
    task,
)
from undertow.engine.granting import Limits

if TYPE_CHECKING:
    from conftest import ListJournal

MakeEngine = Callable[..., Engine]


class Gauge:
    """How many are inside at a time, and when each went in."""

    def __init__(self) -> None:
        self.inside = 0
        self.peak = 0
        self.count = 0
        self.entered: list[tuple[str, float]] = []
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, size: int = 1) -> Generator[None]:
        with self._lock:
            self.inside += size
            self.count += 1
            self.peak = max(self.peak, self.inside)
        try:
            yield
        finally:
            with self._lock:
                self.inside -= size

    async def use(self, seconds: float, name: str = "", size: int = 1) -> None:
        """Be inside for so long."""
        self.entered.append((name, anyio.current_time()))
        with self(size):
            await anyio.sleep(seconds)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.entered]

    @property
    def times(self) -> list[float]:
        first = self.entered[0][1]
        return [round(at - first, 4) for _, at in self.entered]


def all_free(engine: Engine) -> bool:
    """Whether no slot is taken and nobody waits for one; what was taken of a rate drains by itself."""
    limits = engine.core.limits
    return all(
        limits.waiting(name) == 0 and (bucket.limit.rate or limits.active(name) == 0)
        for name, bucket in limits.buckets.items()
    )


async def until(condition: Callable[[], bool]) -> None:
    """Go on when something has happened in another thread."""
    with anyio.fail_after(5):
        while not condition():
            await anyio.lowlevel.checkpoint()


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


# --- by hand -----------------------------------------------------------------------------------------------------


async def test_concurrency(make_engine: MakeEngine) -> None:
    """`async with concurrency(name)` holds a slot for the block, or as many as it asks for."""
    gauge = Gauge()

    async def use(size: int) -> None:
        async with concurrency("db", occupy=size):
            await gauge.use(10, size=size)

    async with make_engine(limits={"db": 4}) as engine, anyio.create_task_group() as group:
        for size in (3, 2, 1, 4, 1):
            group.start_soon(use, size)
    assert gauge.peak == 4
    assert all_free(engine)


async def test_concurrency_gives_up(make_engine: MakeEngine) -> None:
    """`timeout_seconds` bounds the wait for a slot with `SlotTimeout`, which is a `TimeoutError`."""
    async with make_engine(limits={"db": 1, "net": 1}) as engine:
        async with concurrency("db"):
            begun = anyio.current_time()
            with pytest.raises(SlotTimeout, match=r"'net', 'db'.* 5 s") as error:
                async with concurrency("net", "db", timeout_seconds=5):
                    raise AssertionError("there is no slot")
            assert anyio.current_time() - begun == 5
            assert isinstance(error.value, TimeoutError)
            assert engine.core.limits.active("net") == 0
        async with concurrency(["net", "db"], timeout_seconds=5):
            assert engine.core.limits.active("net") == 1
        assert all_free(engine)


@pytest.mark.real_time
async def test_concurrency_in_threads(make_engine: MakeEngine) -> None:
    """`with concurrency(name)` in a sync task holds a slot for the block: never too many threads, never too few."""
    gauge = Gauge()
    pair = threading.Barrier(2)

    @task
    def work() -> None:
        with concurrency("db"), gauge():
            pair.wait(10)  # passes only when two are inside

    async with make_engine(limits={"db": 2}, monotonic=None) as engine:
        for future in [work.submit() for _ in range(6)]:
            await future
        assert all_free(engine)
    assert gauge.peak == 2


@pytest.mark.real_time
async def test_a_waiting_thread_fills_no_place(make_engine: MakeEngine) -> None:
    """A thread that waits for a slot leaves its place in the pool to the one that has the slot."""

    @task
    def waits() -> str:
        with concurrency("db", timeout_seconds=2):
            return "had its turn"

    @task(tags=["db"])
    def has_the_slot() -> str:
        return "done"

    async with make_engine(limits={"db": 1}, threads=1, monotonic=None) as engine:
        async with concurrency("db"):
            first = has_the_slot.submit()
            await until(lambda: engine.core.limits.waiting("db") == 1)
            second = waits.submit()
            await until(lambda: engine.core.limits.waiting("db") == 2)
        assert await first == "done"
        assert await second == "had its turn"


def test_concurrency_in_plain_threads(journal: ListJournal) -> None:
    """`with concurrency(name)` works in a script's threads, outside of any run."""
    refused: list[BaseException] = []

    def other() -> None:
        try:
            with concurrency("db", timeout_seconds=0.01):
                raise AssertionError("there is no slot")
        except SlotTimeout as error:
            refused.append(error)

    with Engine(journal, limits={"db": 1}) as engine:
        with concurrency("db"):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(10)
        assert len(refused) == 1
        with concurrency("db", timeout_seconds=0.01):
            assert engine.core.limits.active("db") == 1
        assert all_free(engine)


async def test_no_waiting_on_the_loop(make_engine: MakeEngine) -> None:
    """What would have to wait for a slot while it holds the loop raises `WouldBlock`, and leaves nothing behind."""

    @task(tags=["db"])
    def plain() -> str:
        return "done"

    async with make_engine(limits={"db": 1}) as engine:
        elsewhere = engine.core.limits.try_acquire(("db",))
        assert elsewhere is not None
        with pytest.raises(WouldBlock, match=r"async with concurrency"):
            with concurrency("db"):
                raise AssertionError("there is no slot")
        with pytest.raises(WouldBlock, match=r"plain\.submit"):
            plain()
        elsewhere.release()
        assert all_free(engine)
        assert plain() == "done"


async def test_a_call_in_a_block_shares_its_slot(make_engine: MakeEngine) -> None:
    """A task that is awaited in a `concurrency` block uses the slot that the block holds, and does not wait for it."""

    @task(tags=["db"])
    async def query() -> float:
        return engine.core.limits.active("db")

    async with make_engine(limits={"db": 1}) as engine:
        async with concurrency("db"):
            assert await query() == 1
        assert all_free(engine)


# --- rates -------------------------------------------------------------------------------------------------------


async def passing(times: int, name: str = "api", **options: Any) -> list[float]:
    """When each of so many calls gets through a rate limit."""
    begun = anyio.current_time()
    passed: list[float] = []
    for _ in range(times):
        await rate_limit(name, **options)
        passed.append(round(anyio.current_time() - begun, 4))
    return passed


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (RateLimit(5, per="1s"), [0, 0, 0, 0, 0, 0.2, 0.4, 0.6]),
        (RateLimit(5, per=1, burst=1), [0, 0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.4]),
        (RateLimit(2, per="1m"), [0, 0, 30, 60, 90, 120, 150, 180]),
        (RateLimit(1, per="1h", burst=3), [0, 0, 0, 3600, 7200, 10800, 14400, 18000]),
        (RateLimit(0.5, per="1s"), [0, 2, 4, 6, 8, 10, 12, 14]),
    ],
    ids=["5 a second", "no burst", "2 a minute", "1 an hour", "half a one a second"],
)
async def test_rates(make_engine: MakeEngine, limit: Any, expected: list[float]) -> None:
    """A rate limit lets a burst through at once and then one call each time that the leak has made room for one."""
    async with make_engine(limits={"api": limit}):
        assert await passing(8) == expected


async def test_a_rate_leaks_continuously(make_engine: MakeEngine) -> None:
    """A rate limit drains all the time, however often it is touched, and no further than to empty."""
    async with make_engine(limits={"api": RateLimit(5, per="1s")}) as engine:
        await passing(5)
        for _ in range(20):
            await anyio.sleep(0.05)
            assert engine.core.limits.active("api") <= 5
        assert await passing(6) == [0, 0, 0, 0, 0, 0.2]
        await anyio.sleep(1000)
        assert await passing(6) == [0, 0, 0, 0, 0, 0.2]
        assert (await passing(2, occupy=2)) == [0.4, 0.8]


async def test_a_rate_is_not_given_back(make_engine: MakeEngine) -> None:
    """What a block or a task took of a rate limit drains away with time, not with its end."""
    gauge = Gauge()

    @task(tags=["api"])
    async def call() -> None:
        await gauge.use(0.01)

    async with make_engine(limits={"api": RateLimit(2, per="10s", burst=1), "other": RateLimit(1, per=5)}):
        for future in [call.submit() for _ in range(4)]:
            await future
        assert gauge.times == [0, 5, 10, 15]
        for _ in range(3):
            async with concurrency("other"):
                await gauge.use(0.01, "other")
    begun = gauge.entered[4][1]
    assert [round(at - begun, 4) for name, at in gauge.entered if name == "other"] == [0, 5, 10]


async def test_a_rate_counts_everybody(make_engine: MakeEngine) -> None:
    """A rate counts each run, a child of one that was counted too: it needs no re-entrance, since nobody keeps it."""
    gauge = Gauge()

    @task(tags=["api"])
    async def call() -> None:
        await gauge.use(0.01)

    @flow(tags=["api"])
    async def outer() -> None:
        await call()
        await call()

    async with make_engine(limits={"api": RateLimit(1, per="5s")}):
        begun = anyio.current_time()
        await outer()
    assert [round(at - begun, 4) for _, at in gauge.entered] == [5, 10]


async def test_a_rate_gives_up(make_engine: MakeEngine) -> None:
    """`timeout_seconds` bounds the wait for a rate limit, and what gave up has used up nothing."""
    async with make_engine(limits={"api": RateLimit(1, per="10s")}):
        await rate_limit("api")
        with pytest.raises(SlotTimeout):
            await rate_limit("api", timeout_seconds=4)
        assert await passing(1) == [6]


@pytest.mark.real_time
def test_a_rate_in_threads(journal: ListJournal) -> None:
    """`rate_limit(name).wait()` waits in a thread."""
    with Engine(journal, limits={"api": RateLimit(1, per=0.02)}):
        begun = time.monotonic()
        for _ in range(3):
            rate_limit("api").wait()
        assert time.monotonic() - begun >= 0.039


async def test_two_limits_at_once(make_engine: MakeEngine) -> None:
    """Slots and rates can be asked for together, and are then taken together."""
    gauge = Gauge()

    @task(tags=["db", "api"])
    async def work() -> None:
        await gauge.use(3)

    async with make_engine(limits={"db": 1, "api": RateLimit(1, per="2s")}) as engine:
        async with concurrency("db"):
            futures = [work.submit() for _ in range(3)]
            await anyio.sleep(7)
            assert engine.core.limits.active("api") == 0
        for future in futures:
            await future
    assert gauge.times == [0, 3, 6]


# --- who is next -------------------------------------------------------------------------------------------------


async def queued(futures: list[Future[Any]], make: Callable[..., Future[Any]], *args: Any) -> None:
    """Submit something and let it reach its queue."""
    futures.append(make(*args))
    await wait_all_tasks_blocked()


async def test_first_come_first_served(make_engine: MakeEngine) -> None:
    """Waiters get their slots in the order in which they came."""
    gauge = Gauge()

    @task(tags=["db"])
    async def work(name: str) -> None:
        await gauge.use(1, name)

    futures: list[Future[Any]] = []
    async with make_engine(limits={"db": 1}):
        for name in "abcdefgh":
            await queued(futures, work.submit, name)
    assert "".join(gauge.names) == "abcdefgh"


async def test_priority(make_engine: MakeEngine) -> None:
    """A higher `priority` goes first, and equals in the order in which they came."""
    gauge = Gauge()

    @task(tags=["db"])
    async def work(name: str) -> None:
        await gauge.use(1, name)

    futures: list[Future[Any]] = []
    async with make_engine(limits={"db": 1}):
        async with concurrency("db"):
            for name, priority in {"low": -1, "a": 0, "high": 10, "b": 0, "higher": 10.5, "c": 0}.items():
                await queued(futures, work.with_options(priority=priority).submit, name)
        for future in futures:
            await future
    assert gauge.names == ["higher", "high", "a", "b", "c", "low"]


async def test_a_big_request_is_not_starved() -> None:
    """Who asks for many slots gets them in its turn, however many ask for few: those who came later wait behind it."""
    limits = Limits({"db": 3}, now=anyio.current_time)
    order: list[str] = []

    async def use(name: str, slots: int) -> None:
        lease = await limits.acquire(["db"], slots)
        order.append(name)
        await anyio.sleep(10)
        lease.release()

    async with anyio.create_task_group() as group:
        for name, slots in [("small 1", 1), ("small 2", 1), ("big", 3), ("small 3", 1), ("small 4", 1)]:
            group.start_soon(use, name, slots)
            await wait_all_tasks_blocked()
        assert sorted(order) == ["small 1", "small 2"]
    assert order[2] == "big"
    assert sorted(order[3:]) == ["small 3", "small 4"]


async def test_all_or_none() -> None:
    """Who waits for several limits holds none of them meanwhile, and then takes all of them at once."""
    limits = Limits({"a": 1, "b": 1}, now=anyio.current_time)
    taken: list[bool] = []

    async def both(*names: str) -> None:
        lease = await limits.acquire(names)
        taken.append(limits.active("a") == limits.active("b") == 1)
        await anyio.sleep(1)
        lease.release()

    lease = await limits.acquire(["b"])
    async with anyio.create_task_group() as group:
        group.start_soon(both, "a", "b")
        group.start_soon(both, "b", "a")
        await wait_all_tasks_blocked()
        assert limits.active("a") == 0
        lease.release()
    assert taken == [True, True]


async def test_slots_are_handed_over() -> None:
    """A slot that is given back belongs to the first waiter in that instant: nobody can snatch it."""
    limits = Limits({"db": 1}, now=anyio.current_time)
    lease = await limits.acquire(["db"])
    async with anyio.create_task_group() as group:
        group.start_soon(partial(limits.acquire, ["db"]))
        await wait_all_tasks_blocked()
        lease.release()
        assert limits.try_acquire(["db"]) is None
    assert limits.active("db") == 1


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


class CancelledAt:
    """Awaits something and cancels the scope at its n-th await point."""

    def __init__(self, awaitable: Awaitable[Any], scope: anyio.CancelScope, at: int) -> None:
        self._awaitable = awaitable
        self._scope = scope
        self._at = at

    def __await__(self) -> Generator[Any, Any, Any]:
        steps: Any = self._awaitable.__await__()
        resume: Callable[[], Any] = partial(next, steps)
        while True:
            try:
                waiting_for = resume()
            except StopIteration as end:
                return end.value
            self._at -= 1
            if self._at == 0:
                self._scope.cancel()
            try:
                answer = yield waiting_for
            except BaseException as error:
                resume = partial(steps.throw, error)
            else:
                resume = partial(steps.send, answer)


@pytest.mark.parametrize("decorator", [task, flow])
async def test_cancelled_at_every_await_point(make_engine: MakeEngine, decorator: Any) -> None:
    """A run that is cancelled at any of its await points, waiting or working, leaves no slot taken and no waiter."""
    attempts: list[int] = []

    @task(tags=["db"])
    async def rival() -> None:
        await anyio.sleep(2)

    @task
    async def slow_rival() -> None:
        async with concurrency("disk"):
            await anyio.sleep(7)

    @decorator(concurrency_limit=1, tags=["db", "net"], retries=1, retry_delay_seconds=1)
    async def work() -> None:
        attempts.append(1)
        async with concurrency("disk"):
            await rate_limit("api")
            await rate_limit("api")
        if len(attempts) == 1:
            raise ValueError("the first attempt fails")

    async def is_cancelled(at: int) -> bool:
        attempts.clear()
        rivals = [rival.submit(), slow_rival.submit()]
        await wait_all_tasks_blocked()
        with anyio.CancelScope() as scope:
            await CancelledAt(work(), scope, at)
        for each in rivals:
            await each
        return scope.cancel_called

    limits = {"db": 1, "net": 1, "disk": 1, "api": RateLimit(1, per="3s")}
    async with make_engine(limits=limits) as engine:
        at = 1
        while await is_cancelled(at):
            assert all_free(engine), f"cancelled at await point {at}"
            at += 1
        assert at > 5
        assert all_free(engine)


@pytest.mark.parametrize("ticks", range(6))
@pytest.mark.parametrize("after", [0, 1, 2.5, 4.5])
async def test_a_future_cancelled_at_any_moment(make_engine: MakeEngine, after: float, ticks: int) -> None:
    """A submitted run that is cancelled at any moment leaves no slot taken, and those behind it get their turn."""
    gauge = Gauge()

    @task(tags=["db"], concurrency_limit=1)
    async def work(name: str) -> None:
        await gauge.use(2, name)

    async with make_engine(limits={"db": 1}) as engine:
        futures = [work.submit(name) for name in "abcd"]
        await anyio.sleep(after)
        for _ in range(ticks):
            await anyio.lowlevel.checkpoint()
        futures[1].cancel()
        states = [await future.wait_async() for future in futures]
        assert all_free(engine)
    assert gauge.peak == 1
    assert [state.is_completed() for state in states if state is not None].count(False) <= 1


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_cancelled_in_the_instant_of_its_turn(cancelled_first: bool) -> None:
    """A waiter that is cancelled in the instant in which it is given its slot passes the slot on."""
    limits = Limits({"db": 1}, now=anyio.current_time)
    lease = await limits.acquire(["db"])
    order: list[str] = []

    async def wait(name: str) -> None:
        mine = await limits.acquire(["db"])
        order.append(name)
        mine.release()

    async with anyio.create_task_group() as rest, anyio.create_task_group() as group:
        group.start_soon(wait, "first")
        await wait_all_tasks_blocked()
        rest.start_soon(wait, "second")
        await wait_all_tasks_blocked()
        if cancelled_first:
            group.cancel_scope.cancel()
        lease.release()
        group.cancel_scope.cancel()
    assert order == (["second"] if cancelled_first else ["first", "second"])
    assert limits.active("db") == limits.waiting("db") == 0


async def test_a_slot_in_the_instant_of_giving_up() -> None:
    """A slot that comes free when the waiter's time is just over is taken or passed on, never lost."""
    limits = Limits({"db": 1}, now=anyio.current_time)

    async def hold() -> None:
        lease = await limits.acquire(["db"])
        await anyio.sleep(5)
        lease.release()

    async with anyio.create_task_group() as group:
        group.start_soon(hold)
        await wait_all_tasks_blocked()
        try:
            lease = await limits.acquire(["db"], timeout=5)
        except SlotTimeout:
            assert limits.waiting("db") == 0
        else:
            lease.release()
    assert limits.active("db") == limits.waiting("db") == 0


@pytest.mark.real_time
def test_many_threads(journal: ListJournal) -> None:
    """Many threads at one limit never exceed it and lose no slot."""
    gauge = Gauge()

    def work() -> None:
        for _ in range(50):
            with concurrency("db", timeout_seconds=20), gauge():
                pass

    with Engine(journal, limits={"db": 2}) as engine:
        threads = [threading.Thread(target=work) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert all_free(engine)
    assert gauge.peak <= 2
    assert gauge.count == 250


# --- whatever the workload ---------------------------------------------------------------------------------------

SIZES = {"a": 3, "b": 2, "c": 1}

Request = tuple[frozenset[str], int, int, int, int, int | None, int | None]

workloads = st.lists(
    st.tuples(
        st.frozensets(st.sampled_from(sorted(SIZES)), min_size=1),
        st.integers(1, 4),  # slots, some of them impossible
        st.integers(-1, 1),  # priority
        st.integers(0, 5),  # arrives
        st.integers(0, 5),  # holds
        st.none() | st.integers(0, 6),  # has patience for
        st.none() | st.integers(0, 6),  # is cancelled after
    ),
    max_size=12,
)


def in_virtual_time(backend: tuple[str, dict[str, Any]], main: Callable[[], Awaitable[None]]) -> None:
    """Run one example in a loop of its own, on the backend of the test."""
    name, options = backend
    if name == "trio":
        options = {"clock": trio.testing.MockClock(autojump_threshold=0)}
    anyio.run(main, backend=name, backend_options=options)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=workloads)
def test_never_exceeded(anyio_backend: tuple[str, dict[str, Any]], requests: list[Request]) -> None:
    """Whatever is asked for, waited for, given up and cancelled: no limit is exceeded, and in the end all is free."""

    async def main() -> None:
        limits = Limits(SIZES, now=anyio.current_time)
        held = dict.fromkeys(SIZES, 0)

        async def use(request: Request) -> None:
            names, slots, priority, arrives, holds, patience, cancelled_after = request
            possible = all(slots <= SIZES[name] for name in names)
            await anyio.sleep(arrives)
            with anyio.move_on_after(cancelled_after):
                try:
                    lease = await limits.acquire(names, slots, priority=priority, timeout=patience)
                except LimitImpossible:
                    assert not possible
                    return
                except SlotTimeout:
                    assert patience is not None
                    return
                assert possible
                for name in names:
                    held[name] += slots
                    assert held[name] <= SIZES[name]
                try:
                    await anyio.sleep(holds)
                finally:
                    for name in names:
                        held[name] -= slots
                    lease.release()

        with anyio.fail_after(10_000):  # a waiter who was forgotten
            async with anyio.create_task_group() as group:
                for request in requests:
                    group.start_soon(use, request)
        assert all(limits.active(name) == limits.waiting(name) == 0 for name in SIZES)

    in_virtual_time(anyio_backend, main)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    arrivals=st.lists(st.floats(0, 10), min_size=1, max_size=25),
    times=st.integers(1, 5),
    burst=st.integers(1, 5),
)
def test_a_rate_is_never_exceeded(
    anyio_backend: tuple[str, dict[str, Any]], arrivals: list[float], times: int, burst: int
) -> None:
    """In any stretch of time, a rate limit lets no more through than its burst and what leaked away meanwhile."""

    async def main() -> None:
        limits = Limits({"api": RateLimit(times, per="1s", burst=burst)}, now=anyio.current_time)
        passed: list[float] = []

        async def use(arrives: float) -> None:
            await anyio.sleep(arrives)
            await limits.acquire(["api"])
            passed.append(anyio.current_time())

        with anyio.fail_after(10_000):
            async with anyio.create_task_group() as group:
                for arrives in arrivals:
                    group.start_soon(use, arrives)
        for first, since in enumerate(passed):
            for number, until in enumerate(passed[first:], 1):
                assert number <= burst + times * (until - since) + 0.001
        assert passed[-1] <= 10 + len(arrivals) / times

    in_virtual_time(anyio_backend, main)


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
