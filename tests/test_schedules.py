"""Schedules as values: what they accept, when they fire, how they are combined and written down, jitter, and cost."""

from __future__ import annotations

import datetime as datetimes
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from time import perf_counter
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from undertow import UndertowError
from undertow.engine.cron import ALIASES, Cron
from undertow.engine.recurrence import RRule
from undertow.engine.schedules import AnyOf, At, Schedule, ScheduleInvalid
from undertow.engine.zoned import Interval

BERLIN = ZoneInfo("Europe/Berlin")
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def fires(schedule: Schedule, after: datetime, count: int) -> list[datetime]:
    """The next times, as many as asked for or as there are."""
    times: list[datetime] = []
    while len(times) < count and (time := schedule.next(times[-1] if times else after)) is not None:
        times.append(time)
    return times


def told(schedule: Schedule, after: datetime, count: int) -> list[str]:
    return [f"{time:%m-%d %H:%M%z}" for time in fires(schedule, after, count)]


EXAMPLES = [
    Cron("0 9 * * mon-fri", timezone="Europe/Berlin"),
    Cron("*/20 0 1 2 3 *", day_or=False, start=datetime(2026, 1, 1, tzinfo=BERLIN), jitter=timedelta(seconds=2.5)),
    Cron("@weekly", timezone="America/Santiago", end=datetime(2026, 12, 31, tzinfo=UTC)),
    Interval(timedelta(minutes=90)),
    Interval(timedelta(days=2, microseconds=5), anchor=datetime(2026, 3, 1, 2, 30, tzinfo=BERLIN)),
    RRule("DTSTART;TZID=Europe/Berlin:20260101T093000\nRRULE:FREQ=WEEKLY;INTERVAL=2;BYDAY=TU,TH"),
    RRule("FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1", timezone="Asia/Tokyo", jitter=HOUR),
    At(datetime(2026, 7, 1, 12, tzinfo=BERLIN)),
    Cron("30 2 * * *", timezone="Europe/Berlin") | Interval(HOUR) | At(datetime(2026, 7, 1, tzinfo=UTC)),
]
any_example = pytest.mark.parametrize("schedule", EXAMPLES, ids=str)
instants = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))


# --- every kind ------------------------------------------------------------------------------------------------


@any_example
@settings(max_examples=20, deadline=None)
@given(after=instants)
def test_next_advances(schedule: Schedule, after: datetime) -> None:
    """The times of a schedule, asked for one after the other, are each later than the one before."""
    times = [after, *fires(schedule, after, 5)]
    assert all(earlier < later for earlier, later in pairwise(times))


@any_example
def test_next_is_the_first(schedule: Schedule) -> None:
    """No time lies between an instant and the next time: asked from anywhere in between, the answer is the same."""
    after = datetime(2026, 3, 28, 22, tzinfo=UTC)
    times = [after, *fires(schedule, after, 8)]
    for earlier, later in pairwise(times):
        assert schedule.next(earlier + (later - earlier) / 2) == later
        assert schedule.next(later - datetime.resolution) == later


@any_example
def test_written_down(schedule: Schedule) -> None:
    """A schedule that is written down as JSON and read again is equal, and gives the same times and delays."""
    again = Schedule.from_dict(json.loads(str(schedule)))
    after = datetime(2026, 3, 1, tzinfo=UTC)
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert str(again) == str(schedule)
    assert fires(again, after, 5) == fires(schedule, after, 5)
    assert [again.due(time) for time in fires(again, after, 5)] == [
        schedule.due(time) for time in fires(again, after, 5)
    ]


@any_example
def test_repr(schedule: Schedule) -> None:
    """The repr of a schedule is an expression that makes an equal one."""
    kinds = {"Cron": Cron, "Interval": Interval, "RRule": RRule, "At": At, "AnyOf": AnyOf}
    assert eval(repr(schedule), {**kinds, "datetime": datetimes}) == schedule  # noqa: S307


@any_example
def test_beyond_the_calendar(schedule: Schedule) -> None:
    """At the ends of what a datetime can say, in any zone, a schedule answers; at the far end there is nothing left."""
    for offset in (UTC, timezone(14 * HOUR), timezone(-12 * HOUR)):
        assert schedule.next(datetime.min.replace(tzinfo=offset)) is not None
        assert schedule.next(datetime.max.replace(tzinfo=offset)) is None


