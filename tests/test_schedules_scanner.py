"""Schedules against a scanner that walks through time and asks of each minute, or day, whether it is said.

The scanner knows nothing of the engine's ways. It reads expressions on its own, and it watches the clock of a zone run:
a local minute happens at the first instant at which the clock shows it or has been moved beyond it.
"""

from __future__ import annotations

import calendar
from bisect import bisect_left
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from itertools import islice, pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest
from dateutil.rrule import rrulestr
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from undertow.engine.cron import Cron
from undertow.engine.recurrence import RRule
from undertow.engine.schedules import Schedule, ScheduleInvalid
from undertow.engine.wallclock import furthest, reached
from undertow.engine.zoned import Interval

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
ZONES = sorted(available_timezones())
# Where clocks did odd things: a zone, and a day by which a shift of it comes within 27 hours.
ODD = [
    ("America/Santiago", "2022-09-10"),  # midnight is skipped
    ("America/Santiago", "2023-04-01"),  # midnight to 23:00
    ("America/Sao_Paulo", "2018-11-03"),  # midnight is skipped
    ("America/Sao_Paulo", "2018-02-17"),
    ("Africa/Cairo", "2024-04-25"),
    ("Africa/Cairo", "2024-10-31"),
    ("Asia/Beirut", "2024-03-30"),
    ("Asia/Beirut", "2024-10-26"),
    ("Australia/Lord_Howe", "2026-10-03"),  # half an hour
    ("Australia/Lord_Howe", "2026-04-04"),
    ("Antarctica/Troll", "2026-03-28"),  # two hours
    ("Antarctica/Troll", "2026-10-24"),
    ("Pacific/Apia", "2011-12-29"),  # a day is left out
    ("Pacific/Kwajalein", "1993-08-20"),  # so too, eastwards
    ("Asia/Pyongyang", "2018-05-04"),
    ("Asia/Kathmandu", "1985-12-31"),  # a quarter of an hour
    ("America/Caracas", "2007-12-08"),
    ("Europe/Dublin", "2026-10-24"),  # daylight saving is negative
    ("Europe/London", "2026-03-28"),
    ("Europe/Berlin", "2026-10-24"),
    ("Africa/Casablanca", "2026-02-14"),
    ("America/Goose_Bay", "2010-11-06"),  # at one minute past midnight
    ("Antarctica/Casey", "2020-10-03"),
]


# --- the clock of a zone ---------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def minutes_of(zone: str, begin: datetime, hours: int = 54) -> list[tuple[datetime, datetime]]:
    """The local minutes that the clock of a zone comes to, each with the instant at which it does."""
    clock = ZoneInfo(zone)
    shown = begin.astimezone(clock).replace(tzinfo=None)
    line = []
    for count in range(1, hours * 60 + 1):
        instant = begin + count * MINUTE
        local = instant.astimezone(clock).replace(tzinfo=None, fold=0)
        while shown < local:
            shown += MINUTE
            line.append((shown, instant))
    return line


@st.composite
def around_shifts(draw: st.DrawFn) -> tuple[str, datetime]:
    """Any zone, and an instant a day before one of its shifts since 1973, if the year has one."""
    zone, year = draw(st.sampled_from(ZONES)), draw(st.integers(1973, 2100))
    clock = ZoneInfo(zone)
    days = [datetime(year, 1, 2, tzinfo=UTC) + count * DAY for count in range(363)]
    shifts = [a for a, b in pairwise(days) if a.astimezone(clock).utcoffset() != b.astimezone(clock).utcoffset()]
    begin = draw(st.sampled_from(shifts or days[:1])) - DAY
    shown = begin.astimezone(clock)
    assume(not shown.fold and not shown.second)
    return zone, begin


@settings(max_examples=80, deadline=None)
@given(where=around_shifts())
def test_local_times_of_all_zones(where: tuple[str, datetime]) -> None:
    """In every zone a local time is reached when the clock first shows it or is moved beyond it."""
    clock, line = ZoneInfo(where[0]), minutes_of(*where, 72)
    odd = [place for place, (a, b) in enumerate(pairwise(line), 1) if b[0] - a[0] != b[1] - a[1] or a[1] == b[1]]
    places = {place for at in odd[:2] + odd[-2:] for place in range(at - 2, at + 3)} | {1, len(line) // 3}
    for before, (local, instant) in ((line[place - 1], line[place]) for place in places if 0 < place < len(line)):
        assert reached(local, clock) == instant
        assert furthest(instant, clock) >= local
        between = before[1] + (instant - before[1]) / 2
        assert before[1] == instant or before[0] <= furthest(between, clock) < local


# --- cron expressions, read once more --------------------------------------------------------------------------

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
RANGES = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]


