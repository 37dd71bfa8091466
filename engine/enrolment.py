"""Runs whose id the caller chose: one execution for each id, in all processes that share the journal.

The first to write the id into the journal runs; whoever comes later with the same call takes part in that run, or is
refused, or restarts it when it has failed.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import anyio

from .caching import digest
from .core import Core
from .durable import agree, go_on, inputs_digest
from .errors import JournalError, ResultUnreadable, RunIdConflict
from .futures import Future
from .memo import unserialize
from .options import check_id, check_one_of
from .pipeline import interrupted, member
from .ports import Earlier
from .run import Outcome, Run
from .states import COMPLETED, CRASHED, FAILED, RESUME, SCHEDULED, TERMINAL, TRANSITIONS, State, transition

OnConflict: TypeAlias = Literal["attach", "reject", "restart_if_failed"]

POLL_SECONDS = 0.05
"""How often to look whether a run in another process has ended."""


def check_choice(run_id: object, on_conflict: object) -> None:
    """Raise `InvalidOption` for what can't be a run's id, or no way to deal with a conflict."""
    if run_id is not None:
        check_id("run_id", run_id)
    check_one_of("on_conflict", on_conflict, get_args(OnConflict))


def call_digest(run: Run) -> str:
    """What is called, with which arguments: two calls with one id must agree in this."""
    return digest(run.definition.key.encode(), inputs_digest(run).encode())


def taking_part(core: Core, run: Run, on_conflict: OnConflict) -> Future[Any] | None:
    """The future of the run of that id in this process, if there is one to take part in. Raises `RunIdConflict`."""
    future = core.background.get(run.id)
    if future is None:
        return None
    _check_conflict(run, future.run.call, on_conflict)
    failed = future.done and future.outcome().type not in (COMPLETED, SCHEDULED)
    return None if failed and on_conflict == "restart_if_failed" else future


def _check_conflict(run: Run, call: str | None, on_conflict: OnConflict) -> None:
    if call != run.call:
        raise RunIdConflict(run.id, "it is of another function, or was given other arguments")
    if on_conflict == "reject":
        raise RunIdConflict(run.id, "on_conflict='reject' was asked for")


async def enrolled(run: Run, future: Future[Any], on_conflict: OnConflict) -> None:
    """The life of a member whose id was chosen: its own, or that of the run that was there first."""
    journal = run.core.journal
    earlier: Earlier | None = None
    try:
        with anyio.CancelScope(shield=True):  # once it stands in the journal it is lived, if only to be cancelled
            earlier = await journal.enroll(run)
        if earlier is not None:
            _check_conflict(run, earlier.call, on_conflict)
            while not await _restarted(run, earlier, on_conflict):
                newest = await journal.find(run.id) or earlier
                if newest.history[-1] == earlier.history[-1]:
                    if earlier.history[-1][0] in TERMINAL:
                        future.settle(await _outcome(run, earlier))
                        return
                    await anyio.sleep(POLL_SECONDS)
                earlier = newest
    except Exception as error:
        future.settle(Outcome(FAILED, "Failed", str(error), error))
        return
    except BaseException as error:
        future.settle(interrupted(run, error))
        raise
    await member(run, future)


async def _restarted(run: Run, earlier: Earlier, on_conflict: OnConflict) -> bool:
    """Take a run that failed, to run it again, where that is wanted."""
    source = earlier.history[-1][0]
    if on_conflict != "restart_if_failed" or (source, SCHEDULED) not in RESUME:
        return False
    entry = (SCHEDULED, "Resuming", "", run.core.clock.now())
    with anyio.CancelScope(shield=True):  # whoever takes a run has to run it, if only to be cancelled in it
        taken = await run.core.journal.claim(run.id, [source], entry)
        if taken is None:
            return False
        run.history = taken.history
        go_on(run, taken.expected_start_at)
        if run.step is not None:
            try:
                run.past = await run.core.journal.past(run.id)
            except JournalError:
                put_back(run)
                raise
            run.past.on_mismatch = run.definition.on_mismatch
            agree(run, run.past)
    return True


def put_back(run: Run) -> None:
    """A run that was taken, and can't be run again now, ends as it had: it is there to be taken another time."""
    kind, name, message, _ = run.history[-2]  # before Resuming
    if (SCHEDULED, kind) in TRANSITIONS:
        transition(run, kind, name, message)
    else:  # it was suspended
        transition(run, CRASHED, "Crashed", "The journal could not be read when it was to go on.")


async def _outcome(run: Run, earlier: Earlier) -> Outcome:
    """How the run ended that was there first."""
    kind, name, message, _ = earlier.history[-1]
    run.history = earlier.history
    run.recorded = True  # its story is the other's to tell
    if kind is not COMPLETED:
        return Outcome(kind, name, message, State(kind, name, message, None, 0, run.id, run.name).error())
    record = await run.core.journal.load(f"run:{run.id}")
    if record is None:
        raise ResultUnreadable(f"the result of run {run.id} was not kept")
    return Outcome(kind, name, message, unserialize(record, run.definition.serializer))
