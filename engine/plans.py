"""Plans: a flow, when it is to run by itself, and what becomes of fires that come too close together or too late.

A plan is a value, made by `flow.on(...)`; `serving.py` does what it says.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import attrs

from .errors import InvalidOption
from .options import check_one_of
from .parameters import as_json
from .schedules import Schedule

if TYPE_CHECKING:
    from .flow import Flow

Overlap: TypeAlias = Literal["skip", "buffer_one", "buffer_all", "cancel_running", "allow"]
"""What becomes of a fire while an earlier one's run is still going."""

CatchUp: TypeAlias = Literal["latest", "all", "skip"]
"""Which of the fires are made up for that nobody served in time."""


@attrs.frozen(kw_only=True)
class Plan:
    """A flow with its schedule. `name` identifies the schedule in the journal, over restarts and processes."""

    name: str
    flow: Flow[..., Any]
    schedule: Schedule
    parameters: Mapping[str, Any]
    overlap: Overlap = "skip"
    catch_up: CatchUp = "latest"
    grace: timedelta | None = None
    """How late a fire may be made up for; `None`: however late."""

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or len(self.name) > 128 or not self.name.isprintable():
            raise InvalidOption("name", self.name, "a text of 1 to 128 printable characters")
        if not isinstance(self.schedule, Schedule):
            raise InvalidOption("schedule", self.schedule, "a schedule, such as Cron('@daily') or Interval(60)")
        for option, value, known in (("overlap", self.overlap, Overlap), ("catch_up", self.catch_up, CatchUp)):
            check_one_of(option, value, get_args(known))
        if self.grace is not None and (not isinstance(self.grace, timedelta) or self.grace < timedelta(0)):
            raise InvalidOption("grace", self.grace, "a timedelta, 0 or more, or None")
        if not isinstance(self.parameters, Mapping):
            raise InvalidOption("parameters", self.parameters, "a mapping from names to values")
        self.flow.signature.check(self.flow.bound, dict(self.parameters))
        self.fresh_parameters()

    def fresh_parameters(self) -> dict[str, Any]:
        """The parameters of one run: copies, so that no run sees what another has done to them."""
        try:
            return copy.deepcopy(dict(self.parameters))
        except Exception as error:
            raise InvalidOption("parameters", self.parameters, f"values that can be copied ({error})") from None

    def told(self) -> str:
        """The plan as JSON, for the journal and for those who read it."""
        return json.dumps(
            {
                "schedule": self.schedule.to_dict(),
                "parameters": json.loads(as_json(self.parameters)),
                "overlap": self.overlap,
                "catch_up": self.catch_up,
                "grace": None if self.grace is None else self.grace.total_seconds(),
            }
        )


def plan(
    flow: Flow[..., Any],
    *,
    cron: str | None,
    interval: float | timedelta | None,
    rrule: str | None,
    schedule: Schedule | None,
    timezone: str | None,
    name: str | None,
    parameters: Mapping[str, Any] | None,
    **policy: Any,
) -> Plan:
    """The plan that `Flow.on` makes."""
    if isinstance(interval, int | float) and not isinstance(interval, bool):
        interval = timedelta(seconds=interval)
    kinds = {"cron": cron, "interval": interval, "rrule": rrule, "schedule": schedule}
    given = {kind: value for kind, value in kinds.items() if value is not None}
    if len(given) != 1:
        raise InvalidOption(f"{flow.name}.on", sorted(given), "exactly one of cron, interval, rrule and schedule")
    if schedule is None:
        zone = {} if timezone is None else {"timezone": timezone}
        schedule = Schedule.from_dict({**given, **zone})
    elif timezone is not None:
        raise InvalidOption("timezone", timezone, "given with cron, interval or rrule; a schedule has its own")
    return Plan(name=name or flow.name, flow=flow, schedule=schedule, parameters=parameters or {}, **policy)
