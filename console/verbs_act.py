"""`undertow resume` and `cancel`: what acts on runs that are recorded."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import anyio
import click

from ..engine.signals import cancel_run
from ..engine.states import TERMINAL, StateType
from ..storage.reading import Reader
from ..storage.requests import ask
from ..wiring import Engine
from . import queries, running
from .loading import find_flow, read_value
from .options import FAILURE, SUCCESS, complain, hint, with_backend, with_journal, with_run
from .page import Page
from .records import RunRecord, as_document
from .verbs_run import announce, told
from .wording import safe

REASON = "asked for by `undertow cancel`"
LOOK_SECONDS = 0.1
"""How often to look whether a run is as it is to be."""
ANSWER_SECONDS = 5.0
"""How long to wait for a paused run to go on; its process looks twice a second."""


@click.command()
@click.option("--input", "given", metavar="JSON", help="What a paused or suspended run is given: JSON, or else text.")
@click.option("--flow", "target", metavar="MODULE:FLOW", help="Where the flow is, if it can't be found by its name.")
@click.option("--retry", is_flag=True, help="Try recorded failures again, also after a crash.")
@click.option(
    "--on-mismatch",
    type=click.Choice(["raise", "rerun", "accept"]),
    help="What to do when the flow does not do what is recorded of it; else what the flow says.",
)
@with_backend
@with_run
@with_journal
def resume(
    wanted: str | None,
    given: str | None,
    target: str | None,
    retry: bool,
    on_mismatch: str | None,
    backend: str,
    journal: str | None,
    as_json: bool,
) -> int:
    """Go on with a run that is paused, or with a durable one that is suspended, failed, crashed or was cancelled.

    A paused run goes on in its own process. Any other goes on here: what is recorded in it is handed back, and only
    the rest runs. The flow is imported by the name it was recorded with; --flow path/to/file.py:flow loads it from
    elsewhere.

    \b
    undertow resume order-17 --input '{"approved": true}'

    Exit code: 0 it completed, or goes on in its process; 1 it did not; 2 it can't be resumed; 130 it was interrupted.
    """
    path = running.journal_path(journal)
    with Reader(path) as reader:
        run = _look(reader, queries.resolve(reader, wanted))
        gone = queries.process_gone(reader, run)
    value = None if given is None else read_value(given)
    if run.state.type == StateType.PAUSED and run.state.name != "Suspended":
        return _answer(path, run, value, gone, as_json)
    suspended = run.state.name == "Suspended"
    if given is not None and not suspended:
        return complain(f"--input: {run.name} waits for none, it is {run.state.name}.")
    if target is not None:
        find_flow(target)
    elif os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    options: dict[str, Any] = {"on_mismatch": on_mismatch} | ({"retries_failures": True} if retry else {})
    answer = running.Answer(value) if suspended else None
    if as_json:
        with running.stdout_to_stderr():
            finished = running.resume_run(run.id, path, backend, options, lambda run: None, answer)
    else:
        finished = running.resume_run(run.id, path, backend, options, announce, answer)
    return told(finished, journal, as_json)


def _answer(path: str, run: RunRecord, value: object, gone: bool, as_json: bool) -> int:
    """Give a paused run, which another process lives, what it waits for."""
    if gone:
        return complain(f"{run.name}: its process has ended; the run is marked when the journal is next written to.")
    if not ask(path, "resume", run.id, value, alone=True):
        return complain(f"{run.name} was resumed a moment ago, and has not gone on yet.")
    before = len(run.states)
    run = _wait(path, run, ANSWER_SECONDS, lambda run: len(run.states) > before)
    goes_on = len(run.states) > before
    if as_json:
        Page().put_json({"journal": path, "run": as_document(run), "exit_code": SUCCESS if goes_on else FAILURE})
    elif goes_on:
        Page().write(f"{safe(run.name)} goes on: it is {safe(run.state.name)}.\n")
    else:
        hint(f"{safe(run.name)} is {safe(run.state.name)} still. Is that what it waits for? Its own log says more.")
    return SUCCESS if goes_on else FAILURE


@click.command()
@click.option("--reason", default=REASON, show_default=True, help="Why; it is recorded.")
@click.option(
    "--wait", "seconds", type=click.FloatRange(0), default=10.0, show_default=True, help="Seconds to wait for its end."
)
@with_run
@with_journal
def cancel(wanted: str | None, reason: str, seconds: float, journal: str | None, as_json: bool) -> int:
    """Cancel a flow run that another process is running, or that is suspended.

    The process looks for such requests twice a second; the run then ends Cancelled, after its cleanup. A `def` flow in
    a thread ends when it next calls a task.

    Exit code: 0 it was cancelled, 1 it has not ended in time, 2 there is nothing to cancel.
    """
    path = running.journal_path(journal)
    with Reader(path) as reader:
        run = _look(reader, queries.resolve(reader, wanted))
        gone = queries.process_gone(reader, run)
    if run.state.type in TERMINAL:
        return complain(f"{run.name} has ended already: {run.state.name}.")
    if run.kind != "flow":
        return complain(f"{run.name} is a task run: only flow runs can be cancelled from another process.")
    if run.state.name == "Suspended":
        anyio.run(_cancel_suspended, path, run.id, reason.strip() or REASON)
    elif gone:
        return complain(f"{run.name}: its process has ended; the run is marked when the journal is next written to.")
    else:
        ask(path, "cancel", run.id, reason.strip() or REASON)
    run = _wait(path, run, seconds, lambda run: run.state.type in TERMINAL)
    code = SUCCESS if run.state.type == StateType.CANCELLED else FAILURE
    if as_json:
        Page().put_json({"journal": path, "run": as_document(run), "exit_code": code})
    elif run.state.type in TERMINAL:
        Page().write(f"{safe(run.name)} ended {safe(run.state.name)}.\n")
    else:
        hint(f"{safe(run.name)} was asked to stop, and is {safe(run.state.name)} still.")
    return code


async def _cancel_suspended(path: str, run_id: str, reason: str) -> None:
    async with Engine(path, recover=False, logging={"console": "off"}) as engine:
        await cancel_run(engine.core, run_id, reason)


def _look(reader: Reader, run_id: str) -> RunRecord:
    return queries.family(reader, run_id)[0]


def _wait(path: str, run: RunRecord, seconds: float, enough: Callable[[RunRecord], bool]) -> RunRecord:
    """The run once it is as it is to be, or as it is after so long."""
    deadline = time.monotonic() + seconds
    while not enough(run) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        with Reader(path) as reader:
            run = _look(reader, run.id)
    return run
