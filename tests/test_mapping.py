"""`map`, and what it goes over."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from undertow import (
    Engine,
    FutureList,
    MappingLengthMismatch,
    MappingMissingIterable,
    SignatureMismatch,
    UpstreamFailed,
    allow_failure,
    flow,
    quote,
    task,
    unmapped,
)


class Broken(Exception):
    """What the failing tasks of these tests raise."""


@task
async def pair(a: Any, b: Any = "default") -> tuple[Any, Any]:
    return a, b


@task
async def one(x: Any) -> Any:
    return x


@task
async def odd_only(x: int) -> int:
    if x % 2 == 0:
        raise Broken(f"{x} is even")
    return x


@task
async def after(seconds: float, fails: bool = False) -> float:
    await anyio.sleep(seconds)
    if fails:
        raise Broken(f"after {seconds:g}")
    return seconds


async def in_a_flow(body: Callable[[], Any]) -> Any:
    """What an async function gives when it is the body of a flow that is judged by what it returns."""
    return await flow(final_state="return")(body)()


# --- what is mapped over -----------------------------------------------------------------------------------------


async def test_map_submits_one_run_per_item(engine: Engine, journal: Any) -> None:
    """`map` gives one future per item, in the order of the items, and each run knows its place in the map."""

    async def body() -> list[Any]:
        futures = one.map(["a", "b", "c"])
        assert isinstance(futures, FutureList)
        assert len(futures) == 3
        assert [await future for future in futures[1:]] == ["b", "c"]
        return await futures

    assert await in_a_flow(body) == ["a", "b", "c"]
    assert [run.map_index for run in journal.of("one")] == [0, 1, 2]


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        (([1, 2], [3, 4]), {}, [(1, 3), (2, 4)]),
        (([1, 2],), {"b": [3, 4]}, [(1, 3), (2, 4)]),
        (([1, 2], 9), {}, [(1, 9), (2, 9)]),
        (([1, 2],), {}, [(1, "default"), (2, "default")]),
        (([1, 2], "xy"), {}, [(1, "xy"), (2, "xy")]),
        (([1, 2], b"xy"), {}, [(1, b"xy"), (2, b"xy")]),
        (([1, 2],), {"b": unmapped([3, 4])}, [(1, [3, 4]), (2, [3, 4])]),
        (({1: "x", 2: "y"},), {"b": {3: "z", 4: "z"}.values()}, [(1, "z"), (2, "z")]),
        (([],), {}, []),
        ((range(2), quote([[3], [4]])), {}, [(0, [3]), (1, [4])]),
        ((unmapped(1),), {"b": (1, 2)}, [(1, 1), (1, 2)]),
    ],
)
async def test_what_is_mapped(engine: Engine, args: Any, kwargs: Any, expected: list[Any]) -> None:
    """Every iterable is mapped over; texts, bytes, scalars, defaults and `unmapped` values go to every run."""

    async def body() -> None:
        assert await pair.map(*args, **kwargs) == expected

    await in_a_flow(body)


async def test_files_are_not_mapped(engine: Engine) -> None:
    """An open file goes to every run as it is."""
    file = io.StringIO("two\nlines\n")

    async def body() -> list[Any]:
        return await pair.map([1], file)

    assert await in_a_flow(body) == [(1, file)]


async def test_a_default_is_not_mapped(engine: Engine) -> None:
    """A default value that is iterable is no argument of the call and goes to every run."""

    @task
    async def total(x: int, more: tuple[int, ...] = (1, 2, 3)) -> int:
        return x + sum(more)

    async def body() -> list[int]:
        return await total.map([10, 20])

    assert await in_a_flow(body) == [16, 26]


async def test_mapping_over_futures(engine: Engine) -> None:
    """The futures of one map are the items of the next, each run waiting for its own; a done future's list is mapped."""

    async def body() -> list[Any]:
        lists = one.submit([5, 6])
        await lists
        return [await one.map(one.map(one.map([1, 2]))), await one.map(lists), await pair.map([1], unmapped(lists))]

    assert await in_a_flow(body) == [[1, 2], [5, 6], [(1, [5, 6])]]


@pytest.mark.real_time
def test_mapping_over_a_running_future_in_a_thread(sync_engine: Engine) -> None:
    """In a thread, `map` over a future that is still running waits for it and maps over its result."""

    @flow
    def outer() -> list[Any]:
        return one.map(after_checkpoints.submit([1, 2])).result()

    @task
    async def after_checkpoints(x: Any) -> Any:
        for _ in range(100):
            await anyio.lowlevel.checkpoint()
        return x

    assert outer() == [1, 2]


# --- what can't be mapped ----------------------------------------------------------------------------------------


