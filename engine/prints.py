"""`log_prints`: a `print` in the body of a run becomes a record of the run's logger.

`builtins.print` is replaced while at least one such body runs, and every other print goes through untouched: whose it
is, is asked of the context it is made in.
"""

from __future__ import annotations

import builtins
import io
import logging
import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from .context import CURRENT
from .logs import RUNS, run_fields
from .run import Run

_before = builtins.print
_bodies = 0
_is_in_place = False
_lock = threading.Lock()
_logging = threading.local()


def logs_prints(run: Run) -> bool:
    """Whether prints in the run's body are to be logged: it says so, or its flow does, or the setting."""
    around: Run | None = run
    while around is not None:
        if around.definition.options.log_prints is not None:
            return around.definition.options.log_prints
        around = around.flow
    return run.core.logs.settings.logging_log_prints


class _Logged:
    """Around a body whose prints are logged."""

    def __enter__(self) -> None:
        global _before, _bodies, _is_in_place
        with _lock:
            _bodies += 1
            if not _is_in_place:
                _before = builtins.print
                builtins.print = _print
                _is_in_place = True

    def __exit__(self, *_: object) -> None:
        global _bodies, _is_in_place
        with _lock:
            _bodies -= 1
            # Where others have replaced it again meanwhile, it stays, and hands everything on.
            if not _bodies and builtins.print is _print:
                builtins.print = _before
                _is_in_place = False


_LOGGED = _Logged()
_PLAIN: AbstractContextManager[None] = nullcontext()


def printing(run: Run) -> AbstractContextManager[None]:
    """What to enter around each call into the run's body."""
    return _LOGGED if logs_prints(run) else _PLAIN


def _print(*values: object, **options: Any) -> None:
    """Stands in for `print`."""
    run = CURRENT.get()
    file = options.get("file")
    is_ours = file is None or file is sys.stdout or file is sys.stderr
    if run is None or not is_ours or getattr(_logging, "now", False) or not logs_prints(run):
        _before(*values, **options)
        return
    text = io.StringIO()
    _before(*values, **{**options, "file": text, "flush": False})
    message = text.getvalue().removesuffix("\n")
    if message:
        _logging.now = True  # a handler that prints must not come here again
        try:
            logging.getLogger(RUNS).info("%s", message, extra=run_fields(), stacklevel=2)
        finally:
            _logging.now = False
