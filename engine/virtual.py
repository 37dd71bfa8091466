"""Virtual time, on asyncio and trio: a clock that stands still while anybody is at work and jumps when everybody waits.

It asks the engine what goes on outside the event loop (`waking.py`), such as the journal and sync bodies in
threads. For tests: `undertow.testing` makes fixtures of it, and nothing else in the package imports this.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import trio.abc
import trio.lowlevel
import trio.testing

from .errors import InvalidOption
from .waking import begin_anew, outside

BACKENDS = ("asyncio", "trio")
"""For `@pytest.fixture(params=BACKENDS)`."""

EPOCH_2026 = 1_767_225_600_000_000
"""When virtual time begins: the first moment of 2026, in microseconds."""

PATIENCE = 5.0
"""Seconds of the machine's time that a virtual clock waits, at most, for what is at work outside the event loop."""


class VirtualClock:
    """Time that stands still while anybody is at work, and jumps to what is due next when everybody waits.

    Give `backend("asyncio")` or `backend("trio")` to anyio, and the clock to an engine: `Engine(clock=clock,
    monotonic=clock.elapsed)`. What is at work in the engine's own threads is waited for, and so are functions in
    `asyncio.to_thread` and, after `heed_threads`, in `anyio.to_thread.run_sync`; for `patience` seconds at most, so
    that a thread that itself waits for the loop can't stop the time for ever. Sockets and pipes are not waited for: a
    test that needs them runs in real time.
    """

    def __init__(self, start: int = EPOCH_2026) -> None:
        self.patience = PATIENCE
        self.threads: anyio.CapacityLimiter | None = None
        """The limiter of threads that are not the engine's; `heed_threads` fills it in."""
        self.started = False
        self._start = start
        self._time = trio.testing.MockClock()
        self._began = 0.0

    def backend(self, name: str) -> tuple[str, dict[str, Any]]:
        """An event loop on this clock, as anyio's `anyio_backend` fixture wants it."""
        if name == "asyncio":
            return name, {"loop_factory": partial(VirtualLoop, self)}
        if name == "trio":
            time = trio.testing.MockClock(autojump_threshold=0)
            return name, {"clock": time, "instruments": [_Watch(self, time)]}
        raise InvalidOption("backend", name, " or ".join(map(repr, BACKENDS)))

    def elapsed(self) -> float:
        """Seconds since the event loop began, from any thread."""
        return self._time.current_time() - self._began

    def now(self) -> int:
        """Microseconds since 1970, as engines want to be told."""
        return self._start + round(self.elapsed() * 1e6)

    @property
    def time(self) -> datetime:
        """The same, in UTC."""
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self.now())

    async def advance(self, seconds: float) -> None:
        """Let that much time pass, and what is due meanwhile happen."""
        await anyio.sleep(seconds)

    def jump(self, seconds: float) -> None:
        """Be that much later at once, as a machine that was asleep; what is due meanwhile is late."""
        self._time.jump(seconds)

    block = jump  # an engine whose thread is to be held so long

    def heed_threads(self) -> None:
        """Wait for functions in `anyio.to_thread.run_sync`, too. Called in the event loop."""
        self.threads = anyio.to_thread.current_default_thread_limiter()

    def is_held_up(self) -> bool:
        """Whether something is at work outside the event loop of this thread."""
        return outside().count > 0 or (self.threads is not None and self.threads.borrowed_tokens > 0)

    def begin(self, time: trio.testing.MockClock) -> None:
        """An event loop begins on this clock, in this thread; for each that does, it is the first moment of 2026."""
        self.started = True
        self._time, self._began = time, time.current_time()
        begin_anew()

    def look(self) -> None:
        """Choose for how long, of the machine's time, all of trio's tasks must wait before the clock jumps."""
        threshold = self.patience if self.is_held_up() else 0
        if self._time.autojump_threshold != threshold:
            self._time.autojump_threshold = threshold


class _Watch(trio.abc.Instrument):
    """Has the clock look whether it may jump, whenever that may have changed."""

    def __init__(self, clock: VirtualClock, time: trio.testing.MockClock) -> None:
        self._clock = clock
        self._time = time

    def before_run(self) -> None:
        self._clock.begin(self._time)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._clock.look()


class JumpingSelector(selectors.DefaultSelector):
    """A selector that never waits for a timer: where the loop would, the clock jumps."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(None if timeout is None else 0)
        if ready or not timeout:
            return ready
        if self._clock.is_held_up():
            ready = super().select(self._clock.patience)
        if not ready:
            self._clock.jump(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An asyncio loop in virtual time."""

    def __init__(self, clock: VirtualClock | None = None) -> None:
        self.clock = clock or VirtualClock()
        self.clock.begin(trio.testing.MockClock())
        super().__init__(JumpingSelector(self.clock))

    def time(self) -> float:
        return self.clock.elapsed()

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        held_up = outside()
        held_up.__enter__()
        future: asyncio.Future[Any] = super().run_in_executor(executor, func, *args)
        future.add_done_callback(held_up.__exit__)
        return future
