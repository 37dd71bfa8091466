"""Streams: a task over an endless input, with a bounded number of runs in flight and nothing kept."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .arguments import unmapped
from .errors import InvalidOption, MappingMissingIterable, WouldBlock
from .futures import Future, as_completed
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
        self._items = items
        self._args = [value.value if isinstance(value, unmapped) else value for value in args]
        self._kwargs = {key: value.value if isinstance(value, unmapped) else value for key, value in kwargs.items()}
        self._room = max_in_flight
        self._ordered = ordered

    def _submit(self, item: Any) -> Future[R]:
        future: Future[R] = self._task.submit(item, *self._args, **self._kwargs)
        return future

    async def __aiter__(self) -> AsyncIterator[R]:
        flight: deque[Future[R]] = deque()
        try:
            async for item in _pulled(self._items):
                flight.append(self._submit(item))
                if len(flight) >= self._room:
                    yield await (await self._next_done(flight))
            while flight:
                yield await (await self._next_done(flight))
        finally:
            _cancel(flight)

    async def _next_done(self, flight: deque[Future[R]]) -> Future[R]:
        if self._ordered or flight[0].done:
            return flight.popleft()
        async for future in as_completed(flight):
            flight.remove(future)
            return future
        raise AssertionError("a flight is never empty here")

    def __iter__(self) -> Iterator[R]:
        if in_event_loop():
            raise WouldBlock("Iterating over a stream with `for`", "async for")
        flight: deque[Future[R]] = deque()
        try:
            for item in self._items:
                flight.append(self._submit(item))
                if len(flight) >= self._room:
                    yield self._next_done_here(flight).result()
            while flight:
                yield self._next_done_here(flight).result()
        finally:
            _cancel(flight)

    def _next_done_here(self, flight: deque[Future[R]]) -> Future[R]:
        if self._ordered or flight[0].done:
            return flight.popleft()
        future = next(iter(as_completed(flight)))
        flight.remove(future)
        return future


async def _pulled(items: Any) -> AsyncIterator[Any]:
    if hasattr(items, "__aiter__"):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def _cancel(flight: Iterable[Future[Any]]) -> None:
    for future in flight:
        future.cancel("its stream was closed")
