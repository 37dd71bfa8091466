"""`concurrency(...)` and `rate_limit(...)`: taking slots of limits by hand, from async code and from threads."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import cast

from anyio.from_thread import run as run_in_loop

from .context import CURRENT, core_here
from .core import Core
from .errors import InvalidOption, LimitUnknown, WouldBlock
from .granting import HELD, Lease
from .options import is_number
from .waking import in_event_loop, standing_aside


class concurrency:
    """Hold slots of one or several limits for a block: `async with` in async code, `with` in a thread.

        async with concurrency("github", "db", timeout_seconds=5): ...

    All the slots are taken together. Raises `LimitUnknown`, `LimitImpossible`, and `SlotTimeout`.
    """

    def __init__(self, *names: str | Iterable[str], occupy: float = 1, timeout_seconds: float | None = None) -> None:
        self._names = _flat(names)
        self._slots = _occupy(occupy)
        self._timeout = timeout_seconds
        self._lease: Lease | None = None

    async def __aenter__(self) -> None:
        limits = core_here().limits
        self._hold(await limits.acquire(self._names, self._slots, timeout=self._timeout, inside=_inside()))

    def _hold(self, lease: Lease) -> None:
        self._lease = lease
        HELD.set((*HELD.get(), lease))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._release()

    def __enter__(self) -> None:
        self._hold(_take_in_thread(self._names, self._slots, self._timeout))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._release()

    def _release(self) -> None:
        if self._lease is not None:
            # Not by a token: the block may end in another context than it began in, as in a fixture.
            HELD.set(tuple(lease for lease in HELD.get() if lease is not self._lease))
            self._lease.release()
            self._lease = None


class rate_limit:
    """Wait until a rate limit lets one more through: `await rate_limit("api")`; in a thread `rate_limit("api").wait()`.

    Also `async with` and `with`. Nothing is given back: the slots drain away at the limit's rate. Raises
    `LimitUnknown`, `SlotTimeout`, and `InvalidOption` for a limit that has no rate.
    """

    def __init__(self, *names: str | Iterable[str], occupy: float = 1, timeout_seconds: float | None = None) -> None:
        self._names = _flat(names)
        self._slots = _occupy(occupy)
        self._timeout = timeout_seconds

    def _check(self, core: Core) -> None:
        for name in self._names:
            bucket = core.limits.buckets.get(name)
            if bucket is None:
                raise LimitUnknown(name, core.limits.buckets)
            if not bucket.limit.rate:
                raise InvalidOption("rate_limit", name, "a limit with a rate, such as RateLimit(5, per='1s')")

    def __await__(self):  # type: ignore[no-untyped-def]
        return self.__aenter__().__await__()

    async def __aenter__(self) -> None:
        core = core_here()
        self._check(core)
        await core.limits.acquire(self._names, self._slots, timeout=self._timeout, inside=_inside())

    async def __aexit__(self, *_: object) -> None:
        """Nothing to give back."""

    def wait(self) -> None:
        """Wait in a thread."""
        self._check(core_here())
        _take_in_thread(self._names, self._slots, self._timeout)

    def __enter__(self) -> None:
        self.wait()

    def __exit__(self, *_: object) -> None:
        """Nothing to give back."""


def _occupy(slots: float) -> float:
    if not is_number(slots) or not slots > 0:
        raise InvalidOption("occupy", slots, "a number of slots above 0")
    return slots


def _inside() -> bool:
    """Whether slots are held around a call made here, by a block or by the runs that it is in."""
    run = CURRENT.get()
    return bool(HELD.get()) or (run is not None and any(each.leases for each in run.ancestors()))


def _flat(names: Iterable[str | Iterable[str]]) -> tuple[str, ...]:
    groups = (each if isinstance(each, list | tuple | set | frozenset) else (each,) for each in names)
    flat = tuple(name for group in groups for name in group)
    if not flat or not all(isinstance(name, str) for name in flat):
        raise InvalidOption("names", flat, "one name of a limit or more")
    return cast("tuple[str, ...]", flat)


def _take_in_thread(names: tuple[str, ...], slots: float, timeout: float | None) -> Lease:
    core = core_here()
    inside = _inside()
    lease = core.limits.try_acquire(names, slots, inside=inside)
    if lease is not None:
        return lease
    listed = ", ".join(map(repr, names))
    if in_event_loop():
        raise WouldBlock(f"Waiting for a slot of {listed}", f"async with concurrency({listed})")
    run = CURRENT.get()
    host = run.host if run is not None and run.host is not None else core.portal.host()

    async def wait() -> Lease:
        return await core.limits.acquire(names, slots, timeout=timeout, inside=inside)

    with standing_aside():
        return run_in_loop(wait, token=host.token)
