"""No-op tasks, all submitted at once and then gathered, against members of a plain task group."""

from __future__ import annotations

import anyio

from undertow import flow, task

from .method import Round, Sample, Workload, pair


async def plain(x: int) -> int:
    return x + 1


increment = task(plain)


@flow
async def gathered(n: int) -> int:
    futures = [increment.submit(i) for i in range(n)]
    return sum([await future for future in futures])


@flow
async def mapped(n: int) -> int:
    return sum(await increment.map(range(n)))


async def members(n: int) -> int:
    results = [0] * n

    async def member(i: int) -> None:
        results[i] = await plain(i)

    async with anyio.create_task_group() as group:
        for i in range(n):
            group.start_soon(member, i)
    return sum(results)


def _submitted(turn: Round) -> Sample:
    return pair(turn, "submitted", gathered, members, 10_000, 1e6)


def _mapped(turn: Round) -> Sample:
    return pair(turn, "mapped", mapped, members, 10_000, 1e6)


WORKLOADS = (
    Workload("10 000 tasks submitted, gathered", "task group", "µs a task", 2.0, _submitted),
    Workload("10 000 tasks mapped, awaited", "task group", "µs a task", None, _mapped),
)
