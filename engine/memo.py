"""What is recorded is not computed twice: looking a cached result up before the body, keeping it after.

Of several runs with one key at once, in one process, one computes and the others wait for it; when it fails, the next
of them tries, so a failed leader poisons nobody.
"""

from __future__ import annotations

import pickle
from typing import Any

from .codec import decode, encode
from .core import logger
from .errors import ResultNotSerializable, ResultUnreadable, SelfDependency
from .ports import Record
from .run import Outcome, Run
from .states import COMPLETED, FAILED
from .tracebacks import describe, format_error
from .waking import Waker


class Flight:
    """A cached result on its way: who computes it, and who waits."""

    __slots__ = ("_run", "_waiting")

    def __init__(self, run: Run) -> None:
        self._run = run
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

    def land(self) -> None:
        """It is over: let the others look."""
        assert self._run.cache_key is not None
        self._run.core.flights.pop(self._run.cache_key, None)
        self._run.flight = None
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
    key = f"cache:{run.cache_key}"
    while True:
        flight = core.flights.get(run.cache_key)
        if flight is not None:
            await flight.landed(run)
            continue
        inline = run.runner is core.inline
        record = None
        if not caching.refresh:
            try:
                record = core.journal.load_blocking(key) if inline else await core.journal.load(key)
            except ResultUnreadable as error:
                logger.warning("The cached result of task %r is computed anew. %s", definition.name, error)
        if run.cache_key in core.flights:
            continue  # another run took off while this one looked
        outcome = _cached(run, record)
        if outcome is None:
            Flight(run)
        return outcome


def _cached(run: Run, record: Record | None) -> Outcome | None:
    caching = run.definition.caching
    assert caching is not None
    if record is None or (record.expires_at is not None and record.expires_at <= run.core.clock.now()):
        return None
    if record.serializer != caching.serializer:
        return None  # kept in another way than the task says now: computed anew
    try:
        return Outcome(COMPLETED, "Cached", f"Result of run {record.run_id}.", unserialize(record))
    except ResultUnreadable as error:
        logger.warning("The cached result of task %r is computed anew. %s", run.definition.name, error)
        return None


def remember(run: Run, outcome: Outcome) -> Outcome:
    """Keep a completed run's result under its key; a result that can't be kept fails the run."""
    caching = run.definition.caching
    if outcome.type is not COMPLETED or caching is None:
        return outcome
    try:
        value = serialize(outcome.data, caching.serializer)
    except ResultNotSerializable as error:
        run.error = format_error(error)
        return Outcome(FAILED, "Failed", f"Task run raised {describe(error)}", error)
    now = run.core.clock.now()
    expires = None if caching.expiration is None else now + int(caching.expiration.total_seconds() * 1e6)
    run.core.journal.keep(f"cache:{run.cache_key}", Record(value, caching.serializer, run.id, now, expires))
    return outcome


def serialize(value: Any, serializer: str) -> bytes:
    """The value as bytes. Raises `ResultNotSerializable`."""
    if serializer == "msgpack":
        return encode(value)
    try:
        return pickle.dumps(value)
    except Exception:
        raise ResultNotSerializable("value", value) from None


def unserialize(record: Record) -> Any:
    """The value again. Raises `ResultUnreadable`. Only a task that asked for pickle gets here with pickled bytes."""
    if record.serializer == "msgpack":
        return decode(record.value)
    try:
        return pickle.loads(record.value)  # noqa: S301 - asked for by the task's own result_serializer="pickle"
    except Exception as error:
        raise ResultUnreadable(f"{type(error).__name__}: {error}") from error
