"""Moments as people write them: `2026-01-31`, `2026-01-31 14:00`, `14:00`, `today`, `yesterday`, `90min`, `2h`, `3d`.

What names no time zone is meant in the machine's own. The clock is an argument.
"""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta

from ..engine.errors import UndertowError
from .wording import EPOCH

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


def moment(given: str, now: datetime) -> int:
    """The moment in microseconds since 1970. Raises `MomentUnreadable`."""
    text = given.strip().lower()
    try:
        found = _relative(text, now) or datetime.fromisoformat(text.upper())
        return (found.astimezone() - EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        raise MomentUnreadable(given) from None


def _relative(text: str, now: datetime) -> datetime | None:
    if text == "now":
        return now
    if text in _DAYS:
        return datetime.combine(now.astimezone().date() - timedelta(days=_DAYS[text]), time())
    if ago := _AGO.fullmatch(text):
        return now - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
    if _CLOCK.fullmatch(text):
        return datetime.combine(now.astimezone().date(), time.fromisoformat(text))
    return None