def says(term: str, value: int, low: int, high: int) -> bool:
    """Whether one term of a field says a number."""
    span, _, step = term.partition("/")
    first, _, last = span.partition("-")
    if span == "*":
        begin, end = low, high
    else:
        begin = int(first)
        end = int(last) if last else high if step else begin
    return begin <= value <= end and (value - begin) % int(step or 1) == 0


def says_day(term: str, day: date) -> bool:
    end = calendar.monthrange(day.year, day.month)[1]
    if term == "L":
        return day.day == end
    if term == "LW":
        return day.day == max(each for each in range(1, end + 1) if day.replace(day=each).weekday() < 5)
    return says(term, day.day, 1, 31)


def says_weekday(term: str, day: date) -> bool:
    names = {day.isoweekday() % 7, 7 if day.isoweekday() == 7 else day.isoweekday()}
    if term.endswith("L"):
        return int(term[:-1]) in names and (day + 7 * DAY).month != day.month
    number, _, nth = term.partition("#")
    if nth:
        return int(number) in names and (day.day - 1) // 7 + 1 == int(nth)
    return any(says(term, each, 0, 7) for each in names)


class Reading:
    """A cron expression of five fields as the scanner reads it."""

    def __init__(self, expression: str, day_or: bool) -> None:
        for number, name in enumerate(MONTHS, 1):
            expression = expression.replace(name, str(number))
        for number, name in enumerate(WEEKDAYS):
            expression = expression.replace(name, str(number))
        fields = expression.split()
        terms = [field.split(",") for field in fields]
        self.minutes, self.hours, _, self.months, _ = (
            {
                value
                for value in range(low, high + 1)
                if any(
                    says(term, value, low, high)
                    for term in field
                    if term[0] not in "L" and "#" not in term and "L" not in term
                )
            }
            for field, (low, high) in zip(terms, RANGES, strict=True)
        )
        self.days, self.weekdays = terms[2], terms[4]
        self.either = day_or and fields[2][0] != "*" and fields[4][0] != "*"
        self.on_day = lru_cache(maxsize=None)(self._on_day)

    def _on_day(self, day: date) -> bool:
        fits = [any(says_day(each, day) for each in self.days), any(says_weekday(each, day) for each in self.weekdays)]
        return day.month in self.months and (any(fits) if self.either else all(fits))

    def __call__(self, local: datetime) -> bool:
        return local.minute in self.minutes and local.hour in self.hours and self.on_day(local.date())


def fires(schedule: Schedule, after: datetime, until: datetime, most: int = 5000) -> list[datetime]:
    """The times later than one instant and up to another."""
    times: list[datetime] = []
    while len(times) < most and (time := schedule.next(after)) is not None and time <= until:
        times.append(after := time)
    return times


EXPRESSIONS = [
    "0 0 * * *",
    "30 0 * * *",
    "59 23 * * *",
    "15,45 1-3 * * *",
    "*/10 * * * *",
    "7/20 0-6/2 * * *",
    "0 */5 * * sat,sun",
    "30 2 1,15,L * 7",
]


@pytest.mark.parametrize(("zone", "day"), ODD)
def test_cron_where_clocks_are_odd(zone: str, day: str) -> None:
    """Where a zone did something odd, expressions fire at the instants that a minute scanner finds, and at no others."""
    begin = datetime.fromisoformat(day).replace(tzinfo=UTC) - 3 * HOUR
    line = minutes_of(zone, begin)
    assert any(b[0] - a[0] != b[1] - a[1] for a, b in pairwise(line)), "no shift here"
    for expression in EXPRESSIONS:
        reading = Reading(expression, day_or=True)
        expected = sorted({instant for local, instant in line if reading(local)})
        assert fires(Cron(expression, timezone=zone), begin, line[-1][1]) == expected, expression


@pytest.mark.parametrize(("zone", "day"), ODD)
def test_intervals_where_clocks_are_odd(zone: str, day: str) -> None:
    """An interval of days keeps its local time through odd shifts, and one of hours keeps its distance."""
    begin = datetime.fromisoformat(day).replace(tzinfo=UTC) - 3 * HOUR
    line = minutes_of(zone, begin)
    for minute in (0, 30, 23 * 60 + 45):
        anchor = datetime(2003, 6, 1, tzinfo=ZoneInfo(zone)) + minute * MINUTE
        daily = Interval(DAY, anchor=anchor)
        expected = {instant for local, instant in line if local.hour * 60 + local.minute == minute}
        assert fires(daily, begin, line[-1][1]) == sorted(expected)
    times = fires(Interval(HOUR, timezone=zone), begin, line[-1][1])
    assert {later - earlier for earlier, later in pairwise(times)} == {HOUR}


