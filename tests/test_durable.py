"""Steps of durable flows: how a call is known again, and what is handed back when its flow runs once more."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import undertow
from undertow import INPUTS, Engine, Future, InvalidOption, ResultNotSerializable, State, Task, flow, task

if TYPE_CHECKING:
    from conftest import ListJournal

trouble: list[Exception] = []


def failing_once() -> None:
    """Raise what the test has put in the way."""
    if trouble:
        raise trouble.pop()


@pytest.fixture(autouse=True)
def trouble_ahead() -> Iterator[None]:
    """The first time round, every flow of these tests fails half way."""
    trouble[:] = [ConnectionError("half way")]
    yield
    trouble.clear()


def counted(**options: Any) -> tuple[Task[[Any], Any], list[Any]]:
    """A task that returns its argument, and the list of the arguments that its body was given."""
    ran: list[Any] = []

    @task(**options)
    async def step(x: Any = None) -> Any:
        ran.append(x)
        return x

    return step, ran  # type: ignore[return-value]


# --- what is handed back -------------------------------------------------------------------------------------------


async def test_a_retry_of_the_flow(engine: Engine, journal: ListJournal) -> None:
    """A retry of a durable flow is handed what completed before, and runs only what had not."""
    step, ran = counted()

    @flow(durable=True, retries=1)
    async def whole() -> list[Any]:
        first = [await step(1), *await step.map([2, 3])]
        failing_once()
        return [*first, await step(4)]

    assert await whole() == [1, 2, 3, 4]
    assert Counter(ran) == Counter([1, 2, 3, 4])
    assert journal.story("whole") == ["Pending", "Running", "Retrying", "Completed"]


async def test_equal_calls_are_told_apart(engine: Engine) -> None:
    """The second of two equal calls is handed back what the second one returned."""
    numbers = iter(range(100))

    @task
    async def draw() -> int:
        return next(numbers)

    @flow(durable=True, retries=1)
    async def whole() -> list[int]:
        drawn = [await draw(), await draw(), *await draw.map([])] if False else [await draw(), await draw()]
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


async def test_tasks_inside_tasks(engine: Engine) -> None:
    """What a task called inside is recorded too: where the task itself did not complete, it goes on after that."""
    step, ran = counted()

    @task
    async def outer() -> Any:
        inner = [await step(1), await step.submit(2)]
        failing_once()
        return [*inner, await step(3)]

    @flow(durable=True, retries=1)
    async def whole() -> Any:
        return await outer()

    assert await whole() == [1, 2, 3]
    assert ran == [1, 2, 3]


async def test_a_retry_of_a_task_inside(engine: Engine) -> None:
    """A task that is retried within a durable flow is handed back what its earlier attempts called."""
    step, ran = counted()

    @task(retries=1, retry_delay_seconds=5)
    async def outer() -> Any:
        first = await step(1)
        failing_once()
        return first, await step(2)

    @flow(durable=True)
    async def whole() -> Any:
        return await outer()

    assert await whole() == (1, 2)
    assert ran == [1, 2]


async def test_cached_tasks(engine: Engine) -> None:
    """A cached task of a durable flow is looked up once: its step is handed back, even where the cache was refreshed."""
    step, ran = counted(cache_policy=INPUTS)

    @flow(durable=True, retries=1)
    async def whole() -> Any:
        first = [await step(1), await step(1)]
        failing_once()
        return [*first, await step(1), await step(2)]

    assert await whole() == [1, 1, 1, 2]
    assert ran == [1, 2]


async def test_a_durable_flow_in_a_plain_one(engine: Engine) -> None:
    """A durable flow called by a flow, or a task, that is not durable is the root of its own steps."""
    step, ran = counted()

    @flow(durable=True, retries=1)
    async def inner(n: int) -> Any:
        first = await step(n)
        failing_once()
        return first, await step(n + 1)

    @task
    async def by_task() -> Any:
        return await inner(10)

    @flow
    async def outer() -> Any:
        return await inner(1), await by_task(), await inner.submit(20)

    assert await outer() == ((1, 2), (10, 11), (20, 21))
    assert ran == [1, 2, 10, 11, 20, 21]


async def test_generator_tasks(engine: Engine) -> None:
    """A generator task that is iterated over runs again, and is handed back what it had called itself."""
    step, ran = counted()
    begun: list[str] = []

    @task
    async def numbers(end: int) -> AsyncIterator[int]:
        begun.append("numbers")
        for number in range(end):
            yield await step(number)

    @task
    def letters(text: str) -> Iterator[str]:
        begun.append("letters")
        yield from text

    @flow(durable=True, retries=1)
    async def whole() -> list[Any]:
        items = [item async for item in numbers(2)] + list(letters("ab")) + await numbers.submit(3)
        failing_once()
        return items

    assert await whole() == [0, 1, "a", "b", 0, 1, 2]
    assert ran == [0, 1, 0, 1, 2]
    assert Counter(begun) == {"numbers": 3, "letters": 2}


def test_sync_flows_and_tasks(sync_engine: Engine) -> None:
    """Durable `def` flows, with tasks called, submitted and mapped, and subflows, run again like async ones."""
    ran: list[Any] = []

    @task
    def step(x: Any) -> Any:
        ran.append(x)
        return x

    @flow
    def part() -> Any:
        return [step("a"), step.submit("b").result()]

    @flow(durable=True, retries=1)
    def whole() -> Any:
        early = [step(1), *step.map([2, 3]).result(), *part()]
        failing_once()
        return [*early, step(4)]

    assert whole() == [1, 2, 3, "a", "b", 4]
    assert Counter(map(str, ran)) == Counter(["1", "2", "3", "a", "b", "4"])


async def test_sync_tasks_in_an_async_flow(engine: Engine) -> None:
    """A `def` task that is called on the event loop's thread is a step like any other."""
    ran: list[int] = []

    @task
    def step(x: int) -> int:
        ran.append(x)
        return x

    @flow(durable=True, retries=1)
    async def whole() -> Any:
        early = step(1)
        failing_once()
        return early, step(2)

    assert await whole() == (1, 2)
    assert ran == [1, 2]


