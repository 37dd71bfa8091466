"""What one engine asks of logging, in force from its start to its stop: levels, the tap, a console for scripts.

All that is changed about a logger is put back when the last engine stops, unless somebody else has changed it since.
Nothing here prints, and nothing ever configures the host's logging.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from typing import Any

from .context import CURRENT
from .screen import Screen, called_by_main_script
from .settings import Settings
from .tap import Asked, Lowered, add_console, close_tap, host_level, open_tap, remove_console
from .values import LoggerRule

OURS = "undertow"
RUNS = "undertow.runs"
"""The logger of `get_run_logger()` and of logged prints."""

FIELDS = (
    "run_id",
    "run_name",
    "run_kind",
    "function",
    "attempt",
    "flow_run_id",
    "flow_run_name",
    "flow_name",
    "task_run_id",
    "task_run_name",
    "task_name",
)


def run_fields() -> dict[str, Any]:
    """What log records say of the run around the call, by the names in `FIELDS`; nothing outside any run."""
    run = CURRENT.get()
    if run is None:
        return {}
    fields = {
        "run_id": run.id,
        "run_name": run.name,
        "run_kind": run.kind,
        "function": run.definition.name,
        "attempt": run.attempts,
    }
    flow = run if run.kind == "flow" else run.flow
    for kind, around in (("flow", flow), ("task", run if run.kind == "task" else None)):
        if around is not None:
            fields |= {f"{kind}_run_id": around.id, f"{kind}_run_name": around.name}
            fields[f"{kind}_name"] = around.definition.name
    return fields


class Logs:
    """The logging of one engine."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.is_open = False
        self._screen: Screen | None = None

    def captures(self, level: int) -> bool:
        """Whether the journal takes records of that level."""
        threshold = self.settings.logging_capture_level
        return self.is_open and threshold is not None and level >= threshold

    def start(self) -> None:
        """Come into force. Called by whoever opens the engine, whose place in the program decides about the console."""
        asked = self.settings.logging_console
        shows = called_by_main_script() if asked == "auto" else asked == "on"
        with _lock:
            if self.is_open:
                return
            self.is_open = True
            _set_levels(self.settings)
            if shows:
                self._show(insists=asked == "on")
            open_tap()
            _started.append(self)
            _watch_new_loggers()

    def _show(self, insists: bool) -> None:
        level = self.settings.logging_level
        self._screen = Screen(logging.INFO if level is None else level, insists)
        for name in (RUNS, OURS):
            _lower(logging.getLogger(name), self._screen.level)
        add_console(self._screen, insists)

    def stop(self) -> None:
        """Go out of force; the last one to do so puts back what was changed. Stopping twice is harmless."""
        with _lock:
            if not self.is_open:
                return
            self.is_open = False
            _started.remove(self)
            close_tap()
            if self._screen is not None:
                remove_console(self._screen)
                self._screen = None
            _watch_new_loggers()
            if not _started:
                _put_back()


_started: list[Logs] = []
_lock = threading.RLock()


def _renew_lock() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


# --- loggers that are there ------------------------------------------------------------------------------------

_changed: dict[tuple[logging.Logger, str], tuple[Any, Any]] = {}
"""What a logger's attribute was before the first change, and what we made of it."""


_lowered: dict[logging.Logger, int] = {}
"""From which level on the journal or our console needs a logger's records."""


def _change(logger: logging.Logger, attribute: str, value: object) -> None:
    before = getattr(logger, attribute)
    _changed[logger, attribute] = (_changed.get((logger, attribute), (before,))[0], value)
    _assign(logger, attribute, value)


def _assign(logger: logging.Logger, attribute: str, value: Any) -> None:
    if attribute == "level":
        logger.setLevel(value)  # which also clears what loggers remember of levels
    else:
        setattr(logger, attribute, value)


def _put_back() -> None:
    for (logger, attribute), (before, ours) in list(_changed.items()):
        if getattr(logger, attribute) is ours:
            _assign(logger, attribute, before)
    _changed.clear()
    _lowered.clear()


def _set_levels(settings: Settings) -> None:
    for name, level in (("root", settings.logging_root_level), (OURS, settings.logging_level)):
        if level is not None:
            _change(logging.getLogger(name), "level", Asked(level))
    for rule in settings.logger_rules():
        names = [rule.name] if rule.exact else [name for name in _logger_names() if rule.matches(name)]
        for name in names:
            _apply(rule, logging.getLogger(name))
    capture = settings.logging_capture_level
    if capture is not None:
        _lower(logging.getLogger(RUNS), capture)
        for extra in map(logging.getLogger, settings.logging_extra_loggers):
            if not settings.logging_extra_propagate:
                _lower(extra, capture)
            elif not extra.level and extra.getEffectiveLevel() > capture:
                _change(extra, "level", Asked(capture))


def _logger_names() -> list[str]:
    return ["root", *list(logging.root.manager.loggerDict)]


def _apply(rule: LoggerRule, logger: logging.Logger) -> None:
    _change(logger, rule.attribute, Asked(rule.value) if rule.attribute == "level" else rule.value)


def _lower(logger: logging.Logger, level: int) -> None:
    """Have the logger make records from `level` on, or from where the host wants them; but not if it has a level."""
    _lowered[logger] = min(level, _lowered.get(logger, level))
    follow_host(logger)


def follow_host(logger: logging.Logger) -> None:
    """Have a logger that we have lowered make the records that the host wants by now: its levels may have changed."""
    needed = _lowered.get(logger)
    if needed is not None and (not logger.level or type(logger.level) is Lowered):
        level = min(needed, host_level(logger))
        if level != logger.level:
            _change(logger, "level", Lowered(level))


# --- loggers that come later -----------------------------------------------------------------------------------


class _Maker:
    """Makes loggers as before, and does to them what was asked for loggers of their names."""

    def __init__(self, before: type[logging.Logger] | None, rules: Sequence[LoggerRule]) -> None:
        self.before = before
        self.rules = rules

    def __call__(self, name: str) -> logging.Logger:
        logger = (self.before or logging.getLoggerClass())(name)
        for rule in self.rules:
            if rule.matches(name):
                _apply(rule, logger)
        return logger


def _watch_new_loggers() -> None:
    """See to it that loggers get what inexact names ask for when they are made; where nothing does, do nothing."""
    manager = logging.root.manager
    maker: Any = manager.loggerClass
    before = maker.before if isinstance(maker, _Maker) else maker
    rules = [rule for logs in _started for rule in logs.settings.logger_rules() if not rule.exact]
    manager.loggerClass = _Maker(before, rules) if rules else before  # type: ignore[assignment]
