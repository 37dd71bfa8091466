"""Exceptions as people read them: one line, or a traceback without the engine's own frames; and letting go of what
a stored exception's frames hold."""

from __future__ import annotations

import dis
import inspect
import os
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType

_PACKAGE = Path(__file__).parent.parent  # not resolved: frames name the file as it was imported, links and all
_ENGINE_FOLDERS = tuple(str(_PACKAGE / folder) + os.sep for folder in ("engine", "runners", "storage"))

MAX_LENGTH = 64 * 1024


def describe(error: BaseException) -> str:
    """`ValueError: no rows`, on one line of bounded length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__


def is_ours(filename: str) -> bool:
    """Whether a source file is the engine's own."""
    return filename.startswith(_ENGINE_FOLDERS)


def format_error(error: BaseException) -> str:
    """The traceback as text, causes and groups and notes included, locals never, without the engine's frames."""
    formatted = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
    _trim(formatted, set())
    return "".join(formatted.format())[:MAX_LENGTH]


def _trim(formatted: traceback.TracebackException, seen: set[int]) -> None:
    if id(formatted) in seen:
        return
    seen.add(id(formatted))
    formatted.stack[:] = [frame for frame in formatted.stack if not is_ours(frame.filename)]
    linked = [formatted.__cause__, formatted.__context__, *(formatted.exceptions or ())]
    for other in linked:
        if other is not None:
            _trim(other, seen)


def clear_frames(error: BaseException) -> None:
    """Drop the local variables that the frames of a failed body keep alive, its arguments among them; causes too.

    Clearing a suspended coroutine would close it, and an exception that was stored and raised again carries frames of
    whoever met it before. So coroutines are cleared only as far down from the engine's `call_body` as the exception
    has come up by itself: each of those it has left, and so ended. Generators are left alone.
    """
    seen: set[int] = set()
    ended: set[FrameType] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            pending += current.__cause__, current.__context__
            _clear(current.__traceback__, ended)


def _clear(step: TracebackType | None, ended: set[FrameType]) -> None:
    came_up = step is not None and step.tb_frame in ended  # a cause, met by a body that has ended
    while step is not None:
        frame = step.tb_frame
        flags = frame.f_code.co_flags
        if not flags & _SUSPENDABLE or (came_up and flags & inspect.CO_COROUTINE):
            ended.add(frame)
            with suppress(RuntimeError):  # it is still executing
                frame.clear()
        if frame.f_code.co_name == "call_body" and is_ours(frame.f_code.co_filename):
            came_up = True
        elif frame.f_code.co_code[step.tb_lasti] == _RAISE:
            came_up = False  # what is below may be the story of an earlier raise
        step = step.tb_next


_SUSPENDABLE = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR | inspect.CO_COROUTINE
_RAISE = dis.opmap["RAISE_VARARGS"]
