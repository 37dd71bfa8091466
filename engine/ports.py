"""What the core needs from the outside world, as protocols, and the two defaults that need no other folder.

Clock, randomness, journal and runner are parameters of every engine, so that virtual time, seeded simulation and
another kind of storage are a matter of handing in another value.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs

if TYPE_CHECKING:
    from .run import Run
    from .states import Entry


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

    `record` is a plain call that never waits: the run's story changed and is to be written soon. `commit` returns
    when all that was recorded before it is on disk, and raises a `JournalError` when it can't be.
    """

    def record(self, run: Run, /) -> None: ...

    def keep(self, key: str, record: Record, /) -> None:
        """Have a result written soon, before the state of the run that made it. Never waits."""
        ...

    async def load(self, key: str, /) -> Record | None:
        """What was kept under a key, written or not."""
        ...

    def load_blocking(self, key: str, /) -> Record | None:
        """`load`, holding the calling thread."""
        ...

    async def claim(self, run_id: str, entry: Entry, /) -> list[Entry] | None:
        """Take a failed, crashed or cancelled run to run it again: append `entry` to its history and return that.

        `None` when there is no such run, or another process was faster.
        """
        ...

    async def commit(self) -> None: ...

    def commit_blocking(self) -> None:
        """`commit`, holding the calling thread."""
        ...

    crowded: bool
    """True while so much waits to be written that new runs had better wait for `room`."""

    async def room(self) -> None:
        """Return when the journal is no longer crowded."""
        ...

    def open(self) -> None: ...

    def close(self) -> None: ...


@attrs.frozen
class Record:
    """A result as it is kept: bytes, how they were made, and until when they count (microseconds; `None`: for ever)."""

    value: bytes
    serializer: str
    run_id: str
    kept_at: int
    expires_at: int | None = None


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
