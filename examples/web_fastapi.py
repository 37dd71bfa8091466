"""undertow in a FastAPI application, with the application's own HTTP client and database.

pip install fastapi uvicorn httpx aiosqlite
uvicorn --app-dir examples web_fastapi:app --timeout-graceful-shutdown 5    # and --workers 4, if you like

curl 'localhost:8000/quotes?article=1&article=2'       # awaits a flow, which ends when the client goes away
curl -X POST 'localhost:8000/orders?article=3'         # awaits a flow, which goes on when the client goes away
curl -X POST 'localhost:8000/reports?month=May'        # starts a background run
curl 'localhost:8000/reports/<the id it gave>'
curl -N 'localhost:8000/reports/<the id it gave>/events'
curl 'localhost:8000/health'
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import aiosqlite
import anyio
import httpx
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

import undertow
from undertow import Engine, RunNotHere, State, flow, task

T = TypeVar("T")
Articles = Annotated[list[int], Query(alias="article")]

engine = Engine("web.db", limits={"supplier": 20}, recover=True)
supplier: httpx.AsyncClient
shop: aiosqlite.Connection
journal: aiosqlite.Connection

TABLES = """
CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, cents INTEGER);
CREATE TABLE IF NOT EXISTS reports (month TEXT PRIMARY KEY, text TEXT);
"""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The engine is opened last and closed first: what its last runs use is open until they have ended."""
    global supplier, shop, journal
    address = os.environ.get("SUPPLIER", "http://127.0.0.1:8000")
    async with httpx.AsyncClient(base_url=address) as supplier, aiosqlite.connect("shop.db", timeout=20) as shop:
        await shop.executescript(TABLES)
        # The journal is an SQLite file like any other, which is read here, whichever worker a run belongs to.
        async with engine, aiosqlite.connect("file:web.db?mode=ro", uri=True) as journal:
            yield


app = FastAPI(title="undertow in a FastAPI application", lifespan=lifespan)


# --- the work --------------------------------------------------------------------------------------------------


@task(retries=2, retry_delay_seconds=0.2, limits=["supplier"])
async def price(article: int) -> int:
    """What an article costs, in cents."""
    answer = await supplier.get(f"/supplier/{article}")
    return int(answer.raise_for_status().json())


@flow
async def quote(articles: list[int]) -> int:
    return sum(await price.map(articles))


@task
async def save_order(cents: int) -> int:
    rows = await shop.execute_fetchall("INSERT INTO orders (cents) VALUES (?) RETURNING id", (cents,))
    await shop.commit()
    [(number,)] = rows
    return int(number)


@flow
async def order(articles: list[int]) -> int:
    return await save_order(await quote(articles))


@task
async def save_report(month: str, text: str) -> None:
    await shop.execute("INSERT OR REPLACE INTO reports VALUES (?, ?)", (month, text))
    await shop.commit()


@flow(durable=True)
async def monthly_report(month: str, articles: list[int]) -> None:
    """Goes on with what is left of it, in this process or another, should its process end before it does."""
    cents = await quote(articles)
    await undertow.sleep(0.5)
    await save_report(month, f"In {month} we sold articles for {cents / 100:.2f}.")


# --- awaited in the request ------------------------------------------------------------------------------------


async def while_connected(request: Request, call: Coroutine[Any, Any, State[T]]) -> T:
    """The result of a flow, called with `return_state=True`; it is cancelled when the client goes away.

    No server does that by itself: a handler that awaits goes on to its end, with nobody there to be answered.
    """

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            continue
        group.cancel_scope.cancel()

    state: State[T] | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        state = await call
        group.cancel_scope.cancel()
    if state is None:
        raise HTTPException(499, "The client has gone away.")
    return state.result()


@app.get("/quotes")
async def ask(request: Request, articles: Articles) -> int:
    return await while_connected(request, quote(articles, return_state=True))


@app.post("/orders", status_code=201)
async def place(articles: Articles) -> int:
    """Not to be broken off, so it is just awaited."""
    return await order(articles)


# --- in the background -----------------------------------------------------------------------------------------


@app.post("/reports", status_code=202)
async def start(month: str, articles: Annotated[list[int], Query(alias="article")] = [1, 2, 3]) -> dict[str, str]:  # noqa: B006
    """The run belongs to the engine: it goes on when the request is over."""
    run = engine.start(monthly_report, month, articles)
    await engine.journal.commit()  # all workers know of it before the client does
    return {"run": run.run_id}


@app.get("/reports/{run_id}")
async def state(run_id: str) -> dict[str, str]:
    rows = await journal.execute_fetchall("SELECT state_name, state_message FROM flow_runs WHERE id = ?", (run_id,))
    for name, message in rows:
        return {"state": name, "message": message}
    raise HTTPException(404, f"No report has the id {run_id!r}.")


@app.get("/reports/{run_id}/events")
async def follow(run_id: str) -> Response:
    """As server-sent events. A client that goes away ends the stream, and never the run."""
    try:
        events = engine.events(run_id)
    except RunNotHere as error:  # it has ended, or is another worker's
        raise HTTPException(404, str(error))
    return StreamingResponse((f"data: {event.to_json()}\n\n" async for event in events), media_type="text/event-stream")


@app.get("/health")
async def health() -> Response:
    found = await engine.health()
    return JSONResponse(found.to_dict(), 200 if found.ok else 503)


# --- somebody else's service -----------------------------------------------------------------------------------


@app.get("/supplier/{article}")
async def supplied(article: int) -> int:
    """A stand-in for another service: the higher an article's number, the dearer it is and the longer it takes."""
    await anyio.sleep(article / 1000)
    return article * 150
