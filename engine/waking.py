"""Crossing between threads and event loops, on either backend: post a call into a loop, wake a sleeper, get a reply."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, cast

import anyio
from anyio.lowlevel import EventLoopToken, current_token

T = TypeVar("T")


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


def is_cancellation(error: BaseException) -> bool:
    """Whether an exception is how the event loop of this thread cancels; where there is none, nothing is cancelled."""
    try:
        return isinstance(error, anyio.get_cancelled_exc_class())
    except RuntimeError:
        return False  # perhaps the loop is gone, and a coroutine of it is being thrown away


class Outside:
    """What one event loop waits for that no timer of its own will bring: an answer of another thread, a body in one.

    `with outside(): await ...` in the loop; nobody else touches it. It is only a number, for a virtual clock, which
    must not jump as long as something that goes on outside the loop is about to have its say.
    """

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1


class _Here(threading.local):
    def __init__(self) -> None:
        self.outside = Outside()


_here = _Here()


def outside() -> Outside:
    """That of the event loop in this thread."""
    return _here.outside


def begin_anew() -> None:
    """Another event loop begins in this thread: what was left over from the one before is no matter of its."""
    _here.outside = Outside()


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


class Reply(Generic[T]):
    """An answer that another thread will give: `await reply` in an event loop, `reply.wait()` in a plain thread.

    Any number may wait for it. Those in one event loop are woken together: to wake a loop costs as much as a task.
    """

    __slots__ = ("_error", "_flags", "_gates", "_settled", "_value")

    def __init__(self) -> None:
        self._settled = False
        self._gates: dict[int, Waker] = {}
        self._flags: list[threading.Event] = []
        self._value: T | None = None
        self._error: Exception | None = None

    @classmethod
    def of(cls, value: T) -> Reply[T]:
        """A reply that is there already."""
        reply = cls()
        reply.settle(value)
        return reply

    def settle(self, value: T | None = None, error: Exception | None = None) -> None:
        """Give the answer, from any thread. Only the first one counts."""
        if self._settled:
            return
        self._value, self._error = value, error
        self._settled = True
        for gate in tuple(self._gates.values()):
            gate.wake()
        for flag in self._flags:
            flag.set()

    def __await__(self) -> Generator[Any, Any, T]:
        if not self._settled:
            here = threading.get_ident()
            gate = self._gates.get(here)
            if gate is None:
                gate = self._gates[here] = Waker()
            if not self._settled:  # asked again, now that the answer would wake us
                with _here.outside:
                    yield from gate.opened().__await__()
        return self._answer()

    def wait(self) -> T:
        """The answer, holding the calling thread until it is there."""
        if not self._settled:
            flag = threading.Event()
            self._flags.append(flag)
            if not self._settled:
                flag.wait()
        return self._answer()

    def _answer(self) -> T:
        if self._error is not None:
            raise self._error
        return cast("T", self._value)


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
