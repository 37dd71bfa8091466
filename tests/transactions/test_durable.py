"""Transactions in durable flows: a crash in the middle of a roll-back, or of a commit, does not end it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.conftest import ListJournal
from undertow import (
    INPUTS,
    Engine,
    JournalFull,
    Part,
    ResultNotSerializable,
    RolledBack,
    flow,
    get_transaction,
    task,
    transaction,
)
from undertow.engine.waking import Reply


class Crash(BaseException):
    """Stands for the death of the process: it ends a hook, the block and the flow, and nothing is said about it."""


events: list[str] = []
"""What ran, and what was called for which result, in order; a crash is marked by `!`."""

crashes: list[str] = []
"""The event at which the process dies next."""

trouble: list[Exception] = []
"""What the block raises, once."""


@pytest.fixture(autouse=True)
def fresh() -> None:
    events.clear()
    crashes.clear()
    trouble.clear()


def note(event: str) -> None:
    """Note an event, and die there if that is what the test wants."""
    if event in crashes:
        crashes.remove(event)
        events.append(f"{event}!")
        raise Crash
    events.append(event)


@task
async def write(x: int) -> int:
    note(f"ran {x}")
    return x


@write.on_rollback
async def undo(part: Part) -> None:
    await anyio.sleep(1)
    note(f"undo {part.result} {part.get('with', '')}".strip())


@write.on_commit
def told(part: Part) -> None:
    note(f"commit {part.result} {part.get('with', '')}".strip())


@task
async def parent(x: int) -> int:
    return await write(x)


@task(on_rollback=lambda part: note("undo what failed"))
async def fails() -> None:
    raise OSError


@flow
async def part_of_it(x: int) -> int:
    await fails(return_state=True)
    return await write(x)


def raise_trouble() -> None:
    if trouble:
        raise trouble.pop()


@flow(durable=True)
async def plain() -> str:
    async with transaction():
        await write(1)
        await write.submit(2)
        await write(3)
        raise_trouble()
    return "committed"


@flow(durable=True)
async def nested() -> str:
    async with transaction() as outer:
        outer.set("with", "outer")
        await part_of_it(1)
        async with transaction() as inner:
            inner.set("with", "inner")
            await parent(2)
        await write(3)
        raise_trouble()
    return "committed"


async def crashed(definition: Any, journal: ListJournal, at: str, error: Exception | None = None) -> str:
    """Run a flow until the process dies; the id of its run, with the story so far taken off the events."""
    crashes.append(at)
    if error is not None:
        trouble.append(error)
    with pytest.raises(Crash):
        await definition()
    run = journal.of(definition.name)[0]
    assert run.type == "CRASHED"
    return run.id


def undone(journal: ListJournal, name: str = "write") -> list[str]:
    """How the runs of a task ended."""
    return [run.history[-1][1] for run in journal.of(name)]


# --- a crash in the middle ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 2, 3])
async def test_a_crash_in_a_roll_back(engine: Engine, journal: ListJournal, at: int) -> None:
    """A roll-back goes on at resume: hooks that had ended are not called again, all others are, and nothing runs anew."""
    run_id = await crashed(plain, journal, f"undo {at}", ValueError("bang"))
    before, events[:] = events[3:], []
    assert before == [*(f"undo {x}" for x in range(3, at, -1)), f"undo {at}!"]
    with pytest.raises(RolledBack, match="ValueError: bang"):
        await engine.resume(run_id)
    assert events == [f"undo {x}" for x in range(at, 0, -1)]
    assert undone(journal) == ["RolledBack"] * 3
    for which in range(3):
        assert journal.story("write", which) == ["Pending", "Running", "Completed", "RolledBack"]
    assert journal.story("plain")[-1] == "Failed"


@pytest.mark.parametrize("at", [1, 2, 3])
async def test_a_crash_in_a_commit(engine: Engine, journal: ListJournal, at: int) -> None:
    """A commit goes on at resume in the same way, and the flow then ends as if nothing had happened."""
    run_id = await crashed(plain, journal, f"commit {at}")
    events.clear()
    assert await engine.resume(run_id) == "committed"
    assert events == [f"commit {x}" for x in range(at, 4)]
    assert undone(journal) == ["Completed"] * 3


async def test_a_second_crash(engine: Engine, journal: ListJournal) -> None:
    """A roll-back that is broken off again and again comes to its end nevertheless."""
    run_id = await crashed(plain, journal, "undo 3", ValueError("bang"))
    for at in (2, 1):
        crashes.append(f"undo {at}")
        with pytest.raises(Crash):
            await engine.resume(run_id)
    with pytest.raises(RolledBack):
        await engine.resume(run_id)
    assert events[3:] == ["undo 3!", "undo 3", "undo 2!", "undo 2", "undo 1!", "undo 1"]


async def test_the_same_exception_again(engine: Engine, journal: ListJournal) -> None:
    """When the block raises again at resume, that exception comes out, as it would have the first time."""
    run_id = await crashed(plain, journal, "undo 2", ValueError("bang"))
    trouble.append(ValueError("bang"))
    with pytest.raises(ValueError, match="bang"):
        await engine.resume(run_id)
    assert events[-2:] == ["undo 2", "undo 1"]


@pytest.mark.parametrize("at", ["undo 3 outer", "undo 2 inner", "undo 1 outer"])
async def test_runs_inside_handed_back_ones(engine: Engine, journal: ListJournal, at: str) -> None:
    """What ran inside a subflow or a task that is handed back is rolled back too, with what was set in its block."""
    run_id = await crashed(nested, journal, at, ValueError("bang"))
    with pytest.raises(RolledBack):
        await engine.resume(run_id)
    expected = [f"undo {x}" for x in ("3 outer", "2 inner", "1 outer")]
    where = expected.index(at)
    assert events[3:] == [*expected[:where], f"{at}!", *expected[where:]]
    assert undone(journal) == ["RolledBack"] * 3
    assert undone(journal, "parent") == ["RolledBack"]


# --- what runs in a block that is rolled back --------------------------------------------------------------------


async def test_nothing_new_runs(engine: Engine, journal: ListJournal) -> None:
    """In a block whose roll-back had begun no new run begins, at whatever depth; asked for, it raises RolledBack."""
    further: list[Callable[[], Any]] = []

    async def in_a_block() -> None:
        async with transaction():
            await write(10)

    async def an_item() -> None:
        async for _ in count():
            events.append("an item")

    @task
    async def count() -> Any:
        events.append("ran count")
        yield 1

    @flow(durable=True, on_mismatch="accept")
    async def outer() -> None:
        async with transaction():
            await write(1)
            for more in further:
                await more()
            raise_trouble()

    run_id = await crashed(outer, journal, "undo 1", ValueError("bang"))
    for more in (lambda: write(11), lambda: write.submit(12), lambda: part_of_it(13), in_a_block, an_item):
        events.clear()
        further[:] = [more]
        crashes.append("undo 1")
        with pytest.raises(Crash):
            await engine.resume(run_id)
        assert events == ["undo 1!"], more


async def test_what_came_from_the_cache(engine: Engine, journal: ListJournal) -> None:
    """A run whose result came from the cache is another's to undo: nothing is undone for it, at resume either."""
    kept = write.with_options(cache_policy=INPUTS)
    await kept(10)

    @flow(durable=True)
    async def outer() -> None:
        async with transaction():
            await write(1)
            assert (await kept(10, return_state=True)).name == "Cached"
            raise_trouble()

    run_id = await crashed(outer, journal, "undo 1", ValueError("bang"))
    with pytest.raises(RolledBack):
        await engine.resume(run_id)
    assert events == ["ran 10", "ran 1", "undo 1!", "undo 1"]


