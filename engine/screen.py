"""Log lines on a terminal, for scripts that set up no logging; and the question whether we are in such a script.

One record is one line: whatever could move the cursor, or look like a line of its own, is written out. The screen
steps aside wherever the host's own handlers show a record.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import unicodedata
from pathlib import Path
from types import FrameType, ModuleType

from .context import CURRENT
from .tap import Asked, level_giver, message_of
from .tracebacks import format_error


class Screen:
    """Shows on stderr what undertow says from `level` on, and the warnings of the rest of the program.

    One that insists shows what undertow says also where the host's handlers do.
    """

    def __init__(self, level: int, insists: bool) -> None:
        self.level = level
        self._insists = insists

    def wants(self, logger: logging.Logger, record: logging.LogRecord, passes: bool, /) -> bool:
        """Whether to show a record; `passes` says whether the host's handlers are to get it."""
        if is_ours(record):
            return record.levelno >= self.level and (self._insists or not _has_host_handlers(logger))
        if not passes or _has_host_handlers(logger):
            return False
        return record.levelno >= logging.WARNING or type(level_giver(logger).level) is Asked

    def handle(self, record: logging.LogRecord, /) -> None:
        """Show it. That this can't be done is not the program's matter."""
        if sys.stderr is not None:
            try:
                sys.stderr.write(line(record))
                sys.stderr.flush()
            except Exception:
                return


def is_ours(record: logging.LogRecord) -> bool:
    """Whether undertow says it, or a run does."""
    return record.name == "undertow" or record.name.startswith("undertow.")


def _has_host_handlers(logger: logging.Logger) -> bool:
    """Whether the host has decided what becomes of the logger's records, be it by a handler that shows nothing."""
    has_some = False
    while True:
        if any(not isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            return True
        has_some = has_some or bool(logger.handlers)
        if logger.parent is None:
            return bool(logger.handlers)
        if not logger.propagate:
            return has_some
        logger = logger.parent


# --- lines -----------------------------------------------------------------------------------------------------

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def line(record: logging.LogRecord) -> str:
    """A record as a line; a traceback follows, indented, so that no line of it can be taken for a record."""
    run = CURRENT.get()
    who = record.name if run is None else run.name if is_ours(record) else f"{run.name} {record.name}"
    clock = time.strftime("%H:%M:%S", time.localtime(record.created))
    head = f"{clock}.{int(record.msecs):03d} {record.levelname:7} {escaped(who)}: {escaped(message_of(record))}"
    error = record.exc_info[1] if record.exc_info else None
    more = [format_error(error)] if error is not None else []
    more += [record.stack_info] if record.stack_info else []
    tail = [f"    {escaped(each)}" for text in more for each in text.expandtabs(4).split("\n") if each.strip()]
    return "\n".join([head, *tail]) + "\n"


def escaped(text: str, keep: str = "") -> str:
    """The text with every control and invisible character written out, but for those in `keep`."""
    if text.isprintable():
        return text
    return "".join(
        char if char in keep or unicodedata.category(char) not in _UNSEEN else char.encode("unicode_escape").decode()
        for char in text
    )


# --- whose program it is ---------------------------------------------------------------------------------------

_LOOPS = frozenset({"asyncio", "uvloop", "anyio", "trio", "outcome", "sniffio"})
_STARTERS = frozenset({"runpy", "importlib", "code", "_pyrepl", "click", "typer"})
_BETWEEN = _LOOPS | _STARTERS | {"undertow", "contextlib", "functools"}
"""What may stand between a script and the engine it opens: it has no log of its own."""


def called_by_main_script() -> bool:
    """Whether the call comes from the program that was started, with nobody between who could be its host.

    True in the main thread, when all modules that led to the call belong to the main script (`__main__`, its package,
    files beside it or below) or are event loops and the like; also in a notebook. A web server, a test runner, a
    worker or an installed application between the two is a host, whose log is its own.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    main = sys.modules.get("__main__")
    found = False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        top = module.partition(".")[0]
        if top == "IPython":
            return True
        if module == "__main__":
            found = True
        elif top not in _BETWEEN and not _belongs_to(main, top, frame.f_code.co_filename):
            return False
        frame = frame.f_back
    return found


def _belongs_to(main: ModuleType | None, top: str, filename: str) -> bool:
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.parent and top == spec.parent.partition(".")[0]:
        return True
    script = getattr(main, "__file__", None)
    try:
        folder, file = Path(os.path.abspath(script or "x")).parent, Path(os.path.abspath(filename))
    except FileNotFoundError:
        return False  # the working directory was removed while we work in it
    return file.is_relative_to(folder) and not {"site-packages", "dist-packages"} & set(file.parts)
