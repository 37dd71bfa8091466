"""States as values, and the one table that says how a run may move between them."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undertow import (
    Cancelled,
    Completed,
    Crashed,
    Engine,
    Failed,
    IllegalTransition,
    Pending,
    RunCancelled,
    RunCrashed,
    RunFailed,
    Running,
    RunSkipped,
    RunUnfinished,
    Scheduled,
    Skipped,
    State,
    StateType,
    task,
)
from undertow.engine.core import Core
from undertow.engine.granting import Limits
from undertow.engine.run import Run
from undertow.engine.states import NAMES, diagram, transition

if TYPE_CHECKING:
    from conftest import ListJournal

TERMINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED", "SKIPPED"}
EVERY_TYPE = ["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING", *sorted(TERMINAL)]


def legal(source: str, target: str) -> bool:
    """The rule book's own words, one line each; written without a look at the engine's table."""
    if source in TERMINAL:
        return False  # terminal means terminal
    if source == "CANCELLING":
        return target == "CANCELLED"  # once told to stop, a run can only have stopped
    if target == "PENDING":
        return source in {"SCHEDULED", "PENDING"}  # what has begun is not waiting to begin
    if target == "PAUSED":
        return source == "RUNNING"  # only a body can ask for a pause
    return True  # anything else may be put off, started, told to stop, or ended, be it by a recorded result


class StillClock:
    """A clock that stands, or jumps back: what a machine's clock may do."""

    def __init__(self, *times: int) -> None:
        self.times = list(times)

    def now(self) -> int:
        return self.times.pop(0) if len(self.times) > 1 else self.times[0]

    def block(self, seconds: float) -> None:
        raise AssertionError("nothing here waits")


class Notes:
    """A journal that only counts what it is told."""

    crowded = False

    def __init__(self) -> None:
        self.records = 0

    def record(self, run: Run) -> None:
        self.records += 1


@task
def any_task() -> None:
    """A task to make runs of."""


def run_in(source: str, clock: StillClock | None = None, name: str | None = None) -> Run:
    """A run that stands in a state of that type."""
    core: Any = Core(
        journal=Notes(),  # type: ignore[arg-type]
        inline=None,  # type: ignore[arg-type]
        threads=None,  # type: ignore[arg-type]
        portal=None,  # type: ignore[arg-type]
        limits=Limits(),
        clock=clock or StillClock(1_000),
        random=random.Random(1),
    )
    run = core.make_run(any_task, (), {})
    run.history[-1] = (StateType(source), name or NAMES[StateType(source)][0], "", run.history[-1][3])
    return run  # type: ignore[no-any-return]


@pytest.mark.parametrize(("source", "target"), list(product(EVERY_TYPE, repeat=2)))
def test_every_pair_of_types(source: str, target: str) -> None:
    """A run moves along the arrows of the rule book, and along no other."""
    run = run_in(source)
    name = NAMES[StateType(target)][0]
    if legal(source, target):
        transition(run, StateType(target), name, "because")
        assert run.history[-1][:3] == (target, name, "because")
    else:
        before = list(run.history)
        with pytest.raises(IllegalTransition) as refusal:
            transition(run, StateType(target), name)
        assert source in str(refusal.value)
        assert target in str(refusal.value)
        assert run.history == before
        assert run.core.journal.records == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize(("source", "target"), list(product(EVERY_TYPE, repeat=2)))
def test_resume_arrows(source: str, target: str) -> None:
    """Only what failed, crashed or was cancelled can be resumed, and only under the name Resuming."""
    resumable = source in {"FAILED", "CRASHED", "CANCELLED"} and target == "SCHEDULED"
    run = run_in(source)
    if resumable or legal(source, target):
        transition(run, StateType(target), "Resuming")
        assert run.type == target
    else:
        with pytest.raises(IllegalTransition):
            transition(run, StateType(target), "Resuming")


@pytest.mark.parametrize(("source", "target"), list(product(EVERY_TYPE, repeat=2)))
def test_roll_back_arrow(source: str, target: str) -> None:
    """Only a completed run can be rolled back, and only under the name RolledBack."""
    run = run_in(source)
    if (source, target) == ("COMPLETED", "COMPLETED") or legal(source, target):
        transition(run, StateType(target), "RolledBack")
        assert run.type == target
    else:
        with pytest.raises(IllegalTransition):
            transition(run, StateType(target), "RolledBack")


def test_message_of_an_illegal_transition() -> None:
    """A refused transition names the run and both states, types and names."""
    run = run_in("FAILED", name="TimedOut")
    with pytest.raises(IllegalTransition, match=r"any_task.*FAILED/TimedOut.*RUNNING/Retrying"):
        transition(run, StateType.RUNNING, "Retrying")


