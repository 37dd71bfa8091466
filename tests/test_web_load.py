"""Many requests at once, on one worker and on four that share a journal: right answers, each run once, flat memory."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import httpx
import psutil
import pytest

from tests.servers import Server, uvicorn

pytestmark = pytest.mark.real_time

APP = """
import os

import anyio
from fastapi import FastAPI

from undertow import Engine, flow, task

engine = Engine("web.db", limits={"line": 50})
app = FastAPI(lifespan=engine.lifespan)


@task(limits=["line"])
async def double(n: int) -> int:
    return 2 * n


@flow
async def doubled(n: int) -> int:
    return sum(await double.map([n, n + 1, n + 2]))


@flow
async def resting() -> None:
    await anyio.sleep(3600)


@app.get("/doubled/{n}")
async def ask(n: int) -> int:
    return await doubled(n)


@app.post("/resting")
async def rest() -> int:
    engine.start(resting)
    await engine.journal.commit()
    return os.getpid()


@app.get("/health")
async def health() -> dict[str, object]:
    return (await engine.health()).to_dict()
"""

CONNECTIONS = 16


@pytest.fixture
def anyio_backend() -> str:
    """The client's side; the servers have loops of their own."""
    return "asyncio"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "loaded.py").write_text(APP)
    return tmp_path


@pytest.fixture
def alone(folder: Path) -> Iterator[Server]:
    with uvicorn("loaded:app", "--loop", "asyncio", folder=folder) as server:
        yield server


@pytest.fixture
def four(folder: Path) -> Iterator[Server]:
    options = ("--loop", "uvloop", "--workers", "4")
    with uvicorn("loaded:app", *options, folder=folder, UNDERTOW_GRACE_SECONDS="0") as server:
        server.until(lambda: len(workers(server)) == 4, "four workers have opened the journal")
        yield server


def rows(server: Server, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{server.journal}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def workers(server: Server) -> list[int]:
    """The processes that have opened the journal and not closed it."""
    return [pid for (pid,) in rows(server, "SELECT pid FROM owner WHERE closed_at IS NULL")]


async def ask(server: Server, numbers: range) -> None:
    """Ask about each number, over so many connections at a time, and check each answer."""

    async def connection(client: httpx.AsyncClient, mine: range) -> None:
        for n in mine:
            answer = await client.get(f"/doubled/{n}")
            assert (answer.status_code, answer.json()) == (200, 6 * n + 6)

    async with (
        httpx.AsyncClient(base_url=server.url, timeout=30, limits=httpx.Limits(max_connections=CONNECTIONS)) as client,
        anyio.create_task_group() as group,
    ):
        for first in range(CONNECTIONS):
            group.start_soon(connection, client, numbers[first::CONNECTIONS])


def each_once(server: Server, number: int) -> bool:
    """Whether so many different questions, and no more, are recorded as completed flows of three tasks."""
    counts = "SELECT count(*), count(DISTINCT parameters), count(DISTINCT state_name), min(state_name) FROM flow_runs"
    tasks = "SELECT flow_run_id, count(*) FROM task_runs WHERE state_name = 'Completed' GROUP BY 1"
    return (
        rows(server, f"{counts} WHERE flow = 'doubled'") == [(number, number, 1, "Completed")]
        and [count for _, count in rows(server, tasks)] == [3] * number
    )


async def test_memory_is_flat(alone: Server) -> None:
    """Two thousand requests take no more memory than five hundred; each is answered right and recorded once."""
    process = psutil.Process(workers(alone)[0])
    await ask(alone, range(500))
    before = process.memory_info().rss
    await ask(alone, range(500, 2000))
    grown = process.memory_info().rss - before
    assert grown < 8 * 2**20, f"{grown / 2**20:.1f} MiB more"
    assert each_once(alone, 2000)
    alone.stop()
    assert alone.complaints() == []


async def test_four_workers(four: Server) -> None:
    """Four workers on one journal record each run once; when one is killed, its runs end Crashed, the others' go on."""
    await ask(four, range(400))
    assert each_once(four, 400)
    resting: dict[int, int] = {}
    async with httpx.AsyncClient(base_url=four.url, timeout=30) as client:
        while len(resting) < 2:
            pid = (await client.post("/resting", headers={"connection": "close"})).json()
            resting[pid] = resting.get(pid, 0) + 1
    victim = min(resting)
    os.kill(victim, signal.SIGKILL)

    def ends() -> dict[int, set[str]]:
        found: dict[int, set[str]] = {}
        for owner, state in rows(four, "SELECT owner, state_name FROM flow_runs WHERE flow = 'resting'"):
            found.setdefault(int(owner.rpartition(":")[2]), set()).add(state)
        return found

    await anyio.to_thread.run_sync(four.until, lambda: ends()[victim] == {"Crashed"})
    assert {state for pid, states in ends().items() if pid != victim for state in states} == {"Running"}
    [(message,)] = rows(four, "SELECT DISTINCT state_message FROM flow_runs WHERE state_name = 'Crashed'")
    assert re.fullmatch(rf"Crash detected! Its process {victim} on .* is gone\.", message)
    await anyio.to_thread.run_sync(four.until, lambda: len(workers(four)) == 4)  # uvicorn has replaced it
    await ask(four, range(400, 600))
    assert each_once(four, 600)
    four.stop()
    assert four.complaints() == []
    assert set().union(*ends().values()) == {"Crashed", "Interrupted"}
