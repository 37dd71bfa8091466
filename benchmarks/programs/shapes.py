"""The workloads as asyncio programs, over what an engine says a task is. Engines that live in asyncio share them.

As it stands here nothing is an engine: tasks are coroutines, and a flow is a coroutine that awaits them. A subclass
says what a task and a flow are to its engine, and does in its own way what its engine has a better way for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

from . import bodies, lag
from .frame import Answer, Program, journal_bytes
from .web import serve_and_ask


class Shapes(Program):
    """The workloads, in asyncio."""

    # --- what a subclass says ----------------------------------------------------------------------------------

    async def increment(self, x: int) -> int:
        return bodies.incremented(x)

    async def nap(self, x: int) -> int:
        await asyncio.sleep(bodies.NAP_SECONDS)
        return x

    async def flaky(self, marker: str) -> int:
        """A task that may fail once, with its retry."""
        try:
            return bodies.failing_once(marker)
        except ConnectionError:
            return bodies.failing_once(marker)

    async def blocking(self, x: int) -> int:
        """A sync task, in a thread."""
        return await asyncio.to_thread(bodies.incremented, x)

    async def kilobyte(self, i: int) -> bytes:
        return bodies.kilobyte(i)

    async def large_result(self, i: int) -> bytes:
        return bodies.large(i)

    async def total(self, xs: list[int]) -> int:
        return bodies.summed(xs)

    async def flow(self, shape: str, n: int) -> Any:
        """Run the shape of that name as a flow. The shapes are the methods below."""
        return await getattr(self, shape)(n)

    async def inner(self, i: int) -> int:
        """A flow of one task, called inside a flow."""
        return await self.increment(i)

    async def gathered(self, task: Callable[[Any], Awaitable[Any]], xs: Iterable[Any]) -> list[Any]:
        return list(await asyncio.gather(*[task(x) for x in xs]))

    # --- the bodies of the flows -------------------------------------------------------------------------------

    async def in_sequence(self, n: int) -> None:
        x = 0
        for _ in range(n):
            x = await self.increment(x)
        assert x == n

    async def fanned_out(self, n: int) -> None:
        assert sum(await self.gathered(self.increment, range(n))) == n * (n + 1) // 2

    async def streamed(self, n: int) -> None:
        await self._pull(self.kilobyte, n, bodies.IN_FLIGHT)

    async def chained(self, n: int) -> None:
        async def link(before: Awaitable[int]) -> int:
            return await self.increment(await before)

        x: asyncio.Task[int] = asyncio.create_task(self._zero())
        for _ in range(n):
            x = asyncio.create_task(link(x))
        assert await x == n

    async def in_diamond(self, n: int) -> None:
        first = await self.increment(0)
        assert await self.total(await self.gathered(self.increment, [first] * n)) == 2 * n

    async def all_nested(self, n: int) -> None:
        for i in range(n):
            assert await self.inner(i) == i + 1

    async def all_asleep(self, n: int) -> None:
        await self.gathered(self.nap, range(n))

    async def some_asleep(self, n: int) -> None:
        slots = asyncio.Semaphore(bodies.NAPS_AT_ONCE)

        async def one(i: int) -> int:
            async with slots:
                return await self.nap(i)

        await self.gathered(one, range(n))

    async def retried(self, n: int) -> None:
        assert sum(await self.gathered(self.flaky, self.markers(n))) == n

    async def in_threads(self, n: int) -> None:
        assert sum(await self.gathered(self.blocking, range(n))) == n * (n + 1) // 2

    async def large_results(self, n: int) -> None:
        await self._pull(self.large_result, n, bodies.LARGE_IN_FLIGHT)

    async def three(self, n: int) -> int:
        """What a web handler awaits."""
        return await self.increment(await self.increment(await self.increment(0)))

    async def paced(self, n: int) -> None:
        """Tasks at a rate of `n` a second, for a while."""
        async with asyncio.TaskGroup() as group:

            def start(i: int) -> None:
                group.create_task(_awaited(self.increment(i)))

            await lag.start_steadily(start, n, self.order.seconds, asyncio.sleep)

    async def _zero(self) -> int:
        return 0

    async def _pull(self, task: Callable[[int], Awaitable[bytes]], n: int, at_once: int) -> None:
        """Have tasks over `range(n)` run, so many at a time, and drop their results."""
        source = iter(range(n))

        async def pull() -> None:
            for i in source:
                assert await task(i)

        await asyncio.gather(*[pull() for _ in range(at_once)])

    # --- the workloads -----------------------------------------------------------------------------------------

    async def sequence(self, n: int) -> None:
        await self.flow("in_sequence", n)

    async def fan_out(self, n: int) -> None:
        await self.flow("fanned_out", n)

    async def stream(self, n: int) -> None:
        await self.flow("streamed", n)

    async def chain(self, n: int) -> None:
        await self.flow("chained", n)

    async def diamond(self, n: int) -> None:
        await self.flow("in_diamond", n)

    async def nested(self, n: int) -> None:
        await self.flow("all_nested", n)

    async def sleeping(self, n: int) -> None:
        await self.flow("all_asleep", n)

    async def sleeping_limited(self, n: int) -> None:
        await self.flow("some_asleep", n)

    async def retries(self, n: int) -> None:
        await self.flow("retried", n)

    async def threads(self, n: int) -> None:
        await self.flow("in_threads", n)

    async def large(self, n: int) -> None:
        await self.flow("large_results", n)

    async def handle(self) -> int:
        result: int = await self.flow("three", 0)
        return result

    async def web(self) -> Answer:
        async with self.opened():
            await self.handle()
            return await serve_and_ask(self.handle, self.order)

    async def loop_lag(self) -> Answer:
        lags: list[float] = []
        async with self.opened():
            await self.sequence(10)
            watcher = asyncio.create_task(lag.watch(lags, asyncio.sleep))
            await self.flow("paced", self.order.n)
            watcher.cancel()
            with suppress(asyncio.CancelledError):
                await watcher
        return {"ms p99": lag.p99_ms(lags)}

    async def journal_bytes(self) -> Answer:
        return await journal_bytes(self, self.fan_out)


async def _awaited(task: Awaitable[Any]) -> Any:
    return await task
