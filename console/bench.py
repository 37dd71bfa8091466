"""Running one flow again and again to see what it costs: how long runs take, and what that time goes into.

The engine is told to look on as runs end, nothing more; figures are made of the runs' own histories, by its own clock.
What an empty flow and an empty task cost is measured first, on a journal of its own, so that a body's time can be told
from the engine's work around it. What is said about the figures is in `verbs_bench.py`.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import attrs

from ..engine.errors import UndertowError
from ..engine.flow import Flow, flow
from ..engine.run import Run
from ..engine.states import COMPLETED, SKIPPED, TERMINAL, State
from ..engine.task import task
from ..wiring import Engine
from .metrics import FunctionMetrics
from .shares import Calibration, Life, Shares, shares
from .wording import cut

CALLS = 20
"""How many empty tasks a flow calls that is run to calibrate."""
ROUNDS = 30
MOST_HELD = 200_000
"""Runs whose histories are held at a time; of flow runs beyond that only the time is taken."""


class FlowBroken(UndertowError, RuntimeError):
    """The flow that is to be measured does not complete."""

    def __init__(self, name: str, state: State[Any]) -> None:
        said = cut(state.message, 300)
        super().__init__(f"{name} can't be measured: its first run ended {state.name}{': ' * bool(said)}{said}")


class Families:
    """An observer: the runs that have ended inside each outermost run, until they are asked for."""

    def __init__(self) -> None:
        self._lives: dict[str, list[Life]] = {}

    def __call__(self, run: Run) -> None:
        if run.ended and run.history[-2][0] not in TERMINAL:  # a roll-back is no second end
            outermost = run
            while outermost.parent is not None:
                outermost = outermost.parent
            self._lives.setdefault(outermost.id, []).append(Life.of(run))

    def take(self, run_id: str) -> list[Life]:
        """The run and all that ran inside it."""
        return self._lives.pop(run_id, [])


@attrs.define
class Figures:
    """What was measured of some runs of one flow."""

    walls: list[int] = attrs.field(factory=list)
    """How long each took, from just before its call to just after, in microseconds."""
    each: list[Shares] = attrs.field(factory=list)
    """Where the time of each went, of those that were looked into."""
    ended: Counter[str] = attrs.field(factory=Counter)
    trouble: State[Any] | None = None
    """The first that did not complete."""
    functions: dict[str, FunctionMetrics] = attrs.field(factory=dict)
    elapsed: int = 0
    """How long all took together."""
    writer_seconds: float | None = None
    """Processor time of the journal's threads; unknown on some systems."""

    def total(self) -> Shares:
        """Where the time went, of all that were looked into together."""
        whole = Shares()
        for each in self.each:
            whole.add(each)
        return whole


@attrs.define(eq=False)
class Bench:
    """Runs a flow in an open engine that has `families` among its observers."""

    flow: Flow[..., Any]
    call: Mapping[str, Any]
    engine: Engine
    families: Families
    concurrency: int = 1
    figures: Figures = attrs.field(factory=Figures)
    _held: list[tuple[list[Life], int, int]] = attrs.field(factory=list)
    _lives_held: int = 0

    async def runs(self, number: int) -> Figures:
        """So many runs of an async flow, `concurrency` at a time in this loop."""
        left = iter(range(number))

        async def one_by_one() -> None:
            for _ in left:
                before = self._now()
                state = await self.flow(**self.call, return_state=True)
                self._took(state, before)

        with self._measured():
            if self.concurrency == 1:
                await one_by_one()
            else:
                async with anyio.create_task_group() as group:
                    for _ in range(self.concurrency):
                        group.start_soon(one_by_one)
        return self.figures

    def runs_in_threads(self, number: int) -> Figures:
        """So many runs of a `def` flow, in this thread or in so many at a time."""

        def one(_: int = 0) -> None:
            before = self._now()
            self._took(self.flow(**self.call, return_state=True), before)

        with self._measured():
            if self.concurrency == 1:
                for _ in range(number):
                    one()
            else:
                with ThreadPoolExecutor(self.concurrency) as pool:
                    list(pool.map(one, range(number)))
        return self.figures

    @contextmanager
    def _measured(self) -> Iterator[None]:
        self.figures = Figures()
        began = self._now()
        yield
        self.figures.elapsed = self._now() - began
        self._look_into()

    def _now(self) -> int:
        return self.engine.core.clock.now()

    def _took(self, state: State[Any], before: int) -> None:
        after = self._now()
        self.figures.walls.append(after - before)
        self.figures.ended[state.name] += 1
        if self.figures.trouble is None and state.type not in (COMPLETED, SKIPPED):
            self.figures.trouble = state
        family = self.families.take(state.run_id or "")
        if family and self._lives_held < MOST_HELD:
            self._held.append((family, before, after))
            self._lives_held += len(family)
        if self.concurrency == 1:
            self._look_into()  # with others at work it would be in their time

    def _look_into(self) -> None:
        for family, before, after in self._held:
            self.figures.each.append(shares(family, before, after))
            for life in family:
                known = self.figures.functions.setdefault(life.function, FunctionMetrics(life.kind))
                known.add(life.history, life.attempts)
        self._held.clear()
        self._lives_held = 0


