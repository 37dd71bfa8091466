"""Signals: giving a running flow a value from outside, in this process or another, now or before it asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from undertow import (
    Engine,
    InvalidOption,
    NotInFlow,
    ResultNotSerializable,
    RunEnded,
    RunUnknown,
    SignalTimeout,
    flow,
    send_signal,
    task,
    wait_for_signal,
)


@flow
async def waits(name: str = "go", count: int = 1, timeout: float | None = None) -> list[Any]:
    return [await wait_for_signal(name, timeout) for _ in range(count)]


async def test_a_signal(engine: Engine) -> None:
    """A value that is sent to a run under a name is what it waits for under that name."""
    handle = engine.start(waits)
    await anyio.sleep(5)
    await send_signal(handle.run_id, "other", "not this")
    await send_signal(handle.run_id, "go", {"n": [1, 2.5, None]})
    assert await handle == [{"n": [1, 2.5, None]}]
    assert anyio.current_time() == 5


async def test_early_signals(engine: Engine) -> None:
    """Signals that come before they are waited for are kept, and come in the order they were sent."""

    @flow
    async def late() -> list[int]:
        await anyio.sleep(10)
        return [await wait_for_signal("n") for _ in range(3)]

    handle = engine.start(late)
    await anyio.sleep(1)
    for number in range(3):
        await send_signal(handle.run_id, "n", number)
    assert await handle == [0, 1, 2]


async def test_several_waiters(engine: Engine) -> None:
    """Of several that wait for signals of one name each gets another."""

    @task
    async def part() -> int:
        number: int = await wait_for_signal("n")
        return number

    @flow
    async def gathers() -> list[int]:
        futures = [part.submit() for _ in range(3)]
        return sorted([await future for future in futures])

    handle = engine.start(gathers)
    await anyio.sleep(1)
    for number in range(3):
        await send_signal(handle.run_id, "n", number)
    assert await handle == [0, 1, 2]
    assert engine.core.bells == {}


async def test_between_flows(engine: Engine) -> None:
    """A flow can signal another one."""

    @flow
    async def tells(run_id: str) -> None:
        await send_signal(run_id, "go", "from a flow")

    handle = engine.start(waits)
    await anyio.sleep(1)
    await tells(handle.run_id)
    assert await handle == ["from a flow"]


async def test_no_signal_in_time(engine: Engine) -> None:
    """Waiting for a signal ends with `SignalTimeout`, a `TimeoutError`, after the time given."""
    with pytest.raises(SignalTimeout, match="'go' came within 30 s"):
        await waits(timeout=30)
    assert anyio.current_time() == 30
    assert issubclass(SignalTimeout, TimeoutError)


async def test_impossible_signals(engine: Engine) -> None:
    """What can't be sent, or not to that run, is refused at once; so is waiting outside of a flow."""
    handle = engine.start(waits)
    await anyio.sleep(1)
    with pytest.raises(InvalidOption, match="a:b"):
        await send_signal(handle.run_id, "a:b")
    with pytest.raises(ResultNotSerializable):
        await send_signal(handle.run_id, "go", object())
    with pytest.raises(RunUnknown, match="nobody"):
        await send_signal("nobody", "go")
    with pytest.raises(NotInFlow):
        await wait_for_signal("go")
    await send_signal(handle.run_id, "go")
    assert await handle == [None]
    with pytest.raises(RunEnded, match="Completed"):
        await send_signal(handle.run_id, "go")


async def test_signals_of_a_durable_flow(engine: Engine) -> None:
    """A signal that a durable flow was given is given to it again when it runs again, and not sent for twice."""
    failures = [ConnectionError("once")]

    @flow(durable=True, retries=1)
    async def order() -> list[int]:
        first = await wait_for_signal("n")
        if failures:
            raise failures.pop()
        return [first, await wait_for_signal("n")]

    handle = engine.start(order)
    await anyio.sleep(1)
    await send_signal(handle.run_id, "n", 1)
    await anyio.sleep(1)
    await send_signal(handle.run_id, "n", 2)
    assert await handle == [1, 2]


@pytest.mark.real_time
async def test_signals_between_engines(tmp_path: Path) -> None:
    """A signal reaches a run of another engine, as of another process, through the journal that they share."""
    async with Engine(tmp_path / "app.db") as first:
        handle = first.start(waits, count=2)
        async with Engine(tmp_path / "app.db"):
            async for event in handle.events():
                if event.name == "Running":
                    break
            await first.core.journal.commit()
            await send_signal(handle.run_id, "go", 1)
            await send_signal(handle.run_id, "go", 2)
        with anyio.fail_after(10):
            assert await handle == [1, 2]
        assert first.journal.query("SELECT key FROM result") == []  # type: ignore[attr-defined]
