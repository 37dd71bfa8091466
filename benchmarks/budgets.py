"""The budgets: ratios of figures that were taken in the same rounds, and what they are allowed to be.

A sample of a budget is made of one sample of each of its figures, those of the same round; its value is the median.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs

from .results import Figure, Key
from .workloads import GROWN, TASK


@attrs.frozen
class Budget:
    """One row: the product of some figures over the product of others, and its bound."""

    title: str
    against: str
    over: tuple[Key, ...]
    under: tuple[Key, ...]
    bound: float | None
    """None where there is no budget, and the figure is only told."""
    at_least: bool = False
    unit: str = "×"

    def samples(self, figures: Mapping[Key, Figure]) -> list[float]:
        """A value for each round in which all its figures were taken."""
        over, under = ([_samples(figures, key) for key in keys] for keys in (self.over, self.under))
        rounds = min(map(len, over + under))
        return [math.prod(each[i] for each in over) / math.prod(each[i] for each in under) for i in range(rounds)]

    def missing(self, figures: Mapping[Key, Figure]) -> str:
        """Why it has no value."""
        for key in (*self.over, *self.under):
            if not _samples(figures, key):
                figure = figures.get(key)
                workload, engine, n, _ = key
                return f"{workload} of {n:,} with {engine}: {figure.not_taken if figure else 'not measured'}"
        return ""

    def verdict(self, value: float) -> str:
        """Met, or by how much not."""
        if self.bound is None:
            return "–"
        if value >= self.bound if self.at_least else value <= self.bound:
            return "met"
        return f"**missed** by {abs(value / self.bound - 1):.0%}"


def _samples(figures: Mapping[Key, Figure], key: Key) -> list[float]:
    figure = figures.get(key)
    return figure.samples if figure is not None else []


def _of_loop(loop: str) -> list[Budget]:
    ours, raw = f"undertow/{loop}/process", f"anyio/{loop}"

    def key(workload: str, n: int, engine: str = ours, unit: str = TASK) -> Key:
        return workload, engine, n, unit

    small, big = 1_000, 100_000
    return [
        Budget(
            f"10 000 tasks submitted, then awaited, {loop}",
            "members of one plain task group",
            (key("fan_out", 10_000),),
            (key("fan_out", 10_000, raw),),
            2.0,
        ),
        Budget(
            f"10 000 tasks awaited in sequence, {loop}",
            "a plain member in a group of its own, each",
            (key("sequence", 10_000),),
            (key("sequence", 10_000, raw),),
            0.8,
        ),
        Budget(
            f"growth of the cost of a task, 1 000 to 100 000 in sequence, {loop}",
            "itself",
            (key("sequence", big),),
            (key("sequence", small),),
            1.1,
        ),
        Budget(
            f"growth of the cost of a task, 1 000 to 100 000 at once, {loop}",
            "the growth of a plain task group",
            (key("fan_out", big), key("fan_out", small, raw)),
            (key("fan_out", small), key("fan_out", big, raw)),
            1.1,
        ),
        Budget(
            f"1 000 000 tasks through `stream`, 1 kB results, memory, {loop}",
            "–",
            (key("stream", 1_000_000, unit=GROWN),),
            (),
            20,
            unit="MB",
        ),
        Budget(
            f"2 000 results of 100 kB, consumed and dropped, memory, {loop}",
            "–",
            (key("large", 2_000, unit=GROWN),),
            (),
            20,
            unit="MB",
        ),
        Budget(
            f"a sync task called in a sync flow, {loop}",
            "a round trip of `anyio.to_thread.run_sync`",
            (key("sync_call", 1_000),),
            (key("sync_call", 1_000, raw),),
            2.0,
        ),
        Budget(
            f"a script with a flow of one task, journal on disk, {loop}",
            "the same in plain anyio",
            (key("cold_start", 1, unit="ms"),),
            (key("cold_start", 1, raw, "ms"),),
            2.0,
        ),
        Budget(
            f"lag of the event loop (p99) at 10 000 tasks/s, {loop}",
            "–",
            (key("loop_lag", 10_000, unit="ms p99"),),
            (),
            10,
            unit="ms",
        ),
        *(
            Budget(
                f"1 000 steps of a durable flow, {how}, {loop}",
                "the same flow, not durable",
                (key(f"durable_{workload}", small),),
                (key(workload, small),),
                None,
            )
            for workload, how in (("sequence", "in sequence"), ("fan_out", "at once"))
        ),
        Budget(
            f"10 000 tasks in sequence under `progress()`, {loop}",
            "the same without it",
            (key("watched", 10_000),),
            (key("sequence", 10_000),),
            1.05,
        ),
        Budget(
            f"resuming a run of 100 000 recorded steps, a step, {loop}",
            "–",
            (key("resume", big),),
            (),
            None,
            unit="µs",
        ),
        Budget(
            f"journal, a task, {loop}",
            "–",
            (key("journal_bytes", 10_000, unit="bytes a task"),),
            (),
            None,
            unit="bytes",
        ),
    ]


MAIN = "undertow/asyncio/process"
BUDGETS = (
    *(budget for loop in ("asyncio", "trio") for budget in _of_loop(loop)),
    *(
        Budget(
            f"`{statement}`",
            "`import asyncio, anyio, attrs`",
            ((workload, MAIN, 1, "ms"),),
            (("import", "anyio/asyncio", 1, "ms"),),
            bound,
        )
        for statement, workload, bound in (
            ("import undertow", "import_bare", 1.3),
            ("from undertow import Engine, flow, task", "import", None),
        )
    ),
    Budget(
        "requests/s of a handler that awaits a flow of 3 tasks, 16 clients",
        "the same handler awaiting 3 coroutines",
        (("web", MAIN, 16, "requests/s"),),
        (("web", "anyio/asyncio", 16, "requests/s"),),
        0.6,
        at_least=True,
    ),
)
