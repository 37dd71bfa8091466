"""Plain asyncio: each task is a member of a `TaskGroup`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from . import frame
from .shapes import Shapes


class PlainAsyncio(Shapes):
    async def one(self, task: Callable[[Any], Awaitable[Any]], x: Any) -> Any:
        async with asyncio.TaskGroup() as group:
            member = group.create_task(task(x))  # type: ignore[arg-type]
        return member.result()

    async def gathered(self, task: Callable[[Any], Awaitable[Any]], xs: Any) -> list[Any]:
        async with asyncio.TaskGroup() as group:
            members = [group.create_task(task(x)) for x in xs]  # type: ignore[arg-type]
        return [member.result() for member in members]

    async def sequence(self, n: int) -> None:
        x = 0
        for _ in range(n):
            x = await self.one(self.increment, x)

    async def nested(self, n: int) -> None:
        for i in range(n):
            await self.one(self.inner, i)

    async def handle(self) -> int:
        """Three coroutines, awaited: what a handler would do without any engine."""
        return await self.increment(await self.increment(await self.increment(0)))


if __name__ == "__main__":
    frame.main(PlainAsyncio)
