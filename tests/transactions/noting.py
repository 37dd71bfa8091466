"""What tests of transactions note, and the blocks that they make."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from undertow import Part, flow, task, transaction


class Noted:
    """Hooks that note what they are called with, and tasks that have them."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def commit(self, part: Part) -> None:
        self.calls.append(("commit", part.result))

    def rollback(self, part: Part) -> None:
        self.calls.append(("rollback", part.result))

    def task(self, fn: Callable[..., Any], **options: Any) -> Any:
        return task(**({"on_commit": self.commit, "on_rollback": self.rollback} | options))(fn)


async def in_a_flow(body: Callable[[], Awaitable[Any]], **options: Any) -> Any:
    """What an async function gives when it is the body of a flow that is judged by what it returns."""
    return await flow(final_state="return", **options)(body)()


async def rolled_back(body: Callable[[], Awaitable[Any]]) -> None:
    """Run the body in a transaction in a flow, and have the transaction rolled back at its end."""

    async def outer() -> None:
        async with transaction():
            await body()
            raise ValueError("at the end")

    with pytest.raises(ValueError, match="at the end"):
        await in_a_flow(outer)