@any_example
def test_naive_times(schedule: Schedule) -> None:
    """Asked with a time that has no zone, a schedule refuses: nobody could say which instant is meant."""
    with pytest.raises(ScheduleInvalid, match="datetime with a time zone"):
        schedule.next(datetime(2026, 1, 1))


def test_arithmetic_across_a_shift() -> None:
    """Times are told in the schedule's zone, and comparing or subtracting them is exact where the clock is set back."""
    times = fires(Interval(HOUR, timezone="Europe/Berlin"), datetime(2026, 10, 24, 23, 30, tzinfo=UTC), 4)
    assert [f"{time:%H:%M%z}" for time in times] == ["02:00+0200", "02:00+0100", "03:00+0100", "04:00+0100"]
    assert {later - earlier for earlier, later in pairwise(times)} == {HOUR}


# --- cron ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alias", "expression"), ALIASES.items())
def test_aliases(alias: str, expression: str) -> None:
    """`@daily` and its like mean what every cron takes them for."""
    after = datetime(2026, 1, 1, tzinfo=UTC)
    assert (
        fires(Cron(alias), after, 3) == fires(Cron(f" {alias.upper()}"), after, 3) == fires(Cron(expression), after, 3)
    )


def test_day_or() -> None:
    """A day and a weekday together mean either of them; with `day_or=False`, or a star in front, both must fit."""
    after = datetime(2026, 1, 1, tzinfo=UTC)
    assert told(Cron("0 0 13 * fri"), after, 4) == [
        "01-02 00:00+0000",
        "01-09 00:00+0000",
        "01-13 00:00+0000",
        "01-16 00:00+0000",
    ]
    assert told(Cron("0 0 13 * fri", day_or=False), after, 2) == ["02-13 00:00+0000", "03-13 00:00+0000"]
    assert told(Cron("0 0 */12 * fri"), after, 2) == ["02-13 00:00+0000", "03-13 00:00+0000"]


def test_last_and_nth_days() -> None:
    """`L`, `LW`, `5L` and `mon#2` are the last day, the last weekday, the last Friday and the second Monday."""
    after = datetime(2026, 1, 1, tzinfo=UTC)
    days = {each: told(Cron(f"0 0 {each}"), after, 2) for each in ("L * *", "LW * *", "* * 5L", "* * mon#2")}
    assert [[day[:5] for day in each] for each in days.values()] == [
        ["01-31", "02-28"],
        ["01-30", "02-27"],
        ["01-30", "02-27"],
        ["01-12", "02-09"],
    ]


def test_ranges_with_steps() -> None:
    """A range with a step ends where it says, also if it is of one number."""
    after = datetime(2026, 1, 1, tzinfo=UTC)
    assert told(Cron("5-5/2 10-14/3 * * mon-mon/2"), after, 3) == [
        "01-05 10:05+0000",
        "01-05 13:05+0000",
        "01-12 10:05+0000",
    ]
    assert told(Cron("50/4 0 1 * *"), after, 4)[:3] == ["01-01 00:50+0000", "01-01 00:54+0000", "01-01 00:58+0000"]


def test_seconds() -> None:
    """A sixth field, in front, is the second."""
    times = fires(Cron("*/20 * * * * *"), datetime(2026, 1, 1, 0, 0, 5, 7, tzinfo=UTC), 3)
    assert [time.second for time in times] == [20, 40, 0]


def test_rare_days() -> None:
    """A leap day that is a Monday is found over the decades."""
    times = fires(Cron("0 0 29 2 mon", day_or=False), datetime(2026, 1, 1, tzinfo=UTC), 3)
    assert [time.year for time in times] == [2044, 2072, 2112]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("2026-03-27T12:00+00:00", ["03-28 02:30+0100", "03-29 03:00+0200", "03-30 02:30+0200"]),
        ("2026-10-23T12:00+00:00", ["10-24 02:30+0200", "10-25 02:30+0200", "10-26 02:30+0100"]),
    ],
)
def test_shifts(after: str, expected: list[str]) -> None:
    """A local time that the clock skips fires at the shift, and one that it shows twice fires the first time."""
    begin = datetime.fromisoformat(after)
    assert told(Cron("30 2 * * *", timezone="Europe/Berlin"), begin, 3) == expected
    assert told(RRule("FREQ=DAILY;BYHOUR=2;BYMINUTE=30", timezone="Europe/Berlin"), begin, 3) == expected
    assert told(Interval(DAY, anchor=datetime(2026, 1, 1, 2, 30, tzinfo=BERLIN)), begin, 3) == expected


