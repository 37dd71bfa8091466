"""What is recorded is not computed twice: looking a cached result up before the body, keeping it after.

Of several runs with one key at once one computes and the others wait for it, also in other processes that use the
journal. When it fails, the next of them tries, so a failed leader poisons nobody; when its process dies, too.
"""

from __future__ import annotations

import pickle
from typing import Any

import anyio

from .caching import Caching, Serializer
from .codec import decode, encode
from .core import logger
from .errors import ResultNotSerializable, ResultUnreadable, SelfDependency
from .ports import Record
from .run import Outcome, Run
from .states import COMPLETED, FAILED
from .tracebacks import describe, format_error
from .waking import Waker

LAST_MOMENT = 2**63 - 1
"""The last microsecond that a journal can write down."""

POLL_SECONDS = 0.02
"""How often to look whether another process has computed a result."""


class Flight:
    """A cached result on its way: who computes it, and who waits."""

    __slots__ = ("_name", "_reserved", "_run", "_waiting")

    def __init__(self, run: Run) -> None:
        self._run = run
        self._name = f"flight:{run.cache_key}"
        self._reserved = False
        self._waiting: list[Waker] = []
        assert run.cache_key is not None
        run.core.flights[run.cache_key] = self
        run.flight = self

    async def landed(self, run: Run) -> None:
        """Wait until the result is kept, or is not to be. Raises `SelfDependency` for a run inside the one flying."""
        if self._run in run.ancestors():
            raise SelfDependency(run.name)
        waker = Waker()
        self._waiting.append(waker)
        try:
            await waker.wait()
        finally:
            self._waiting.remove(waker)

    async def cleared(self) -> Outcome | None:
        """See that no other process computes the same now; if one did, and kept its result, that."""
        run, journal = self._run, self._run.core.journal
        caching = run.definition.caching
        assert caching is not None
        if caching.private:
            return None
        while not await run.told(journal.reserve(self._name, run.id)):  # noqa: ASYNC110 - it is another process
            await anyio.sleep(POLL_SECONDS)
        self._reserved = True
        outcome = await _looked_up(run)
        if outcome is not None:
            self.land()
        return outcome

    def land(self) -> None:
        """It is over: let the others look."""
        run = self._run
        assert run.cache_key is not None
        if self._reserved:
            run.core.journal.discard(self._name)
        run.core.flights.pop(run.cache_key, None)
        run.flight = None
        for waker in self._waiting:
            waker.wake()


async def recall(run: Run) -> Outcome | None:
    """The cached outcome, if there is one; else the run is now the one that computes it."""
    definition, core = run.definition, run.core
    caching = definition.caching
    assert caching is not None
    run.cache_key = caching.policy.key(run, definition.signature.bind(run.args, run.kwargs))
    if run.cache_key is None:
        return None
    while True:
        flight = core.flights.get(run.cache_key)
        if flight is not None:
            await flight.landed(run)
            continue
        outcome = await _looked_up(run)
        if run.cache_key in core.flights:
            continue  # another run took off while this one looked
        if outcome is None:
            flight = Flight(run)
            outcome = await flight.cleared()
        return outcome


async def _looked_up(run: Run) -> Outcome | None:
    """What the journal has under the run's key, if it still counts."""
    caching, journal = run.definition.caching, run.core.journal
    assert caching is not None
    if caching.refresh:
        return None
    key = f"cache:{run.cache_key}"
    held = None if run.transaction is None else run.transaction.held(key)
    try:
        return _cached(run, caching, held or await run.told(journal.load(key)))
    except ResultUnreadable as error:
        logger.warning("The cached result of task %r is computed anew. %s", run.definition.name, error)
        journal.discard(key)
        return None


def _cached(run: Run, caching: Caching, record: Record | None) -> Outcome | None:
    if record is None or (record.expires_at is not None and record.expires_at <= run.core.clock.now()):
        return None
    if record.serializer != caching.serializer:
        return None  # kept in another way than the task says now: computed anew
    return Outcome(COMPLETED, "Cached", f"Result of run {record.run_id}.", unserialize(record, caching.serializer))


def remember(run: Run, outcome: Outcome) -> Outcome:
    """Keep a completed run's result under its key; a result that can't be kept fails the run."""
    caching = run.definition.caching
    if outcome.type is not COMPLETED or caching is None:
        return outcome
    try:
        value = serialize(outcome.data, caching.serializer)
    except ResultNotSerializable as error:
        return not_kept(run, error)
    now = run.core.clock.now()
    expires = None if caching.expiration is None else now + int(caching.expiration.total_seconds() * 1e6)
    if expires is not None and expires > LAST_MOMENT:
        expires = None
    record = Record(value, caching.serializer, run.id, now, expires)
    keep = run.core.journal.keep if run.transaction is None else run.transaction.hold
    keep(f"cache:{run.cache_key}", record)
    return outcome


def keep_result(run: Run, outcome: Outcome) -> Outcome:
    """Keep a completed run's own result, for those who ask for it later by the run's id."""
    if outcome.type is not COMPLETED or run.ended:
        return outcome
    serializer = run.definition.serializer
    try:
        value = serialize(outcome.data, serializer)
    except ResultNotSerializable as error:
        if run.definition.persists:
            return not_kept(run, error)
        logger.warning("The result of run %s is not kept for others who ask for it. %s", run.id, error)
        return outcome
    run.core.journal.keep(f"run:{run.id}", Record(value, serializer, run.id, run.core.clock.now()))
    return outcome


def not_kept(run: Run, error: Exception) -> Outcome:
    """The outcome of a run whose outcome could not be kept as it was to be: that is its failure."""
    run.error = format_error(error)
    return Outcome(FAILED, "Failed", f"{run.kind.capitalize()} run raised {describe(error)}", error)


def serialize(value: Any, serializer: str) -> bytes:
    """The value as bytes. Raises `ResultNotSerializable`."""
    if serializer == "msgpack":
        return encode(value)
    try:
        return pickle.dumps(value)
    except Exception:
        raise ResultNotSerializable("value", value) from None


def unserialize(record: Record, serializer: Serializer = "msgpack") -> Any:
    """The value again, if this serializer wrote it: the journal's word alone is not enough to load a pickle.

    Raises `ResultUnreadable`.
    """
    if record.value is None:
        raise ResultUnreadable("it is not in the journal any more")
    if record.serializer == "msgpack":
        return decode(record.value)
    if record.serializer != serializer:
        raise ResultUnreadable(f"it was written by {record.serializer!r}, which result_serializer does not say here")
    try:
        return pickle.loads(record.value)  # noqa: S301 - asked for by the task's own result_serializer="pickle"
    except Exception as error:
        raise ResultUnreadable(f"{type(error).__name__}: {error}") from error
