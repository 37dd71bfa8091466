"""What goes between a process and its worker processes: frames on a socket, and pickles in them.

Functions go by the name they are found under, also where that name now belongs to the task made of them. What can't
go is named, with the reason. Starting workers and running bodies is the business of `processes.py` and `worker.py`.
"""

from __future__ import annotations

import importlib.util
import io
import logging
import os
import pickle
import struct
import sys
from collections.abc import Iterable
from enum import IntEnum
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

import attrs

from ..engine.errors import CannotTravel, RunFailed
from ..engine.run import RunView
from ..engine.secrets import Secret
from ..engine.tracebacks import describe, format_error

# --- frames ----------------------------------------------------------------------------------------------------


class Kind(IntEnum):
    """What a frame holds."""

    CALL = 0
    """To the worker: a `Call`."""
    BODY = 1
    """To the worker, after each call: the function, its arguments, and the error of the attempt before."""
    BEGUN = 2
    """From the worker, as all that follow: it has the call. What happens from here on happens in the attempt."""
    OUTPUT = 3
    """What was written to file 1 or 2 (the first byte)."""
    LOG = 4
    """The fields of a log record."""
    KEEP = 5
    """What the journal is to keep, of what went past the standard library's logging: level, logger, message."""
    VALUE = 6
    """What the body returned."""
    ERROR = 7
    """What the body raised."""


HEAD = struct.Struct("!B?Q")


def frame(kind: Kind, payload: bytes, in_run: bool = True) -> bytes:
    """A frame: its kind, whether it was made in the run's context, its length, and the payload."""
    return HEAD.pack(kind, in_run, len(payload)) + payload


@attrs.frozen
class Call:
    """What a worker has to know before it can read and run a body."""

    home: Home
    views: list[RunView]
    """The run and its ancestors, without their previous errors."""
    levels: dict[str, int]
    """The levels of the loggers that have one."""
    disabled: int
    """What `logging.disable` was told."""
    capture_level: int | None
    """From which level on the journal keeps what is logged."""
    log_prints: bool
    """Whether what the body prints is logged."""


# --- where things are found ------------------------------------------------------------------------------------


@attrs.frozen
class Home:
    """Where the module of a function is found."""

    path: list[str]
    module: str
    file: str | None

    @classmethod
    def of(cls, function: object) -> Home:
        while isinstance(function, partial):
            function = function.func
        name = getattr(function, "__module__", None) or ""
        file = getattr(sys.modules.get(name), "__file__", None)
        return cls(search_path(), name, os.path.abspath(file) if file else None)

    def load(self) -> None:
        """Have the module imported: by its name, or, where that name leads elsewhere or nowhere, from its file."""
        sys.path[:] = self.path
        if self.file is None or self.module in sys.modules:
            return
        try:
            spec = importlib.util.find_spec(self.module)
        except (ImportError, ValueError):
            spec = None
        if spec is not None and spec.origin is not None and _is_same(spec.origin, self.file):
            import_module(self.module)
            return
        spec = importlib.util.spec_from_file_location(self.module, self.file)
        if spec is not None and spec.loader is not None:
            sys.modules[self.module] = module = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[self.module]
                raise


def search_path() -> list[str]:
    """Where modules are looked for. (What is no text there, a `Path` for one, Python passes over.)"""
    return [folder for folder in sys.path if isinstance(folder, str)]


def _is_same(file: str, other: str) -> bool:
    return Path(file).resolve() == Path(other).resolve()


def main_module() -> tuple[str, str] | None:
    """How another process may load this one's script: `("name", module)` or `("path", file)`; `None`: it can't."""
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", None)
    if name:  # by `python -m`; the main module of a package runs its program when it is loaded, whatever its name
        return None if name.endswith("__main__") else ("name", name)
    file = getattr(main, "__file__", None)
    return ("path", os.path.abspath(file)) if file and Path(file).is_file() else None


def found_at(module: str, qualname: str, depth: int) -> Any:
    """What stands in a module under that name, with so many wrappers taken off."""
    found: Any = import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    for _ in range(depth):
        found = found.__wrapped__
    return found


def _depth(obj: object, module: str, qualname: str) -> int | None:
    """How many wrappers deep the object is under its own name; `None` when it is not there at all."""
    try:
        found = found_at(module, qualname, 0)
        for depth in range(100):
            if found is obj:
                return depth
            found = found.__wrapped__
    except (AttributeError, ImportError, ValueError):
        pass  # no such name, or no more wrappers
    return None


# --- pickles ---------------------------------------------------------------------------------------------------


