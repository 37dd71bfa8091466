"""How late the event loop is while it runs 10 000 journaled tasks a second, and while it runs as many plain ones.

Ten tasks are started each millisecond, whatever became of those before (an open loop: a late loop gets no rest), and
beside them a watcher asks to be woken after a millisecond, again and again. Lag is how much later it was woken.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from time import perf_counter

import anyio

from undertow import Engine, flow

from .method import Round, Sample, Workload
from .submitted import increment, plain

TICK, PER_TICK = 0.001, 10
SECONDS, QUICK_SECONDS = 5.0, 2.0


async def _watch(lags: list[float]) -> None:
    while True:
        asked = perf_counter()
        await anyio.sleep(TICK)
        lags.append(perf_counter() - asked - TICK)


async def _start_steadily(start: Callable[[int], object], duration: float) -> None:
    """Start 10 000 a second; who is late starts what is due at once."""
    begin, started = perf_counter(), 0
    while (passed := perf_counter() - begin) < duration:
        due = int(passed / TICK) * PER_TICK
        for i in range(started, due):
            start(i)
        started = max(started, due)
        await anyio.sleep(TICK)


@flow
async def steady(duration: float) -> None:
    await _start_steadily(increment.submit, duration)


async def steady_members(duration: float) -> None:
    async with anyio.create_task_group() as group:

        def start(i: int) -> None:
            group.start_soon(plain, i)

        await _start_steadily(start, duration)


def _p99(lags: list[float]) -> float:
    return sorted(lags)[int(len(lags) * 0.99)] * 1e3


async def _lag(turn: Round, is_ours: bool) -> float:
    lags: list[float] = []
    duration = QUICK_SECONDS if turn.quick else SECONDS
    gc.collect()
    async with anyio.create_task_group() as group:
        group.start_soon(_watch, lags)
        if is_ours:
            async with Engine(turn.journal("lag")):
                await steady(duration)
        else:
            await steady_members(duration)
        group.cancel_scope.cancel()
    return _p99(lags)


def _loop_lag(turn: Round) -> Sample:
    lag = {
        is_ours: anyio.run(_lag, turn, is_ours, backend=turn.backend)
        for is_ours in (turn.ours_first, not turn.ours_first)
    }
    return Sample(lag[True], lag[False])


WORKLOADS = (Workload("loop lag p99 at 10 000 tasks/s", "10 000 plain tasks/s", "ms", 10, _loop_lag, absolute=True),)
