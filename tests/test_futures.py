"""Futures: waiting for several, cancelling, circles, and the edges that futures inside arguments make."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import anyio
import attrs
import pydantic
import pytest

from undertow import (
    ArgumentsTooDeep,
    Engine,
    Future,
    RunCancelled,
    SelfDependency,
    State,
    WouldBlock,
    as_completed,
    flow,
    quote,
    task,
    wait,
    wait_async,
)


@task
async def after(seconds: float) -> float:
    await anyio.sleep(seconds)
    return seconds


@task
async def same(x: Any) -> Any:
    return x


async def in_a_flow(body: Callable[[], Awaitable[Any]]) -> Any:
    """What an async function gives when it is the body of a flow that is judged by what it returns."""
    return await flow(final_state="return")(body)()


def waiters(future: Future[Any]) -> int:
    """How many wait for a future."""
    return len(future._callbacks or ())


# --- waiting for several -----------------------------------------------------------------------------------------


async def test_as_completed(engine: Engine) -> None:
    """`as_completed` gives futures as they end, those that had ended first, whatever their order in the list."""

    async def body() -> list[tuple[float, float]]:
        futures = [after.submit(seconds) for seconds in (4, 2, 3, 1)]
        await futures[3]
        start = anyio.current_time()
        return [(await future, anyio.current_time() - start) async for future in as_completed(futures)]

    assert await in_a_flow(body) == [(1, 0), (2, 1), (3, 2), (4, 3)]


async def test_as_completed_in_time(engine: Engine) -> None:
    """`as_completed` with a timeout raises `TimeoutError` when the time is over, and says how many had not ended."""

    async def body() -> None:
        futures = [after.submit(seconds) for seconds in (1, 2, 9, 9)]
        start, ended = anyio.current_time(), []
        with pytest.raises(TimeoutError, match=r"2 of 4 futures did not end within 5 s\."):
            async for future in as_completed(futures, timeout=5):
                ended.append(future)
        assert anyio.current_time() - start == 5
        assert ended == futures[:2]
        assert list(map(waiters, futures)) == [0, 0, 0, 0]

    await in_a_flow(body)


async def test_leaving_as_completed_early(engine: Engine) -> None:
    """Leaving the loop over `as_completed` early harms nothing and leaves no waiter behind."""

    async def body() -> None:
        futures = [after.submit(seconds) for seconds in (1, 50)]
        async for future in as_completed(futures):
            assert await future == 1
            break
        await anyio.sleep(1)
        assert waiters(futures[1]) == 0
        futures[1].cancel()

    await in_a_flow(body)


async def test_wait(engine: Engine) -> None:
    """`wait_async` returns what is done and what is not, when all are or when the time is over."""

    async def body() -> None:
        quick, slow = after.submit(1), after.submit(9)
        assert await wait_async([quick, slow], timeout=5) == ({quick}, {slow})
        assert waiters(slow) == 0
        with pytest.raises(WouldBlock, match="await wait_async"):
            wait([quick, slow])
        with pytest.raises(WouldBlock, match="async for"):
            list(as_completed([quick, slow]))
        done, not_done = await wait_async([quick, slow])
        assert (done, not_done) == ({quick, slow}, set())
        assert wait([quick, slow]).done == done
        assert set(as_completed([quick, slow])) == done
        assert await wait_async([]) == (set(), set())

    await in_a_flow(body)


async def test_waiting_leaves_nothing_behind(engine: Engine) -> None:
    """A wait that timed out or was cancelled leaves no waiter at the future, however often that happens."""

    async def body() -> None:
        future = after.submit(1000)
        for _ in range(10):
            assert await future.wait_async(timeout=1) is None
            with pytest.raises(TimeoutError):
                await future.result_async(timeout=1)
            with anyio.move_on_after(1):
                await future
            with anyio.move_on_after(1):
                await wait_async([future])
        assert waiters(future) == 0
        assert future.run.parent is not None
        assert future.run.parent.awaiting == ()
        assert await future == 1000

    await in_a_flow(body)


async def test_one_future_with_many_waiters(engine: Engine) -> None:
    """Any number of tasks may await one future; all get the value at once."""
    got: list[float] = []

    async def body() -> None:
        future = after.submit(3)

        async def collect() -> None:
            got.append(await future + anyio.current_time())

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(collect)

    start = anyio.current_time()
    await in_a_flow(body)
    assert got == [start + 6] * 5


# --- cancel ------------------------------------------------------------------------------------------------------


async def test_cancelling_before_the_start(engine: Engine, journal: Any) -> None:
    """A future that is cancelled right after `submit` ends Cancelled, with the reason, and its body never starts."""
    started: list[bool] = []

    @task
    async def note() -> None:
        started.append(True)

    async def body() -> State[None] | None:
        future = note.submit()
        future.cancel("changed my mind")
        return await future.wait_async()

    await flow(final_state="return")(body)(return_state=True)
    assert started == []
    [run] = journal.of("note")
    assert journal.story("note") == ["Pending", "Cancelled"]
    assert "changed my mind" in run.history[-1][2]


async def test_cancelling_what_waits_for_an_upstream(engine: Engine, journal: Any) -> None:
    """Cancelling a run that waits for an upstream ends it at once; the upstream goes on, with no waiter left."""

    async def body() -> float:
        upstream = after.submit(5)
        downstream = same.submit(upstream)
        await anyio.sleep(1)
        downstream.cancel()
        state = await downstream.wait_async()
        assert state is not None
        assert state.is_cancelled()
        assert waiters(upstream) == 0
        return await upstream

    start = anyio.current_time()
    assert await in_a_flow(body) == 5
    assert anyio.current_time() - start == 5
    assert journal.story("same") == ["Pending", "Cancelled"]


async def test_cancelling_what_waits_for_a_slot(make_engine: Callable[..., Engine], journal: Any) -> None:
    """Cancelling a run that waits for a slot ends it at once and lets those behind it move up."""

    @task(limits=["one"])
    async def limited(seconds: float) -> float:
        await anyio.sleep(seconds)
        return anyio.current_time()

    async def body() -> float:
        first = limited.submit(5)
        await anyio.sleep(1)
        second = limited.submit(5)
        await anyio.sleep(1)
        third = limited.submit(0)
        await anyio.sleep(1)
        second.cancel()
        await second.wait_async()
        assert engine.core.limits.waiting("one") == 1
        await first
        return await third

    async with make_engine(limits={"one": 1}) as engine:
        start = anyio.current_time()
        assert await in_a_flow(body) == start + 5
        assert engine.core.limits.active("one") == 0
    assert sorted(journal.story("limited", which)[-1] for which in range(3)) == ["Cancelled", "Completed", "Completed"]


async def test_cancelling_what_runs(engine: Engine, journal: Any) -> None:
    """Cancelling a running body ends it Cancelled after its cleanup; cancelling what has ended does nothing."""
    cleaned: list[float] = []

    @task
    async def careful() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(2)
            cleaned.append(anyio.current_time())

    async def body() -> None:
        future = careful.submit()
        await anyio.sleep(1)
        future.cancel("no longer needed")
        assert not future.done
        with pytest.raises(RunCancelled, match="careful.* was cancelled: no longer needed"):
            await future
        future.cancel("again")
        assert future.state.is_cancelled()

    start = anyio.current_time()
    await in_a_flow(body)
    assert cleaned == [start + 3]
    assert "no longer needed" in journal.of("careful")[0].history[-1][2]


async def test_cancelling_a_subflow(engine: Engine, journal: Any) -> None:
    """Cancelling a submitted subflow ends it and everything in it in Cancelled, before its future is done."""

    @flow
    async def inner() -> None:
        after.submit(50)
        await after(50)

    async def body() -> list[str]:
        future = inner.submit()
        await anyio.sleep(1)
        future.cancel()
        state = await future.wait_async()
        assert state is not None
        return [state.name, *(run.history[-1][1] for run in journal.of("after"))]

    assert await in_a_flow(body) == ["Cancelled"] * 3


async def test_a_cancelled_await_is_not_a_cancelled_future(engine: Engine) -> None:
    """Cancelling somebody who awaits a future leaves the future's run alone."""

    async def body() -> float:
        future = after.submit(5)
        with anyio.move_on_after(1):
            await future
        return await future

    assert await in_a_flow(body) == 5