class _Pickler(pickle.Pickler):
    """Sends a function by its name also where a task has taken that, and remembers what it was last about."""

    last: object = None

    def reducer_override(self, obj: Any, /) -> Any:
        self.last = obj
        if isinstance(obj, Secret):
            return Secret, (obj.reveal(),)  # over a pipe of ours it may go, to no file
        if isinstance(obj, BaseException):
            return NotImplemented if _is_remade(obj) else (_remake, (type(obj), obj.args, obj.__dict__))
        qualname, module = getattr(obj, "__qualname__", None), getattr(obj, "__module__", None)
        if not isinstance(qualname, str) or not isinstance(module, str):
            return NotImplemented
        if module == "__main__" and main_module() is None:
            raise pickle.PicklingError(qualname)
        if isinstance(obj, type):
            return NotImplemented
        depth = _depth(obj, module, qualname)
        if depth is None or (depth == 0 and isinstance(obj, FunctionType)):
            return NotImplemented
        return found_at, (module, qualname, depth)


def dumps(value: object, what: str = "A value") -> bytes:
    """The value as bytes. Raises `CannotTravel`."""
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, pickle.HIGHEST_PROTOCOL)
    try:
        pickler.dump(value)
    except Exception as error:
        raise CannotTravel(what, _why(pickler.last, value, error)) from None
    return buffer.getvalue()


def loads(data: bytes) -> Any:
    """The value again. Its bytes come from a worker that this process started, or from the process that started it."""
    return pickle.loads(data)  # noqa: S301


def _why(part: object, whole: object, error: Exception) -> str:
    it = "it is" if part is whole else "it holds"
    name, module = getattr(part, "__qualname__", None), getattr(part, "__module__", None)
    if not isinstance(name, str) or not isinstance(module, str):
        return f"{it} an object of type {type(part).__module__}.{type(part).__qualname__} ({describe(error)})"
    if name.endswith("<lambda>"):
        return f"{it} a lambda, which has no name to be found by. Write a `def` at the top level of a module"
    if "<locals>" in name:
        return f"{it} {name}, defined inside a function. Move it to the top level of a module"
    if module == "__main__" and main_module() is None:
        return (
            f"{it} {name}, defined in `__main__`, which another process can't load here (a notebook, an interactive "
            "session, `python -c`). Move it to a module"
        )
    return f"{it} {module}.{name}, but another object is found under that name ({describe(error)})"


# --- exceptions ------------------------------------------------------------------------------------------------


def _is_remade(error: BaseException) -> bool:
    """Whether to call the class with `args`, which is how pickle makes an exception again, gives the same one."""
    cls = type(error)
    if not isinstance(cls.__init__, FunctionType) or isinstance(cls.__reduce__, FunctionType):
        return True  # a builtin's way, or one of its own
    try:
        return str(cls(*error.args)) == str(error)
    except Exception:
        return False


def _remake(cls: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    """An exception made without its `__init__`, which may want other arguments than it left in `args`."""
    error = cls.__new__(cls)
    error.args = args
    if isinstance(error, OSError):
        OSError.__init__(error, *args)
    error.__dict__.update(state)
    return error


def portable(error: BaseException, run: str) -> BaseException:
    """The exception, if it can be sent; else a `RunFailed` that says what it was."""
    try:
        loads(dumps(error))
    except Exception as reason:
        return RunFailed(run, f"{describe(error)} (the exception itself can't be sent: {describe(reason)})")
    return error


def pack_error(error: BaseException, run: str) -> bytes:
    """An exception with its traceback as text."""
    return dumps((os.getpid(), format_error(error), describe(error), dumps(portable(error, run))))


def unpack_error(payload: bytes, run: str) -> BaseException:
    """The exception again, with a note of where it was raised."""
    pid, traceback, said, pickled = loads(payload)
    error: BaseException
    try:
        error = loads(pickled)
    except Exception as reason:
        error = RunFailed(run, f"{said} (the exception itself can't be read: {describe(reason)})")
    if "Traceback (" in traceback:  # it has frames that are not ours
        error.add_note(f"In worker process {pid}:\n{traceback.rstrip()}")
    return error


# --- log records -----------------------------------------------------------------------------------------------


def loggers() -> Iterable[logging.Logger]:
    """The root logger and all others there are."""
    yield logging.getLogger()
    yield from [each for each in list(logging.root.manager.loggerDict.values()) if isinstance(each, logging.Logger)]


def pack_record(record: logging.LogRecord) -> bytes:
    """A log record, its message and traceback as text; of other fields that can't be sent, what they look like."""
    fields = {**record.__dict__, "msg": record.getMessage(), "args": None}
    if record.exc_info:
        error = record.exc_info[1]
        fields["exc_text"] = record.exc_text or logging.Formatter().formatException(record.exc_info)
        fields["exc_info"] = None if error is None else pack_error(error, record.name)
    try:
        return dumps(fields)
    except CannotTravel:
        plain = (str, int, float, bytes, type(None))
        return dumps({key: value if isinstance(value, plain) else repr(value) for key, value in fields.items()})


def unpack_record(payload: bytes) -> logging.LogRecord:
    """The record again."""
    record = logging.makeLogRecord(loads(payload))
    if isinstance(record.exc_info, bytes):
        error = unpack_error(record.exc_info, record.name)
        record.exc_info = (type(error), error, None)
    return record
