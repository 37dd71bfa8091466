"""Durable flows that run once more: what is handed back, and what others see of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import undertow
from tests.trouble import counted, failing_once, trouble
from undertow import INPUTS, Engine, Future, ResultNotSerializable, Skip, State, flow, task

if TYPE_CHECKING:
    from conftest import ListJournal

pytestmark = pytest.mark.usefixtures("trouble_ahead")


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
        seen.extend(
            [(state.run_id, state.name, state.message), (future.run_id, future.state.name, future.state.message)]
        )
        failing_once()

    await whole()
    assert seen[:2] == seen[2:]
    assert {run.id for run in journal.of("decided")} == {run_id for run_id, _, _ in seen[:2]}
    assert journal.story("decided") == ["Pending", "Running", "Agreed"]


async def test_hooks_of_a_step_that_is_handed_back(engine: Engine) -> None:
    """The hooks of a step are called when it ends, and not again when it is handed back."""
    called: list[str] = []

    def hook(definition: Any, run: Any, state: State[Any]) -> None:
        called.append(f"{definition.name} {state.name}")

    step, _ = counted(on_completion=hook, on_running=hook)

    @flow(durable=True, retries=1)
    async def whole() -> None:
        await step(1)
        failing_once()

    await whole()
    assert called == ["step Running", "step Completed"]


async def test_a_step_that_is_cached_by_now(engine: Engine, journal: ListJournal) -> None:
    """A step that was broken off, and whose result somebody else has computed since, is Cached when it is resumed."""

    @task(cache_policy=INPUTS)
    async def slow(x: int) -> int:
        if trouble:
            trouble.clear()
            await anyio.sleep_forever()
        return x

    @flow(durable=True)
    async def whole() -> int:
        return await slow(1)

    with anyio.move_on_after(10):
        await whole()
    assert await slow(1) == 1
    assert await engine.resume(journal.of("whole")[0].id) == 1
    assert journal.story("slow")[-1] == "Cached"


async def test_steps_after_a_skipped_one(engine: Engine) -> None:
    """A recorded step that depends on a Skipped one is not run again: being skipped again is nothing new."""
    ran: list[str] = []

    @task
    async def not_needed() -> None:
        raise Skip("nothing to do")

    @task(when="all_done")
    async def cleanup(_: object) -> None:
        ran.append("cleanup")

    @flow(durable=True, retries=1)
    async def order() -> None:
        await cleanup.submit(not_needed.submit())
        if len(ran) == 1:
            ran.append("failed once")
            raise ConnectionError

    await order(return_state=True)
    assert ran == ["cleanup", "failed once"]
