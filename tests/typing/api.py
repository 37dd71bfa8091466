"""What type checkers infer about the public API. This file is checked by mypy and pyright, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, assert_type

from undertow import (
    Engine,
    Future,
    FutureList,
    RateLimit,
    State,
    StateType,
    allow_failure,
    as_completed,
    concurrency,
    exponential_backoff,
    flow,
    rate_limit,
    runtime,
    tags,
    task,
    unmapped,
    wait,
    wait_async,
)


@task
async def fetch(url: str, timeout: float = 1.0) -> bytes:
    return b""


@task(retries=2, retry_delay_seconds=exponential_backoff(2), tags=["net"], timeout_seconds=5)
async def fetch_again(url: str) -> bytes:
    return b""


@task
def parse(page: bytes, *, strict: bool = False) -> dict[str, int]:
    return {}


@task(name="parse", when="all_done", on_failure=lambda task, run, state: None)
def parse_loosely(page: bytes) -> dict[str, int]:
    return {}


@task
def numbers(end: int) -> Iterator[int]:
    yield from range(end)


@task
async def numbers_later(end: int) -> AsyncIterator[int]:
    for number in range(end):
        yield number


@flow
async def crawl(urls: list[str]) -> int:
    return 0


@flow(final_state="return", on_child_failure="cancel", flow_run_name="crawl-{urls}")
async def crawl_strictly(urls: list[str]) -> int:
    return 0


@flow
def report(folder: Path) -> str:
    return ""


@flow(retries=1)
def report_again(folder: Path) -> str:
    return ""


class Client:
    """Tasks and flows as methods."""

    @task
    async def get(self, path: str) -> bytes:
        return b""

    @task(retries=1)
    def size(self, page: bytes) -> int:
        return 0

    @flow
    async def mirror(self, depth: int) -> list[str]:
        assert_type(await self.get("/"), bytes)
        assert_type(self.size(b""), int)
        assert_type(self.get.submit("/"), Future[bytes])
        assert_type(self.size.map([b""]), FutureList[int])
        return []

    @flow
    def index(self) -> int:
        return 0


async def decorated() -> None:
    """Bare or with options, the original function is there, and its signature is kept."""
    assert_type(await fetch.fn("https://example.org", timeout=2), bytes)
    assert_type(await fetch_again.fn("https://example.org"), bytes)
    assert_type(parse.fn(b"", strict=True), dict[str, int])
    assert_type(parse_loosely(b""), dict[str, int])
    assert_type(await crawl.fn([]), int)
    assert_type(await crawl_strictly([]), int)
    assert_type(report.fn(Path()), str)
    assert_type(report_again(Path()), str)
    assert_type(report.name, str)


async def called() -> None:
    """A call is what the undecorated call would be."""
    assert_type(await fetch("https://example.org", timeout=2), bytes)
    assert_type(await fetch_again("https://example.org"), bytes)
    assert_type(parse(b"", strict=True), dict[str, int])
    assert_type(await crawl(["https://example.org"]), int)
    assert_type(report(Path()), str)
    for number in numbers(3):
        assert_type(number, int)
    async for number in numbers_later(3):
        assert_type(number, int)


async def called_wrongly() -> None:
    """A call that doesn't fit the function is an error; each of these lines is one."""
    await fetch(1)  # type: ignore[call-overload]
    await fetch()  # type: ignore[call-overload]
    parse(b"", stric=True)  # type: ignore[call-overload]
    report("folder")  # type: ignore[call-overload]
    await crawl()  # type: ignore[call-overload]


async def called_for_a_state() -> None:
    """With `return_state=True` it is the state, which knows the type of its result."""
    assert_type(await fetch("https://example.org", return_state=True), State[bytes])
    assert_type(parse(b"", return_state=True), State[dict[str, int]])
    assert_type(await crawl([], return_state=True), State[int])
    assert_type(report(Path(), return_state=True), State[str])
    state = parse(b"", return_state=True)
    assert_type(state.result(), dict[str, int])
    assert_type(state.type, StateType)
    assert_type(state.timestamp, datetime)


