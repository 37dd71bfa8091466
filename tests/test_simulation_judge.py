"""The judge of the simulated worlds: what it makes of threads that go on, and of who comes at the very same moment."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from tests.simulation.journal import Disk
from tests.simulation.model import EPOCH, Model
from tests.simulation.plans import Node


class Clock:
    """A clock that stands where it is put."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@attrs.define(eq=False)
class FakeRun:
    """As much of a run as the judge looks at."""

    id: str
    parent: FakeRun | None = None
    step: str | None = None
    upstream_ids: tuple[str, ...] = ()
    history: list[tuple[str, str, str, int]] = attrs.field(factory=list)

    def ancestors(self) -> list[FakeRun]:
        return [self] if self.parent is None else [self, *self.parent.ancestors()]


def node(path: str, **options: Any) -> Node:
    """A sync task with these options."""
    return Node(path, "task", False, tuple(sorted(options.items())))


class Runs:
    """Runs inside one flow, as the judge is told of them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.model = Model(Disk(), self.clock, {"one": 1}, lambda *_: None)
        self._flow = FakeRun("flow")
        self._ticks = 0

    def make(self, name: str) -> FakeRun:
        return FakeRun(name, self._flow, history=[self._entry("PENDING", "Pending")])

    def goes(self, run: FakeRun, where: Node, kind: str, name: str) -> None:
        self.model.saw(run, where)
        run.history.append(self._entry(kind, name))
        self.model.transition(run, where)

    def _entry(self, kind: str, name: str) -> tuple[str, str, str, int]:
        self._ticks += 1
        return (kind, name, "", int((EPOCH + self.clock.now) * 1e6) + self._ticks)


@pytest.fixture
def runs() -> Runs:
    return Runs()


def test_a_thread_that_goes_on(runs: Runs) -> None:
    """How a run ended is told by the body of its last attempt, also when that of an earlier one ends after it."""
    where = node("0.0", retries=1, timeout_seconds=1.0)
    run = runs.make("slow")
    runs.goes(run, where, "RUNNING", "Running")
    first = runs.model.body_began(run, where)
    runs.goes(run, where, "RUNNING", "Retrying")
    second = runs.model.body_began(run, where)
    runs.model.body_ended(run, second, "raise")
    runs.model.body_ended(run, first, "return")
    runs.goes(run, where, "FAILED", "Failed")
    assert runs.model.wrong == []


@pytest.mark.parametrize(("comes", "wrong"), [(0.5, 1), (1.0, 0)])
def test_who_comes_when_the_slot_is_given_away(runs: Runs, comes: float, wrong: int) -> None:
    """Who goes first is overtaken by a run that is given the slot later, not by one that is given it at that moment."""
    last, first = node("0.0", limits=("one",), priority=0), node("0.1", limits=("one",), priority=1)
    one, other = runs.make("one"), runs.make("other")
    runs.goes(one, last, "SCHEDULED", "AwaitingConcurrencySlot")
    runs.clock.now = comes
    runs.goes(other, first, "SCHEDULED", "AwaitingConcurrencySlot")
    runs.clock.now = 1.0
    runs.goes(one, last, "RUNNING", "Running")
    runs.clock.now = 2.0
    runs.goes(other, first, "RUNNING", "Running")
    assert len([each for each in runs.model.wrong if each.startswith("in turn")]) == wrong


@pytest.mark.parametrize(("state", "wrong"), [("TimedOut", 1), ("Failed", 0)])
def test_a_flow_that_raised_in_time(runs: Runs, state: str, wrong: int) -> None:
    """A flow whose body raised in time has not ended as TimedOut."""
    where = Node("0.0", "flow", True, (("timeout_seconds", 1.0),))
    run = runs.make("flow-run")
    runs.goes(run, where, "RUNNING", "Running")
    runs.model.body_ended(run, runs.model.body_began(run, where), "fatal")
    runs.clock.now = 1.0
    runs.goes(run, where, "FAILED", state)
    assert len(runs.model.wrong) == wrong
