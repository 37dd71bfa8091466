"""What has to come to its end whoever cancels: hooks, roll-backs.

A cancel scope's shield keeps off other scopes, but not `asyncio.Task.cancel`, which strikes whatever the task is at. So
what must not be struck is lived in a task of its own, and the one that was cancelled waits for it.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any

import anyio


async def undisturbed(life: Callable[..., Awaitable[object]], *args: Any, seconds: float = math.inf) -> bool:
    """Await `life(*args)`, for so long at most; false when that was not enough. Raises what it raises.

    Who is cancelled meanwhile is told when it has ended.
    """
    in_time = True
    errors: list[BaseException] = []

    async def live() -> None:
        nonlocal in_time
        try:
            with anyio.move_on_after(seconds, shield=True) as scope:
                await life(*args)
            in_time = not scope.cancelled_caught
        except BaseException as error:
            errors.append(error)  # raised below, in the caller's own task and in no group

    try:
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                group.start_soon(live)
    finally:
        if errors:
            raise errors.pop()
    return in_time