def test_many_skipped_times() -> None:
    """All the times that a shift skips are one fire, at the shift, together with the time it leads to."""
    times = told(Cron("*/15 * * * *", timezone="Europe/Berlin"), datetime(2026, 3, 29, 0, 45, tzinfo=UTC), 2)
    assert times == ["03-29 03:00+0200", "03-29 03:15+0200"]


def test_skipped_day() -> None:
    """A day that a zone leaves out altogether fires where the next one begins, once."""
    assert told(Cron("0 8 * * *", timezone="Pacific/Apia"), datetime(2011, 12, 29, tzinfo=UTC), 3) == [
        "12-29 08:00-1000",
        "12-31 00:00+1400",
        "12-31 08:00+1400",
    ]


# --- intervals and single times --------------------------------------------------------------------------------


def test_short_intervals() -> None:
    """An interval below 24 hours is evenly spaced in real time, through any shift."""
    times = fires(Interval(timedelta(hours=23), timezone="Europe/Berlin"), datetime(2026, 3, 1, tzinfo=UTC), 60)
    assert {later - earlier for earlier, later in pairwise(times)} == {timedelta(hours=23)}


def test_long_intervals() -> None:
    """An interval of 24 hours or more keeps the local hour of its anchor, whose zone it takes."""
    weekly = Interval(7 * DAY, anchor=datetime(2026, 1, 5, 9, tzinfo=BERLIN))
    assert weekly.timezone == "Europe/Berlin"
    times = fires(weekly, datetime(2025, 1, 1, tzinfo=UTC), 150)
    assert {time.astimezone(BERLIN).strftime("%a %H:%M") for time in times} == {"Mon 09:00"}
    assert {later - earlier for earlier, later in pairwise(times)} == {7 * DAY, 7 * DAY - HOUR, 7 * DAY + HOUR}


def test_anchor() -> None:
    """An interval counts from its anchor in both directions; without one, from midnight of a Monday in its zone."""
    anchor = datetime(2026, 1, 1, 0, 7, tzinfo=UTC)
    around = fires(Interval(timedelta(minutes=10), anchor=anchor), anchor - timedelta(minutes=11), 3)
    assert around == [anchor - timedelta(minutes=10), anchor, anchor + timedelta(minutes=10)]
    assert told(Interval(7 * DAY, timezone="Asia/Kolkata"), datetime(2026, 1, 1, tzinfo=UTC), 1) == ["01-05 00:00+0530"]
    assert told(Interval(HOUR, timezone="Asia/Kolkata"), datetime(2026, 1, 1, tzinfo=UTC), 1) == ["01-01 06:00+0530"]


def test_at() -> None:
    """A single time fires once."""
    noon = datetime(2026, 7, 1, 12, tzinfo=BERLIN)
    assert fires(At(noon), datetime(2026, 1, 1, tzinfo=UTC), 3) == [noon]
    assert At(noon).next(noon) is None


# --- bounds, jitter, union -------------------------------------------------------------------------------------


def test_bounds() -> None:
    """A schedule fires from its start to its end, both included."""
    start, end = datetime(2026, 1, 3, tzinfo=UTC), datetime(2026, 1, 5, tzinfo=UTC)
    for schedule in (Cron("@daily", start=start, end=end), Interval(DAY, start=start, end=end)):
        assert fires(schedule, datetime(2020, 1, 1, tzinfo=UTC), 9) == [start, start + DAY, end]
    assert fires(RRule("FREQ=DAILY", start=start, end=end), start, 9) == [start + DAY, end]


def test_jitter() -> None:
    """Jitter delays a fire by up to so much, evenly spread and differently each time, and leaves its nominal time."""
    plain, late = Cron("*/5 * * * *"), Cron("*/5 * * * *", jitter=timedelta(seconds=100))
    times = fires(late, datetime(2026, 1, 1, tzinfo=UTC), 400)
    delays = [(late.due(time) - time).total_seconds() for time in times]
    assert times == fires(plain, datetime(2026, 1, 1, tzinfo=UTC), 400)
    assert all(plain.due(time) == time for time in times)
    assert all(0 <= delay <= 100 for delay in delays)
    assert 40 < sum(delays) / len(delays) < 60
    assert len(set(delays)) == len(delays)