# --- data --------------------------------------------------------------------------------------------------------


async def test_data_survives(engine: Engine, journal: ListJournal) -> None:
    """What was `set` by a task that is not run again, or by a hook, is there for the hooks after a crash."""

    @task
    async def setting() -> None:
        block = get_transaction()
        assert block is not None
        block.set("with", {"path": ("a", 1)})

    @flow(durable=True)
    async def outer() -> None:
        async with transaction("named"):
            await write(1)
            await write(2)
            await setting()
            raise_trouble()

    run_id = await crashed(outer, journal, "undo 1 {'path': ('a', 1)}", ValueError("bang"))
    with pytest.raises(RolledBack):
        await engine.resume(run_id)
    assert events[-1] == events[-2].removesuffix("!")


async def test_data_that_can_not_be_written(engine: Engine) -> None:
    """In a durable flow `set` refuses what can't be recorded, and the block goes on without it."""

    @flow(durable=True)
    async def outer() -> Any:
        async with transaction() as block:
            block.set("with", "text")
            with pytest.raises(ResultNotSerializable):
                block.set("handle", object())
            block.set("more", 1)
            return block.get("handle", "nothing"), block.get("more")

    assert await outer() == ("nothing", 1)


# --- attempts ----------------------------------------------------------------------------------------------------


