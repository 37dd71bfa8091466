"""taskiq in memory. `variant` is `polled`, as it comes (results are asked for every 0.2 s), or `in place`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from taskiq import InMemoryBroker, SimpleRetryMiddleware

from . import bodies, frame
from .frame import Order
from .shapes import Shapes


async def nap(x: int) -> int:
    await asyncio.sleep(bodies.NAP_SECONDS)
    return x


async def increment(x: int) -> int:
    return bodies.incremented(x)


async def flaky(marker: str) -> int:
    return bodies.failing_once(marker)


async def kilobyte(i: int) -> bytes:
    return bodies.kilobyte(i)


async def large_result(i: int) -> bytes:
    return bodies.large(i)


async def total(xs: list[int]) -> int:
    return bodies.summed(xs)


class Taskiq(Shapes):
    def __init__(self, order: Order) -> None:
        super().__init__(order)
        in_place = order.variant == "in place"
        self._interval = 0.001 if in_place else 0.2
        self._broker = broker = InMemoryBroker(await_inplace=in_place, max_stored_results=-1)
        broker.add_middlewares(SimpleRetryMiddleware(default_retry_count=2))
        self._increment = broker.task(increment)
        self._nap = broker.task(nap)
        self._flaky = broker.task(flaky, retry_on_error=True)
        self._blocking = broker.task(bodies.incremented)
        self._kilobyte = broker.task(kilobyte)
        self._large = broker.task(large_result)
        self._total = broker.task(total)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        await self._broker.startup()
        try:
            yield
        finally:
            await self._broker.shutdown()

    async def _result(self, task: Any, x: Any) -> Any:
        sent = await task.kiq(x)
        result = await sent.wait_result(check_interval=self._interval)
        self._broker.result_backend.results.pop(sent.task_id, None)  # it keeps every one otherwise
        return result.return_value

    async def increment(self, x: int) -> Any:
        return await self._result(self._increment, x)

    async def nap(self, x: int) -> Any:
        return await self._result(self._nap, x)

    async def flaky(self, marker: str) -> Any:
        return await self._result(self._flaky, marker)

    async def blocking(self, x: int) -> Any:
        return await self._result(self._blocking, x)

    async def kilobyte(self, i: int) -> Any:
        return await self._result(self._kilobyte, i)

    async def large_result(self, i: int) -> Any:
        return await self._result(self._large, i)

    async def total(self, xs: list[int]) -> Any:
        return await self._result(self._total, xs)


if __name__ == "__main__":
    frame.main(Taskiq)