def field(
    place: int, names: list[str] | None = None, special: st.SearchStrategy[str] | None = None
) -> st.SearchStrategy[str]:
    low, high = RANGES[place]
    number = st.integers(low, high)
    span = st.tuples(number, number).map(lambda pair: f"{min(pair)}-{max(pair)}")
    step = st.integers(1, high).map(lambda size: f"/{size}")
    terms = [
        number.map(str),
        span,
        st.tuples(span, step).map("".join),
        st.tuples(number.map(str), step).map("".join),
        step.map(lambda each: f"*{each}"),
    ]
    if names is not None:
        terms.append(st.sampled_from(names))
    if special is not None:
        terms.append(special)
    return st.just("*") | st.lists(st.one_of(terms), min_size=1, max_size=3).map(",".join)


nth_weekdays = st.tuples(st.integers(0, 7), st.integers(1, 5)).map(lambda pair: f"{pair[0]}#{pair[1]}")
last_weekdays = st.integers(0, 7).map(lambda day: f"{day}L")
day_fields = st.tuples(
    field(2, special=st.sampled_from(["L", "LW"])), field(3, MONTHS), field(4, WEEKDAYS, nth_weekdays | last_weekdays)
).map(" ".join)


@settings(max_examples=120, deadline=None)
@given(
    clock=st.tuples(field(0), field(1)).map(" ".join), days=st.just("* * *") | day_fields, where=st.sampled_from(ODD)
)
def test_any_expression_where_clocks_are_odd(clock: str, days: str, where: tuple[str, str]) -> None:
    """Any expression fires at the instants that a minute scanner finds for it around an odd shift."""
    begin = datetime.fromisoformat(where[1]).replace(tzinfo=UTC) - 3 * HOUR
    line = minutes_of(where[0], begin)
    reading = Reading(f"{clock} {days}", day_or=True)
    expected = sorted({instant for local, instant in line if reading(local)})
    try:
        schedule = Cron(f"{clock} {days}", timezone=where[0])
    except ScheduleInvalid:
        assert expected == []
        return
    shift = next(b[1] for a, b in pairwise(line) if b[0] - a[0] != b[1] - a[1])
    place = max(0, bisect_left(expected, shift) - 20)  # a frequent one is looked at near the shift only
    after = expected[place - 1] if place else begin
    assert fires(schedule, after, line[-1][1], 40) == expected[place:][:40]


@settings(max_examples=120, deadline=None)
@given(days=day_fields, day_or=st.booleans(), year=st.integers(1970, 2100))
def test_any_days(days: str, day_or: bool, year: int) -> None:
    """Any fields of days, months and weekdays, taken together or either, fire on the days that a day scanner finds."""
    reading = Reading(f"0 0 {days}", day_or)
    begin = datetime(year, 1, 1)
    expected = [day for count in range(1200) if reading(day := begin + count * DAY)]
    try:
        schedule = Cron(f"0 0 {days}", day_or=day_or)
    except ScheduleInvalid:
        assert expected == []
        return
    begin = begin.replace(tzinfo=UTC)
    found = fires(schedule, begin - MINUTE, begin + 1199 * DAY, 25)
    assert [time.replace(tzinfo=None) for time in found] == expected[:25]


# --- recurrence rules ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("FREQ=MONTHLY;BYDAY=-1FR", ["1997-09-26", "1997-10-31", "1997-11-28"]),
        ("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-2", ["1997-09-29", "1997-10-30", "1997-11-27"]),
        ("FREQ=WEEKLY;INTERVAL=2;WKST=SU;BYDAY=TU,TH", ["1997-09-02", "1997-09-04", "1997-09-16"]),
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=TU,SU;WKST=MO", ["1997-09-02", "1997-09-07", "1997-09-16"]),
        ("FREQ=WEEKLY;INTERVAL=2;BYDAY=TU,SU;WKST=SU", ["1997-09-02", "1997-09-14", "1997-09-16"]),
        ("FREQ=YEARLY;BYWEEKNO=20;BYDAY=MO", ["1998-05-11", "1999-05-17", "2000-05-15"]),
        ("FREQ=YEARLY;BYWEEKNO=20", ["1998-05-12", "1999-05-18", "2000-05-16"]),
        ("FREQ=YEARLY;BYWEEKNO=1;BYDAY=MO;WKST=SU", ["1998-01-05", "1999-01-04", "2000-01-03"]),
        ("FREQ=YEARLY;BYDAY=20MO", ["1998-05-18", "1999-05-17", "2000-05-15"]),
        ("FREQ=YEARLY;INTERVAL=3;BYYEARDAY=1,100,200", ["2000-01-01", "2000-04-09", "2000-07-18"]),
        ("FREQ=MONTHLY;BYDAY=FR;BYMONTHDAY=13", ["1998-02-13", "1998-03-13", "1998-11-13"]),
        ("FREQ=YEARLY", ["1997-09-02", "1998-09-02", "1999-09-02"]),
        ("FREQ=MONTHLY;INTERVAL=5", ["1997-09-02", "1998-02-02", "1998-07-02"]),
        ("FREQ=DAILY;INTERVAL=10;COUNT=2", ["1997-09-02", "1997-09-12"]),
        ("FREQ=DAILY;BYMONTH=1;UNTIL=19980102T130000Z", ["1998-01-01", "1998-01-02"]),
        ("FREQ=DAILY;BYMONTH=1;UNTIL=19980102T125959Z", ["1998-01-01"]),
        ("FREQ=DAILY;BYMONTH=1;UNTIL=19980102T080000", ["1998-01-01", "1998-01-02"]),
    ],
)
def test_rules(rule: str, expected: list[str]) -> None:
    """Recurrence rules mean what the standard of calendars says they do."""
    schedule = RRule(f"DTSTART;TZID=America/New_York:19970902T080000\nRRULE:{rule}")
    found = fires(schedule, datetime(1997, 1, 1, tzinfo=UTC), datetime(2001, 1, 1, tzinfo=UTC))[:3]
    assert [f"{time:%Y-%m-%d}" for time in found] == expected
    assert {time.hour for time in found} == {8}


