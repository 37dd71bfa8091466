"""A bound on the results that wait in memory to be taken: beyond it they wait in the journal.

A future that is done keeps its value for as long as it is held. With a budget, what its value takes is counted, as the
size of its bytes, until the future is dropped; a value that no longer fits is written to the journal, and read from
there each time it is asked for. What can't be written stays in memory.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import attrs

from .codec import decode, encode
from .errors import JournalClosed, ResultNotSerializable, ResultUnreadable
from .ports import Journal, Record
from .states import COMPLETED

if TYPE_CHECKING:
    from .core import Core
    from .futures import Future
    from .run import Outcome

KEPT_MICROSECONDS = 24 * 3600 * 1_000_000
"""How long a result stays in the journal that a process left there by dying."""


@attrs.frozen
class Spilled:
    """Stands for a value that is in the journal."""

    journal: Journal
    key: str

    def load(self) -> Any:
        """The value; holds the thread for the moment that it takes. Raises `ResultUnreadable`."""
        record = self.journal.load(self.key).wait()
        if record is None or record.value is None:
            raise ResultUnreadable("it is not in the journal any more")
        return decode(record.value)

    def discard(self) -> None:
        """Nobody will ask for it any more."""
        try:
            self.journal.discard(self.key)
        except JournalClosed:
            return  # it expires by itself


class Budget:
    """So many bytes of results may wait in memory."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0

    def keep(self, future: Future[Any], outcome: Outcome) -> Outcome:
        """The outcome as the future is to hold it."""
        if outcome.type is not COMPLETED or outcome.data is None:
            return outcome
        try:
            value = encode(outcome.data)
        except ResultNotSerializable:
            return outcome
        if self.used + len(value) <= self.most:
            self.used += len(value)
            weakref.finalize(future, self._give_back, len(value)).atexit = False
            return outcome
        spilled = _spill(future.run.core, future.run.id, value)
        weakref.finalize(future, spilled.discard).atexit = False
        return attrs.evolve(outcome, data=spilled)

    def _give_back(self, size: int) -> None:
        self.used -= size


def _spill(core: Core, run_id: str, value: bytes) -> Spilled:
    now = core.clock.now()
    spilled = Spilled(core.journal, f"spill:{run_id}")
    core.journal.keep(spilled.key, Record(value, "msgpack", run_id, now, now + KEPT_MICROSECONDS))
    return spilled
