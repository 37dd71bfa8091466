"""Single flight between processes: of those who need one cached result at once, one computes it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from undertow import INPUTS, Engine, State, task

pytestmark = pytest.mark.real_time

began: list[Any] = []


class Gate:
    """Where a computation stops until it is opened; who comes, comes through one by one."""

    def __init__(self) -> None:
        self.reached = anyio.Event()
        self.open = anyio.Event()


gates: list[Gate] = []
trouble: list[Exception] = []


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    for each in (began, gates, trouble):
        each.clear()


@task(cache_policy=INPUTS)
async def computed(x: int) -> int:
    began.append(x)
    if gates:
        gates[0].reached.set()
        await gates[0].open.wait()
    if trouble:
        raise trouble.pop()
    return x * x


async def called(engine: Engine, x: int, states: list[State[int]]) -> None:
    """Call the task as somebody in that engine's process does."""
    with engine.active():
        states.append(await computed(x, return_state=True))


# Two engines on one file stand for two processes: what they know of each other is in the journal.


async def test_two_at_once(tmp_path: Path) -> None:
    """Two engines that need the same result at once: one computes it, and the other's run is Cached."""
    gates.append(Gate())
    states: list[State[int]] = []
    async with Engine(tmp_path / "app.db") as one, Engine(tmp_path / "app.db") as two:
        async with anyio.create_task_group() as group:
            group.start_soon(called, one, 3, states)
            await gates[0].reached.wait()
            group.start_soon(called, two, 3, states)
            await anyio.wait_all_tasks_blocked()
            gates[0].open.set()
        assert Counter((state.name, state.result()) for state in states) == {("Completed", 9): 1, ("Cached", 9): 1}
        assert began == [3]


async def test_many_at_once(tmp_path: Path) -> None:
    """Whoever comes first, each key is computed once among three engines with ten callers each."""
    states: list[State[int]] = []
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(Engine(tmp_path / "app.db")) for _ in range(3)]
        async with anyio.create_task_group() as group:
            for engine in engines * 2:
                for x in range(5):
                    group.start_soon(called, engine, x, states)
    assert Counter(began) == dict.fromkeys(range(5), 1)
    assert Counter(state.name for state in states) == {"Completed": 5, "Cached": 25}


@pytest.mark.parametrize("end", ["Failed", "Cancelled", "Interrupted"])
async def test_a_leader_that_ends_without_a_result(tmp_path: Path, end: str) -> None:
    """When the one that computes fails, is cancelled, or has its engine closed, the other computes."""
    gates.append(Gate())
    states: list[State[int]] = []
    async with Engine(tmp_path / "app.db") as two, anyio.create_task_group() as group:
        async with Engine(tmp_path / "app.db", grace_seconds=0) as one:
            future = one.start(computed, 3)
            await gates[0].reached.wait()
            group.start_soon(called, two, 3, states)
            await anyio.wait_all_tasks_blocked()
            if end == "Failed":
                trouble.append(ValueError("no result"))
                gates[0].open.set()
            elif end == "Cancelled":
                future.cancel()
            if end != "Interrupted":
                await future.wait_async()
        assert future.state.name == end
        gates[0].open.set()
    assert [(state.name, state.result()) for state in states] == [("Completed", 9)]
    assert began == [3, 3]


async def test_one_after_the_other(tmp_path: Path) -> None:
    """When a flight is over its key is free, for a computation that is wanted anew."""
    states: list[State[int]] = []
    fresh = computed.with_options(refresh_cache=True)
    async with Engine(tmp_path / "app.db") as one, Engine(tmp_path / "app.db") as two:
        await called(one, 3, states)
        for engine in (two, one, two):
            with engine.active():
                assert await fresh(3) == 9
        await called(two, 3, states)
    assert [state.name for state in states] == ["Completed", "Cached"]
    assert began == [3] * 4


LEADER = """
import sys
import anyio
from undertow import INPUTS, Engine, task
from undertow.storage import service
service.PEER_SECONDS = 0.02

@task(cache_policy=INPUTS)
async def computed(x):
    print("computing", flush=True)
    await anyio.sleep_forever() if sys.argv[3] == "hold" else None
    return x * x

async def main():
    async with Engine(sys.argv[1]):
        print("open", flush=True)
        sys.stdin.readline()
        state = await computed(3, return_state=True)
        print(state.name, state.result(), flush=True)

anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_leader_that_is_killed(tmp_path: Path, backend: str) -> None:
    """When the process that computes is killed, another that waits for the result notices, and computes it."""
    with ExitStack() as stack:

        def process(role: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", LEADER, str(tmp_path / "app.db"), backend, role]
            started = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
            )
            stack.callback(started.communicate)
            stack.callback(started.kill)
            return started

        def told(by: subprocess.Popen[str]) -> str:
            assert by.stdout is not None
            return by.stdout.readline().strip()

        def go(one: subprocess.Popen[str]) -> None:
            assert one.stdin is not None
            one.stdin.write("go\n")
            one.stdin.flush()

        leader, follower = process("hold"), process("compute")
        assert [told(leader), told(follower)] == ["open", "open"]
        go(leader)
        assert told(leader) == "computing"
        go(follower)
        leader.kill()
        leader.wait()
        assert [told(follower), told(follower)] == ["computing", "Completed 9"]
        assert follower.wait(timeout=10) == 0
