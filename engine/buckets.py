"""One limit at work: what is taken of it, how long until there is room, and the queue for it.

Nothing here waits or locks: it is the arithmetic and the order by which slots are granted.
"""

from __future__ import annotations

import heapq
import math

from .limits import Limit
from .waking import Waker


class Bucket:
    """One limit at work: what is taken, and the queue for it."""

    __slots__ = ("limit", "name", "queue", "seen", "taken")

    def __init__(self, name: str, limit: Limit) -> None:
        self.name = name
        self.limit = limit
        self.taken = 0.0
        self.seen = 0.0
        self.queue: list[Waiter] = []

    def level(self, now: float) -> float:
        """What is taken at `now`, after the leak."""
        if self.limit.rate:
            self.taken = max(0.0, self.taken - self.limit.rate * (now - self.seen))
            self.seen = now
        return self.taken

    def delay(self, slots: float, now: float) -> float:
        """Seconds until the leak alone makes room for `slots`; 0 when there is room, inf when it never will."""
        excess = self.level(now) + slots - self.limit.slots
        if excess <= 1e-6:
            return 0.0
        return excess / self.limit.rate if self.limit.rate else math.inf

    def head(self) -> Waiter | None:
        queue = self.queue
        while queue and queue[0].gone:
            heapq.heappop(queue)
        return queue[0] if queue else None


class Waiter:
    """A request that could not be met at once."""

    __slots__ = ("buckets", "gone", "granted", "order", "slots", "waker")

    def __init__(self, buckets: tuple[Bucket, ...], slots: float, order: tuple[bool, float, int], waker: Waker) -> None:
        self.buckets = buckets
        self.slots = slots
        self.order = order
        self.waker = waker
        self.granted = False
        self.gone = False

    def __lt__(self, other: Waiter) -> bool:
        return self.order < other.order

    def leads(self) -> bool:
        return all(bucket.head() is self for bucket in self.buckets)

    def delay(self, now: float) -> float:
        """Seconds until there is room in every bucket, as far as the leaks go."""
        return max(bucket.delay(self.slots, now) for bucket in self.buckets)
