"""A bound on the results that wait in memory to be taken: beyond it they wait in the journal.

A future that is done keeps its value for as long as it is held. With a budget, what its value takes is counted, as the
size of its bytes, until the future is dropped; a value that no longer fits is written to the journal, and read from
there each time it is asked for. What can't be written stays in memory.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import attrs

from . import codec
from .errors import JournalClosed, ResultUnreadable
from .ports import Journal, Record

if TYPE_CHECKING:
    from .core import Core
    from .futures import Future
    from .run import Outcome


@attrs.frozen(eq=False)
class Spilled:
    """Stands for a value that is in the journal."""

    journal: Journal
    key: str

    def load(self) -> Any:
        """The value; holds the thread for the moment that it takes. Raises `ResultUnreadable`."""
        return _value(self.journal.load(self.key).wait())

    async def fetch(self) -> Any:
        """The value; for an event loop. Raises `ResultUnreadable`."""
        return _value(await self.journal.load(self.key))


def _discard(journal: Journal, key: str) -> None:
    """Nobody will ask for it any more."""
    try:
        journal.discard(key)
    except JournalClosed:
        return  # it goes with its owner


class Budget:
    """So many bytes of results may wait in memory."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0

    def keep(self, future: Future[Any], outcome: Outcome) -> Outcome:
        """The outcome as the future is to hold it."""
        if outcome.type != "COMPLETED" or outcome.data is None:
            return outcome
        try:
            value = codec.encode(outcome.data)
        except Exception:  # also what an encoder of the user's raises: this is no place to fail the run
            return outcome
        if len(value) > codec.MAX_BYTES:
            return outcome  # it would not be read back
        if self.used + len(value) <= self.most:
            self.used += len(value)
            weakref.finalize(future, self._give_back, len(value)).atexit = False
            return outcome
        spilled = _spill(future.run.core, value)
        # With the value that stands for it, not with the future: a state of the run may be held for longer.
        weakref.finalize(spilled, _discard, spilled.journal, spilled.key).atexit = False
        return attrs.evolve(outcome, data=spilled)

    def _give_back(self, size: int) -> None:
        self.used -= size


def _spill(core: Core, value: bytes) -> Spilled:
    spilled = Spilled(core.journal, f"spill:{core.new_id()}")  # not the run's id: others may hold its result too
    core.journal.keep(spilled.key, Record(value, "msgpack", "", core.clock.now()))
    return spilled


def _value(record: Record | None) -> Any:
    if record is None or record.value is None:
        raise ResultUnreadable("it is not in the journal any more")
    return codec.decode(record.value)
