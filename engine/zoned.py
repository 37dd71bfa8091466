"""Schedules in the local times of a time zone: what they share, and `Interval`.

A kind of them says which local time comes next; when the clock of the zone shows that is the business of
`wallclock.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from datetime import datetime, timedelta, tzinfo
from difflib import get_close_matches
from zoneinfo import ZoneInfo, available_timezones

import attrs

from .schedules import MAX_LENGTH, Bounded, ScheduleInvalid, check_time, utc
from .wallclock import furthest, reached, with_offset, zone_named

# Where an interval without an anchor and a recurrence rule without a DTSTART count from: midnight, a Monday, the first
# of a month and of a year.
REFERENCE = datetime(2001, 1, 1)
_DAY = timedelta(days=1)
_CENTURY = timedelta(days=36_525)  # to the microsecond it can be written down as seconds


def as_key(timezone: str | tzinfo) -> str:
    """The name of a zone, also of a `ZoneInfo` or of `datetime.UTC`."""
    return str(timezone)


def check_zone(kind: str, timezone: str) -> None:
    """Refuse what is not the name of a time zone."""
    try:
        zone_named(timezone)
    except (LookupError, ValueError, OSError):
        close = get_close_matches(timezone[:MAX_LENGTH], available_timezones(), 3, 0.7)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        reason = f"the database of time zones has none of that name{hint}"
        raise ScheduleInvalid(kind, "timezone", timezone, reason) from None


@attrs.frozen(kw_only=True, repr=False)
class Zoned(Bounded):
    """A schedule that is said in the local times of a time zone.

    A local time that a shift of the clock skips fires at the shift, once with all others that it skips; one that a
    shift repeats fires when it is first shown.
    """

    timezone: str = attrs.field(default="UTC", converter=as_key)

    def __attrs_post_init__(self) -> None:
        check_zone(type(self).__name__, self.timezone)
        super().__attrs_post_init__()

    @property
    def zone(self) -> ZoneInfo:
        return zone_named(self.timezone)

    @abstractmethod
    def _next_local(self, local: datetime) -> datetime | None:
        """The first local time later than `local`, by what is said alone: no zone, no bounds."""

    def _first_after(self, instant: datetime) -> datetime | None:
        local = self._next_local(furthest(instant, self.zone))
        while local is not None:
            fire = reached(local, self.zone)
            if fire > instant:
                return fire
            local = self._next_local(local)
        return None

    def _shown(self, instant: datetime) -> datetime:
        return with_offset(instant, self.zone)


@attrs.frozen(repr=False)
class Interval(Zoned):
    """Every so often, counted from `anchor` in both directions: `Interval(timedelta(hours=6))`.

    Spans of 24 hours and more keep the local hour when the clock shifts; shorter ones are evenly spaced in real time.
    `timezone` is the anchor's, else UTC; without an anchor it counts from midnight of Monday, 1 January 2001.
    """

    kind = "interval"
    subject = "every"

    every: timedelta
    anchor: datetime | None = attrs.field(default=None, kw_only=True)
    timezone: str = attrs.field(default="", converter=as_key, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.every, timedelta) or not timedelta(seconds=1) <= self.every <= _CENTURY:
            reason = "it must be a timedelta of a second or more, a hundred years at most"
            raise ScheduleInvalid("Interval", "every", self.every, reason)
        if self.anchor is not None:
            check_time("Interval", "anchor", self.anchor)
        if not self.timezone:
            own = self.anchor.tzinfo if self.anchor is not None else None
            object.__setattr__(self, "timezone", getattr(own, "key", None) or "UTC")
        if self.anchor is not None:
            object.__setattr__(self, "anchor", utc(self.anchor))
        super().__attrs_post_init__()

    def _next_local(self, local: datetime) -> datetime:
        origin = REFERENCE if self.anchor is None else self.anchor.astimezone(self.zone).replace(tzinfo=None, fold=0)
        return origin + ((local - origin) // self.every + 1) * self.every

    def _first_after(self, instant: datetime) -> datetime | None:
        if self.every >= _DAY:
            return super()._first_after(instant)
        origin = reached(REFERENCE, self.zone) if self.anchor is None else self.anchor
        return origin + ((instant - origin) // self.every + 1) * self.every