async def test_another_attempt_of_the_flow(engine: Engine, journal: ListJournal) -> None:
    """A retry runs a block anew that was rolled back in the attempt before: what was undone is done again."""
    trouble.append(ValueError("bang"))
    assert await plain.with_options(retries=1)() == "committed"
    one = ["ran 1", "ran 2", "ran 3"]
    assert events == [*one, "undo 3", "undo 2", "undo 1", *one, "commit 1", "commit 2", "commit 3"]


async def test_another_attempt_of_a_task(engine: Engine) -> None:
    """A block in a task of a durable flow is run anew when the task is retried, as it is in any other flow."""

    @task(retries=1)
    async def twice() -> str:
        async with transaction():
            await write(1)
            raise_trouble()
        return "done"

    @flow(durable=True)
    async def outer() -> str:
        return await twice()

    trouble.append(ValueError("bang"))
    assert await outer() == "done"
    assert events == ["ran 1", "undo 1", "ran 1", "commit 1"]


async def test_retrying_a_run_that_was_rolled_back(engine: Engine, journal: ListJournal) -> None:
    """A run that failed for its block's sake, which was rolled back to the end, can be run again as a whole."""
    trouble.append(ValueError("bang"))
    state = await nested(return_state=True)
    events.clear()
    assert await engine.retry(str(state.run_id)) == "committed"
    assert events == ["ran 1", "ran 2", "ran 3", "commit 1 outer", "commit 2 inner", "commit 3 outer"]


async def test_a_roll_back_that_was_survived(engine: Engine, journal: ListJournal) -> None:
    """A roll-back that the flow had caught is neither repeated nor forgotten when the flow is resumed after a crash."""

    @flow(durable=True)
    async def outer() -> str:
        try:
            await plain.fn()
        except (ValueError, RolledBack):
            return f"instead: {await write(4)}"
        return "committed"

    trouble.append(ValueError("bang"))
    crashes.append("ran 4")
    with pytest.raises(Crash):
        await outer()
    events.clear()
    assert await engine.resume(journal.of("outer")[0].id) == "instead: 4"
    assert events == ["ran 4"]


# --- a journal that fails ----------------------------------------------------------------------------------------


async def test_a_full_disk(engine: Engine, journal: ListJournal, caplog: pytest.LogCaptureFixture) -> None:
    """When the journal can't be written the hooks are called all the same, and the block's own exception comes out."""

    def full() -> Reply[None]:
        reply: Reply[None] = Reply()
        reply.settle(error=JournalFull("app.db", "the disk is full", "Make room."))
        return reply

    @flow(durable=True)
    async def outer() -> None:
        async with transaction():
            await write(1)
            await write(2)
            journal.commit = full  # type: ignore[method-assign]
            raise ValueError("bang")

    with pytest.raises(ValueError, match="bang"):
        await outer()
    assert events[2:] == ["undo 2", "undo 1"]
    assert "the disk is full" in caplog.text


