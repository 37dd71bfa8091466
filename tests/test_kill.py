"""Acknowledged means recorded: a process that is killed loses nothing that it was told had happened."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from undertow import Engine, flow

pytestmark = pytest.mark.real_time

KILLS = 10

# Each line it prints was an acknowledgement: the run's id, written after the outermost call had returned.
WORKER = """
import sys
import anyio
from undertow import Engine, flow, task

@task
async def double(n):
    return 2 * n

@task
def triple(n):
    return 3 * n

@flow
async def part(n):
    return await double(n) + triple(n)

@flow
async def work(n):
    futures = double.map(range(n % 7)) if n % 7 else []
    return await part(n), [await future for future in futures]

async def endlessly():
    for n in range(1_000_000):
        state = await work(n, return_state=True)
        print(state.run_id, 2 + 1 + n % 7, flush=True)

async def main():
    async with Engine(sys.argv[1]), anyio.create_task_group() as group:
        group.start_soon(endlessly)
        group.start_soon(endlessly)

anyio.run(main, backend=sys.argv[2])
"""


def kill_at_random(path: Path, backend: str, instant: float) -> dict[str, int]:
    """Kill a working process that long after its first acknowledgement; what it had acknowledged, with children."""
    command = [sys.executable, "-c", WORKER, str(path), backend]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(instant)
        process.kill()
        printed += process.stdout.read()
    acknowledged = printed[: printed.rfind("\n")].splitlines()
    return {run_id: int(children) for run_id, children in (line.split() for line in acknowledged)}


def states_by_run(path: Path) -> dict[str, tuple[str | None, str]]:
    """Every run in the file, which must be sound: its parent and the type of its state."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        runs = [
            *connection.execute("SELECT id, parent_run_id, state_type FROM flow_runs"),
            *connection.execute("SELECT id, parent_run_id, state_type FROM task_runs"),
        ]
    return {run_id: (parent, kind) for run_id, parent, kind in runs}


@flow
def last() -> None:
    """A flow of the process that comes after all the killed ones."""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_kill(backend: str, tmp_path: Path) -> None:
    """After `kill -9` at any instant the journal is sound, and has every acknowledged run with all that was in it."""
    path = tmp_path / "app.db"
    instants = random.Random(20260101)
    acknowledged: dict[str, int] = {}
    for _ in range(KILLS):
        before = len(acknowledged)
        acknowledged |= kill_at_random(path, backend, instants.uniform(0, 0.1))
        assert len(acknowledged) > before
        states = states_by_run(path)
        family = dict.fromkeys(acknowledged, 0)
        for parent, kind in states.values():
            outermost = parent if parent is None else states[parent][0] or parent
            if outermost in acknowledged:
                assert kind == "COMPLETED"
                family[outermost] += 1
        assert {states[run_id] for run_id in acknowledged} == {(None, "COMPLETED")}
        assert family == acknowledged


# A commit writes down all that has happened by then, also what other runs are doing.
HELD = """
import sys
import anyio
from undertow import Engine, flow, task

@task
async def endless():
    await anyio.sleep_forever()

@flow
async def held():
    await endless()

@flow
async def done():
    pass

async def main():
    async with Engine(sys.argv[1]) as engine:
        engine.start(held)
        await anyio.wait_all_tasks_blocked()
        await done()
        print("recorded", flush=True)
        await anyio.sleep_forever()

anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_killed_runs_end_crashed(backend: str, tmp_path: Path) -> None:
    """What a killed process had not finished is Crashed once another process has opened the journal."""
    path = tmp_path / "app.db"
    command = [sys.executable, "-c", HELD, str(path), backend]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "recorded\n"
        process.kill()
    assert sorted(kind for _, kind in states_by_run(path).values()) == ["COMPLETED", "RUNNING", "RUNNING"]
    with Engine(path):
        last()
    assert sorted(kind for _, kind in states_by_run(path).values()) == ["COMPLETED", "COMPLETED", "CRASHED", "CRASHED"]
