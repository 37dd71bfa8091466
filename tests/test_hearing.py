"""Hearing: a process looks for requests of others when something was written, and leaves an idle journal alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import anyio.to_thread
import pytest

from undertow import Engine, flow
from undertow.storage import requests, service
from undertow.storage.writing import GroupConnection

pytestmark = pytest.mark.real_time

LOOK, ASK = "look", "ask"


@flow
async def quick() -> None:
    pass


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> SimpleQueue[str]:
    """What the journal does about requests, in order: it looks whether anything was written, it asks for requests."""
    statements: SimpleQueue[str] = SimpleQueue()
    real: Callable[..., sqlite3.Cursor] = sqlite3.Connection.execute

    def execute(connection: sqlite3.Connection, sql: str, *given: Any) -> Any:
        if sql == "PRAGMA data_version":
            statements.put(LOOK)
        elif sql == requests.ASKED:
            statements.put(ASK)
        return real(connection, sql, *given)

    monkeypatch.setattr(GroupConnection, "execute", execute)
    monkeypatch.setattr(service, "REQUEST_SECONDS", 0.001)
    monkeypatch.setattr(service, "PEER_SECONDS", 3600)
    return statements


async def looks(heard: SimpleQueue[str], number: int) -> list[str]:
    """What is done from now on, until so many more looks were made."""
    done = []
    while done.count(LOOK) < number:
        done.append(await anyio.to_thread.run_sync(heard.get))
    return done


async def quiet(heard: SimpleQueue[str]) -> None:
    """Return when looks find nothing new."""
    while ASK in await looks(heard, 5):
        continue


async def asked(heard: SimpleQueue[str]) -> None:
    """Return when it has asked for requests, sooner or later."""
    while ASK not in await looks(heard, 1):
        continue


async def test_an_idle_journal_is_left_alone(tmp_path: Path, heard: SimpleQueue[str]) -> None:
    """While nobody writes, nothing is asked of the tables, however long that lasts."""
    async with Engine(tmp_path / "app.db", durability="none"):
        await quick()
        await quiet(heard)
        assert await looks(heard, 20) == [LOOK] * 20


async def test_requests_are_asked_for_after_a_write(tmp_path: Path, heard: SimpleQueue[str]) -> None:
    """What another connection writes is asked for, and so is what became this process's own by a write of its own."""
    async with Engine(tmp_path / "app.db", durability="none"):
        await quiet(heard)
        with closing(sqlite3.connect(tmp_path / "app.db", timeout=10, isolation_level=None)) as other:
            other.execute("INSERT INTO log (run_id, at, level, logger, message) VALUES ('', 0, '', '', '')")
        await asked(heard)
        await quiet(heard)
        await quick()
        await asked(heard)
