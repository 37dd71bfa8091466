"""Schedules as the journal has them: what is served, by whom, when each fired last and fires next, and what is overdue.

Read-only; when a schedule fires is asked of the schedule itself, and the clock is an argument.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta, tzinfo
from typing import Any

import attrs
from cronsim import CronSim

from ..engine.cron import ALIASES, Cron
from ..engine.recurrence import RRule
from ..engine.schedules import AnyOf, At, Bounded, Schedule, ScheduleInvalid
from ..engine.states import micros, moment
from ..engine.zoned import Interval, Zoned
from ..storage.owners import Process
from ..storage.reading import Reader
from .records import LAST, RunRecord, decode
from .wording import duration, iso, local

MOST_MISSED = 1000
"""Fires that nobody served are counted up to here."""

_SCHEDULES = """
SELECT schedule.*, host, boot, namespace, pid, started, closed_at,
       (SELECT count(*) FROM fire WHERE fire.schedule = schedule.name AND fire.owner IS NULL) AS asked_for
FROM schedule LEFT JOIN owner ON owner.id = schedule.owner ORDER BY name
"""

_LAST = "SELECT nominal, run_id FROM fire WHERE schedule = ? AND owner IS NOT NULL ORDER BY nominal DESC LIMIT 1"


@attrs.frozen
class Served:
    """One schedule of the journal. Times are microseconds since 1970."""

    name: str
    flow: str
    schedule: Schedule | None
    """`None`: it can't be read, by this version at least."""
    parameters: dict[str, Any]
    overlap: str
    catch_up: str
    mark: int
    """All times up to this one are decided."""
    paused_at: int | None
    server: str | None
    """The host and the process id of who serves it, if anybody does."""
    asked_for: int
    """Fires that were asked for, and that nobody has taken yet."""
    last: int | None = None
    last_run_id: str | None = None
    last_run: RunRecord | None = None
    """Of a fire whose run is not recorded any more there is none."""

    def next(self) -> int | None:
        """The first time that is not decided; none while it is paused."""
        if self.schedule is None or self.paused_at is not None:
            return None
        return _micros(self.schedule.next(moment(self.mark)))

    def overdue(self, now: int, late_after: float) -> list[int]:
        """The times that came while nobody served it, once the first of them is `late_after` seconds ago."""
        if self.server is not None or self.schedule is None or (first := self.next()) is None:
            return []
        if now - first <= late_after * 1e6:
            return []
        missed: list[int] = []
        at: int | None = first
        while at is not None and at <= now and len(missed) < MOST_MISSED:
            missed.append(at)
            at = _micros(self.schedule.next(moment(at)))
        return missed

    def as_document(self, now: int, late_after: float) -> dict[str, Any]:
        """The schedule for a program to read."""
        overdue = self.overdue(now, late_after)
        return {
            "name": self.name,
            "flow": self.flow,
            "schedule": None if self.schedule is None else self.schedule.to_dict(),
            "said": said(self.schedule),
            "parameters": self.parameters,
            "overlap": self.overlap,
            "catch_up": self.catch_up,
            "paused_at": iso(self.paused_at),
            "served_by": self.server,
            "asked_for": self.asked_for,
            "last_fire_at": iso(self.last),
            "last_run_id": self.last_run_id,
            "last_state_name": None if self.last_run is None else self.last_run.state.name,
            "next_fire_at": iso(self.next()),
            "overdue": len(overdue),
            "overdue_since": iso(overdue[0]) if overdue else None,
        }


def schedules(reader: Reader) -> list[Served]:
    """All schedules, by name. What makes no sense raises a `ValueError` or the like."""
    return [_served(reader, row) for row in reader.rows(_SCHEDULES)]


