"""The verdict: the state in which a flow ends, from what its body returned and how its children ended.

`children` is the rule of Prefect 2: a flow that returns nothing is judged by its children. `return` is Prefect 3's:
only what is returned counts. `unhandled` is ours: failures that somebody was given don't count. The children are
known by their numbers alone (`Tally`), never by their states.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

from .arguments import resolve
from .errors import RunFailed
from .futures import Future
from .gathering import FutureList
from .run import Outcome, Run, Tally
from .states import CANCELLED, COMPLETED, CRASHED, FAILED, PAUSED, SKIPPED, TERMINAL, State, StateType
from .triggers import failed

FinalState: TypeAlias = Literal["children", "return", "unhandled"]


def verdict(run: Run, returned: Any, rule: FinalState) -> Outcome:
    """How the flow ended whose body returned `returned`; every future of the flow is done by now."""
    if isinstance(returned, State) and returned.run_id is None:
        if returned.type in TERMINAL:
            name = returned.name or returned.type.capitalize()
            return Outcome(returned.type, name, returned.message, returned.data)
        message = f"The flow returned a state of type {returned.type}, in which no run can end."
        return Outcome(FAILED, "Failed", message, RunFailed(run.name, message))
    tally = run.tally or Tally()
    given: list[State[Any]] = []
    data = _with_states(returned, given)
    if given and (rule != "return" or _only_states(returned)):
        outcome = _of_states(given, data)
        if outcome.type is not COMPLETED or rule != "unhandled":
            return outcome
    if rule == "unhandled" and tally.unreceived:
        message = f"{tally.unreceived} of {tally.total} children failed, and nobody looked."
        return Outcome(FAILED, "Failed", message, tally.first_failure)
    if returned is None and rule == "children":
        return _of_tally(run, tally)
    return Outcome(COMPLETED, "Completed", "", data)


def _with_states(value: Any, given: list[State[Any]]) -> Any:
    """The value with its futures replaced by their states, which are also added to `given`."""

    def replace(item: Future[Any] | State[Any]) -> State[Any]:
        if isinstance(item, Future):
            item.received()
        state = item.state if isinstance(item, Future) else item
        given.append(state)
        return state

    return resolve(list(value) if isinstance(value, FutureList) else value, replace)


def _only_states(value: Any) -> bool:
    """Whether Prefect 3 judges the flow by this value: a state or future, or a non-empty collection of only those."""
    if isinstance(value, Future | State):
        return True
    if isinstance(value, list | tuple | set | frozenset | FutureList):
        return len(value) > 0 and all(isinstance(item, Future | State) for item in value)
    return False


def _of_states(states: Iterable[State[Any]], data: Any) -> Outcome:
    kinds = [state.type for state in states if state.type is not SKIPPED or failed(state)]
    kind, message = aggregate(kinds)
    return Outcome(kind, kind.capitalize(), message, data)


def _of_tally(run: Run, tally: Tally) -> Outcome:
    counts = {
        COMPLETED: tally.completed,
        CANCELLED: tally.cancelled,
        FAILED: tally.failed,
        CRASHED: tally.crashed,
    }
    if not tally.total:
        return Outcome(COMPLETED, "Completed", "")
    if run.definition.cancels_siblings and tally.failed + tally.crashed:
        del counts[CANCELLED]  # cancelled for the sake of the failure, which is what the flow ends for
    kind, message = aggregate_counts(counts)
    if kind is COMPLETED:
        return Outcome(COMPLETED, "Completed", message)
    error = tally.first_failure or RunFailed(run.name, message)
    return Outcome(kind, kind.capitalize(), message, error)


def aggregate(kinds: Iterable[StateType]) -> tuple[StateType, str]:
    """One type and message for several states: the first rule that matches."""
    counts: dict[StateType, int] = {}
    for kind in kinds:
        counts[kind] = counts.get(kind, 0) + 1
    return aggregate_counts(counts)


def aggregate_counts(counts: dict[StateType, int]) -> tuple[StateType, str]:
    """`aggregate`, over how many there are of each type."""
    total = sum(counts.values())
    bad = counts.get(FAILED, 0) + counts.get(CRASHED, 0) + counts.get(SKIPPED, 0)
    open_ended = sum(number for kind, number in counts.items() if kind not in TERMINAL)
    if counts.get(COMPLETED, 0) == total:
        return COMPLETED, "All states completed."
    if counts.get(CANCELLED, 0):
        return CANCELLED, f"{counts[CANCELLED]}/{total} states cancelled."
    if counts.get(PAUSED, 0):
        return PAUSED, f"{counts[PAUSED]}/{total} states paused."
    if bad:
        return FAILED, f"{bad}/{total} states failed."
    return FAILED, f"{open_ended}/{total} states are not final."
