"""A run: one call of a task or a flow, from its making to its release.

The pipeline works on this one value. It holds what the journal writes down (identity and history) and, until the
last attempt has ended, the arguments. It never holds the result: that belongs to whoever called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import attrs

from .states import RUNNING, TERMINAL, Entry, State, StateType, moment

if TYPE_CHECKING:
    from .core import Core
    from .definition import Definition
    from .firing import Fire
    from .granting import Lease
    from .host import Host
    from .memo import Flight
    from .ports import Past, Record, Runner, Straggler
    from .transactions import Transaction
    from .waking import Reply

T = TypeVar("T")
Kind: TypeAlias = Literal["flow", "task"]


CLOSED = "the engine was closed"
"""Why a run was cancelled that may go on when an engine is open again."""


class Handles:
    """Whether this process ever made a future or a run's state: if not, no argument needs to be searched for them."""

    made = False


@attrs.define
class Outcome:
    """How an attempt ended: the terminal state to be, with its data."""

    type: StateType
    name: str
    message: str
    data: Any = None
    traceback: TracebackType | None = None
    """Where `data` was raised, for an exception."""

    def state(self, run: Run) -> State[Any]:
        """The outcome as the value users see."""
        Handles.made = True
        return State(self.type, self.name, self.message, self.data, run.history[-1][3], run.id, run.name)


@attrs.define
class Tally:
    """How a flow's children ended, in numbers: all that the verdict on the flow needs, and all that is kept."""

    completed: int = 0
    failed: int = 0
    crashed: int = 0
    cancelled: int = 0
    skipped: int = 0
    unreceived: int = 0
    """Failures that nobody was given: not raised into a body, not returned as a state, not let through."""
    first_failure: BaseException | None = None
    """The one exception that is kept, to be raised when the flow fails for its children's sake."""
    decided: Outcome | None = None
    """How the flow ends whatever becomes of its children: its body raised, and in time."""

    def receive(self) -> None:
        """One of the failures was given to somebody."""
        self.unreceived -= 1

    @property
    def total(self) -> int:
        """Children that count: a branch rightly not taken does not."""
        return self.completed + self.failed + self.crashed + self.cancelled


@attrs.define(eq=False, weakref_slot=True)
class Run:
    """One call of a task or a flow."""

    id: str
    definition: Definition[..., Any]
    core: Core
    parent: Run | None
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    history: list[Entry]
    tags: frozenset[str]
    flow: Run | None
    """The flow run that it is part of."""
    host: Host | None
    """Where what it submits will live."""
    map_index: int | None = None
    given_name: str | None = None
    runner: Runner | None = None
    attempts: int = 0
    on_the_spot: bool = False
    """It is lived in the thread that called, which it holds where others wait."""
    told_to_stop: bool = False
    """Its task was cancelled while a thread executes its body, which can't be stopped."""
    leases: Sequence[Lease] = ()
    """Slots it holds, during an attempt."""
    straggler: Straggler | None = None
    """A thread that outlived the attempt and still runs its body."""
    began: float | None = None
    """When the first attempt began, by the engine's monotonic clock."""
    tally: Tally | None = None
    waits_on: Sequence[Any] = ()
    """Futures that must be done before it begins; replaced by their runs' ids in `upstream_ids`."""
    upstream_ids: Sequence[str] = ()
    awaiting: tuple[Run, ...] = ()
    """Runs whose outcome it is waiting for now; a circle in these is an error."""
    parameters: str | None = None
    step: str | None = None
    """Its identity in a durable flow."""
    start: Record | None = None
    """What an outermost durable run is started with, until that is kept."""
    inputs: str = ""
    """A digest of its arguments, in a durable flow."""
    steps: dict[str, int] | None = None
    """How often each call was made inside it, in this attempt."""
    past: Past | None = None
    """What was recorded about its durable tree, when it runs again."""
    handed_back: bool = False
    """It was not run: its outcome was recorded in an earlier life of its durable flow."""
    stands_anew: bool = False
    """Something that it depends on has run anew, so what is recorded of it does not count."""
    pardoned: int = 0
    """Attempts that don't count against its retries: those of an earlier life."""
    fire: Fire | None = None
    """The fire of a schedule that it is for."""
    expected_start_at: int | None = None
    """While it waits for its next attempt, when that is to be, in microseconds."""
    call: str | None = None
    """A digest of what is called with which arguments, for a run whose id was chosen."""
    cache_key: str | None = None
    transaction: Transaction | None = None
    """The transaction that it was called in."""
    flight: Flight | None = None
    """Set while it computes a cached result that others may be waiting for."""
    error: str | None = None
    """The formatted traceback of the exception that ended the last attempt."""
    last_error: BaseException | None = None
    crash: BaseException | None = None
    """Set, before it is cancelled, when the cause is an interrupt of the process."""
    cancel_reason: str = ""
    recorded: bool = False
    """True while its story stands in the journal's buffer."""

    @property
    def kind(self) -> Kind:
        return self.definition.kind

    @property
    def name(self) -> str:
        return self.given_name or f"{self.definition.name}-{self.id[-4:]}"

    @property
    def type(self) -> StateType:
        return self.history[-1][0]

    @property
    def ended(self) -> bool:
        return self.history[-1][0] in TERMINAL

    @property
    def is_step(self) -> bool:
        """Whether it is part of a durable run, and not the outermost of it."""
        return self.step is not None and not self.step.endswith("/")

    def state(self) -> State[Any]:
        """What it is in now, without any data."""
        type_, name, message, at = self.history[-1]
        return State(type_, name, message, None, at, self.id, self.name)

    def state_before_its_end(self) -> State[Any]:
        """What it is in now, or was in last before it ended."""
        type_, name, message, at = self.history[-2 if self.ended and len(self.history) > 1 else -1]
        return State(type_, name, message, None, at, self.id, self.name)

    async def told(self, reply: Reply[T]) -> T:
        """What the journal answers."""
        return reply.wait() if self.on_the_spot else await reply

    def ancestors(self) -> list[Run]:
        """The run itself, its parent, and so on up."""
        line: list[Run] = []
        run: Run | None = self
        while run is not None:
            line.append(run)
            run = run.parent
        return line

    def view(self) -> RunView:
        """What hooks, conditions and `runtime` are shown."""
        started = next((at for type_, _, _, at in self.history if type_ is RUNNING), None)
        return RunView(
            id=self.id,
            name=self.name,
            kind=self.kind,
            function=self.definition.name,
            tags=self.tags,
            run_count=self.attempts,
            parent_id=self.parent.id if self.parent is not None else None,
            flow_run_id=self.flow.id if self.flow is not None else None,
            map_index=self.map_index,
            state=self.state(),
            scheduled_start_time=None if self.fire is None else moment(self.fire.nominal),
            start_time=None if started is None else moment(started),
            previous_error=self.last_error,
        )


@attrs.frozen
class RunView:
    """A run as hooks, retry conditions and `runtime` show it: a frozen value."""

    id: str
    name: str
    kind: Kind
    function: str
    tags: frozenset[str]
    run_count: int
    """Number of the current attempt, from 1."""
    parent_id: str | None
    flow_run_id: str | None
    map_index: int | None
    state: State[Any]
    scheduled_start_time: datetime | None
    """The time that it is for, of a run that a schedule fired."""
    start_time: datetime | None
    previous_error: BaseException | None
    """What made the last attempt fail, on a retry."""
