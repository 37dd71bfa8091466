"""The whole engine in simulated worlds: seeded schedules, faults and crashes, judged by a model of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.batch import play_many, quietly, replay_command
from tests.simulation.journal import SimulatedJournal
from tests.simulation.scheduling import BACKENDS
from tests.simulation.world import play
from undertow.engine import flow, pipeline
from undertow.engine.buckets import Bucket, Waiter
from undertow.engine.granting import Lease
from undertow.engine.retry import RetryPolicy
from undertow.engine.run import Outcome, Run
from undertow.engine.states import COMPLETED, TERMINAL, StateType, transition
from undertow.engine.waking import Reply

SCHEDULES = 2000
PART = 500
ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("first", range(0, SCHEDULES, PART))
@pytest.mark.parametrize("backend", BACKENDS)
def test_schedules(backend: str, first: int) -> None:
    """Under every seeded schedule, fault and crash the engine does what the model allows, and every fault did happen."""
    batch = play_many(range(first, first + PART), backend)
    assert not batch.wrong, batch.report(backend)
    assert batch.idle() == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_seed_one_trace(backend: str) -> None:
    """A seed gives one and the same trace whenever it is played, and another seed another one."""
    with quietly():
        first, second = ([tuple(play(seed, backend).trace) for seed in range(40)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 30  # in some worlds the engine is closed before anything happens


@pytest.mark.parametrize("backend", BACKENDS)
def test_replay(backend: str) -> None:
    """The command that a failing seed is reported with prints its trace, the same in every process."""
    command = [sys.executable, *replay_command(14, backend).split()[1:]]
    printed = [
        subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert printed[0] == printed[1]
    assert "Running" in printed[0]


async def never(*_: Any) -> None:
    """Do nothing."""


def unrecorded(run: Run, target: StateType, name: str, message: str = "") -> None:
    """A transition that the journal is not told of when it is the last."""
    if target in TERMINAL:
        run.history.append((target, name, message, max(run.core.clock.now(), run.history[-1][3] + 1)))
        run.core.observe(run)
    else:
        transition(run, target, name, message)


BROKEN: dict[str, tuple[Any, str, Callable[..., Any], str]] = {
    "slots are not given back": (Lease, "release", lambda lease: None, "slots"),
    "slots are given without asking for room": (Bucket, "delay", lambda bucket, slots, now: 0.0, "slots"),
    "who comes last goes first": (Waiter, "__lt__", lambda waiter, other: waiter.order > other.order, "in turn"),
    "one attempt too many": (
        RetryPolicy,
        "allows",
        lambda policy, attempts, *_: attempts <= policy.retries + 1,
        "attempts",
    ),
    "an end is not recorded": (pipeline, "transition", unrecorded, "journal order"),
    "acknowledged before it is on disk": (
        SimulatedJournal,
        "commit",
        lambda journal: Reply.of(None),
        "acknowledged implies committed",
    ),
    "recorded steps run again": (pipeline, "replay", never, "recorded steps don't run"),
    "a verdict that forgets failures": (
        flow,
        "verdict",
        lambda *_: Outcome(COMPLETED, "Completed", ""),
        "final state",
    ),
    "late values count": (pipeline, "_perform_in_time", lambda run, _: run.definition.perform(run), "outcomes"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_not_blind(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine of which one part is broken is caught within 300 seeds, by the rule that it breaks."""
    owner, name, instead, rule = BROKEN[broken]
    monkeypatch.setattr(owner, name, instead)
    found: list[str] = []
    for first in range(0, 300, 30):
        batch = play_many(range(first, first + 30), "asyncio")
        found += [each for wrong in batch.wrong.values() for each in wrong if each.startswith(rule)]
        if found:
            return
    assert found