def test_jitter_is_repeatable() -> None:
    """The delay of a nominal time depends on nothing but schedule, time and salt: not on the process, nor on the zone."""
    late = Cron("0 9 * * *", timezone="Europe/Berlin", jitter=HOUR)
    nominal = datetime(2026, 1, 1, 8, tzinfo=UTC)
    assert late.due(nominal) == datetime(2026, 1, 1, 8, 0, 42, 346654, tzinfo=UTC)
    assert late.due(nominal.astimezone(BERLIN)) == late.due(nominal)
    assert len({late.due(nominal, salt) for salt in ("", "reports", "backups")}) == 3


@settings(max_examples=30, deadline=None)
@given(after=instants, members=st.lists(st.sampled_from(EXAMPLES), min_size=1, max_size=4))
def test_union(after: datetime, members: list[Schedule]) -> None:
    """The times of a union are those of its members, merged; times that are equal are one."""
    merged = sorted({time for each in members for time in fires(each, after, 6)})[:6]
    assert fires(AnyOf(*members), after, 6) == merged


def test_union_as_value() -> None:
    """Unions are flat and know no order, so that the same union is always the same value."""
    a, b, c = EXAMPLES[0], EXAMPLES[3], EXAMPLES[5]
    assert (a | b) | c == c | (b | a) == AnyOf(a, b, c, a)
    assert str((a | b) | c) == str(c | (b | a))


def test_union_jitter() -> None:
    """Where several members of a union fire at once, the soonest of their delays counts."""
    late = [Cron("@daily", jitter=HOUR), Interval(12 * HOUR, jitter=HOUR)]
    midnight, noon = datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 2, 12, tzinfo=UTC)
    assert AnyOf(*late).due(midnight) == min(each.due(midnight) for each in late)
    assert AnyOf(*late).due(noon) == late[1].due(noon)
    with pytest.raises(TypeError):
        late[0] | "@daily"  # type: ignore[operator]


# --- refusals --------------------------------------------------------------------------------------------------

JUNE = datetime(2026, 6, 1, tzinfo=UTC)