# --- circles -----------------------------------------------------------------------------------------------------


async def await_it(future: Future[Any]) -> Any:
    return await future


async def complete(future: Future[Any]) -> None:
    async for _ in as_completed([future]):
        continue


@pytest.mark.parametrize("ask", [await_it, Future.wait_async, lambda future: wait_async([future]), complete])
async def test_a_run_that_awaits_itself(engine: Engine, ask: Callable[[Future[Any]], Awaitable[Any]]) -> None:
    """A run that waits for its own future, in whichever way, gets `SelfDependency`, at once."""
    own: list[Future[Any]] = []

    @task
    async def selfish() -> None:
        with anyio.fail_after(100):
            await ask(own[0])

    async def body() -> None:
        own.append(selfish.submit())
        with pytest.raises(SelfDependency, match="waits for itself"):
            await own[0]

    await in_a_flow(body)


async def test_a_run_that_depends_on_its_parent(engine: Engine) -> None:
    """A child that needs the outcome of the run it is in gets `SelfDependency`: awaited, or as an argument."""
    own: list[Future[Any]] = []

    @task
    async def asks() -> None:
        await own[0]

    @task
    async def parent(child: Callable[[], Awaitable[Any]]) -> None:
        await child()

    async def body() -> None:
        for child in (asks, asks.submit, lambda: same(own[0]), lambda: same.submit(own[0])):
            own[:] = [parent.submit(child)]
            with pytest.raises(SelfDependency):
                await own[0]

    await in_a_flow(body)


