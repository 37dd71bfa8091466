"""`Engine(recover=True)`: durable runs that were broken off go on by themselves, each in one process."""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from undertow import Engine, flow, task
from undertow.engine import recovery
from undertow.engine.ports import Past
from undertow.engine.waking import Reply
from undertow.storage import SQLiteJournal, service

pytestmark = pytest.mark.real_time

ran: list[str] = []
holding: set[str] = set()
"""Journeys that stop half way."""
arrived: defaultdict[str, threading.Event] = defaultdict(threading.Event)
"""Set when a journey has come to a stage, or to its end."""


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    for each in (ran, holding, arrived):
        each.clear()


@task
async def stage(name: str) -> str:
    ran.append(name)
    return name


@flow(durable=True)
async def journey(name: str) -> str:
    first = await stage(f"{name} 1")
    arrived[f"{name} half way"].set()
    if name in holding:
        await anyio.sleep_forever()
    second = await stage(f"{name} 2")
    arrived[f"{name} over"].set()
    return first + second


@flow
async def fleeting(name: str) -> str:
    return await journey.fn(name)


@task
def sync_stage(name: str) -> str:
    ran.append(name)
    return name


@flow(durable=True)
def sync_journey(name: str) -> str:
    first = sync_stage(f"{name} 1")
    arrived[f"{name} half way"].set()
    if name in holding:
        assert arrived[f"{name} closing"].wait(10)
    second = sync_stage(f"{name} 2")
    arrived[f"{name} over"].set()
    return first + second


async def at(place: str) -> None:
    """Wait until a journey is there, and all that it did on its way is written."""
    assert await anyio.to_thread.run_sync(arrived[place].wait, 10), f"nobody came to {place!r}"


def rows(engine: Engine, sql: str) -> list[Any]:
    """What a query on the open journal gives."""
    return [tuple(row.values()) for row in engine.journal.query(sql)]  # type: ignore[attr-defined]


def left_behind(engine: Engine, to: Path) -> Path:
    """A copy of the open journal as its process would leave it, if it died now."""
    rows(engine, "SELECT 1")
    with closing(sqlite3.connect(engine.journal.path)) as connection:  # type: ignore[attr-defined]
        to.write_bytes(connection.serialize())
    with closing(sqlite3.connect(to)) as connection, connection:
        connection.execute("UPDATE owner SET started = 'long ago'")
    return to


async def dead_half_way(path: Path, *names: str) -> Path:
    """A journal whose process died while these journeys were half way."""
    holding.update(names)
    async with Engine(path.with_suffix(".first"), grace_seconds=0) as engine:
        for name in names:
            engine.start(journey, name)
            await at(f"{name} half way")
        left_behind(engine, path)
    holding.clear()
    ran.clear()
    arrived.clear()
    return path


# --- at the next open --------------------------------------------------------------------------------------------------


async def test_at_the_next_open(tmp_path: Path) -> None:
    """A run whose process died goes on as soon as an engine that recovers is opened, after what was recorded."""
    path = await dead_half_way(tmp_path / "app.db", "one", "two")
    async with Engine(path, recover=True) as engine:
        await at("one over")
        await at("two over")
    assert sorted(ran) == ["one 2", "two 2"]
    with closing(sqlite3.connect(path)) as connection:
        states = list(
            connection.execute("SELECT states.name FROM states JOIN flow_runs ON run_id = id ORDER BY id, seq")
        )
    told = [name for (name,) in states]
    assert told == ["Pending", "Running", "Crashed", "Resuming", "Retrying", "Completed"] * 2
    assert engine.core.is_open is False


async def test_in_a_script(tmp_path: Path) -> None:
    """`with Engine(..., recover=True)` recovers too, in the engine's own thread, and waits for what it recovered."""
    path = await dead_half_way(tmp_path / "app.db", "one")
    await anyio.to_thread.run_sync(recover_in_a_script, path)
    assert ran == ["one 2"]


def recover_in_a_script(path: Path) -> None:
    with Engine(path, recover=True):
        assert arrived["one over"].wait(10)


async def test_only_if_asked(tmp_path: Path) -> None:
    """Without `recover=True`, or with `max_recoveries=0`, broken-off runs stay as they are."""
    path = await dead_half_way(tmp_path / "app.db", "one")
    for options in ({}, {"recover": True, "max_recoveries": 0}):
        async with Engine(path, **options) as engine:  # type: ignore[arg-type]
            assert await journey("two") == "two 1two 2"
            assert rows(
                engine, "SELECT state_name FROM flow_runs WHERE json_extract(parameters, '$.name') = 'one'"
            ) == [("Crashed",)]


