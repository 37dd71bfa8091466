"""`undertow serve`: flows that run by themselves in this process, and what is said while they do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TextIO, get_args

import click
from rich.text import Text

from ..engine.errors import UndertowError
from ..engine.flow import Flow
from ..engine.plans import CatchUp, Overlap, Plan
from ..engine.run import Run
from ..engine.states import PAUSED, RUNNING, TERMINAL, micros, moment
from . import running, serving
from .loading import arguments, find_served, read_parameters
from .options import INTERRUPTED, SUCCESS, hint, now, with_backend, with_journal, with_parameters
from .page import DIM, STYLES, Page, grid
from .running import journal_path
from .timetable import said
from .wording import clock, cut, duration, iso, local, safe


class NothingToServe(UndertowError, ValueError):
    """What was given does not say what to serve, or when."""

    def __init__(self, target: str, problem: str) -> None:
        super().__init__(f"{target!r}: {problem}")


@click.command()
@click.argument("target", metavar="MODULE[:FLOW]")
@click.option("--cron", metavar="EXPRESSION", help="When: five fields, or six with seconds first, or such as @daily.")
@click.option("--interval", type=click.FloatRange(1), metavar="SECONDS", help="When: every so many seconds.")
@click.option("--rrule", metavar="RULE", help="When: a recurrence rule, such as FREQ=WEEKLY;BYDAY=MO.")
@click.option("--timezone", metavar="ZONE", help="The time zone of that, such as Europe/Berlin; else UTC.")
@click.option("--name", help="What the schedule is called in the journal; else like the flow.")
@with_parameters
@click.option("--overlap", type=click.Choice(get_args(Overlap)), help="When an earlier run still goes on; else skip.")
@click.option(
    "--catch-up", type=click.Choice(get_args(CatchUp)), help="Which missed fires are made up for; else latest."
)
@click.option("--grace", type=click.FloatRange(0), metavar="SECONDS", help="How late a fire may be made up for.")
@with_backend
@with_journal
def serve(target: str, given: tuple[str, ...], backend: str, journal: str | None, as_json: bool, **options: Any) -> int:
    """Run a flow on a schedule, until a signal comes.

    Without a flow, all plans are served that the module defines at its top level: plan = a_flow.on(cron="@daily").
    What came due while nobody served is made up for as --catch-up says. Several processes may serve one schedule: each
    fire runs once.

    SIGINT or SIGTERM stops it: nothing fires any more, and what runs may go on for $UNDERTOW_GRACE_SECONDS (10); then,
    or at a second signal, it is cancelled. All of that is recorded. With --json each change of a run is a line.

    \b
    undertow serve jobs:nightly --cron "0 9 * * mon-fri" --timezone Europe/Berlin -p limit=20
    undertow serve jobs:poll --interval 60 --overlap cancel_running
    undertow serve jobs

    Exit code: 0 it was stopped, 2 it can't be served, 130 it was stopped by two signals.
    """
    plans = _plans(target, given, {name: value for name, value in options.items() if value is not None})
    path = journal_path(journal)
    if as_json:
        with running.stdout_to_stderr() as out:
            told = serving.serve(plans, path, backend, _as_lines(out), lambda: None, lambda seconds: None)
    else:
        told = serving.serve(plans, path, backend, _changed, lambda: _begun(plans, path), _stopping)
    return SUCCESS if told <= 1 else INTERRUPTED


def _plans(target: str, given: tuple[str, ...], options: dict[str, Any]) -> list[Plan]:
    """What to serve. Raises `FlowNotFound`, `NothingToServe`, and what `Flow.on` raises."""
    found = find_served(target)
    if not isinstance(found, Flow):
        if given or options:
            problem = (
                "--param, --cron and the like go with a flow, MODULE:FLOW; the plans of a module say it themselves."
            )
            raise NothingToServe(target, problem)
        return found
    if len(options.keys() & {"cron", "interval", "rrule"}) != 1:
        raise NothingToServe(target, "it is a flow, so say when it runs: one of --cron, --interval and --rrule.")
    if "grace" in options:
        options["grace"] = timedelta(seconds=options["grace"])
    return [found.on(parameters=arguments(found, read_parameters(given)), **options)]


def _begun(plans: list[Plan], path: str) -> None:
    table = grid("left", "left", "left")
    for plan in plans:
        following = plan.schedule.next(moment(now()))
        at = "never again" if following is None else f"next at {local(micros(following))}"
        table.add_row(Text(safe(plan.name), "bold"), said(plan.schedule), at)
    page = Page()
    page.put(table)
    page.flush()
    hint(f"Serving on {path}. Ctrl-C stops it.")


def _stopping(seconds: float) -> None:
    hint(f"Stopping: what runs has {seconds:g} s to end. Another Ctrl-C cancels it.")


def _changed(run: Run) -> None:
    """Say what has become of a run, where that is worth a line."""
    kind, name, message, at = run.history[-1]
    if not (kind in TERMINAL or kind is PAUSED or name == "Late" or (kind is RUNNING and run.attempts == 1)):
        return
    page, began = Page(), next((entry[3] for entry in run.history if entry[0] is RUNNING), None)
    line = Text.assemble((f"{clock(at)} ", DIM), safe(run.name), "  ", (safe(name), STYLES.get(kind, "")))
    if kind is RUNNING and run.fire is not None:
        line.append(f" for {local(run.fire.nominal)}", DIM)
    elif kind in TERMINAL and began is not None:
        line.append(f" after {duration(at - began)}")
    if message and message != "All states completed.":
        line.append(f"  {cut(message, 200)}")
    page.put(line)
    page.flush()


def _as_lines(out: TextIO) -> Callable[[Run], None]:
    page = Page(file=out)

    def put(run: Run) -> None:
        assert run.fire is not None
        kind, name, message, at = run.history[-1]
        page.put_json(
            {
                "at": iso(at),
                "run_id": run.id,
                "name": run.name,
                "flow": run.definition.name,
                "schedule": run.fire.schedule,
                "nominal": iso(run.fire.nominal),
                "state_type": kind,
                "state_name": name,
                "state_message": message,
            }
        )
        page.flush()

    return put
