"""The one codec: values to bytes and back, each coming back equal and of the same type.

Bytes are msgpack with extension types. What it knows: None, bool, int of any size, float, complex, str, bytes, list,
tuple, dict with scalar keys, set, frozenset, dates, times, datetimes with their zone, timedelta, UUID, Decimal, paths,
enums, attrs classes, dataclasses, named tuples, pydantic models, and what `register_type` adds. Anything else is
refused with the path to it; nothing is ever pickled.

A class is written as its module and qualified name. Reading never imports anything: the class must be loaded by then,
must be what it claims to be, and nothing else of it is called than making an instance of its fields.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar, cast
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgpack

from .errors import ResultNotSerializable, ResultUnreadable

T = TypeVar("T")

MAX_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 100

INT, TUPLE, SET, FROZENSET, COMPLEX, DATETIME, DATE, TIME, TIMEDELTA, UUID_, DECIMAL, PATH = range(1, 13)
ENUM, ATTRS, DATACLASS, NAMEDTUPLE, PYDANTIC, REGISTERED, MAP = range(13, 20)

_depth: ContextVar[int] = ContextVar("undertow_codec_depth", default=0)


class _Registered:
    """What `register_type` was told about a type."""

    def __init__(self, name: str, encode: Callable[[Any], Any], decode: Callable[[Any], Any]) -> None:
        self.name = name
        self.encode = encode
        self.decode = decode


_by_type: dict[type, _Registered] = {}
_by_name: dict[str, _Registered] = {}


def register_type(cls: type[T], name: str, encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:
    """Teach the codec a type: `encode` turns an instance into values that it knows, `decode` turns them back.

    `name` stands in the journal, so it has to stay the same; a second registration under one name replaces the first.
    """
    entry = _Registered(name, encode, decode)
    _by_type[cls] = entry
    _by_name[name] = entry


def encode(value: Any) -> bytes:
    """The value as bytes. Raises `ResultNotSerializable`, naming the path to what can't be written."""
    try:
        return _pack(value, _encode_other)
    except (_Unknown, TypeError, ValueError, OverflowError, RecursionError):
        raise _refusal(value) from None


def canonical(value: Any) -> bytes:
    """Bytes that are the same for equal values in every process: for keys, not for reading back.

    Maps and sets are sorted by their encoded keys, and every NaN is one. Raises `ResultNotSerializable`.
    """
    try:
        return _pack(_sorted(value), _canonical_other)
    except (_Unknown, TypeError, ValueError, OverflowError, RecursionError):
        raise _refusal(value) from None


def decode(data: bytes) -> Any:
    """The value again. Raises `ResultUnreadable` for bytes that are no value, or name a class that isn't loaded."""
    if len(data) > MAX_BYTES:
        raise ResultUnreadable(f"it has {len(data)} bytes, more than {MAX_BYTES}")
    try:
        return _unpack(data)
    except ResultUnreadable:
        raise
    except Exception as error:
        raise ResultUnreadable(f"{type(error).__name__}: {error}") from error


class _Unknown(Exception):
    """Met a value of a type that the codec does not know."""


# --- writing ---------------------------------------------------------------------------------------------------


def _pack(value: Any, other: Callable[[Any], Any]) -> bytes:
    depth = _depth.get()
    if depth > MAX_DEPTH:
        raise _Unknown("too deep")
    token = _depth.set(depth + 1)
    try:
        return cast("bytes", msgpack.packb(value, default=other, strict_types=True, unicode_errors="surrogatepass"))
    finally:
        _depth.reset(token)


def _encode_other(value: Any) -> Any:
    """What msgpack doesn't know by itself, as an extension of values that it does."""
    code, plain = _taken_apart(value)
    return msgpack.ExtType(code, _pack(plain, _encode_other))


def _canonical_other(value: Any) -> Any:
    """`_encode_other`, with an order in what has none."""
    code, plain = _taken_apart(value)
    return msgpack.ExtType(code, _pack(_sorted(plain), _canonical_other))


