"""Writing the journal: acknowledged means recorded, in groups of any size, beside other writers."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import anyio
import anyio.to_thread
import pytest

from undertow import Engine, Future, flow, task
from undertow.storage import backlog, writing
from undertow.storage.rows import MAX_ROWS, statement

pytestmark = pytest.mark.real_time


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """Rows as another program sees them, through a read-only connection of its own."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


@contextmanager
def write_lock(path: Path) -> Iterator[None]:
    """Another program holds the write lock of the file, so that the journal has to wait."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@task
async def double(n: int) -> int:
    return 2 * n


@task
def triple(n: int) -> int:
    return 3 * n


@flow
async def doubled(n: int) -> int:
    return await double(n)


# --- acknowledged means recorded -------------------------------------------------------------------------------


@flow
async def fan_out(n: int) -> int:
    """A flow with children of every form."""
    futures = [double.submit(n), triple.submit(n), *double.map([n, n])]
    return sum([await future for future in futures]) + await double(n) + triple(n)


@flow
def fan_out_here(n: int) -> int:
    """The same, in a plain function."""
    futures: list[Future[int]] = [double.submit(n), triple.submit(n), *double.map([n, n])]
    return sum(future.result() for future in futures) + triple(n) + triple(n)


@flow
async def nested(n: int) -> int:
    return await fan_out(n) + await fan_out.submit(n)


@flow
def nested_here(n: int) -> int:
    return fan_out_here(n) + fan_out_here.submit(n).result()


@flow
async def failing(n: int) -> None:
    raise ValueError(await fan_out(n))


@flow
def failing_here(n: int) -> None:
    raise ValueError(fan_out_here(n))


@pytest.mark.parametrize("outermost", [fan_out, nested, failing, double])
async def test_acknowledged_is_recorded(outermost: Callable[..., Any], path: Path) -> None:
    """When an outermost call returns in async code, another connection sees it and all inside it ended."""
    async with Engine(path):
        for calls in range(1, 6):
            await outermost(calls, return_state=True)
            assert_all_ended(path, calls)


@pytest.mark.parametrize("outermost", [fan_out_here, nested_here, failing_here, triple, double])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_acknowledged_is_recorded_in_threads(outermost: Callable[..., Any], backend: str, path: Path) -> None:
    """When an outermost call in a plain thread returns, another connection sees it and all inside it ended."""
    with Engine(path, backend=backend):
        for calls in range(1, 6):
            outermost(calls, return_state=True)
            assert_all_ended(path, calls)


async def test_inline_task_is_recorded(path: Path) -> None:
    """A sync task called on the event loop is recorded when the call returns."""
    async with Engine(path):
        triple(2)
        assert_all_ended(path, 1)


async def test_background_run_is_recorded(path: Path) -> None:
    """When the result of a background run is there, the run is recorded in its end."""
    async with Engine(path) as engine:
        assert await engine.start(doubled, 3) == 6
        assert_all_ended(path, 1)


async def test_cancelled_flow_is_recorded(path: Path) -> None:
    """A flow that its caller cancels is recorded as Cancelled, with what it was doing, when the caller goes on."""

    @task
    async def endless() -> None:
        begun.set()
        await anyio.sleep_forever()

    @flow
    async def waiting() -> None:
        await endless()

    begun = anyio.Event()
    async with Engine(path):
        async with anyio.create_task_group() as group:
            group.start_soon(waiting)
            await begun.wait()
            group.cancel_scope.cancel()
        assert rows(path, "SELECT state_type FROM flow_runs") == [("CANCELLED",)]
        assert rows(path, "SELECT state_type FROM task_runs") == [("CANCELLED",)]


def assert_all_ended(path: Path, outermost: int) -> None:
    runs = "SELECT parent_run_id, state_type FROM flow_runs UNION ALL SELECT parent_run_id, state_type FROM task_runs"
    assert rows(path, f"SELECT count(*) FROM ({runs}) WHERE parent_run_id IS NULL") == [(outermost,)]
    assert rows(path, f"SELECT count(*) FROM ({runs}) WHERE state_type NOT IN ('COMPLETED', 'FAILED')") == [(0,)]


# --- what is kept comes first ----------------------------------------------------------------------------------


@flow(durable=True, persist_result=True)
async def kept(n: int) -> int:
    return await double(n)


UNPROVEN = """
SELECT kind FROM run WHERE kind = 'flow' AND (
    state_type = 'COMPLETED' AND NOT EXISTS (SELECT 1 FROM result WHERE key = 'run:' || run.id)
    OR NOT EXISTS (SELECT 1 FROM result WHERE key = 'start:' || run.id))
"""


async def test_what_is_kept_comes_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At no instant is a run's end on disk without its result, or a durable run without what it takes to resume it."""
    found: list[list[Any]] = []

    class Watched(writing.GroupConnection):
        """Looks at the file whenever rows of runs have been written."""

        def execute(self, *statement: Any) -> sqlite3.Cursor:
            cursor = super().execute(*statement)
            if statement[0].startswith("INSERT INTO run "):
                found.append(rows(path, UNPROVEN))
            return cursor

    monkeypatch.setattr(writing, "GroupConnection", Watched)
    async with Engine(path):
        assert await kept(2) == 4
    assert len(found) > 1
    assert not any(found)


