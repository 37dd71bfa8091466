"""The life of a run, top to bottom, on one value.

    bind arguments -> wait for upstreams -> trigger rule -> recall -> take slots -> attempt -> outcome -> remember
    -> transition -> release

Binding happens at the call (`definition.py`); the attempt's body is the definition's own (`task.py`, `flow.py`); all
else is here, once, for tasks and flows, for every submission form, on every backend. An outcome is returned; only
what is no `Exception` (cancellation, an interrupt) leaves `execute` by being raised, after it was recorded.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import anyio

from .arguments import Upstream, resolve, state_of, value_of
from .context import CURRENT, TRANSACTION
from .core import logger
from .durable import look_back, record_step, replay, rest_of_delay, stands_anew
from .errors import (
    Fail,
    JournalError,
    RolledBack,
    RunCancelled,
    RunSkipped,
    RunTimedOut,
    Skip,
    UpstreamFailed,
    WouldBlock,
)
from .futures import Future
from .granting import HELD
from .holding import release_slots, take_slots
from .hooks import call_hooks
from .memo import keep_result, recall, remember
from .run import CLOSED, Outcome, Run
from .states import (
    CANCELLED,
    COMPLETED,
    CRASHED,
    FAILED,
    RUNNING,
    SCHEDULED,
    SKIPPED,
    TERMINAL,
    State,
    allowed,
    transition,
)
from .tracebacks import clear_frames, describe, format_error, note_origin
from .triggers import failed, met, name_of
from .waking import is_cancellation

T = TypeVar("T")


async def execute(run: Run, in_own_task: bool = False) -> Outcome:
    """Live the run's life and return how it ended."""
    if run.transaction is not None:
        run.transaction.entered(run)
    try:
        if in_own_task and anyio.current_effective_deadline() == -math.inf:
            # The body of what was cancelled before it began never starts. (Not left to a checkpoint: while the host's
            # own task is shielded, asyncio's scopes don't tell newer members that they are cancelled.)
            raise RunCancelled(run.name, run.cancel_reason or "its caller was cancelled")
        outcome = await foregone(run)
        if run.expected_start_at is not None:
            await rest_of_delay(run)
        while outcome is None:
            outcome = await attempt(run)
            if outcome.type is FAILED and (delay := await retry_delay(run, outcome)) is not None:
                await rest(run, outcome, delay)
                outcome = None
        outcome = await kept(run, outcome)
    except BaseException as error:
        outcome = interrupted(run, error)
        if isinstance(error, GeneratorExit):
            close(run, outcome)  # the coroutine is being thrown away: nothing can be awaited any more
        else:
            await finish(run, outcome)
        if isinstance(error, Exception):
            return outcome
        raise
    await finish(run, outcome)
    return outcome


async def member(run: Run, future: Future[Any]) -> None:
    """A submitted run's life, as a member of its host's task group."""
    TRANSACTION.set(run.transaction)
    HELD.set(())  # a block around `submit` holds its slots for itself: the member may well outlive it
    try:
        outcome = await execute(run, in_own_task=True)
    except GeneratorExit:
        raise
    except BaseException as error:
        outcome = interrupted(run, error)
        future.settle(outcome)
        # A cancelled member has nothing more to say. A crash is its flow's matter, and in a lasting host nobody's.
        if outcome.type is CANCELLED or future.home.lasting:
            return
        raise Interrupt(error) from None
    future.settle(outcome)


