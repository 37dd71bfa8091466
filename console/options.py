"""What the verbs have in common: exit codes, options, the way they complain, and the newest run as the default."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from ..engine.errors import JournalError, UndertowError
from ..engine.states import NAMES, StateType
from ..storage.reading import Reader
from .page import Page
from .running import journal_path
from .wording import cut, safe

SUCCESS, FAILURE, USAGE, INTERRUPTED = 0, 1, 2, 130

EXIT_CODES = """\
Exit codes: 0 done; 1 the flow failed, or `doctor` found a problem; 2 it could not be done as it was asked for; \
130 interrupted."""

LONGEST_COMPLAINT = 2_000
"""Characters of a complaint, which may repeat what was written on the command line."""

Command = TypeVar("Command", bound=Callable[..., Any])


def now() -> int:
    """The time, in microseconds since 1970."""
    return time.time_ns() // 1000


def complain(message: str, code: int = USAGE) -> int:
    """Say one line on stderr, and return the exit code."""
    Page(stderr=True).write(f"undertow: {cut(message, LONGEST_COMPLAINT)}\n")
    return code


def hint(message: str) -> None:
    """Say something on stderr that is no complaint."""
    Page(stderr=True).write(safe(f"{message}\n", keep="\n"))


def with_json(command: Command) -> Command:
    """The option of every verb to answer a program."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def with_journal(command: Command) -> Command:
    """The options of every verb that has to do with a journal."""
    journal = click.option(
        "--journal",
        metavar="PATH",
        type=click.Path(),
        help="The journal; else $UNDERTOW_JOURNAL, else ~/.undertow/journal.db.",
    )
    return journal(with_json(command))


def with_parameters(command: Command) -> Command:
    """The option that gives a flow its arguments."""
    said = "An argument: JSON, or else text. Repeatable."
    return click.option("--param", "-p", "given", metavar="NAME=VALUE", multiple=True, help=said)(command)


def with_backend(command: Command) -> Command:
    """The option that chooses the event loop."""
    kinds = click.Choice(["asyncio", "trio"])
    return click.option("--backend", type=kinds, default="asyncio", show_default=True, help="The event loop.")(command)


def with_run(command: Command) -> Command:
    """The argument that says which run is meant: the beginning of its id, or its name; the newest by default."""
    return click.argument("wanted", metavar="[RUN]", required=False, shell_complete=complete_run)(command)


# --- completion ------------------------------------------------------------------------------------------------


def rows_to_complete(context: click.Context, sql: str) -> list[dict[str, Any]]:
    """What the journal of a command has; nothing where it can't be read."""
    try:
        with Reader(journal_path(context.params.get("journal"))) as reader:
            return reader.rows(sql)
    except JournalError:
        return []


def complete_run(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """The names of the last flow runs."""
    rows = rows_to_complete(context, "SELECT name, state_name FROM flow_runs ORDER BY id DESC LIMIT 200")
    names = {safe(row["name"]): safe(row["state_name"]) for row in reversed(rows)}
    return [CompletionItem(name, help=state) for name, state in reversed(names.items()) if name.startswith(begun)]


def complete_flow(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """The names of the flows that ran."""
    rows = rows_to_complete(context, "SELECT DISTINCT flow FROM flow_runs ORDER BY flow LIMIT 200")
    return [CompletionItem(safe(row["flow"])) for row in rows if row["flow"].startswith(begun)]


STATE_NAMES = tuple(dict.fromkeys(name for names in NAMES.values() for name in names))


class StateUnknown(UndertowError, ValueError):
    """No state has the name that was given."""

    def __init__(self, given: str) -> None:
        super().__init__(f"There is no state called {given!r}. The states: {', '.join(STATE_NAMES)}.")


def check_state(given: str) -> str:
    """The type or name of a state, in small letters. Raises `StateUnknown`."""
    if given.lower() not in {name.lower() for name in (*StateType, *STATE_NAMES)}:
        raise StateUnknown(given)
    return given.lower()


def complete_state(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """The names of states, in any case."""
    return [CompletionItem(name) for name in STATE_NAMES if name.lower().startswith(begun.lower())]
