"""numpy's arrays and scalars as plain parts, and back.

An array comes back with its values, type, byte order, shape and order (C or Fortran), in memory of its own that can be
written to. What holds plain numbers is kept as its bytes, all else item by item: objects, structured types field by
field, and types whose memory differs from machine to machine. So no bytes are ever taken for pointers.

A key has each buffer's digest: it doesn't depend on strides, order, byte order, padding or which NaN it is.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from .codec import MAX_BYTES
from .errors import ResultUnreadable

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
Type: TypeAlias = "np.dtype[Any]"

_BYTES_KINDS = "biufcmMSUV"
_LONG = "gG"  # long double: its bytes differ from machine to machine, and some of them mean nothing
_NAME = re.compile(r"[<>|](?:[biufcSUV]\d{1,9}|[mM]8(?:\[\d{0,9}[a-zA-Z]{1,2}\])?|[?bBhHiIlLqQefdgFDG])")


def parts_of(cls: type, value: Any) -> list[Any] | None:
    if cls is np.ndarray:
        return ["ndarray", *_array_parts(value)]
    if cls is np.str_:  # as an array, and as its own item, it would lose zeros at its end
        return ["str_", str.__str__(value)]
    if cls is np.bytes_:
        return ["bytes_", memoryview(value).tobytes()]
    if isinstance(value, np.generic):
        array = np.asarray(value)
        if array.dtype.type is cls:
            return ["scalar", *_array_parts(array)]
    return None


def key_parts_of(cls: type, value: Any) -> list[Any] | None:
    if cls is np.ndarray:
        return ["ndarray", _key_type(value.dtype), list(value.shape), _key_content(value)]
    if isinstance(value, np.generic) and cls not in (np.str_, np.bytes_):
        array = np.asarray(value)
        return ["scalar", _key_type(array.dtype), _key_content(array)] if array.dtype.type is cls else None
    return parts_of(cls, value)


def steps_of(cls: type, value: Any) -> list[tuple[str, Any]]:
    if cls is not np.ndarray or value.dtype.kind != "O":
        return []
    places = product(*map(range, value.shape))
    return [(f"[{', '.join(map(str, place))}]", item) for place, item in zip(places, value.flat, strict=True)]


def made_of(kind: str, parts: list[Any]) -> Any:
    if kind == "ndarray":
        return _array(*parts)
    if kind == "scalar":
        return _array(*parts)[()]
    if kind in ("str_", "bytes_"):
        (text,) = parts
        return np.str_(str(text)) if kind == "str_" else np.bytes_(memoryview(text))
    raise ResultUnreadable(f"numpy's {kind!r} is not known")


# --- arrays ----------------------------------------------------------------------------------------------------


def _array_parts(array: Array) -> list[Any]:
    """The type, the shape and the content; of an array in Fortran order, those of its transpose."""
    if max(array.size, array.nbytes) > MAX_BYTES:
        raise TypeError(f"it has {array.size:,} items in {array.nbytes:,} bytes; {MAX_BYTES:,} are possible")
    described = _described(array.dtype)
    fortran = array.flags.fnc
    if fortran:
        array = array.T
    return [described, fortran, list(array.shape), _content(array)]


def _content(array: Array) -> Any:
    """The values of an array, in C order."""
    dtype = array.dtype
    if dtype.names is not None:
        return [_content(array[name]) for name in dtype.names]
    if dtype.kind == "O":
        return list(array.flat)
    if dtype.kind == "T":
        return [item if isinstance(item, str) else None for item in array.ravel().tolist()]
    if dtype.char == "G":
        return _content(np.stack([np.real(array), np.imag(array)]))
    if dtype.char == "g":
        return [str(item) for item in array.flat]
    return _valid(array).tobytes()


def _array(described: Any, fortran: bool, shape: list[int], content: Any) -> Array:
    dtype = _type(described)
    if not all(isinstance(length, int) and length >= 0 for length in shape) or math.prod(shape) > MAX_BYTES:
        raise ResultUnreadable(f"no array has the shape {shape}")
    columns = _columns(dtype, tuple(shape), content)
    array = np.zeros(tuple(shape), dtype)
    _fill(array, columns)
    return array.T if fortran else array


def _columns(dtype: Type, shape: tuple[int, ...], content: Any) -> Any:
    """The content as arrays: one, or one for each field. Nothing is allocated that the content does not fill."""
    if dtype.subdtype is not None:
        dtype, inner = dtype.subdtype
        return _columns(dtype, shape + inner, content)
    if dtype.names is not None:
        pairs = zip(dtype.names, content, strict=True)
        return [_columns(_field(dtype, name), shape, part) for name, part in pairs]
    size = math.prod(shape)
    if dtype.kind in "OT" or dtype.char in _LONG:
        if not isinstance(content, list) or len(content) != size * (2 if dtype.char == "G" else 1):
            raise ResultUnreadable(f"an array of shape {shape} has not that many items")
        return _from_items(dtype, content).reshape(shape)
    if not isinstance(content, bytes) or len(content) != size * dtype.itemsize:
        raise ResultUnreadable(f"an array of shape {shape} and type {dtype} has not that many bytes")
    return _valid(np.ndarray(shape, dtype, buffer=content))


def _from_items(dtype: Type, items: list[Any]) -> Array:
    if dtype.char == "G":
        real, imaginary = np.array(items, np.longdouble).reshape(2, -1)
        return real + 1j * imaginary
    if dtype.kind == "O":
        made = np.empty(len(items), dtype)
        for index, item in enumerate(items):
            made[index] = item
        return made
    if dtype.kind == "T":
        missing = getattr(dtype, "na_object", None)
        items = [missing if item is None else item for item in items]
    return np.array(items, dtype)


def _fill(array: Array, columns: Any) -> None:
    if array.dtype.names is None:
        array[...] = columns
    else:
        for name, column in zip(array.dtype.names, columns, strict=True):
            _fill(array[name], column)


def _valid(array: Array) -> Array:
    """The array, if its bytes are values of its type: a truth is 0 or 1, a character is one of Unicode's."""
    if array.dtype.kind == "b":
        highest, units = 1, "u1"
    elif array.dtype.kind == "U" and array.dtype.itemsize:
        highest, units = 0x10FFFF, array.dtype.byteorder + "u4"
    else:
        return array
    numbers = np.ascontiguousarray(array).view(units)
    if numbers.size and numbers.max() > highest:
        raise TypeError(f"an array has bytes that are no values of its type {array.dtype}")
    return array


