"""Recorded failures: an exception as plain data, and an exception of the same class again.

Reading never imports a module, and calls no constructor but a builtin exception's: a class that is loaded, and is an
exception, gets its arguments and attributes back; of any other the failure is told by `RunFailed`.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
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
    arguments = _arguments(error) if isinstance(error, Exception) else None
    state = {name: value for name, value in _attributes(error) if _writable(value)}
    if not _writable(arguments):
        arguments = None
    return encode([outcome.name, outcome.message, cls.__module__, cls.__qualname__, arguments, state])


def decode_failure(record: Record, run: Run) -> Outcome:
    """The outcome again, for a run that is handed it. Raises `ResultUnreadable`."""
    if record.value is None:
        raise ResultUnreadable("it is not in the journal any more")
    name, message, module, qualname, arguments, state = decode(record.value)
    error = _made_again(module, qualname, arguments, state) or RunFailed(run.name, message)
    error.add_note(f"This was recorded when {run.kind} {run.definition.name!r} ran before; it was not run again.")
    return Outcome(FAILED, name, message, error)


def _arguments(error: Exception) -> list[Any]:
    if isinstance(error, OSError) and error.filename is not None:
        return [*error.args, error.filename, None, error.filename2]
    return list(error.args)


def _attributes(error: object) -> Iterator[tuple[str, Any]]:
    """What an exception remembers beside its arguments, in its dictionary and in slots."""
    yield from getattr(error, "__dict__", {}).items()
    for cls in type(error).__mro__:
        names = cls.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if not name.startswith("__") and hasattr(error, name):
                yield name, getattr(error, name)


def _writable(value: Any) -> bool:
    try:
        encode(value)
    except ResultNotSerializable:
        return False
    return True


def _made_again(module: str, qualname: str, arguments: list[Any] | None, state: dict[str, Any]) -> Exception | None:
    cls = _loaded(module, qualname)
    if cls is None or arguments is None:
        return None
    try:
        error = cls(*arguments) if module == builtins.__name__ else cls.__new__(cls, *arguments)
        for name, value in state.items():
            object.__setattr__(error, name, value)
    except Exception:
        return None  # it can't be made of its arguments: told in another way
    return error


def _loaded(module: str, qualname: str) -> type[Exception] | None:
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, Exception) else None
