"""Every setting there is, declared once, and where its value comes from.

An argument counts before `temporary_settings`, that before an environment variable `UNDERTOW_...`, that before the file
at `UNDERTOW_LOGGING_SETTINGS_PATH`, that before the project's `undertow.toml` or `[tool.undertow]`, and that before the
default. All is read when an engine is made, nothing at import. What the values do is decided elsewhere.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import attrs

from . import values
from .errors import InvalidOption, UnknownOption
from .limits import LimitLike
from .project import logging_settings, project_settings
from .values import LoggerRule, Reader

PREFIX = "UNDERTOW_"


class SettingInvalid(InvalidOption):
    """An environment variable, a line of a settings file, or an argument, has a value it can't have."""


class SettingUnknown(UserWarning):
    """There is no setting of that name."""

    def __init__(self, name: str, close: list[str]) -> None:
        hint = f"Did you mean {close[0]}?" if close else "`undertow config` lists those there are."
        super().__init__(f"{name}: there is no such setting. {hint}")


def _setting(default: Any, reader: Reader[Any], what: str) -> Any:
    return attrs.field(default=default, metadata={"reader": reader, "what": what})


@attrs.frozen(kw_only=True)
class Settings:
    """The settings of one engine. The variable of `threads` is `UNDERTOW_THREADS`, and so on."""

    journal: str = _setting("~/.undertow/journal.db", values.PATH, "the journal's file, or :memory:")
    durability: Literal["process", "power", "none"] = _setting(
        "process", values.choice("process", "power", "none"), "what an acknowledged record survives"
    )
    limits: Mapping[str, LimitLike] | None = _setting(None, values.LIMITS, "concurrency and rate limits, by name")
    threads: int = _setting(40, values.SOME, "threads for the bodies of submitted sync tasks")
    grace_seconds: float = _setting(10.0, values.SECONDS, "how long background runs may go on when the engine closes")
    late_after: float = _setting(15.0, values.SECONDS, "how long after its time a scheduled run is Late")
    backend: Literal["asyncio", "trio"] = _setting(
        "asyncio", values.choice("asyncio", "trio"), "the event loop of calls that come from plain threads"
    )
    keep_for: timedelta | None = _setting(None, values.DURATION, "how long runs that have ended are kept")  # noqa: RUF009
    keep_runs: int | None = _setting(None, values.COUNT, "how many outermost flow runs are kept")
    recover: bool = _setting(False, values.FLAG, "run broken-off durable flows again when the engine opens")
    max_recoveries: int = _setting(10, values.COUNT, "how often a run is recovered before it is left alone")
    result_budget_bytes: int | None = _setting(None, values.COUNT, "unclaimed results beyond which they go to disk")
    logging_level: int | None = _setting(None, values.LEVEL, "the level of the logger `undertow`")
    logging_root_level: int | None = _setting(None, values.LEVEL, "the level of the root logger")
    logging_console: Literal["auto", "on", "off"] = _setting(
        "auto", values.SWITCH, "whether log lines are shown on stderr; auto: in scripts that set up no logging"
    )
    logging_capture_level: int | None = _setting(20, values.LEVEL_OR_OFF, "from which level on the journal keeps logs")
    logging_extra_loggers: tuple[str, ...] = _setting(
        (), values.NAMES, "loggers whose records the journal gets from the capture level on, whatever the host's level"
    )
    logging_extra_propagate: bool = _setting(False, values.FLAG, "whether the host's handlers get those records too")
    logging_levels: tuple[LoggerRule, ...] = _setting((), values.LEVELS, "levels of loggers, by name")
    logging_loggers: tuple[LoggerRule, ...] = _setting((), values.LOGGERS, "levels and propagation of loggers, by name")
    logging_log_prints: bool = _setting(False, values.FLAG, "whether a print in a body is a log record")
    logging_settings_path: str | None = _setting(None, values.PATH, "a YAML file of logging settings")

    def logger_rules(self) -> list[LoggerRule]:
        """What is wanted of single loggers, the strongest wish last."""
        return sorted((*self.logging_levels, *self.logging_loggers), key=lambda rule: rule.rank)