async def submitted() -> None:
    """`submit` gives a future of what the call would give, awaited or not; arguments may be futures."""
    page = fetch.submit("https://example.org")
    assert_type(page, Future[bytes])
    assert_type(await page, bytes)
    assert_type(page.result(), bytes)
    assert_type(await page.result_async(timeout=1), bytes)
    assert_type(page.wait(), State[bytes] | None)
    assert_type(await page.wait_async(), State[bytes] | None)
    assert_type(page.state, State[bytes])
    assert_type(page.run_id, str)

    table = parse.submit(page, strict=True, wait_for=[page])
    assert_type(table, Future[dict[str, int]])
    assert_type(await table, dict[str, int])
    assert_type(parse.submit(allow_failure(page)), Future[dict[str, int]])

    assert_type(crawl.submit([]), Future[int])
    assert_type(report.submit(Path()), Future[str])
    assert_type(await fetch.submit("", return_state=True), State[bytes])
    assert_type(await crawl.submit([], return_state=True), State[int])


async def mapped() -> None:
    """`map` gives a list of futures, whose results are a list."""
    pages = fetch.map(["a", "b"], timeout=unmapped(2))
    assert_type(pages, FutureList[bytes])
    assert_type(pages[0], Future[bytes])
    assert_type(pages[:1], FutureList[bytes])
    assert_type(await pages, list[bytes])
    assert_type(pages.result(), list[bytes])
    assert_type(pages.wait(), list[State[bytes] | None])
    assert_type(await pages.wait_async(), list[State[bytes] | None])
    for page in pages:
        assert_type(page, Future[bytes])
    async for page in pages.as_completed():
        assert_type(page, Future[bytes])
    assert_type(parse.map(pages), FutureList[dict[str, int]])


async def streamed() -> None:
    """`stream` gives the results themselves, from any kind of input."""
    async for page in fetch.stream(["a", "b"], max_in_flight=2, ordered=False):
        assert_type(page, bytes)
    async for table in parse.stream(fetch.stream(["a"])):
        assert_type(table, dict[str, int])
    for table in parse.stream([b""]):
        assert_type(table, dict[str, int])


async def methods(client: Client) -> None:
    """Bound to an object, the first argument is gone."""
    assert_type(await client.get("/"), bytes)
    assert_type(client.size(b""), int)
    assert_type(client.get.submit("/"), Future[bytes])
    assert_type(client.size.submit(b""), Future[int])
    assert_type(Client.size(client, b""), int)
    assert_type(await client.mirror(1), list[str])
    assert_type(client.index(), int)
    client.size("")  # type: ignore[call-overload]


async def with_other_options() -> None:
    """`with_options` gives the same type again."""
    assert_type(await fetch.with_options(name="get")("https://example.org", timeout=1), bytes)
    assert_type(parse.with_options(tags=["x"])(b"", strict=True), dict[str, int])
    assert_type(parse.with_options(tags=["x"]).submit(b""), Future[dict[str, int]])
    assert_type(report.with_options(name="r")(Path()), str)
    assert_type(crawl.with_options(retries=1).submit([]), Future[int])
    report.with_options(name="r")("folder")  # type: ignore[call-overload]


async def waited_for(pages: FutureList[bytes]) -> None:
    """`wait` and `as_completed` keep the type of the futures."""
    for page in as_completed(pages):
        assert_type(page, Future[bytes])
    async for page in as_completed(pages):
        assert_type(page, Future[bytes])
    assert_type(wait(pages).done, set[Future[bytes]])
    done, not_done = await wait_async(pages, timeout=1)
    assert_type(done, set[Future[bytes]])
    assert_type(not_done, set[Future[bytes]])


async def embedded() -> None:
    """The engine is a context manager of both kinds, and starts background runs."""
    with Engine(":memory:") as engine:
        assert_type(engine, Engine)
    async with Engine(Path("app.db"), limits={"github": 10, "api": RateLimit(5, per="1s")}) as engine:
        assert_type(engine, Engine)
        assert_type(engine.start(crawl, ["https://example.org"]), Future[int])
        assert_type(await engine.start(crawl, ["https://example.org"]), int)
        assert_type(engine.start(report, Path()), Future[str])
        assert_type(engine.start(fetch, "https://example.org"), Future[bytes])
        with engine.active() as active:
            assert_type(active, Engine)
    Engine(durability="always")  # type: ignore[arg-type]


async def around_calls() -> None:
    """The context managers, and what a body may know about its run."""
    with tags("blue", "green"):
        await fetch("https://example.org")
    async with concurrency("github"):
        await rate_limit("api")
    assert_type(runtime.flow_run.name, Any)


def awaitable(work: Awaitable[bytes]) -> None:
    """A place for anything that can be awaited."""


async def futures_are_awaitable() -> None:
    """A future fits where an awaitable is asked for."""
    awaitable(fetch.submit("https://example.org"))
    awaitable(fetch("https://example.org"))
