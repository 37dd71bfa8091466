"""Durable flows: what was recorded never runs again, in a retry or in another process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

import undertow
from undertow import Engine, ResultNotSerializable, RunNotResumable, flow, task

ran: list[Any] = []
trouble: list[Exception] = []


@task
async def step(x: Any) -> Any:
    ran.append(x)
    return (x, {x})


@flow
async def part(n: int) -> list[Any]:
    return [await step(n), await step(n)]


@flow(durable=True)
async def whole(n: int) -> list[Any]:
    results = await step.map(range(n))
    results += await part(10)
    if trouble:
        raise trouble.pop()
    return [*results, await step("last")]


@flow(durable=True, retries=1)
async def persistent(n: int) -> list[Any]:
    return await whole.fn(n)


@pytest.fixture(autouse=True)
def fresh() -> None:
    ran.clear()
    trouble.clear()


EXPECTED = [(x, {x}) for x in (0, 1, 2, 10, 10, "last")]


@pytest.mark.real_time
async def test_resuming_a_failed_run(tmp_path: Path) -> None:
    """A resumed run gets the recorded results back, of the same types, and runs only what is left."""
    trouble.append(ValueError("half way"))
    async with Engine(tmp_path / "app.db") as engine:
        state = await whole(3, return_state=True)
        assert sorted(map(str, ran)) == ["0", "1", "10", "10", "2"]
        ran.clear()
    async with Engine(tmp_path / "app.db") as engine:
        assert await engine.resume(state.run_id) == EXPECTED
        assert ran == ["last"]
        with pytest.raises(RunNotResumable, match="completed"):
            await engine.resume(state.run_id)
        names = engine.journal.query("SELECT name FROM states WHERE run_id = ? ORDER BY seq", (state.run_id,))  # type: ignore[attr-defined]
        assert [row["name"] for row in names] == ["Pending", "Running", "Failed", "Resuming", "Retrying", "Completed"]
        assert len(engine.journal.query("SELECT * FROM task_runs")) == 6  # type: ignore[attr-defined]


async def test_a_retry_of_the_flow(engine: Engine) -> None:
    """A retry of a durable flow runs only what had not completed."""
    trouble.append(ValueError("half way"))
    assert await persistent(3) == EXPECTED
    assert len(ran) == 6


async def test_only_durable_runs_can_be_resumed(engine: Engine) -> None:
    """Resuming what is not durable, or not there, is refused with the reason."""
    trouble.append(ValueError("half way"))
    plain = flow(whole.fn)
    state = await plain(1, return_state=True)
    for run_id in (state.run_id, "nobody"):
        with pytest.raises(RunNotResumable, match="no durable run"):
            await engine.resume(str(run_id))


async def test_a_step_that_can_not_be_recorded(engine: Engine) -> None:
    """A step of a durable flow whose result can't be written fails, before anybody is given it."""

    @task
    async def opaque() -> Any:
        return object()

    @flow(durable=True)
    async def outer() -> Any:
        return await opaque()

    with pytest.raises(ResultNotSerializable):
        await outer()


async def test_a_durable_sleep(engine: Engine) -> None:
    """In a flow that runs again, a sleep lasts only for the rest of its time."""
    attempts = 0

    @flow(durable=True, retries=1)
    async def outer() -> None:
        nonlocal attempts
        attempts += 1
        with anyio.move_on_after(60 if attempts == 1 else None):
            await undertow.sleep(100)
            return
        raise ValueError("interrupted")

    start = anyio.current_time()
    await outer()
    assert anyio.current_time() - start == pytest.approx(100, abs=0.01)


CRASHING = """
import os, sys
import anyio
from undertow import Engine, flow, task

@task
async def step(x):
    print("ran", x, flush=True)
    return x

@flow(durable=True)
async def outer():
    first = await step(1)
    if os.environ.get("CRASH"):
        os._exit(9)
    return [first, await step(2)]

async def main():
    async with Engine(sys.argv[1]) as engine:
        if os.environ.get("CRASH"):
            await outer()
        [row] = engine.journal.query("SELECT id, state_name, state_message FROM flow_runs")
        print(row["state_name"], "is gone" in row["state_message"])
        print(await engine.resume(row["id"]))

anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_resuming_after_the_process_died(tmp_path: Path, backend: str) -> None:
    """A run whose process died is Crashed at the next open, with the reason, and goes on after what was recorded."""
    command = [sys.executable, "-c", CRASHING, str(tmp_path / "app.db"), backend]
    died = subprocess.run(command, env={"CRASH": "1"}, capture_output=True, text=True, timeout=30)
    assert (died.returncode, died.stdout) == (9, "ran 1\n")
    resumed = subprocess.run(command, env={}, capture_output=True, text=True, timeout=30)
    assert resumed.stdout == "Crashed True\nran 2\n[1, 2]\n"
    assert resumed.stderr == ""
