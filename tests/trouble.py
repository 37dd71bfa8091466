"""A flow that fails half way, the first time round: what tests of durable flows put in its way."""

from __future__ import annotations

from typing import Any

from undertow import Task, task

trouble: list[Exception] = []
"""What the next body that gets so far raises; see the fixture `trouble_ahead`."""


def failing_once() -> None:
    """Raise what the test has put in the way."""
    if trouble:
        raise trouble.pop()


def counted(**options: Any) -> tuple[Task[[Any], Any], list[Any]]:
    """A task that returns its argument, and the list of the arguments that its body was given."""
    ran: list[Any] = []

    @task(**options)
    async def step(x: Any = None) -> Any:
        ran.append(x)
        return x

    return step, ran  # type: ignore[return-value]
