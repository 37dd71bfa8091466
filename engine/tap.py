"""Where undertow meets the host's logging: a tap on the way of log records to their handlers, while an engine is open.

A record made in a run goes to the journal, on a console of ours it is shown, and what exists only for those two (see
`Lowered`) is kept from the host's handlers. Nothing of this is a handler on a logger, which the host would notice: one
on root makes a later `basicConfig()` do nothing, is thrown away by `basicConfig(force=True)`, and hides warnings that
Python shows where no handler is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from .context import CURRENT
from .tracebacks import format_error

if TYPE_CHECKING:
    from .run import Run

MAX_MESSAGE = 32 * 1024
"""Characters of a message, its traceback included, beyond which the journal gets no more of it."""

_THE_JOURNALS_OWN = frozenset({"aiosqlite"})
"""Loggers of what the journal is written with: their records about it would bring forth new ones for ever."""


class Lowered(int):
    """A level that lets records come into being for the journal or our console; the host's handlers don't get them."""


class Asked(int):
    """A level that somebody set with one of our settings."""


class Console(Protocol):
    """Shows records to a person."""

    def wants(self, logger: logging.Logger, record: logging.LogRecord, passes: bool, /) -> bool: ...

    def handle(self, record: logging.LogRecord, /) -> object: ...


def level_giver(logger: logging.Logger) -> logging.Logger:
    """The logger whose level is in force for `logger`."""
    giver = logger
    while not giver.level and giver.parent is not None:
        giver = giver.parent
    return giver


def host_level(logger: logging.Logger) -> int:
    """The level that would be in force for `logger` if we had lowered none."""
    giver = level_giver(logger)
    while type(giver.level) is Lowered and giver.parent is not None:
        giver = level_giver(giver.parent)
    return giver.level


def is_for_the_host(logger: logging.Logger, record: logging.LogRecord) -> bool:
    """Whether the record would have been made if we had lowered no level."""
    return type(level_giver(logger).level) is not Lowered or record.levelno >= host_level(logger)


# --- the tap ---------------------------------------------------------------------------------------------------

_consoles: list[Console] = []
_before = logging.Logger.callHandlers
_users = 0
_is_in_place = False
_delivering = threading.local()


def _deliver(self: logging.Logger, record: logging.LogRecord) -> None:
    """Stands in for `Logger.callHandlers`."""
    if not _users:
        _before(self, record)
        return
    if CURRENT.get() is None or is_delivering():
        _pass_on(self, record)  # what handlers log while they handle a record is not the run's
        return
    _delivering.now = True
    try:
        _pass_on(self, record)
    finally:
        # Last, so that what the host's handlers have blacked out of the record is out.
        _capture(record)
        _delivering.now = False


def is_delivering() -> bool:
    """Whether a record is on its way to its handlers in this thread, and will be captured by the tap."""
    return getattr(_delivering, "now", False)


def _pass_on(logger: logging.Logger, record: logging.LogRecord) -> None:
    passes = is_for_the_host(logger, record)
    for console in _consoles[-1:]:
        if console.wants(logger, record, passes):
            console.handle(record)
            passes = passes and logger.hasHandlers()  # else Python's handler of last resort would show it again
    if passes:
        _before(logger, record)


def open_tap() -> None:
    """Begin, or be one more user of it."""
    global _before, _is_in_place, _users
    _users += 1
    if not _is_in_place:
        _before = logging.Logger.callHandlers
        logging.Logger.callHandlers = _deliver  # type: ignore[method-assign]
        _is_in_place = True


def close_tap() -> None:
    """The last user takes it away; where others have put their own tap over it, it stays and does nothing."""
    global _is_in_place, _users
    _users -= 1
    if not _users and logging.Logger.callHandlers is _deliver:
        logging.Logger.callHandlers = _before  # type: ignore[method-assign]
        _is_in_place = False


def add_console(console: Console, insists: bool) -> None:
    """Show records there; one console shows at a time, and one that insists goes before those that don't."""
    _consoles.insert(len(_consoles) if insists else 0, console)


def remove_console(console: Console) -> None:
    """Undo `add_console`."""
    _consoles[:] = [other for other in _consoles if other is not console]


# --- into the journal ------------------------------------------------------------------------------------------


def capturing_run(level: int) -> Run | None:
    """The run around the call, if its engine's journal takes records of that level."""
    run = CURRENT.get()
    if run is None or not run.core.logs.captures(level):
        return None
    return run


def _capture(record: logging.LogRecord) -> None:
    run = capturing_run(record.levelno)
    if run is not None and record.name not in _THE_JOURNALS_OWN:
        error = record.exc_info[1] if record.exc_info else None
        keep(run, record.levelname, record.name, message_of(record), error, record.stack_info or "")


def message_of(record: logging.LogRecord) -> str:
    """What a record says. Never raises, whatever was logged."""
    try:
        if isinstance(record.msg, dict) and "event" in record.msg:
            return describe_event(record.msg)
        return record.getMessage()
    except Exception:
        text = record.msg if isinstance(record.msg, str) else f"A {type(record.msg).__name__}"
        return f"{text} (it can't be written as text with its arguments)"


_NOT_SHOWN = frozenset({"event", "level", "logger", "timestamp", "exc_info", "exception", "stack_info", "stack"})


def describe_event(event: Mapping[str, Any]) -> str:
    """An event of structlog on one line: what happened, `key=value` for the rest; then a formatted exception."""
    pairs = [f"{key}={value!r}" for key, value in event.items() if key not in _NOT_SHOWN and not key.startswith("_")]
    text = " ".join([str(event["event"]), *pairs])
    return f"{text}\n{event['exception']}" if event.get("exception") else text


def keep(run: Run, level: str, logger: str, text: str, error: BaseException | None = None, stack: str = "") -> None:
    """Hand a record to the journal of the run's engine. Whatever goes wrong, it is not the host's matter."""
    try:
        parts = [text, format_error(error).rstrip() if error is not None else "", stack]
        message = "\n".join(part for part in parts if part)
        if len(message) > MAX_MESSAGE:
            message = f"{message[:MAX_MESSAGE]}… ({len(message) - MAX_MESSAGE} more characters)"
        run.core.journal.log(run.id, run.core.clock.now(), level, logger, message)
    except Exception:
        return
