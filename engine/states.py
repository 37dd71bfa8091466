"""States, and the one table that says how a run may move between them.

Theory of operation
===================

A run is always in exactly one state. A state has a *type*, one of ten words that the engine acts on, and a *name*,
which tells a person more (`AwaitingRetry` is a kind of SCHEDULED, `TimedOut` a kind of FAILED).

The types fall into three groups:

* *before*: SCHEDULED (has a time to wait for) and PENDING (waits for upstreams, slots or its turn);
* *during*: RUNNING (the body executes), PAUSED (it waits for a person) and CANCELLING (it was told to stop and is
  cleaning up);
* *after*: COMPLETED, FAILED, CRASHED, CANCELLED and SKIPPED. These are terminal, and terminal means terminal: a
  late interrupt can't turn a success into a crash.

`TRANSITIONS` below is the whole rule, as data: a pair of types is legal when it is a key, and the text says what
moves a run along that arrow. Exactly two more arrows leave terminal states, each in its own table because it needs
its own word from a person: `RESUME` begins a run again, `ROLL_BACK` undoes one that had completed.

Tasks and flows share the table. Everything that changes a run's state goes through `transition`, which is also the
only place that tells the journal and the observers. The diagram in `tests/states.mmd` is drawn from the table by
`diagram`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import attrs

from .errors import (
    IllegalTransition,
    RunCancelled,
    RunCrashed,
    RunFailed,
    RunSkipped,
    RunUnfinished,
)
from .spill import Spilled

if TYPE_CHECKING:
    from .run import Run

R_co = TypeVar("R_co", covariant=True)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(when: datetime) -> int:
    """A moment as the journal writes it: microseconds since 1970."""
    return (when - EPOCH) // timedelta(microseconds=1)


def moment(at: int) -> datetime:
    """A moment of the journal's, in UTC."""
    return EPOCH + timedelta(microseconds=at)


class StateType(StrEnum):
    """The ten types of state."""

    SCHEDULED = "SCHEDULED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    CANCELLING = "CANCELLING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CRASHED = "CRASHED"
    CANCELLED = "CANCELLED"
    SKIPPED = "SKIPPED"


SCHEDULED = StateType.SCHEDULED
PENDING = StateType.PENDING
RUNNING = StateType.RUNNING
PAUSED = StateType.PAUSED
CANCELLING = StateType.CANCELLING
COMPLETED = StateType.COMPLETED
FAILED = StateType.FAILED
CRASHED = StateType.CRASHED
CANCELLED = StateType.CANCELLED
SKIPPED = StateType.SKIPPED

INITIAL = frozenset({SCHEDULED, PENDING})
TERMINAL = frozenset({COMPLETED, FAILED, CRASHED, CANCELLED, SKIPPED})

TRANSITIONS: Mapping[tuple[StateType, StateType], str] = {
    (SCHEDULED, SCHEDULED): "its time has passed and it is Late, or it is scheduled anew",
    (SCHEDULED, PENDING): "its time has come",
    (SCHEDULED, RUNNING): "its retry delay is over, or its slot is free",
    (SCHEDULED, CANCELLING): "cancellation asked for",
    (SCHEDULED, CANCELLED): "cancelled before it began",
    (SCHEDULED, COMPLETED): "it was resumed, and its result was recorded or cached before",
    (SCHEDULED, FAILED): "its time to wait ran out",
    (SCHEDULED, CRASHED): "its process ended",
    (SCHEDULED, SKIPPED): "another run of the same schedule is still going",
    (PENDING, SCHEDULED): "a limit is full",
    (PENDING, PENDING): "it waits for something else now",
    (PENDING, RUNNING): "upstreams, trigger and slots allow it",
    (PENDING, CANCELLING): "cancellation asked for",
    (PENDING, COMPLETED): "its result was recorded or cached before",
    (PENDING, FAILED): "its parameters don't validate",
    (PENDING, CRASHED): "its process ended",
    (PENDING, CANCELLED): "cancelled before it began",
    (PENDING, SKIPPED): "an upstream did not complete, or the trigger was not met",
    (RUNNING, SCHEDULED): "the attempt failed, and it will be retried after a delay",
    (RUNNING, RUNNING): "the attempt failed, and it is retried at once",
    (RUNNING, PAUSED): "it asked for input, or was suspended",
    (RUNNING, CANCELLING): "cancellation asked for",
    (RUNNING, COMPLETED): "the body returned",
    (RUNNING, FAILED): "the body raised, or took too long",
    (RUNNING, CRASHED): "interrupted by something that is no Exception",
    (RUNNING, CANCELLED): "cancelled, and cleaned up",
    (RUNNING, SKIPPED): "the body raised Skip",
    (PAUSED, SCHEDULED): "resumed after a suspension",
    (PAUSED, RUNNING): "resumed",
    (PAUSED, CANCELLING): "cancellation asked for",
    (PAUSED, COMPLETED): "ended by hand",
    (PAUSED, FAILED): "never resumed",
    (PAUSED, CRASHED): "its process ended",
    (PAUSED, CANCELLED): "cancelled while it waited",
    (PAUSED, SKIPPED): "ended by hand",
    (CANCELLING, CANCELLED): "cleaned up",
}