REFUSED: list[tuple[type[Schedule], Any, dict[str, Any], str]] = [
    (Cron, "61 * * * *", {}, "expression='61 . . . .'.*bad minute.*0-59"),
    (Cron, "* * * *", {}, "wrong number of fields.*five fields"),
    (Cron, "", {}, "expression=''"),
    (Cron, "@reboot", {}, "@reboot.*@yearly"),
    (Cron, "0 0 * * fri-mon", {}, "bad day-of-week"),
    (Cron, "0 0 30 2 *", {}, "'0 0 30 2 .'.*day 1-31 that a month of it has"),
    (Cron, "0 0 30 2 mon", {"day_or": False}, "'0 0 30 2 mon'.*never fires"),
    (Cron, "* * */20 * 1L", {}, "never fires"),
    (Cron, "0 0 1 1 *", {"start": JUNE, "end": JUNE + DAY}, "never fires between start=2026-06-01.*and end=2026-06-02"),
    (Cron, "0 " * 200, {}, "400 characters, and 256 are allowed"),
    (Cron, "0 9 * * MON\N{KELVIN SIGN}", {}, "only ASCII"),
    (Cron, 5, {}, "expression=5.*must be a text"),
    (Cron, "@daily", {"day_or": 1}, "day_or=1.*True or False"),
    (Cron, "@daily", {"timezone": "Europe/Berln"}, "timezone='Europe/Berln'.*did you mean 'Europe/Berlin'"),
    (Cron, "@daily", {"timezone": "../../etc/localtime"}, "timezone='../../etc/localtime'"),
    (Cron, "@daily", {"timezone": "Europe"}, "timezone='Europe'"),
    (Cron, "@daily", {"timezone": "x" * 5000}, r"timezone='x+… \(5002 characters\)"),
    (Cron, "@daily", {"timezone": timezone(HOUR)}, "timezone='UTC.01:00'"),
    (Cron, "@daily", {"start": datetime(2026, 1, 1)}, "start=datetime.*with a time zone"),
    (Cron, "@daily", {"end": "2026-01-01"}, "end='2026-01-01'.*with a time zone"),
    (Cron, "@daily", {"start": JUNE, "end": JUNE - DAY}, "end=.*before the start"),
    (Cron, "@daily", {"jitter": -HOUR}, "jitter=.*timedelta, 0 or more"),
    (Cron, "@daily", {"jitter": 5}, "jitter=5.*timedelta"),
    (Interval, timedelta(0), {}, r"every=datetime.timedelta\(0\).*a second or more"),
    (Interval, 60, {}, "every=60.*timedelta"),
    (Interval, HOUR, {"anchor": datetime(2026, 1, 1)}, "anchor=.*with a time zone"),
    (At, datetime(2026, 1, 1), {}, "time=.*with a time zone"),
    (At, JUNE, {"end": JUNE - HOUR}, "never fires"),
    (RRule, "FREQ=FORTNIGHTLY", {}, "FREQ must be one of YEARLY"),
    (RRule, "FREQ=SECONDLY", {}, "FREQ must be one of YEARLY"),
    (RRule, "BYDAY=MO", {}, "FREQ must be one of YEARLY"),
    (RRule, "FREQ=DAILY;EVERY=2", {}, "'EVERY=2' is not one of its parts"),
    (RRule, "FREQ=DAILY;INTERVAL=0", {}, "INTERVAL has '0'; it takes 1 to 1000"),
    (RRule, "FREQ=DAILY;BYHOUR=9;BYHOUR=10", {}, "BYHOUR is said twice"),
    (RRule, "FREQ=DAILY;BYHOUR=24", {}, "BYHOUR has '24'; it takes 0 to 23"),
    (RRule, "FREQ=MONTHLY;BYMONTHDAY=0", {}, "BYMONTHDAY has '0'; it takes 1 to 31, or that with a minus"),
    (RRule, "FREQ=WEEKLY;BYDAY=1MO", {}, "BYDAY has '1MO'"),
    (RRule, "FREQ=MONTHLY;BYDAY=20FR", {}, "BYDAY has '20FR'.*up to 5"),
    (RRule, "FREQ=WEEKLY;BYSETPOS=1", {}, "BYSETPOS can't stand with FREQ=WEEKLY"),
    (RRule, "FREQ=WEEKLY;WKST=XX", {}, "WKST must be one of MO"),
    (RRule, "FREQ=HOURLY;INTERVAL=7", {}, "must divide 24; Interval"),
    (RRule, "FREQ=HOURLY;INTERVAL=2;BYHOUR=9", {}, "0 times in a day"),
    (RRule, "FREQ=MINUTELY;BYSECOND=0,30", {}, "2880 times in a day"),
    (RRule, "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", {}, "never fires"),
    (RRule, "FREQ=DAILY;INTERVAL=7;BYDAY=TU", {}, "never fires"),
    (RRule, "FREQ=DAILY;COUNT=5", {}, "COUNT needs a DTSTART"),
    (RRule, "DTSTART:20260101T000000\nFREQ=YEARLY;COUNT=500", {}, "COUNT=500 reaches too far ahead; say UNTIL"),
    (RRule, "DTSTART:20260101T000000\nFREQ=DAILY;UNTIL=20250101T000000", {}, "never fires"),
    (RRule, "DTSTART:20260101T000000\nFREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30;COUNT=2", {}, "never fires"),
    (RRule, "DTSTART:20260230T000000\nFREQ=DAILY", {}, "DTSTART has '20260230T000000'"),
    (RRule, "FREQ=DAILY;UNTIL=20260101", {}, "UNTIL has '20260101'.*a date and a time"),
    (RRule, "DTSTART:20260101T000000\nRRULE:FREQ=DAILY\nEXDATE:20260102T000000", {}, "it must be FREQ="),
    (RRule, "DTSTART;TZID=Asia/Tokyo:20260101T000000\nFREQ=DAILY", {"timezone": "UTC"}, "TZID is 'Asia/Tokyo'"),
    (RRule, "DTSTART;TZID=Mars:20260101T000000\nFREQ=DAILY", {}, "timezone='Mars'"),
    (AnyOf, "@daily", {}, "schedules='@daily'.*each must be a schedule"),
]


