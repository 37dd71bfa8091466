"""Asking something of a run from outside: signals, and under them what a cancellation or a resumption is sent by.

What is asked is kept in the journal until the run takes it, so it may come early, or while nobody lives the run. A run
of this process is woken at once; one of another finds out when its process next looks.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import anyio

from .context import CURRENT, core_here
from .core import Core, logger
from .durable import once
from .errors import NotInFlow, ResultUnreadable, RunEnded, RunUnknown, SignalTimeout
from .memo import serialize, unserialize
from .options import check_id
from .ports import Earlier, Record
from .states import CANCELLED, PAUSED, TERMINAL


async def send_signal(run_id: str, name: str, value: object = None) -> None:
    """Give a flow run a value under a name, which it gets from `wait_for_signal(name)`, now or later.

    It is on disk when this returns. Signals of one name come in the order they were sent. Raises `RunUnknown`,
    `RunEnded`, `InvalidOption` for an impossible name, and `ResultNotSerializable`.
    """
    check_id("name", name)
    await ask(core_here(), f"signal:{run_id}:{name}", run_id, value)


def wait_for_signal(name: str, timeout: float | None = None) -> Coroutine[Any, Any, Any]:
    """The next value that is sent to this flow run under that name, waiting for it.

    In a durable flow what came is recorded, and handed back when the flow runs again. Raises `SignalTimeout` after
    `timeout` seconds, and `NotInFlow`.
    """
    run = CURRENT.get()
    flow = run if run is None or run.tally is not None else run.flow
    if run is None or flow is None:
        raise NotInFlow(f"wait_for_signal({name!r})", "a flow's body")
    if not run.definition.is_async:
        raise NotInFlow(f"wait_for_signal({name!r})", "an `async def` body")
    check_id("name", name)
    prefix = f"ask:signal:{flow.id}:{name}:"

    async def receive() -> list[Any]:
        with anyio.move_on_after(timeout):
            key, record = await taken(run.core, flow.id, prefix)
            return [key, unserialize(record)]
        raise SignalTimeout(name, timeout or 0)

    async def wait() -> Any:
        async with run.core.turn(prefix):
            key, value = await once(run, "undertow.signal", name, f"wait_for_signal({name!r})", receive)
            run.core.journal.discard(key)
        return value

    return wait()


# --- under them ------------------------------------------------------------------------------------------------


async def ask(core: Core, what: str, run_id: str, value: object) -> Earlier:
    """Keep what is asked of a run until it takes it, and wake it. Raises `RunUnknown` and `RunEnded`."""
    record = Record(serialize(value, "msgpack"), "msgpack", run_id, core.clock.now())
    await core.journal.commit()
    found = await core.journal.find(run_id)
    if found is None:
        raise RunUnknown(run_id)
    if found.history[-1][0] in TERMINAL:
        raise RunEnded(run_id, found.history[-1][1])
    core.journal.keep(f"ask:{what}:{core.new_id()}", record)
    await core.journal.commit()
    core.ring(run_id)
    return found


async def taken(core: Core, run_id: str, prefix: str) -> tuple[str, Record]:
    """The oldest request of that kind and its key, waiting for one.

    It stays in the journal until its key is discarded, so that who takes it can record that first.
    """
    with core.listening(run_id) as bell:
        while True:
            await core.journal.commit()
            found = await core.journal.oldest(prefix)
            if found is not None:
                return found
            await bell.wait()


async def cancel_run(core: Core, run_id: str, reason: str) -> None:
    """Have a run of any process end Cancelled: at once one that is suspended, which nobody lives."""
    future = core.background.get(run_id)
    if future is not None and not future.done:
        future.cancel(reason)
        return
    await core.journal.commit()
    entry = (CANCELLED, "Cancelled", f"Cancelled: {reason}.", core.clock.now())
    if await core.journal.claim(run_id, (PAUSED,), entry) is None:
        with suppress(RunUnknown, RunEnded):  # it has ended meanwhile, as it was to
            await ask(core, f"cancel:{run_id}", run_id, reason)


def hear(core: Core, key: str, record: Record) -> None:
    """Another process asks something of a run of this one; called in any thread."""
    _, kind, run_id, *_ = key.split(":")
    if kind != "cancel":
        core.ring(run_id)
        return
    try:
        reason = str(unserialize(record))
    except ResultUnreadable as error:
        logger.error("Run %s is to be cancelled, for a reason that can't be read. %s", run_id, error)
        reason = "another process asked for it"
    core.cancel_flow(run_id, reason)
    core.journal.discard(key)