# --- groups ----------------------------------------------------------------------------------------------------


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> SimpleQueue[int]:
    """Hears the size of each group when the writer has taken it and begins to write."""
    sizes: SimpleQueue[int] = SimpleQueue()

    def noted(size: int) -> str:
        sizes.put(size)
        return statement(size)

    monkeypatch.setattr(writing, "statement", noted)
    return sizes


async def test_groups_of_many_runs(path: Path, groups: SimpleQueue[int]) -> None:
    """A group of more runs than SQLite takes in one statement is written in several, and each run has one row."""
    total = 2 * MAX_ROWS + 10

    @flow
    async def wide() -> None:
        with write_lock(path):
            for future in [double.submit(n) for n in range(total)]:
                await future

    async with Engine(path):
        await wide()
    sizes = [groups.get() for _ in range(groups.qsize())]
    assert max(sizes) == MAX_ROWS
    assert max(sizes) == MAX_ROWS
    assert rows(path, "SELECT count(*), count(DISTINCT id) FROM task_runs") == [(total, total)]
    assert rows(path, "SELECT DISTINCT state_type FROM task_runs") == [("COMPLETED",)]


async def test_crowded_journal_makes_new_runs_wait(
    path: Path, groups: SimpleQueue[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While more waits to be written than the journal's bound, no new run begins; nothing is dropped."""
    monkeypatch.setattr(backlog, "MAX_RUNS", 10)
    begun: list[int] = []

    @flow
    async def wide() -> None:
        await double.map(range(50))

    @flow
    async def late() -> None:
        begun.append(1)

    async with Engine(path) as engine, anyio.create_task_group() as group:
        await engine.journal.tidy()  # type: ignore[attr-defined] # it tidies up by itself, too, and needs the lock for that
        with write_lock(path):
            group.start_soon(doubled, 1)
            await anyio.to_thread.run_sync(groups.get)  # from now on the writer waits for the lock
            group.start_soon(wide)
            await anyio.wait_all_tasks_blocked()
            assert engine.journal.crowded
            group.start_soon(late)
            await anyio.wait_all_tasks_blocked()
            assert begun == []
    assert begun == [1]
    assert rows(path, "SELECT state_type, count(*) FROM flow_runs GROUP BY 1") == [("COMPLETED", 3)]
    assert rows(path, "SELECT state_type, count(*) FROM task_runs GROUP BY 1") == [("COMPLETED", 51)]


def test_close_writes_the_rest(path: Path) -> None:
    """Closing an engine writes down all that happened, also what nobody waited for."""

    @flow
    async def forgotten() -> None:
        for n in range(500):
            await double(n)
        begun.set()
        await anyio.sleep_forever()

    begun = threading.Event()
    with Engine(path, grace_seconds=0) as engine:
        engine.start(forgotten)
        begun.wait(10)
    assert rows(path, "SELECT state_type FROM flow_runs") == [("CANCELLED",)]
    assert rows(path, "SELECT count(*) FROM task_runs WHERE state_type = 'COMPLETED'") == [(500,)]


# --- other writers ---------------------------------------------------------------------------------------------


async def test_two_engines_on_one_file(path: Path) -> None:
    """Two engines of one process may write to the same file at the same time."""

    async def work(engine: Engine) -> None:
        with engine.active():
            for n in range(50):
                await doubled(n)

    async with Engine(path) as one, Engine(path) as two, anyio.create_task_group() as group:
        group.start_soon(work, one)
        group.start_soon(work, two)
    assert rows(path, "SELECT state_type, count(*) FROM flow_runs GROUP BY 1") == [("COMPLETED", 100)]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


WRITER = """
import sys
import anyio
from undertow import Engine, flow, task

@task
async def step(n): return n

@flow
async def work(n): return [await step(n), await step(n)]

async def main():
    async with Engine(sys.argv[1]):
        for n in range(100):
            await work(n)

anyio.run(main, backend=sys.argv[2])
"""


def test_two_processes_on_one_file(path: Path) -> None:
    """Two processes may create and write one file at the same time, and each of their runs is there."""
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), backend], stderr=subprocess.PIPE, text=True)
        for backend in ("asyncio", "trio", "asyncio")
    ]
    assert [writer.communicate(timeout=60)[1] for writer in writers] == ["", "", ""]
    assert rows(path, "SELECT state_type, count(*) FROM flow_runs GROUP BY 1") == [("COMPLETED", 300)]
    assert rows(path, "SELECT state_type, count(*) FROM task_runs GROUP BY 1") == [("COMPLETED", 600)]
    assert len(rows(path, "SELECT DISTINCT owner FROM flow_runs")) == 3