def _taken_apart(value: Any) -> tuple[int, Any]:
    """The extension type of a value, and the plainer values that it is made of."""
    cls = type(value)
    writer = _WRITERS.get(cls)
    if writer is not None:
        code, plain = writer
        return code, plain(value)
    entry = _by_type.get(cls)
    if entry is not None:
        return REGISTERED, [entry.name, entry.encode(value)]
    if isinstance(value, enum.Enum):
        return ENUM, [*_class_name(cls), value.name]
    if isinstance(value, PurePath):
        return PATH, [cls.__name__, str(value)]
    if isinstance(value, tuple) and hasattr(cls, "_fields"):
        return NAMEDTUPLE, [*_class_name(cls), list(value)]
    for code, names in ((ATTRS, _attrs_fields), (DATACLASS, _dataclass_fields), (PYDANTIC, _pydantic_fields)):
        fields = names(cls)
        if fields is not None:
            return code, [*_class_name(cls), {name: getattr(value, name) for name in fields}]
    raise _Unknown(cls.__name__)


def _attrs_fields(cls: type) -> list[str] | None:
    return [field.name for field in attrs.fields(cls)] if attrs.has(cls) else None


def _dataclass_fields(cls: type) -> list[str] | None:
    fields = getattr(cls, "__dataclass_fields__", None)
    return None if fields is None else list(fields)


def _pydantic_fields(cls: type) -> list[str] | None:
    fields = getattr(cls, "__pydantic_fields__", None)
    return None if fields is None else list(fields)


def _plain_datetime(value: datetime) -> list[Any]:
    return [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, *_plain_zone(value.tzinfo)]


def _plain_time(value: time) -> list[Any]:
    return [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, *_plain_zone(value.tzinfo)]


def _plain_zone(zone: Any) -> list[Any]:
    if zone is None:
        return [None, None]
    if isinstance(zone, ZoneInfo) and zone.key:
        return ["zone", zone.key]
    if type(zone) is timezone:
        return ["offset", zone.utcoffset(None).total_seconds()]
    raise _Unknown(type(zone).__name__)


_WRITERS: Mapping[type, tuple[int, Callable[[Any], Any]]] = {
    int: (INT, lambda value: value.to_bytes((value.bit_length() + 8) // 8, "big", signed=True)),
    tuple: (TUPLE, list),
    set: (SET, list),
    frozenset: (FROZENSET, list),
    complex: (COMPLEX, lambda value: [value.real, value.imag]),
    datetime: (DATETIME, _plain_datetime),
    date: (DATE, lambda value: value.isoformat()),
    time: (
        TIME,
        lambda value: [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, *_plain_zone(value.tzinfo)],
    ),
    timedelta: (TIMEDELTA, lambda value: [value.days, value.seconds, value.microseconds]),
    UUID: (UUID_, lambda value: value.bytes),
    Decimal: (DECIMAL, str),
}


def _class_name(cls: type) -> list[str]:
    if "<locals>" in cls.__qualname__:
        raise _Unknown(f"{cls.__qualname__}, a class made inside a function, which can't be found again")
    return [cls.__module__, cls.__qualname__]


def _sorted(value: Any) -> Any:
    """The value with an order in its maps and sets, and one NaN."""
    cls = type(value)
    if cls is float:
        return value if value == value else float("nan")
    if cls is list:
        return [_sorted(item) for item in value]
    if cls is dict:
        pairs = [(_pack(key, _canonical_other), _sorted(item)) for key, item in value.items()]
        pairs.sort(key=lambda pair: pair[0])
        return msgpack.ExtType(MAP, _pack([list(pair) for pair in pairs], _canonical_other))
    if cls is set or cls is frozenset:
        packed = sorted(_pack(_sorted(item), _canonical_other) for item in value)
        return msgpack.ExtType(SET if cls is set else FROZENSET, b"".join(packed))
    return value


def _refusal(value: Any) -> ResultNotSerializable:
    path, culprit = _find_culprit(value, "value", 0)
    return ResultNotSerializable(path, culprit)


def _find_culprit(value: Any, path: str, depth: int) -> tuple[str, Any]:
    """The innermost part of a value that can't be written, and the way to it."""
    if depth <= MAX_DEPTH:
        for step, part in _parts(value):
            try:
                _pack(part, _encode_other)
            except Exception:
                return _find_culprit(part, path + step, depth + 1)
    return path, value


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"[{key!r}]", item) for key, item in value.items()] + [(f" key {key!r}", key) for key in value]
    if isinstance(value, list | tuple | set | frozenset):
        return [(f"[{index}]", item) for index, item in enumerate(value)]
    cls = type(value)
    names = _attrs_fields(cls) or _dataclass_fields(cls) or _pydantic_fields(cls) or []
    return [(f".{name}", getattr(value, name)) for name in names]


