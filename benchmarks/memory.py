"""How much the resident memory of a process grows while many results pass through it. Each in a fresh interpreter."""

from __future__ import annotations

import gc
import sys
from collections import deque
from pathlib import Path

import anyio

from undertow import Engine, Future, flow, task

from .method import Round, Sample, Workload, run_python

STREAMED, QUICK_STREAMED, SETTLED = 1_000_000, 100_000, 10_000
LARGE, WINDOW = 2_000, 10


def resident_mb() -> float:
    """Resident memory of this process now, in MB. Linux only."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 1e6


@task
async def kilobyte(i: int) -> bytes:
    return bytes(1_000)


@task
async def hundred_kilobytes(i: int) -> bytes:
    return bytes([i % 256]) * 100_000


@flow
async def stream(n: int) -> float:
    """The growth from the first ten thousand results to the highest point after them."""
    seen, base, top = 0, 0.0, 0.0
    async for _ in kilobyte.stream(range(n)):
        seen += 1
        if seen % SETTLED == 0:
            if seen == SETTLED:
                gc.collect()
                base = resident_mb()
            top = max(top, resident_mb())
    return top - base


@flow
async def large(n: int) -> float:
    """The same with large results, submitted a few at a time, each consumed and dropped."""
    await _pass_through(WINDOW * 10)
    gc.collect()
    base = resident_mb()
    return await _pass_through(n) - base


async def _pass_through(n: int) -> float:
    flight: deque[Future[bytes]] = deque()
    top = 0.0
    for i in range(n):
        flight.append(hundred_kilobytes.submit(i))
        if len(flight) == WINDOW:
            assert len(await flight.popleft()) == 100_000
        if i % 100 == 0:
            top = max(top, resident_mb())
    while flight:
        await flight.popleft()
    return max(top, resident_mb())


async def main(name: str, n: int, journal: str) -> float:
    async with Engine(journal):
        return await (stream(n) if name == "stream" else large(n))


def _grown(turn: Round, name: str, n: int) -> Sample:
    if not Path("/proc/self/statm").exists():
        return Sample(float("nan"), None)
    arguments = (name, str(n), str(turn.journal(name)), turn.backend)
    return Sample(float(run_python("-m", "benchmarks.memory", *arguments)), None)


def _streamed(turn: Round) -> Sample:
    return _grown(turn, "stream", QUICK_STREAMED if turn.quick else STREAMED)


def _consumed(turn: Round) -> Sample:
    return _grown(turn, "large", LARGE)


WORKLOADS = (
    Workload("1 000 000 streamed, 1 kB results", "-", "MB grown", 20, _streamed, repeated=False, absolute=True),
    Workload("2 000 x 100 kB, consumed and dropped", "-", "MB grown", 20, _consumed, repeated=False, absolute=True),
)

if __name__ == "__main__":
    print(anyio.run(main, sys.argv[1], int(sys.argv[2]), sys.argv[3], backend=sys.argv[4]))
