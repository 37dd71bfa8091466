"""A sync task called in a sync flow, against one round trip of `anyio.to_thread.run_sync`."""

from __future__ import annotations

import gc
from pathlib import Path
from time import perf_counter

import anyio.to_thread

from undertow import Engine, flow, task

from .method import Round, Sample, Workload, seconds

CALLS = 2_000


def plain(x: int) -> int:
    return x + 1


increment = task(plain)


@flow
def in_sequence(n: int) -> int:
    x = 0
    for _ in range(n):
        x = increment(x)
    return x


async def round_trips(n: int) -> None:
    for i in range(n):
        await anyio.to_thread.run_sync(plain, i)


def _sync_seconds(backend: str, journal: Path) -> float:
    with Engine(journal, backend=backend):
        in_sequence(CALLS // 20)
        gc.collect()
        start = perf_counter()
        in_sequence(CALLS)
        return perf_counter() - start


def _sync_calls(turn: Round) -> Sample:
    took: dict[bool, float] = {}
    for is_ours in (turn.ours_first, not turn.ours_first):
        if is_ours:
            took[is_ours] = _sync_seconds(turn.backend, turn.journal("threads"))
        else:
            took[is_ours] = seconds(turn.backend, round_trips, CALLS)
    return Sample(took[True] / CALLS * 1e6, took[False] / CALLS * 1e6)


WORKLOADS = (Workload("sync task in a sync flow", "to_thread.run_sync", "µs a call", 2.0, _sync_calls),)