_READERS: dict[str, Reader[Any]] = {field.name: field.metadata["reader"] for field in attrs.fields(Settings)}


@attrs.frozen
class _Source:
    """One place that says settings: what it says, by name, and how it calls a setting."""

    said: Mapping[str, object]
    call: Callable[[str], str]
    folder: Path | None = None

    def read(self, name: str) -> Any:
        """The value it gives to a setting. Raises `SettingInvalid`."""
        value, reader = self.said[name], _READERS[name]
        try:
            read = reader.read(value)
        except (ValueError, TypeError, OverflowError):
            raise SettingInvalid(self.call(name), value, reader.allowed) from None
        return self._path(read) if reader.is_path and read != ":memory:" else read

    def _path(self, text: str) -> str:
        path = os.path.expanduser(text)
        return path if self.folder is None else os.path.join(self.folder, path)


# --- asking for them -------------------------------------------------------------------------------------------


def load(logging: Mapping[str, object] | None = None, **arguments: object) -> Settings:
    """The settings of an engine that is made now, with these arguments; `None` is an argument that was not given.

    Raises `SettingInvalid` and `SettingsUnreadable`; warns of names that are no settings, once for each.
    """
    return Settings(**{name: value for name, value, _ in _resolved(_sources(arguments, logging))})


def sources(logging: Mapping[str, object] | None = None, **arguments: object) -> Iterator[tuple[str, object, str]]:
    """Each setting with its value and where that comes from: name, value, source."""
    for name, value, source in _resolved(_sources(arguments, logging)):
        if not _READERS[name].joins or not value:
            yield name, value, source
        else:
            for rule in value:
                yield f"{name}.{rule.name}.{rule.attribute}", rule.value, rule.source


def explain(name: str) -> tuple[str, str]:
    """What a setting is for, and what it may be."""
    metadata = next(field.metadata for field in attrs.fields(Settings) if field.name == name)
    return metadata["what"], metadata["reader"].allowed


@contextmanager
def temporary_settings(**changes: object) -> Iterator[None]:
    """Settings for engines that are made inside the block: for tests. They count before environment and files.

    Raises `UnknownOption` with a suggestion, and `SettingInvalid`.
    """
    source = _temporary_source(_known_only("temporary_settings", changes))
    for name in changes:
        source.read(name)
    token = _temporary.set({**_temporary.get(), **changes})
    try:
        yield
    finally:
        _temporary.reset(token)


# --- where they come from --------------------------------------------------------------------------------------

_temporary: ContextVar[Mapping[str, object]] = ContextVar("undertow_temporary_settings", default=MappingProxyType({}))
_warned: set[str] = set()


def _resolved(found: list[_Source]) -> Iterator[tuple[str, Any, str]]:
    for field in attrs.fields(Settings):
        name = field.name
        saying = [(rank, source) for rank, source in enumerate(reversed(found)) if name in source.said]
        if not saying:
            value = field.default
            yield name, os.path.expanduser(value) if _READERS[name].is_path and value else value, "default"
        elif _READERS[name].joins:
            yield name, tuple(rule for rank, source in saying for rule in _ranked(source, name, rank)), "several"
        else:
            strongest = saying[-1][1]
            yield name, strongest.read(name), strongest.call(name)


def _ranked(source: _Source, name: str, rank: int) -> list[LoggerRule]:
    rules: tuple[LoggerRule, ...] = source.read(name)
    return [attrs.evolve(rule, rank=rank, source=rule.source or source.call(name)) for rule in rules]


