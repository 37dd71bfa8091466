"""The one codec: values to bytes and back, each coming back equal and of the same type.

Bytes are msgpack with extension types. What it knows: None, bool, int of any size, float, str, bytes, list, dict, what
`builtin_values`, `instances` and `frames` know, and what `register_type` adds. Anything else is refused with the path
to it; nothing is ever pickled.

Writing and reading keep the same limits, so that what was written can be read: on bytes, on nesting, on the number of
items, and on the bytes of nested extensions, each of which is held while its parts are read.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgpack

from . import builtin_values, frames, instances
from .builtin_values import FROZENSET, SET
from .errors import ResultNotSerializable, ResultUnreadable

T = TypeVar("T")

MAX_BYTES = 64 * 1024 * 1024
MAX_DEPTH = 100
MAX_ITEMS = 4_000_000
"""Items of all lists and maps together. The smallest take 1 byte each, and 64 times that when they are read."""
MAX_NESTED_BYTES = 4 * MAX_BYTES
"""An extension's bytes times its depth: the levels around it are held while it is read."""

MAP, INT, INSTANCE, FRAME, REGISTERED = range(1, 6)  # what builtin_values adds starts at 16

_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
_EXACT = _SCALARS - {float}
_SMALL_DEPTH = 3
_SMALL_LENGTH = 64


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
        return _encoded(value)
    except Exception as error:
        raise _refusal(value, error, _encoded) from None


def canonical(value: Any) -> bytes:
    """Bytes that are the same for equal values in every process: for keys, not for reading back.

    Equal means what a round trip keeps: `1`, `True` and `1.0` differ, and so do `0.0` and `-0.0`. What doesn't count:
    the order of maps and sets, which NaN it is, fields that a class leaves out of its comparison, and how arrays and
    frames are laid out in memory. Raises `ResultNotSerializable`.
    """
    try:
        return _canonical(value)
    except Exception as error:
        raise _refusal(value, error, _canonical) from None


def decode(data: bytes) -> Any:
    """The value again. Raises `ResultUnreadable` for bytes that are no value, or name a class that isn't loaded."""
    if len(data) > MAX_BYTES:
        raise ResultUnreadable(f"it has {len(data):,} bytes, more than {MAX_BYTES:,}")
    try:
        return (_Reader() if len(data) <= MAX_ITEMS else _CountingReader()).read(data)
    except ResultUnreadable:
        raise
    except Exception as error:
        raise ResultUnreadable(f"{type(error).__name__}: {error}") from error


# --- writing ---------------------------------------------------------------------------------------------------


class _TooMuch(TypeError):
    """The whole is too deep or too large: it is not one of its parts that can't be written."""


def _encoded(value: Any) -> bytes:
    data: bytes
    if _is_small(value, _SMALL_DEPTH):
        data = msgpack.Packer(default=_big_int, strict_types=True, unicode_errors="surrogatepass").pack(value)
    else:
        data = _Writer().pack(value)
    if len(data) > MAX_BYTES:
        raise _TooMuch(f"it takes {len(data):,} bytes, more than {MAX_BYTES:,}")
    return data


def _canonical(value: Any) -> bytes:
    return _KeyWriter().pack(value)


def _is_small(value: Any, depth: int) -> bool:
    """Whether it is made of a few scalars, lists and maps: most values are, and msgpack writes them as they are."""
    cls = type(value)
    if cls is dict:
        for key in value:
            if type(key) not in _SCALARS:
                return False
        value = value.values()
    elif cls is not list:
        return cls in _SCALARS
    if depth == 0 or len(value) > _SMALL_LENGTH:
        return False
    for item in value:
        if type(item) in _SCALARS or _is_small(item, depth - 1):
            continue
        return False
    return True


class _Writer:
    """One value on its way to bytes: how deep it stands in it, and how many items have gone by."""

    __slots__ = ("_depth", "_items", "_packer")

    for_key = False

    def __init__(self) -> None:
        self._depth = 0
        self._items = 0
        self._packer = msgpack.Packer(default=_big_int, strict_types=True, unicode_errors="surrogatepass")

    def pack(self, value: Any) -> bytes:
        packed: bytes = self._packer.pack(self.plain(value))
        return packed

    def plain(self, value: Any) -> Any:
        """The value in terms of what msgpack knows and gives back as it was."""
        cls = type(value)
        if cls in _SCALARS:
            return value
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _TooMuch(f"it is nested more than {MAX_DEPTH} deep, or holds itself")
        made: Any
        if cls is list:
            made = self.items(value)
        elif cls is dict:
            made = self.entries(value)
        else:
            made = self.extension(cls, value)
        self._depth -= 1
        return made

    def items(self, values: list[Any]) -> list[Any]:
        self.count(len(values))
        if _SCALARS.issuperset(map(type, values)):
            return values
        return [value if type(value) in _SCALARS else self.plain(value) for value in values]

    def entries(self, values: dict[Any, Any]) -> Any:
        self.count(len(values))
        plain = self.plain
        return {
            key if type(key) in _SCALARS else plain(key): value if type(value) in _SCALARS else plain(value)
            for key, value in values.items()
        }

    def extension(self, cls: type, value: Any) -> Any:
        code, parts = self.take_apart(cls, value)
        data = self._packer.pack(self.items(parts) if type(parts) is list else parts)
        if len(data) * self._depth > MAX_NESTED_BYTES:
            raise _TooMuch(f"it takes {len(data):,} bytes, too many at {self._depth} levels down")
        return msgpack.ExtType(code, data)

    def take_apart(self, cls: type, value: Any) -> tuple[int, Any]:
        """The extension type of a value, and its parts: a list, or a scalar."""
        known = builtin_values.TAKEN.get(cls)
        if known is not None:
            return known[0], known[1](value)
        entry = _by_type.get(cls)
        if entry is not None:
            return REGISTERED, [entry.name, entry.encode(value)]
        parts = instances.parts_of(cls, value, self.for_key)
        if parts is not None:
            return INSTANCE, parts
        parts = frames.parts_of(cls, value, self.for_key)
        if parts is not None:
            return FRAME, parts
        raise TypeError

    def count(self, items: int) -> None:
        self._items += items
        if self._items > MAX_ITEMS:
            raise _TooMuch(f"it holds more than {MAX_ITEMS:,} items")


