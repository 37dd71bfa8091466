"""How a figure comes about: two measurements taken one after the other, their ratio, and the median of many ratios.

What is measured lives in the modules beside this one, one a kind of work. Nothing here knows undertow but `seconds`,
which opens an engine on a journal on disk for the work that needs one.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter

import anyio
import attrs

from undertow import Engine

Work = Callable[[int], Awaitable[object]]
BACKENDS = ("asyncio", "trio")


@attrs.frozen
class Round:
    """One turn of one repetition."""

    number: int
    backend: str
    quick: bool
    folder: Path
    """An empty folder on disk, for journals."""

    def journal(self, name: str) -> Path:
        return self.folder / f"{name}-{self.backend}-{self.number}.db"

    @property
    def ours_first(self) -> bool:
        """Who begins changes with every repetition, so that neither gains by a warmer or a cooler machine."""
        return self.number % 2 == 0


@attrs.frozen
class Sample:
    """What undertow took, and what it is compared with; None where the budget is absolute."""

    ours: float
    against: float | None


@attrs.frozen
class Workload:
    """A figure to be measured. Its budget is for the ratio of the sample's two sides, or for `ours` alone."""

    name: str
    against: str
    unit: str
    budget: float | None
    measure: Callable[[Round], Sample]
    backends: tuple[str, ...] = BACKENDS
    repeated: bool = True
    absolute: bool = False
    """`ours` itself is the figure, and what it is compared with only tells what the machine does by itself."""


@attrs.define
class Figure:
    """The samples of one workload on one backend, and what they come to."""

    workload: Workload
    backend: str
    samples: list[Sample] = attrs.field(factory=list)

    @property
    def values(self) -> list[float]:
        """The figure of each sample: its ratio, or `ours` where the budget is absolute."""
        return [
            sample.ours if self.workload.absolute or sample.against is None else sample.ours / sample.against
            for sample in self.samples
        ]

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def ours(self) -> float:
        return statistics.median(sample.ours for sample in self.samples)

    @property
    def against(self) -> float | None:
        known = [sample.against for sample in self.samples if sample.against is not None]
        return statistics.median(known) if known else None

    @property
    def verdict(self) -> str:
        budget = self.workload.budget
        if budget is None:
            return "-"
        return "ok" if self.value <= budget else "OVER"


def seconds(backend: str, work: Work, n: int, journal: Path | None = None) -> float:
    """How long `work(n)` takes in a fresh event loop, after a warm-up; with an engine around it, given a journal."""

    async def timed() -> float:
        await work(max(10, n // 20))
        gc.collect()
        start = perf_counter()
        await work(n)
        return perf_counter() - start

    async def main() -> float:
        if journal is None:
            return await timed()
        async with Engine(journal):
            return await timed()

    return anyio.run(main, backend=backend)


def pair(turn: Round, name: str, ours: Work, raw: Work, n: int, scale: float) -> Sample:
    """Ours and raw, one after the other, each divided by `n` and multiplied by `scale`."""
    took: dict[bool, float] = {}
    for is_ours in (turn.ours_first, not turn.ours_first):
        work = ours if is_ours else raw
        took[is_ours] = seconds(turn.backend, work, n, turn.journal(name) if is_ours else None) / n * scale
    return Sample(took[True], took[False])


def run_python(*arguments: str) -> str:
    """What a fresh interpreter prints. It may keep compiled modules, as an installed package's are."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return done.stdout