class Interrupt(BaseException):
    """Carries a KeyboardInterrupt or the like from a member to its flow: asyncio's loop would stop at the bare one."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


def drive(coroutine: Coroutine[Any, Any, T], name: str) -> T:
    """Run a coroutine that is not to wait for anything, on the spot.

    A sync task called on an event loop's thread lives so. If it does have to wait (for a slot, for a future), waiting
    would stop the very loop it waits for, so `WouldBlock` is raised in its place.
    """
    try:
        trap: Any = coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    while True:
        # On trio the caller's own task stands now where the coroutine waits: left there, it would be woken from there.
        abort = getattr(trap, "abort_func", None)
        if abort is not None:
            abort(lambda: None)
        # Whatever else it then waits for, a hook perhaps, is told the same, until it has come to its end.
        try:
            trap = coroutine.throw(WouldBlock(f"The call {name}(...)", f"await {name}.submit(...)"))
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]


# --- before the body -------------------------------------------------------------------------------------------


async def foregone(run: Run) -> Outcome | None:
    """The outcome of a run whose body need not, or must not, run; `None` when it is to run."""
    if run.start is not None:
        run.core.journal.keep(f"start:{run.id}", run.start)
        run.start = None
    if run.core.journal.crowded and not run.on_the_spot:
        await run.core.journal.room()
    outcome = await admit(run) if run.waits_on or run.definition.rule is not None else None
    if outcome is None and run.definition.validates:
        outcome = run.definition.refuse(run)
    if outcome is None and run.past is not None and run.is_step:
        outcome = await replay(run)
    if outcome is None:
        outcome = refused(run)
    if outcome is None and run.definition.caching is not None:
        outcome = await recall(run)
    return outcome


def refused(run: Run) -> Outcome | None:
    """The outcome of a run that would be new in a transaction which is being rolled back."""
    cause = None if run.transaction is None else run.transaction.doomed
    return None if cause is None else failure(run, RolledBack(cause))


async def admit(run: Run) -> Outcome | None:
    """Wait for the upstreams and ask the trigger rule; an outcome means that the body is not to run."""
    upstreams: list[tuple[Upstream, bool]] = list(run.waits_on)
    await _settled(run, [upstream for upstream, _ in upstreams if isinstance(upstream, Future) and not upstream.done])
    if run.past is not None:  # a step that went on as an earlier run has had that one's id since
        run.upstream_ids = [run_id for upstream, _ in upstreams if (run_id := upstream.run_id) is not None]
    rule = run.definition.rule
    if rule is None:
        for upstream, failure_allowed in upstreams:
            if state_of(upstream).type is not COMPLETED and not failure_allowed:
                return _upstream_failed(run, upstream)
    elif not met(rule, [state_of(upstream) for upstream, _ in upstreams]):
        ended = ", ".join(f"{_name(upstream)} {state_of(upstream).name}" for upstream, _ in upstreams)
        message = f"Trigger {name_of(rule)} not met: {ended or 'no upstreams'}"
        return Outcome(SKIPPED, "Skipped", message, RunSkipped(run.name, message))
    run.args = [resolve(value, value_of) for value in run.args]
    run.kwargs = {key: resolve(value, value_of) for key, value in run.kwargs.items()}
    for upstream, _ in upstreams:
        if isinstance(upstream, Future):
            upstream.taken()
    if run.past is not None:
        run.stands_anew = stands_anew([upstream.run for upstream, _ in upstreams if isinstance(upstream, Future)])
    run.waits_on = ()
    return None


async def _settled(run: Run, futures: Sequence[Future[Any]]) -> None:
    if not futures:
        return
    if run.past is None:
        run.core.journal.record(run)  # it is Pending for a while: that is worth a row of its own
    token = CURRENT.set(run)
    try:
        for future in futures:
            await future.settled()
    finally:
        CURRENT.reset(token)


def _name(upstream: Upstream) -> str:
    return upstream.run.name if isinstance(upstream, Future) else upstream.run_name or upstream.name


def _upstream_failed(run: Run, upstream: Upstream) -> Outcome:
    state = state_of(upstream)
    error = UpstreamFailed(run.name, _name(upstream), state.name, counts=failed(state))
    error.source = upstream if isinstance(upstream, Future) else None
    if isinstance(state.data, BaseException):
        error.__cause__ = state.data
    return Outcome(SKIPPED, "Skipped", f"Upstream {_name(upstream)!r} ended {state.name}.", error)


# --- one attempt -----------------------------------------------------------------------------------------------


async def attempt(run: Run) -> Outcome:
    """Take slots, run the body once within its time, give the slots back."""
    definition = run.definition
    if definition.limit_names or (run.tags and run.core.limits.buckets):
        await take_slots(run)
    try:
        await begin(run)
        if definition.timeout is None:
            return await definition.perform(run)
        return await _perform_in_time(run, definition.timeout)
    finally:
        if run.leases:
            release_slots(run)


async def begin(run: Run) -> None:
    """Enter Running."""
    run.attempts += 1
    run.expected_start_at = None
    if run.steps is not None:
        await look_back(run)
    if run.began is None:
        run.began = run.core.monotonic()
    if run.attempts == 1:
        transition(run, RUNNING, "Running")
    else:
        transition(run, RUNNING, "Retrying", f"Attempt {run.attempts}.")
    if run.definition.hooks:
        await call_hooks(run, RUNNING)


async def _perform_in_time(run: Run, seconds: float) -> Outcome:
    start = anyio.current_time()
    outcome: Outcome | None = None
    with anyio.move_on_after(seconds) as scope:
        outcome = await run.definition.perform(run)
    # A scope doesn't tell when a body that never awaited was late, so the clock is asked as well.
    if outcome is not None and not scope.cancelled_caught and anyio.current_time() - start < seconds:
        return outcome
    if outcome is None and run.tally is not None and run.tally.decided is not None:
        return run.tally.decided  # its time ran out while it waited for its children, who could change nothing
    error = RunTimedOut(run.kind, run.name, seconds)
    if run.straggler is not None:
        logger.warning("%s Its thread can't be stopped and still runs.", error)
    return failure(run, error, "TimedOut", str(error))


def returned(run: Run, value: Any) -> Outcome:
    """The outcome of a task's body that returned; a state made by hand is taken at its word."""
    if isinstance(value, State):
        name = value.name or value.type.capitalize()
        if not allowed(RUNNING, value.type) or value.type not in TERMINAL:
            return failure(run, Fail(f"A body can't end in a state of type {value.type}."))
        data = value.data if value.type is COMPLETED else value.error()
        return Outcome(value.type, name, value.message, data)
    return Outcome(COMPLETED, "Completed", "", value)


