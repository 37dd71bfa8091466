"""Moments as people write them: `2026-01-31`, `2026-01-31 14:00`, `14:00`, `today`, `yesterday`, `90min`, `2h`, `3d`.

What names no time zone is meant in the one that is given, else in the machine's own. The clock is an argument.
"""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta, tzinfo

from ..engine.errors import UndertowError
from ..engine.states import micros

_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO = re.compile(r"(\d{1,6}(?:\.\d{1,6})?) ?(s|min|h|d|w)")
_CLOCK = re.compile(r"\d\d:\d\d(:\d\d)?")
_DAYS = {"today": 0, "yesterday": 1}


class MomentUnreadable(UndertowError, ValueError):
    """What was given is no moment."""

    def __init__(self, given: str) -> None:
        super().__init__(
            f"{given!r} is no moment. Write a date (2026-01-31), a date and time (2026-01-31T14:00), a time of today "
            "(14:00), today, yesterday, or how long ago: 30s, 90min, 2h, 3d, 1w."
        )


def moment(given: str, now: datetime, zone: tzinfo | None = None) -> int:
    """The moment in microseconds since 1970. Raises `MomentUnreadable`."""
    text = given.strip().lower()
    try:
        found = _relative(text, now, zone) or datetime.fromisoformat(text.upper())
        return _micros(found, zone)
    except (ValueError, OverflowError):
        raise MomentUnreadable(given) from None


def end_of(given: str, now: datetime, zone: tzinfo | None = None) -> int:
    """The last microsecond of the day, where a day is named; else the moment. Raises `MomentUnreadable`."""
    text = given.strip().lower()
    try:
        day = _day(text, now, zone) if text in _DAYS else date.fromisoformat(text)
    except ValueError:
        return moment(given, now, zone)
    return _micros(datetime.combine(day + timedelta(days=1), time()), zone) - 1


def _micros(found: datetime, zone: tzinfo | None) -> int:
    if found.tzinfo is None and zone is not None:
        found = found.replace(tzinfo=zone)
    return micros(found.astimezone())


def _day(text: str, now: datetime, zone: tzinfo | None) -> date:
    return now.astimezone(zone).date() - timedelta(days=_DAYS[text])


def _relative(text: str, now: datetime, zone: tzinfo | None) -> datetime | None:
    if text == "now":
        return now
    if text in _DAYS:
        return datetime.combine(_day(text, now, zone), time())
    if ago := _AGO.fullmatch(text):
        return now - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
    if _CLOCK.fullmatch(text):
        return datetime.combine(now.astimezone(zone).date(), time.fromisoformat(text))
    return None
