"""Concurrency and rate limits as they are declared, and the port to where those are counted that processes share.

A `Limit` is so many slots. A *rate* limit is the same with a leak: what was taken drains away at a steady rate (a
continuous leaky bucket), whether or not it is given back. Nothing here grants a slot to anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

import attrs

from .errors import InvalidOption
from .options import check_one_of, is_number
from .waking import Reply

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _positive(option: str, value: float) -> float:
    if not is_number(value) or not value > 0:
        raise InvalidOption(option, value, "a number above 0")
    return value


def _period(text: str | float) -> float:
    """Seconds in `"1s"`, `"5m"`, `"1h"`, `"1d"`, or a number of seconds."""
    if isinstance(text, str):
        number, unit = text[:-1], text[-1:]
        if unit in _UNITS and number.replace(".", "", 1).isdigit() and float(number) > 0:
            return float(number) * _UNITS[unit]
        raise InvalidOption("per", text, 'seconds, or a text such as "1s", "5m", "1h" or "1d"')
    return _positive("per", text)


@attrs.frozen
class Limit:
    """At most `slots` at a time; with `rate`, slots also drain away at `rate` a second.

    With `shared=True` in all processes together that use the journal: each that declares the limit so.
    """

    slots: float
    rate: float = 0.0
    shared: bool = attrs.field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        for option, value in (("slots", self.slots), ("rate", self.rate)):
            if not is_number(value) or not value >= 0:
                raise InvalidOption(option, value, "a number, 0 or more")
        if not isinstance(self.shared, bool):
            raise InvalidOption("shared", self.shared, "True or False")


def RateLimit(times: float, per: str | float = "1s", burst: float | None = None, *, shared: bool = False) -> Limit:
    """`times` a period on average, at most `burst` (default: `times`) at once: `RateLimit(5, per="1s")`.

    `per` is a number of seconds or a text such as `"1s"`, `"5m"`, `"1h"`, `"1d"`. Raises `InvalidOption`.
    """
    rate = _positive("times", times) / _period(per)
    return Limit(max(times, 1) if burst is None else _positive("burst", burst), rate, shared=shared)


LimitLike: TypeAlias = int | float | Limit


@attrs.frozen
class ConcurrencyLimit:
    """At most `limit` runs of one task or flow at a time; `collision_strategy` says what becomes of one too many.

    `"ENQUEUE"` has it wait, `"CANCEL_NEW"` ends it Cancelled.
    """

    limit: int
    collision_strategy: str = "ENQUEUE"

    def __attrs_post_init__(self) -> None:
        check_one_of("collision_strategy", self.collision_strategy, ("ENQUEUE", "CANCEL_NEW"))


def read_concurrency_limit(value: int | ConcurrencyLimit | None) -> ConcurrencyLimit | None:
    """What the option `concurrency_limit` says. Raises `InvalidOption`."""
    limit = ConcurrencyLimit(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if limit is None:
        return None
    if not isinstance(limit, ConcurrencyLimit) or not isinstance(limit.limit, int) or limit.limit < 1:
        raise InvalidOption("concurrency_limit", value, "a whole number, 1 or more, or a ConcurrencyLimit(...)")
    return limit


class Pool(Protocol):
    """Where the slots are counted that processes share."""

    def take(self, holder: str, limits: Mapping[str, Limit], slots: float, /) -> Reply[bool]:
        """Take the slots of all these limits for that holder, or none; whether it has them."""
        ...

    def give(self, holder: str, /) -> None:
        """Give back what the holder has, or is about to be granted."""
        ...
