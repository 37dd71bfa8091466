"""pandas' frames, series, indexes, arrays and scalars as plain parts, and back.

Each value is taken apart into the next plainer ones: a frame into its indexes and the array of each column, an
extension array into numpy's arrays or a list. So it comes back with its types, zones, units, frequencies, names,
categories and attrs. Sparse and Arrow arrays are refused, and so are subclasses and offsets that have no name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import tzinfo
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from pandas.tseries.frequencies import to_offset  # type: ignore[import-untyped]

from .codec import MAX_BYTES
from .errors import ResultUnreadable

Take = Callable[[Any], list[Any]]


def parts_of(cls: type, value: Any) -> list[Any] | None:
    take = _TAKEN.get(cls)
    return None if take is None else [cls.__name__, *take(value)]


def key_parts_of(cls: type, value: Any) -> list[Any] | None:
    if cls is pd.MultiIndex:  # equal ones may have other levels
        return [cls.__name__, [value.get_level_values(level) for level in range(value.nlevels)], list(value.names)]
    parts = parts_of(cls, value)
    if parts is not None and isinstance(value, _TEXTS):
        del parts[2]  # where the texts are held
        parts[0] = "StringArray"
    return parts


def steps_of(cls: type, value: Any) -> list[tuple[str, Any]]:
    if cls is pd.DataFrame:
        columns = [(f".column {name!r}", _column(value, place)) for place, name in enumerate(value.columns)]
        return [*columns, (".index", value.index), (".columns", value.columns), (".attrs", value.attrs)]
    if cls is pd.Series:
        parts = (_held(value.array), value.index, value.name, value.attrs)
        return list(zip((".values", ".index", ".name", ".attrs"), parts, strict=True))
    if cls is pd.arrays.DatetimeArray:
        return [(".tz", value.tz)]
    if cls is pd.Categorical:
        return [(".categories", value.categories)]
    if cls is pd.MultiIndex:
        return [(f".level {name!r}", level) for name, level in zip(value.names, value.levels, strict=True)]
    if isinstance(value, pd.Index):
        return [(".values", _held(value.array)), (".name", value.name)]
    return []


def made_of(kind: str, parts: list[Any]) -> Any:
    if kind not in _MADE:
        raise ResultUnreadable(f"pandas' {kind!r} is not known")
    make, *checks = _MADE[kind]
    if len(parts) != len(checks) or not all(check(part) for check, part in zip(checks, parts, strict=True)):
        raise ResultUnreadable(f"these are no parts of pandas' {kind}")
    made = make(*parts)
    if type(made).__name__ != kind:
        raise ResultUnreadable(f"pandas' {kind} has come back as {type(made).__name__}")
    return made


# --- what the parts must be: pandas trusts what it is given, and some of it would end the process ---------------

Check = Callable[[Any], bool]


def _is(*classes: type) -> Check:
    return lambda part: isinstance(part, classes)


def _numpy(kinds: str) -> Check:
    """An array of numpy's with one axis, of a type of one of these kinds."""
    return lambda part: type(part) is np.ndarray and part.ndim == 1 and part.dtype.kind in kinds


def _list_of(check: Check) -> Check:
    return lambda part: isinstance(part, list) and all(map(check, part))


def _anything(part: Any) -> bool:
    return True


_COLUMN_KINDS = "biufcO"


def _is_column(part: Any) -> bool:
    """What a frame, a series or an index may hold."""
    return isinstance(part, pd.api.extensions.ExtensionArray) or _numpy(_COLUMN_KINDS)(part)


# --- frames and series -----------------------------------------------------------------------------------------


def _held(array: Any) -> Any:
    """The array of a column or an index: numpy's own where pandas only wraps it."""
    return array.to_numpy() if type(array) is pd.arrays.NumpyExtensionArray else array


def _checked(held: Any) -> Any:
    if not _is_column(held):
        raise TypeError(f"it holds values of the type {held.dtype!r}")
    return held


def _column(frame: Any, place: int) -> Any:
    return _held(frame.iloc[:, place].array)


def _frame_parts(frame: Any) -> list[Any]:
    arrays = [_checked(_column(frame, place)) for place in range(len(frame.columns))]
    return [frame.columns, frame.index, arrays, frame.attrs, frame.flags.allows_duplicate_labels]


def _frame(columns: Any, index: Any, arrays: list[Any], attributes: dict[Any, Any], duplicates: bool) -> Any:
    _same_length([columns], len(arrays))
    _same_length(arrays, len(index))
    if arrays:
        frame = pd.DataFrame({place: _unnamed(array) for place, array in enumerate(arrays)})
        frame.index = index
        frame.columns = columns
    else:
        frame = pd.DataFrame(index=index, columns=columns)
    return _with_more(frame, attributes, duplicates)


