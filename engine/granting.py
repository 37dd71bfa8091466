"""Granting the slots of limits: who may go on, and who waits in which order.

Slots of several limits are taken all together or not at all. Waiters queue per limit, by priority and then by arrival;
one that heads all its queues goes next, and a release hands its slots straight to it, so nobody polls and a big request
is not starved by small ones. Of a *shared* limit, what a process grants is then asked of the journal as well, which
counts for all processes.

The bookkeeping is a few lines under a plain lock, because loops and threads may share one engine; waiting is done by
the waiter itself, in its own loop, and a cancelled waiter leaves nothing behind.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from functools import partial

import anyio
import uuid_utils

from .buckets import Bucket, Waiter
from .errors import InvalidOption, JournalClosed, LimitImpossible, LimitUnknown, SlotTimeout
from .limits import Limit, LimitLike, Pool
from .waking import Reply, Waker

SHARED_SECONDS = 0.05
"""How often to ask again for a slot that is shared, and that another process holds."""


class Lease:
    """Slots that are held. Several runs may share one: a child uses what its parent holds."""

    __slots__ = ("_users", "buckets", "holder", "limits", "slots")

    def __init__(self, limits: Limits, buckets: tuple[Bucket, ...], slots: float) -> None:
        self.limits = limits
        self.buckets = buckets
        self.slots = slots
        self.holder = ""
        """By what the shared ones of its slots are known to other processes."""
        self._users = 1

    def share(self) -> bool:
        """Use the slots a second time, until every user has released; false when the last one has already."""
        with self.limits.lock:
            if self._users == 0:
                return False
            self._users += 1
            return True

    def release(self) -> None:
        """Give the slots back, straight to who waits for them. Safe from any thread."""
        with self.limits.lock:
            self._users -= 1
            if self._users:
                return
        if self.holder and self.limits.pool is not None:
            with suppress(JournalClosed):  # with it they went all
                self.limits.pool.give(self.holder)
        with self.limits.lock:
            self.limits.give_back(self.buckets, self.slots)

    def lend(self) -> None:
        """Let others use the slots until `take_back`."""
        with self.limits.lock:
            self.limits.give_back(self.buckets, self.slots)

    def take_back(self) -> None:
        """End `lend` at once, even if the limit is exceeded for a while by those who were let in."""
        with self.limits.lock:
            for bucket in self.buckets:
                bucket.taken += self.slots


HELD: ContextVar[tuple[Lease, ...]] = ContextVar("undertow_held", default=())
"""Leases of the `concurrency` blocks around a call."""


class Limits:
    """All limits of one engine."""

    def __init__(
        self,
        limits: Mapping[str, LimitLike] | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        pool: Pool | None = None,
    ) -> None:
        self.pool = pool
        """Where what is shared with other processes is counted."""
        self.lock = threading.Lock()
        self.buckets: dict[str, Bucket] = {}
        self._now = now
        self._arrivals = 0
        self._lines: defaultdict[tuple[str, ...], list[Waker]] = defaultdict(list)
        """Who waits for other processes, by the limits that are wanted."""
        for name, limit in (limits or {}).items():
            self.declare(name, limit)

    def declare(self, name: str, limit: LimitLike) -> None:
        """Add a limit. Raises `InvalidOption` for a bad one."""
        if not isinstance(name, str) or not name:
            raise InvalidOption(
                "limits", name, "a mapping from names to numbers of slots, Limit(...) or RateLimit(...)"
            )
        if not isinstance(limit, Limit):
            try:
                limit = Limit(limit)
            except InvalidOption:
                raise InvalidOption(
                    f"limits[{name!r}]", limit, "a number, 0 or more, Limit(...) or RateLimit(...)"
                ) from None
        self.buckets[name] = Bucket(name, limit)

    def known(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of `names` that are limits here."""
        return tuple(name for name in names if name in self.buckets)

    def active(self, name: str) -> float:
        """How much of a limit is taken now."""
        with self.lock:
            return self.buckets[name].level(self._now())

    def waiting(self, name: str) -> int:
        """How many requests wait for a limit now."""
        with self.lock:
            return sum(not waiter.gone for waiter in self.buckets[name].queue)

    def has_room(self, names: Iterable[str]) -> bool:
        """Whether one slot of each could be taken now."""
        now = self._now()
        with self.lock:
            return all(
                bucket.head() is None and bucket.delay(1, now) == 0 for bucket in map(self.buckets.__getitem__, names)
            )

    def try_acquire(self, names: Iterable[str], slots: float = 1, *, inside: bool = False) -> Lease | None:
        """Take the slots if that needs no waiting. Raises `LimitUnknown` and `LimitImpossible`.

        Who is `inside` of other slots goes before all who hold none: these may be waiting for what it holds.
        """
        buckets = self._find(names, slots)
        if self.pool is not None and any(bucket.limit.shared for bucket in buckets):
            return None  # the journal has to be asked
        return self._take_at_once(buckets, slots, inside)

    def _take_at_once(self, buckets: tuple[Bucket, ...], slots: float, inside: bool) -> Lease | None:
        now = self._now()
        with self.lock:
            for bucket in buckets:
                head = bucket.head()
                if head is not None and (not inside or not head.order[0]):
                    return None
                if bucket.delay(slots, now) > 0:
                    return None
            self._take(buckets, slots)
        return Lease(self, buckets, slots)

    async def acquire(
        self,
        names: Iterable[str],
        slots: float = 1,
        *,
        priority: float = 0,
        timeout: float | None = None,
        inside: bool = False,
        waiting: Callable[[], object] | None = None,
    ) -> Lease:
        """Wait for `slots` of every named limit, all or none; higher priority first, then first come, first served.

        `waiting` is called, once, when they are not free at once. Raises `SlotTimeout` after `timeout` seconds,
        `LimitUnknown` for a name that is no limit, and `LimitImpossible` at once for more slots than a limit has.
        """
        names = tuple(names)
        buckets = self._find(names, slots)
        lease = self._take_at_once(buckets, slots, inside)
        shared = {bucket.name: bucket.limit for bucket in buckets if bucket.limit.shared and self.pool is not None}
        if lease is not None and not shared:
            return lease
        with anyio.move_on_after(timeout):
            if lease is None:
                if waiting is not None:
                    waiting()
                    waiting = None
                lease = await self._wait(buckets, slots, (not inside, -priority))
            if shared:
                await self._share(lease, shared, slots, waiting)
            return lease
        raise SlotTimeout(names, timeout or 0)

    async def _share(
        self, lease: Lease, shared: Mapping[str, Limit], slots: float, waiting: Callable[[], object] | None
    ) -> None:
        """Take from the other processes what one's own has granted, or give that back too."""
        assert self.pool is not None
        lease.holder = str(uuid_utils.uuid7())
        line = self._lines[tuple(shared)]
        try:
            if line or not await self.pool.take(lease.holder, shared, slots):
                if waiting is not None:
                    waiting()
                await self._stand_in_line(line, partial(self.pool.take, lease.holder, shared, slots))
        except BaseException:
            lease.release()  # also what the pool is about to grant: it answers in order
            raise

    async def _stand_in_line(self, line: list[Waker], take: Callable[[], Reply[bool]]) -> None:
        """Wait for what other processes hold; only the first of the line asks for it, again and again."""
        waker = Waker()
        with self.lock:
            line.append(waker)
        try:
            while line[0] is not waker or not await take():
                with anyio.move_on_after(SHARED_SECONDS if line[0] is waker else math.inf):
                    await waker.wait()
        finally:
            with self.lock:
                line.remove(waker)
                if line:
                    line[0].wake()

    async def _wait(self, buckets: tuple[Bucket, ...], slots: float, rank: tuple[bool, float]) -> Lease:
        waiter = self._enqueue(buckets, slots, rank)
        try:
            while not waiter.granted:
                with anyio.move_on_after(self._patience(waiter)):
                    await waiter.waker.wait()
                with self.lock:
                    self._grant(waiter.buckets, waiter)
        except BaseException:
            self._leave(waiter)
            raise
        return Lease(self, buckets, slots)

    def _enqueue(self, buckets: tuple[Bucket, ...], slots: float, rank: tuple[bool, float]) -> Waiter:
        with self.lock:
            self._arrivals += 1
            waiter = Waiter(buckets, slots, (*rank, self._arrivals), Waker())
            for bucket in buckets:
                heapq.heappush(bucket.queue, waiter)
            self._grant(buckets)
        return waiter

    def _patience(self, waiter: Waiter) -> float:
        """How long the waiter may sleep before its turn can come by the leak alone."""
        with self.lock:
            return waiter.delay(self._now()) if waiter.leads() and not waiter.granted else math.inf

    def _leave(self, waiter: Waiter) -> None:
        """The waiter was cancelled: forget it, or pass on what it had just been given."""
        with self.lock:
            if waiter.granted:
                self.give_back(waiter.buckets, waiter.slots)
            else:
                waiter.gone = True
                self._grant(waiter.buckets)

    def _find(self, names: Iterable[str], slots: float) -> tuple[Bucket, ...]:
        found = []
        for name in dict.fromkeys(names):
            bucket = self.buckets.get(name)
            if bucket is None:
                raise LimitUnknown(name, self.buckets)
            if slots > bucket.limit.slots:
                raise LimitImpossible(name, slots, bucket.limit.slots)
            found.append(bucket)
        return tuple(found)

    def _take(self, buckets: Iterable[Bucket], slots: float) -> None:
        for bucket in buckets:
            bucket.taken += slots

    def give_back(self, buckets: tuple[Bucket, ...], slots: float) -> None:
        """Return slots and serve whoever is next. The lock is held by the caller."""
        now = self._now()
        for bucket in buckets:
            # What a rate limit took drains away by itself; giving it back would allow bursts above the rate.
            if not bucket.limit.rate:
                bucket.taken = bucket.level(now) - slots
        self._grant(buckets)

    def _grant(self, buckets: Iterable[Bucket], asking: Waiter | None = None) -> None:
        """Serve the heads of these queues for as long as there is room. The lock is held by the caller."""
        now = self._now()
        pending = list(buckets)
        while pending:
            head = pending.pop().head()
            if head is None or not head.leads():
                continue
            delay = head.delay(now)
            if delay > 0:
                # Heading a rate limit's queue is news to it: it has to reckon its own time to wake.
                if head is not asking and delay < math.inf:
                    head.waker.wake()
                continue
            for bucket in head.buckets:
                heapq.heappop(bucket.queue)
            self._take(head.buckets, head.slots)
            head.granted = head.gone = True
            head.waker.wake()
            pending.extend(head.buckets)
