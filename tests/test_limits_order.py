"""Who waits for a slot in which order, and that no workload exceeds a limit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import trio.testing
from anyio import wait_all_tasks_blocked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gauge import Gauge, MakeEngine
from undertow import Future, LimitImpossible, RateLimit, SlotTimeout, concurrency, task
from undertow.engine.granting import Limits

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