def _series_parts(series: Any) -> list[Any]:
    array = _checked(_held(series.array))
    return [array, series.index, series.name, series.attrs, series.flags.allows_duplicate_labels]


def _series(array: Any, index: Any, name: Any, attributes: dict[Any, Any], duplicates: bool) -> Any:
    _same_length([array], len(index))
    series = _unnamed(array)
    series.index = index
    series.name = name
    return _with_more(series, attributes, duplicates)


def _unnamed(array: Any) -> Any:
    return pd.Series(array, dtype=array.dtype)  # without its type, pandas would look for a better one


def _with_more(made: Any, attributes: dict[Any, Any], duplicates: bool) -> Any:
    made.attrs = attributes
    made.flags.allows_duplicate_labels = duplicates
    return made


def _same_length(values: list[Any], length: int) -> None:
    if any(len(value) != length for value in values):
        raise ResultUnreadable(f"the parts of a frame are not all {length} long")


# --- indexes ---------------------------------------------------------------------------------------------------


def _index_parts(index: Any) -> list[Any]:
    return [_checked(_held(index.array)), index.name]


def _index(array: Any, name: Any) -> Any:
    return pd.Index(array, dtype=array.dtype, name=name, tupleize_cols=False)


def _range_index(start: int, stop: int, step: int, name: Any) -> Any:
    return pd.RangeIndex(start, stop, step, name=name)


def _regular_index(cls: Any) -> Callable[..., Any]:
    return lambda array, frequency, name: cls(array, freq=frequency, name=name)


def _regular_index_parts(index: Any) -> list[Any]:
    return [index.array, _frequency(index.freq), index.name]


def _multi_index_parts(index: Any) -> list[Any]:
    levels = [level.rename(None) for level in index.levels]
    return [levels, [np.asarray(codes) for codes in index.codes], list(index.names)]


def _multi_index(levels: list[Any], codes: list[Any], names: list[Any]) -> Any:
    return pd.MultiIndex(levels, codes, names=names)


def _frequency(offset: Any) -> str | None:
    """The name of a frequency. Raises `TypeError` when it doesn't say all about it, as with a calendar of one's own."""
    if offset is None:
        return None
    name: str = offset.freqstr
    if to_offset(name) != offset:
        raise TypeError(f"its frequency {offset!r} can't be made again of its name {name!r}")
    return name


# --- arrays ----------------------------------------------------------------------------------------------------


def _categorical_parts(array: Any) -> list[Any]:
    return [array.categories, np.asarray(array.codes), bool(array.ordered)]


def _categorical(categories: Any, codes: Any, ordered: bool) -> Any:
    return pd.Categorical.from_codes(codes, dtype=pd.CategoricalDtype(categories, ordered))


def _datetimes_parts(array: Any) -> list[Any]:
    zone = array.tz
    return [(array if zone is None else array.tz_convert(None)).to_numpy(), zone]


def _datetimes(values: Any, zone: Any) -> Any:
    made: Any = pd.array(values)
    return made if zone is None else made.tz_localize("UTC").tz_convert(zone)


def _periods_parts(array: Any) -> list[Any]:
    return [array.asi8, _span(array)]


def _span(periods: Any) -> str:
    """The name of the frequency of a period or an array of them."""
    name: str = periods.freqstr
    if pd.PeriodDtype(name).freq != periods.freq:
        raise TypeError(f"its frequency {periods.freq!r} can't be made again of its name {name!r}")
    return name


def _periods(ordinals: Any, frequency: str) -> Any:
    return pd.arrays.PeriodArray(ordinals.astype(np.int64), dtype=pd.PeriodDtype(frequency))


def _period(ordinal: int, frequency: str) -> Any:
    return pd.Period(ordinal=ordinal, freq=frequency)


def _masked_parts(array: Any) -> list[Any]:
    """The values, with 0 where one is missing, and where that is."""
    return [array.to_numpy(dtype=array.dtype.numpy_dtype, na_value=0), array.isna()]


def _texts_parts(array: Any) -> list[Any]:
    if len(array) > MAX_BYTES:
        raise TypeError(f"it has {len(array):,} texts; {MAX_BYTES:,} are possible")
    missing = "NA" if array.dtype.na_value is pd.NA else "nan"
    return [missing, array.dtype.storage, array.to_numpy(dtype=object, na_value=None).tolist()]


def _texts(missing: str, storage: str, texts: list[str | None]) -> Any:
    dtype = pd.StringDtype(storage, na_value=pd.NA if missing == "NA" else np.nan)
    return pd.array(texts, dtype=dtype)


# --- scalars ---------------------------------------------------------------------------------------------------


