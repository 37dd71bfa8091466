"""Serving schedules in this process, until it is told to stop: an engine, its plans, and what the signals mean.

The first SIGINT or SIGTERM has it fire no more, and waits for what runs; the second cancels that at once; a third does
what it would to any program.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence

import anyio
from anyio import Event
from anyio.abc import TaskStatus

from ..engine.plans import Plan
from ..engine.run import CLOSED, Run
from ..wiring import Engine
from .running import make_default_folder

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve(
    plans: Sequence[Plan],
    path: str,
    backend: str,
    on_change: Callable[[Run], None],
    on_begin: Callable[[], None],
    on_stop: Callable[[float], None],
) -> int:
    """Serve the plans until a signal comes, and return how many came.

    `on_change` is told of the states of runs that were fired, `on_begin` of the beginning, and `on_stop` of the first
    signal, with the seconds that runs may still go on. Raises `InvalidOption` and `JournalError`s.
    """
    make_default_folder(path)

    def observe(run: Run) -> None:
        if run.fire is not None:
            on_change(run)

    engine = Engine(path, backend=backend, recover=True, observers=[observe])
    told: list[int] = []

    async def serving() -> None:
        stop, error = Event(), None
        async with anyio.create_task_group() as group:
            await group.start(_listen, engine, told, stop)
            try:
                async with engine:
                    engine.serve(*plans)
                    on_begin()
                    await stop.wait()
                    on_stop(engine.grace_seconds)
            except Exception as raised:
                error = raised  # raised again outside the group, which would wrap it
            group.cancel_scope.cancel()
        if error is not None:
            raise error

    anyio.run(serving, backend=backend)
    return len(told)


async def _listen(
    engine: Engine, told: list[int], stop: Event, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    with anyio.open_signal_receiver(*SIGNALS) as signals:
        task_status.started()
        async for number in signals:
            told.append(number)
            if len(told) == 1:
                stop.set()
                continue
            if engine.core.host is not None:
                engine.core.host.cancel_members(CLOSED)
            return