def failure(run: Run, error: Exception, name: str = "Failed", message: str = "") -> Outcome:
    """The outcome of a body that raised."""
    if isinstance(error, Skip):
        return Outcome(SKIPPED, "Skipped", str(error), RunSkipped(run.name, str(error)))
    run.error = format_error(error)
    note_origin(error, run)
    message = message or f"{run.kind.capitalize()} run raised {describe(error)}"
    return Outcome(FAILED, name, message, error, error.__traceback__)


def interrupted(run: Run, error: BaseException) -> Outcome:
    """The outcome of a run that was ended from outside: Cancelled by its host, or Crashed by anything else."""
    if isinstance(error, RunCancelled):
        return Outcome(CANCELLED, _cancelled_name(run.cancel_reason), str(error), error)
    if isinstance(error, Exception):
        return failure(run, error)
    crash = run.crash or error
    if run.crash is None and is_cancellation(error):
        reason = run.cancel_reason or "its caller was cancelled"
        name = _cancelled_name(reason)
        return Outcome(CANCELLED, name, f"Cancelled: {reason}.", RunCancelled(run.name, reason))
    run.error = format_error(crash)
    message = f"Crash detected! Execution was interrupted by {describe(crash)}"
    return Outcome(CRASHED, "Crashed", message, crash)


def _cancelled_name(reason: str) -> str:
    return "Interrupted" if reason == CLOSED else "Cancelled"


# --- between attempts ------------------------------------------------------------------------------------------


async def retry_delay(run: Run, outcome: Outcome) -> float | None:
    """Seconds until the next attempt; `None` when there is none."""
    policy, core = run.definition.retry, run.core
    elapsed = core.monotonic() - run.began if run.began is not None else 0.0
    attempts = run.attempts - run.pardoned
    if not policy.allows(attempts, elapsed, outcome.data):
        return None
    if policy.condition is not None and not await _condition_met(run, outcome):
        return None
    delay = policy.delay(attempts, outcome.data, core.random)
    return delay if elapsed + delay <= policy.max_elapsed else None


async def _condition_met(run: Run, outcome: Outcome) -> bool:
    condition = run.definition.retry.condition
    assert condition is not None
    try:
        answer = condition(run.definition, run.view(), outcome.state(run))
        return bool(await answer if inspect.isawaitable(answer) else answer)
    except Exception:
        logger.exception("retry_condition_fn of %s run %r raised: no retry.", run.kind, run.name)
        return False


