"""Waiting for many futures: all of them, or one after the other in the order in which they end.

From loops and from threads, as for one future. Waiting that times out, is cancelled or is given up leaves nothing
behind on the futures that have not ended.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, overload

import anyio

from .errors import WouldBlock
from .futures import Future, waiting_for
from .states import COMPLETED, State
from .waking import Waker, in_event_loop, standing_aside

R = TypeVar("R")


class FutureList(Sequence[Future[R]]):
    """What `map` returns: futures, in the order of the inputs. `await futures` is the list of their results."""

    def __init__(self, futures: Iterable[Future[R]]) -> None:
        self._futures = list(futures)

    @overload
    def __getitem__(self, index: int) -> Future[R]: ...
    @overload
    def __getitem__(self, index: slice) -> FutureList[R]: ...
    def __getitem__(self, index: int | slice) -> Future[R] | FutureList[R]:
        return FutureList(self._futures[index]) if isinstance(index, slice) else self._futures[index]

    def __len__(self) -> int:
        return len(self._futures)

    def __repr__(self) -> str:
        return f"<FutureList of {len(self)}>"

    def __await__(self) -> Generator[Any, Any, list[R]]:
        return self._gathered().__await__()

    async def _gathered(self) -> list[R]:
        async for future in self.as_completed():
            if future.outcome().type is not COMPLETED:
                await future
        return [await future for future in self._futures]

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> list[R]:
        """The results in order, waiting for them; raises the first failure as soon as there is one."""
        for future in as_completed(self._futures, timeout):
            if raise_on_failure:
                future.result()
        return [future.result(raise_on_failure=raise_on_failure) for future in self._futures]

    def wait(self, timeout: float | None = None) -> list[State[R] | None]:
        """The final states in order, waiting for them."""
        wait(self._futures, timeout)
        return [future.wait() if future.done else None for future in self._futures]

    async def wait_async(self, timeout: float | None = None) -> list[State[R] | None]:
        """`wait`, from async code."""
        await wait_async(self._futures, timeout)
        return [await future.wait_async() if future.done else None for future in self._futures]

    def as_completed(self, timeout: float | None = None) -> Completing[R]:
        """The futures in the order in which they end; iterate with `async for`, or with `for` in a thread."""
        return as_completed(self._futures, timeout)

    def cancel(self, reason: str = "") -> None:
        """Cancel every future that is not done."""
        for future in self._futures:
            future.cancel(reason)


class DoneAndNotDone(NamedTuple, Generic[R]):
    """What `wait` returns."""

    done: set[Future[R]]
    not_done: set[Future[R]]


def wait(futures: Iterable[Future[R]], timeout: float | None = None) -> DoneAndNotDone[R]:
    """Wait in a thread until all have ended, or `timeout` seconds. On a loop's thread: `WouldBlock` unless all have."""
    pending = Completing(futures, timeout)
    if not all(future.done for future in pending.futures) and in_event_loop():
        raise WouldBlock("wait(...)", "await wait_async(...)")
    try:
        for _ in pending:
            continue
    except TimeoutError:
        pass  # the answer says which are not done
    return _partition(pending.futures)


async def wait_async(futures: Iterable[Future[R]], timeout: float | None = None) -> DoneAndNotDone[R]:
    """Wait until all have ended, or `timeout` seconds."""
    pending = Completing(futures, timeout)
    try:
        async for _ in pending:
            continue
    except TimeoutError:
        pass  # the answer says which are not done
    return _partition(pending.futures)


def as_completed(futures: Iterable[Future[R]], timeout: float | None = None) -> Completing[R]:
    """Futures in the order in which they end: `async for` in async code, `for` in a thread.

    Raises `TimeoutError` when the next one does not end within `timeout` seconds of the start.
    """
    return Completing(futures, timeout)


def _partition(futures: Sequence[Future[R]]) -> DoneAndNotDone[R]:
    done = {future for future in futures if future.done}
    return DoneAndNotDone(done, set(futures) - done)


class Completing(Generic[R]):
    """An iterator over futures as they end."""

    def __init__(self, futures: Iterable[Future[R]], timeout: float | None = None) -> None:
        self.futures = list(futures)
        self.timeout = timeout

    def __aiter__(self) -> AsyncIterator[Future[R]]:
        return _Arrivals(self)

    def __iter__(self) -> Iterator[Future[R]]:
        pending = [future for future in self.futures if not future.done]
        if pending and in_event_loop():
            raise WouldBlock("Iterating over as_completed(...) with `for`", "async for")
        ended: list[Future[R]] = []
        flag = threading.Semaphore(0)
        callbacks = self.watch(ended, flag.release)
        try:
            for position in range(len(self.futures)):
                with waiting_for(self.futures), standing_aside():
                    in_time = flag.acquire(timeout=self.timeout)
                if not in_time:
                    raise TimeoutError(self.late(len(ended)))
                yield ended[position]
        finally:
            self.unwatch(callbacks)

    def late(self, ended: int) -> str:
        return f"{len(self.futures) - ended} of {len(self.futures)} futures did not end within {self.timeout:g} s."

    def watch(self, ended: list[Future[R]], wake: Callable[[], object]) -> list[Callable[[], object]]:
        def watch(future: Future[R]) -> Callable[[], object]:
            def note() -> None:
                ended.append(future)
                wake()

            future.watch(note)
            return note

        return [watch(future) for future in self.futures]

    def unwatch(self, callbacks: Sequence[Callable[[], object]]) -> None:
        for future, callback in zip(self.futures, callbacks, strict=True):
            future.forget(callback)


class _Arrivals(AsyncIterator[Future[R]]):
    """The async iterator over futures as they end; dropping it early leaves nothing behind on those that have not."""

    def __init__(self, completing: Completing[R]) -> None:
        self._completing = completing
        self._ended: list[Future[R]] = []
        self._given = 0
        self._waker = Waker()
        self._callbacks = completing.watch(self._ended, self._waker.wake)
        timeout = completing.timeout
        self._deadline = anyio.current_time() + (float("inf") if timeout is None else timeout)

    def __del__(self) -> None:
        self._completing.unwatch(self._callbacks)

    async def __anext__(self) -> Future[R]:
        if self._given == len(self._completing.futures):
            raise StopAsyncIteration
        try:
            await self._arrival()
        except BaseException:
            self._completing.unwatch(self._callbacks)
            raise
        self._given += 1
        return self._ended[self._given - 1]

    async def _arrival(self) -> None:
        """Return when one more has ended. Raises `TimeoutError`."""
        while len(self._ended) <= self._given:
            with waiting_for(self._completing.futures), anyio.move_on_at(self._deadline):
                await self._waker.wait()
            if len(self._ended) <= self._given and anyio.current_time() >= self._deadline:
                raise TimeoutError(self._completing.late(len(self._ended)))
