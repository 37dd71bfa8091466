"""Values of Python's own types that msgpack doesn't know as plain parts, and back.

Sequences and sets, times and their zones, numbers, paths and UUIDs: each type exactly, as a subclass would come back as
its base. Parts are values that the codec knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path, PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from .errors import ResultUnreadable

TUPLE, SET, FROZENSET, COMPLEX, BYTEARRAY, DATETIME, DATE, TIME = range(16, 24)
TIMEDELTA, ZONE, UUID_, DECIMAL, PATH = range(24, 29)


def _plain_time(value: datetime | time) -> list[Any]:
    return [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _plain_zone(value.tzinfo)]


def _plain_zone(zone: tzinfo | None) -> Any:
    if zone is None:
        return None
    if type(zone) is ZoneInfo and zone.key is not None:
        return zone.key
    if type(zone) is timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        return [offset // timedelta(microseconds=1), *name]
    raise TypeError(f"its time zone is {zone!r}; ZoneInfo(name) and datetime.timezone are known")


def _plain_path(path: PurePath) -> list[str]:
    return [type(path).__name__, str(path)]


TAKEN: Mapping[type, tuple[int, Callable[[Any], Any]]] = {
    tuple: (TUPLE, list),
    set: (SET, list),
    frozenset: (FROZENSET, list),
    complex: (COMPLEX, lambda value: [value.real, value.imag]),
    bytearray: (BYTEARRAY, bytes),
    datetime: (DATETIME, _plain_time),
    date: (DATE, date.isoformat),
    time: (TIME, _plain_time),
    timedelta: (TIMEDELTA, lambda value: [value.days, value.seconds, value.microseconds]),
    timezone: (ZONE, _plain_zone),
    ZoneInfo: (ZONE, _plain_zone),
    UUID: (UUID_, lambda value: value.bytes),
    Decimal: (DECIMAL, str),
    PurePosixPath: (PATH, _plain_path),
    PureWindowsPath: (PATH, _plain_path),
    PosixPath: (PATH, _plain_path),
    WindowsPath: (PATH, _plain_path),
}


def _bytearray(value: Any) -> bytearray:
    if not isinstance(value, bytes):  # a number would be taken for a length
        raise ResultUnreadable("a bytearray was made of no bytes")
    return bytearray(value)


def _datetime(parts: list[Any]) -> datetime:
    text, fold, zone = parts
    return datetime.fromisoformat(text).replace(tzinfo=_zone(zone), fold=fold)


def _time(parts: list[Any]) -> time:
    text, fold, zone = parts
    return time.fromisoformat(text).replace(tzinfo=_zone(zone), fold=fold)


def _zone(parts: Any) -> tzinfo | None:
    if parts is None:
        return None
    if isinstance(parts, str):
        return ZoneInfo(parts)
    microseconds, *name = parts
    return timezone(timedelta(microseconds=microseconds), *name)


def _path(parts: list[str]) -> PurePath:
    """A path of this platform for one of the other's: only pure paths are the same everywhere."""
    name, text = parts
    return {"PurePosixPath": PurePosixPath, "PureWindowsPath": PureWindowsPath}.get(name, Path)(text)


MADE: Mapping[int, Callable[[Any], Any]] = {
    TUPLE: tuple,
    SET: set,
    FROZENSET: frozenset,
    COMPLEX: lambda value: complex(*value),
    BYTEARRAY: _bytearray,
    DATETIME: _datetime,
    DATE: date.fromisoformat,
    TIME: _time,
    TIMEDELTA: lambda value: timedelta(*value),
    ZONE: _zone,
    UUID_: lambda value: UUID(bytes=value),
    DECIMAL: Decimal,
    PATH: _path,
}