# --- real deaths -------------------------------------------------------------------------------------------------

SCRIPT = """
import os, sys
import anyio
from undertow import Engine, flow, get_transaction, task, transaction

def note(event):
    print(event, flush=True)
    if event == os.environ.get("DIE"):
        os._exit(9)

def end():
    if "FAIL" in os.environ:
        raise ValueError("bang")

@task
def write(x):
    get_transaction().set("last", x)
    note(f"ran {x}")
    return x

@write.on_rollback
def undo(part):
    note(f"undo {part.result} {part.get('last')}")

@write.on_commit
def told(part):
    note(f"commit {part.result} {part.get('last')}")

@flow
def inside(x):
    with transaction():
        return write.submit(x).result()

@flow(durable=True)
async def outer():
    async with transaction():
        await write.submit(1)
        await inside.submit(2)
        await write.submit(3)
        end()

@flow(durable=True)
def outer_here():
    with transaction():
        write(1), inside(2), write.submit(3).result()
        end()

async def main():
    async with Engine(sys.argv[1]) as engine:
        if "DIE" in os.environ:
            await outer() if sys.argv[3] == "async" else await anyio.to_thread.run_sync(outer_here)
        [row] = engine.journal.query("SELECT id, state_name FROM flow_runs WHERE parent_run_id IS NULL")
        print(row["state_name"])
        try:
            await engine.resume(row["id"])
        except Exception as error:
            print(repr(error))
        for row in engine.journal.query(
            "SELECT group_concat(states.name) AS names FROM states JOIN task_runs ON id = run_id GROUP BY id ORDER BY id"
        ):
            print(row["names"])

anyio.run(main, backend=sys.argv[2])
"""


@pytest.fixture
def python(tmp_path: Path) -> Callable[..., tuple[int, list[str]]]:
    """Runs the script in a process of its own: how it ended, and what it printed."""

    def run(*given: str, **environment: str) -> tuple[int, list[str]]:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / "app.db"), *given]
        ended = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=30)
        return ended.returncode, ended.stdout.splitlines()

    return run


BOTH = pytest.mark.parametrize(("backend", "kind"), [("asyncio", "async"), ("trio", "sync")])
COMPLETED = "Pending,Running,Completed"


@BOTH
def test_dying_in_a_roll_back(python: Any, backend: str, kind: str) -> None:
    """After the death of the process inside a hook another one ends the roll-back, and the journal tells it exactly."""
    assert python(backend, kind, FAIL="1", DIE="undo 2 2")[1][3:] == ["undo 3 3", "undo 2 2"]
    code, printed = python(backend, kind)
    assert printed[:3] == ["Crashed", "undo 2 2", "undo 1 3"]
    assert printed[3] == "RolledBack('The transaction was rolled back: ValueError: bang')"
    assert printed[4:] == [f"{COMPLETED},RolledBack"] * 3
    assert code == 0


@BOTH
def test_dying_in_a_block(python: Any, backend: str, kind: str) -> None:
    """A block that was broken off is made whole when it is resumed: all that ran in it is committed, once."""
    assert python(backend, kind, DIE="ran 3") == (9, ["ran 1", "ran 2", "ran 3"])
    code, printed = python(backend, kind)
    assert printed[:5] == ["Crashed", "ran 3", "commit 1 3", "commit 2 2", "commit 3 3"]
    assert printed[5:7] == [COMPLETED] * 2
    assert code == 0


def test_dying_in_a_block_that_fails_later(python: Any) -> None:
    """A block that was broken off, and raises when it is resumed, rolls back what it had done before too."""
    assert python("asyncio", "async", DIE="ran 3") == (9, ["ran 1", "ran 2", "ran 3"])
    code, printed = python("asyncio", "async", FAIL="1")
    assert printed[:5] == ["Crashed", "ran 3", "undo 3 3", "undo 2 2", "undo 1 3"]
    assert printed[5] == "ValueError('bang')"
    assert printed[6:8] == [f"{COMPLETED},RolledBack"] * 2
    assert code == 0
