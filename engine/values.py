"""What a person wrote into a setting, read: the text of an environment variable, or a value of a TOML or YAML file.

A `Reader` takes either form and returns the value, or raises `ValueError` or `TypeError`; `allowed` says what it takes.
Where something was written, and what becomes of it, is the business of `settings.py`.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Generic, TypeVar

import attrs

from .limits import Limit, LimitLike, RateLimit

T = TypeVar("T")

_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@attrs.frozen
class Reader(Generic[T]):
    """Makes a value of what was written."""

    read: Callable[[Any], T]
    allowed: str
    is_path: bool = False
    """Relative to the folder of the file that says it."""
    joins: bool = False
    """What several sources say adds up, and the stronger ones come last."""


@attrs.frozen
class LoggerRule:
    """What is wanted of a logger: `attribute` (level or propagate) to be `value`."""

    name: str
    attribute: str
    value: int | bool
    exact: bool = True
    """False for a name from an environment variable, which can't say dots and case: `MY_LIB` may be `my.lib`."""
    source: str = ""
    rank: int = 0
    """The strength of who said it: rules are applied from the weakest to the strongest."""

    def matches(self, name: str) -> bool:
        """Whether it is about the logger of that name."""
        return name == self.name if self.exact else loosely(name) == self.name


def loosely(name: str) -> str:
    """A logger's name as an environment variable can say it."""
    return re.sub(r"[^0-9A-Za-z]", "_", name).upper()


# --- single values ---------------------------------------------------------------------------------------------


def _path(value: object) -> str:
    return _text(os.fspath(value) if isinstance(value, os.PathLike) else value)


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError
    number = float(value)
    if not 0 <= number < math.inf:
        raise ValueError
    return number


def _whole(value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError
    number = int(value)
    if not least <= number < 2**63:
        raise ValueError
    return number


def _flag(value: object) -> bool:
    word = str(value).strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError
    return word in _TRUE


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return timedelta(seconds=_number(value.total_seconds()))
    if isinstance(value, str) and value[-1:] in _SECONDS:
        return timedelta(seconds=_number(value[:-1]) * _SECONDS[value[-1]])
    return timedelta(seconds=_number(value))


def _level(value: object) -> int:
    """A logging level; also one that the program has named itself, with `logging.addLevelName`."""
    known = {name.upper(): number for name, number in logging.getLevelNamesMapping().items()}
    if isinstance(value, str) and (name := value.strip().upper()) in known:
        return known[name]
    return _whole(value, 0)


def _level_or_off(value: object) -> int | None:
    return None if value is False or (isinstance(value, str) and value.strip().lower() == "off") else _level(value)


def _choice(value: object, choices: tuple[str, ...]) -> str:
    word = str(value).strip().lower()
    if word not in choices:
        raise ValueError
    return word


def _switch(value: object) -> str:
    """`auto`, or a boolean in any spelling: YAML takes `on` for True."""
    word = str(value).strip().lower()
    return word if word == "auto" else "on" if _flag(word) else "off"


# --- several values --------------------------------------------------------------------------------------------


def _names(value: object) -> tuple[str, ...]:
    given = value.split(",") if isinstance(value, str) else value
    if (
        not isinstance(given, Iterable)
        or isinstance(given, Mapping)
        or not all(isinstance(name, str) for name in given)
    ):
        raise ValueError
    return tuple(name.strip() for name in given if name.strip())


def _pairs(value: object) -> dict[str, Any]:
    """A table, or a text such as `a=1,b=2`."""
    if isinstance(value, str):
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        value = {name.strip(): said.strip() for name, equals, said in pairs if equals}
        if len(value) != len(pairs):
            raise ValueError
    if not isinstance(value, Mapping) or not all(isinstance(name, str) and name for name in value):
        raise ValueError
    return dict(value)


def _limit(value: object) -> LimitLike:
    """Slots, or a rate such as `5/1s`, `100/m`."""
    if isinstance(value, Limit):
        return value
    if isinstance(value, str) and "/" in value:
        times, _, per = value.partition("/")
        return RateLimit(float(times), per if per[:1].isdigit() else f"1{per}")
    return _number(value)


def _levels(value: object) -> tuple[LoggerRule, ...]:
    return tuple(LoggerRule(name, "level", _level(level)) for name, level in _pairs(value).items())


def _loggers(value: object) -> tuple[LoggerRule, ...]:
    """Tables by logger: `{"my.lib": {"level": "info", "propagate": False}}`."""
    if isinstance(value, tuple) and all(isinstance(rule, LoggerRule) for rule in value):
        return value  # each was read by itself, from a variable of its own
    read: dict[str, Callable[[object], int | bool]] = {"level": _level, "propagate": _flag}
    return tuple(
        LoggerRule(name, attribute, read[attribute](said))
        for name, table in _pairs(value).items()
        for attribute, said in _wishes(table, read)
    )


def _wishes(table: object, known: Iterable[str]) -> list[tuple[str, object]]:
    if not isinstance(table, Mapping) or not set(table) <= set(known):
        raise ValueError
    return list(table.items())


# --- the readers -----------------------------------------------------------------------------------------------

_LEVEL = "a level, DEBUG, INFO, WARNING, ERROR or CRITICAL in any case, or a number"

PATH = Reader(_path, "a path", is_path=True)
SECONDS = Reader(_number, "a number of seconds, 0 or more")
COUNT = Reader(lambda value: _whole(value, 0), "a whole number, 0 or more (below 2**63)")
SOME = Reader(lambda value: _whole(value, 1), "a whole number, 1 or more (below 2**63)")
FLAG = Reader(_flag, "true or false (also 1 and 0, yes and no, on and off)")
DURATION = Reader(_duration, 'a number of seconds, or a text such as "30s", "5m", "12h" or "7d"')
LEVEL = Reader(_level, _LEVEL)
LEVEL_OR_OFF = Reader(_level_or_off, f"{_LEVEL}, or off")
SWITCH = Reader(_switch, "auto, on or off")
NAMES = Reader(_names, "names, separated by commas")
LIMITS = Reader(
    lambda value: {name: _limit(limit) for name, limit in _pairs(value).items()},
    'a mapping from names to numbers of slots, Limit(...) or RateLimit(...), or a text such as "github=10,api=5/1s"',
)
LEVELS = Reader(_levels, f'levels by logger, such as "httpx=INFO,my.lib=DEBUG"; each {_LEVEL}', joins=True)
LOGGERS = Reader(_loggers, f"tables by logger, of `level` ({_LEVEL}) and `propagate` (true or false)", joins=True)


def choice(*choices: str) -> Reader[Any]:
    """A reader of one of a few words."""
    return Reader(lambda value: _choice(value, choices), f"one of {', '.join(map(repr, choices))}")