async def test_nothing_to_map_over(engine: Engine, journal: Any) -> None:
    """`map` with nothing iterable says so and lists what it was given, before anything is submitted."""

    async def body() -> None:
        with pytest.raises(MappingMissingIterable, match=r"pair\.map\(.*argument 1 \(str\), b \(unmapped\)"):
            pair.map("text", b=unmapped([1]))
        with pytest.raises(MappingMissingIterable, match="no arguments"):
            pair.map()

    await in_a_flow(body)
    assert journal.of("pair") == []


async def test_unequal_lengths(engine: Engine, journal: Any) -> None:
    """`map` over iterables of unequal lengths names each and its length, before anything is submitted."""

    async def body() -> None:
        with pytest.raises(MappingLengthMismatch, match=r"argument 1: 2, b: 3.*unmapped"):
            pair.map([1, 2], b=[1, 2, 3])

    await in_a_flow(body)
    assert journal.of("pair") == []


async def test_a_map_that_doesnt_fit_the_signature(engine: Engine, journal: Any) -> None:
    """A map whose arguments don't fit the function raises at the call and submits nothing."""

    async def body() -> None:
        with pytest.raises(SignatureMismatch, match="unexpected keyword argument 'c'"):
            pair.map([1, 2], c=1)

    await in_a_flow(body)
    assert journal.of("pair") == []


# --- what comes out ----------------------------------------------------------------------------------------------


async def test_the_first_failure_of_a_map_is_raised_at_once(engine: Engine) -> None:
    """Awaiting a map raises the first exception in time, without waiting for the others."""

    async def body() -> float:
        start = anyio.current_time()
        futures = after.map([9, 2, 5], [False, True, True])
        with pytest.raises(Broken, match="after 2"):
            await futures
        return anyio.current_time() - start

    assert await in_a_flow(body) == 2


async def test_states_of_a_map(engine: Engine) -> None:
    """`map(return_state=True)` and `wait_async` give the final states in order and raise nothing."""

    async def body() -> list[list[str]]:
        states = await odd_only.map([1, 2, 3], return_state=True)
        waited = await odd_only.map([2, 3]).wait_async()
        return [[state.name for state in listed] for listed in (states, waited)]

    assert await in_a_flow(body) == [["Completed", "Failed", "Completed"], ["Failed", "Completed"]]


async def test_a_map_as_it_completes(engine: Engine) -> None:
    """`as_completed` of a map gives its futures in the order in which they end."""

    async def body() -> list[float]:
        return [await future async for future in after.map([3, 1, 2]).as_completed()]

    assert await in_a_flow(body) == [1, 2, 3]


async def test_cancelling_a_map(engine: Engine, journal: Any) -> None:
    """Cancelling a map cancels what has not ended, and nothing else."""

    async def body() -> list[str]:
        futures = after.map([1, 5, 6])
        await futures[0]
        futures.cancel("enough")
        return [state.name for state in await futures.wait_async() if state is not None]

    assert await in_a_flow(body) == ["Completed", "Cancelled", "Cancelled"]
    assert "enough" in journal.of("after")[2].history[-1][2]


async def test_a_map_behind_a_failure(engine: Engine) -> None:
    """In a map over futures only the runs behind a failed one are skipped; with `allow_failure` they get its exception."""

    async def body() -> None:
        first = odd_only.map([1, 2])
        kept, skipped = await one.map(first, return_state=True)
        assert kept.result() == 1
        assert skipped.is_skipped()
        with pytest.raises(UpstreamFailed, match="odd_only.*Failed"):
            skipped.result()
        passed = await one.map(allow_failure(first))
        assert passed[0] == 1
        assert isinstance(passed[1], Broken)

    await in_a_flow(body)


async def test_quoting(engine: Engine, journal: Any) -> None:
    """`quote(x)` passes a value as it is: futures inside stay futures, and nothing is waited for."""

    async def body() -> Any:
        never_waited_for = after.submit(100)
        held = await one.submit(quote([never_waited_for]))
        assert held == [never_waited_for]
        assert not never_waited_for.done
        never_waited_for.cancel()
        assert await one(quote([1])) == [1]
        assert await one(allow_failure(2)) == 2

    await in_a_flow(body)
    assert list(journal.of("one")[0].upstream_ids) == []


async def test_wait_for_in_a_map(engine: Engine) -> None:
    """With `wait_for`, every run of a map starts after the given futures, whose values it doesn't get."""

    async def body() -> tuple[list[Any], float]:
        start = anyio.current_time()
        values = await one.map([1, 2], wait_for=[after.submit(7)])
        return values, anyio.current_time() - start

    assert await in_a_flow(body) == ([1, 2], 7)


async def test_a_generator_is_gone_through_once(engine: Engine) -> None:
    """A generator given to `map` is gone through at the call, in order, exactly once."""
    made: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(3):
            made.append(number)
            yield number

    async def body() -> list[Any]:
        futures = one.map(numbers())
        assert made == [0, 1, 2]
        return await futures

    assert await in_a_flow(body) == [0, 1, 2]
    assert made == [0, 1, 2]
