"""What a program pays before its first line of work: the import, and a whole script with one flow of one task.

Each is timed in a fresh interpreter: an import inside it, a script from outside, from its start to its end. The first
one of each is not counted: it finds no compiled modules, and cold disk caches.
"""

from __future__ import annotations

import statistics
from time import perf_counter

from .method import Round, Sample, Workload, run_python

TIMES, QUICK_TIMES = 7, 3

OURS = """
import sys
import anyio
from undertow import Engine, flow, task

@task
async def increment(x):
    return x + 1

@flow
async def work(x):
    return await increment(x)

async def main(journal):
    async with Engine(journal):
        assert await work(1) == 2

anyio.run(main, sys.argv[1], backend=sys.argv[2])
"""

RAW = """
import sys
import anyio

async def increment(x):
    return x + 1

async def work(x):
    async with anyio.create_task_group() as group:
        group.start_soon(increment, x)

async def main(journal):
    await work(1)

anyio.run(main, sys.argv[1], backend=sys.argv[2])
"""

THEIRS = "import asyncio, anyio, attrs"


def _import_ms(statement: str) -> float:
    timed = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    return float(run_python("-c", timed)) * 1e3


def _imports(turn: Round, statement: str) -> Sample:
    took: dict[str, list[float]] = {statement: [], THEIRS: []}
    for _ in range(1 + (QUICK_TIMES if turn.quick else TIMES)):
        for each in took:
            took[each].append(_import_ms(each))
    return Sample(statistics.median(took[statement][1:]), statistics.median(took[THEIRS][1:]))


def _bare(turn: Round) -> Sample:
    return _imports(turn, "import undertow")


def _names(turn: Round) -> Sample:
    return _imports(turn, "from undertow import Engine, flow, task")


def _script(turn: Round) -> Sample:
    took: dict[str, list[float]] = {OURS: [], RAW: []}
    for i in range(1 + (QUICK_TIMES if turn.quick else TIMES)):
        for script in took:
            start = perf_counter()
            run_python("-c", script, str(turn.journal(f"script-{i}")), turn.backend)
            took[script].append((perf_counter() - start) * 1e3)
    return Sample(statistics.median(took[OURS][1:]), statistics.median(took[RAW][1:]))


WORKLOADS = (
    Workload("import undertow", "asyncio, anyio, attrs", "ms", 1.3, _bare, backends=("-",)),
    Workload("from undertow import Engine, flow, task", "asyncio, anyio, attrs", "ms", None, _names, backends=("-",)),
    Workload("script: one flow, one task, on disk", "in plain anyio", "ms", 2.0, _script),
)
