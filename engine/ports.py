"""What the core needs from the outside world, as protocols, and the two defaults that need no other folder.

Clock, randomness, journal and runner are parameters of every engine, so that virtual time, seeded simulation and
another kind of storage are a matter of handing in another value.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import attrs

if TYPE_CHECKING:
    from .limits import Pool
    from .run import Run
    from .states import Entry, StateType
    from .waking import Reply


OnMismatch: TypeAlias = Literal["raise", "rerun", "accept"]
"""What to do about a durable flow that does not do what is recorded of it."""


class Clock(Protocol):
    """Wall-clock time, for the record only. Durations come from the event loop's own clock."""

    def now(self) -> int:
        """Microseconds since 1970-01-01 UTC."""
        ...

    def block(self, seconds: float) -> None:
        """Hold the calling thread for that long."""
        ...


class SystemClock:
    """The machine's own clock."""

    __slots__ = ()

    def now(self) -> int:
        return time.time_ns() // 1000

    def block(self, seconds: float) -> None:
        time.sleep(seconds)


class Randomness(Protocol):
    """The one method that retry jitter needs; `random.Random` has it."""

    def uniform(self, a: float, b: float, /) -> float: ...


class Journal(Protocol):
    """Where the stories of runs are kept.

    What is said to it (`record`, `keep`, `discard`, `log`) are plain calls that never wait. What it is asked gives a
    `Reply`, to be awaited in a loop or waited for in a thread; a reply may raise a `JournalError`.
    """

    @property
    def crowded(self) -> bool:
        """True while so much waits to be written that new runs had better wait for `room`."""
        ...

    def open(self) -> None: ...

    def close(self) -> None: ...

    def listen(self, hear: Callable[[str, Record], None], /) -> None:
        """Call `hear(key, record)`, in a thread of the journal's, when another process asks something of a run."""
        ...

    @property
    def pool(self) -> Pool:
        """The slots that are shared with other processes."""
        ...

    @property
    def timetable(self) -> Timetable:
        """The schedules that are served, and their fires."""
        ...

    # --- said ------------------------------------------------------------------------------------------------------

    def record(self, run: Run, /) -> None:
        """The run's story changed, and is to be written soon."""
        ...

    def keep(self, key: str, record: Record, /) -> None:
        """Have a result written soon, before the state of the run that made it."""
        ...

    def discard(self, key: str, /) -> None:
        """What was kept or reserved under a key is not needed any more."""
        ...

    def log(self, run_id: str, at: int, level: str, logger: str, message: str, /) -> None:
        """Have a log record of a run written soon, or dropped and counted when too many wait."""
        ...

    # --- asked -----------------------------------------------------------------------------------------------------

    def commit(self) -> Reply[None]:
        """All that was said before is on disk."""
        ...

    async def room(self) -> None:
        """Return when the journal is no longer crowded."""
        ...

    def load(self, key: str, /) -> Reply[Record | None]:
        """What was kept under a key, written or not."""
        ...

    def oldest(self, prefix: str, /) -> Reply[tuple[str, Record] | None]:
        """The first of what is on disk under keys that begin so, in their order."""
        ...

    def reserve(self, key: str, run_id: str, /) -> Reply[bool]:
        """Put the key aside for this process until it is discarded or the process dies; whether that was possible."""
        ...

    def enroll(self, run: Run, /) -> Reply[Earlier | None]:
        """Write a run whose id its caller chose. If there is one of that id already, nothing is written: that one."""
        ...

    def find(self, run_id: str, /) -> Reply[Earlier | None]:
        """What is written of a run."""
        ...

    def claim(self, run_id: str, types: Sequence[StateType], entry: Entry, /) -> Reply[Earlier | None]:
        """Take a run that ended in one of these types, or was suspended, to run it again; `entry` joins its history.

        With a terminal `entry`, one that was suspended ends.
        `None` when there is no such run, or another process was faster.
        """
        ...

    def past(self, root: str, /) -> Reply[Past]:
        """What is recorded about the steps of a durable run."""
        ...

    def fork(self, root: str, at: str, new_root: str, /) -> Reply[None]:
        """Copy the recorded steps that were called before the run `at`, for the durable run `new_root`."""
        ...

    def recoverable(self) -> Reply[list[Earlier]]:
        """The outermost durable runs that were broken off, by a crash or by the closing of their engine.

        And those that were suspended, and have been resumed since.
        """
        ...


