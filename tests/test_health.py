"""Health: what a probe is told about an engine, in time and whatever is the matter."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from undertow import Engine, EngineClosed, JournalClosed, flow, task
from undertow.engine.waking import Reply

MakeEngine = Callable[..., Engine]


@task(limits=["line"])
async def call(gate: anyio.Event) -> None:
    await gate.wait()


@flow
async def calls(gate: anyio.Event, number: int) -> None:
    for _ in range(number):
        call.submit(gate)


@task
async def quick() -> int:
    return 1


# --- well ------------------------------------------------------------------------------------------------------


async def test_a_healthy_engine(make_engine: MakeEngine) -> None:
    """A healthy engine says so, with what runs and what waits for which limit."""
    gate = anyio.Event()
    async with make_engine(limits={"line": 1, "spare": 1}) as engine:
        run = engine.start(calls, gate, 3)
        await anyio.wait_all_tasks_blocked()
        health = await engine.health()
        assert (health.ok, health.problems, health.closing) == (True, (), False)
        assert health.journal_writable
        assert health.running_flows == 1
        assert health.waiting == {"line": 2, "spare": 0}
        gate.set()
        await run
        assert (await engine.health()).waiting == {"line": 0, "spare": 0}


@pytest.mark.real_time
async def test_health_as_json(tmp_path: Path) -> None:
    """`to_dict()` is what a probe's handler sends: plain JSON, with the journal's path and its backlog."""
    async with Engine(tmp_path / "app.db") as engine:
        said = json.loads(json.dumps((await engine.health()).to_dict()))
    assert said == {
        "ok": True,
        "problems": [],
        "journal": str(tmp_path / "app.db"),
        "journal_writable": True,
        "backlog": 0,
        "oldest_unwritten_seconds": None,
        "running_flows": 0,
        "waiting": {},
        "schedules": 0,
        "closing": False,
    }


@pytest.mark.real_time
async def test_asking_leaves_nothing(tmp_path: Path) -> None:
    """Health really writes to the journal, each time, and leaves nothing in it."""
    async with Engine(tmp_path / "app.db") as engine:
        for _ in range(3):
            assert (await engine.health()).ok
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        assert connection.execute("SELECT count(*) FROM result").fetchone() == (0,)


# --- not well --------------------------------------------------------------------------------------------------


@pytest.mark.real_time
async def test_a_journal_that_is_locked(tmp_path: Path) -> None:
    """While another holds the journal's lock, health says within its time that nothing is written, and what waits."""
    async with Engine(tmp_path / "app.db") as engine:
        with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            engine.start(quick)
            start = time.monotonic()
            health = await engine.health(timeout=0.2)
            assert time.monotonic() - start < 1.5
            other.execute("ROLLBACK")
        assert (health.ok, health.journal_writable) == (False, False)
        assert health.problems == ("The journal has not committed within 0.2 s.",)
        assert (await engine.health(timeout=20)).ok


@pytest.mark.real_time
async def test_a_backlog(tmp_path: Path) -> None:
    """What waits to be written is counted, with how long it has waited."""
    async with Engine(tmp_path / "app.db") as engine:
        with closing(sqlite3.connect(tmp_path / "app.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await engine.health(timeout=0.1)  # by now the service waits for the lock
            runs = [engine.start(quick) for _ in range(5)]
            health = await engine.health(timeout=0.1)
            other.execute("ROLLBACK")
        assert health.backlog == 5
        assert health.oldest_unwritten_seconds is not None
        assert 0 < health.oldest_unwritten_seconds < 20
        assert [await run for run in runs] == [1] * 5


async def test_a_journal_that_raises(make_engine: MakeEngine, journal: Any) -> None:
    """Whatever a journal raises is told as a problem, in one line, and is not raised."""
    async with make_engine() as engine:
        for error in (JournalClosed("app.db", "it is closed", "Open it."), ValueError("no such disk")):
            reply: Reply[None] = Reply()
            reply.settle(error=error)
            journal.commit = lambda reply=reply: reply
            health = await engine.health()
            assert not health.ok
            assert len(health.problems) == 1
            assert str(error) in health.problems[0]
            del journal.commit


async def test_a_crowded_journal(make_engine: MakeEngine, journal: Any) -> None:
    """An engine whose new runs wait for the journal is not healthy, though it writes."""
    async with make_engine() as engine:
        journal.crowded = True
        health = await engine.health()
        assert (health.ok, health.journal_writable) == (False, True)


async def test_a_slow_answer(make_engine: MakeEngine, journal: Any) -> None:
    """A journal that does not answer takes two seconds of a probe, and no more."""
    async with make_engine() as engine:
        journal.commit = Reply
        start = anyio.current_time()
        health = await engine.health()
        assert anyio.current_time() - start == pytest.approx(2)
        assert health.problems == ("The journal has not committed within 2 s.",)
        del journal.commit


async def test_an_engine_that_is_being_closed(make_engine: MakeEngine) -> None:
    """From when its closing begins an engine is not healthy and starts no more runs; those it has may end in time."""
    seen: list[Any] = []
    engine = make_engine(grace_seconds=10)

    @flow
    async def last() -> str:
        await anyio.sleep(5)
        seen.append(await engine.health())
        with pytest.raises(EngineClosed):
            engine.start(quick)
        return "done"

    async with engine:
        run = engine.start(last)
    assert run.state.result() == "done"
    [health] = seen
    assert health.closing
    assert health.problems == ("The engine is being closed.",)


@pytest.mark.real_time
async def test_an_engine_that_is_not_open(tmp_path: Path) -> None:
    """An engine that is not open, not yet or not any more, is not healthy, and says so."""
    engine = Engine(tmp_path / "app.db")
    assert "The engine is not open." in (await engine.health()).problems
    async with engine:
        assert (await engine.health()).ok
    health = await engine.health()
    assert "The engine is not open." in health.problems
    assert not health.journal_writable
