"""No slot is lost: to a cancellation at any moment, to the instant of a turn, or among many threads."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import wait_all_tasks_blocked

from tests.conftest import ListJournal
from tests.gauge import Gauge, MakeEngine, all_free
from undertow import Engine, RateLimit, SlotTimeout, concurrency, flow, rate_limit, task
from undertow.engine.granting import Limits


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