async def test_a_step_that_can_not_be_recorded(engine: Engine) -> None:
    """A step whose result can't be written fails before anybody is given it, and the error names the path to it."""

    @task
    async def opaque() -> Any:
        return [object()]

    @flow(durable=True)
    async def whole() -> Any:
        return await opaque()

    with pytest.raises(ResultNotSerializable, match=r"value\[0\] is of type builtins\.object"):
        await whole()


async def test_parameters_that_can_not_be_recorded(engine: Engine, journal: ListJournal) -> None:
    """A durable flow whose parameters can't be written down is refused at the call, and leaves no run."""

    @flow(durable=True)
    async def whole(handle: Any) -> None: ...

    with pytest.raises(ResultNotSerializable, match="object"):
        await whole(object())
    assert journal.of("whole") == []


# --- identity under concurrency --------------------------------------------------------------------------------------


def shuffled(seed: int, ran: list[Any]) -> tuple[Callable[[], Any], list[Any]]:
    """A durable flow of awaited, submitted, mapped and nested calls, each of which takes its time by chance."""
    dice = random.Random(seed)
    delivered: list[Any] = []
    falls_after = dice.randrange(20)

    async def give(future: Any) -> Any:
        value = await future
        if trouble and len(delivered) == falls_after:
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
                group.start_soon(give, step(f"{name}{index}"))
        return [await give(step(name)), await give(step(name))]

    @flow(durable=True, retries=1)
    async def whole() -> Any:
        mapped = step.map(range(4))
        pairs = [pair.submit(mapped[index], step.submit("equal")) for index in range(3)]
        parts = [part.submit(name) for name in ("x", "y")]
        async for future in mapped.as_completed():
            await give(future)
        return [await give(future) for future in (*parts, *pairs, *mapped)]

    return whole, delivered