async def test_what_is_not_recovered(tmp_path: Path) -> None:
    """Runs that completed, failed, were cancelled by somebody, or are not durable, are not taken up again."""
    holding.update(["cancelled", "fleeting"])
    async with Engine(tmp_path / "first.db", grace_seconds=0) as engine:
        await journey("completed")
        future = engine.start(journey, "cancelled")
        await at("cancelled half way")
        future.cancel()
        await future.wait_async()
        with pytest.raises(TypeError):
            await journey(3)  # type: ignore[call-overload]
        engine.start(fleeting, "fleeting")
        await at("fleeting half way")
        path = left_behind(engine, tmp_path / "app.db")
    path_and_one = await dead_half_way(tmp_path / "other.db", "one")
    with closing(sqlite3.connect(path)) as target:
        target.execute("ATTACH ? AS other", (str(path_and_one),))
        for table in ("run", "result"):
            target.execute(f"INSERT INTO {table} SELECT * FROM other.{table}")
        target.commit()
    holding.clear()
    async with Engine(path, recover=True):
        await at("one over")
    assert ran == ["one 2"]


# --- when an engine was closed -----------------------------------------------------------------------------------------


async def test_closing_interrupts(tmp_path: Path) -> None:
    """A run that the closing of its engine cut short is Interrupted, and goes on when an engine is open again."""
    holding.add("one")
    async with Engine(tmp_path / "app.db", grace_seconds=0) as engine:
        engine.start(journey, "one")
        await at("one half way")
    holding.clear()
    async with Engine(tmp_path / "app.db", recover=True) as engine:
        await at("one over")
        names = [
            name
            for (name,) in rows(engine, "SELECT states.name FROM states JOIN flow_runs ON run_id = id ORDER BY seq")
        ]
        assert names[:4] == ["Pending", "Running", "Interrupted", "Resuming"]
    assert ran == ["one 1", "one 2"]


def test_closing_interrupts_a_script(tmp_path: Path) -> None:
    """The same holds for `with Engine(...)` and the runs in its thread, also of `def` flows, once their thread is free."""
    holding.update(["one", "two"])
    with Engine(tmp_path / "app.db", grace_seconds=0) as engine:
        engine.start(journey, "one")
        engine.start(sync_journey, "two")
        assert arrived["one half way"].wait(10)
        assert arrived["two half way"].wait(10)
        engine.core.observers.append(lambda run: arrived["two closing"].set() if run.type == "CANCELLED" else None)
    assert sorted(ran) == ["one 1", "two 1"]
    holding.clear()
    with Engine(tmp_path / "app.db", recover=True):
        assert arrived["one over"].wait(10)
        assert arrived["two over"].wait(10)
    assert sorted(ran) == ["one 1", "one 2", "two 1", "two 2"]


# --- how often, and what can't go on -----------------------------------------------------------------------------------


