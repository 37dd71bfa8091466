"""Recurrence rules of iCalendar (RFC 5545). The library `dateutil` says which days of a month or of a year fit.

It is asked for one month or year at a time, with an INTERVAL so high that it stops after that: left to itself it counts
from DTSTART each time, and looks for a fire that never comes until the year 9999. The months, weeks and days that the
rule's own INTERVAL leaves out, and the times of a day, are worked out here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time
from itertools import islice, product
from typing import Any
from zoneinfo import ZoneInfo

import attrs
from dateutil.rrule import rrulestr  # type: ignore[import-untyped]

from .schedules import BEGINNING, END, ScheduleInvalid, check_expression
from .wallclock import furthest
from .zoned import REFERENCE, Zoned, as_key, check_zone

# So many months, or years of a yearly rule, are looked at for the next fire, and for all those that COUNT counts. What
# recurs each year or month at all, such as a Monday that is 29 February, does so within 40 years.
_LOOKAHEAD, _YEARS_AHEAD = 500, 100
_ONE_PERIOD = 120_000  # an INTERVAL that leads out of the calendar
_MAX_COUNT, _MAX_INTERVAL = 10_000, 1_000
_MAX_TIMES = 1_440  # in a day

_FREQUENCIES = ("YEARLY", "MONTHLY", "WEEKLY", "DAILY", "HOURLY", "MINUTELY")
_WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
# The numbers that a part may have, whether they may count from the end, and the frequencies that may have the part.
_NUMBERS = {
    "BYMONTH": (1, 12, False, _FREQUENCIES),
    "BYMONTHDAY": (1, 31, True, _FREQUENCIES),
    "BYYEARDAY": (1, 366, True, ("YEARLY", "HOURLY", "MINUTELY")),
    "BYWEEKNO": (1, 53, True, ("YEARLY",)),
    "BYSETPOS": (1, 366, True, ("YEARLY", "MONTHLY")),
    "BYHOUR": (0, 23, False, _FREQUENCIES),
    "BYMINUTE": (0, 59, False, _FREQUENCIES),
    "BYSECOND": (0, 59, False, _FREQUENCIES),
}
_NAMES = ("FREQ", "INTERVAL", "COUNT", "UNTIL", "WKST", "BYDAY", *_NUMBERS)
_OF_DAYS = ("BYMONTH", "BYMONTHDAY", "BYYEARDAY", "BYWEEKNO", "BYDAY")

_TEXT = re.compile(r"(DTSTART(?:;TZID=(?P<zone>[^\s:;]+))?:(?P<start>\w+)\s+)?(RRULE:)?(?P<rule>\S+)", re.A | re.I)
_STAMP = re.compile(r"\d{8}T\d{6}Z?", re.A)
_NUMBER = re.compile(r"[+-]?\d{1,5}", re.A)
_WEEKDAY = re.compile(r"(?P<nth>[+-]?[1-9]\d?)?(MO|TU|WE|TH|FR|SA|SU)", re.A)


@attrs.frozen(repr=False)
class RRule(Zoned):
    """What a recurrence rule says: `RRule("FREQ=MONTHLY;BYDAY=-1FR;BYHOUR=17", timezone="Europe/Berlin")`.

    A line `DTSTART:20260101T090000` may stand before it. The rule counts from there, and takes from it what it doesn't
    say itself, such as the time of day; without it that is midnight of 1 January 2001. Times are local ones of
    `timezone` (else of DTSTART's TZID, else UTC), or UTC with a Z at the end. FREQ may be anything but SECONDLY, and an
    INTERVAL of hours or minutes must divide the day. There is no EXDATE and no RDATE: `|` adds times. A rule that
    pauses for more than 40 years (if YEARLY, for more than 100 of the years that it counts) has ended.
    """

    kind = "rrule"
    subject = "rule"

    rule: str
    timezone: str = attrs.field(default="", converter=as_key, kw_only=True)
    _meaning: _Meaning = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        check_expression("RRule", "rule", self.rule)
        text = _TEXT.fullmatch(self.rule.strip())
        if text is None:
            reason = "it must be FREQ=...;..., with a line DTSTART:20260101T090000 before it or without"
            raise ScheduleInvalid("RRule", "rule", self.rule, reason)
        object.__setattr__(self, "timezone", self.timezone or text["zone"] or "UTC")
        check_zone("RRule", self.timezone)
        try:
            if text["zone"] not in (None, self.timezone):
                raise ValueError(f"its TZID is {text['zone']!r} and its timezone {self.timezone!r}")
            meaning = _read(text["start"], text["rule"].upper(), self.zone)
        except ValueError as error:
            raise ScheduleInvalid("RRule", "rule", self.rule, str(error)) from None
        object.__setattr__(self, "_meaning", meaning)
        super().__attrs_post_init__()

    def _next_local(self, local: datetime) -> datetime | None:
        last = self._meaning.last or datetime.max
        later = (each for each in self._meaning.since(local) if each > local)
        found = next(later, None) if local < last else None
        return found if found is not None and found <= last else None


@attrs.frozen
class _Meaning:
    """A rule as it was understood, in local times."""

    frequency: str
    interval: int
    begin: datetime
    last: datetime | None
    months: frozenset[int]
    week_start: int
    times: tuple[time, ...]
    positions: tuple[int, ...]
    days: Any  # dateutil's rule for the days of the month or year that its dtstart is in

    def since(self, local: datetime) -> Iterator[datetime]:
        """The times from that of `local` on, in order, as far as one looks ahead."""
        local = max(local, self.begin)
        ahead = _YEARS_AHEAD if self.frequency == "YEARLY" else _LOOKAHEAD
        for first in islice(self._periods(local), ahead):
            days = [each.date() for each in self.days.replace(dtstart=first) if self._in_turn(each)]
            if self.positions:
                chosen = self._at_positions(days)
            else:
                today = local.date()
                chosen = (datetime.combine(day, each) for day in days if day >= today for each in self.times)
            yield from (each for each in chosen if each >= local)

    def _periods(self, local: datetime) -> Iterator[datetime]:
        """The first days of the years or months to look at, from the one of `local` on."""
        yearly = self.frequency == "YEARLY"
        step = self.interval * 12 if yearly else self.interval if self.frequency == "MONTHLY" else 1
        origin = self.begin.year * 12 + (0 if yearly else self.begin.month - 1)
        current = local.year * 12 + local.month - 1
        for index in range(current - (current - origin) % step, 10_000 * 12, step):
            year, month = divmod(index, 12)
            if yearly or not self.months or month + 1 in self.months:
                yield datetime(year, month + 1, 1)

    def _in_turn(self, day: date) -> bool:
        """Whether the INTERVAL of a daily or weekly rule comes to this day."""
        if self.frequency == "DAILY":
            return (day.toordinal() - self.begin.toordinal()) % self.interval == 0
        if self.frequency == "WEEKLY":
            return (self._week(day) - self._week(self.begin)) % self.interval == 0
        return True

    def _week(self, day: date) -> int:
        return (day.toordinal() - 1 - self.week_start) // 7  # day 1 was a Monday

    def _at_positions(self, days: list[date]) -> Iterator[datetime]:
        total = len(days) * len(self.times)
        for index in sorted({each - 1 if each > 0 else total + each for each in self.positions}):
            if 0 <= index < total:
                day, at = divmod(index, len(self.times))
                yield datetime.combine(days[day], self.times[at])


def _read(start: str | None, rule: str, zone: ZoneInfo) -> _Meaning:
    """What a rule means, given its DTSTART. Raises `ValueError`."""
    parts = _parts(rule)
    frequency = parts["FREQ"]
    begin = REFERENCE if start is None else _stamp("DTSTART", start.upper())
    last = _stamp("UNTIL", parts["UNTIL"]) if "UNTIL" in parts else None
    if begin.tzinfo is not None:
        begin = begin.astimezone(zone).replace(tzinfo=None, fold=0)
    interval = _within("INTERVAL", parts.get("INTERVAL", "1"), 1, _MAX_INTERVAL)
    whole = {"HOURLY": 24, "MINUTELY": 1_440}.get(frequency, 0)
    if whole % interval:
        raise ValueError(f"an INTERVAL of FREQ={frequency} must divide {whole}; Interval(...) takes any span")
    meaning = _Meaning(
        frequency=frequency,
        interval=interval,
        begin=begin,
        last=last if last is None or last.tzinfo is None else furthest(last, zone),
        months=frozenset(_numbers("BYMONTH", parts)),
        week_start=_WEEKDAYS.index(parts.get("WKST", "MO")),
        times=_times(frequency, interval, begin, parts),
        positions=tuple(_numbers("BYSETPOS", parts)),
        days=_days(frequency, begin, parts),
    )
    return _counted(meaning, parts["COUNT"], start) if "COUNT" in parts else meaning


def _counted(meaning: _Meaning, count: str, start: str | None) -> _Meaning:
    wanted = _within("COUNT", count, 1, _MAX_COUNT)
    if start is None or meaning.last is not None:
        raise ValueError("COUNT needs a DTSTART to count from, and can't stand with UNTIL")
    counted = list(islice(meaning.since(meaning.begin), wanted))
    if len(counted) < wanted:
        raise ValueError(f"COUNT={count} reaches too far ahead; say UNTIL" if counted else "it never fires")
    return attrs.evolve(meaning, last=counted[-1])


def _parts(rule: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    for part in rule.split(";"):
        name, _, value = part.partition("=")
        if name not in _NAMES or not value:
            raise ValueError(f"{part!r} is not one of its parts, which are {', '.join(_NAMES)}, each with =...")
        if name in parts:
            raise ValueError(f"{name} is said twice")
        parts[name] = value
    frequency = parts.get("FREQ")
    if frequency not in _FREQUENCIES:
        raise ValueError(f"FREQ must be one of {', '.join(_FREQUENCIES)}")
    if parts.get("WKST", "MO") not in _WEEKDAYS:
        raise ValueError(f"WKST must be one of {', '.join(_WEEKDAYS)}")
    for name, (_, _, _, frequencies) in _NUMBERS.items():
        if name in parts and frequency not in frequencies:
            raise ValueError(f"{name} can't stand with FREQ={frequency}")
        _numbers(name, parts)
    if "BYDAY" in parts:
        _check_weekdays(parts)
    return parts


def _check_weekdays(parts: Mapping[str, str]) -> None:
    yearly, weeks, months = parts["FREQ"] == "YEARLY", "BYWEEKNO" in parts, "BYMONTH" in parts
    most = 0 if weeks or parts["FREQ"] not in ("YEARLY", "MONTHLY") else 53 if yearly and not months else 5
    for day in parts["BYDAY"].split(","):
        found = _WEEKDAY.fullmatch(day)
        if found is None or abs(int(found["nth"] or 0)) > most:
            counted = f", also counted as in 2MO or -1FR, up to {most}" if most else ""
            raise ValueError(f"BYDAY has {day!r}; here it takes {', '.join(_WEEKDAYS)}{counted}")


def _within(name: str, text: str, low: int, high: int, *, from_end: bool = False) -> int:
    number = int(text) if _NUMBER.fullmatch(text) else None
    if number is None or not low <= (abs(number) if from_end else number) <= high:
        raise ValueError(f"{name} has {text!r}; it takes {low} to {high}{', or that with a minus' if from_end else ''}")
    return number


def _numbers(name: str, parts: Mapping[str, str]) -> list[int]:
    low, high, from_end, _ = _NUMBERS[name]
    texts = parts[name].split(",") if name in parts else []
    return [_within(name, each, low, high, from_end=from_end) for each in texts]


def _stamp(name: str, text: str) -> datetime:
    """A date and time: naive if it is a local one, else in UTC."""
    zulu = text.endswith("Z")
    try:
        said = datetime.strptime(text.removesuffix("Z"), "%Y%m%dT%H%M%S") if _STAMP.fullmatch(text) else datetime.min
    except ValueError:
        said = datetime.min
    if not BEGINNING.year <= said.year <= END.year:
        raise ValueError(f"{name} has {text!r}; it must be a date and a time, such as 20260131T090000 (UTC with a Z)")
    return said.replace(tzinfo=UTC) if zulu else said


def _times(frequency: str, interval: int, begin: datetime, parts: Mapping[str, str]) -> tuple[time, ...]:
    """The times of day of a rule; with hourly and minutely ones, those that the INTERVAL comes to."""
    within_day = frequency in ("HOURLY", "MINUTELY")
    hours = _numbers("BYHOUR", parts) or (range(24) if within_day else [begin.hour])
    minutes = _numbers("BYMINUTE", parts) or (range(60) if frequency == "MINUTELY" else [begin.minute])
    seconds = _numbers("BYSECOND", parts) or [begin.second]

    def in_turn(hour: int, minute: int) -> bool:
        if frequency == "HOURLY":
            return (hour - begin.hour) % interval == 0
        return frequency != "MINUTELY" or (hour * 60 + minute - begin.hour * 60 - begin.minute) % interval == 0

    times = {time(*each) for each in product(hours, minutes, seconds) if in_turn(*each[:2])}
    if not 0 < len(times) <= _MAX_TIMES:
        raise ValueError(f"it comes to {len(times)} times in a day; from 1 to {_MAX_TIMES} are possible")
    return tuple(sorted(times))


def _days(frequency: str, begin: datetime, parts: Mapping[str, str]) -> Any:
    """dateutil's rule for the days of one month or year; what the rule leaves open about them is as in `begin`."""
    said = {name: parts[name] for name in _OF_DAYS if name in parts}
    if said.keys() <= {"BYMONTH", "BYWEEKNO"}:
        if frequency == "WEEKLY" or "BYWEEKNO" in said:
            said["BYDAY"] = _WEEKDAYS[begin.weekday()]
        elif frequency in ("YEARLY", "MONTHLY"):
            said["BYMONTHDAY"] = str(begin.day)
            if frequency == "YEARLY":
                said.setdefault("BYMONTH", str(begin.month))
        else:
            said["BYDAY"] = ",".join(_WEEKDAYS)
    period = "YEARLY" if frequency == "YEARLY" else "MONTHLY"
    filters = ";".join(f"{name}={value}" for name, value in said.items())
    start_of_week = parts.get("WKST", "MO")
    return rrulestr(f"FREQ={period};INTERVAL={_ONE_PERIOD};WKST={start_of_week};{filters}", dtstart=REFERENCE)
