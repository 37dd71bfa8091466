"""`stream`: a task over an endless input, with a bounded number of runs in flight and nothing kept."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from undertow import Engine, InvalidOption, MappingMissingIterable, SignatureMismatch, flow, task, unmapped


class Broken(Exception):
    """What the failing tasks of these tests raise."""


class Blob:
    """Something that can be watched being let go of."""


@task
async def after(seconds: float, offset: float = 0) -> float:
    await anyio.sleep(abs(seconds))
    if seconds < 0:
        raise Broken(f"{seconds:g}")
    return seconds + offset


async def in_a_flow(body: Callable[[], Awaitable[Any]]) -> Any:
    """What an async function gives when it is the body of a flow that is judged by what it returns."""
    return await flow(final_state="return")(body)()


# --- order and pace ----------------------------------------------------------------------------------------------


async def test_a_stream_keeps_the_order_of_its_input(engine: Engine) -> None:
    """An ordered stream, the default, gives the results in the order of the items, while several runs are in flight."""

    async def body() -> list[float]:
        start = anyio.current_time()
        results = [result async for result in after.stream([3, 1, 2, 3, 1, 2], max_in_flight=3)]
        assert anyio.current_time() - start < 3 + 1 + 2 + 3 + 1 + 2
        return results

    assert await in_a_flow(body) == [3, 1, 2, 3, 1, 2]


async def test_an_unordered_stream(engine: Engine) -> None:
    """An unordered stream gives each result as soon as its run has ended."""

    async def body() -> list[float]:
        return [result async for result in after.stream([5, 1, 1, 1, 1], max_in_flight=2, ordered=False)]

    assert await in_a_flow(body) == [1, 1, 1, 1, 5]


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_stream_pulls_its_input_as_runs_end(engine: Engine, journal: Any, ordered: bool) -> None:
    """At most `max_in_flight` runs are in flight and no item is pulled before it can be started."""
    pulled = 0
    running = most = 0

    def source() -> Iterator[int]:
        nonlocal pulled
        for number in range(30):
            pulled += 1
            yield number

    @task
    async def watched(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(1 + number % 3)
        running -= 1
        return number

    async def body() -> int:
        given = 0
        async for _ in watched.stream(source(), max_in_flight=4, ordered=ordered):
            assert pulled <= given + 4
            given += 1
        return given

    assert await in_a_flow(body) == 30
    assert most == 4
    assert len(journal.of("watched")) == 30


async def test_a_stream_of_one_at_a_time(engine: Engine) -> None:
    """With `max_in_flight=1` the runs follow one another."""

    async def body() -> tuple[list[float], float]:
        start = anyio.current_time()
        results = [result async for result in after.stream([2, 1], max_in_flight=1)]
        return results, anyio.current_time() - start

    assert await in_a_flow(body) == ([2, 1], 3)


async def test_a_stream_over_an_async_iterator(engine: Engine) -> None:
    """The input may be an async iterator, from which the next item is asked for when there is room for it."""

    async def source() -> AsyncIterator[float]:
        for _ in range(3):
            await anyio.sleep(10)
            yield 1

    async def body() -> list[float]:
        start = anyio.current_time()
        return [anyio.current_time() - start async for _ in after.stream(source(), max_in_flight=1)]

    assert await in_a_flow(body) == [11, 22, 33]


async def test_more_arguments_of_a_stream(engine: Engine) -> None:
    """Further arguments go to every run, wrapped in `unmapped` or not; a stream needs no flow in an open engine."""
    assert [result async for result in after.stream([1, 2], unmapped(100))] == [101, 102]
    assert [result async for result in after.stream([1, 2], offset=100)] == [101, 102]
    assert [result async for result in after.stream([])] == []


# --- memory ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_stream_keeps_nothing(engine: Engine, ordered: bool) -> None:
    """However long a stream is, no more items and results are alive than are in flight and in the consumer's hand."""
    items: weakref.WeakSet[Blob] = weakref.WeakSet()
    results: weakref.WeakSet[Blob] = weakref.WeakSet()

    @task
    async def turn(item: Blob) -> Blob:
        result = Blob()
        results.add(result)
        return result

    def source() -> Iterator[Blob]:
        for _ in range(200):
            item = Blob()
            items.add(item)
            yield item
            del item

    async def body() -> int:
        given = 0
        async for _ in turn.stream(source(), max_in_flight=5, ordered=ordered):
            assert len(items) <= 5 + 2
            assert len(results) <= 5 + 2
            given += 1
        return given

    assert await in_a_flow(body) == 200
    assert len(results) <= 1


