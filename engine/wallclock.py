"""The wall clock of a time zone: when it first shows a local time, and how far it has come by some instant.

Both functions are monotonic and undo each other, whatever the zone does: a local time that a shift skips is reached at
the shift, and one that a shift repeats is reached when it is first shown. Local times are naive datetimes, instants are
in UTC. Schedules that speak of local times stand on these two; nothing else here knows of schedules.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache
from zoneinfo import ZoneInfo

_SECOND = timedelta(seconds=1)


@lru_cache(maxsize=1024)
def zone_named(key: str) -> ZoneInfo:
    """The zone of that name. Raises `LookupError`, `ValueError` or `OSError` where there is none."""
    return ZoneInfo(key)


def reached(local: datetime, zone: ZoneInfo) -> datetime:
    """The first instant at which the clock shows `local`, or has been moved beyond it."""
    aware = local.replace(tzinfo=zone, fold=0)
    instant = aware.astimezone(UTC)
    if instant.astimezone(zone).replace(tzinfo=None, fold=0) == local:
        return instant
    # Skipped. Read with the offset from before the shift it lies after the shift, and the other way around.
    return _shift(aware.replace(fold=1).astimezone(UTC), instant, zone)


def furthest(instant: datetime, zone: ZoneInfo) -> datetime:
    """The latest local time that the clock has shown, or has been moved beyond, by `instant`."""
    shown = instant.astimezone(zone)
    local = shown.replace(tzinfo=None, fold=0)
    if not shown.fold:
        return local
    # Shown for the second time. It had come further before it was set back: up to just before the shift.
    first = shown.replace(fold=0).astimezone(UTC)
    shift = _shift(first, instant, zone)
    return shift.replace(tzinfo=None) + _offset(first, zone) - datetime.resolution


def with_offset(instant: datetime, zone: ZoneInfo) -> datetime:
    """`instant` as the clock shows it, at a fixed offset.

    Python compares and subtracts two datetimes of one `ZoneInfo` by what the clock shows, which is wrong across a
    shift; with fixed offsets the arithmetic is that of instants.
    """
    local = instant.astimezone(zone)
    return local.replace(tzinfo=timezone(_offset(instant, zone)), fold=0)


def _offset(instant: datetime, zone: ZoneInfo) -> timedelta:
    offset = instant.astimezone(zone).utcoffset()
    assert offset is not None, zone
    return offset


def _shift(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """The instant between these two at which the zone's offset changes; zones change theirs at whole seconds."""
    low, high = before.replace(microsecond=0), after.replace(microsecond=0) + _SECOND
    offset = _offset(before, zone)
    while high - low > _SECOND:
        middle = low + (high - low) // _SECOND // 2 * _SECOND
        if _offset(middle, zone) == offset:
            low = middle
        else:
            high = middle
    return high
