"""The life of a run that a schedule fired: its turn among the runs of earlier fires, and being Late.

A run that has not begun `late_after` seconds after its nominal time makes one transition to Late, with the reason.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import anyio
import attrs

from .core import Core
from .errors import RunEnded, RunSkipped, RunUnknown
from .futures import Future
from .pipeline import finish, interrupted, member
from .plans import Overlap
from .run import Outcome, Run
from .signals import ask
from .states import CANCELLED, EPOCH, PENDING, SCHEDULED, SKIPPED, transition

FOREIGN_SECONDS = 1.0
"""How often to look whether a run in another process has ended."""


@attrs.frozen
class Fire:
    """Why a run is there: a schedule, and the time that it is for, in microseconds."""

    schedule: str
    nominal: int


def micros(when: datetime) -> int:
    """A moment as the journal writes it: microseconds since 1970."""
    return (when - EPOCH) // timedelta(microseconds=1)


def moment(at: int) -> datetime:
    """A moment of the journal's, in UTC."""
    return EPOCH + timedelta(microseconds=at)


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
                await run.core.journal.commit()
                skipped = await _turn(run, overlap)
            if not skipped:
                await member(run, future)
            group.cancel_scope.cancel()
    except BaseException as error:
        if future.done:
            raise
        outcome = interrupted(run, error)
        await finish(run, outcome)
        future.settle(outcome)
        if outcome.type is not CANCELLED:
            raise
        return
    if skipped:
        outcome = Outcome(SKIPPED, "Skipped", skipped, RunSkipped(run.name, skipped))
        await finish(run, outcome)
        future.settle(outcome)


def _patience(run: Run) -> float:
    """Seconds until the run is late."""
    assert run.fire is not None
    return run.core.late_after - (run.core.clock.now() - run.fire.nominal) / 1e6


async def _late_after(patience: float, run: Run) -> None:
    await anyio.sleep(patience)
    if run.type in (SCHEDULED, PENDING) and not run.attempts:
        _be_late(run, "its turn did not come")


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
            await _cancel(run.core, run_id, f"overlap: run {run.id} of the same schedule takes its place")
    while going:
        await _ended(run.core, going[0][0])
        going = await _going(run)
    return ""


async def _going(run: Run) -> list[tuple[str, bool]]:
    """Runs of earlier fires of the same schedule that have not ended, in any process."""
    assert run.fire is not None
    return await run.core.journal.timetable.going(run.fire.schedule, run.fire.nominal)


async def _cancel(core: Core, run_id: str, reason: str) -> None:
    future = core.background.get(run_id)
    if future is not None:
        future.cancel(reason)
        return
    try:
        await ask(core, f"cancel:{run_id}", run_id, reason)
    except (RunUnknown, RunEnded):
        return  # it has ended meanwhile, as it was to


async def _ended(core: Core, run_id: str) -> None:
    """Return when the run may have ended."""
    future = core.background.get(run_id)
    if future is None:
        await anyio.sleep(FOREIGN_SECONDS)
    else:
        await future.settled()
