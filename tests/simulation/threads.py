"""The double of the thread pool: bodies of sync functions that take virtual time and can't be stopped.

What it promises is what the real one does: an attempt that is given up leaves its body running, which is then the
run's straggler; where there is no time-out, cancellation waits for the body to end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anyio

from undertow.engine.run import Run

if TYPE_CHECKING:
    from .world import World


class Job:
    """A body in a thread."""

    def __init__(self) -> None:
        self.began = False
        self.withdrawn = False
        self.ended = anyio.Event()
        self.value: Any = None
        self.error: BaseException | None = None
        self._callbacks: list[Callable[[], object]] = []

    def end(self) -> None:
        self.ended.set()
        for callback in self._callbacks:
            callback()

    def when_done(self, callback: Callable[[], object]) -> None:
        if self.ended.is_set():
            callback()
        else:
            self._callbacks.append(callback)


class SimulatedThreads:
    """A runner whose threads are tasks of the world's own."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def run(self, run: Run, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        job = Job()
        self._world.background.start_soon(self._work, job, run, fn, args)
        try:
            await job.ended.wait()
        except BaseException:
            if not job.began:
                job.withdrawn = True
            elif run.definition.timeout is None:
                with anyio.CancelScope(shield=True):
                    await job.ended.wait()
            elif not job.ended.is_set():
                run.straggler = job
            raise
        if job.error is not None:
            raise job.error
        return job.value

    async def _work(self, job: Job, run: Run, fn: Callable[..., Any], args: Sequence[Any]) -> None:
        if job.withdrawn:
            return
        job.began = True
        world = self._world
        node = world.node(args[0])
        attempt = node.attempts[min(run.attempts, len(node.attempts)) - 1]
        try:
            with world.body(run, node) as how:
                await anyio.sleep(attempt.seconds)
                with world.in_thread(how):
                    job.value = fn(*args)
        except Exception as error:
            job.error = error
        job.end()
