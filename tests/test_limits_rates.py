"""Rates: how many get through in a time, in loops and in threads."""

from __future__ import annotations

import time
from typing import Any

import anyio
import pytest

from tests.conftest import ListJournal
from tests.gauge import Gauge, MakeEngine
from undertow import Engine, RateLimit, SlotTimeout, concurrency, flow, rate_limit, task


async def passing(times: int, name: str = "api", **options: Any) -> list[float]:
    """When each of so many calls gets through a rate limit."""
    begun = anyio.current_time()
    passed: list[float] = []
    for _ in range(times):
        await rate_limit(name, **options)
        passed.append(round(anyio.current_time() - begun, 4))
    return passed


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (RateLimit(5, per="1s"), [0, 0, 0, 0, 0, 0.2, 0.4, 0.6]),
        (RateLimit(5, per=1, burst=1), [0, 0.2, 0.4, 0.6, 0.8, 1, 1.2, 1.4]),
        (RateLimit(2, per="1m"), [0, 0, 30, 60, 90, 120, 150, 180]),
        (RateLimit(1, per="1h", burst=3), [0, 0, 0, 3600, 7200, 10800, 14400, 18000]),
        (RateLimit(0.5, per="1s"), [0, 2, 4, 6, 8, 10, 12, 14]),
    ],
    ids=["5 a second", "no burst", "2 a minute", "1 an hour", "half a one a second"],
)
async def test_rates(make_engine: MakeEngine, limit: Any, expected: list[float]) -> None:
    """A rate limit lets a burst through at once and then one call each time that the leak has made room for one."""
    async with make_engine(limits={"api": limit}):
        assert await passing(8) == expected


async def test_a_rate_leaks_continuously(make_engine: MakeEngine) -> None:
    """A rate limit drains all the time, however often it is touched, and no further than to empty."""
    async with make_engine(limits={"api": RateLimit(5, per="1s")}) as engine:
        await passing(5)
        for _ in range(20):
            await anyio.sleep(0.05)
            assert engine.core.limits.active("api") <= 5
        assert await passing(6) == [0, 0, 0, 0, 0, 0.2]
        await anyio.sleep(1000)
        assert await passing(6) == [0, 0, 0, 0, 0, 0.2]
        assert (await passing(2, occupy=2)) == [0.4, 0.8]


async def test_a_rate_is_not_given_back(make_engine: MakeEngine) -> None:
    """What a block or a task took of a rate limit drains away with time, not with its end."""
    gauge = Gauge()

    @task(tags=["api"])
    async def call() -> None:
        await gauge.use(0.01)

    async with make_engine(limits={"api": RateLimit(2, per="10s", burst=1), "other": RateLimit(1, per=5)}):
        for future in [call.submit() for _ in range(4)]:
            await future
        assert gauge.times == [0, 5, 10, 15]
        for _ in range(3):
            async with concurrency("other"):
                await gauge.use(0.01, "other")
    begun = gauge.entered[4][1]
    assert [round(at - begun, 4) for name, at in gauge.entered if name == "other"] == [0, 5, 10]


async def test_a_rate_counts_everybody(make_engine: MakeEngine) -> None:
    """A rate counts each run, a child of one that was counted too: it needs no re-entrance, since nobody keeps it."""
    gauge = Gauge()

    @task(tags=["api"])
    async def call() -> None:
        await gauge.use(0.01)

    @flow(tags=["api"])
    async def outer() -> None:
        await call()
        await call()

    async with make_engine(limits={"api": RateLimit(1, per="5s")}):
        begun = anyio.current_time()
        await outer()
    assert [round(at - begun, 4) for _, at in gauge.entered] == [5, 10]


async def test_a_rate_gives_up(make_engine: MakeEngine) -> None:
    """`timeout_seconds` bounds the wait for a rate limit, and what gave up has used up nothing."""
    async with make_engine(limits={"api": RateLimit(1, per="10s")}):
        await rate_limit("api")
        with pytest.raises(SlotTimeout):
            await rate_limit("api", timeout_seconds=4)
        assert await passing(1) == [6]


@pytest.mark.real_time
def test_a_rate_in_threads(journal: ListJournal) -> None:
    """`rate_limit(name).wait()` waits in a thread."""
    with Engine(journal, limits={"api": RateLimit(1, per=0.02)}):
        begun = time.monotonic()
        for _ in range(3):
            rate_limit("api").wait()
        assert time.monotonic() - begun >= 0.039


async def test_two_limits_at_once(make_engine: MakeEngine) -> None:
    """Slots and rates can be asked for together, and are then taken together."""
    gauge = Gauge()

    @task(tags=["db", "api"])
    async def work() -> None:
        await gauge.use(3)

    async with make_engine(limits={"db": 1, "api": RateLimit(1, per="2s")}) as engine:
        async with concurrency("db"):
            futures = [work.submit() for _ in range(3)]
            await anyio.sleep(7)
            assert engine.core.limits.active("api") == 0
        for future in futures:
            await future
    assert gauge.times == [0, 3, 6]