# --- the end -----------------------------------------------------------------------------------------------------


def names_of(runs: Iterable[Any]) -> list[str]:
    return [run.history[-1][1] for run in runs]


@pytest.mark.parametrize("ordered", [True, False])
async def test_a_failure_ends_a_stream(engine: Engine, journal: Any, ordered: bool) -> None:
    """The exception of a run is raised from the stream when its turn comes, and what is in flight is cancelled."""
    pulled: list[float] = []

    def source() -> Iterator[float]:
        for seconds in (1, -1, 50, 60, 70, 80):
            pulled.append(seconds)
            yield seconds

    async def body() -> float:
        start = anyio.current_time()
        with pytest.raises(Broken, match="-1"):
            async for _ in after.stream(source(), max_in_flight=3, ordered=ordered):
                continue
        return anyio.current_time() - start

    assert await in_a_flow(body) <= 1
    assert len(pulled) <= 4
    states = names_of(journal.of("after"))
    assert states[1] == "Failed"
    assert set(states[2:]) == {"Cancelled"}


@pytest.mark.parametrize("ordered", [True, False])
async def test_closing_a_stream_early(engine: Engine, journal: Any, ordered: bool) -> None:
    """A stream that is closed before its end cancels what is in flight and pulls nothing more."""

    async def body() -> float:
        start = anyio.current_time()
        async with aclosing(aiter(after.stream([1, 50, 60, 70], max_in_flight=2, ordered=ordered))) as results:  # type: ignore[type-var]
            assert await anext(results) == 1
        return anyio.current_time() - start

    assert await in_a_flow(body) == 1
    assert set(names_of(journal.of("after"))[1:]) == {"Cancelled"}
    assert len(journal.of("after")) <= 3


async def test_leaving_the_loop_over_a_stream(engine: Engine, journal: Any) -> None:
    """`break` in the loop over a stream is enough to cancel what is in flight."""

    async def body() -> float:
        start = anyio.current_time()
        async for _ in after.stream([1, 50, 60, 70], max_in_flight=2):
            break
        return start

    start = await in_a_flow(body)
    assert anyio.current_time() - start == 1
    assert set(names_of(journal.of("after"))[1:]) == {"Cancelled"}


async def test_an_input_that_breaks(engine: Engine, journal: Any) -> None:
    """An exception from the input of a stream is raised from the stream, and what is in flight is cancelled."""

    def source() -> Iterator[float]:
        yield from (1, 50)
        raise Broken("no more input")

    async def body() -> list[float]:
        results = []
        with pytest.raises(Broken, match="no more input"):
            async for result in after.stream(source(), max_in_flight=2):
                results.append(result)
        return results

    assert await in_a_flow(body) == [1]
    assert names_of(journal.of("after")) == ["Completed", "Cancelled"]


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "many"])
async def test_a_bad_max_in_flight(engine: Engine, value: Any) -> None:
    """A `max_in_flight` that is no whole number above 0 is refused at the call, by name and value."""
    with pytest.raises(InvalidOption, match=f"max_in_flight={value!r} .* a whole number, 1 or more"):
        after.stream([1], max_in_flight=value)


async def test_nothing_to_stream_over(engine: Engine, journal: Any) -> None:
    """A stream over something that can't be iterated, or a text, is refused at the call."""
    for items in (5, "text", None):
        with pytest.raises(MappingMissingIterable, match=type(items).__name__):
            after.stream(items)  # type: ignore[arg-type]
    with pytest.raises(SignatureMismatch):
        async for _ in after.stream([1], wrong=1):
            raise AssertionError("nothing can come of it")
    assert journal.of("after") == []
