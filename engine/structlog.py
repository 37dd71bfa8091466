"""`undertow.structlog`: a processor for structlog, whose events go past the standard library's logging.

Needs nothing of structlog itself: a processor is a function of three arguments.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

from .logs import run_fields
from .tap import capturing_run, describe_event, is_delivering, keep

_LEVELS = {"msg": "INFO", "exception": "ERROR", "warn": "WARNING", "fatal": "CRITICAL"}


def processor(logger: Any, method: str, event: MutableMapping[str, Any], /) -> MutableMapping[str, Any]:
    """Give an event the fields of the run it is logged in, and the journal the event.

    Put it anywhere before the renderer. Where structlog writes through the standard library's loggers, the journal
    gets the record from there, and not twice.
    """
    level = _LEVELS.get(method, method.upper())
    run = capturing_run(logging.getLevelNamesMapping().get(level, logging.INFO))
    goes_through_logging = isinstance(logger, logging.Logger) or "_record" in event or is_delivering()
    if run is not None and not goes_through_logging:
        name = event.get("logger") or getattr(logger, "name", None) or "structlog"
        keep(run, level, str(name), describe_event({"event": "", **event}), _error(event.get("exc_info")))
    for field, value in run_fields().items():
        event.setdefault(field, value)
    return event


def _error(exc_info: object) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if isinstance(exc_info[1], BaseException) else None
    return sys.exc_info()[1] if exc_info else None