async def rest(run: Run, outcome: Outcome, delay: float) -> None:
    """Wait for the next attempt, holding no slot and no thread."""
    run.last_error = outcome.data if isinstance(outcome.data, BaseException) else None
    if run.last_error is not None:
        clear_frames(run.last_error)
    if delay <= 0:
        return
    run.expected_start_at = run.core.clock.now() + int(delay * 1e6)
    transition(run, SCHEDULED, "AwaitingRetry", f"Attempt {run.attempts} failed; the next is in {delay:g} s.")
    if run.step is not None:
        await _commit(run)  # so that after a crash it waits only for the rest
    if run.on_the_spot:
        run.core.clock.block(delay)
    else:
        await anyio.sleep(delay)


# --- after the last attempt ------------------------------------------------------------------------------------


async def kept(run: Run, outcome: Outcome) -> Outcome:
    """See what others may ask for later kept: a cached result, a run's own, a step's outcome; else it has failed."""
    if run.flight is not None:
        outcome = remember(run, outcome)
    if run.definition.persists or run.call is not None:
        outcome = keep_result(run, outcome)
    return outcome if run.step is None else await record_step(run, outcome)


async def finish(run: Run, outcome: Outcome) -> None:
    """Enter the terminal state, tell the hooks, and see it on disk if this is an outermost call."""
    close(run, outcome)
    if run.definition.hooks and not run.handed_back:
        await call_hooks(run, outcome.type, outcome.data)
    if run.parent is None:
        await _commit(run)


def close(run: Run, outcome: Outcome) -> None:
    """Enter the terminal state, count it, and release what the run held."""
    if run.flight is not None:
        run.flight.land()
    if not run.ended:
        transition(run, outcome.type, outcome.name, outcome.message)
    run.args = run.kwargs = ()  # type: ignore[assignment]
    run.waits_on = ()
    run.last_error = None
    if run.transaction is not None:
        run.transaction.left(run, outcome)
    parent = run.parent
    if parent is not None and parent.tally is not None:
        _count(parent, run, outcome)
    if outcome.type is not COMPLETED:
        _report(run, outcome)


def _count(flow: Run, run: Run, outcome: Outcome) -> None:
    tally = flow.tally
    assert tally is not None
    kind = outcome.type
    if kind is COMPLETED:
        tally.completed += 1
        return
    error = outcome.data if isinstance(outcome.data, BaseException) else None
    if kind is SKIPPED and not (isinstance(error, UpstreamFailed) and error.counts):
        tally.skipped += 1
        return
    if kind is CANCELLED:
        tally.cancelled += 1
    elif kind is CRASHED:
        tally.crashed += 1
    else:
        tally.failed += 1
    if tally.first_failure is None and kind is not SKIPPED:
        tally.first_failure = error
    if flow.definition.cancels_siblings and kind in (FAILED, CRASHED) and flow.host is not None:
        flow.host.cancel_members(f"{run.name!r} ended {outcome.name}")


def _report(run: Run, outcome: Outcome) -> None:
    """Say on the log what did not complete, and let go of what its frames hold."""
    if outcome.type in (FAILED, CRASHED):
        logger.error("%s run %r ended %s: %s", run.kind.capitalize(), run.name, outcome.name, outcome.message)
    if isinstance(outcome.data, Exception):
        clear_frames(outcome.data)


async def _commit(run: Run) -> None:
    """An outermost call returns when all its records are on disk. A journal that fails never takes the result along."""
    journal = run.core.journal
    try:
        reply = journal.commit()
        if run.on_the_spot:
            reply.wait()
            return
        with anyio.move_on_after(run.core.finish_seconds, shield=True) as scope:
            await reply
        if scope.cancelled_caught:
            logger.error(
                "The records of %s run %r are not on disk yet: the journal does not answer.", run.kind, run.name
            )
    except JournalError as error:
        logger.error("The records of %s run %r are not on disk. %s", run.kind, run.name, error)
