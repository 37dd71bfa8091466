"""What tests of limits measure with: how many are inside at a time, and whether every slot has come back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import anyio

from undertow import Engine

MakeEngine = Callable[..., Engine]


class Gauge:
    """How many are inside at a time, and when each went in."""

    def __init__(self) -> None:
        self.inside = 0
        self.peak = 0
        self.count = 0
        self.entered: list[tuple[str, float]] = []
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, size: int = 1) -> Generator[None]:
        with self._lock:
            self.inside += size
            self.count += 1
            self.peak = max(self.peak, self.inside)
        try:
            yield
        finally:
            with self._lock:
                self.inside -= size

    async def use(self, seconds: float, name: str = "", size: int = 1) -> None:
        """Be inside for so long."""
        self.entered.append((name, anyio.current_time()))
        with self(size):
            await anyio.sleep(seconds)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.entered]

    @property
    def times(self) -> list[float]:
        first = self.entered[0][1]
        return [round(at - first, 4) for _, at in self.entered]


def all_free(engine: Engine) -> bool:
    """Whether no slot is taken and nobody waits for one; what was taken of a rate drains by itself."""
    limits = engine.core.limits
    return all(
        limits.waiting(name) == 0 and (bucket.limit.rate or limits.active(name) == 0)
        for name, bucket in limits.buckets.items()
    )


async def until(condition: Callable[[], bool]) -> None:
    """Go on when something has happened in another thread."""
    with anyio.fail_after(5):
        while not condition():
            await anyio.lowlevel.checkpoint()
