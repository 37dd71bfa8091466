"""Plain anyio: each task is a member of a task group, on any of its event loops. No engine, no journal."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import anyio
import anyio.to_thread

from . import bodies, frame, lag
from .frame import Answer, Program
from .web import serve_and_ask


async def increment(x: int) -> int:
    return bodies.incremented(x)


async def nap(x: int) -> int:
    await anyio.sleep(bodies.NAP_SECONDS)
    return x


async def flaky(marker: str) -> int:
    try:
        return bodies.failing_once(marker)
    except ConnectionError:
        return bodies.failing_once(marker)


async def blocking(x: int) -> int:
    return await anyio.to_thread.run_sync(bodies.incremented, x)


async def gathered(task: Callable[[Any], Awaitable[Any]], xs: Iterable[Any]) -> list[Any]:
    """The results of a task over many arguments, from members of one group."""
    results: dict[int, Any] = {}

    async def member(i: int, x: Any) -> None:
        results[i] = await task(x)

    async with anyio.create_task_group() as group:
        for i, x in enumerate(xs):
            group.start_soon(member, i, x)
    return [results[i] for i in range(len(results))]


async def one(task: Callable[[Any], Awaitable[Any]], x: Any) -> Any:
    """The result of one member, in a group of its own."""
    return (await gathered(task, (x,)))[0]


async def pull(task: Callable[[int], Any], n: int, at_once: int) -> None:
    """A task over `range(n)`, each a member, so many at a time, and the results dropped."""
    slots = anyio.Semaphore(at_once)

    async def member(i: int) -> None:
        try:
            assert task(i)
        finally:
            slots.release()

    async with anyio.create_task_group() as group:
        for i in range(n):
            await slots.acquire()
            group.start_soon(member, i)


class PlainAnyio(Program):
    """`variant` is the event loop."""

    def run(self, main: Callable[[], Awaitable[Answer]]) -> Answer:
        return in_loop(self.order.variant, main)

    async def sequence(self, n: int) -> None:
        for i in range(n):
            async with anyio.create_task_group() as group:
                group.start_soon(increment, i)

    async def fan_out(self, n: int) -> None:
        assert sum(await gathered(increment, range(n))) == n * (n + 1) // 2

    async def stream(self, n: int) -> None:
        await pull(bodies.kilobyte, n, bodies.IN_FLIGHT)

    async def chain(self, n: int) -> None:
        done = [anyio.Event() for _ in range(n + 1)]
        values = [0] * (n + 1)
        done[0].set()

        async def link(i: int) -> None:
            await done[i].wait()
            values[i + 1] = await increment(values[i])
            done[i + 1].set()

        await gathered(link, range(n))
        assert values[n] == n

    async def diamond(self, n: int) -> None:
        first = await one(increment, 0)

        async def total(xs: list[int]) -> int:
            return bodies.summed(xs)

        assert await one(total, await gathered(increment, [first] * n)) == 2 * n

    async def nested(self, n: int) -> None:
        for i in range(n):
            await one(functools.partial(one, increment), i)

    async def sleeping(self, n: int) -> None:
        await gathered(nap, range(n))

    async def sleeping_limited(self, n: int) -> None:
        slots = anyio.CapacityLimiter(bodies.NAPS_AT_ONCE)

        async def limited(x: int) -> int:
            async with slots:
                return await nap(x)

        await gathered(limited, range(n))

    async def retries(self, n: int) -> None:
        assert sum(await gathered(flaky, self.markers(n))) == n

    async def threads(self, n: int) -> None:
        await gathered(blocking, range(n))

    async def sync_call(self, n: int) -> None:
        """What a sync call from a thread into a loop is compared with: a round trip between a loop and a thread."""
        for i in range(n):
            await blocking(i)

    async def large(self, n: int) -> None:
        await pull(bodies.large, n, bodies.LARGE_IN_FLIGHT)

    async def handle(self) -> int:
        return await increment(await increment(await increment(0)))

    async def web(self) -> Answer:
        return await serve_and_ask(self.handle, self.order)

    async def paced(self) -> None:
        async with anyio.create_task_group() as group:

            def start(i: int) -> None:
                group.start_soon(increment, i)

            await lag.start_steadily(start, self.order.n, self.order.seconds, anyio.sleep)

    async def loop_lag(self) -> Answer:
        return await lag_beside(self.paced)


def in_loop(name: str, main: Callable[[], Awaitable[Answer]]) -> Answer:
    """Run `main` in an event loop of that name: asyncio, uvloop or trio."""
    if name == "trio":
        return anyio.run(main, backend="trio")
    return anyio.run(main, backend="asyncio", backend_options={"use_uvloop": name == "uvloop"})


async def lag_beside(work: Callable[[], Awaitable[object]]) -> Answer:
    """How late the loop is while `work` goes on."""
    lags: list[float] = []
    async with anyio.create_task_group() as group:
        group.start_soon(lag.watch, lags, anyio.sleep)
        await work()
        group.cancel_scope.cancel()
    return {"ms p99": lag.p99_ms(lags)}


if __name__ == "__main__":
    frame.main(PlainAnyio)