# --- types -----------------------------------------------------------------------------------------------------


def _described(dtype: Type) -> Any:
    """A type in plain values. Raises `TypeError` for one that can't be made again of them."""
    described = _description(dtype)
    again = _type(described)
    same = (dtype, dtype.type, dtype.isalignedstruct) == (again, again.type, again.isalignedstruct)
    if not same:
        raise TypeError(f"its type {dtype!r} can't be made again (of structured types, packed and aligned ones can)")
    return described


def _description(dtype: Type) -> Any:
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return ["array", _description(base), list(shape)]
    if dtype.names is not None:
        return ["fields", dtype.isalignedstruct, [_field_description(dtype, name) for name in dtype.names]]
    if dtype.kind == "O":
        return "object"
    if dtype.kind == "T":
        return _text_description(dtype)
    if dtype.kind not in _BYTES_KINDS:
        raise TypeError(f"its type {dtype!r} is not one of numpy's own")
    name = dtype.str
    return name if np.dtype(name).char == dtype.char else name[0] + dtype.char


def _text_description(dtype: Any) -> list[Any]:
    missing = [dtype.na_object] if hasattr(dtype, "na_object") else []
    if missing and isinstance(missing[0], str):
        raise TypeError(f"its type {dtype!r} has a text for what is missing")
    return ["text", bool(dtype.coerce), *missing]


def _field_description(dtype: Type, name: str) -> list[Any]:
    field, _, *title = _fields(dtype)[name]
    return [name, _description(field), *title]


def _field(dtype: Type, name: str) -> Type:
    field: Type = _fields(dtype)[name][0]
    return field


def _fields(dtype: Type) -> Mapping[Any, Any]:
    assert dtype.fields is not None
    return dtype.fields


def _type(described: Any) -> Type:
    if isinstance(described, str):
        if described != "object" and not _NAME.fullmatch(described):
            raise ResultUnreadable(f"{described!r} is no type of an array")
        return np.dtype(described)
    kind, *rest = described
    if kind == "array":
        base, shape = rest
        return np.dtype((_type(base), tuple(shape)))
    if kind == "fields":
        aligned, fields = rest
        made = [((*title, name) if title else name, _type(field)) for name, field, *title in fields]
        return np.dtype(made, align=bool(aligned))
    if kind == "text":
        coerce, *missing = rest
        options = {"na_object": missing[0]} if missing else {}
        return np.dtypes.StringDType(coerce=coerce, **options)
    raise ResultUnreadable(f"{kind!r} is no kind of type of an array")


# --- keys ------------------------------------------------------------------------------------------------------


def _key_type(dtype: Type) -> Any:
    if dtype.names is not None:
        return [[name, _key_type(_field(dtype, name))] for name in dtype.names]
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return [_key_type(base), list(shape)]
    return _description(dtype) if dtype.kind in "OT" else dtype.newbyteorder("<").str


def _key_content(array: Array) -> Any:
    dtype = array.dtype
    if dtype.names is not None:
        return [_key_content(array[name]) for name in dtype.names]
    if dtype.kind in "OT" or dtype.char in _LONG:
        return _content(array)
    if dtype.kind not in _BYTES_KINDS or not np.dtype(dtype.str) == dtype:
        raise TypeError(f"its type {dtype!r} is not one of numpy's own")
    plain = np.ascontiguousarray(array, dtype.newbyteorder("<"))
    if plain.nbytes == 0:
        return b""
    if dtype.kind in "fc":
        plain = _one_nan(plain.view(np.real(plain).dtype))
    return hashlib.blake2b(plain.reshape(-1).view(np.uint8).data, digest_size=32).digest()


def _one_nan(array: Array) -> Array:
    missing = np.isnan(array)
    return np.where(missing, array.dtype.type(np.nan), array) if missing.any() else array
