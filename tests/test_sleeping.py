"""`sleep` and `sleep_until`: in a durable flow that runs once more, only the rest of the time is slept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

import undertow
from tests.trouble import failing_once, trouble
from undertow import Engine, InvalidOption, flow, task

pytestmark = pytest.mark.usefixtures("trouble_ahead")


async def test_a_durable_sleep(engine: Engine) -> None:
    """In a flow that runs again, each sleep lasts only for the rest of its time, and equal ones are told apart."""

    @flow(durable=True, retries=1)
    async def whole() -> None:
        await undertow.sleep(100)
        with anyio.move_on_after(60 if trouble else None):
            await undertow.sleep(100)
        failing_once()

    start = anyio.current_time()
    await whole()
    assert anyio.current_time() - start == pytest.approx(200, abs=0.01)


async def test_a_sleep_in_a_step(engine: Engine) -> None:
    """A task of a durable flow that sleeps and is tried again sleeps for the rest; in a plain flow it sleeps anew."""

    @task(retries=1)
    async def nap() -> None:
        with anyio.move_on_after(60 if trouble else None):
            await undertow.sleep(100)
        failing_once()

    @flow
    async def whole() -> None:
        await nap()

    for durable, seconds in ((True, 100), (False, 160)):
        trouble[:] = [ConnectionError("half way")]
        start = anyio.current_time()
        await whole.with_options(durable=durable)()
        assert anyio.current_time() - start == pytest.approx(seconds, abs=0.01)


async def test_sleep_until(engine: Engine) -> None:
    """`sleep_until` waits for the moment that it is given, however often its flow begins anew, and not at all when it has passed."""

    @flow(durable=True, retries=1, retry_delay_seconds=60)
    async def whole() -> None:
        failing_once()
        await undertow.sleep_until(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=start + 100))
        await undertow.sleep_until(datetime(2025, 1, 1, tzinfo=UTC))

    start = anyio.current_time()
    await whole()
    assert anyio.current_time() - start == pytest.approx(100, abs=0.01)


@pytest.mark.parametrize("seconds", [-1, "3", True, None, float("nan")])
async def test_bad_sleeps(engine: Engine, seconds: Any) -> None:
    """What is no number of seconds, and a moment without a time zone, are refused with what is allowed."""
    with pytest.raises(InvalidOption, match="a number of seconds, 0 or more"):
        await undertow.sleep(seconds)
    with pytest.raises(InvalidOption, match=r"datetime\.now\(UTC\)"):
        await undertow.sleep_until(datetime(2026, 1, 1))


async def test_an_endless_sleep(engine: Engine) -> None:
    """A durable flow may sleep for ever, as any other code may."""

    @flow(durable=True)
    async def whole() -> None:
        await undertow.sleep(float("inf"))

    with anyio.move_on_after(1000) as scope:
        await whole()
    assert scope.cancelled_caught
