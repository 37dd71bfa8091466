"""The pool of threads in which submitted sync tasks run.

A place in the pool is given back when the thread really ends, also when the attempt was given up earlier, and is
lent out while the thread does nothing but wait for other runs: nested submissions can't exhaust the pool.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from ..engine.errors import InvalidOption
from ..engine.granting import Lease, Limits
from ..engine.run import Run
from ..engine.waking import outside, worker_slot

DEFAULT_WORKERS = 40


class ThreadRunner:
    """Runs bodies in at most `max_workers` threads at a time.

    A thread can't be stopped from outside. A task with a `timeout_seconds` is given up at its deadline and its thread
    goes on unheeded; without one, cancellation waits for the body to end.
    """

    def __init__(self, max_workers: int = DEFAULT_WORKERS) -> None:
        if isinstance(max_workers, bool) or not isinstance(max_workers, int) or max_workers < 1:
            raise InvalidOption("max_workers", max_workers, "a whole number, 1 or more")
        self.max_workers = max_workers
        self.places = Limits({"threads": max_workers})

    async def run(self, run: Run, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], /) -> Any:
        place = await self.places.acquire(("threads",), priority=run.definition.priority)
        body = _Body(partial(fn, *args, **kwargs), place)
        try:
            with outside():
                return await anyio.to_thread.run_sync(
                    body, abandon_on_cancel=run.definition.timeout is not None, limiter=anyio.CapacityLimiter(math.inf)
                )
        except BaseException:
            if body.is_running:
                run.straggler = body
            raise
        finally:
            body.withdraw()


class _Body:
    """A body in a thread, which tells when it has really ended."""

    def __init__(self, call: Callable[[], Any], place: Lease) -> None:
        self._call: Callable[[], Any] | None = call
        self._place = place
        self._lock = threading.Lock()
        self._began = False
        self._ended = False
        self._callbacks: list[Callable[[], object]] = []

    @property
    def is_running(self) -> bool:
        return self._began and not self._ended

    def __call__(self) -> Any:
        with self._lock:
            call, self._began = self._call, True
        if call is None:
            return None
        try:
            with worker_slot(self._place.lend, self._place.take_back):
                return call()
        finally:
            del call
            self._finish()

    def withdraw(self) -> None:
        """The attempt is over: a body that has not begun never will, and its place is free."""
        with self._lock:
            self._call = None
            never = not self._began
            self._began = True
        if never:
            self._finish()

    def _finish(self) -> None:
        with self._lock:
            self._ended = True
            callbacks, self._callbacks = self._callbacks, []
        self._place.release()
        for callback in callbacks:
            callback()

    def when_done(self, callback: Callable[[], object], /) -> None:
        with self._lock:
            if not self._ended:
                self._callbacks.append(callback)
                return
        callback()
