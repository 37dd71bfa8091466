"""DBOS on SQLite: steps awaited and gathered in a workflow. Its database is in the measurement's own folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from dbos import DBOS

from . import bodies, frame
from .frame import Order
from .shapes import Shapes


@DBOS.step()
async def increment(x: int) -> int:
    return bodies.incremented(x)


@DBOS.step()
async def nap(x: int) -> int:
    await asyncio.sleep(bodies.NAP_SECONDS)
    return x


@DBOS.step(retries_allowed=True, max_attempts=2, interval_seconds=0)
async def flaky(marker: str) -> int:
    return bodies.failing_once(marker)


@DBOS.step()
def blocking(x: int) -> int:
    return bodies.incremented(x)


@DBOS.step()
async def kilobyte(i: int) -> bytes:
    return bodies.kilobyte(i)


@DBOS.step()
async def large_result(i: int) -> bytes:
    return bodies.large(i)


@DBOS.step()
async def total(xs: list[int]) -> int:
    return bodies.summed(xs)


@DBOS.workflow()
async def inner(i: int) -> int:
    return await increment(i)


@DBOS.workflow()
async def shaped(shape: str, n: int) -> Any:
    return await getattr(Dbos.current, shape)(n)


@DBOS.workflow()
def called_in_thread(n: int) -> int:
    x = 0
    for _ in range(n):
        x = blocking(x)
    return x


class Dbos(Shapes):
    current: Dbos
    increment: Callable[[int], Any] = staticmethod(increment)
    nap: Callable[[int], Any] = staticmethod(nap)
    flaky: Callable[[str], Any] = staticmethod(flaky)
    kilobyte: Callable[[int], Any] = staticmethod(kilobyte)
    large_result: Callable[[int], Any] = staticmethod(large_result)
    total: Callable[[list[int]], Any] = staticmethod(total)
    inner: Callable[[int], Any] = staticmethod(inner)

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        Dbos.current = self
        database = f"sqlite:///{order.folder}/dbos.db"
        DBOS(config={"name": "benchmark", "system_database_url": database, "run_admin_server": False})

    @contextmanager
    def opened_in_thread(self) -> Iterator[None]:
        DBOS.launch()
        try:
            yield
        finally:
            DBOS.destroy()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        with self.opened_in_thread():
            yield

    async def flow(self, shape: str, n: int) -> Any:
        return await shaped(shape, n)

    async def blocking(self, x: int) -> int:
        return await asyncio.to_thread(blocking, x)

    def sync_call(self, n: int) -> None:
        assert called_in_thread(n) == n


if __name__ == "__main__":
    frame.main(Dbos)
