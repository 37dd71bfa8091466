"""What type checkers infer about serving, waiting and watching. This file is checked by mypy and pyright, never run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from undertow import (
    Cron,
    Engine,
    Event,
    Future,
    Health,
    Interval,
    Limit,
    Plan,
    RateLimit,
    flow,
    pause_flow_run,
    resume_flow_run,
    send_signal,
    serve,
    suspend_flow_run,
    wait_for_signal,
)


class Review:
    """An input of a class of one's own."""


@flow(durable=True)
async def publish(text: str) -> str:
    assert_type(await pause_flow_run(Review, timeout=60), Review)
    assert_type(await pause_flow_run(bool), bool)
    assert_type(await suspend_flow_run(int, key="count"), int)
    assert_type(await pause_flow_run(), Any)
    assert_type(await wait_for_signal("stop", timeout=5), Any)
    return text


async def main() -> None:
    nightly = publish.on(cron="0 2 * * *", timezone="Europe/Berlin", parameters={"text": "a"}, overlap="buffer_one")
    assert_type(nightly, Plan)
    both = publish.on(schedule=Cron("@daily") | Interval(timedelta(hours=5)), name="both", grace=timedelta(hours=1))
    engine = Engine("app.db", limits={"db": Limit(3, shared=True), "api": RateLimit(5, per="1s", shared=True)})
    engine.serve(nightly, both)
    await serve(publish.on(interval=60, catch_up="skip"))
    assert_type(await engine.schedules.trigger("both"), str)
    assert_type(await engine.schedules.backfill("both", datetime.now(UTC), datetime.now(UTC)), list[str])
    handle = engine.start(publish, "a")
    async for event in handle.events():
        assert_type(event, Event)
    assert_type(engine.handle(handle.run_id), Future[Any] | None)
    assert_type(await engine.health(), Health)
    await send_signal(handle.run_id, "stop", "enough")
    await resume_flow_run(handle.run_id, Review())
