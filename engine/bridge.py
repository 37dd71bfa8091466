"""The sync face: a plain thread has a run lived in an event loop, and lends itself for the bodies of sync functions.

There is no second engine here. The run is a member of a host like any other; what is special is its runner, which
sends the body back to the thread that asked for it, and that the thread waits for the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any, TypeAlias

import anyio

from .context import CURRENT
from .futures import Future
from .host import Host
from .pipeline import execute, interrupted
from .run import Outcome, Run
from .states import CRASHED
from .waking import Waker, standing_aside

Job: TypeAlias = Callable[[], None]
Mailbox: TypeAlias = "SimpleQueue[Job | None]"


class CallerThread:
    """Runs a body in the thread that waits at the other end of the mailbox."""

    __slots__ = ("_mailbox",)

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox

    async def run(self, run: Run, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], /) -> Any:
        done = Waker()
        answer: list[tuple[Any, BaseException | None]] = []

        def job() -> None:
            token = CURRENT.set(run)
            try:
                answer.append((fn(*args, **kwargs), None))
            except BaseException as error:
                answer.append((None, error))
            finally:
                CURRENT.reset(token)
                done.wake()

        self._mailbox.put(job)
        try:
            await done.wait()
        except BaseException:
            # A thread can't be stopped from outside: cancellation waits until the body ends by itself.
            run.told_to_stop = True
            with anyio.CancelScope(shield=True):
                await done.wait()
            raise
        value, error = answer.pop()
        if error is not None:
            try:
                raise error
            finally:
                del error
        return value


class CallingThread:
    """Runs a body where it is called, in a thread without an event loop."""

    async def run(self, run: Run, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], /) -> Any:
        return fn(*args, **kwargs)


HERE = CallingThread()


def never_waits(run: Run) -> bool:
    """Whether nothing in the run's life can have to wait for an event loop: a plain task, called in a flow's thread."""
    definition, parent = run.definition, run.parent
    return (
        definition.kind == "task"
        and not definition.is_async
        and parent is not None
        and type(parent.runner) in (CallerThread, CallingThread)
        and not parent.told_to_stop
        and definition.timeout is None
        and definition.caching is None
        and definition.rule is None
        and definition.retry.retries == 0
        and run.step is None
        and not run.waits_on
        and not definition.hooks
        and not definition.limit_names
        and not (run.tags and run.core.limits.buckets)
        and not run.core.journal.crowded
    )


async def call_on_the_spot(run: Run) -> Outcome:
    """Live such a run in the calling thread: no loop is gone through, and so no thread is waited for."""
    run.runner, run.on_the_spot = HERE, True
    return await execute(run)


async def _bridged(run: Run, future: Future[Any]) -> None:
    """A member whose thread waits for it: an interrupt in the body is raised there, not in the host."""
    try:
        outcome = await execute(run, in_own_task=True)
    except BaseException as error:
        outcome = interrupted(run, error)
        future.settle(outcome)
        if outcome.type is not CRASHED:
            raise
        return
    future.settle(outcome)


def call_from_thread(run: Run, host: Host) -> Outcome:
    """Live a run in the loop of `host` while the calling thread waits, and executes the body if it is a sync one.

    An interrupt that reaches the waiting thread (Ctrl-C) cancels the run, which ends Crashed, and is raised again.
    """
    mailbox: Mailbox = SimpleQueue()
    run.host = host
    if run.runner is None and run.definition.timeout is None:
        run.runner = CallerThread(mailbox)
    future: Future[Any] = Future(run, host)
    future.on_done(lambda: mailbox.put(None))
    try:
        host.spawn(_bridged, run, future)
        _work_until_done(run, future, mailbox)
    except BaseException as interrupt:
        run.crash = run.crash or interrupt
        raise
    outcome = future.outcome()
    if isinstance(outcome.data, BaseException) and not isinstance(outcome.data, Exception):
        raise outcome.data
    return outcome


def _work_until_done(run: Run, future: Future[Any], mailbox: Mailbox) -> None:
    """Execute what comes in the mailbox, until the run has ended; an interrupt cancels it first."""
    while True:
        try:
            with standing_aside():
                job = mailbox.get()
        except BaseException as interrupt:
            if run.crash is not None:
                raise  # a second interrupt: don't wait for the cleanup
            run.crash = interrupt
            future.cancel("the waiting thread was interrupted")
            continue
        if job is None:
            return
        job()
