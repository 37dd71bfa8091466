"""Cancelling a flow run from another process, through the journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from undertow import Engine, RunCancelled, flow, task
from undertow.engine.errors import JournalMissing
from undertow.storage import service
from undertow.storage.requests import ask

pytestmark = pytest.mark.real_time

done: list[str] = []


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are looked for all the time, and nothing was done yet."""
    monkeypatch.setattr(service, "REQUEST_SECONDS", 0.001)
    done.clear()


@task
async def endless() -> None:
    await anyio.sleep_forever()


@task
def tick() -> None:
    done.append("tick")


@flow
async def waiting(begun: anyio.Event) -> None:
    endless.submit()
    begun.set()
    try:
        await endless()
    finally:
        done.append("cleaned up")


async def test_cancelling_an_async_flow(tmp_path: Path) -> None:
    """A flow run that another process asks to be cancelled ends in Cancelled with the reason, after its cleanup."""
    begun = anyio.Event()
    async with Engine(tmp_path / "app.db") as engine:
        future = engine.start(waiting, begun)
        await begun.wait()
        await anyio.to_thread.run_sync(engine.journal.commit().wait)
        ask(tmp_path / "app.db", "cancel", future.run_id, "not needed any more")
        with pytest.raises(RunCancelled, match="not needed any more"):
            await future
        rows: Any = engine.journal.query("SELECT DISTINCT state_name FROM task_runs")  # type: ignore[attr-defined]
    assert done == ["cleaned up"]
    assert rows == [{"state_name": "Cancelled"}]


async def test_cancelling_an_awaited_flow(tmp_path: Path) -> None:
    """Also a flow that its caller awaits is cancelled so; the caller is told, and goes on."""
    begun = anyio.Event()

    async def cancel_it() -> None:
        await begun.wait()
        engine.journal.commit().wait()
        rows: Any = engine.journal.query("SELECT id FROM flow_runs")  # type: ignore[attr-defined]
        ask(tmp_path / "app.db", "cancel", rows[0]["id"], "by hand")

    async with Engine(tmp_path / "app.db") as engine, anyio.create_task_group() as group:
        group.start_soon(cancel_it)
        state = await waiting(begun, return_state=True)
    assert state.is_cancelled()
    assert "by hand" in state.message


async def test_cancelling_a_sync_flow(tmp_path: Path) -> None:
    """A `def` flow in a thread can't be stopped, but the next task that it calls never begins."""
    begun = anyio.Event()

    @flow
    def ticking(tell: Any) -> None:
        while True:
            tick()
            if len(done) == 1:
                tell()

    async with Engine(tmp_path / "app.db") as engine:
        token = anyio.lowlevel.current_token()
        future = engine.start(ticking, lambda: anyio.from_thread.run_sync(begun.set, token=token))
        await begun.wait()
        await anyio.to_thread.run_sync(engine.journal.commit().wait)
        ask(tmp_path / "app.db", "cancel", future.run_id, "by hand")
        state = await future.wait_async()
    assert state is not None
    assert state.is_cancelled()


def test_asking_where_there_is_no_journal(tmp_path: Path) -> None:
    """Asking in a journal that is not there is refused, and makes none."""
    with pytest.raises(JournalMissing):
        ask(tmp_path / "app.db", "cancel", "x", "")
    assert not list(tmp_path.iterdir())


async def test_cancelling_by_id(tmp_path: Path) -> None:
    """`engine.cancel(run_id)` cancels a run of its own, and one of another engine on the same journal, for the reason given."""
    async with Engine(tmp_path / "app.db") as one, Engine(tmp_path / "app.db") as other:
        for asking in (one, other):
            future = one.start(waiting, anyio.Event())
            async for event in future.events():
                if event.name == "Running":
                    break
            await one.core.journal.commit()
            await asking.cancel(future.run_id, "not needed")
            state = await future.wait_async(timeout=20)
            assert state is not None
            assert state.name == "Cancelled"
            assert "not needed" in state.message
            await asking.cancel(future.run_id)
