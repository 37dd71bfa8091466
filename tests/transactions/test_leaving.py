"""Leaving a transaction: what it waits for, and what becomes of it when it is cancelled meanwhile."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.conftest import ListJournal
from tests.transactions.noting import Noted, in_a_flow
from undertow import Engine, Part, flow, transaction

# --- cancellation ------------------------------------------------------------------------------------------------


@pytest.fixture
def careful(write: Any, noted: Noted) -> Any:
    """`write`, with a roll-back that takes its time."""

    async def undo(part: Part) -> None:
        await anyio.sleep(3)
        noted.rollback(part)

    return write.with_options(on_rollback=undo)


async def test_cancelled_inside(engine: Engine, journal: ListJournal, noted: Noted, careful: Any) -> None:
    """A block that is cancelled is rolled back to the end, shielded, before the cancellation goes on."""

    async def body() -> None:
        async with transaction():
            await careful(1)
            await careful(2)
            await anyio.sleep(100)

    with anyio.move_on_after(10) as scope:
        await in_a_flow(body)
    assert scope.cancelled_caught
    assert anyio.current_time() >= 16
    assert noted.calls == [("rollback", 2), ("rollback", 1)]
    assert journal.story("write") == ["Pending", "Running", "Completed", "RolledBack"]
    assert journal.story("body")[-1] == "Cancelled"
    assert "scope" not in journal.of("write")[0].history[-1][2]


async def test_cancelled_while_leaving(engine: Engine, noted: Noted, careful: Any) -> None:
    """A block that is cancelled while it waits for its last runs is rolled back."""

    async def body() -> None:
        async with transaction():
            await careful(1)
            careful.submit(2, 100)

    with anyio.move_on_after(10):
        await in_a_flow(body)
    assert noted.calls == [("rollback", 1)]


@pytest.mark.real_time
async def test_cancelled_while_committing(noted: Noted, write: Any) -> None:
    """A commit that has begun comes to its end, cancelled or not."""

    async def body() -> None:
        async with transaction():
            await write(1)
            await write(2)
            await write(3)

    async with Engine(":memory:"):
        with anyio.CancelScope() as scope:
            write.on_commit(lambda part: scope.cancel())
            await in_a_flow(body, durable=True)
    assert noted.calls == [("commit", 1), ("commit", 2), ("commit", 3)]


async def test_a_roll_back_does_not_wait_for_ever(engine: Engine, noted: Noted, write: Any) -> None:
    """A block that raises does not wait for ever for runs that don't end, and undoes those that did."""

    async def body() -> None:
        with pytest.raises(ValueError):
            async with transaction():
                await write(1)
                future = write.submit("endless", 1e6)
                raise ValueError
        assert anyio.current_time() <= engine.core.finish_seconds
        future.cancel()

    await in_a_flow(body)
    assert noted.calls == [("rollback", 1)]


# --- what leaving waits for --------------------------------------------------------------------------------------


def too_deep() -> list[Any]:
    """An argument of more containers than are searched for futures."""
    return [[] for _ in range(20_000)]


async def test_calls_that_were_refused(engine: Engine, noted: Noted, write: Any) -> None:
    """A call that raises before its run begins is nothing that leaving the block would wait for."""
    unnamed = write.with_options(task_run_name=lambda x: f"{1 / x}")

    async def body() -> None:
        await write.submit(0)
        async with transaction():
            for refused in (
                lambda: unnamed.map([1, 0]),
                lambda: unnamed.submit(0),
                lambda: write.submit(too_deep()),
                lambda: write(0).close(),
            ):
                try:
                    refused()
                except (ZeroDivisionError, ValueError):
                    continue
            await write(1)

    with anyio.fail_after(60):
        await in_a_flow(body)
    assert noted.calls == [("commit", 1)]


async def test_generators(engine: Engine, noted: Noted) -> None:
    """A generator task is part of the block when it has ended in it; one that was left in the middle is not waited for."""

    async def count(n: int) -> Any:
        for number in range(n):
            yield number

    counting = noted.task(count)

    async def body() -> None:
        async with transaction():
            assert [number async for number in counting(3)] == [0, 1, 2]
            unfinished = counting(5)
            assert await anext(unfinished) == 0
        await unfinished.aclose()

    with anyio.fail_after(60):
        await in_a_flow(body)
    assert noted.calls == [("commit", None)]


async def test_background_runs(engine: Engine, noted: Noted, write: Any) -> None:
    """A run that belongs to the engine is no part of the block that it was started in."""

    @flow
    async def background() -> None:
        await write(1, 10)

    async def body() -> None:
        async with transaction():
            future = engine.start(background)
            await write(2)
        assert not future.done
        assert await future is None
        assert noted.calls == [("commit", 2)]

    await in_a_flow(body)
