"""undertow. `variant` is the event loop and the journal: `asyncio/process`, `trio/memory`, …

`counting` in place of a journal only counts: with it the pipeline is measured alone.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio

from undertow import Engine, flow, progress, task

from . import bodies, frame, lag
from .counting import CountingJournal
from .frame import Answer, Order, Program, journal_bytes
from .web import serve_and_ask
from .with_anyio import in_loop, lag_beside


class Terminal(io.StringIO):
    """What takes itself for a terminal, so that there is something to draw for."""

    def isatty(self) -> bool:
        return True


# --- tasks -----------------------------------------------------------------------------------------------------


@task
async def increment(x: int) -> int:
    return bodies.incremented(x)


@task
async def nap(x: int) -> int:
    await anyio.sleep(bodies.NAP_SECONDS)
    return x


limited_nap = nap.with_options(limits=["naps"])


@task(retries=1)
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


# --- flows -----------------------------------------------------------------------------------------------------


@flow
async def in_sequence(n: int) -> int:
    x = 0
    for _ in range(n):
        x = await increment(x)
    return x


@flow
async def fanned_out(n: int) -> int:
    futures = [increment.submit(i) for i in range(n)]
    return sum([await future for future in futures])


@flow
async def streamed(n: int) -> None:
    async for result in kilobyte.stream(range(n), max_in_flight=bodies.IN_FLIGHT):
        assert result


@flow
async def chained(n: int) -> int:
    x: Any = 0
    for _ in range(n):
        x = increment.submit(x)
    result: int = await x
    return result


@flow
async def in_diamond(n: int) -> int:
    first = increment.submit(0)
    return await total.submit([increment.submit(first) for _ in range(n)])


@flow
async def inner(i: int) -> int:
    return await increment(i)


@flow
async def all_nested(n: int) -> None:
    for i in range(n):
        assert await inner(i) == i + 1


@flow
async def asleep(n: int, limited: bool) -> None:
    await (limited_nap if limited else nap).map(range(n))


@flow
async def retried(markers: list[str]) -> int:
    return sum(await flaky.map(markers))


@flow
async def in_threads(n: int) -> int:
    return sum(await blocking.map(range(n)))


@flow
def called_in_thread(n: int) -> int:
    x = 0
    for _ in range(n):
        x = blocking(x)
    return x


@flow
async def large_results(n: int) -> None:
    async for result in large_result.stream(range(n), max_in_flight=bodies.LARGE_IN_FLIGHT):
        assert result


@flow
async def three() -> int:
    return await increment(await increment(await increment(0)))


@flow
async def paced(rate: int, seconds: float) -> None:
    await lag.start_steadily(increment.submit, rate, seconds, anyio.sleep)


durable_in_sequence = in_sequence.with_options(durable=True)
durable_fanned_out = fanned_out.with_options(durable=True)
STEPS_AT_ONCE = 1_000
power = True


@flow(durable=True)
async def in_steps(n: int) -> int:
    """Many steps, and a failure after the last of them while there is no power."""
    done = 0
    for start in range(0, n, STEPS_AT_ONCE):
        done += len(await increment.map(range(start, min(n, start + STEPS_AT_ONCE))))
    if not power:
        raise ConnectionError("the lights went out")
    return done


# --- the workloads ---------------------------------------------------------------------------------------------


class Undertow(Program):
    def __init__(self, order: Order) -> None:
        super().__init__(order)
        self._loop, self._journal = order.variant.split("/")

    def run(self, main: Callable[[], Awaitable[Answer]]) -> Answer:
        return in_loop(self._loop, main)

    def engine(self) -> Engine:
        """A new engine; those with a journal on disk share one file."""
        backend = "trio" if self._loop == "trio" else "asyncio"
        limits = {"naps": bodies.NAPS_AT_ONCE}
        if self._journal == "counting":
            return Engine(CountingJournal(), limits=limits, backend=backend)
        if self._journal == "memory":
            return Engine(":memory:", limits=limits, backend=backend)
        durability: Any = self._journal
        return Engine(self.order.folder / "journal.db", durability=durability, limits=limits, backend=backend)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with self.engine():
            yield

    @contextmanager
    def opened_in_thread(self) -> Iterator[None]:
        with self.engine():
            yield

    async def sequence(self, n: int) -> None:
        assert await in_sequence(n) == n

    async def fan_out(self, n: int) -> None:
        assert await fanned_out(n) == n * (n + 1) // 2

    async def stream(self, n: int) -> None:
        await streamed(n)

    async def chain(self, n: int) -> None:
        assert await chained(n) == n

    async def diamond(self, n: int) -> None:
        assert await in_diamond(n) == 2 * n

    async def nested(self, n: int) -> None:
        await all_nested(n)

    async def sleeping(self, n: int) -> None:
        await asleep(n, limited=False)

    async def sleeping_limited(self, n: int) -> None:
        await asleep(n, limited=True)

    async def retries(self, n: int) -> None:
        assert await retried(self.markers(n)) == n

    async def threads(self, n: int) -> None:
        assert await in_threads(n) == n * (n + 1) // 2

    def sync_call(self, n: int) -> None:
        assert called_in_thread(n) == n

    async def large(self, n: int) -> None:
        await large_results(n)

    async def durable_sequence(self, n: int) -> None:
        assert await durable_in_sequence(n) == n

    async def durable_fan_out(self, n: int) -> None:
        assert await durable_fanned_out(n) == n * (n + 1) // 2

    async def watched(self, n: int) -> None:
        terminal = Terminal()
        with progress(terminal):
            assert await in_sequence(n) == n

    async def web(self) -> Answer:
        async with self.engine():
            return await serve_and_ask(three, self.order)

    async def loop_lag(self) -> Answer:
        async with self.engine():
            await in_sequence(10)
            return await lag_beside(lambda: paced(self.order.n, self.order.seconds))

    async def journal_bytes(self) -> Answer:
        return await journal_bytes(self, self.fan_out)

    async def resume(self) -> Answer:
        """A run that failed after its last step is resumed: all that is to be done is to find that out."""
        global power
        power = False
        async with self.engine():
            state = await in_steps(self.order.n, return_state=True)
        power = True
        async with self.engine() as engine:
            watch = frame.Stopwatch(self.order)
            with watch.lap():
                assert state.run_id is not None
                assert await engine.resume(state.run_id) == self.order.n
            return watch.answer()


if __name__ == "__main__":
    frame.main(Undertow)
