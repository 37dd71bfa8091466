"""The life of a run that a schedule fired: its turn among the runs of earlier fires, and being Late.

A run that has not begun `late_after` seconds after it was due makes one transition to Late, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import attrs

from .core import logger
from .errors import JournalClosed, JournalError, RunSkipped
from .futures import Future
from .pipeline import finish, interrupted, member
from .plans import Overlap
from .run import Outcome, Run
from .signals import cancel_run
from .states import PENDING, SCHEDULED, SKIPPED, transition
from .waking import Reply

T = TypeVar("T")

LOOK_SECONDS, FOREIGN_SECONDS = 0.05, 1.0
"""How often to look, first and later on, whether a run has ended that nobody lives in this process."""

TROUBLE_SECONDS = 5.0
"""How long to wait when the journal is in trouble."""


@attrs.frozen
class Fire:
    """Why a run is there: a schedule, and the time that it is for, in microseconds."""

    schedule: str
    nominal: int
    due: int
    """When it was to begin: later than that with jitter, or when a person asked for it."""


async def fired(run: Run, future: Future[Any], *, overlap: Overlap, skipped: str, cause: str) -> None:
    """Live a fired run's life, as a member of a lasting host; with `skipped` it is only recorded, for that reason."""
    try:
        async with anyio.create_task_group() as group:
            if not skipped:
                if (patience := _patience(run)) < 0:
                    _be_late(run, cause)
                else:
                    group.start_soon(_late_after, patience, run, name=f"late:{run.name}")
                # On disk before it begins: a fire that was taken, and has no run there, is fired again.
                await _answered(run, run.core.journal.commit)
                skipped = await _turn(run, overlap)
            if not skipped:
                await member(run, future)
            group.cancel_scope.cancel()
    except GeneratorExit:
        raise
    except BaseException as error:
        if not future.done:
            outcome = interrupted(run, error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error)
            await finish(run, outcome)
            future.settle(outcome)
        return  # in a lasting host, it is nobody else's matter
    if skipped:
        outcome = Outcome(SKIPPED, "Skipped", skipped, RunSkipped(run.name, skipped))
        await finish(run, outcome)
        future.settle(outcome)


def _patience(run: Run) -> float:
    """Seconds until the run is late."""
    assert run.fire is not None
    return run.core.late_after - (run.core.clock.now() - run.fire.due) / 1e6


async def _late_after(patience: float, run: Run) -> None:
    await anyio.sleep(patience)
    if run.type in (SCHEDULED, PENDING) and not run.attempts:
        _be_late(run, "its turn did not come")


async def _answered(run: Run, ask: Callable[[], Reply[T]]) -> T:
    """What the journal answers, however long it is in trouble: a fire that was taken is not to be lost for that."""
    while True:
        try:
            return await ask()
        except JournalClosed:
            raise
        except JournalError as error:
            message = f"Waits for the journal. {error}"
            if run.history[-1][1:3] not in (("Scheduled", message), ("Late", message)):
                logger.error("Run %r of schedule: %s", run.name, message)
                transition(run, SCHEDULED, "Scheduled", message)
            await anyio.sleep(TROUBLE_SECONDS)


def _be_late(run: Run, cause: str) -> None:
    """Note that the run has not begun by now, and why: what it waits for, or else what held up its fire."""
    transition(run, SCHEDULED, "Late", run.history[-1][2] or f"{cause[0].upper()}{cause[1:]}.")


# --- overlap ---------------------------------------------------------------------------------------------------


async def _turn(run: Run, overlap: Overlap) -> str:
    """Wait until the run may begin; a text says why it may not at all."""
    if overlap == "allow":
        return ""
    going = await _going(run)
    if not going:
        return ""
    ahead, _ = going[0]
    if overlap == "skip":
        return f"overlap: run {ahead} of the same schedule is still going."
    waiting = [run_id for run_id, begun in going if not begun]
    if overlap == "buffer_one" and waiting:
        return f"overlap: run {waiting[0]} of the same schedule already waits for run {ahead}."
    transition(run, SCHEDULED, "Scheduled", f"Overlap: waits for run {ahead} of the same schedule.")
    if overlap == "cancel_running":
        for run_id, _ in going:
            await cancel_run(run.core, run_id, f"overlap: run {run.id} of the same schedule takes its place")
        going = await _going(run)
    patience = LOOK_SECONDS
    while going:
        # The last of those ahead: it waits for the others itself, so of many that wait each is woken once.
        future = run.core.background.get(going[-1][0])
        if future is None or future.done:  # another process's, or suspended; or it has ended since
            await anyio.sleep(patience)
            patience = min(2 * patience, FOREIGN_SECONDS)
        else:
            await future.settled()
        going = await _going(run)
    return ""


async def _going(run: Run) -> list[tuple[str, bool]]:
    """Runs of the same schedule that have not ended, in any process: of earlier fires, and of any that has begun."""
    fire, timetable = run.fire, run.core.journal.timetable
    assert fire is not None
    return await _answered(run, lambda: timetable.going(fire.schedule, fire.nominal, run.id))
