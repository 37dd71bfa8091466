"""The steps of a task's life, each done alone over many tasks and timed. It knows the engine from the inside."""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

from undertow import Engine, Future
from undertow.engine.context import CURRENT
from undertow.engine.core import new_id
from undertow.engine.pipeline import execute
from undertow.engine.run import Outcome
from undertow.engine.states import COMPLETED, RUNNING, transition
from undertow.storage import rows, schema

from . import frame
from .counting import CountingJournal
from .frame import Answer, Program
from .with_anyio import gathered
from .with_anyio import increment as plain_increment
from .with_undertow import increment

BATCH = 500
"""Runs in a group that is written."""


def each(fn: Callable[[Any], object], items: Iterable[Any]) -> tuple[float, list[Any]]:
    """Microseconds of `fn` for each item, and what it returned."""
    items = list(items)
    start = perf_counter()
    made = [fn(item) for item in items]
    return (perf_counter() - start) / len(made) * 1e6, made


class Parts(Program):
    """`parts` in place of a workload: a number for each step."""

    ANSWERS = frozenset({"parts"})

    async def parts(self) -> Answer:
        n = self.order.n
        took: Answer = {}
        gc.collect()
        if not self.order.gc:
            gc.disable()
        async with Engine(CountingJournal()) as engine:
            host = engine.core.host
            took["an id"], _ = each(lambda i: new_id(), range(n))
            took["the call checked, its run made (with its id)"], runs = each(
                lambda i: increment.make_run((i,), {}), range(n)
            )
            took["its future"], _ = each(lambda run: Future(run, host), runs)
            took["one transition"], _ = each(lambda run: transition(run, RUNNING, "Running"), runs)
            took["the current run set and reset"], _ = each(lambda run: CURRENT.reset(CURRENT.set(run)), runs)
            took["its outcome"], _ = each(lambda i: Outcome(COMPLETED, "Completed", "", i), range(n))
            runs = [increment.make_run((i,), {}) for i in range(n)]
            start = perf_counter()
            for run in runs:
                await execute(run)
            took["the whole pipeline, awaited on the spot"] = (perf_counter() - start) / n * 1e6
            took |= _written(runs)
        start = perf_counter()
        await gathered(plain_increment, range(n))
        took["a member of a task group, started and ended"] = (perf_counter() - start) / n * 1e6
        return took


def _written(runs: list[Any]) -> Answer:
    """What a run costs the writer: making its row, and SQLite's statement, in memory."""
    batches = [runs[i : i + BATCH] for i in range(0, len(runs), BATCH)]
    a_row, values = each(lambda batch: rows.parameters(batch, 1), batches)
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(schema.SCHEMA)
    a_statement, _ = each(lambda i: connection.execute(rows.statement(len(batches[i])), values[i]), range(len(batches)))
    return {
        "its row made, in the writer's thread": a_row * len(batches) / len(runs),
        "its row inserted, by SQLite without the GIL": a_statement * len(batches) / len(runs),
    }


if __name__ == "__main__":
    frame.main(Parts)