@attrs.frozen
class Record:
    """A result as it is kept: bytes, how they were made, and until when they count (microseconds; `None`: for ever)."""

    value: bytes | None
    """`None` for a big one that is still to be loaded."""
    serializer: str
    run_id: str
    kept_at: int
    expires_at: int | None = None
    about: Mapping[str, Any] | None = None
    """Of a step: the step it was called in, what was called, digests of inputs and code."""


@attrs.frozen
class Earlier:
    """A run as the journal knows it."""

    run_id: str
    history: list[Entry]
    function: str
    step: str | None
    expected_start_at: int | None
    """For a run that waited for its next attempt, when that was to be."""
    call: str | None
    fire: tuple[str, int] | None = None
    """The schedule that fired it, and the time that it is for."""


@attrs.define
class Past:
    """What is recorded about the steps of a durable run: outcomes, and runs that have none."""

    recorded: dict[str, dict[str, Record]] = attrs.field(factory=dict)
    """Outcomes, by the step that the step was called in, and then by its own."""
    unfinished: dict[str, Earlier] = attrs.field(factory=dict)
    on_mismatch: OnMismatch = "accept"
    """What to do when the run takes another way than the recorded one."""
    is_whole: bool = False
    """Whether it is the run's own way that is recorded, which it has to take again; not so in a retry, or a fork."""
    retries_failures: bool = True
    """Whether recorded failures are tried again, or handed back."""
    asked: set[str] = attrs.field(factory=set)
    """Steps that were called again by now."""
    strangers: dict[str, str] = attrs.field(factory=dict)
    """By the step they were called in, the first call that is not recorded."""


class Timetable(Protocol):
    """Where schedules and their fires are kept. A fire is unique by its schedule and its nominal time."""

    def register(self, name: str, flow: str, told: str, now: int, /) -> Reply[Standing]:
        """This process serves a schedule: write it down, and say where it stands. A changed one begins at `now`."""
        ...

    def look(self, name: str, /) -> Reply[Standing | None]:
        """Where a schedule stands; `None` if there is none of that name."""
        ...

    def take(self, name: str, nominal: int, run_id: str, /) -> Reply[bool]:
        """Take the fire of a nominal time for this process; false when it was taken, or the schedule is paused."""
        ...

    def decide(self, name: str, nominal: int, /) -> Reply[None]:
        """All nominal times up to this one are decided."""
        ...

    def ask(
        self, name: str, nominals: Sequence[int], run_ids: Sequence[str], now: int, /
    ) -> Reply[list[tuple[int, str]]]:
        """Have these nominal times fired by whoever serves the schedule; those that were not yet, with their ids."""
        ...

    def take_free(self, name: str, most: int, /) -> Reply[list[tuple[int, str, int | None]]]:
        """Take for this process, the first of them first, so many fires that were asked for or whose taker has died.

        Nominal times, ids of runs, and when they were asked for.
        """
        ...

    def going(self, name: str, nominal: int, run_id: str, /) -> Reply[list[tuple[str, bool]]]:
        """Runs that have not ended, of earlier fires, and of any that has begun: ids, and whether they have begun."""
        ...

    def pause(self, name: str, at: int, /) -> Reply[bool]:
        """Let a schedule fire no more until `resume`; whether there is such a one that was not paused."""
        ...

    def resume(self, name: str, at: int, /) -> Reply[bool]:
        """End a pause: what came due meanwhile is not fired; whether there is such a one that was paused."""
        ...


@attrs.frozen
class Standing:
    """Where a schedule stands in the journal."""

    told: str
    """What it is, as JSON."""
    mark: int
    """All nominal times up to this one are decided, in microseconds."""
    paused_at: int | None
    has_free: bool = False
    """There are fires to be taken with `take_free`, perhaps."""


class Runner(Protocol):
    """Where the body of a `def` function runs. (An `async def` body always runs in its caller's event loop.)"""

    async def run(self, run: Run, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], /) -> Any:
        """Call `fn` and return what it returns, or raise what it raises."""
        ...


class Straggler(Protocol):
    """A body that can't be stopped and goes on after its attempt was given up."""

    def when_done(self, callback: Callable[[], object], /) -> None:
        """Call `callback` once the body has really ended, in whatever thread that happens."""
        ...


class Observer(Protocol):
    """Told of every transition, in order, in the thread where it happens."""

    def __call__(self, run: Run, /) -> None: ...