@pytest.mark.parametrize(("kind", "subject", "options", "message"), REFUSED, ids=lambda each: str(each)[:40])
def test_refused_at_definition(kind: type[Schedule], subject: Any, options: dict[str, Any], message: str) -> None:
    """What can't be followed, or would never fire, is refused when it is made, with its name, value and what is allowed."""
    with pytest.raises(ScheduleInvalid, match=message) as caught:
        kind(subject, **options)
    assert str(caught.value).startswith(kind.__name__)
    assert isinstance(caught.value, UndertowError)
    assert isinstance(caught.value, ValueError)


def test_empty_union() -> None:
    """A union of nothing is refused."""
    with pytest.raises(ScheduleInvalid, match="one schedule or more"):
        AnyOf()


@pytest.mark.parametrize(
    "data",
    [
        {},
        "@daily",
        {"cron": "@daily", "interval": 5},
        {"cron": "@daily", "every": 5},
        {"cron": "@daily", "start": "soon"},
        {"interval": "an hour"},
        {"interval": float("nan")},
        {"interval": 1e300},
        {"at": 5},
        {"any_of": 5},
        {"any_of": []},
        {"any_of": [{"cron": "@daily"}, {"cron": "x"}]},
        {"any_of": [{"cron": "@daily"}], "jitter": 5},
    ],
    ids=str,
)
def test_damaged_data(data: Any) -> None:
    """Data that tell of no schedule are refused as such, whatever they are."""
    with pytest.raises(ScheduleInvalid):
        Schedule.from_dict(data)


# --- cost ------------------------------------------------------------------------------------------------------


def test_libraries_are_loaded_late() -> None:
    """Neither `import undertow` nor a schedule without an expression loads a library for expressions."""
    program = (
        "import sys, undertow; from undertow import flow, Engine\n"
        "found = lambda: {'cronsim', 'dateutil'} & {*sys.modules}\n"
        "from undertow.engine.schedules import Schedule; Schedule.from_dict({'interval': 60})\n"
        "assert not found(), found()\n"
        "Schedule.from_dict({'cron': '@daily'}); assert found() == {'cronsim'}, found()\n"
        "Schedule.from_dict({'rrule': 'FREQ=DAILY'}); assert 'dateutil' in found()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


HOSTILE = [
    (Cron, "59 59 23 31 12 *"),
    (Cron, "59 23 29 2 mon#5"),
    (Cron, ",".join(["0-59/7"] * 30) + " * * * *"),
    (Cron, "10-36 * 12-26,8-24 *,feb fri#1"),
    (RRule, "DTSTART:19000101T000000\nFREQ=MINUTELY;BYMONTH=2;BYMONTHDAY=29"),
    (RRule, "DTSTART:19000101T000000\nFREQ=MINUTELY"),
    (RRule, "FREQ=DAILY;INTERVAL=1000;BYMONTH=6,11;BYHOUR=1,2,3,4,5,6,7,8,9"),
    (RRule, "FREQ=YEARLY;BYDAY=MO,TU,WE,TH,FR,SA,SU;BYHOUR=1,2,3,4;BYMINUTE=1,2,3,4,5,6,7;BYSETPOS=-1,366"),
    (RRule, "FREQ=YEARLY;INTERVAL=7;BYMONTH=2;BYMONTHDAY=30"),
    (RRule, "FREQ=MONTHLY;BYMONTHDAY=1;BYDAY=5MO"),
    (RRule, "DTSTART:19000101T000000\nFREQ=DAILY;COUNT=10000"),
]


@pytest.mark.parametrize(("kind", "expression"), HOSTILE, ids=str)
def test_hostile_expressions(kind: type[Schedule], expression: str) -> None:
    """However rare or contrived an expression is, making it and asking it take a fraction of a second at most."""
    began = perf_counter()
    try:
        schedule = kind(expression)  # type: ignore[call-arg]
    except ScheduleInvalid:
        schedule = At(JUNE)
    fires(schedule, datetime(2026, 1, 1, tzinfo=UTC), 2)
    assert perf_counter() - began < 0.5


def test_usual_expressions_are_quick() -> None:
    """The next time of an ordinary schedule takes well under a millisecond."""
    for schedule in EXAMPLES[:1] + EXAMPLES[3:7]:
        costs = []
        after = JUNE
        for _ in range(100):
            began = perf_counter()
            after = schedule.next(after) or JUNE
            costs.append(perf_counter() - began)
        assert sorted(costs)[50] < 0.001, schedule
