"""The command line: `undertow run`, `ls`, `show` and `version`.

Verbs are thin: they read options, ask the journal or run the flow, and hand values to `render`. A mistake of the
user's is one line on stderr and exit code 2; what went wrong inside a flow is its failure, and exit code 1.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version as version_of
from typing import Any

try:
    import click
    import rich as _rich  # noqa: F401
except ModuleNotFoundError as missing:
    if missing.name not in ("click", "rich"):
        raise
    print(f'undertow: the command line needs {missing.name}: pip install "undertow[cli]"', file=sys.stderr)
    raise SystemExit(2) from None

from ..engine.errors import JournalError, UndertowError
from ..engine.run import Run
from ..engine.states import NAMES, StateType
from ..storage.reading import Reader
from . import queries, render, running
from .loading import arguments, find_flow, read_parameters
from .queries import FlowLine, RunRecord
from .render import Page
from .tree import build, failures
from .wording import safe

SUCCESS, FAILURE, USAGE, INTERRUPTED = 0, 1, 2, 130


class CommandLine(click.Group):
    """A group whose every error is one line on stderr."""

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        plainly: Callable[..., Any] = super().main
        if not standalone_mode:
            return plainly(*args, standalone_mode=False, **extra)
        code: Any = FAILURE
        try:
            code = plainly(*args, standalone_mode=False, **extra)
            sys.stdout.flush()
        except click.ClickException as error:
            code = _complain(_with_usage(error))
        except UndertowError as error:
            code = _complain(str(error))
        except (KeyboardInterrupt, click.Abort):
            code = _complain("interrupted", INTERRUPTED)
        except BrokenPipeError:
            # Whoever read our output has seen enough; what is still in the buffer must not fail at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(code if isinstance(code, int) else SUCCESS)


def _complain(message: str, code: int = USAGE) -> int:
    Page(stderr=True).write(f"undertow: {safe(message)}\n")
    return code


def _with_usage(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    message = " ".join(error.format_message().split())
    return message if context is None else f"{message} (See {context.command_path} --help.)"


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every verb that has to do with a journal."""
    journal = click.option(
        "--journal", metavar="PATH", help="The journal; else $UNDERTOW_JOURNAL, else ~/.undertow/journal.db."
    )
    return journal(_json(command))


