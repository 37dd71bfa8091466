"""The examples of web applications, under real servers: what a reader copies does what it says."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, closing
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import httpx
import pytest

from tests.servers import Server, Supplier, hypercorn_on_trio, uvicorn

pytestmark = pytest.mark.real_time

Serve: TypeAlias = Callable[..., AbstractContextManager[Server]]

SERVERS: dict[str, Serve] = {
    "fastapi": partial(uvicorn, "web_fastapi:app", "--loop", "asyncio"),
    "starlette": partial(uvicorn, "web_starlette:app", "--loop", "uvloop"),
    "litestar": partial(uvicorn, "web_litestar:app", "--loop", "uvloop"),
    "starlette-trio": partial(hypercorn_on_trio, "web_starlette:app"),
}
GATED = 10_000
"""An article whose price the supplier keeps to itself until it is told to go on."""


@pytest.fixture
def anyio_backend() -> str:
    """The client's side; the servers have loops of their own."""
    return "asyncio"


@pytest.fixture(scope="module")
def supplier() -> Iterator[Supplier]:
    with Supplier() as opened:
        yield opened


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, supplier: Supplier, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with SERVERS[request.param](folder=tmp_path_factory.mktemp(request.param), SUPPLIER=supplier.url) as started:
        yield started


def rows(path: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(sql, values).fetchall()


def quotes(server: Server, article: int) -> list[str]:
    """The states of the quotes that were asked for one article."""
    found = rows(
        server.journal,
        "SELECT state_name FROM flow_runs WHERE flow = 'quote' AND parameters = ?",
        json.dumps({"articles": [article]}),
    )
    return [name for (name,) in found]


def reports(server: Server) -> list[tuple[str, str]]:
    return rows(server.journal, "SELECT id, state_name FROM flow_runs WHERE flow = 'monthly_report' ORDER BY id")


def client_of(server: Server) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=server.url, timeout=30, limits=httpx.Limits(max_connections=16))


async def events_of(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """What a stream of server-sent events says."""
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


async def report_begun(client: httpx.AsyncClient, **parameters: Any) -> str:
    answer = await client.post("/reports", params={"month": "May", **parameters})
    assert answer.status_code == 202
    return str(answer.json()["run"])


async def leave(server: Server, method: str, path: str, begun: Callable[[], bool]) -> None:
    """Send a request, and hang up as soon as its work has begun."""
    async with await anyio.connect_tcp("127.0.0.1", int(server.url.rpartition(":")[2])) as stream:
        await stream.send(f"{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n".encode())
        await comes(server, begun)


async def comes(server: Server, condition: Callable[[], object]) -> None:
    await anyio.to_thread.run_sync(server.until, condition)


def following(client: httpx.AsyncClient, server: Server, run_id: str) -> AbstractAsyncContextManager[httpx.Response]:
    """A stream of events: of the run, or, where an example streams only what it starts, of another one."""
    if server.app == "web_starlette:app":
        return client.stream("POST", "/reports/followed", params={"month": "June", "article": GATED})
    return client.stream("GET", f"/reports/{run_id}/events")


# --- every example ---------------------------------------------------------------------------------------------


async def test_flows_awaited_in_handlers(server: Server) -> None:
    """Over 16 connections each request gets the answer to its own question, and each flow is recorded once."""
    answers: dict[int, int] = {}

    async def ask(client: httpx.AsyncClient, articles: range) -> None:
        for article in articles:
            answers[article] = (await client.get("/quotes", params={"article": article})).json()

    async with client_of(server) as client, anyio.create_task_group() as group:
        for connection in range(16):
            group.start_soon(ask, client, range(connection, 48, 16))
    assert answers == {article: article * 150 for article in range(48)}
    assert [quotes(server, article) for article in range(48)] == [["Completed"]] * 48


async def test_a_background_run(server: Server) -> None:
    """A background run answers with its id at once, goes on after the answer, and can be asked how it is."""
    async with client_of(server) as client:
        run_id = await report_begun(client)
        state = (await client.get(f"/reports/{run_id}")).json()
        while state["state"] in ("Pending", "Running"):
            state = (await client.get(f"/reports/{run_id}")).json()
        assert state["state"] == "Completed"
        assert (await client.get("/reports/nothing")).status_code == 404
    await comes(server, lambda: (run_id, "Completed") in reports(server))


async def test_events_of_a_run(server: Server, supplier: Supplier) -> None:
    """A run's events are streamed as they happen, and the stream ends with the run."""
    supplier.go_on.clear()
    async with client_of(server) as client:
        run_id = await report_begun(client, article=GATED)
        async with following(client, server, run_id) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            said = []
            async for event in events_of(response):
                said.append((event["function"], event["name"]))
                supplier.go_on.set()
    assert said[:2] == [("monthly_report", "Pending"), ("monthly_report", "Running")]
    assert ("price", "Completed") in said
    assert said[-1] == ("monthly_report", "Completed")


async def test_a_client_that_goes_away(server: Server, supplier: Supplier) -> None:
    """A handler that watches for it cancels its flow when the client goes away."""
    supplier.go_on.clear()
    article = GATED + 1
    await leave(server, "GET", f"/quotes?article={article}", lambda: quotes(server, article) == ["Running"])
    await comes(server, lambda: quotes(server, article) == ["Cancelled"])


async def test_a_follower_that_goes_away(server: Server, supplier: Supplier) -> None:
    """A background run goes on when the client that follows it goes away."""
    supplier.go_on.clear()
    before = len(reports(server))
    async with client_of(server) as client:
        run_id = await report_begun(client, article=GATED)
        async with following(client, server, run_id) as response:
            async for event in events_of(response):
                if event["name"] == "Running":
                    break
    supplier.go_on.set()
    await comes(server, lambda: {name for _, name in reports(server)[before:]} == {"Completed"})


async def test_health(server: Server) -> None:
    """A probe is told how the engine is."""
    async with client_of(server) as client:
        answer = await client.get("/health")
    said = answer.json()
    assert (answer.status_code, said["ok"], said["journal"]) == (200, True, str(server.journal))


@pytest.mark.parametrize("server", ["fastapi"], indirect=True)
async def test_a_plain_await_goes_on(server: Server, supplier: Supplier) -> None:
    """No server cancels a handler whose client has gone away: a flow that is just awaited goes on to its end."""

    def ordered() -> list[tuple[Any, ...]]:
        return rows(server.journal, "SELECT state_name FROM flow_runs WHERE flow = 'order'")

    supplier.go_on.clear()
    await leave(server, "POST", f"/orders?article={GATED}", lambda: ordered() == [("Running",)])
    supplier.go_on.set()
    await comes(server, lambda: ordered() == [("Completed",)])
    assert rows(server.folder / "shop.db", "SELECT cents FROM orders") == [(GATED * 150,)]


def test_nothing_is_complained_of(server: Server) -> None:
    """A server that is stopped by SIGTERM ends by itself, with nothing in its log but information."""
    assert server.stop() < 10
    assert server.complaints() == []
