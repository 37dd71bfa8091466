"""undertow in a Litestar application.

pip install litestar uvicorn httpx aiosqlite
uvicorn --app-dir examples web_litestar:app --timeout-graceful-shutdown 5

curl 'localhost:8000/quotes?article=1&article=2'       # awaits a flow, which ends when the client goes away
curl -X POST 'localhost:8000/reports?month=May'        # starts a background run
curl 'localhost:8000/reports/<the id it gave>'
curl -N 'localhost:8000/reports/<the id it gave>/events'
curl 'localhost:8000/health'
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import aiosqlite
import anyio
import httpx
from litestar import Litestar, Request, Response, get, post
from litestar.exceptions import ClientException, NotFoundException
from litestar.params import Parameter
from litestar.response import ServerSentEvent

from undertow import Engine, Future, RunNotHere, State, flow, task

Articles = Annotated[list[int], Parameter(query="article")]

engine = Engine("web.db", limits={"supplier": 20})
supplier: httpx.AsyncClient
shop: aiosqlite.Connection
reports: dict[str, Future[str]] = {}
"""Handles of background runs, with their results; what became of them stays in the journal."""


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    """The engine is opened last and closed first: what its last runs use is open until they have ended."""
    global supplier, shop
    address = os.environ.get("SUPPLIER", "http://127.0.0.1:8000")
    async with httpx.AsyncClient(base_url=address) as supplier, aiosqlite.connect("shop.db") as shop:
        await shop.execute("CREATE TABLE IF NOT EXISTS quotes (cents INTEGER)")
        async with engine:
            yield


# --- the work --------------------------------------------------------------------------------------------------


@task(retries=2, retry_delay_seconds=0.2, limits=["supplier"])
async def price(article: int) -> int:
    """What an article costs, in cents."""
    answer = await supplier.get(f"/supplier/{article}")
    return int(answer.raise_for_status().json())


@task
async def note(cents: int) -> None:
    await shop.execute("INSERT INTO quotes VALUES (?)", (cents,))
    await shop.commit()


@flow
async def quote(articles: list[int]) -> int:
    cents = sum(await price.map(articles))
    await note(cents)
    return cents


@flow
async def monthly_report(month: str, articles: list[int]) -> str:
    cents = await quote(articles)
    return f"In {month} we sold articles for {cents / 100:.2f}."


# --- the handlers ----------------------------------------------------------------------------------------------


@get("/quotes")
async def ask(request: Request[Any, Any, Any], articles: Articles) -> int:
    """No server cancels a handler whose client goes away; so the disconnect is waited for, and cancels the flow."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            continue
        group.cancel_scope.cancel()

    state: State[int] | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        state = await quote(articles, return_state=True)
        group.cancel_scope.cancel()
    if state is None:
        raise ClientException("The client has gone away.", status_code=499)
    return state.result()


@post("/reports", status_code=202)
async def start(month: str, articles: Articles | None = None) -> dict[str, str]:
    """The run belongs to the engine: it goes on when the request is over."""
    run = engine.start(monthly_report, month, articles or [1, 2, 3])
    reports[run.run_id] = run
    return {"run": run.run_id}


@get("/reports/{run_id:str}")
async def state(run_id: str) -> dict[str, str | None]:
    run = reports.get(run_id)
    if run is None:
        raise NotFoundException("No such report.")
    text = run.state.result() if run.done and run.state.is_completed() else None
    return {"state": run.state.name, "message": run.state.message, "report": text}


@get("/reports/{run_id:str}/events")
async def follow(run_id: str) -> ServerSentEvent:
    """A client that goes away ends the stream, and never the run."""
    try:
        events = engine.events(run_id)
    except RunNotHere as error:
        raise NotFoundException(str(error))
    return ServerSentEvent(event.to_json() async for event in events)


@get("/health")
async def health() -> Response[dict[str, Any]]:
    found = await engine.health()
    return Response(found.to_dict(), status_code=200 if found.ok else 503)


@get("/supplier/{article:int}")
async def supplied(article: int) -> int:
    """A stand-in for another service: the higher an article's number, the dearer it is and the longer it takes."""
    await anyio.sleep(article / 1000)
    return article * 150


app = Litestar([ask, start, state, follow, health, supplied], lifespan=[lifespan])
