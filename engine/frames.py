"""Arrays and frames: values of numpy, pandas and polars as plain parts, and back.

Each library has a module of its own, which imports it. That module is loaded when a value of the library is met, which
has imported it by then, or when a stored value that names it is read. This module only knows which is whose.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any, Protocol, cast

from .errors import ResultUnreadable

_MODULES = {"numpy": ".numpy_values", "pandas": ".pandas_values", "polars": ".polars_values"}


class _Library(Protocol):
    """What such a module has. Parts are values that the codec knows, other values of the libraries among them."""

    def parts_of(self, cls: type, value: Any) -> list[Any] | None:
        """The name of the value's kind and its parts; `None` when it is of no kind known there.

        Raises `TypeError`, saying why, for what couldn't be read back.
        """

    def key_parts_of(self, cls: type, value: Any) -> list[Any] | None:
        """The same for a key: equal values have equal parts, however they are laid out in memory."""

    def steps_of(self, cls: type, value: Any) -> list[tuple[str, Any]]:
        """Parts of the value, each with its step of the path to it."""
        ...

    def made_of(self, kind: str, parts: list[Any]) -> Any:
        """The value again. Raises `ResultUnreadable`, or anything, for parts that are none of its own."""


def parts_of(cls: type, value: Any, for_key: bool) -> list[Any] | None:
    """The parts of a value, the name of its library first; `None` when it is of no library known here."""
    name, library = _owner(cls)
    if library is None:
        return None
    parts = library.key_parts_of(cls, value) if for_key else library.parts_of(cls, value)
    return None if parts is None else [name, *parts]


def steps_of(cls: type, value: Any) -> list[tuple[str, Any]]:
    """The parts of a value, each with its step of the path to it."""
    _, library = _owner(cls)
    return [] if library is None else library.steps_of(cls, value)


def made_of(parts: list[Any]) -> Any:
    """The value again. Raises `ResultUnreadable`, or what the library raises."""
    name, kind, *rest = parts
    if name not in _MODULES:
        raise ResultUnreadable(f"arrays and frames of {name!r} are not known")
    try:
        library = _module(name)
    except ImportError:
        raise ResultUnreadable(f"it is of {name}, which is not installed") from None
    return library.made_of(kind, rest)


def _owner(cls: type) -> tuple[str, _Library | None]:
    name = cls.__module__.partition(".")[0]
    return name, _module(name) if name in _MODULES and name in sys.modules else None


def _module(name: str) -> _Library:
    return cast("_Library", import_module(_MODULES[name], __package__))
