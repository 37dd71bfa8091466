"""What type checkers infer about running again. This file is checked by mypy and pyright, never run."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, assert_type

from undertow import Engine, Future, flow, sleep, sleep_until, task


@task(key="{url}")
async def fetch(url: str) -> bytes:
    return b""


@task(key=lambda url: f"page {url}")
def read(url: str) -> bytes:
    return b""


@flow(durable=True, on_mismatch="rerun", persist_result=True, key="{urls}")
async def crawl(urls: list[str]) -> int:
    await sleep(0.5)
    await sleep_until(datetime.now(UTC))
    return len(await fetch(urls[0])) + len(read(urls[0]))


@flow(durable=True)
def report(name: str) -> str:
    return name


async def run_again() -> None:
    """A recorded run's result can't be known to a type checker; that it is awaited, and what a fork gives, can."""
    async with Engine("app.db", recover=True, max_recoveries=3) as engine:
        assert_type(await engine.resume("id"), Any)
        assert_type(await engine.resume("id", on_mismatch="accept"), Any)
        assert_type(await engine.retry("id", on_mismatch="raise"), Any)
        assert_type(await engine.fork("id", "step"), Future[Any])
        assert_type(await engine.fork("id", at="step", new_id="other", on_mismatch="rerun"), Future[Any])
        await engine.resume("id", on_mismatch="perhaps")  # type: ignore[arg-type]
        await engine.resume(1)  # type: ignore[arg-type]


async def chosen_ids() -> None:
    """`start` with an id gives the future that it gives without one."""
    async with Engine("app.db") as engine:
        assert_type(engine.start(crawl, ["a"], run_id="one"), Future[int])
        assert_type(engine.start(crawl, ["a"], run_id="one", on_conflict="reject"), Future[int])
        assert_type(await engine.start(crawl, ["a"], run_id="one", on_conflict="restart_if_failed"), int)
        assert_type(engine.start(report, "a", run_id="two"), Future[str])
        assert_type(engine.start(fetch, "a", run_id="three", on_conflict="attach"), Future[bytes])
        engine.start(report, "a", run_id="two", on_conflict="ignore")  # type: ignore[call-overload]
