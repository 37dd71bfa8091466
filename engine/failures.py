"""Recorded failures: an exception as plain data, and an exception of the same class again.

Reading never imports a module and never calls a constructor: a class that is loaded, and is an exception, gets its
arguments and attributes back; of any other the failure is told by `RunFailed`.
"""

from __future__ import annotations

import sys
from typing import Any

from .codec import decode, encode
from .errors import ResultNotSerializable, ResultUnreadable, RunFailed
from .ports import Record
from .run import Outcome, Run
from .states import FAILED


def encode_failure(outcome: Outcome) -> bytes:
    """A FAILED outcome as bytes; what of its exception can't be written is left out."""
    error = outcome.data
    cls = type(error)
    state = {key: value for key, value in getattr(error, "__dict__", {}).items() if _writable(value)}
    arguments = list(error.args) if isinstance(error, BaseException) and _writable(list(error.args)) else None
    return encode([outcome.name, outcome.message, cls.__module__, cls.__qualname__, arguments, state])


def decode_failure(record: Record, run: Run) -> Outcome:
    """The outcome again, for a run that is handed it. Raises `ResultUnreadable`."""
    if record.value is None:
        raise ResultUnreadable("it is not in the journal any more")
    name, message, module, qualname, arguments, state = decode(record.value)
    cls = _loaded(module, qualname)
    if cls is None or arguments is None:
        error: Exception = RunFailed(run.name, message)
    else:
        error = cls.__new__(cls, *arguments)
        error.__dict__.update(state)
    error.add_note(f"This was recorded when {run.kind} {run.definition.name!r} ran before; it was not run again.")
    return Outcome(FAILED, name, message, error)


def _writable(value: Any) -> bool:
    try:
        encode(value)
    except ResultNotSerializable:
        return False
    return True


def _loaded(module: str, qualname: str) -> type[Exception] | None:
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None
