"""Running recorded runs again: on from where they ended, from a step of one's choice, or by themselves after a crash.

Whoever wants a run takes it in the journal first, by one statement that compares and sets; so of several processes one
runs it. What its steps recorded is then handed back by `durable.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, get_args

import anyio

from .core import Core, logger
from .durable import agree, go_on
from .enrolment import check_choice, put_back
from .errors import JournalError, RunIdConflict, RunNotResumable
from .finishing import undisturbed
from .firing import Fire
from .memo import unserialize
from .options import check_one_of
from .ports import OnMismatch, Past
from .registry import find_definition
from .run import Run
from .states import CANCELLED, CRASHED, FAILED, PAUSED, SCHEDULED, Entry, StateType

BROKEN = (FAILED, CRASHED, CANCELLED)

RECOVERY_SECONDS = 5.0
"""How often to look for runs that were broken off."""


async def resumed(
    core: Core,
    run_id: str,
    types: Sequence[StateType] = BROKEN,
    *,
    on_mismatch: OnMismatch | None = None,
    retries_failures: bool | None = None,
) -> Run:
    """Take a durable run that ended in one of these types, ready to go on. Raises `RunNotResumable`.

    Failures that are recorded in it are tried again if the run itself has failed, unless `retries_failures` says
    otherwise: after a crash, what it went on with is what it had been given.
    """
    _check(on_mismatch)
    definition, args, kwargs = await _started(core, run_id)
    await core.journal.commit()
    run: Run = definition.make_run(args, kwargs, core=core, run_id=run_id, parentless=True)
    if run.step is None:
        raise RunNotResumable(run_id, f"its flow {definition.name!r} is not durable any more")
    entry = (SCHEDULED, "Resuming", "", core.clock.now())
    try:
        await undisturbed(_take, core, run, types, entry, on_mismatch, retries_failures)
    except BaseException:
        if run.history[-1][1] == "Resuming":  # it was taken, and its taker cancelled: nobody would run it
            put_back(run)
        raise
    return run


async def _take(
    core: Core,
    run: Run,
    types: Sequence[StateType],
    entry: Entry,
    on_mismatch: OnMismatch | None,
    retries_failures: bool | None,
) -> None:
    run_id = run.id
    earlier = await core.journal.claim(run_id, types, entry)
    if earlier is None:
        wanted = " or ".join(map(str.capitalize, types))
        raise RunNotResumable(run_id, f"it is not in a state to resume from: {wanted} (perhaps it completed, or runs)")
    run.history, run.start, run.call = earlier.history, None, earlier.call
    if earlier.fire is not None:
        schedule, nominal = earlier.fire
        run.fire = Fire(schedule, nominal, nominal)
    if run.call is not None:
        run.given_name = run.given_name or f"{run.definition.name}-{run.id}"
    run.core.observe(run)
    go_on(run, earlier.expected_start_at)
    try:
        run.past = await _past(core, run, on_mismatch)
    except JournalError:
        put_back(run)
        raise
    agree(run, run.past, retries_failures)


async def forked(core: Core, run_id: str, at: str, new_id: str | None, on_mismatch: OnMismatch | None) -> Run:
    """A new durable run with the parameters of a recorded one, and with what it recorded before the step `at`."""
    _check(on_mismatch)
    definition, args, kwargs = await _started(core, run_id)
    await core.journal.commit()
    step = _step(run_id, at, await core.journal.past(run_id))
    check_choice(new_id, "reject")
    if new_id is not None and await core.journal.find(new_id) is not None:
        raise RunIdConflict(new_id, "a fork is a run of its own")
    new_id = new_id or core.new_id()
    await core.journal.fork(run_id, step, new_id)
    run: Run = definition.make_run(args, kwargs, core=core, run_id=new_id, parentless=True)
    run.past = await _past(core, run, on_mismatch or "accept")  # what comes after the step is not recorded, rightly
    run.past.retries_failures = False
    return run


def _step(run_id: str, at: str, past: Past) -> str:
    """The id of the one run inside that begins with `at`. Raises `RunNotResumable`."""
    ids = {record.run_id for records in past.recorded.values() for record in records.values()}
    ids |= {earlier.run_id for earlier in past.unfinished.values()}
    found = [each for each in ids if each == at] or [each for each in ids if at and each.startswith(at)]
    if len(found) != 1:
        how_many = "no step" if not found else f"{len(found)} steps"
        raise RunNotResumable(run_id, f"{how_many} in it has the id {at!r}; give the id of one of its task runs")
    return found[0]


def _check(on_mismatch: object) -> None:
    if on_mismatch is not None:
        check_one_of("on_mismatch", on_mismatch, get_args(OnMismatch))


async def _started(core: Core, run_id: str) -> tuple[Any, list[Any], dict[str, Any]]:
    """What a durable run was started with: definition and arguments."""
    record = await core.journal.load(f"start:{run_id}")
    if record is None:
        raise RunNotResumable(run_id, "there is no durable run of that id in this journal")
    key, args, kwargs = unserialize(record)
    return find_definition(run_id, key), args, kwargs


async def _past(core: Core, run: Run, on_mismatch: OnMismatch | None) -> Past:
    past = await core.journal.past(run.id)
    past.on_mismatch = on_mismatch or run.definition.on_mismatch
    return past


async def recover(core: Core, max_recoveries: int, start: Callable[[Run], object]) -> None:
    """Have durable runs that were broken off go on, now and whenever another process dies. Never returns.

    A run goes on after at most `max_recoveries` deaths: one that brings its process down must not do so for ever.
    """
    given_up: set[str] = set()
    while True:
        try:
            await _recover_all(core, max_recoveries, start, given_up)
        except JournalError as error:
            logger.error("Looking for runs to recover failed. %s", error)
        await anyio.sleep(RECOVERY_SECONDS)


async def _recover_all(core: Core, max_recoveries: int, start: Callable[[Run], object], given_up: set[str]) -> None:
    for earlier in await core.journal.recoverable():
        if earlier.run_id in given_up:
            continue
        times = sum(
            name == "Resuming" and before is CRASHED for (before, *_), (_, name, *_) in pairwise(earlier.history)
        )
        if times >= max_recoveries:
            given_up.add(earlier.run_id)
            logger.error(
                "Run %s of %s was recovered %d times and is left as it is; `undertow resume %s` runs it again.",
                earlier.run_id,
                earlier.function,
                times,
                earlier.run_id,
            )
            continue
        try:
            run = await resumed(core, earlier.run_id, (CRASHED, CANCELLED, PAUSED))
        except JournalError:
            raise
        except Exception as error:  # the user's code may raise anything
            found = await core.journal.find(earlier.run_id)
            if found is not None and found.history == earlier.history:  # else another process was faster
                given_up.add(earlier.run_id)
                logger.error("%s", error)
        else:
            logger.warning("Run %s of %s goes on after %s.", run.id, run.definition.name, run.history[-2][1])
            start(run)