@given(
    moves=st.lists(st.sampled_from(EVERY_TYPE), max_size=20),
    times=st.lists(st.integers(0, 2_000_000_000_000_000), min_size=1, max_size=21),
)
def test_timestamps_increase(moves: list[str], times: list[int]) -> None:
    """Two states of one run never share a timestamp, nor go back in time, whatever the clock does."""
    run = run_in("PENDING", StillClock(*times))
    for target in moves:
        if legal(run.type, target):
            transition(run, StateType(target), NAMES[StateType(target)][0])
        else:
            with pytest.raises(IllegalTransition):
                transition(run, StateType(target), NAMES[StateType(target)][0])
    stamps = [at for _, _, _, at in run.history]
    assert all(later > earlier for earlier, later in pairwise(stamps))
    assert run.core.journal.records == len(run.history) - 1  # type: ignore[attr-defined]


async def test_observers_follow_the_history(make_engine: Callable[..., Engine], journal: ListJournal) -> None:
    """An observer is told of every transition, in order."""
    seen: list[str] = []

    @task(retries=1, retry_delay_seconds=5)
    async def flaky() -> None:
        if len(seen) < 2:
            raise ValueError("not yet")

    async with make_engine(observers=[lambda run: seen.append(run.history[-1][1])]):
        await flaky()
    assert seen == ["Running", "AwaitingRetry", "Retrying", "Completed"] == journal.story("flaky")[1:]


def test_the_diagram_is_the_checked_in_one() -> None:
    """The diagram in `states.mmd` is the transition table that the engine uses."""
    drawn = Path(__file__).with_name("states.mmd").read_text(encoding="utf-8")
    assert diagram() == drawn


@pytest.mark.parametrize(("source", "target"), list(product(EVERY_TYPE, repeat=2)))
def test_the_diagram_shows_every_arrow(source: str, target: str) -> None:
    """The diagram has an arrow for a pair of types exactly when the rule book has one."""
    explicit = {("FAILED", "SCHEDULED"), ("CRASHED", "SCHEDULED"), ("CANCELLED", "SCHEDULED"), ("COMPLETED",) * 2}
    drawn = any(line.startswith(f"    {source} --> {target}:") for line in diagram().splitlines())
    assert drawn == (legal(source, target) or (source, target) in explicit)


def test_state_type_is_a_word() -> None:
    """The values of `StateType` are the ten words of the rule book, and equal to their texts."""
    assert sorted(StateType) == sorted(EVERY_TYPE)
    assert StateType.FAILED == "FAILED"
    assert State("FAILED").type is StateType.FAILED  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", EVERY_TYPE)
def test_predicates(kind: str) -> None:
    """Exactly one of a state's `is_…` predicates is true, and `is_final` for the terminal types alone."""
    state: State[Any] = State(StateType(kind), kind.capitalize())
    true = [each for each in EVERY_TYPE if getattr(state, f"is_{each.lower()}")()]
    assert true == [kind]
    assert state.is_final() == (kind in TERMINAL)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (Scheduled, "SCHEDULED"),
        (Pending, "PENDING"),
        (Running, "RUNNING"),
        (Completed, "COMPLETED"),
        (Failed, "FAILED"),
        (Crashed, "CRASHED"),
        (Cancelled, "CANCELLED"),
        (Skipped, "SKIPPED"),
    ],
)
def test_states_made_by_hand(make: Callable[..., State[Any]], kind: str) -> None:
    """A state can be made by hand, with the name of its type or one's own, a message and data."""
    assert (make().type, make().name) == (kind, kind.capitalize())
    state = make("no rows", data=3, name="Special")
    assert (state.type, state.name, state.message, state.data) == (kind, "Special", "no rows", 3)


def test_a_state_is_frozen() -> None:
    """A state is a value: it can't be changed, and equal states are equal."""
    state = Completed(data=1)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        state.name = "Other"  # type: ignore[misc]
    assert state == Completed(data=1) != Completed(data=2)


def test_result_of_a_completed_state() -> None:
    """The result of a COMPLETED state is its data."""
    assert Completed(data=[1, 2]).result() == [1, 2]


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (Failed("no rows"), RunFailed),
        (Crashed("no power"), RunCrashed),
        (Cancelled("no need"), RunCancelled),
        (Skipped("no news"), RunSkipped),
        (Failed(data=KeyError("k")), KeyError),
    ],
)
def test_result_of_a_bad_end(state: State[Any], error: type[Exception]) -> None:
    """The result of a state that ended otherwise raises what ended it, or returns that when told not to raise."""
    with pytest.raises(error, match=state.message or "k"):
        state.result()
    assert isinstance(state.result(raise_on_failure=False), error)


def test_result_of_an_unfinished_state() -> None:
    """A state that has not ended has no result, and says so even when told not to raise."""
    for raise_on_failure in (True, False):
        with pytest.raises(RunUnfinished, match="Running"):
            Running().result(raise_on_failure=raise_on_failure)


async def test_a_state_tells_when(engine: Engine) -> None:
    """The state of a run tells when the run entered it, in UTC, and whose it is."""

    @task
    async def work() -> int:
        return 1

    future = work.submit()
    await future
    state = future.state
    assert state.timestamp.isoformat().startswith("2026-01-01T00:00:00")
    assert state.timestamp.utcoffset() is not None
    assert (state.run_id, state.run_name) == (future.run_id, future.run.name)
    assert state.result() == 1
