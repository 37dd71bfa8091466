"""Prefect 3, as it comes: async tasks awaited and gathered in an async flow, on the temporary server that it starts.

Its home is the measurement's own folder. Telemetry is switched off from outside, by the environment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from prefect import flow, task

from . import bodies, frame
from .frame import Order
from .shapes import Shapes


@task
async def increment(x: int) -> int:
    return bodies.incremented(x)


@task
async def nap(x: int) -> int:
    await asyncio.sleep(bodies.NAP_SECONDS)
    return x


@task(retries=1, retry_delay_seconds=0)
async def flaky(marker: str) -> int:
    return bodies.failing_once(marker)


blocking = task(bodies.incremented)


@task
async def kilobyte(i: int) -> bytes:
    return bodies.kilobyte(i)


@task
async def large_result(i: int) -> bytes:
    return bodies.large(i)


@task
async def total(xs: list[int]) -> int:
    return bodies.summed(xs)


@flow
async def inner(i: int) -> int:
    return await increment(i)


@flow
async def shaped(shape: str, n: int) -> Any:
    return await getattr(Prefect.current, shape)(n)


@flow
def submitted_in_thread(n: int) -> int:
    return sum(future.result() for future in [blocking.submit(i) for i in range(n)])


@flow
def called_in_thread(n: int) -> int:
    x = 0
    for _ in range(n):
        x = blocking(x)
    return x


class Prefect(Shapes):
    current: Prefect
    increment: Callable[[int], Any] = staticmethod(increment)
    nap: Callable[[int], Any] = staticmethod(nap)
    flaky: Callable[[str], Any] = staticmethod(flaky)
    kilobyte: Callable[[int], Any] = staticmethod(kilobyte)
    large_result: Callable[[int], Any] = staticmethod(large_result)
    total: Callable[[list[int]], Any] = staticmethod(total)
    inner: Callable[[int], Any] = staticmethod(inner)

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        Prefect.current = self

    async def flow(self, shape: str, n: int) -> Any:
        return await shaped(shape, n)

    def threads(self, n: int) -> None:
        assert submitted_in_thread(n) == n * (n + 1) // 2

    def sync_call(self, n: int) -> None:
        assert called_in_thread(n) == n


if __name__ == "__main__":
    frame.main(Prefect)
