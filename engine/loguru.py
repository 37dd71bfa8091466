"""`undertow.loguru`: a sink and a patcher for loguru, whose messages go past the standard library's logging.

Needs nothing of loguru itself: a sink is a function of a message, and a patcher one of a record.
"""

from __future__ import annotations

from typing import Any

from .logs import run_fields
from .tap import capturing_run, is_delivering, keep


def sink(message: Any, /) -> None:
    """Give the journal what is logged in a run: `logger.add(undertow.loguru.sink, level=0)`.

    Not with `enqueue=True`: another thread knows nothing of the run. Not beside a sink that hands everything on to the
    standard library's logging: the journal gets it from there.
    """
    record = message.record
    run = capturing_run(record["level"].no)
    if run is not None and not is_delivering():
        error = record["exception"].value if record["exception"] is not None else None
        keep(run, record["level"].name, str(record["name"]), record["message"], error)


def patch(record: dict[str, Any], /) -> None:
    """Put the fields of the run on every record's `extra`: `logger.configure(patcher=undertow.loguru.patch)`."""
    record["extra"] = {**run_fields(), **record["extra"]}
