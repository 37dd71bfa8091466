"""What a run holds of limits, for the time of one attempt: slots of its own, and a share of those around it."""

from __future__ import annotations

from collections.abc import Iterable

from .errors import RunCancelled
from .granting import HELD, Lease
from .run import Run
from .states import SCHEDULED, transition


async def take_slots(run: Run) -> None:
    """Take a slot of every limit that concerns the run, for the time of one attempt.

    A limit that is held around the call, by an ancestor or a block, is not taken again but shared, so that a run can't
    wait for its own caller.
    """
    limits = run.core.limits
    wanted = dict.fromkeys((*run.definition.limit_names, *limits.known(sorted(run.tags))))
    if not wanted:
        return
    around = [*HELD.get(), *(lease for ancestor in run.ancestors()[1:] for lease in ancestor.leases)]
    shared, rest = _join(wanted, around)
    try:
        own = [await _acquire(run, rest, bool(around))] if rest else []
    except BaseException:
        for lease in shared:
            lease.release()
        raise
    run.leases = (*own, *shared)


def _join(names: Iterable[str], around: Iterable[Lease]) -> tuple[list[Lease], tuple[str, ...]]:
    """Share what the runs around a request hold; the rest of the names have to be acquired.

    A rate is never shared: every request counts, and none can wait for its own caller.
    """
    wanted = dict.fromkeys(names)
    shared: list[Lease] = []
    for lease in around:
        covered = {bucket.name for bucket in lease.buckets if not bucket.limit.rate} & wanted.keys()
        if covered and lease.share():
            shared.append(lease)
            wanted = {name: None for name in wanted if name not in covered}
    return shared, tuple(wanted)


async def _acquire(run: Run, names: tuple[str, ...], inside: bool) -> Lease:
    limits = run.core.limits
    lease = limits.try_acquire(names, inside=inside)
    if lease is not None:
        return lease
    own = run.definition.own_limit_name

    def waits() -> None:
        if run.definition.cancels_new and own in names and not limits.has_room([own]):
            raise RunCancelled(run.name, f"no slot of {own!r} was free")
        transition(run, SCHEDULED, "AwaitingConcurrencySlot", f"No slot free of {', '.join(map(repr, names))}.")

    return await limits.acquire(names, priority=run.definition.priority, inside=inside, waiting=waits)


def release_slots(run: Run) -> None:
    """Give the slots back; those of a thread that still runs, when it ends."""
    for lease in run.leases:
        if run.straggler is None:
            lease.release()
        else:
            run.straggler.when_done(lease.release)
    run.leases = ()
    run.straggler = None
