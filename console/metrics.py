"""Metrics: what the runs of each task and flow took, and where, added up as they end.

An observer of the engine. Everything comes from a run's own history: how long it waited for its turn, for slots of
limits, for its next attempt, and how long its body ran. Nothing of a run is kept.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import attrs

from ..engine.run import Run
from ..engine.states import PENDING, RUNNING, SCHEDULED, Entry


@attrs.define
class Total:
    """Seconds, added up: how often, how much in all, and at the most."""

    count: int = 0
    seconds: float = 0.0
    most: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds
        self.most = max(self.most, seconds)


@attrs.define
class FunctionMetrics:
    """The ended runs of one task or flow."""

    kind: str
    ended: dict[str, int] = attrs.field(factory=dict)
    """How many ended in each state, by its name."""
    attempts: int = 0
    queued: Total = attrs.field(factory=Total)
    """Pending: waiting for upstreams and for its turn."""
    slots: Total = attrs.field(factory=Total)
    """Waiting for slots of limits."""
    delays: Total = attrs.field(factory=Total)
    """Waiting for the next attempt."""
    running: Total = attrs.field(factory=Total)
    """In its body, over all attempts."""

    def add(self, history: Sequence[Entry], attempts: int) -> None:
        """Add a run that has ended."""
        last = history[-1][1]
        self.ended[last] = self.ended.get(last, 0) + 1
        self.attempts += attempts
        for total, seconds in zip((self.queued, self.slots, self.delays, self.running), phases(history), strict=True):
            if seconds is not None:
                total.add(seconds)


class Metrics:
    """An observer that adds up what runs took: `metrics = Metrics(); Engine(observers=[metrics])`.

    `metrics.functions` maps names of tasks and flows to their `FunctionMetrics`; `as_dict()` is the same as plain
    data, for whatever exports it.
    """

    def __init__(self) -> None:
        self.functions: dict[str, FunctionMetrics] = {}
        self._lock = threading.Lock()

    def __call__(self, run: Run) -> None:
        if not run.ended:
            return
        definition = run.definition
        with self._lock:
            mine = self.functions.get(definition.name)
            if mine is None:
                mine = self.functions[definition.name] = FunctionMetrics(definition.kind)
            mine.add(run.history, run.attempts)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain data, by the name of the function."""
        with self._lock:
            return {name: attrs.asdict(mine) for name, mine in self.functions.items()}


def phases(history: Sequence[Entry]) -> tuple[float | None, float | None, float | None, float | None]:
    """Seconds a run was queued, waited for slots, waited for its next attempt, and ran; `None` where it never did."""
    spent: dict[str, float] = {}
    for (kind, name, _, since), (_, _, _, until) in pairwise(history):
        phase = _PHASES.get(name, "queued" if kind in (PENDING, SCHEDULED) else "running" if kind is RUNNING else "")
        spent[phase] = spent.get(phase, 0.0) + (until - since) / 1e6
    return spent.get("queued"), spent.get("slots"), spent.get("delays"), spent.get("running")


_PHASES = {"AwaitingConcurrencySlot": "slots", "AwaitingRetry": "delays"}
