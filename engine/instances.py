"""Instances of classes as plain parts, and back: enums, named tuples, attrs classes, dataclasses, pydantic models.

A class is written as its module and qualified name. Reading never imports anything: the class must be loaded by then
and be of one of these kinds, and its fields must be those recorded. No method of an instance is called: it is made
empty and gets its fields back as they were. A class that couldn't be found again is refused when it is written.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
from collections.abc import Iterable
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import attrs

from .errors import ResultUnreadable

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement, not by C
_CACHED_HASH = "_attrs_cached_hash"


def parts_of(cls: type, value: Any, for_key: bool) -> list[Any] | None:
    """The parts of an instance, its class's name first; `None` when it is of no kind known here.

    For a key, equal instances have equal parts. Raises `TypeError`, saying why, for what couldn't be read back.
    """
    kind = _kind(cls)
    if kind is None:
        return None
    return [cls.__module__, cls.__qualname__, *(kind.key_parts(value) if for_key else kind.parts(value))]


def steps_of(cls: type, value: Any) -> list[tuple[str, Any]]:
    """The parts of an instance, each with its step of the path to it."""
    try:
        kind = _kind(cls)
    except TypeError:
        return []
    return [] if kind is None else list(kind.steps(value))


def made_of(parts: list[Any]) -> Any:
    """The instance again. Raises `ResultUnreadable`."""
    module, name, *rest = parts
    cls = _find(module, name)
    kind = None if cls is None else _kind(cls)
    if cls is None or kind is None:
        raise ResultUnreadable(f"the class {module}.{name} is not loaded, or is no longer of a kind that can be read")
    return kind.made(cls, rest)


class _Kind:
    """How the instances of a class are taken apart and made. It is kept as long as the class, so it doesn't hold it."""

    def parts(self, value: Any) -> list[Any]:
        raise NotImplementedError

    def key_parts(self, value: Any) -> list[Any]:
        return self.parts(value)

    def steps(self, value: Any) -> Iterable[tuple[str, Any]]:
        return ()

    def made(self, cls: Any, parts: list[Any]) -> Any:
        raise NotImplementedError


class _Enum(_Kind):
    """A member by its name."""

    def parts(self, value: Any) -> list[Any]:
        if type(value).__members__.get(value.name) is not value:
            raise TypeError("it is no member of its enum")
        return [value.name]

    def made(self, cls: Any, parts: list[Any]) -> Any:
        (name,) = parts
        return cls.__members__[name]


class _Flag(_Kind):
    """Any combination of members, by its number."""

    def parts(self, value: Any) -> list[Any]:
        return [value.value]

    def made(self, cls: Any, parts: list[Any]) -> Any:
        (number,) = parts
        return cls(number)


class _NamedTuple(_Kind):
    def parts(self, value: Any) -> list[Any]:
        if getattr(value, "__dict__", None):
            raise TypeError("it has attributes that are no items")
        return list(value)

    def steps(self, value: Any) -> Iterable[tuple[str, Any]]:
        return zip((f".{name}" for name in value._fields), value, strict=True)

    def made(self, cls: Any, parts: list[Any]) -> Any:
        _same(cls, range(len(parts)), range(len(cls._fields)))
        return tuple.__new__(cls, parts)


class _Fields(_Kind):
    """An attrs class or a dataclass: its fields, and what else its own code has put into the instance."""

    def __init__(self, names: list[str], compared: list[str]) -> None:
        self.names = names
        self.compared = compared

    def parts(self, value: Any) -> list[Any]:
        state = getattr(value, "__dict__", {})
        more = None if state.keys() <= set(self.names) else self._more(type(value), state)
        return [more, *_pairs(value, self.names)]

    def key_parts(self, value: Any) -> list[Any]:
        return _pairs(value, self.compared)

    def steps(self, value: Any) -> Iterable[tuple[str, Any]]:
        return _steps(value, self.names)

    def made(self, cls: Any, parts: list[Any]) -> Any:
        more, *rest = parts
        _maps_or_none(more)
        fields = _from_pairs(cls, rest, self.names)
        made = object.__new__(cls)
        for name, value in fields.items():
            object.__setattr__(made, name, value)
        if more:
            vars(made).update(more)
        elif hasattr(cls, _CACHED_HASH):
            object.__setattr__(made, _CACHED_HASH, None)
        return made

    def _more(self, cls: type, state: dict[str, Any]) -> dict[str, Any]:
        """Attributes that are no fields; what is computed when it is asked for, is left to be computed again."""
        return {
            name: None if name == _CACHED_HASH else value
            for name, value in state.items()
            if name not in self.names and name[:2] != "__" and not isinstance(getattr(cls, name, None), cached_property)
        }


