"""polars' frames and series as plain parts, and back.

A series is its name, its type and a list of its values, with times as numbers and categories as texts: polars casts
both ways. Its own file formats are not used, as reading one that was tampered with can end the process, and as equal
frames can have different bytes. What holds Python objects is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from .codec import MAX_BYTES
from .errors import ResultUnreadable

_PLAIN = {
    name: getattr(pl, name)
    for name in (
        *("Int8", "Int16", "Int32", "Int64", "Int128", "UInt8", "UInt16", "UInt32", "UInt64", "UInt128"),
        *("Float16", "Float32", "Float64", "Boolean", "String", "Binary", "Null"),
    )
    if hasattr(pl, name)
}


def parts_of(cls: type, value: Any) -> list[Any] | None:
    if cls is pl.Series:
        return ["Series", value.name, _described(value.dtype), _values(value)]
    if cls is pl.DataFrame:
        return ["DataFrame", value.height, value.get_columns()]
    return None


key_parts_of = parts_of


def steps_of(cls: type, value: Any) -> list[tuple[str, Any]]:
    return [(f".column {column.name!r}", column) for column in value.get_columns()] if cls is pl.DataFrame else []


def made_of(kind: str, parts: list[Any]) -> Any:
    if kind not in ("Series", "DataFrame"):
        raise ResultUnreadable(f"polars' {kind!r} is not known")
    try:
        return _series(*parts) if kind == "Series" else _frame(*parts)
    except pl.exceptions.PanicException as panic:  # which is no Exception
        raise ResultUnreadable(f"polars can't make a {kind} of it: {panic}") from None


def _values(series: Any) -> list[Any]:
    if len(series) > MAX_BYTES:
        raise TypeError(f"it has {len(series):,} values; {MAX_BYTES:,} are possible")
    values: list[Any] = series.cast(_stored(series.dtype)).to_list()
    return values


def _series(name: str, described: Any, values: list[Any]) -> Any:
    dtype = _type(described)
    if not isinstance(values, list) or (_has_arrays(dtype) and sum(_room(dtype, item) for item in values) > MAX_BYTES):
        raise ResultUnreadable(f"a series has no list of values, or one that takes more than {MAX_BYTES:,}")
    return pl.Series(name, values, dtype=_stored(dtype)).cast(dtype)


def _frame(height: int, columns: list[Any]) -> Any:
    if any(type(column) is not pl.Series or len(column) != height for column in columns):
        raise ResultUnreadable(f"the columns of a frame are not series of {height} values")
    named = {column.name: column for column in columns}  # in a list, one without a name would be given one
    if len(named) != len(columns):
        raise ResultUnreadable("two columns of a frame have one name")
    return pl.DataFrame(named) if named or not height else pl.DataFrame(height=height)


# --- types -----------------------------------------------------------------------------------------------------


def _described(dtype: Any) -> Any:
    """A type in plain values. Raises `TypeError` for one that can't be made again of them."""
    base = dtype.base_type()
    name = base.__name__
    if name in _PLAIN or base in (pl.Date, pl.Time):
        return name
    if base is pl.Datetime:
        return [name, dtype.time_unit, dtype.time_zone]
    if base is pl.Duration:
        return [name, dtype.time_unit]
    if base is pl.Decimal:
        return [name, dtype.precision, dtype.scale]
    if base is pl.Enum:
        return [name, dtype.categories.to_list()]
    if base is pl.Categorical:
        categories = dtype.categories
        return [name, categories.name(), categories.namespace(), str(categories.physical())]
    if base is pl.List:
        return [name, _described(dtype.inner)]
    if base is pl.Array:
        return [name, _described(dtype.inner), dtype.size]
    if base is pl.Struct:
        return [name, [[field.name, _described(field.dtype)] for field in dtype.fields]]
    raise TypeError(f"its type {dtype!r} can't be made again")


def _type(described: Any) -> Any:
    if isinstance(described, str):
        return {**_PLAIN, "Date": pl.Date, "Time": pl.Time}[described]
    name, *rest = described
    return _TYPES[name](*rest)


def _array(inner: Any, size: int) -> Any:
    if not 0 <= size <= MAX_BYTES:
        raise ResultUnreadable(f"no list has the fixed size {size}")
    return pl.Array(_type(inner), size)


_TYPES: Mapping[str, Callable[..., Any]] = {
    "Datetime": pl.Datetime,
    "Duration": pl.Duration,
    "Decimal": pl.Decimal,
    "Enum": pl.Enum,
    "Categorical": lambda name, namespace, physical: pl.Categorical(pl.Categories(name, namespace, _PLAIN[physical])),
    "List": lambda inner: pl.List(_type(inner)),
    "Array": _array,
    "Struct": lambda fields: pl.Struct({name: _type(field) for name, field in fields}),
}


def _stored(dtype: Any) -> Any:
    """The type of the values as they are written."""
    base = dtype.base_type()
    if base in (pl.Datetime, pl.Duration, pl.Time):
        return pl.Int64
    if base is pl.Date:
        return pl.Int32
    if base in (pl.Categorical, pl.Enum):
        return pl.String
    if base is pl.List:
        return pl.List(_stored(dtype.inner))
    if base is pl.Array:
        return pl.Array(_stored(dtype.inner), dtype.size)
    if base is pl.Struct:
        return pl.Struct({field.name: _stored(field.dtype) for field in dtype.fields})
    return dtype


def _has_arrays(dtype: Any) -> bool:
    base = dtype.base_type()
    if base is pl.Struct:
        return any(_has_arrays(field.dtype) for field in dtype.fields)
    return base is pl.Array or (base is pl.List and _has_arrays(dtype.inner))


def _room(dtype: Any, value: Any) -> int:
    """How many values one takes in memory: a missing list of a fixed size takes as many as any other."""
    base = dtype.base_type()
    if base is pl.Struct:
        return sum(_room(field.dtype, None if value is None else value.get(field.name)) for field in dtype.fields)
    if base is pl.Array and value is None:
        return int(dtype.size) * _room(dtype.inner, None)
    if base in (pl.Array, pl.List):
        return sum(_room(dtype.inner, item) for item in value or ())
    return 1
