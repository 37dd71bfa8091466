"""dask.distributed on a local cluster; a flow is the client's code.

`variant` is `processes`, as it comes, or `in process`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from distributed import Client, LocalCluster

from . import bodies, frame
from .shapes import Shapes


async def nap(x: int) -> int:
    await asyncio.sleep(bodies.NAP_SECONDS)
    return x


class Dask(Shapes):
    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        processes = self.order.variant == "processes"
        async with (
            LocalCluster(asynchronous=True, processes=processes, dashboard_address=None) as cluster,
            Client(cluster, asynchronous=True) as self._client,
        ):
            yield

    def _submit(self, fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return self._client.submit(fn, *args, pure=False, **options)

    async def increment(self, x: Any) -> Any:
        return await self._submit(bodies.incremented, x)

    async def nap(self, x: int) -> Any:
        return await self._submit(nap, x)

    async def _mapped(self, fn: Callable[..., Any], xs: Any, **options: Any) -> list[Any]:
        results: list[Any] = await self._client.gather(self._client.map(fn, xs, pure=False, **options))
        return results

    async def fanned_out(self, n: int) -> None:
        assert sum(await self._mapped(bodies.incremented, range(n))) == n * (n + 1) // 2

    async def chained(self, n: int) -> None:
        x = self._submit(bodies.incremented, 0)
        for _ in range(n - 1):
            x = self._submit(bodies.incremented, x)
        assert await x == n

    async def in_diamond(self, n: int) -> None:
        first = self._submit(bodies.incremented, 0)
        middle = [self._submit(bodies.incremented, first) for _ in range(n)]
        assert await self._submit(bodies.summed, middle) == 2 * n

    async def all_asleep(self, n: int) -> None:
        await self._mapped(nap, range(n))

    async def retried(self, n: int) -> None:
        assert sum(await self._mapped(bodies.failing_once, self.markers(n), retries=1)) == n

    async def in_threads(self, n: int) -> None:
        await self.fanned_out(n)  # a sync task is what it runs anyway, in threads of its workers

    async def streamed(self, n: int) -> None:
        await self._slide(bodies.kilobyte, n, bodies.IN_FLIGHT)

    async def large_results(self, n: int) -> None:
        await self._slide(bodies.large, n, bodies.LARGE_IN_FLIGHT)

    async def _slide(self, fn: Callable[[int], bytes], n: int, at_once: int) -> None:
        flight: deque[Any] = deque()
        for i in range(n):
            flight.append(self._submit(fn, i))
            if len(flight) == at_once:
                assert await flight.popleft()
        while flight:
            assert await flight.popleft()


if __name__ == "__main__":
    frame.main(Dask)
