"""`undertow run`: a flow in this process, from the words of the command line to what became of it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import click

from ..engine.errors import JournalError
from ..engine.run import Run
from ..engine.states import StateType
from ..storage.reading import Reader
from . import queries, render, running
from .loading import arguments, find_flow, read_parameters
from .options import FAILURE, INTERRUPTED, SUCCESS, complain, hint, now, with_backend, with_journal, with_parameters
from .page import Page
from .records import RunRecord, as_document, record_of
from .tree import failures
from .wording import safe


@click.command()
@click.argument("target", metavar="MODULE:FLOW")
@with_parameters
@with_backend
@with_journal
def run(target: str, given: tuple[str, ...], backend: str, journal: str | None, as_json: bool) -> int:
    """Run a flow.

    It is named as MODULE:FLOW or path/to/file.py:FLOW. Values are read as JSON, and as text where they are none.

    \b
    undertow run jobs:nightly --param day=2026-01-31 --param limit=20

    Exit code: 0 it completed (or was skipped), 1 it did not, 2 it could not be run, 130 it was interrupted.
    """
    parameters = read_parameters(given)
    flow = find_flow(target)
    call = arguments(flow, parameters)
    path = running.journal_path(journal)
    if as_json:
        with running.stdout_to_stderr():
            finished = running.run_flow(flow, call, path, backend, on_start=lambda run: None)
    else:
        finished = running.run_flow(flow, call, path, backend, on_start=announce, watched=sys.stderr.isatty())
    return told(finished, journal, as_json)


def announce(run: Run) -> None:
    """Say which run it is that has begun."""
    hint(f"{safe(run.name)} started, run {run.id}")


def told(finished: running.Finished, given_path: str | None, as_json: bool) -> int:
    """Say what became of a run, and return the exit code."""
    path = running.journal_path(given_path)
    code = _exit_code(finished)
    if finished.run is None:
        return complain("interrupted before the flow began", code)
    family = _family_of(finished.run, path)
    value = finished.state.result(False) if finished.state is not None and finished.state.is_completed() else None
    page = Page()
    if as_json:
        document = as_document(family[0]) | {"tasks": queries.tasks_of(family)}
        page.put_json({"journal": path, "run": document, "result": _plain(value), "exit_code": code})
        return code
    known: render.Facts = {"run": family[0].id, **render.inside(family[1:])}
    if value is not None:
        known["result"] = render.result(value)
    page.put(*render.heading(family[0], now()), render.listing(known))
    if code == FAILURE:
        page.put(*render.errors(failures(family)))
    if code != SUCCESS and path != ":memory:":
        wanted = finished.run.id if finished.run.given_name else finished.run.name
        option = f" --journal {shlex.quote(given_path)}" if given_path else ""
        is_suspended = finished.state is not None and finished.state.type is StateType.PAUSED
        verb, more = ("resume", " --input JSON") if is_suspended else ("show", "")
        hint(f"\n{'To go on' if is_suspended else 'More'}: undertow {verb} {wanted}{option}{more}")
    return code


def _exit_code(finished: running.Finished) -> int:
    if isinstance(finished.interrupt, KeyboardInterrupt):
        return INTERRUPTED
    state = finished.state
    return SUCCESS if state is not None and state.type in (StateType.COMPLETED, StateType.SKIPPED) else FAILURE


def _family_of(run: Run, path: str) -> Sequence[RunRecord]:
    """The run and what ran inside it; the run alone where the journal can't tell."""
    try:
        with Reader(path) as reader:
            return queries.family(reader, run.id) or [record_of(run)]
    except JournalError:
        return [record_of(run)]


def _plain(value: object) -> Any:
    """The value where JSON can say it, else its `repr`."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return render.result(value).plain
