"""No-op tasks awaited one after the other, against a plain member in a task group of its own each."""

from __future__ import annotations

import anyio

from undertow import flow

from .method import Round, Sample, Workload, pair
from .submitted import increment, plain


@flow
async def in_sequence(n: int) -> int:
    x = 0
    for _ in range(n):
        x = await increment(x)
    return x


async def one_by_one(n: int) -> None:
    for i in range(n):
        async with anyio.create_task_group() as group:
            group.start_soon(plain, i)


def _in_sequence(turn: Round) -> Sample:
    return pair(turn, "sequence", in_sequence, one_by_one, 10_000, 1e6)


WORKLOADS = (Workload("10 000 awaited in sequence", "start_soon", "µs a task", 0.8, _in_sequence),)
