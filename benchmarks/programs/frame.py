"""What happens in the fresh process of one measurement: an order is read, work is done and timed, an answer is left.

Standard library alone, because every engine runs in an environment of its own. Nothing here knows any engine.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import Any, NamedTuple

from .bodies import NAP_SECONDS, NAPS_AT_ONCE

Answer = dict[str, float]
"""A number for each unit in which something was measured."""

ENOUGH_SECONDS, ENOUGH_TIMES = 0.5, 9
"""Short work is done again until one of these is reached; the median counts."""

WARM_UP = 10_000
"""Tasks of a warm-up, at most."""

ASLEEP: dict[str, Callable[[int], float]] = {
    "sleeping": lambda n: NAP_SECONDS,
    "sleeping_limited": lambda n: NAP_SECONDS * math.ceil(n / NAPS_AT_ONCE),
}
"""Seconds that the work takes by its nature, which are no engine's cost."""


class Order(NamedTuple):
    """What the process is to do."""

    workload: str
    n: int
    variant: str
    folder: Path
    """An empty folder on disk, for journals and whatever else the engine leaves behind."""
    seconds: float
    """How long work goes on that is measured over a time."""
    gc: bool = True


class Program:
    """One engine's way to do each workload, in a method of the workload's name.

    A method that takes `n` is timed. One in `ANSWERS` opens what it needs, measures by itself, and returns its answer.
    """

    ANSWERS = frozenset({"loop_lag", "web", "resume", "journal_bytes"})

    def __init__(self, order: Order) -> None:
        self.order = order
        self._rounds = 0

    def run(self, main: Callable[[], Awaitable[Answer]]) -> Answer:
        """Run `main` in the kind of event loop that the program is for."""
        return asyncio.run(main())  # type: ignore[arg-type]

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Have the engine ready, for the time of the block."""
        yield

    @contextmanager
    def opened_in_thread(self) -> Iterator[None]:
        """`opened`, for methods that are no coroutines: they run without an event loop."""
        yield

    def markers(self, n: int) -> list[str]:
        """Texts for `failing_once` that were never used before: one in ten ends in 0."""
        self._rounds += 1
        return [str(self.order.folder / f"{self._rounds}-{i}") for i in range(n)]


def answered(program: Program) -> Answer:
    """Do what the program's order says."""
    order = program.order
    method = getattr(program, order.workload)
    if order.workload in program.ANSWERS:
        return program.run(method)
    if inspect.iscoroutinefunction(method):

        async def main() -> Answer:
            async with program.opened():
                return await timed(method, order)

        return program.run(main)
    with program.opened_in_thread():
        return timed_in_thread(method, order)


class Stopwatch:
    """The times of one measurement, after its warm-up, on the clock and of the processor; the growth of memory."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._laps: list[tuple[float, float, float]] = []
        gc.collect()
        if not order.gc:
            gc.disable()
        self._base = resident_mb()
        forget_peak()

    def enough(self) -> bool:
        return sum(took for took, _, _ in self._laps) >= ENOUGH_SECONDS or len(self._laps) == ENOUGH_TIMES

    @contextmanager
    def lap(self) -> Iterator[None]:
        gc.collect()
        start = _clocks()
        yield
        took, here, everywhere = (end - begin for end, begin in zip(_clocks(), start, strict=True))
        self._laps.append((took, here, everywhere - here))

    def answer(self) -> Answer:
        took, here, elsewhere = map(statistics.median, zip(*self._laps, strict=True))
        took -= ASLEEP.get(self._order.workload, lambda n: 0.0)(self._order.n)
        a_task = 1e6 / self._order.n
        return {
            "µs a task": took * a_task,
            "µs in this thread": here * a_task,
            "µs in other threads": elsewhere * a_task,
            "MB grown": peak_mb() - self._base,
        }


def _clocks() -> tuple[float, float, float]:
    """Seconds: on the clock, of the processor in this thread, and in all threads."""
    return perf_counter(), thread_time(), process_time()


def warm_up_of(n: int) -> int:
    return min(max(10, n // 20), WARM_UP, n)


async def timed(method: Callable[[int], Awaitable[Any]], order: Order) -> Answer:
    """Microseconds a task, and memory grown, once warmed up."""
    await method(warm_up_of(order.n))
    watch = Stopwatch(order)
    while not watch.enough():
        with watch.lap():
            await method(order.n)
    return watch.answer()


def timed_in_thread(method: Callable[[int], Any], order: Order) -> Answer:
    """`timed`, without an event loop."""
    method(warm_up_of(order.n))
    watch = Stopwatch(order)
    while not watch.enough():
        with watch.lap():
            method(order.n)
    return watch.answer()


# --- memory and files ------------------------------------------------------------------------------------------


def _status_mb(name: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return float(line.split()[1]) * 1024 / 1e6
    return math.nan


def resident_mb() -> float:
    """Resident memory of this process now; `nan` where there is no /proc."""
    return _status_mb("VmRSS") if os.path.exists("/proc/self/status") else math.nan


def peak_mb() -> float:
    """The most it ever was, or was since `forget_peak`."""
    return _status_mb("VmHWM") if os.path.exists("/proc/self/status") else math.nan


def forget_peak() -> None:
    """Have the kernel begin the high-water mark anew."""
    if os.path.exists("/proc/self/clear_refs"):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


CHECKPOINT = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA wal_checkpoint(TRUNCATE)')"


def databases_bytes(folder: Path) -> int:
    """Bytes of the SQLite files in the folder, once another process has moved the write-ahead logs into them."""
    for path in folder.glob("*.db"):
        subprocess.run([sys.executable, "-c", CHECKPOINT, str(path)], check=True)
    return sum(path.stat().st_size for path in folder.glob("*.db"))


async def journal_bytes(program: Program, work: Callable[[int], Awaitable[Any]]) -> Answer:
    """Bytes that `work(n)` adds to the databases in the program's folder, for each of its tasks."""
    async with program.opened():
        await work(10)
        before = databases_bytes(program.order.folder)
        await work(program.order.n)
        return {"bytes a task": (databases_bytes(program.order.folder) - before) / program.order.n}


def main(program_type: Callable[[Order], Program]) -> None:
    """Carry out the order in the command line, and leave the answer where it says."""
    given = json.loads(sys.argv[1])
    answer_path = Path(given.pop("answer"))
    given["folder"] = Path(given["folder"])
    answer = answered(program_type(Order(**given)))
    answer_path.write_text(json.dumps(answer), encoding="utf-8")
