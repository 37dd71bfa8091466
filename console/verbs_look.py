"""`undertow ls`, `show` and `why`: which flows ran, what ran inside one, and what holds it up or ended it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click
from rich.text import Text

from ..engine.settings import load
from ..storage.reading import Reader
from . import queries, render
from .moments import moment
from .options import (
    check_state,
    complete_flow,
    complete_state,
    hint,
    now,
    with_journal,
    with_run,
)
from .page import DIM, Page
from .queries import Filter, FlowLine
from .reasons import reasons
from .records import as_document
from .running import journal_path
from .timetable import MOST_MISSED, Served, schedules
from .tree import EVERYTHING, Failure, Shape, build, failures
from .wording import local, safe

# --- ls --------------------------------------------------------------------------------------------------------


@click.command()
@click.option(
    "--state",
    "-s",
    metavar="STATE",
    multiple=True,
    shell_complete=complete_state,
    help="Only runs in this state, such as failed or TimedOut. Repeatable: any of them.",
)
@click.option("--failed", is_flag=True, help="Only runs that failed or crashed.")
@click.option("--late", is_flag=True, help="Only runs that began late, or still have not; and overdue schedules.")
@click.option("--flow", metavar="NAME", shell_complete=complete_flow, help="Only runs of this flow; * stands for any.")
@click.option(
    "--tag", "-t", "tags", metavar="TAG", multiple=True, help="Only runs with this tag. Repeatable: all of them."
)
@click.option("--since", metavar="WHEN", help="Only runs made since: 2026-01-31, 14:00, today, 2h, 3d.")
@click.option("--until", metavar="WHEN", help="Only runs made before that.")
@click.option("--limit", "-n", type=click.IntRange(1), default=20, show_default=True, help="How many at most.")
@with_journal
def ls(
    state: tuple[str, ...],
    failed: bool,
    late: bool,
    flow: str | None,
    tags: tuple[str, ...],
    since: str | None,
    until: str | None,
    limit: int,
    journal: str | None,
    as_json: bool,
) -> None:
    """List the newest flow runs.

    Those that are not part of another one, newest first. With --late it is said why each run that a schedule fired was
    late, and which schedules should have fired while nobody served them.

    \b
    undertow ls --failed --since yesterday
    undertow ls --flow 'nightly*' --tag prod
    """
    today = datetime.now(UTC)
    wanted = Filter(
        states=(*map(check_state, state), *(("failed", "crashed") if failed else ())),
        flow=flow,
        tags=tags,
        since=None if since is None else moment(since, today),
        until=None if until is None else moment(until, today),
        late=late or None,
    )
    path = journal_path(journal)
    late_after = load().late_after if late else 0.0
    with Reader(path) as reader:
        lines = queries.recent_flows(reader, limit + 1, wanted)
        overdue = [each for each in schedules(reader) if each.overdue(now(), late_after)] if late else []
    page = Page()
    if as_json:
        told: dict[str, Any] = {"overdue": [each.as_document(now(), late_after) for each in overdue]} if late else {}
        runs = [_line_document(line) for line in lines[:limit]]
        page.put_json({"journal": path, "runs": runs, "more": len(lines) > limit} | told)
        return
    page.put(*(_overdue(each, late_after) for each in overdue))
    if lines:
        page.put(render.late_list(lines[:limit], now()) if late else render.flow_list(lines[:limit], now()))
        if len(lines) > limit:
            hint(f"There are older ones: --limit {2 * limit}")
    elif overdue:
        return
    elif wanted == Filter(late=True):
        page.write(f"Nothing is late in {safe(path)}.\n")
    elif wanted == Filter():
        page.write(f"No flow has run yet in {safe(path)}. Run one: undertow run module:flow\n")
    else:
        page.write(f"No flow run in {safe(path)} is like that.\n")


def _line_document(line: FlowLine) -> dict[str, Any]:
    more: dict[str, Any] = {"tasks": line.tasks, "process_gone": line.gone, "short_id": line.short_id}
    if line.run.late is not None:
        more["late_because"] = line.run.late.message
    return as_document(line.run) | more


def _overdue(schedule: Served, late_after: float) -> Text:
    missed = schedule.overdue(now(), late_after)
    number = f"{len(missed):,}{' or more' if len(missed) >= MOST_MISSED else ''}"
    times = "a fire is" if len(missed) == 1 else f"{number} fires are"
    said = f"  {times} overdue, since {local(missed[0])}: nobody serves it. undertow serve ..."
    return Text.assemble((f"schedule {safe(schedule.name)}", "bold"), (said, "yellow"))


# --- show ------------------------------------------------------------------------------------------------------


@click.command()
@with_run
@click.option("--all", "everything", is_flag=True, help="Draw every run for itself, and every kind of failure.")
@with_journal
def show(wanted: str | None, everything: bool, journal: str | None, as_json: bool) -> None:
    """Show a run and all that ran inside it.

    RUN is the beginning of its id, as far as no other run is meant, or its name; without it the newest flow run is
    shown. Many runs of one task are drawn together; their failures are listed.
    """
    path = journal_path(journal)
    with Reader(path) as reader:
        family = queries.family(reader, queries.resolve(reader, wanted))
        gone = queries.process_gone(reader, family[0])
    page = Page()
    if as_json:
        told = as_document(family[0]) | {"tasks": queries.tasks_of(family), "process_gone": gone}
        page.put_json({"journal": path, "run": told, "inside": [as_document(run) for run in family[1:]]})
        return
    root = build(family, EVERYTHING if everything else Shape())
    known = {**render.facts(family[0], now()), **render.inside(family[1:])}
    if gone:
        known["process"] = "has ended; the run is marked Crashed when the journal is next written to"
    page.put(*render.heading(family[0], now()), render.listing(known), "")
    page.put(render.tree(root, now()) if root.children else render.story(family[0]))
    page.put(*render.errors(failures(family), None if everything else render.TRACEBACKS))


# --- why -------------------------------------------------------------------------------------------------------


@click.command()
@with_run
@with_journal
def why(wanted: str | None, journal: str | None, as_json: bool) -> None:
    """Say what a run waits for, or why it ended so.

    What it waits for is followed down to what holds it up: the limit, the upstream, the next attempt, the body at work.
    How it ended is followed down to the first cause, and that one's traceback is shown.
    """
    path = journal_path(journal)
    with Reader(path) as reader:
        known = queries.Lookup(reader)
        run = known.run(queries.resolve(reader, wanted))
        assert run is not None
        chain = reasons(run, known, now())
    page = Page()
    if as_json:
        page.put_json({"journal": path, "run": as_document(run), "reasons": [each.as_document() for each in chain]})
        return
    for number, reason in enumerate(chain):
        guide = "" if number == 0 else "   " * (number - 1) + "└─ "
        page.put(
            Text.assemble((guide, DIM), (safe(reason.run.name), "bold"), "  ", render.state_text(reason.run)),
            Text("   " * number + reason.said),
        )
    last = chain[-1].run
    if last.failed and last.error:
        page.put(*render.errors([Failure(last, 1, last.error)]))