_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group(
    "undertow", cls=CommandLine, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(version_of("undertow"), message="undertow %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """Run flows, and look at what ran."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


# --- run -------------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("target", metavar="MODULE:FLOW")
@click.option(
    "--param", "-p", "given", metavar="NAME=VALUE", multiple=True, help="An argument: JSON, or else text. Repeatable."
)
@click.option(
    "--backend", type=click.Choice(["asyncio", "trio"]), default="asyncio", show_default=True, help="The event loop."
)
@_options
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
        with running.stdout_to_stderr(), running.logging_shown():
            finished = running.run_flow(flow, call, path, backend, on_start=lambda run: None)
    else:
        with running.logging_shown():
            finished = running.run_flow(flow, call, path, backend, on_start=_announce)
    return _report(finished, journal, as_json)


def _announce(run: Run) -> None:
    Page(stderr=True).write(f"{safe(run.name)} started, run {run.id}\n")


def _report(finished: running.Finished, given_path: str | None, as_json: bool) -> int:
    path = running.journal_path(given_path)
    code = _exit_code(finished)
    if finished.run is None:
        return _complain("interrupted before the flow began", code)
    family = _family_of(finished.run, path)
    value = finished.state.result(False) if finished.state is not None and finished.state.is_completed() else None
    page = Page()
    if as_json:
        page.put_json({"journal": path, "run": _document(family), "result": _plain(value), "exit_code": code})
        return code
    now = time.time_ns() // 1000
    known: render.Facts = {"run": family[0].id, **render.inside(family[1:])}
    if value is not None:
        known["result"] = render.result(value)
    page.put(*render.heading(family[0], now), render.listing(known))
    if code == FAILURE:
        page.put(*render.errors(failures(family)))
    if code != SUCCESS and path != ":memory:":
        wanted = finished.run.id if finished.run.given_name else finished.run.name
        option = f" --journal {shlex.quote(given_path)}" if given_path else ""
        Page(stderr=True).write(f"\nMore: undertow show {wanted}{option}\n")
    return code


def _exit_code(finished: running.Finished) -> int:
    if isinstance(finished.interrupt, KeyboardInterrupt):
        return INTERRUPTED
    state = finished.state
    return SUCCESS if state is not None and state.type in (StateType.COMPLETED, StateType.SKIPPED) else FAILURE


def _family_of(run: Run, path: str) -> list[RunRecord]:
    """The run and what ran inside it; the run alone where the journal can't tell."""
    try:
        with Reader(path) as reader:
            return queries.family(reader, run.id) or [queries.record_of(run)]
    except JournalError:
        return [queries.record_of(run)]


def _document(family: Sequence[RunRecord]) -> dict[str, Any]:
    return render.as_document(family[0]) | {"tasks": queries.tasks_of(family)}


def _plain(value: object) -> Any:
    """The value where JSON can say it, else its `repr`."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return render.result(value).plain


# --- ls --------------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--state", metavar="STATE", help="Only runs in this state, such as failed or TimedOut.")
@click.option("--limit", "-n", type=click.IntRange(1), default=20, show_default=True, help="How many at most.")
@_options
def ls(state: str | None, limit: int, journal: str | None, as_json: bool) -> None:
    """List the newest flow runs.

    Those that are not part of another one, newest first.
    """
    path = running.journal_path(journal)
    with Reader(path) as reader:
        lines = queries.recent_flows(reader, limit + 1, state)
    page = Page()
    if as_json:
        runs = [_line_document(line) for line in lines[:limit]]
        page.put_json({"journal": path, "runs": runs, "more": len(lines) > limit})
    elif lines:
        page.put(render.flow_list(lines[:limit], time.time_ns() // 1000))
        if len(lines) > limit:
            Page(stderr=True).write(f"There are older ones: --limit {2 * limit}\n")
    else:
        page.write(_nothing(path, state))


def _line_document(line: FlowLine) -> dict[str, Any]:
    more = {"tasks": line.tasks, "process_gone": line.gone, "short_id": line.short_id}
    return render.as_document(line.run) | more


def _nothing(path: str, state: str | None) -> str:
    if state is None:
        return f"No flow has run yet in {safe(path)}. Run one: undertow run module:flow\n"
    known = [*StateType, *(name for names in NAMES.values() for name in names)]
    if state.lower() in (name.lower() for name in known):
        return f"No flow run in {safe(path)} is in the state {safe(state)}.\n"
    words = ", ".join(dict.fromkeys(name for names in NAMES.values() for name in names))
    return f"No flow run in {safe(path)} is in a state called {safe(state)!r}. The states: {words}.\n"


# --- show ------------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("wanted", metavar="[RUN]", required=False)
@click.option("--all", "everything", is_flag=True, help="Draw every run for itself, and every kind of failure.")
@_options
def show(wanted: str | None, everything: bool, journal: str | None, as_json: bool) -> None:
    """Show a run and all that ran inside it.

    RUN is the beginning of its id, as far as no other run is meant, or its name; without it the newest flow run is
    shown. Many runs of one task are drawn together; their failures are listed.
    """
    path = running.journal_path(journal)
    with Reader(path) as reader:
        run_id = queries.latest(reader) if wanted is None else queries.resolve(reader, wanted)
        family = queries.family(reader, run_id) if run_id is not None else []
        gone = bool(family) and queries.process_gone(reader, family[0])
    page = Page()
    if not family:
        page.write(_nothing(path, None)) if not as_json else page.put_json({"journal": path, "run": None, "inside": []})
        return
    if as_json:
        documents = [render.as_document(run) for run in family[1:]]
        page.put_json({"journal": path, "run": _document(family) | {"process_gone": gone}, "inside": documents})
        return
    now = time.time_ns() // 1000
    root = build(family, expand=everything)
    known = {**render.facts(family[0], now), **render.inside(family[1:])}
    if gone:
        known["process"] = "has ended; the run is marked Crashed when the journal is next written to"
    page.put(*render.heading(family[0], now), render.listing(known))
    if root.children:
        page.put("", render.tree(root, now))
    else:
        page.put("", render.story(family[0]))
    page.put(*render.errors(failures(family), None if everything else render.TRACEBACKS))


# --- version ---------------------------------------------------------------------------------------------------


@cli.command()
@_json
def version(as_json: bool) -> None:
    """Say which undertow this is."""
    versions = {
        "undertow": version_of("undertow"),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }
    versions |= {name: version_of(name) for name in ("anyio", "trio", "aiosqlite")}
    page = Page()
    if as_json:
        page.put_json(versions)
    else:
        first, *others = (f"{name} {number}" for name, number in versions.items())
        page.write(f"{first} ({', '.join(others)})\n")


def main() -> None:
    """The `undertow` command."""
    cli(prog_name="undertow")