async def test_any_order_of_concurrent_steps(engine: Engine) -> None:
    """Concurrent steps are known again whatever the order in which they start and end: 50 shuffled schedules."""
    for seed in range(50):
        trouble[:] = [ConnectionError("half way")]
        ran: list[Any] = []
        whole, delivered = shuffled(seed, ran)
        result = await whole()
        assert result == [["x", "x"], ["y", "y"], (0, "equal"), (1, "equal"), (2, "equal"), 0, 1, 2, 3]
        starts = Counter(map(str, ran))
        # What was under way when the flow fell may have begun twice; what the flow had been given has not.
        assert all(count <= 2 for count in starts.values() if count != starts["equal"]), seed


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


# --- sleeping --------------------------------------------------------------------------------------------------------


async def test_a_durable_sleep(engine: Engine) -> None:
    """In a flow that runs again, each sleep lasts only for the rest of its time, and equal ones are told apart."""

    @flow(durable=True, retries=1)
    async def whole() -> None:
        await undertow.sleep(100)
        with anyio.move_on_after(60 if trouble else None):
            await undertow.sleep(100)
        failing_once()

    start = anyio.current_time()
    await whole()
    assert anyio.current_time() - start == pytest.approx(200, abs=0.01)


async def test_a_sleep_in_a_step(engine: Engine) -> None:
    """A task of a durable flow that sleeps and is tried again sleeps for the rest; in a plain flow it sleeps anew."""

    @task(retries=1)
    async def nap() -> None:
        with anyio.move_on_after(60 if trouble else None):
            await undertow.sleep(100)
        failing_once()

    @flow
    async def whole() -> None:
        await nap()

    for durable, seconds in ((True, 100), (False, 160)):
        trouble[:] = [ConnectionError("half way")]
        start = anyio.current_time()
        await whole.with_options(durable=durable)()
        assert anyio.current_time() - start == pytest.approx(seconds, abs=0.01)


async def test_sleep_until(engine: Engine) -> None:
    """`sleep_until` waits for the moment that it is given, however often its flow begins anew, and not at all when it has passed."""

    @flow(durable=True, retries=1, retry_delay_seconds=60)
    async def whole() -> None:
        failing_once()
        await undertow.sleep_until(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=start + 100))
        await undertow.sleep_until(datetime(2025, 1, 1, tzinfo=UTC))

    start = anyio.current_time()
    await whole()
    assert anyio.current_time() - start == pytest.approx(100, abs=0.01)


@pytest.mark.parametrize("seconds", [-1, "3", True, None, float("nan")])
async def test_bad_sleeps(engine: Engine, seconds: Any) -> None:
    """What is no number of seconds, and a moment without a time zone, are refused with what is allowed."""
    with pytest.raises(InvalidOption, match="a number of seconds, 0 or more"):
        await undertow.sleep(seconds)
    with pytest.raises(InvalidOption, match=r"datetime\.now\(UTC\)"):
        await undertow.sleep_until(datetime(2026, 1, 1))  # noqa: DTZ001


async def test_an_endless_sleep(engine: Engine) -> None:
    """A durable flow may sleep for ever, as any other code may."""

    @flow(durable=True)
    async def whole() -> None:
        await undertow.sleep(float("inf"))

    with anyio.move_on_after(1000) as scope:
        await whole()
    assert scope.cancelled_caught


# --- what others see -------------------------------------------------------------------------------------------------


async def test_the_run_that_is_handed_back(engine: Engine, journal: ListJournal) -> None:
    """A step that is handed back keeps its run's id, its state and its message, and is not run, nor written, again."""
    seen: list[tuple[str | None, str, str]] = []

    @task
    async def decided() -> State[int]:
        return undertow.Completed("as agreed", data=3, name="Agreed")

    @flow(durable=True, retries=1)
    async def whole() -> None:
        state = await decided(return_state=True)
        future: Future[Any] = decided.submit()
        await future
        seen.extend([(state.run_id, state.name, state.message), (future.run_id, future.state.name, future.state.message)])
        failing_once()

    await whole()
    assert seen[:2] == seen[2:]
    assert {run.id for run in journal.of("decided")} == {run_id for run_id, _, _ in seen[:2]}
    assert journal.story("decided") == ["Pending", "Running", "Agreed"]
