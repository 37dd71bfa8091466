"""Streams: a task over an endless input, with a bounded number of runs in flight and nothing kept."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .arguments import unmapped
from .errors import InvalidOption, MappingMissingIterable, WouldBlock
from .futures import Future
from .gathering import as_completed
from .waking import in_event_loop

if TYPE_CHECKING:
    from .task import Task

R = TypeVar("R")


class Stream(Generic[R]):
    """The results of a task over many items: `async for` in async code, `for` in a thread."""

    def __init__(
        self,
        task: Task[..., Any],
        items: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        max_in_flight: int,
        ordered: bool,
    ) -> None:
        if isinstance(max_in_flight, bool) or not isinstance(max_in_flight, int) or max_in_flight < 1:
            raise InvalidOption("max_in_flight", max_in_flight, "a whole number, 1 or more")
        if isinstance(items, str | bytes) or not (hasattr(items, "__iter__") or hasattr(items, "__aiter__")):
            raise MappingMissingIterable(task.name, [f"items ({type(items).__name__})"])
        self._task = task
        self.items = items
        self._args = [value.value if isinstance(value, unmapped) else value for value in args]
        self._kwargs = {key: value.value if isinstance(value, unmapped) else value for key, value in kwargs.items()}
        self.room = max_in_flight
        self.ordered = ordered

    def submit(self, item: Any) -> Future[R]:
        future: Future[R] = self._task.submit(item, *self._args, **self._kwargs)
        return future

    def __aiter__(self) -> AsyncIterator[R]:
        return _Flight(self)

    def __iter__(self) -> Iterator[R]:
        if in_event_loop():
            raise WouldBlock("Iterating over a stream with `for`", "async for")
        flight: deque[Future[R]] = deque()
        try:
            for item in self.items:
                flight.append(self.submit(item))
                if len(flight) >= self.room:
                    yield self._next_done_here(flight).result()
            while flight:
                yield self._next_done_here(flight).result()
        finally:
            _cancel(flight)

    def _next_done_here(self, flight: deque[Future[R]]) -> Future[R]:
        if self.ordered or flight[0].done:
            return flight.popleft()
        future = next(iter(as_completed(flight)))
        flight.remove(future)
        return future


class _Flight(AsyncIterator[R]):
    """The async iterator of a stream. Not a generator, so that leaving it early needs no `aclose`."""

    def __init__(self, stream: Stream[R]) -> None:
        self._stream = stream
        self._source: Any = aiter(stream.items) if hasattr(stream.items, "__aiter__") else iter(stream.items)
        self._more = True
        self._futures: deque[Future[R]] = deque()

    def __del__(self) -> None:
        _cancel(self._futures)

    async def __anext__(self) -> R:
        try:
            while self._more and len(self._futures) < self._stream.room:
                await self._launch()
            if not self._futures:
                raise StopAsyncIteration
            return await (await self._landed())
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """End the stream: what is in flight is cancelled, and nothing more is pulled."""
        _cancel(self._futures)
        self._futures.clear()
        self._more = False

    async def _launch(self) -> None:
        """Submit the next item, if there is one."""
        is_async = hasattr(self._source, "__anext__")
        item = await anext(self._source, _END) if is_async else next(self._source, _END)
        if item is _END:
            self._more = False
        else:
            self._futures.append(self._stream.submit(item))

    async def _landed(self) -> Future[R]:
        """Take the future whose turn it is."""
        if self._stream.ordered or self._futures[0].done:
            return self._futures.popleft()
        future = await anext(aiter(as_completed(self._futures)))
        self._futures.remove(future)
        return future


_END = object()


def _cancel(flight: Iterable[Future[Any]]) -> None:
    for future in flight:
        future.cancel("its stream was closed")