# --- reading ---------------------------------------------------------------------------------------------------


def _unpack(data: bytes) -> Any:
    depth = _depth.get()
    if depth > MAX_DEPTH:
        raise ResultUnreadable(f"it is nested more than {MAX_DEPTH} deep")
    token = _depth.set(depth + 1)
    try:
        return msgpack.unpackb(data, ext_hook=_decode_other, strict_map_key=False, unicode_errors="surrogatepass")
    finally:
        _depth.reset(token)


def _decode_other(code: int, data: bytes) -> Any:
    value = _unpack(data)
    reader = _READERS.get(code)
    if reader is None:
        raise ResultUnreadable(f"extension type {code} is not known")
    return reader(value)


def _zone(kind: str | None, value: Any) -> Any:
    if kind is None:
        return None
    return ZoneInfo(value) if kind == "zone" else timezone(timedelta(seconds=value))


def _datetime(parts: list[Any]) -> datetime:
    text, fold, kind, zone = parts
    return datetime.fromisoformat(text).replace(tzinfo=_zone(kind, zone), fold=fold)


def _time(parts: list[Any]) -> time:
    text, fold, kind, zone = parts
    return time.fromisoformat(text).replace(tzinfo=_zone(kind, zone), fold=fold)


def _path(parts: list[str]) -> PurePath:
    name, text = parts
    kinds = (PurePath, PurePosixPath, PureWindowsPath)
    return next((kind(text) for kind in kinds if kind.__name__ == name), Path(text))


def _class(module: str, name: str, kind: Callable[[type], bool]) -> Any:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type) or not kind(found) or (found.__module__, found.__qualname__) != (module, name):
        raise ResultUnreadable(f"the class {module}.{name} is not loaded, or is no longer of that kind")
    return found


def _enum(parts: list[str]) -> Any:
    module, name, member = parts
    return _class(module, name, lambda cls: issubclass(cls, enum.Enum))[member]


def _named_tuple(parts: list[Any]) -> Any:
    module, name, items = parts
    return _class(module, name, lambda cls: issubclass(cls, tuple) and hasattr(cls, "_fields"))(*items)


def _attrs(parts: list[Any]) -> Any:
    return _with_fields(parts, attrs.has)


def _dataclass(parts: list[Any]) -> Any:
    return _with_fields(parts, lambda cls: hasattr(cls, "__dataclass_fields__"))


def _with_fields(parts: list[Any], kind: Callable[[type], bool]) -> Any:
    """An instance with its fields as they were: `__init__` may take other things, so it is not called."""
    module, name, fields = parts
    made = object.__new__(_class(module, name, kind))
    for field, value in fields.items():
        object.__setattr__(made, field, value)
    return made


def _pydantic(parts: list[Any]) -> Any:
    module, name, fields = parts
    return _class(module, name, lambda cls: hasattr(cls, "__pydantic_fields__")).model_construct(**fields)


def _registered(parts: list[Any]) -> Any:
    name, plain = parts
    entry = _by_name.get(name)
    if entry is None:
        raise ResultUnreadable(f"no type is registered as {name!r}")
    return entry.decode(plain)


_READERS: Mapping[int, Callable[[Any], Any]] = {
    INT: lambda value: int.from_bytes(value, "big", signed=True),
    TUPLE: tuple,
    SET: set,
    FROZENSET: frozenset,
    COMPLEX: lambda value: complex(*value),
    DATETIME: _datetime,
    DATE: date.fromisoformat,
    TIME: _time,
    TIMEDELTA: lambda value: timedelta(*value),
    UUID_: lambda value: UUID(bytes=value),
    DECIMAL: Decimal,
    PATH: _path,
    ENUM: _enum,
    NAMEDTUPLE: _named_tuple,
    ATTRS: _attrs,
    DATACLASS: _dataclass,
    PYDANTIC: _pydantic,
    REGISTERED: _registered,
}
