"""When something fires: schedules as values that can be asked for their next time, combined, and written down.

Nothing here runs, waits or reads a clock. A schedule gives *nominal* times, which identify a fire; its jitter only
says how much later than that the fire is due. The kinds that know of time zones are in `zoned.py`, `cron.py` and
`recurrence.py`; the last two need a library each, which is loaded when one of them is first made.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any, ClassVar

import attrs

from .errors import UndertowError

MAX_LENGTH = 256  # of an expression
MAX_MEMBERS = 1_000  # of a union
MAX_JITTER = timedelta(days=365)  # what is due later than the last fire is still a datetime
# Time, as far as schedules go: the very first and last days of datetime can't be shown in every zone.
BEGINNING, END = datetime(2, 1, 1, tzinfo=UTC), datetime(9998, 12, 31, tzinfo=UTC)


class ScheduleInvalid(UndertowError, ValueError):
    """A schedule was defined that can't be followed."""

    def __init__(self, kind: str, option: str, value: object, reason: str) -> None:
        try:
            shown = repr(value)
        except Exception:  # too deep, or an int with too many digits
            shown = f"<{type(value).__name__}>"
        if len(shown) > MAX_LENGTH:
            shown = f"{shown[:80]}… ({len(shown)} characters)"
        super().__init__(f"{kind}({option}={shown}) is not possible: {reason}.")


class Schedule(ABC):
    """A frozen value that knows when it fires. `a | b` fires whenever `a` or `b` does.

    `to_dict` gives plain data and `str` the same as JSON text; `Schedule.from_dict` makes an equal schedule of either
    data, which gives the same times in another process.
    """

    __slots__ = ()

    @abstractmethod
    def next(self, after: datetime) -> datetime | None:
        """The first nominal time later than `after`, or `None` if there is none.

        It is in the schedule's time zone, at a fixed offset: comparing and subtracting are exact across shifts.
        Raises `ScheduleInvalid` if `after` has no time zone.
        """

    @abstractmethod
    def due(self, nominal: datetime, salt: str = "") -> datetime:
        """When the fire of this nominal time is to happen: up to `jitter` later, the same whenever it is asked.

        Schedules that are alike get different delays from different salts.
        """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The schedule as data that JSON can say."""

    def __or__(self, other: Schedule) -> AnyOf:
        return AnyOf(self, other) if isinstance(other, Schedule) else NotImplemented

    def __str__(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @staticmethod
    def from_dict(told: Mapping[str, Any]) -> Schedule:
        """The schedule that `to_dict` told of, such as `{"cron": "0 9 * * mon", "timezone": "Europe/Berlin"}`.

        Raises `ScheduleInvalid` if it tells of none.
        """
        named = [kind for kind in _HOMES if kind in told] if isinstance(told, Mapping) else []
        if len(named) != 1:
            reason = f"it must have exactly one of {', '.join(_HOMES)}"
            raise ScheduleInvalid("Schedule.from_dict", "told", told, reason)
        (kind,) = named
        module, name = _HOMES[kind]
        make = getattr(import_module(module, __package__), name)
        options = {option: _read(option, value) for option, value in told.items() if option != kind}
        try:
            subject = map(Schedule.from_dict, told[kind]) if kind == "any_of" else [_read(kind, told[kind])]
            made: Schedule = make(*subject, **options)
        except TypeError as error:  # an option that this kind doesn't have
            raise ScheduleInvalid("Schedule.from_dict", "told", told, str(error)) from None
        except RecursionError:
            raise ScheduleInvalid("Schedule.from_dict", "told", told, "it is nested too deep") from None
        return made


_HOMES = {
    "cron": (".cron", "Cron"),
    "interval": (".zoned", "Interval"),
    "rrule": (".recurrence", "RRule"),
    "at": (".schedules", "At"),
    "any_of": (".schedules", "AnyOf"),
}


def check_time(kind: str, option: str, value: object) -> None:
    """Refuse what is not a datetime with a time zone."""
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise ScheduleInvalid(kind, option, value, "it must be a datetime with a time zone (tzinfo=...)")


def check_expression(kind: str, option: str, value: object) -> None:
    """Refuse what is not a text of a sensible length; the length comes first, nothing else looks at a long text."""
    if not isinstance(value, str):
        raise ScheduleInvalid(kind, option, value, "it must be a text")
    if len(value) > MAX_LENGTH:
        raise ScheduleInvalid(kind, option, value, f"it has {len(value)} characters, and {MAX_LENGTH} are allowed")
    if not value.isascii():
        raise ScheduleInvalid(kind, option, value, "only ASCII characters are allowed")


def utc(value: datetime) -> datetime:
    """The same instant in UTC, brought between `BEGINNING` and `END`."""
    if BEGINNING.year <= value.year <= END.year:
        return value.astimezone(UTC)
    return BEGINNING if value.year < BEGINNING.year else END


def within_time(value: datetime) -> datetime:
    """The same instant as it is shown, or the first or last that there is."""
    return value if BEGINNING.year <= value.year <= END.year else utc(value)


@attrs.frozen(kw_only=True, repr=False)
class Bounded(Schedule):
    """What the single kinds share: the first and the last moment they may fire at, and the jitter."""

    kind: ClassVar[str]
    subject: ClassVar[str]  # the field that `kind` stands for in the written form

    start: datetime | None = None
    end: datetime | None = None
    jitter: timedelta = timedelta(0)

    def __attrs_post_init__(self) -> None:
        name = type(self).__name__
        for option in ("start", "end"):
            value = getattr(self, option)
            if value is not None:
                check_time(name, option, value)
                object.__setattr__(self, option, utc(value))
        if not isinstance(self.jitter, timedelta) or not timedelta(0) <= self.jitter <= MAX_JITTER:
            raise ScheduleInvalid(name, "jitter", self.jitter, "it must be a timedelta, 0 or more, a year at most")
        if self.start is not None and self.end is not None and self.end < self.start:
            raise ScheduleInvalid(name, "end", self.end, f"it must not be before the start, {self.start}")
        if self.next(BEGINNING) is None:
            between = f" between start={self.start} and end={self.end}" if self.start or self.end else ""
            raise ScheduleInvalid(name, self.subject, getattr(self, self.subject), f"it never fires{between}")

    def next(self, after: datetime) -> datetime | None:
        check_time(f"{type(self).__name__}.next", "after", after)
        instant, end = utc(after), self.end or END
        if self.start is not None and instant < self.start:
            instant = self.start - datetime.resolution
        try:
            fire = self._first_after(instant) if instant < end else None
        except OverflowError:  # beyond the year 9999
            return None
        return self._shown(fire) if fire is not None and fire <= end else None

    def due(self, nominal: datetime, salt: str = "") -> datetime:
        check_time(f"{type(self).__name__}.due", "nominal", nominal)
        nominal = within_time(nominal)
        seed = f"{self}\n{salt}\n{nominal.astimezone(UTC).isoformat()}".encode()
        share = int.from_bytes(hashlib.blake2b(seed, digest_size=8).digest()) / 2**64
        return nominal + self.jitter * share

    def to_dict(self) -> dict[str, Any]:
        told = {self.kind: getattr(self, self.subject), **self._options()}
        return {name: _written(value) for name, value in told.items()}

    def __repr__(self) -> str:
        options = [f"{name}={value!r}" for name, value in self._options().items()]
        return f"{type(self).__name__}({', '.join([repr(getattr(self, self.subject)), *options])})"

    def _options(self) -> dict[str, Any]:
        """All but the subject, where it is not the default."""
        fields = (each for each in attrs.fields(type(self)) if each.init and each.name != self.subject)
        values = ((each, getattr(self, each.name)) for each in fields)
        return {each.name: value for each, value in values if value != each.default}

    @abstractmethod
    def _first_after(self, instant: datetime) -> datetime | None:
        """The first time later than `instant`, both in UTC, whatever the bounds."""

    def _shown(self, instant: datetime) -> datetime:
        return instant


def _written(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
        return int(seconds) if seconds.is_integer() else seconds
    return value


def _read(option: str, value: object) -> object:
    """The inverse of `_written`; what it can't read is left for the schedule to refuse."""
    try:
        if option in ("at", "start", "end", "anchor") and isinstance(value, str):
            return datetime.fromisoformat(value)
        if option in ("interval", "jitter") and isinstance(value, int | float):
            return timedelta(seconds=value)
    except (ValueError, OverflowError):
        pass
    return value