def _sources(arguments: Mapping[str, object], logging: Mapping[str, object] | None) -> list[_Source]:
    """Those that there are now, the strongest first."""
    given = {name: value for name, value in arguments.items() if value is not None}
    if logging is not None and not isinstance(logging, Mapping):
        raise SettingInvalid("logging", logging, 'a mapping of logging settings, such as {"level": "INFO"}')
    flat, strange = _flattened(logging or {}, "logging_")
    found = [
        _Source(given, lambda name: name),
        _Source(
            _known_only("Engine(logging=...)", flat | dict.fromkeys(strange)),
            lambda name: f"Engine(logging=...), {name}",
        ),
        _temporary_source(_temporary.get()),
        _Source(_environment(), lambda name: PREFIX + name.upper()),
    ]
    project = project_settings()
    in_project = [_file(*project)] if project is not None else []
    for source in found + in_project:
        if "logging_settings_path" in source.said:
            file = Path(source.read("logging_settings_path"))
            found.append(_file(str(file), file.parent, {"logging": logging_settings(file)}))
            break
    return found + in_project


def _temporary_source(changes: Mapping[str, object]) -> _Source:
    return _Source(changes, lambda name: f"temporary_settings({name}=...)")


def _file(called: str, folder: Path, table: Mapping[str, object]) -> _Source:
    said, strange = _flattened(table)
    for name in strange:
        _warn(f"{name} in {called}", _close(name))
    return _Source(said, lambda name: f"{name} in {called}", folder)


def _close(name: str) -> list[str]:
    return get_close_matches(name, _READERS, 1)


def _known_only(owner: str, given: Mapping[str, object]) -> Mapping[str, object]:
    for name in given:
        if name not in _READERS:
            raise UnknownOption(owner, name, _READERS, _close(name))
    return given


def _flattened(table: Mapping[str, object], prefix: str = "") -> tuple[dict[str, object], list[str]]:
    """The settings in a table, also in tables inside it (`logging.root.level`), and the names that are none."""
    said: dict[str, object] = {}
    strange: list[str] = []
    for key, value in table.items():
        name = f"{prefix}{key}"
        if name in _READERS:
            said[name] = value
        elif isinstance(value, Mapping) and any(known.startswith(f"{name}_") for known in _READERS):
            inner, stranger = _flattened(value, f"{name}_")
            said |= inner
            strange += stranger
        else:
            strange.append(name)
    return said, strange


# --- the environment -------------------------------------------------------------------------------------------

_OF_A_LOGGER = re.compile(r"LOGGING_LOGGERS_(.+)_(LEVEL|PROPAGATE)")

# Where a user of Prefect looks for the switch: there, extra loggers are made after the model of one of that name.
_ALIASES = {"LOGGING_LOGGERS_UNDERTOW_EXTRA_PROPAGATE": "LOGGING_EXTRA_PROPAGATE"}


def _environment() -> dict[str, object]:
    """What the environment says. A variable that is empty says nothing."""
    said: dict[str, object] = {}
    rules: list[LoggerRule] = []
    for variable, value in os.environ.items():
        if not variable.startswith(PREFIX) or not value:
            continue
        name = variable.removeprefix(PREFIX)
        name = _ALIASES.get(name, name)
        if (setting := name.lower()) in _READERS and name.isupper():
            said[setting] = value
        elif match := _OF_A_LOGGER.fullmatch(name):
            rules.append(_rule(variable, match[1], match[2].lower(), value))
        else:
            _warn(variable, [PREFIX + known.upper() for known in _close(setting)])
    return {**said, "logging_loggers": tuple(rules)} if rules else said


def _rule(variable: str, logger: str, attribute: str, value: str) -> LoggerRule:
    reader: Reader[Any] = values.LEVEL if attribute == "level" else values.FLAG
    try:
        return LoggerRule(logger, attribute, reader.read(value), exact=False, source=variable)
    except ValueError:
        raise SettingInvalid(variable, value, reader.allowed) from None


def _warn(name: str, close: list[str]) -> None:
    if name not in _warned:
        _warned.add(name)
        warnings.warn(SettingUnknown(name, close), stacklevel=2)
