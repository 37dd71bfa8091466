"""Durable flows: what ended inside one is recorded before it is delivered, and handed back when it runs again.

A run inside a durable flow is a *step*. Its identity is made when the call is made, from where it is called (the
parent's step), what is called, a digest of the inputs (or an explicit key), and how many equal calls came before; so
it does not depend on the order in which concurrent runs happen to start. A step whose outcome is recorded never runs
again in that flow run: not in a retry of the flow, and not after a crash, in another process.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar

import anyio

from .arguments import resolve
from .caching import digest
from .codec import canonical
from .context import CURRENT
from .errors import InvalidOption, JournalError, ResultNotSerializable, StepMismatch
from .failures import decode_failure, encode_failure
from .futures import Future
from .memo import not_kept, serialize, unserialize
from .ports import Earlier, Journal, Past, Record
from .retry import shortened
from .run import Outcome, Run
from .states import (
    CANCELLED,
    COMPLETED,
    FAILED,
    PAUSED,
    RESUME,
    RUNNING,
    SCHEDULED,
    SKIPPED,
    TERMINAL,
    Entry,
    StateType,
    transition,
)
from .waking import Reply

T = TypeVar("T")

Told: TypeAlias = Callable[[Reply[Any]], Awaitable[Any]]
"""How somebody waits for what the journal answers: in the loop, or holding the thread."""

FAILURE = "failure"
"""The serializer of a recorded failure."""


FOR_EVER = 1e10
"""Seconds beyond which a sleep does not end: more than 300 years."""


# --- identity --------------------------------------------------------------------------------------------------


def take_step(run: Run) -> None:
    """Give a new run its place in the durable flow that it is made in."""
    parent = run.parent
    if parent is not None and parent.step is not None:
        run.past = parent.past
        run.inputs = inputs_digest(run)
        run.step = next_step(parent, run.definition.key, run.definition.step_key(run) or run.inputs)
        past = run.past
        if past and run.step not in past.recorded.get(parent.step, ()) and run.step not in past.unfinished:
            past.strangers.setdefault(parent.step, _call(run))


def next_step(parent: Run, key: str, inputs: str) -> str:
    """The identity of the next call of `key` with these inputs inside a durable run."""
    assert parent.step is not None
    root, _, where = parent.step.partition("/")
    if parent.steps is None:
        parent.steps = {}
    call = digest(where.encode(), key.encode(), inputs.encode())
    parent.steps[call] = occurrence = parent.steps.get(call, 0) + 1
    step = f"{root}/{digest(call.encode(), str(occurrence).encode())}"
    if parent.past is not None:
        parent.past.asked.add(step)
    return step


def inputs_digest(run: Run) -> str:
    """A digest of the arguments: a future counts as the step it stands for, what has no canonical form as its type."""

    def stand_in(value: Any) -> Any:
        return [value.run.step or value.run.id, "future"] if isinstance(value, Future) else repr(value)

    parts = []
    for name, value in sorted(run.definition.signature.bind(run.args, run.kwargs).items()):
        try:
            plain = canonical(resolve(value, stand_in))
        except ResultNotSerializable:
            plain = f"{type(value).__module__}.{type(value).__qualname__}".encode()
        parts += [name.encode(), plain]
    return digest(*parts)


def _call(run: Run) -> str:
    """How messages speak of a step."""
    return f"{run.kind} {run.definition.name!r}"


# --- records ---------------------------------------------------------------------------------------------------


async def replay(run: Run) -> Outcome | None:
    """The recorded outcome of the step, or `None` for one that is to run: on from where it was broken off."""
    past, parent = run.past, run.parent
    assert past is not None
    assert parent is not None
    assert parent.step is not None
    assert run.step is not None
    recorded = past.recorded.get(parent.step, {})
    if run.stands_anew and recorded.pop(run.step, None) is not None:
        run.core.journal.discard(f"step:{run.step}")
    if run.step in recorded:
        outcome = await _handed_back(run, recorded.pop(run.step), past)
        if outcome is not None:
            return outcome
        run.core.journal.discard(f"step:{run.step}")  # should this process die, too, it must not count again
    earlier = past.unfinished.pop(run.step, None)
    if earlier is not None and (earlier.history[-1][0], SCHEDULED) in RESUME:
        _take_over(run, earlier)
        go_on(run, earlier.expected_start_at)
    return None


def _take_over(run: Run, earlier: Earlier) -> None:
    """Go on as a run that was broken off."""
    run.id, run.history = earlier.run_id, earlier.history
    run.attempts = sum(kind is RUNNING and before is not PAUSED for before, kind in _steps_of(run.history))
    transition(run, SCHEDULED, "Resuming")


async def _handed_back(run: Run, record: Record, past: Past) -> Outcome | None:
    about = record.about or {}
    if record.serializer == FAILURE and past.retries_failures:
        return None
    if past.on_mismatch != "accept":
        changed = [
            what
            for what, now in (("code", run.definition.source), ("inputs", run.inputs))
            if about.get(what, now) != now
        ]
        if changed and past.on_mismatch == "raise":
            raise StepMismatch(
                run.definition.name,
                f"{_call(run)} was recorded (run {record.run_id}) with other {' and '.join(changed)} than now",
            )
        if changed:
            return None
    assert run.step is not None
    outcome = recorded_outcome(run, await whole(record, run.step, run.core.journal, run.told))
    run.handed_back = True
    if run.transaction is not None:
        await run.transaction.bring_back(run)
    if about.get("forked"):
        return outcome
    run.id = record.run_id
    if about.get("rowless"):
        return outcome
    earlier = past.unfinished.pop(run.step or "", None)
    if earlier is not None and earlier.run_id == run.id and earlier.history[-1][0] is not outcome.type:
        # The process died when the outcome was on disk, and before the end of the run was.
        _take_over(run, earlier)
    else:
        run.history = [(outcome.type, outcome.name, outcome.message, record.kept_at)]
        run.recorded = True  # its row is in the journal, from when it ran
    return outcome


def stands_anew(upstreams: Sequence[Run]) -> bool:
    """Whether one of the runs that a step depends on is a step that has run anew."""
    return any(
        run.past is not None and run.is_step and not run.handed_back and run.type is not SKIPPED for run in upstreams
    )


async def whole(record: Record, step: str, journal: Journal, told: Told) -> Record:
    """The record of a step with its value, which a big one was read without."""
    if record.value is not None:
        return record
    loaded: Record | None = await told(journal.load(f"step:{step}"))
    return record if loaded is None else loaded


def recorded_outcome(run: Run, record: Record) -> Outcome:
    """The outcome that a record says."""
    if record.serializer == FAILURE:
        return decode_failure(record, run)
    about = record.about or {}
    value = unserialize(record, run.definition.serializer)
    return Outcome(COMPLETED, about.get("state", "Completed"), about.get("message", ""), value)


def go_on(run: Run, expected_start_at: int | None) -> None:
    """A run goes on from where it ended: a failed one begins anew, an attempt that was broken off does not count."""
    kinds = [kind for kind, *_ in run.history[:-1]]  # the last is Resuming
    run.attempts = counted = 0
    for before, kind in _steps_of(run.history[:-1]):
        if kind is RUNNING and before is not PAUSED:
            run.attempts += 1
            counted += 1
        elif kind is FAILED:
            counted = 0
        elif before in (RUNNING, PAUSED) and (kind in TERMINAL or (kind is SCHEDULED and before is PAUSED)):
            counted -= 1
    if kinds[-1] is PAUSED:
        counted -= 1  # it was suspended
    run.pardoned = run.attempts - counted
    if kinds[-1] is not FAILED and kinds[-2:-1] == [SCHEDULED]:
        run.expected_start_at = expected_start_at


def _steps_of(history: Sequence[Entry]) -> Iterable[tuple[StateType | None, StateType]]:
    """The types that a run went through, each with the one before."""
    return pairwise((None, *(kind for kind, *_ in history)))  # type: ignore[arg-type]


def agree(run: Run, past: Past, retries_failures: bool | None = None) -> None:
    """Settle what becomes of recorded failures, and whether the run has to take the recorded way, by how it ended."""
    ended = run.history[-2][0]  # before Resuming
    past.retries_failures = ended is FAILED if retries_failures is None else retries_failures
    past.is_whole = ended is not CANCELLED and _takes_the_same_way(past)


def _takes_the_same_way(past: Past) -> bool:
    """Whether a body that is handed what is recorded must do what it did: not if something may end otherwise now."""
    if any(earlier.history[-1][0] is CANCELLED for earlier in past.unfinished.values()):
        return False
    if not past.retries_failures:
        return True
    return not any(record.serializer == FAILURE for records in past.recorded.values() for record in records.values())


async def rest_of_delay(run: Run) -> None:
    """Wait for the rest of a retry's delay that a crash interrupted."""
    assert run.expected_start_at is not None
    left = (run.expected_start_at - run.core.clock.now()) / 1e6
    if left > 0:
        transition(run, SCHEDULED, "AwaitingRetry", f"The next attempt is in {left:g} s.")
        if run.on_the_spot:
            run.core.clock.block(left)
        else:
            await anyio.sleep(left)