class _Pydantic(_Kind):
    """A model: its fields, which of them were given, extra ones, and private attributes."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def parts(self, value: Any) -> list[Any]:
        return [sorted(value.__pydantic_fields_set__), *self.key_parts(value)]

    def key_parts(self, value: Any) -> list[Any]:
        return [value.__pydantic_extra__, value.__pydantic_private__, *_pairs(value, self.names)]

    def steps(self, value: Any) -> Iterable[tuple[str, Any]]:
        more = (*(value.__pydantic_extra__ or ()), *(value.__pydantic_private__ or ()))
        return _steps(value, [*self.names, *more])

    def made(self, cls: Any, parts: list[Any]) -> Any:
        given, extra, private, *rest = parts
        _maps_or_none(extra, private)
        fields = _from_pairs(cls, rest, self.names)
        made = object.__new__(cls)
        object.__setattr__(made, "__dict__", fields)
        object.__setattr__(made, "__pydantic_fields_set__", set(given))
        object.__setattr__(made, "__pydantic_extra__", extra)
        object.__setattr__(made, "__pydantic_private__", private)
        return made


def _steps(value: Any, names: list[str]) -> Iterable[tuple[str, Any]]:
    for name in names:
        try:
            part = getattr(value, name)
        except Exception:
            continue  # a field that can't be had has no parts
        yield f".{name}", part


def _pairs(value: Any, names: list[str]) -> list[Any]:
    """Names and values in turn: a flat list is one level of nesting, and has an order."""
    found: list[Any] = []
    for name in names:
        try:
            found += name, getattr(value, name)
        except AttributeError:
            raise TypeError(f"its field {name!r} is not set") from None
    return found


def _from_pairs(cls: type, pairs: list[Any], names: list[str]) -> dict[str, Any]:
    fields = dict(zip(pairs[::2], pairs[1::2], strict=True))
    _same(cls, fields, names)
    return fields


def _maps_or_none(*parts: Any) -> None:
    if not all(part is None or isinstance(part, dict) for part in parts):
        raise ResultUnreadable("the attributes of an instance are no map")


def _same(cls: type, recorded: Iterable[Any], declared: Iterable[Any]) -> None:
    """Raises `ResultUnreadable` when a class has other fields than were recorded."""
    differing = set(recorded) ^ set(declared)
    if differing:
        told = ", ".join(sorted(map(str, differing)))
        raise ResultUnreadable(f"{cls.__module__}.{cls.__qualname__} no longer has the fields recorded: {told}")


# --- classes ---------------------------------------------------------------------------------------------------

_kinds: WeakKeyDictionary[type, _Kind | None] = WeakKeyDictionary()


def _kind(cls: type) -> _Kind | None:
    """How instances of the class are written. Raises `TypeError`, saying why, for one that couldn't be found again."""
    try:
        return _kinds[cls]
    except KeyError:
        kind = _kinds[cls] = _kind_of(cls)
        return kind


def _kind_of(cls: Any) -> _Kind | None:
    kind: _Kind
    model_fields = getattr(cls, "__pydantic_fields__", None)
    if issubclass(cls, enum.Flag):
        kind = _Flag()
    elif issubclass(cls, enum.Enum):
        kind = _Enum()
    elif issubclass(cls, tuple) and hasattr(cls, "_fields"):
        kind = _NamedTuple()
    elif attrs.has(cls):
        kind = _fields(cls, {field.name: bool(field.eq) for field in attrs.fields(cls)})
    elif dataclasses.is_dataclass(cls):
        kind = _fields(cls, {field.name: field.compare for field in dataclasses.fields(cls)})
    elif model_fields is not None:
        kind = _Pydantic(list(model_fields))
    else:
        return None
    if "<locals>" in cls.__qualname__:
        raise TypeError("its class is made inside a function, so it can't be found again")
    if _find(cls.__module__, cls.__qualname__) is not cls:
        raise TypeError(f"its class is not to be found as {cls.__module__}.{cls.__qualname__}")
    return kind


def _fields(cls: Any, compared: dict[str, bool]) -> _Fields:
    builtin = next((base for base in cls.__mro__[:-1] if not base.__flags__ & _HEAP_TYPE), None)
    if builtin is not None:
        raise TypeError(f"its class derives from {builtin.__name__}, and what that holds is no field")
    by_identity = cls.__eq__ is object.__eq__
    return _Fields(list(compared), [name for name, counts in compared.items() if counts or by_identity])


def _find(module: str, qualname: str) -> type | None:
    """The loaded class of that name. Attributes are not asked for, as some modules then import something."""
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    named = isinstance(found, type) and (found.__module__, found.__qualname__) == (module, qualname)
    return found if named else None