# --- a flow of the user's --------------------------------------------------------------------------------------


def bench(
    flow: Flow[..., Any],
    call: Mapping[str, Any],
    path: str,
    backend: str,
    runs: int,
    warm_up: int,
    concurrency: int = 1,
) -> Figures:
    """Measure a flow on the journal at `path`, in an engine of its own. Raises `FlowBroken` and `JournalError`s."""
    families = Families()
    before = set(threading.enumerate())
    engine = Engine(path, backend=backend, observers=[families], logging={"console": "off"}, recover=False)
    warming = Bench(flow, call, engine, families)
    measuring = attrs.evolve(warming, concurrency=concurrency)

    async def in_loop() -> Figures:
        async with engine:
            writers = set(threading.enumerate()) - before
            _check(flow, await warming.runs(warm_up))
            spent = _processor_seconds(writers)
            return _with_writers(await measuring.runs(runs), writers, spent)

    if flow.is_async:
        return anyio.run(in_loop, backend=backend)
    with engine:
        writers = set(threading.enumerate()) - before
        _check(flow, warming.runs_in_threads(warm_up))
        spent = _processor_seconds(writers)
        return _with_writers(measuring.runs_in_threads(runs), writers, spent)


def _check(flow: Flow[..., Any], figures: Figures) -> None:
    if figures.trouble is not None:
        raise FlowBroken(flow.name, figures.trouble)


def _with_writers(figures: Figures, writers: Iterable[threading.Thread], spent: float | None) -> Figures:
    now = _processor_seconds(writers)
    figures.writer_seconds = None if now is None or spent is None else now - spent
    return figures


def _processor_seconds(threads: Iterable[threading.Thread]) -> float | None:
    """The processor time of some threads, where the system tells it of a single thread."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return None
    clocks = [time.pthread_getcpuclockid(thread.ident) for thread in threads if thread.ident is not None]
    return sum(map(time.clock_gettime, clocks))


# --- empty ones ------------------------------------------------------------------------------------------------


@task
async def _nothing() -> None: ...


@flow
async def _calls(number: int) -> int:
    for _ in range(number):
        await _nothing()
    return number


@task
def _nothing_plain() -> None: ...


@flow
def _calls_plain(number: int) -> int:
    for _ in range(number):
        _nothing_plain()
    return number


def calibrate(flow: Flow[..., Any], backend: str) -> Calibration:
    """What the engine's work takes in empty runs of the kind of a flow: async or not, durable or not."""
    calls: Flow[..., Any] = _calls if flow.is_async else _calls_plain
    with tempfile.TemporaryDirectory(prefix="undertow-bench-") as folder:

        def measured(number: int, durable: bool = False) -> Figures:
            path = str(Path(folder) / "calibration.db")
            return bench(calls.with_options(durable=durable), {"number": number}, path, backend, ROUNDS, ROUNDS // 3)

        empty, called = measured(0), measured(CALLS)
        inside = _typical(called, "in_tasks") / CALLS
        call = (_typical(called, "at_work") - _typical(empty, "at_work")) / CALLS
        step = 0.0
        if flow.options.durable:
            empty, called = measured(0, durable=True), measured(CALLS, durable=True)
            # The mean: a commit that takes long is the journal's as well.
            mean = statistics.fmean(each.at_work for each in called.each)
            step = (mean - _typical(empty, "at_work")) / CALLS - call
    return Calibration(_typical(empty, "at_work"), inside, max(0.0, call - inside), max(0.0, step))


def _typical(figures: Figures, what: str) -> float:
    return float(statistics.median(getattr(each, what) for each in figures.each))