RESUME: Mapping[tuple[StateType, StateType], str] = {
    (FAILED, SCHEDULED): "resumed",
    (CRASHED, SCHEDULED): "resumed",
    (CANCELLED, SCHEDULED): "resumed",
}

ROLL_BACK: Mapping[tuple[StateType, StateType], str] = {
    (COMPLETED, COMPLETED): "its transaction rolled back",
}

NAMES: Mapping[StateType, tuple[str, ...]] = {
    SCHEDULED: ("Scheduled", "Late", "AwaitingRetry", "AwaitingConcurrencySlot", "Resuming"),
    PENDING: ("Pending", "NotReady"),
    RUNNING: ("Running", "Retrying"),
    PAUSED: ("Paused", "Suspended"),
    CANCELLING: ("Cancelling",),
    COMPLETED: ("Completed", "Cached", "RolledBack"),
    FAILED: ("Failed", "TimedOut"),
    CRASHED: ("Crashed",),
    CANCELLED: ("Cancelled", "Interrupted"),
    SKIPPED: ("Skipped",),
}

Entry: TypeAlias = tuple[StateType, str, str, int]
"""One line of a run's history: type, name, message, and microseconds since the epoch."""

_NEXT = {source: frozenset(to for (of, to) in TRANSITIONS if of is source) for source in StateType}


def allowed(source: StateType, target: StateType, name: str = "") -> bool:
    """Whether a run may go from `source` to `target`; `name` opens the two explicit arrows."""
    if target in _NEXT[source]:
        return True
    if name == "Resuming":
        return (source, target) in RESUME
    return name == "RolledBack" and (source, target) in ROLL_BACK


def transition(run: Run, target: StateType, name: str, message: str = "") -> None:
    """Move a run, and tell the journal and the observers.

    Raises `IllegalTransition`, and changes nothing, when the table has no such arrow. Two states of one run never
    share a timestamp: a microsecond is added where the clock stands still.
    """
    source, current, _, last = run.history[-1]
    if target not in _NEXT[source] and not allowed(source, target, name):
        raise IllegalTransition(run.name, f"{source}/{current}", f"{target}/{name}")
    core = run.core
    at = core.clock.now()
    run.history.append((target, name, message, at if at > last else last + 1))
    core.journal.record(run)
    if core.observers:
        core.observe(run)


