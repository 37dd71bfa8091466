"""The end of a server: SIGTERM while background runs go on, and what the next start makes of them."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import Server, uvicorn

pytestmark = pytest.mark.real_time

APP = """
import gc
from pathlib import Path

import anyio
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from undertow import Engine, flow, sleep, task

engine = Engine("web.db", recover=True)
ledger = Path("ledger")
over = anyio.Event()


@task
async def step(name: str) -> str:
    with ledger.open("a") as lines:
        lines.write(f"{name}\\n")
    return name


@flow
async def brief(number: int) -> None:
    # Ends when the closing of the engine has begun.
    while number == 0 and not (await engine.health()).closing:
        await anyio.sleep(0.05)
    if number == 0:
        over.set()
    await over.wait()


@flow
async def endless(number: int) -> None:
    await anyio.sleep(3600)


@flow(durable=True)
async def durable(number: int) -> list[str]:
    names = [await step(f"{number}-a"), await step(f"{number}-b")]
    if not Path("go-on").exists():
        await anyio.sleep(3600)
    return [*names, await step(f"{number}-c")]


async def begin(request):
    for number in range(40):
        engine.start(brief, number)
    for number in range(30):
        engine.start(endless, number)
        engine.start(durable, number, run_id=f"durable-{number}")
    return JSONResponse(None, 202)


async def follow(request):
    events = engine.start(endless, 30).events()
    return StreamingResponse(f"data: {event.to_json()}\\n\\n" async for event in events)


async def health(request):
    return JSONResponse((await engine.health()).to_dict())


async def listeners(request):
    engine.start(step, "unheard")  # any transition finds out who has gone
    gc.collect()
    feeds = engine.core.observers
    return JSONResponse([sum(each() is not None for each in refs) for feed in feeds for refs in feed.listeners.values()])


app = Starlette(
    lifespan=engine.lifespan,
    routes=[Route("/begin", begin), Route("/follow", follow), Route("/health", health), Route("/listeners", listeners)],
)
"""

GRACE = 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ending.py").write_text(APP)
    (tmp_path / "ledger").touch()
    return tmp_path


def serve(folder: Path) -> Any:
    return uvicorn("ending:app", "--timeout-graceful-shutdown", "1", folder=folder, UNDERTOW_GRACE_SECONDS=str(GRACE))


def states(server: Server, flow: str) -> Counter[str]:
    """How many runs of a flow are in which state."""
    with closing(sqlite3.connect(f"file:{server.journal}?mode=ro", uri=True)) as connection:
        return Counter(
            name for (name,) in connection.execute("SELECT state_name FROM flow_runs WHERE flow = ?", (flow,))
        )


def steps(folder: Path) -> Counter[str]:
    return Counter((folder / "ledger").read_text().split())


def begun(server: Server) -> None:
    """Return when a hundred background runs go on, and the durable ones have done their first two steps."""
    server.until(lambda: steps(server.folder).total() == 60, "60 steps are done")


def test_sigterm(folder: Path) -> None:
    """SIGTERM gives runs their grace period and ends the rest; durable ones go on at the next start, no step twice."""
    with serve(folder) as server:
        httpx.get(f"{server.url}/begin", timeout=20)
        begun(server)
        assert server.stop() < GRACE + 5
        assert states(server, "brief") == {"Completed": 40}
        assert states(server, "endless") == {"Interrupted": 30}
        assert states(server, "durable") == {"Interrupted": 30}
        assert server.complaints() == []
    (folder / "go-on").touch()
    with serve(folder) as server:
        server.until(lambda: states(server, "durable") == {"Completed": 30}, "all durable runs have ended")
        assert states(server, "endless") == {"Interrupted": 30}
        server.stop()
    assert set(steps(folder).values()) == {1}
    assert len(steps(folder)) == 90


def test_nothing_is_accepted_while_closing(folder: Path) -> None:
    """While runs have their grace period, the server accepts nothing any more."""
    with serve(folder) as server:
        httpx.get(f"{server.url}/begin", timeout=20)
        begun(server)
        server.process.terminate()
        server.until(lambda: "Shutting down" in server.log(), "the server shuts down")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{server.url}/health", timeout=1)
        server.process.wait(GRACE + 5)


@contextmanager
def following(server: Server) -> Iterator[None]:
    """A client that follows a run, which has begun, for the time of the block."""
    with httpx.stream("GET", f"{server.url}/follow", timeout=20) as response:
        for line in response.iter_lines():
            if line and json.loads(line.removeprefix("data: "))["name"] == "Running":
                yield
                return


def listening(server: Server) -> int:
    counts: list[int] = httpx.get(f"{server.url}/listeners", timeout=20).json()
    return sum(counts)


def test_followers(folder: Path) -> None:
    """A follower that goes away is forgotten at once, and one that stays does not hold up the end of its server."""
    with serve(folder) as server:
        with following(server):
            assert listening(server) == 1
        server.until(lambda: listening(server) == 0, "nobody listens")
        with following(server):
            assert listening(server) == 1
            assert server.stop() < 1 + GRACE + 5
        assert states(server, "endless") == {"Interrupted": 2}
