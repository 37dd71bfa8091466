"""Crossing between threads and event loops, on either backend: post a call into a loop, wake a sleeper in one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
from anyio.lowlevel import EventLoopToken, current_token


def post(token: EventLoopToken, fn: Callable[..., object], *args: Any) -> None:
    """Have `fn(*args)` called soon in the loop of `token`, in a copy of the caller's context, and don't wait for it.

    Calls from one thread are made in the order they were posted. Raises `RuntimeError` when the loop has ended.
    """
    token.backend_class.run_sync_soon(fn, args, token.native_token)


def in_event_loop() -> bool:
    """Whether an event loop, of either backend, is running in this thread."""
    try:
        asyncio.get_running_loop()
        return True
    except RuntimeError:
        pass  # perhaps it is another kind of loop
    try:
        current_token()
        return True
    except RuntimeError:
        return False


class Waker:
    """An event that can be set from any thread. Belongs to the loop that made it; may be waited for again and again."""

    __slots__ = ("_event", "_thread", "_token")

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._token = current_token()
        self._thread = threading.get_ident()

    async def wait(self) -> None:
        """Return once `wake` was called since the last wait."""
        await self._event.wait()
        self._event = anyio.Event()

    async def opened(self) -> None:
        """Return once `wake` was called, ever; any number may wait."""
        await self._event.wait()

    def wake(self) -> None:
        """End the wait. Never raises: a loop that has ended has nobody left to wake."""
        if threading.get_ident() == self._thread:
            self._event.set()
            return
        try:
            post(self._token, self._set)
        except RuntimeError:
            return

    def _set(self) -> None:
        self._event.set()


_worker = threading.local()


@contextmanager
def worker_slot(give: Callable[[], object], take: Callable[[], object]) -> Iterator[None]:
    """Mark the calling thread as filling a place in a pool, and say how to give the place up and take it back."""
    _worker.slot = (give, take)
    try:
        yield
    finally:
        _worker.slot = None


@contextmanager
def standing_aside() -> Iterator[None]:
    """Around a blocking wait: a pool's thread that only waits fills no place, so waiting can't exhaust the pool."""
    slot = getattr(_worker, "slot", None)
    if slot is not None:
        slot[0]()
    try:
        yield
    finally:
        if slot is not None:
            slot[1]()