def _served(reader: Reader, row: dict[str, Any]) -> Served:
    told = json.loads(row["told"])
    try:
        schedule = Schedule.from_dict(told["schedule"])
    except ScheduleInvalid:
        schedule = None
    fires = reader.rows(_LAST, (row["name"],))
    last = fires[0] if fires else {"nominal": None, "run_id": None}
    runs = reader.rows("SELECT * FROM run WHERE id = ?", (last["run_id"],))
    served = Served(
        name=row["name"],
        flow=row["flow"],
        schedule=schedule,
        parameters=told["parameters"],
        overlap=told["overlap"],
        catch_up=told["catch_up"],
        mark=row["mark"],
        paused_at=row["paused_at"],
        server=_server(row),
        asked_for=row["asked_for"],
        last=last["nominal"],
        last_run_id=last["run_id"],
        last_run=decode(runs[0]) if runs else None,
    )
    if not _makes_sense(served):
        raise ValueError(f"the row of schedule {served.name!r}")
    return served


def _makes_sense(served: Served) -> bool:
    """Whether a schedule that was read says what one can say: somebody else may have made the file."""
    texts = (served.name, served.flow, served.overlap, served.catch_up, served.last_run_id or "")
    times = (served.mark, served.paused_at or 0, served.last or 0)
    return (
        all(isinstance(text, str) for text in texts)
        and all(isinstance(at, int) and 0 <= at < LAST for at in times)
        and isinstance(served.parameters, dict)
    )


def _server(row: dict[str, Any]) -> str | None:
    """Who serves it: the process that wrote it down last, unless that is certain to do so no more."""
    described = {field.name: row[field.name] for field in attrs.fields(Process)}
    if row["closed_at"] is not None or row["pid"] is None or Process(**described).is_gone():
        return None
    return f"{row['host']}:{row['pid']}"


def _micros(when: datetime | None) -> int | None:
    return None if when is None else micros(when)


def zone_of(schedule: Schedule | None) -> tzinfo | None:
    """The time zone that a schedule is said in, if it is said in one; of several, the first's."""
    if isinstance(schedule, AnyOf):
        return next((zone for each in schedule.schedules if (zone := zone_of(each)) is not None), None)
    return schedule.zone if isinstance(schedule, Zoned) else None


# --- in words --------------------------------------------------------------------------------------------------


def said(schedule: Schedule | None) -> str:
    """When it fires, for a person: `at 09:00 on Monday through Friday, Europe/Berlin`."""
    if schedule is None:
        return "can't be read by this version of undertow"
    if isinstance(schedule, AnyOf):
        return "; or ".join(said(each) for each in schedule.schedules)
    words = [_what(schedule)]
    if isinstance(schedule, Zoned) and not (isinstance(schedule, Interval) and schedule.every < timedelta(days=1)):
        words.append(schedule.timezone)
    if isinstance(schedule, Bounded):
        if schedule.start is not None:
            words.append(f"from {_local(schedule.start)}")
        if schedule.end is not None:
            words.append(f"until {_local(schedule.end)}")
        if schedule.jitter:
            words.append(f"up to {_lasting(schedule.jitter)} later")
    return ", ".join(words)


def _what(schedule: Schedule) -> str:
    if isinstance(schedule, Cron):
        expression = ALIASES.get(schedule.expression.strip().lower(), schedule.expression)
        explained = CronSim(expression, datetime.min).explain()
        return explained[:1].lower() + explained[1:] + ("" if schedule.day_or else " (both must fit)")
    if isinstance(schedule, Interval):
        return f"every {_lasting(schedule.every)}"
    if isinstance(schedule, RRule):
        return f"by the rule {' '.join(schedule.rule.split())}"
    if isinstance(schedule, At):
        return f"once, at {_local(schedule.time)}"
    return str(schedule)


def _local(when: datetime) -> str:
    return local(micros(when))


def _lasting(span: timedelta) -> str:
    """`30 s`, `5 min`, `6 h`, `1 d`, and what is no round number as `1 h 30 min`."""
    seconds = span.total_seconds()
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return duration(round(seconds * 1e6))