async def test_a_circle_of_two(engine: Engine) -> None:
    """Of two runs that await each other one gets `SelfDependency`; neither hangs."""
    pair: list[Future[Any]] = []

    @task
    async def partner(other: int) -> None:
        await anyio.sleep(1 + other)
        await pair[other]

    async def body() -> None:
        pair.extend([partner.submit(1), partner.submit(0)])
        for future in pair:
            with pytest.raises(SelfDependency):
                await future

    await in_a_flow(body)


@pytest.mark.real_time
def test_a_circle_of_two_threads(sync_engine: Engine) -> None:
    """Of two sync tasks that wait for each other in threads one gets `SelfDependency`; neither hangs."""
    pair: list[Future[Any]] = []
    both = threading.Barrier(2)

    @task
    def partner(other: int) -> None:
        both.wait(20)
        pair[other].result(timeout=5)

    @flow(final_state="return")
    def outer() -> None:
        pair.extend([partner.submit(1), partner.submit(0)])
        for future in pair:
            with pytest.raises(SelfDependency):
                future.result()

    outer()


async def test_one_failure_given_to_two(engine: Engine, journal: Any) -> None:
    """A body that catches the failure of a future goes on undisturbed when another fails with the same exception."""

    @task
    async def fail() -> None:
        await anyio.sleep(1)
        raise ValueError("shared")

    @task
    async def catches(future: Future[None]) -> str:
        with pytest.raises(ValueError, match="shared"):
            await future
        await anyio.sleep(10)
        return "went on"

    @task
    async def passes_on(future: Future[None]) -> None:
        await future

    async def body() -> str:
        failing = fail.submit()
        first, second = catches.submit(quote(failing)), passes_on.submit(quote(failing))
        with pytest.raises(ValueError, match="shared"):
            await second
        return await first

    assert await in_a_flow(body) == "went on"
    assert journal.story("passes_on")[-1] == "Failed"