async def record_step(run: Run, outcome: Outcome) -> Outcome:
    """See a step's outcome on disk before anybody is given it; a result that can't be kept fails the run."""
    if run.ended or run.handed_back or outcome.type not in (COMPLETED, FAILED):
        return outcome
    if outcome.type is COMPLETED and (missed := _missed(run)):
        outcome = not_kept(run, StepMismatch(run.definition.name, missed))
    if not run.is_step or isinstance(outcome.data, StepMismatch):
        return outcome
    core = run.core
    try:
        serializer = run.definition.serializer if outcome.type is COMPLETED else FAILURE
        value = serialize(outcome.data, serializer) if outcome.type is COMPLETED else encode_failure(outcome)
        record = Record(value, serializer, run.id, core.clock.now(), None, _about(run, outcome))
        core.journal.keep(f"step:{run.step}", record)
        await run.told(core.journal.commit())
    except (ResultNotSerializable, JournalError) as error:
        return not_kept(run, error)
    return outcome


def _about(run: Run, outcome: Outcome) -> dict[str, Any]:
    assert run.parent is not None
    assert run.parent.step is not None
    parent = run.parent.step.partition("/")[2]
    about: dict[str, Any] = {
        "parent": parent,
        "call": _call(run),
        "inputs": run.inputs,
        "code": run.definition.source,
    }
    if (outcome.name, outcome.message) != ("Completed", ""):
        about |= {"state": outcome.name, "message": outcome.message}
    if run.transaction is not None and run.kind == "task" and outcome.type is COMPLETED and outcome.name != "Cached":
        about |= {"task": run.definition.key, "transactions": run.transaction.path}
    return about


