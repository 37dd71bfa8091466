"""One thread, virtual time, and an order of events that the world's seed decides, on asyncio and on trio.

trio shuffles what is ready by itself, and can be given the dice. asyncio goes first come, first served, so its loop is
made to shuffle: the callbacks first, which asyncio's own parts rely on being in order, then one step of every task
that is ready, in any order. Tasks have serial numbers, because the memory addresses that they are otherwise sorted by
differ from one process to the next.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, TypeVar

import anyio
import trio
import trio._core._run as trio_run
from trio.testing import MockClock

from .faults import Faults

T = TypeVar("T")
BACKENDS = ("asyncio", "trio")


def late(faults: Faults) -> float:
    """By how much the next timer is late."""
    return faults.seconds(0.7) if faults.strikes("timer late") else 0.0


class JumpingSelector(selectors.DefaultSelector):
    """A selector that never waits for a timer: where the loop would, the clock jumps."""

    def __init__(self, faults: Faults) -> None:
        super().__init__()
        self.now = 0.0
        self.faults = faults

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout > 0:
            assert timeout is not None, "every task waits, and none for a timer"
            self.now += timeout + late(self.faults)
        return []


class ShuffledLoop(asyncio.SelectorEventLoop):
    """An asyncio loop in virtual time that takes what is ready in a seeded order."""

    _ready: Any

    def __init__(self, random: Random, faults: Faults) -> None:
        self._jumping = JumpingSelector(faults)
        self._random = random
        self._serial = 0
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task = super().create_task(coro, **options)
        self._serial += 1
        task.serial = self._serial  # type: ignore[attr-defined]
        return task

    def _run_once(self) -> None:
        if len(self._ready) > 1:
            self._shuffle()
        super()._run_once()  # type: ignore[misc]

    def _shuffle(self) -> None:
        callbacks, steps = [], []
        for handle in self._ready:
            task = getattr(handle._callback, "__self__", None)
            if isinstance(task, asyncio.Task):
                steps.append((task.serial, handle))  # type: ignore[attr-defined]
            else:
                callbacks.append(handle)
        steps.sort(key=lambda step: step[0])
        self._random.shuffle(steps)
        self._ready.clear()
        self._ready.extend(callbacks)
        self._ready.extend(handle for _, handle in steps)


def late_clock(faults: Faults) -> MockClock:
    """trio's clock that jumps when everybody waits, and sometimes too far."""
    clock = MockClock(autojump_threshold=0)
    jump = clock.jump
    clock.jump = lambda seconds: jump(seconds + late(faults))  # type: ignore[method-assign]
    return clock


@contextmanager
def _trio_seeded(random: Random) -> Iterator[None]:
    settings: Any = trio_run
    before = settings._ALLOW_DETERMINISTIC_SCHEDULING, settings._r
    settings._ALLOW_DETERMINISTIC_SCHEDULING, settings._r = True, random
    try:
        yield
    finally:
        settings._ALLOW_DETERMINISTIC_SCHEDULING, settings._r = before


def run(main: Callable[[], Coroutine[Any, Any, T]], backend: str, seed: int, faults: Faults) -> T:
    """Run `main()` to its end in a loop of its own, in virtual time that begins at 0."""
    random = Random(f"schedule {seed}")
    if backend == "trio":
        with _trio_seeded(random):
            return trio.run(main, clock=late_clock(faults))
    return anyio.run(main, backend_options={"loop_factory": lambda: ShuffledLoop(random, faults)})