# --- edges -------------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    x: Any
    y: Any = 0


@dataclass(frozen=True)
class Data:
    value: Any
    more: Any = None


@attrs.frozen
class Attrs:
    value: Any
    more: Any = None


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    value: Any
    more: Any = None


class Odd:
    """A class that is not searched."""

    def __init__(self, value: Any) -> None:
        self.value = value


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: [x, 1],
        lambda x: [[[(x,)]]],
        lambda x: {"a": {"b": [x]}},
        lambda x: {x: "key"},
        lambda x: frozenset({x, 5}),
        lambda x: Point(1, x),
        lambda x: Data(1, [x]),
        lambda x: Attrs({"k": x}),
        lambda x: Model(value=[x], more=1),
        lambda x: Data(Attrs(Model(value=x))),
    ],
)
async def test_a_future_anywhere_is_an_edge(engine: Engine, journal: Any, wrap: Callable[[Any], Any]) -> None:
    """A future anywhere inside an argument is waited for, replaced by its value, and on record as an edge."""

    async def body() -> None:
        future = after.submit(2.0)
        argument = wrap(future)
        value = await same.submit(argument)
        assert value == wrap(2.0)
        assert type(value) is type(wrap(2.0))
        if argument is not future:
            assert argument == wrap(future), "the caller's own object stays as it was"

    await in_a_flow(body)
    assert journal.of("same")[0].upstream_ids == [journal.of("after")[0].id]


async def test_what_holds_no_future_is_passed_as_it_is(engine: Engine) -> None:
    """Arguments that hold no future reach the body as the very same objects; an unknown class is never looked into."""

    async def body() -> None:
        done = after.submit(0)
        for thing in ([1, [2]], {"a": 1}, Data([1]), Model(value=1), Odd(done), Odd):
            assert await same.submit(thing, wait_for=[done]) is thing
        mixed = [done, kept := [1, 2]]
        assert (await same.submit(mixed))[1] is kept

    await in_a_flow(body)


async def test_the_search_for_futures_has_a_bound(engine: Engine) -> None:
    """Arguments with too many containers are refused at the call, with the remedy; `quote`, flat lists, circles pass."""

    async def body() -> None:
        await after.submit(0)
        wide: list[Any] = [[number] for number in range(20_000)]
        with pytest.raises(ArgumentsTooDeep, match=r"'same' hold more than 10000 values.*quote\("):
            same.submit(wide)
        assert id(await same.submit(quote(wide))) == id(wide)
        flat = list(range(100_000))
        assert id(await same.submit(flat)) == id(flat)
        circle: list[Any] = []
        circle.append(circle)
        assert await same.submit(circle) is circle

    await in_a_flow(body)


async def test_wait_for_is_an_edge_without_a_value(engine: Engine, journal: Any) -> None:
    """Futures in `wait_for` are waited for and on record, and the body doesn't get them; a call takes it as well."""

    async def body() -> list[Any]:
        return [
            await same.submit("a", wait_for=[after.submit(1)]),
            await same("b", wait_for=after.map([1, 2])),
            anyio.current_time() - start,
        ]

    start = anyio.current_time()
    assert await in_a_flow(body) == ["a", "b", 3]
    assert [len(run.upstream_ids) for run in journal.of("same")] == [1, 2]


@pytest.mark.real_time
async def test_ten_thousand_submits(engine: Engine) -> None:
    """10 000 submits with three levels of dependencies among them finish, and the values are right."""

    @task
    async def add(*numbers: Any) -> int:
        return sum(sum(number) if isinstance(number, list) else number for number in numbers)

    async def body() -> int:
        first = [add.submit(number) for number in range(5_000)]
        second = [add.submit(first[at], first[-1 - at]) for at in range(4_990)]
        third = [add.submit(second[at::10]) for at in range(9)]
        return sum([await future for future in third])

    assert await in_a_flow(body) == 4_999 * 499 * 9
