"""Exceptions as people read them: one line, or a traceback without the engine's own frames; and letting go of what
a stored exception's frames hold."""

from __future__ import annotations

import dis
import inspect
import os
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from .run import Run

_PACKAGE = Path(__file__).parent.parent  # not resolved: frames name the file as it was imported, links and all
_MACHINERY = (
    *(str(_PACKAGE / folder) + os.sep for folder in ("engine", "runners", "storage")),
    str(Path(anyio.__file__).parent) + os.sep,  # the hops between our frames and the body's
)

MAX_LENGTH = 64 * 1024


def describe(error: BaseException) -> str:
    """`ValueError: no rows`, on one line of bounded length."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = ""  # its own fault, and no reason to lose it
    return f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__


def is_ours(filename: str) -> bool:
    """Whether a source file is part of the engine's machinery, and no news to a reader of a traceback."""
    return filename.startswith(_MACHINERY)


def format_error(error: BaseException) -> str:
    """The traceback as text, causes and groups and notes included, locals never, without the engine's frames."""
    formatted = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
    _trim(formatted, set())
    return "".join(formatted.format())[:MAX_LENGTH]


def note_origin(error: BaseException, run: Run) -> None:
    """Have an exception say which run and attempt it came from; one from a run inside says so already."""
    if not any(note.startswith(_ORIGIN) for note in getattr(error, "__notes__", ())):
        attempt = f", attempt {run.attempts}" if run.attempts else ""
        error.add_note(f"{_ORIGIN}{run.kind} run {run.name!r}{attempt} (id {run.id})")


_ORIGIN = "Raised in "


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
    """Drop the local variables that the frames of an exception, and of its causes, keep alive.

    Frames that still run keep theirs, and so do suspended ones: an exception that was stored and raised again carries
    frames of whoever met it before, and clearing a suspended coroutine would close it.
    """
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            pending += current.__cause__, current.__context__
            for frame, _ in traceback.walk_tb(current.__traceback__):
                if not _is_suspended(frame):
                    with suppress(RuntimeError):  # it is still executing
                        frame.clear()


def _is_suspended(frame: FrameType) -> bool:
    """Whether the frame is of a coroutine or generator that stands at one of its yields, and may go on from there."""
    code = frame.f_code
    return bool(code.co_flags & _SUSPENDABLE) and code.co_code[frame.f_lasti] == _YIELD


_SUSPENDABLE = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR | inspect.CO_COROUTINE
_YIELD = dis.opmap["YIELD_VALUE"]
