"""Events: what happens to a run and to all that runs inside it, as an async iterator.

While anybody listens, the engine has one observer more, its `Feed`, which hands each transition to the listeners of the
runs around it; otherwise nothing is done and nothing costs. What was not taken yet waits in `Events`, in bounded
memory. Nothing here polls, and no run goes another way because somebody listens.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs

from .errors import UndertowError
from .run import Kind, Run
from .states import Entry, StateType, moment
from .waking import Waker

if TYPE_CHECKING:
    from .core import Core
    from .futures import Future

MAX_WAITING = 1000
"""Events of inner runs that wait to be taken; of more, the oldest are dropped and counted."""


class RunNotHere(UndertowError, LookupError):
    """Events were asked for of a run that does not go on in this process."""

    def __init__(self, run_id: str) -> None:
        super().__init__(
            f"Run {run_id!r} does not go on in this process: it has ended, is another process's, or there is no such "
            "run. What is known of it is in the journal's views flow_runs, task_runs and states."
        )


@attrs.frozen
class Event:
    """A run has entered a state."""

    run_id: str
    run_name: str
    kind: Kind
    function: str
    parent_run_id: str | None
    type: StateType
    name: str
    message: str
    timestamp: datetime
    missed: int = 0
    """How many events of inner runs were dropped before this one, because they were not taken in time."""

    def to_json(self) -> str:
        """One line of JSON, as server-sent events need it."""
        return json.dumps(attrs.asdict(self) | {"timestamp": self.timestamp.isoformat()})


def _event(run: Run, entry: Entry) -> Event:
    kind, name, message, at = entry
    parent = None if run.parent is None else run.parent.id
    when = moment(at)
    return Event(run.id, run.name, run.kind, run.definition.name, parent, kind, name, message, when)


class Events(AsyncIterator[Event]):
    """The events of a run: its history so far, then whatever happens to it and inside it, until it has ended.

    The last one, the run's final state, comes when its future is done: the result is there and the records are on disk.
    Of inner runs at most `MAX_WAITING` events wait to be taken; of the run itself none is ever dropped. It may be
    iterated in any loop, by one task at a time. Closing it, or dropping it, ends the listening.
    """

    def __init__(self, run: Run, future: Future[Any] | None = None) -> None:
        self.run = run
        self._future = future
        self._own: deque[tuple[int, Event]] = deque()
        self._inner: deque[tuple[int, Event]] = deque()
        self._lock = threading.Lock()
        self._told = 0
        """How many entries of the run's history have become events."""
        self._arrived = 0
        self._missed = 0
        self._missed_at = 0
        """The number of the last event that was dropped."""
        self._over = False
        self._waker: Waker | None = None
        self._asleep = False
        self._when_done = _weakly(self)
        # First listened, then looked: what happens in between is in the history.
        _listen(self)
        if future is not None:
            future.watch(self._when_done)
        self.look()

    def __del__(self) -> None:
        self._unwatch()

    def _unwatch(self) -> None:
        if self._future is not None:
            self._future.forget(self._when_done)

    async def __anext__(self) -> Event:
        while True:
            self._asleep = True  # before the look: whoever comes after it wakes us
            event = self._take()
            if event is not None:
                self._asleep = False
                return event
            if self._over:
                await self.aclose()
                raise StopAsyncIteration
            if self._waker is None:
                self._waker = Waker()  # of the loop that it is iterated in; then looked again
            else:
                await self._waker.wait()

    async def aclose(self) -> None:
        """Stop listening: nothing more comes."""
        _leave(self)
        self._unwatch()
        with self._lock:
            self._over = True
            self._own.clear()
            self._inner.clear()
        self._wake()

    def _take(self) -> Event | None:
        with self._lock:
            own, inner = self._own, self._inner
            queue = own if own and (not inner or own[0][0] < inner[0][0]) else inner
            if not queue:
                return None
            number, event = queue.popleft()
            if not self._missed or number < self._missed_at:
                return event
            missed, self._missed = self._missed, 0
        return attrs.evolve(event, missed=missed)

    # --- in whatever thread it happens -------------------------------------------------------------------------------

    def look(self) -> None:
        """Take over what is new in the run's own history; its end only when its future is done."""
        run, future = self.run, self._future
        with self._lock:
            if self._over:
                return
            done = _left(run) if future is None else future.done
            news = run.history[self._told :]
            if run.ended and not done:
                news = news[:-1]
            self._told += len(news)
            if future is not None and done and (outcome := future.outcome()).type is not run.type:
                # It was refused before its life began.
                news.append((outcome.type, outcome.name, outcome.message, run.core.clock.now()))
            for entry in news:
                self._own.append((self._next(), _event(run, entry)))
            self._over = done
        self._wake()

    def put(self, event: Event) -> None:
        """Something has happened inside the run."""
        with self._lock:
            if len(self._inner) == MAX_WAITING:
                self._missed_at, _ = self._inner.popleft()
                self._missed += 1
            self._inner.append((self._next(), event))
        self._wake()

    def _next(self) -> int:
        self._arrived += 1
        return self._arrived

    def _wake(self) -> None:
        if self._asleep and self._waker is not None:
            self._asleep = False
            self._waker.wake()


