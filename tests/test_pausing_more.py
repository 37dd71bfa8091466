"""Pausing under stress: answers that come twice, pauses that are cancelled, and runs that nobody lives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.conftest import ListJournal
from undertow import (
    Engine,
    NotInFlow,
    RunNotPaused,
    RunUnfinished,
    flow,
    pause_flow_run,
    resume_flow_run,
    send_signal,
    suspend_flow_run,
    task,
    wait_for_signal,
)
from undertow.engine.signals import cancel_run

MakeEngine = Callable[..., Engine]


@flow
async def twice() -> list[int]:
    return [await pause_flow_run(int), await pause_flow_run(int)]


async def test_an_answer_that_comes_twice(engine: Engine) -> None:
    """Of two answers to one pause the second is refused, and no later pause takes it."""
    handle = engine.start(twice)
    await anyio.sleep(1)
    refused: list[Exception] = []

    async def answer(number: int) -> None:
        try:
            await resume_flow_run(handle.run_id, number)
        except RunNotPaused as error:
            refused.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(answer, 1)
        group.start_soon(answer, 1)
    await anyio.sleep(1)
    assert (len(refused), handle.state.name) == (1, "Paused")
    await resume_flow_run(handle.run_id, 2)
    assert await handle == [1, 2]


async def test_an_answer_to_an_earlier_pause(engine: Engine, journal: ListJournal) -> None:
    """What was kept for a pause that is over, as by another process at the same moment, answers no later one."""
    handle = engine.start(twice)
    await anyio.sleep(1)
    await resume_flow_run(handle.run_id, 1)
    [(key, record)] = journal.kept.items()
    journal.keep(f"{key}again", record)
    await anyio.sleep(1)
    assert handle.state.name == "Paused"
    await resume_flow_run(handle.run_id, 2)
    assert await handle == [1, 2]


async def test_two_answers_to_a_suspended_run(engine: Engine) -> None:
    """Of two answers to a suspended run one makes it go on; the other is refused, and not kept for later."""
    began: list[int] = []

    @flow(durable=True)
    async def order() -> int:
        began.append(1)
        return await suspend_flow_run(int) + await suspend_flow_run(int)

    handle = engine.start(order)
    await handle.wait_async()
    refused: list[Exception] = []

    async def answer() -> None:
        try:
            await resume_flow_run(handle.run_id, 1)
        except RunNotPaused as error:
            refused.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(answer)
        group.start_soon(answer)
    await anyio.sleep(1)
    assert (len(refused), len(began)) == (1, 2)
    await resume_flow_run(handle.run_id, 10)
    future = engine.handle(handle.run_id)
    assert future is not None
    assert await future == 11


async def test_a_pause_that_is_given_up(engine: Engine, journal: ListJournal) -> None:
    """A body that gives a pause up is Running again, can't be resumed, and may pause another time."""

    @flow
    async def impatient() -> int:
        with anyio.move_on_after(5):
            await pause_flow_run(int, timeout=None)
        await anyio.sleep(5)
        return await pause_flow_run(int)

    handle = engine.start(impatient)
    await anyio.sleep(7)
    assert handle.state.name == "Running"
    with pytest.raises(RunNotPaused):
        await resume_flow_run(handle.run_id, 1)
    await anyio.sleep(5)
    await resume_flow_run(handle.run_id, 2)
    assert await handle == 2
    assert journal.story("impatient") == ["Pending", *["Running", "Paused"] * 2, "Running", "Completed"]


async def test_pausing_in_a_sync_flow(engine: Engine) -> None:
    """A `def` flow, which can't wait for a pause, is told so: it never takes a coroutine for an answer."""

    @flow
    def sync_flow() -> str:
        return "approved" if pause_flow_run(bool) else "refused"  # type: ignore[truthy-bool]

    @flow(durable=True)
    def suspends() -> str:
        return "approved" if suspend_flow_run(bool) else "refused"  # type: ignore[truthy-bool]

    @flow
    def waits() -> str:
        return "stopped" if wait_for_signal("stop") else "goes on"  # type: ignore[truthy-bool]

    for called in (sync_flow, suspends, waits):
        with pytest.raises(NotInFlow, match="async def"):
            await engine.start(called)


async def test_many_signals(engine: Engine) -> None:
    """Thousands of signals come one by one in the order in which they were sent."""

    @task
    async def listens(number: int) -> list[int]:
        return [await wait_for_signal("go") for _ in range(number)]

    @flow
    async def hears() -> list[int]:
        return await listens(1000)

    handle = engine.start(hears)
    await anyio.sleep(1)
    for number in range(1000):
        await send_signal(handle.run_id, "go", number)
    assert await handle == list(range(1000))


@pytest.mark.real_time
async def test_cancelling_a_suspended_run(tmp_path: Path) -> None:
    """A suspended run can be cancelled, and is not resumed by anybody then."""

    @flow(durable=True)
    async def order() -> None:
        await suspend_flow_run()

    async with Engine(tmp_path / "app.db") as engine:
        state: Any = await order(return_state=True)
        with pytest.raises(RunUnfinished):
            state.result()
        await cancel_run(engine.core, state.run_id, "not needed")
        [row] = engine.journal.query("SELECT state_name, state_message, ended_at FROM flow_runs")  # type: ignore[attr-defined]
        assert (row["state_name"], row["state_message"]) == ("Cancelled", "Cancelled: not needed.")
        assert row["ended_at"] is not None
