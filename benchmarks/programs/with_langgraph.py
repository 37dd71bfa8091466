"""LangGraph's functional interface: `@task` in an `@entrypoint`.

`variant` says where its checkpoints go: `sqlite`, or `none`.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.func import entrypoint, task
from langgraph.types import RetryPolicy

from . import bodies, frame
from .shapes import Shapes


@task
async def increment(x: int) -> int:
    return bodies.incremented(x)


@task
async def nap(x: int) -> int:
    await asyncio.sleep(bodies.NAP_SECONDS)
    return x


@task(retry_policy=RetryPolicy(max_attempts=2, initial_interval=0, jitter=False, retry_on=ConnectionError))
async def flaky(marker: str) -> int:
    return bodies.failing_once(marker)


@task
def blocking(x: int) -> int:
    return bodies.incremented(x)


@task
async def kilobyte(i: int) -> bytes:
    return bodies.kilobyte(i)


@task
async def large_result(i: int) -> bytes:
    return bodies.large(i)


@task
async def total(xs: list[int]) -> int:
    return bodies.summed(xs)


class LangGraph(Shapes):
    increment: Callable[[int], Any] = staticmethod(increment)
    nap: Callable[[int], Any] = staticmethod(nap)
    flaky: Callable[[str], Any] = staticmethod(flaky)
    blocking: Callable[[int], Any] = staticmethod(blocking)
    kilobyte: Callable[[int], Any] = staticmethod(kilobyte)
    large_result: Callable[[int], Any] = staticmethod(large_result)
    total: Callable[[list[int]], Any] = staticmethod(total)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        if self.order.variant == "none":
            self._prepare(None)
            yield
            return
        async with AsyncSqliteSaver.from_conn_string(str(self.order.folder / "checkpoints.db")) as saver:
            self._prepare(saver)
            yield

    def _prepare(self, saver: AsyncSqliteSaver | None) -> None:
        @entrypoint(checkpointer=saver)
        async def shaped(call: tuple[str, int]) -> Any:
            return await getattr(self, call[0])(call[1])

        @entrypoint(checkpointer=saver)
        async def inner(i: int) -> int:
            return await increment(i)

        self._shaped, self._inner = shaped, inner

    async def flow(self, shape: str, n: int) -> Any:
        return await self._shaped.ainvoke((shape, n), {"configurable": {"thread_id": uuid.uuid4().hex}})

    async def inner(self, i: int) -> Any:
        return await self._inner.ainvoke(i)


if __name__ == "__main__":
    frame.main(LangGraph)