class _KeyWriter(_Writer):
    """A value on its way to a key: with an order in what has none, one NaN, and no limit but that on nesting."""

    __slots__ = ()

    for_key = True

    def plain(self, value: Any) -> Any:
        return _NAN if type(value) is float and value != value else super().plain(value)

    def items(self, values: list[Any]) -> list[Any]:
        return values if _EXACT.issuperset(map(type, values)) else [self.plain(value) for value in values]

    def entries(self, values: dict[Any, Any]) -> Any:
        pairs = [self.pack(key) + self.pack(value) for key, value in values.items()]
        return msgpack.ExtType(MAP, b"".join(sorted(pairs)))

    def extension(self, cls: type, value: Any) -> Any:
        code, parts = self.take_apart(cls, value)
        if code in (SET, FROZENSET):
            return msgpack.ExtType(code, b"".join(sorted(map(self.pack, parts))))
        return msgpack.ExtType(code, self._packer.pack(self.items(parts) if type(parts) is list else parts))


_NAN = float("nan")


def _big_int(value: Any) -> Any:
    """An int beyond 64 bits: all else that msgpack doesn't know is taken apart before."""
    number = value.to_bytes((value.bit_length() + 8) // 8, "big", signed=True)
    return msgpack.ExtType(INT, msgpack.packb(number))


# --- refusing --------------------------------------------------------------------------------------------------


def _refusal(value: Any, error: Exception, write: Callable[[Any], bytes]) -> ResultNotSerializable:
    """What to raise for a value that can't be written: it names the innermost part, the way to it, and why."""
    path = "value"
    while not isinstance(error, _TooMuch):
        found = _culprit(value, write)
        if found is None:
            break
        step, value, error = found
        path += step
    refusal = ResultNotSerializable(path, value)
    reason = str(error) if isinstance(error, TypeError) else f"{type(error).__name__}: {error}"
    if reason:
        refusal.add_note(f"The reason: {reason}.")
    return refusal


def _shown(key: Any) -> str:
    try:
        return reprlib.repr(key)
    except ValueError:  # an int with too many digits
        return f"<{type(key).__name__}>"


def _culprit(value: Any, write: Callable[[Any], bytes]) -> tuple[str, Any, Exception] | None:
    """The first part of a value that can't be written either; `None` when it is the value itself."""
    for step, part in _parts(value):
        try:
            write(part)
        except Exception as error:
            return step, part, error
    return None


def _parts(value: Any) -> Iterable[tuple[str, Any]]:
    """The parts of a value, each with its step of the path."""
    cls = type(value)
    if cls is dict:
        yield from ((f"[{_shown(key)}]", item) for key, item in value.items())
        yield from ((f" key {_shown(key)}", key) for key in value)
    elif cls in (list, tuple, set, frozenset):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    else:
        yield from instances.steps_of(cls, value) or frames.steps_of(cls, value)


# --- reading ---------------------------------------------------------------------------------------------------


class _Reader:
    """One reading of bytes: how deep it is."""

    _depth = 0

    def read(self, data: bytes) -> Any:
        return msgpack.unpackb(data, ext_hook=self.extension, strict_map_key=False, unicode_errors="surrogatepass")

    def extension(self, code: int, data: bytes) -> Any:
        self._depth += 1
        around = self._depth - 1  # what is innermost, a big int, is no level when it is written
        if around > MAX_DEPTH or len(data) * around > MAX_NESTED_BYTES:
            raise ResultUnreadable(f"it is nested too deep: {len(data):,} bytes {around} levels down")
        reader = _READERS.get(code)
        if reader is None:
            raise ResultUnreadable(f"extension type {code} is not known")
        value = reader(self.read(data))
        self._depth -= 1
        return value


class _CountingReader(_Reader):
    """A reading of so many bytes that they may be too many items."""

    _items = 0

    def read(self, data: bytes) -> Any:
        return msgpack.unpackb(
            data,
            ext_hook=self.extension,
            list_hook=self.count,
            object_hook=self.count,
            max_array_len=min(len(data), MAX_ITEMS),
            max_map_len=min(len(data), MAX_ITEMS),
            strict_map_key=False,
            unicode_errors="surrogatepass",
        )

    def count(self, made: Any) -> Any:
        self._items += len(made)
        if self._items > MAX_ITEMS:
            raise ResultUnreadable(f"it holds more than {MAX_ITEMS:,} items")
        return made


def _registered(parts: list[Any]) -> Any:
    name, plain = parts
    entry = _by_name.get(name)
    if entry is None:
        raise ResultUnreadable(f"no type is registered as {name!r}")
    return entry.decode(plain)


_READERS: Mapping[int, Callable[[Any], Any]] = {
    **builtin_values.MADE,
    INT: lambda value: int.from_bytes(value, "big", signed=True),
    INSTANCE: instances.made_of,
    FRAME: frames.made_of,
    REGISTERED: _registered,
}
