"""`undertow schedules` and `schedule`: what is served and by whom, and a say in it, through the journal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Any

import anyio
import click
from click.shell_completion import CompletionItem
from rich.text import Text

from ..engine.errors import UndertowError
from ..engine.settings import load
from ..engine.states import EPOCH
from ..engine.timetable import Schedules
from ..storage.reading import Reader
from ..wiring import Engine
from .moments import end_of, moment
from .options import hint, now, rows_to_complete, with_journal
from .page import DIM, STYLES, Page, grid, one_line
from .running import journal_path
from .timetable import Served, said, schedules, zone_of
from .wording import ago, counted, local, safe


@click.command("schedules")
@with_journal
def list_schedules(journal: str | None, as_json: bool) -> None:
    """List the schedules: who serves each, how it fired last, and when it fires next."""
    path, late_after = journal_path(journal), load().late_after
    with Reader(path) as reader:
        found = schedules(reader)
    page = Page()
    if as_json:
        page.put_json({"journal": path, "schedules": [each.as_document(now(), late_after) for each in found]})
        return
    if not found:
        page.write(f"No schedule has been served yet on {safe(path)}: undertow serve MODULE:FLOW --cron ...\n")
        return
    table = grid("left", "left", "full", "left", "left", "left")
    titles = ("NAME", "FLOW", "SCHEDULE", "SERVED BY", "LAST FIRE", "NEXT FIRE")
    table.add_row(*(Text(title, "bold") for title in titles))
    for each in found:
        server = Text("nobody", "yellow") if each.server is None else Text(safe(each.server))
        flow = safe(each.flow.rpartition(".")[2])
        table.add_row(
            safe(each.name), flow, one_line(said(each.schedule)), server, _last(each), _next(each, late_after)
        )
    page.put(table)


def _last(schedule: Served) -> Text:
    if schedule.last is None:
        return Text("never", DIM)
    text = Text(f"{ago(schedule.last, now())} ")
    run = schedule.last_run
    if run is None:
        return text.append("(not recorded any more)", DIM)
    return text.append(safe(run.state.name), STYLES.get(run.state.type, ""))


def _next(schedule: Served, late_after: float) -> Text:
    overdue, at = schedule.overdue(now(), late_after), schedule.next()
    if schedule.paused_at is not None:
        text = Text(f"paused, {ago(schedule.paused_at, now())}", "yellow")
    elif overdue:
        text = Text(f"overdue since {local(overdue[0])}", "bold red")
    else:
        text = Text("never again", DIM) if at is None else Text(local(at))
    return text.append(f", {schedule.asked_for:,} asked for", "yellow") if schedule.asked_for else text


# --- schedule pause, resume, trigger, backfill -----------------------------------------------------------------


def complete_schedule(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """The names of the schedules."""
    rows = rows_to_complete(context, "SELECT name FROM schedule ORDER BY name LIMIT 200")
    return [CompletionItem(safe(row["name"])) for row in rows if row["name"].startswith(begun)]


with_name = click.argument("name", shell_complete=complete_schedule)


class NoSuchSchedule(UndertowError, LookupError):
    """There is no schedule of that name."""

    def __init__(self, name: str, path: str, known: list[str]) -> None:
        close = get_close_matches(name, known, 1)
        hint = f"Did you mean {close[0]!r}?" if close else "`undertow schedules` lists those there are."
        super().__init__(f"There is no schedule {name!r} in {path}. {hint}")


@click.group("schedule")
def schedule() -> None:
    """Pause, resume, trigger or backfill a schedule, also while another process serves it."""


@schedule.command()
@with_name
@with_journal
def pause(name: str, journal: str | None, as_json: bool) -> None:
    """Let a schedule fire no more, until it is resumed. Runs that are going go on."""
    path, _ = _found(name, journal)
    changed = _ask(path, lambda schedules: schedules.pause(name))
    _tell(as_json, path, name, {"changed": changed}, f"{name} {'is paused' if changed else 'was paused already'}.")


@schedule.command()
@with_name
@with_journal
def resume(name: str, journal: str | None, as_json: bool) -> None:
    """Let a paused schedule fire again. What came due meanwhile does not fire."""
    path, _ = _found(name, journal)
    changed = _ask(path, lambda schedules: schedules.resume(name))
    _tell(as_json, path, name, {"changed": changed}, f"{name} {'fires again' if changed else 'was not paused'}.")


@schedule.command()
@with_name
@with_journal
def trigger(name: str, journal: str | None, as_json: bool) -> None:
    """Have a schedule's flow run now, beside its own times."""
    path, found = _found(name, journal)
    run_id = _ask(path, lambda schedules: schedules.trigger(name))
    _tell(as_json, path, name, {"run_id": run_id}, f"Run {run_id} was asked for.")
    _warn_if_it_waits(found)


@schedule.command()
@with_name
@click.option("--from", "start", metavar="WHEN", required=True, help="The first time: 2026-01-31, 2026-01-31T14:00.")
@click.option("--to", "end", metavar="WHEN", required=True, help="The last time; of a day, all of it.")
@with_journal
def backfill(name: str, start: str, end: str, journal: str | None, as_json: bool) -> None:
    """Have a schedule's flow run for each of its times in a span, one after another.

    Times that it has fired for already are left out. What names no time zone is meant in the schedule's own.

    \b
    undertow schedule backfill nightly --from 2026-01-01 --to 2026-01-31
    """
    path, found = _found(name, journal)
    zone, today = zone_of(found.schedule), datetime.now(UTC)
    span = [EPOCH + timedelta(microseconds=at) for at in (moment(start, today, zone), end_of(end, today, zone))]
    run_ids = _ask(path, lambda schedules: schedules.backfill(name, *span))
    words = f"{counted(len(run_ids), 'run')} {'was' if len(run_ids) == 1 else 'were'} asked for."
    if not run_ids:
        words = "There is nothing to run: no time of the schedule in that span, or it has fired for all of them."
    _tell(as_json, path, name, {"run_ids": run_ids}, words)
    if run_ids:
        _warn_if_it_waits(found)


def _found(name: str, journal: str | None) -> tuple[str, Served]:
    """The journal, and the schedule of that name in it. Raises `NoSuchSchedule` and `JournalError`s."""
    path = journal_path(journal)
    with Reader(path) as reader:
        known = {each.name: each for each in schedules(reader)}
    if name not in known:
        raise NoSuchSchedule(name, path, list(known))
    return path, known[name]


def _ask(path: str, what: Callable[[Schedules], Awaitable[Any]]) -> Any:
    """Do something with the schedules of a journal, whoever serves them."""

    async def asking() -> Any:
        async with Engine(path, recover=False, logging={"console": "off"}) as engine:
            return await what(engine.schedules)

    return anyio.run(asking)


def _tell(as_json: bool, path: str, name: str, told: dict[str, Any], words: str) -> None:
    if as_json:
        Page().put_json({"journal": path, "name": name} | told)
    else:
        Page().write(f"{safe(words)}\n")


def _warn_if_it_waits(schedule: Served) -> None:
    if schedule.paused_at is not None:
        hint(f"{schedule.name} is paused: nothing runs until it is resumed.")
    elif schedule.server is None:
        hint(f"Nobody serves {schedule.name} now: nothing runs until somebody does.")
