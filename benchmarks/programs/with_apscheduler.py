"""APScheduler 4 in memory: each task is a job that is run at once and waited for. It has no flows.

Its default runs one job of a function at a time; here there may be any number, up to its 100 jobs in all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from apscheduler import AsyncScheduler, TaskDefaults

from . import bodies, frame
from .shapes import Shapes


async def increment(x: int) -> int:
    return bodies.incremented(x)


async def nap(x: int) -> int:
    await asyncio.sleep(bodies.NAP_SECONDS)
    return x


async def kilobyte(i: int) -> bytes:
    return bodies.kilobyte(i)


async def large_result(i: int) -> bytes:
    return bodies.large(i)


async def total(xs: list[int]) -> int:
    return bodies.summed(xs)


class APScheduler(Shapes):
    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with AsyncScheduler(task_defaults=TaskDefaults(max_running_jobs=None)) as self._scheduler:
            await self._scheduler.start_in_background()
            yield

    async def _result(self, fn: Callable[..., Any], x: Any) -> Any:
        return await self._scheduler.run_job(fn, args=(x,))

    async def increment(self, x: int) -> Any:
        return await self._result(increment, x)

    async def nap(self, x: int) -> Any:
        return await self._result(nap, x)

    async def blocking(self, x: int) -> Any:
        return await self._result(bodies.incremented, x)

    async def kilobyte(self, i: int) -> Any:
        return await self._result(kilobyte, i)

    async def large_result(self, i: int) -> Any:
        return await self._result(large_result, i)

    async def total(self, xs: list[int]) -> Any:
        return await self._result(total, xs)


if __name__ == "__main__":
    frame.main(APScheduler)