def _left(run: Run) -> bool:
    """Whether nothing more happens to the run in this process."""
    return run.ended or run.history[-1][1] == "Suspended"


def _weakly(events: Events) -> Callable[[], None]:
    """`events.look`, for somebody who is not to keep the events alive."""
    reference = weakref.ref(events)

    def look() -> None:
        listener = reference()
        if listener is not None:
            listener.look()

    return look


class Feed:
    """An engine's observer while anybody listens: it hands each transition to the listeners of the runs around it."""

    def __init__(self) -> None:
        self.listeners: dict[Run, tuple[weakref.ref[Events], ...]] = {}
        """By the run they listen to. Replaced, never changed, so that it is read without a lock."""

    def __call__(self, run: Run) -> None:
        event: Event | None = None
        dropped = False
        for around in run.ancestors():
            for reference in self.listeners.get(around, ()):
                listener = reference()
                if listener is None:
                    dropped = True
                elif around is run:
                    listener.look()
                else:
                    event = event or _event(run, run.history[-1])
                    listener.put(event)
        if dropped or (run.ended and run in self.listeners):
            _forget(self, run.core)


_lock = threading.Lock()
"""Held while listeners come and go, and for nothing else."""


def _listen(events: Events) -> None:
    run = events.run
    if run.ended:
        return  # nothing more happens to it
    observers = run.core.observers
    with _lock:
        feed = next((observer for observer in observers if isinstance(observer, Feed)), None)
        if feed is None:
            feed = Feed()
            observers.append(feed)
        there = [reference for reference in feed.listeners.get(run, ()) if reference() is not None]
        feed.listeners[run] = (*there, weakref.ref(events))


def _leave(events: Events) -> None:
    core = events.run.core
    for feed in [observer for observer in core.observers if isinstance(observer, Feed)]:
        _forget(feed, core, events)


def _forget(feed: Feed, core: Core, leaving: Events | None = None) -> None:
    """Forget one listener, those that were dropped, and runs that have ended; the last one closes the feed."""
    with _lock:
        for run, references in list(feed.listeners.items()):
            left = [reference for reference in references if reference() not in (None, leaving)]
            if left and not run.ended:
                feed.listeners[run] = tuple(left)
            else:
                del feed.listeners[run]
        if not feed.listeners and feed in core.observers:
            core.observers.remove(feed)


def find_events(core: Core, run_id: str) -> Events:
    """The events of a background run, or of a flow run whose body runs, by its id. Raises `RunNotHere`."""
    future = core.background.get(run_id)
    if future is not None:
        return Events(future.run, future)
    run = core.flows.get(run_id)
    if run is None:
        raise RunNotHere(run_id)
    return Events(run)