def _missed(run: Run) -> str:
    """In words, how the body of a run took another way than the recorded one; empty when it did not."""
    past = run.past
    if past is None or past.on_mismatch != "raise" or not past.is_whole or run.step is None:
        return ""
    left = [step for step in past.recorded.get(run.step, {}) if step not in past.asked]
    if not left:
        return ""
    about = past.recorded[run.step][left[0]].about or {}
    instead = past.strangers.get(run.step)
    return (
        f"{about.get('call', 'a step')} is recorded in {_call(run)}, which did not call it this time"
        f" ({len(left)} such calls){f', but called {instead}' if instead else ''}"
    )


# --- the outermost run -----------------------------------------------------------------------------------------


def begin_durable(run: Run) -> None:
    """Make the run the root of a durable tree, with what it takes to run it again, to be kept when its life begins.

    Raises `ResultNotSerializable` for parameters that can't be written down.
    """
    run.step = f"{run.id}/"
    value = serialize([run.definition.key, list(run.args), dict(run.kwargs)], "msgpack")
    run.start = Record(value, "msgpack", run.id, run.core.clock.now())


async def look_back(run: Run) -> None:
    """Before another attempt of a durable run: read what the earlier ones recorded."""
    assert run.step is not None
    journal = run.core.journal
    run.steps = None
    await run.told(journal.commit())
    before = run.past
    run.past = await run.told(journal.past(run.step.partition("/")[0]))
    if before is not None:
        run.past.on_mismatch = before.on_mismatch


async def once(run: Run, key: str, inputs: str, call: str, make: Callable[[], Awaitable[T]]) -> T:
    """What `make` gives, made once in a durable run: it is on disk before it counts, and handed back later on."""
    if run.step is None:
        return await make()
    journal = run.core.journal
    step = next_step(run, key, inputs)
    if run.past is not None and step in run.past.recorded.get(run.step, ()):
        record = await journal.load(f"step:{step}")
        if record is not None:
            known: T = unserialize(record)
            return known
    value = await make()
    about = {"parent": run.step.partition("/")[2], "call": call}
    record = Record(serialize(value, "msgpack"), "msgpack", run.core.new_id(), run.core.clock.now(), None, about)
    journal.keep(f"step:{step}", record)
    await journal.commit()
    return value


# --- sleeping --------------------------------------------------------------------------------------------------


async def sleep(seconds: float) -> None:
    """Sleep that many seconds. In a durable flow, one that is resumed sleeps only for the rest.

    Raises `InvalidOption` for what is no number of seconds.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
        raise InvalidOption("seconds", seconds, "a number of seconds, 0 or more")
    run = CURRENT.get()
    if run is None or run.step is None:
        await anyio.sleep(shortened(seconds))
        return
    clock = run.core.clock

    async def end() -> int:
        return clock.now() + int(min(seconds, FOR_EVER) * 1e6)

    until = await once(run, "undertow.sleep", repr(seconds), f"sleep({seconds:g})", end)
    await anyio.sleep(math.inf if seconds > FOR_EVER else shortened(max(0.0, (until - clock.now()) / 1e6)))


async def sleep_until(when: datetime) -> None:
    """Sleep until a moment, given with its time zone; at once when it has passed.

    Raises `InvalidOption` for a datetime without a zone.
    """
    if not isinstance(when, datetime) or when.tzinfo is None:
        raise InvalidOption("when", when, "a datetime with a time zone, such as datetime.now(UTC) + timedelta(hours=1)")
    run = CURRENT.get()
    now = run.core.clock.now() / 1e6 if run is not None else datetime.now(when.tzinfo).timestamp()
    await anyio.sleep(shortened(max(0.0, when.timestamp() - now)))
