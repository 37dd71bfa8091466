"""undertow in a Starlette application that runs on asyncio and on trio.

pip install starlette uvicorn httpx 'hypercorn[trio]'
uvicorn --app-dir examples web_starlette:app --timeout-graceful-shutdown 5
PYTHONPATH=examples hypercorn --worker-class trio web_starlette:app

curl 'localhost:8000/quotes?article=1&article=2'       # awaits a flow, which ends when the client goes away
curl -X POST 'localhost:8000/reports?month=May'        # starts a background run
curl 'localhost:8000/reports/<the id it gave>'
curl -N -X POST 'localhost:8000/reports/followed?month=May'   # starts one, and streams what happens to it
curl 'localhost:8000/health'
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from undertow import Engine, Future, State, flow, task

engine = Engine("web.db", limits={"supplier": 20})
supplier: httpx.AsyncClient
reports: dict[str, Future[str]] = {}
"""Handles of background runs, with their results; what became of them stays in the journal."""


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """The engine is opened last and closed first: what its last runs use is open until they have ended."""
    global supplier
    address = os.environ.get("SUPPLIER", "http://127.0.0.1:8000")
    async with httpx.AsyncClient(base_url=address) as supplier, engine:
        yield


# --- the work --------------------------------------------------------------------------------------------------


@task(retries=2, retry_delay_seconds=0.2, limits=["supplier"])
async def price(article: int) -> int:
    """What an article costs, in cents."""
    answer = await supplier.get(f"/supplier/{article}")
    return int(answer.raise_for_status().json())


@flow
async def quote(articles: list[int]) -> int:
    return sum(await price.map(articles))


@flow
async def monthly_report(month: str, articles: list[int]) -> str:
    cents = await quote(articles)
    return f"In {month} we sold articles for {cents / 100:.2f}."


# --- the handlers ----------------------------------------------------------------------------------------------


def articles_of(request: Request) -> list[int]:
    return [int(article) for article in request.query_params.getlist("article") or "123"]


async def ask(request: Request) -> Response:
    """No server cancels a handler whose client goes away; so the disconnect is waited for, and cancels the flow."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            continue
        group.cancel_scope.cancel()

    state: State[int] | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        state = await quote(articles_of(request), return_state=True)
        group.cancel_scope.cancel()
    if state is None:
        raise HTTPException(499, "The client has gone away.")
    return JSONResponse(state.result())


def begin(request: Request) -> Future[str]:
    """Start a run that belongs to the engine, and goes on when the request is over."""
    run = engine.start(monthly_report, request.query_params["month"], articles_of(request))
    reports[run.run_id] = run
    return run


async def start(request: Request) -> Response:
    return JSONResponse({"run": begin(request).run_id}, 202)


async def follow(request: Request) -> Response:
    """A client that goes away ends the stream, and never the run."""
    events = begin(request).events()
    return StreamingResponse((f"data: {event.to_json()}\n\n" async for event in events), media_type="text/event-stream")


async def state(request: Request) -> Response:
    run = reports.get(request.path_params["run_id"])
    if run is None:
        raise HTTPException(404, "No such report.")
    text = run.state.result() if run.done and run.state.is_completed() else None
    return JSONResponse({"state": run.state.name, "message": run.state.message, "report": text})


async def health(request: Request) -> Response:
    found = await engine.health()
    return JSONResponse(found.to_dict(), 200 if found.ok else 503)


async def supplied(request: Request) -> Response:
    """A stand-in for another service: the higher an article's number, the dearer it is and the longer it takes."""
    article = int(request.path_params["article"])
    await anyio.sleep(article / 1000)
    return JSONResponse(article * 150)


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/quotes", ask),
        Route("/reports", start, methods=["POST"]),
        Route("/reports/followed", follow, methods=["POST"]),
        Route("/reports/{run_id}", state),
        Route("/health", health),
        Route("/supplier/{article:int}", supplied),
    ],
)
