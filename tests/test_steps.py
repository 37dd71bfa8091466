"""Steps: how a call in a durable flow is known again when the flow runs once more."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from tests.trouble import counted, failing_once, trouble
from undertow import Engine, InvalidOption, flow, task

pytestmark = pytest.mark.usefixtures("trouble_ahead")


async def test_equal_calls_are_told_apart(engine: Engine) -> None:
    """The second of two equal calls is handed back what the second one returned."""
    numbers = iter(range(100))

    @task
    async def draw() -> int:
        return next(numbers)

    @flow(durable=True, retries=1)
    async def whole() -> list[int]:
        drawn = [await draw(), await draw()]
        failing_once()
        return [*drawn, await draw()]

    assert await whole() == [0, 1, 2]


async def test_what_is_called_and_where_is_part_of_a_step(engine: Engine) -> None:
    """Equal arguments given to another task, or in another subflow, make another step."""
    step, ran = counted()
    other, _ = counted(name="other")

    @flow
    async def part(n: int) -> Any:
        return n, await step("same")

    @flow(durable=True, retries=1)
    async def whole() -> Any:
        early = [await part(1), await step("same")]
        failing_once()
        return [*early, await part(2), await other("same")]

    assert await whole() == [(1, "same"), "same", (2, "same"), "same"]
    assert ran == ["same"] * 3


async def test_a_call_counts_when_it_is_made(engine: Engine) -> None:
    """Of equal calls each is known by when it was made, and not by when it began to run."""
    numbers = iter(range(100))

    @task
    async def draw() -> int:
        return next(numbers)

    @flow(durable=True, retries=1)
    async def whole() -> list[int]:
        first, second = draw(), draw()
        for call in (second, first) if trouble else ():
            await call
        failing_once()
        return [await first, await second]

    assert await whole() == [1, 0]


# --- identity under concurrency --------------------------------------------------------------------------------------


def shuffled(seed: int, ran: list[Any]) -> tuple[Callable[[], Any], list[Any]]:
    """A durable flow of awaited, submitted, mapped and nested calls, each of which takes its time by chance.

    Some time it fails; what its bodies had been given by then is in the list that is returned with it.
    """
    dice = random.Random(seed)
    delivered: list[Any] = []
    falls_after = dice.randrange(20)

    async def given(result: Any) -> Any:
        value = await result
        if trouble:
            if len(delivered) == falls_after:
                failing_once()
            delivered.append(value)
        return value

    @task
    async def step(x: Any) -> Any:
        ran.append(x)
        await anyio.sleep(dice.uniform(0, 10))
        return x

    @task
    async def pair(left: Any, right: Any) -> Any:
        ran.append((left, right))
        await anyio.sleep(dice.uniform(0, 10))
        return left, right

    @flow
    async def part(name: str) -> list[Any]:
        async with anyio.create_task_group() as group:
            for index in range(3):
                group.start_soon(given, step(f"{name}{index}"))
        return [await given(step(name)), await step(name)]

    @flow(durable=True, retries=1)
    async def whole() -> Any:
        mapped = step.map(range(4))
        pairs = [pair.submit(mapped[index], step.submit("equal")) for index in range(3)]
        parts = [part.submit(name) for name in ("x", "y")]
        async for future in mapped.as_completed():
            await given(future)
        return [await given(future) for future in (*parts, *pairs, *mapped)]

    return whole, delivered


async def test_any_order_of_concurrent_steps(engine: Engine) -> None:
    """Concurrent steps are known again whatever the order in which they start and end: 50 shuffled schedules."""
    for seed in range(50):
        trouble[:] = [ConnectionError("half way")]
        ran: list[Any] = []
        whole, delivered = shuffled(seed, ran)
        assert await whole() == [["x", "x"], ["y", "y"], (0, "equal"), (1, "equal"), (2, "equal"), 0, 1, 2, 3]
        assert trouble == [], "it was to fail once"
        starts = Counter(map(str, ran))
        for value in map(str, delivered):
            assert starts[value] == (2 if value in "xy" else 1) or value[0] == "[", (
                f"{value} ran again, with seed {seed}"
            )


async def test_any_order_of_calls(engine: Engine) -> None:
    """Calls that come in another order when the flow runs again are handed back what they had returned."""
    step, ran = counted()

    @flow(durable=True, retries=1)
    async def whole() -> Any:
        order = [1, 2, 3] if trouble else [3, 1, 2]
        found = [await step(x) for x in order]
        failing_once()
        return found

    assert await whole() == [3, 1, 2]
    assert ran == [1, 2, 3]


async def test_a_whole_list_of_futures(engine: Engine) -> None:
    """What `map` gives may be given whole to another task, which gets the results; it counts as the steps that it stands for."""
    step, _ = counted()
    sums: list[Any] = []

    @task
    async def total(parts: list[int]) -> int:
        sums.append(parts)
        return sum(parts)

    @flow(durable=True, retries=1)
    async def whole() -> Any:
        both = [await total.submit(step.map([1, 2])), await total(step.map([3, 4]))]
        failing_once()
        return both

    assert await whole() == [3, 7]
    assert sums == [[1, 2], [3, 4]]


# --- explicit keys ---------------------------------------------------------------------------------------------------


async def test_an_explicit_key(engine: Engine) -> None:
    """`key` identifies a step in place of its arguments: they may be what can't be written, in any order."""
    ran: list[str] = []

    class Session:
        def __init__(self, name: str) -> None:
            self.name = name

    @task(key="{name}")
    async def fetch(session: Session, name: str) -> str:
        ran.append(name)
        return name

    @task(key=lambda session: session.name)
    async def close(session: Session) -> str:
        ran.append(f"close {session.name}")
        return session.name

    @flow(durable=True, retries=1)
    async def whole() -> Any:
        names = ["a", "b"] if trouble else ["b", "a"]
        results = {name: await fetch(Session(name), name) for name in names}
        closed = [await close(Session(name)) for name in names]
        failing_once()
        return results, sorted(closed)

    assert await whole.with_options(on_mismatch="accept")() == ({"a": "a", "b": "b"}, ["a", "b"])
    assert ran == ["a", "b", "close a", "close b"]


async def test_a_bad_key(engine: Engine) -> None:
    """A key that names no argument, or is no text, is refused at the call, with what it may be."""

    @task(key="{nobody}")
    async def fetch(name: str) -> None: ...

    @flow(durable=True)
    async def whole() -> None:
        await fetch("a")

    with pytest.raises(InvalidOption, match=r"key='\{nobody\}'.*\{name\}"):
        await whole()
    with pytest.raises(InvalidOption, match="key=3"):
        fetch.with_options(key=3)