def test_rule_that_begins_at_an_instant() -> None:
    """A DTSTART in UTC is the local time that the zone's clock shows then, and the rule keeps that local time."""
    schedule = RRule("DTSTART:20260101T080000Z\nFREQ=MONTHLY;COUNT=7", timezone="Europe/Berlin")
    found = fires(schedule, datetime(2025, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    assert [f"{time:%m-%d %H:%M}" for time in found] == [f"0{month}-01 09:00" for month in range(1, 8)]


def part(name: str, low: int, high: int, *, ends: bool = False) -> st.SearchStrategy[str]:
    numbers = st.integers(low, high) | (st.integers(-high, -low) if ends else st.nothing())
    listed = st.lists(numbers, min_size=1, max_size=3).map(lambda each: f";{name}={','.join(map(str, each))}")
    return st.just("") | listed


weekday = st.sampled_from(["MO", "TU", "WE", "TH", "FR", "SA", "SU"])
weekdays = st.just("") | st.lists(weekday, min_size=1, max_size=3).map(lambda each: f";BYDAY={','.join(each)}")
wkst = weekday.map(lambda each: f";WKST={each}")
nth = st.tuples(st.sampled_from(["", "1", "2", "-1", "-2"]), weekday).map("".join)
nth_days = st.just("") | st.lists(nth, min_size=1, max_size=3).map(lambda each: f";BYDAY={','.join(each)}")
times = st.tuples(part("BYHOUR", 0, 23), part("BYMINUTE", 0, 59), part("BYMONTH", 1, 12)).map("".join)
interval = st.integers(1, 12).map(lambda each: f";INTERVAL={each}")
rules = st.one_of(
    st.tuples(st.just("FREQ=YEARLY"), interval, times, nth_days, part("BYYEARDAY", 1, 366, ends=True)),
    st.tuples(
        st.just("FREQ=YEARLY"),
        times,
        weekdays.filter(bool),
        part("BYWEEKNO", 1, 53),
        wkst,
        part("BYSETPOS", 1, 9, ends=True),
    ),
    st.tuples(st.just("FREQ=MONTHLY"), interval, times, nth_days, part("BYMONTHDAY", 1, 31, ends=True)),
    st.tuples(st.just("FREQ=MONTHLY"), interval, times, weekdays, part("BYSETPOS", 1, 5, ends=True)),
    st.tuples(st.sampled_from(["FREQ=WEEKLY", "FREQ=DAILY"]), interval, times, weekdays),
    st.tuples(st.just("FREQ=WEEKLY"), interval, weekdays, wkst),
    st.tuples(st.just("FREQ=HOURLY"), st.sampled_from(["", ";INTERVAL=6"]), times, weekdays),
    st.tuples(st.just("FREQ=MINUTELY"), st.sampled_from(["", ";INTERVAL=90"]), times, weekdays),
).map("".join)


@settings(max_examples=150, deadline=None)
@given(rule=rules, start=st.datetimes(datetime(1990, 1, 1), datetime(2030, 1, 1)))
def test_any_rule(rule: str, start: datetime) -> None:
    """A rule fires when it does for a reader that walks through it from its start, occurrence by occurrence."""
    text = f"DTSTART:{start:%Y%m%dT%H%M%S}\nRRULE:{rule}"
    try:
        schedule = RRule(text)
    except ScheduleInvalid:
        assume(False)
    found = fires(schedule, start.replace(tzinfo=UTC) - 31 * DAY, start.replace(tzinfo=UTC) + 366 * DAY, 20)
    assert [time.replace(tzinfo=None) for time in found] == list(islice(rrulestr(text), len(found)))
