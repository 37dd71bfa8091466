"""The engine inside a web application: a lifespan, flows awaited in handlers, and runs that outlive their request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import fastapi
import httpx

from undertow import Engine, Future, flow, task


@task
async def double(n: int) -> int:
    return 2 * n


@flow
async def doubled(n: int) -> int:
    return await double(n)


@flow
async def resting(seconds: float) -> str:
    await anyio.sleep(seconds)
    return "rested"


# --- in a web server -------------------------------------------------------------------------------------------


@asynccontextmanager
async def serving(app: fastapi.FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """The application as a server runs it: its lifespan in one task, requests in others."""

    async def live(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with app.router.lifespan_context(app):
            task_status.started()
            await stop.wait()

    stop = anyio.Event()
    async with anyio.create_task_group() as group:
        await group.start(live)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            yield client
        stop.set()


async def test_lifespan(make_engine: Callable[..., Engine], journal: Any) -> None:
    """`FastAPI(lifespan=engine.lifespan)` opens the engine for the time of the server; handlers just await flows."""
    app = fastapi.FastAPI(lifespan=make_engine().lifespan)

    @app.get("/double/{n}")
    async def handler(n: int) -> int:
        return await doubled(n)

    for _ in range(2):
        async with serving(app) as client:
            assert journal.is_open
            answers: list[int] = []

            async def ask(n: int, client: httpx.AsyncClient = client, answers: list[int] = answers) -> None:
                answers.append((await client.get(f"/double/{n}")).json())

            async with anyio.create_task_group() as group:
                for n in range(5):
                    group.start_soon(ask, n)
            assert sorted(answers) == [0, 2, 4, 6, 8]
        assert not journal.is_open
    assert len(journal.of("doubled")) == 10


async def test_a_request_that_goes_away(make_engine: Callable[..., Engine], journal: Any) -> None:
    """A flow that is awaited in a handler is cancelled with its request."""
    app = fastapi.FastAPI(lifespan=make_engine().lifespan)

    @app.get("/rest")
    async def handler() -> str:
        return await resting(3600)

    async with serving(app) as client:
        with anyio.move_on_after(1):
            await client.get("/rest")
        assert journal.story("resting") == ["Pending", "Running", "Cancelled"]


async def test_a_run_that_outlives_its_request(make_engine: Callable[..., Engine], journal: Any) -> None:
    """What a handler starts with `engine.start` goes on after the answer was sent, and its result can be awaited."""
    engine = make_engine()
    app = fastapi.FastAPI(lifespan=engine.lifespan)
    handles: list[Future[str]] = []

    @app.post("/rest")
    async def handler() -> str:
        handles.append(engine.start(resting, 60))
        return handles[0].run_id

    async with serving(app) as client:
        answer = await client.post("/rest")
        assert answer.json() == handles[0].run_id
        assert not handles[0].done
        assert await handles[0] == "rested"
    assert journal.story("resting") == ["Pending", "Running", "Completed"]