@attrs.frozen
class State(Generic[R_co]):
    """What a run is in, or ended in: a frozen value.

    `data` is the result of a COMPLETED run and the exception of one that did not complete. A state made by hand
    (`Failed(message="no rows")`) has no `run_id`; returned from a body it becomes the state of the run.
    """

    type: StateType = attrs.field(converter=StateType)
    name: str = attrs.field(default=attrs.Factory(lambda self: self.type.capitalize(), takes_self=True))
    message: str = ""
    _data: Any = attrs.field(default=None, repr=False)
    at: int = attrs.field(default=0, repr=False)
    run_id: str | None = attrs.field(default=None, repr=False)
    run_name: str = attrs.field(default="", repr=False)

    @property
    def data(self) -> Any:
        """The result or the exception. Raises `ResultUnreadable` and `JournalError`s for one that was spilled."""
        return self._data.load() if type(self._data) is Spilled else self._data

    @property
    def timestamp(self) -> datetime:
        """When the run entered this state, in UTC."""
        return moment(self.at)

    def is_scheduled(self) -> bool:
        return self.type is SCHEDULED

    def is_pending(self) -> bool:
        return self.type is PENDING

    def is_running(self) -> bool:
        return self.type is RUNNING

    def is_paused(self) -> bool:
        return self.type is PAUSED

    def is_cancelling(self) -> bool:
        return self.type is CANCELLING

    def is_completed(self) -> bool:
        return self.type is COMPLETED

    def is_failed(self) -> bool:
        return self.type is FAILED

    def is_crashed(self) -> bool:
        return self.type is CRASHED

    def is_cancelled(self) -> bool:
        return self.type is CANCELLED

    def is_skipped(self) -> bool:
        return self.type is SKIPPED

    def is_final(self) -> bool:
        """Whether the run has ended."""
        return self.type in TERMINAL

    def result(self, raise_on_failure: bool = True) -> R_co:
        """The value of a completed run; of any other, raise what ended it (or return that, when told not to raise).

        Raises `RunUnfinished` for a run that has not ended.
        """
        if self.type is COMPLETED:
            value: R_co = self.data.result(raise_on_failure) if isinstance(self.data, State) else self.data
            return value
        error = self.error()
        if raise_on_failure or isinstance(error, RunUnfinished):
            raise error
        return error  # type: ignore[return-value]

    def error(self) -> BaseException:
        """What `result` raises for a state that is not COMPLETED."""
        if isinstance(self.data, BaseException):
            return self.data
        inner = first_failure(self.data)
        if inner is not None:
            return inner.error()
        kind = _ERRORS.get(self.type)
        name = self.run_name or self.name
        return RunUnfinished(name, self.name) if kind is None else kind(name, self.message)


_ERRORS = {FAILED: RunFailed, CRASHED: RunCrashed, CANCELLED: RunCancelled, SKIPPED: RunSkipped}


def first_failure(data: object) -> State[Any] | None:
    """The first state that is not COMPLETED in a state, or in a list, tuple, set or dict of states."""
    if isinstance(data, State):
        return None if data.type is COMPLETED else data
    items = data.values() if isinstance(data, dict) else data
    if isinstance(items, list | tuple | set | frozenset | type({}.values())):
        for item in items:
            found = first_failure(item)
            if found is not None:
                return found
    return None


def Scheduled(message: str = "", data: Any = None, name: str = "Scheduled") -> State[Any]:
    """A SCHEDULED state."""
    return State(SCHEDULED, name, message, data)


def Pending(message: str = "", data: Any = None, name: str = "Pending") -> State[Any]:
    """A PENDING state."""
    return State(PENDING, name, message, data)


def Running(message: str = "", data: Any = None, name: str = "Running") -> State[Any]:
    """A RUNNING state."""
    return State(RUNNING, name, message, data)


def Completed(message: str = "", data: Any = None, name: str = "Completed") -> State[Any]:
    """A COMPLETED state; `data` is the result."""
    return State(COMPLETED, name, message, data)


def Failed(message: str = "", data: Any = None, name: str = "Failed") -> State[Any]:
    """A FAILED state; `data` may be the exception."""
    return State(FAILED, name, message, data)


def Crashed(message: str = "", data: Any = None, name: str = "Crashed") -> State[Any]:
    """A CRASHED state."""
    return State(CRASHED, name, message, data)


def Cancelled(message: str = "", data: Any = None, name: str = "Cancelled") -> State[Any]:
    """A CANCELLED state."""
    return State(CANCELLED, name, message, data)


def Skipped(message: str = "", data: Any = None, name: str = "Skipped") -> State[Any]:
    """A SKIPPED state; `message` is the reason."""
    return State(SKIPPED, name, message, data)


def diagram() -> str:
    """The table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2"]
    lines += [f"    [*] --> {kind}" for kind in StateType if kind in INITIAL]
    for table in (TRANSITIONS, RESUME, ROLL_BACK):
        lines += [f"    {of} --> {to}: {why}" for (of, to), why in table.items()]
    lines += [f"    {kind} --> [*]" for kind in StateType if kind in TERMINAL]
    return "\n".join(lines) + "\n"