async def test_max_recoveries(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run that always brings its process down goes on `max_recoveries` times; then it is left, and the log says how to go on."""
    path = await dead_half_way(tmp_path / "app.db", "one")
    holding.add("one")
    for life in range(2):
        async with Engine(path, recover=True, max_recoveries=2, grace_seconds=0) as engine:
            await at("one half way")
            arrived.clear()
            path = left_behind(engine, tmp_path / f"{life}.db")
    caplog.clear()
    async with Engine(path, recover=True, max_recoveries=2) as engine:
        await until_looked(engine)
        [(run_id, state)] = rows(engine, "SELECT id, state_name FROM flow_runs")
        assert state == "Crashed"
        assert f"Run {run_id} of journey was recovered 2 times" in caplog.text
        assert f"undertow resume {run_id}" in caplog.text
        holding.clear()
        assert await engine.resume(run_id) == "one 1one 2"


async def until_looked(engine: Engine) -> None:
    """Return when the engine has looked for runs to recover: it does so before it answers what is asked after it."""
    await anyio.wait_all_tasks_blocked()
    rows(engine, "SELECT 1")
    await anyio.wait_all_tasks_blocked()


@pytest.mark.parametrize("source", [None, "1 / 0", "from undertow import flow"], ids=["gone", "raises", "renamed"])
async def test_a_flow_that_can_not_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, source: str | None
) -> None:
    """A run whose flow can't be loaded is left as it is, the log names both, and the others go on."""
    path = await dead_half_way(tmp_path / "app.db", "one", "two")
    monkeypatch.syspath_prepend(tmp_path)
    if source is not None:
        (tmp_path / "voyage.py").write_text(source)
    with closing(sqlite3.connect(path)) as connection, connection:
        [(first,)] = connection.execute("SELECT min(id) FROM flow_runs").fetchall()
        text = b"tests.test_recovery.journey" if __name__.startswith("tests.") else b"test_recovery.journey"
        renamed = b"voyage.".ljust(len(text), b"x")
        connection.execute(
            "UPDATE result SET value = CAST(replace(value, ?, ?) AS BLOB) WHERE key = 'start:' || ?",
            (text, renamed, first),
        )
    async with Engine(path, recover=True) as engine:
        await at("two over")
        await until_looked(engine)
        assert rows(engine, "SELECT state_name FROM flow_runs ORDER BY id")[0] == ("Crashed",)
    sys.modules.pop("voyage", None)
    assert first in caplog.text
    assert renamed.decode() in caplog.text
    assert ran == ["two 2"]


async def test_a_flow_that_can_not_be_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A run that can't even be made again, because of any error in the user's code, harms neither the engine nor the others."""
    names = ["first"]

    @flow(durable=True, flow_run_name=lambda: names.pop())
    async def nameless() -> None:
        arrived["nameless"].set()
        await anyio.sleep_forever()

    async with Engine(tmp_path / "first.db", grace_seconds=0) as engine:
        engine.start(nameless)
        await at("nameless")
        holding.add("one")
        engine.start(journey, "one")
        await at("one half way")
        path = left_behind(engine, tmp_path / "app.db")
    holding.clear()
    async with Engine(path, recover=True) as engine:
        await at("one over")
        assert rows(engine, "SELECT state_name FROM flow_runs WHERE flow = 'nameless'") == [("Crashed",)]
        assert await journey("two") == "two 1two 2"
    assert "pop from empty list" in caplog.text


# --- at the same moment ------------------------------------------------------------------------------------------------


async def test_a_peer_that_was_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A run that another process took first is no error, and is taken over when that process dies too."""
    monkeypatch.setattr(recovery, "RECOVERY_SECONDS", 0.02)
    monkeypatch.setattr(service, "PEER_SECONDS", 0.02)
    path = await dead_half_way(tmp_path / "app.db", "one")
    faster = SQLiteJournal(path)

    class Slower(SQLiteJournal):
        """A journal that is asked for a run just after another process has taken it."""

        lost = threading.Event()

        def claim(self, *question: Any) -> Reply[Any]:
            if not self.lost.is_set():
                faster.claim(*question).wait()
                self.lost.set()
            return super().claim(*question)

    faster.open()
    async with Engine(Slower(path), recover=True):
        assert await anyio.to_thread.run_sync(Slower.lost.wait, 10)
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(
                "UPDATE owner SET started = 'long ago' WHERE id = (SELECT owner FROM run WHERE kind = 'flow')"
            )
        await at("one over")
    faster.close()
    assert ran == ["one 2"]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_resume_that_is_cancelled_at_once(tmp_path: Path) -> None:
    """A resume that is cancelled when it has just taken the run leaves it Cancelled, to be resumed again."""
    path = await dead_half_way(tmp_path / "app.db", "one")

    class Cancelling(SQLiteJournal):
        """A journal that has whoever takes a run cancelled at the next moment."""

        def past(self, root: str) -> Reply[Past]:
            scope.cancel()
            return super().past(root)

    async with Engine(Cancelling(path)) as engine:
        [(run_id,)] = rows(engine, "SELECT id FROM flow_runs")
        with anyio.CancelScope() as scope:
            await engine.resume(run_id)
        assert rows(engine, "SELECT state_name FROM flow_runs") == [("Cancelled",)]
        scope = anyio.CancelScope()  # nobody's
        assert await engine.resume(run_id) == "one 1one 2"
    assert ran == ["one 2"]


# --- closing meanwhile -------------------------------------------------------------------------------------------------


async def test_closing_while_a_run_is_taken_up(tmp_path: Path) -> None:
    """An engine that is closed at the moment in which it takes up a run does close, and the run goes on the next time."""
    path = await dead_half_way(tmp_path / "app.db", "one")

    class Lingering(SQLiteJournal):
        """A journal that lets the recovery go on only when the engine is being closed."""

        recovering = threading.Event()

        def past(self, root: str) -> Reply[Past]:
            self.recovering.set()
            lock = engine.core.portal._lock
            while not lock.locked():
                os.sched_yield()
            return super().past(root)

    engine = Engine(Lingering(path), recover=True, grace_seconds=0)
    holding.add("one")

    def script() -> None:
        with engine:
            assert Lingering.recovering.wait(10)

    await anyio.to_thread.run_sync(script)
    holding.clear()
    async with Engine(path, recover=True):
        await at("one over")
    assert ran == ["one 2"]
