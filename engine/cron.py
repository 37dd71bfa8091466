"""Cron expressions. The library `cronsim` reads them and finds the next local time; zones and their shifts are ours."""

from __future__ import annotations

import re
from datetime import datetime

import attrs
from cronsim import CronSim, CronSimError

from .schedules import ScheduleInvalid, check_expression
from .zoned import Zoned

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_ALLOWED = (
    "it must be five fields (minute 0-59, hour 0-23, day 1-31 that a month of it has, month 1-12 or jan-dec, weekday "
    "0-7 or sun-sat) of numbers, *, a-b, */n, a-b/n and lists; or six, with the second 0-59 first; or one of "
) + ", ".join(ALIASES)
# cronsim reads 5-5/2 as 5/2, which begins at 5 and goes on to the end.
_RANGE_OF_ONE = re.compile(r"\b(\w+)-\1/0*[1-9]\d*(?![^\s,])", re.I)


@attrs.frozen(repr=False)
class Cron(Zoned):
    """What a cron expression says: `Cron("0 9 * * mon-fri", timezone="Europe/Berlin")`.

    Five fields, or six with seconds first, or an alias such as `@daily`. Besides what every cron knows, the day may be
    `L` (the last of the month) or `LW` (its last weekday), and the weekday `mon#2` (the second Monday of the month) or
    `5L` (its last Friday). If both the day and the weekday are given, either will do; if one of them begins with a
    star, or with `day_or=False`, both must fit. (A `*/2` begins with a star: this is the rule of cron itself.)

    The fields are about what the clock on the wall shows: an hour that it shows twice fires the first time only. For
    what should go on evenly through that hour there is `Interval`.
    """

    kind = "cron"
    subject = "expression"

    expression: str
    day_or: bool = attrs.field(default=True, kw_only=True)

    def __attrs_post_init__(self) -> None:
        check_expression("Cron", "expression", self.expression)
        if not isinstance(self.day_or, bool):
            raise ScheduleInvalid("Cron", "day_or", self.day_or, "it must be True or False")
        try:
            self._search(datetime.min)
        except CronSimError as error:
            raise ScheduleInvalid("Cron", "expression", self.expression, f"{str(error).lower()}; {_ALLOWED}") from None
        super().__attrs_post_init__()

    def _search(self, local: datetime) -> CronSim:
        expression = ALIASES.get(self.expression.strip().lower(), self.expression)
        found = CronSim(_RANGE_OF_ONE.sub(r"\1", expression), local)
        if not self.day_or:
            found.day_and = True
        return found

    def _next_local(self, local: datetime) -> datetime | None:
        try:
            # It gives up after 50 years; what recurs at all does so within 40.
            return next(self._search(local), None)
        except (OverflowError, ValueError):  # beyond the year 9999
            return None