@attrs.frozen(repr=False)
class At(Bounded):
    """One time: `At(datetime(2027, 1, 1, tzinfo=UTC))`."""

    kind = "at"
    subject = "time"

    time: datetime

    def __attrs_post_init__(self) -> None:
        check_time("At", "time", self.time)
        object.__setattr__(self, "time", utc(self.time))
        super().__attrs_post_init__()

    def _first_after(self, instant: datetime) -> datetime | None:
        return self.time if self.time > instant else None


@attrs.frozen(init=False, repr=False)
class AnyOf(Schedule):
    """Fires whenever one of its members does, and once where several do: `AnyOf(a, b)`, or `a | b`.

    The members have their own bounds and jitter; where several fire at once, the soonest is the one that counts.
    """

    schedules: tuple[Schedule, ...]

    def __init__(self, *schedules: Schedule) -> None:
        members: set[Schedule] = set()
        for each in schedules:
            if not isinstance(each, Schedule):
                raise ScheduleInvalid("AnyOf", "schedules", each, "each must be a schedule, such as Cron('@daily')")
            members.update(each.schedules if isinstance(each, AnyOf) else (each,))
            if len(members) > MAX_MEMBERS:
                raise ScheduleInvalid("AnyOf", "schedules", schedules, f"it takes {MAX_MEMBERS:,} of them at most")
        if not members:
            raise ScheduleInvalid("AnyOf", "schedules", schedules, "it needs one schedule or more")
        object.__setattr__(self, "schedules", tuple(sorted(members, key=str)))

    def next(self, after: datetime) -> datetime | None:
        times = (each.next(after) for each in self.schedules)
        return min((time for time in times if time is not None), default=None)

    def due(self, nominal: datetime, salt: str = "") -> datetime:
        check_time("AnyOf.due", "nominal", nominal)
        nominal = within_time(nominal)
        before = nominal - datetime.resolution
        firing = (each for each in self.schedules if each.next(before) == nominal)
        return min((each.due(nominal, salt) for each in firing), default=nominal)

    def to_dict(self) -> dict[str, Any]:
        return {"any_of": [each.to_dict() for each in self.schedules]}

    def __repr__(self) -> str:
        return f"AnyOf({', '.join(map(repr, self.schedules))})"