def _timestamp_parts(stamp: Any) -> list[Any]:
    return [stamp.asm8, stamp.fold, stamp.tzinfo]


def _timestamp(value: Any, fold: int, zone: Any) -> Any:
    stamp = pd.Timestamp(value)
    return stamp.replace(fold=fold) if zone is None else stamp.tz_localize("UTC").tz_convert(zone)


_TEXTS = (pd.arrays.StringArray, pd.arrays.ArrowStringArray)

_TAKEN: Mapping[type, Take] = {
    pd.DataFrame: _frame_parts,
    pd.Series: _series_parts,
    pd.Index: _index_parts,
    pd.RangeIndex: lambda index: [index.start, index.stop, index.step, index.name],
    pd.DatetimeIndex: _regular_index_parts,
    pd.TimedeltaIndex: _regular_index_parts,
    pd.PeriodIndex: _index_parts,
    pd.IntervalIndex: _index_parts,
    pd.CategoricalIndex: _index_parts,
    pd.MultiIndex: _multi_index_parts,
    pd.Categorical: _categorical_parts,
    pd.arrays.NumpyExtensionArray: lambda array: [array.to_numpy()],
    pd.arrays.DatetimeArray: _datetimes_parts,
    pd.arrays.TimedeltaArray: lambda array: [array.to_numpy()],
    pd.arrays.PeriodArray: _periods_parts,
    pd.arrays.IntervalArray: lambda array: [array.left, array.right, array.closed],
    pd.arrays.IntegerArray: _masked_parts,
    pd.arrays.FloatingArray: _masked_parts,
    pd.arrays.BooleanArray: _masked_parts,
    pd.arrays.StringArray: _texts_parts,
    pd.arrays.ArrowStringArray: _texts_parts,
    pd.Timestamp: _timestamp_parts,
    pd.Timedelta: lambda delta: [delta.asm8],
    pd.Period: lambda period: [period.ordinal, _span(period)],
    pd.Interval: lambda interval: [interval.left, interval.right, interval.closed],
    type(pd.NA): lambda _: [],
    type(pd.NaT): lambda _: [],
}

_index_like = _is(pd.Index)
_text = _is(str)
_text_or_none = _is(str, type(None))
_number = _is(int)

_MADE: Mapping[str, tuple[Any, ...]] = {
    "DataFrame": (_frame, _index_like, _index_like, _list_of(_is_column), _is(dict), _is(bool)),
    "Series": (_series, _is_column, _index_like, _anything, _is(dict), _is(bool)),
    "Index": (_index, _is_column, _anything),
    "RangeIndex": (_range_index, _number, _number, _number, _anything),
    "DatetimeIndex": (_regular_index(pd.DatetimeIndex), _is(pd.arrays.DatetimeArray), _text_or_none, _anything),
    "TimedeltaIndex": (_regular_index(pd.TimedeltaIndex), _is(pd.arrays.TimedeltaArray), _text_or_none, _anything),
    "PeriodIndex": (_index, _is(pd.arrays.PeriodArray), _anything),
    "IntervalIndex": (_index, _is(pd.arrays.IntervalArray), _anything),
    "CategoricalIndex": (_index, _is(pd.Categorical), _anything),
    "MultiIndex": (_multi_index, _list_of(_index_like), _list_of(_numpy("i")), _is(list)),
    "Categorical": (_categorical, _index_like, _numpy("i"), _is(bool)),
    "NumpyExtensionArray": (pd.arrays.NumpyExtensionArray, _numpy(_COLUMN_KINDS)),
    "DatetimeArray": (_datetimes, _numpy("M"), _is(tzinfo, type(None))),
    "TimedeltaArray": (pd.array, _numpy("m")),
    "PeriodArray": (_periods, _numpy("i"), _text),
    "IntervalArray": (pd.arrays.IntervalArray.from_arrays, _index_like, _index_like, _text),
    "IntegerArray": (pd.arrays.IntegerArray, _numpy("iu"), _numpy("b")),
    "FloatingArray": (pd.arrays.FloatingArray, _numpy("f"), _numpy("b")),
    "BooleanArray": (pd.arrays.BooleanArray, _numpy("b"), _numpy("b")),
    "StringArray": (_texts, _text, _text, _list_of(_text_or_none)),
    "ArrowStringArray": (_texts, _text, _text, _list_of(_text_or_none)),
    "Timestamp": (_timestamp, _is(np.datetime64), _number, _is(tzinfo, type(None))),
    "Timedelta": (pd.Timedelta, _is(np.timedelta64)),
    "Period": (_period, _number, _text),
    "Interval": (pd.Interval, _anything, _anything, _text),
    "NAType": (lambda: pd.NA,),
    "NaTType": (lambda: pd.NaT,),
}
