"""Arrays and frames in the codec: each comes back as it was, and nobody loads a library that nobody uses."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as array_strategies
from hypothesis.extra import pandas as frame_strategies
from pandas.testing import assert_extension_array_equal, assert_frame_equal, assert_index_equal, assert_series_equal
from polars.testing import assert_frame_equal as assert_polars_equal

from undertow import INPUTS, Engine, ResultNotSerializable, ResultUnreadable, task
from undertow.engine import numpy_values
from undertow.engine.codec import FRAME, canonical, decode, encode

BERLIN = "Europe/Berlin"


def again(value: Any) -> Any:
    return decode(encode(value))


# --- numpy -----------------------------------------------------------------------------------------------------


def objects(*items: Any) -> Any:
    made = np.empty(len(items), object)
    for index, item in enumerate(items):
        made[index] = item
    return made


ARRAYS = [
    np.arange(6).reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array(5),
    np.zeros((0, 3)),
    np.zeros((2, 0), order="F"),
    np.arange(10)[::-2],
    np.zeros((2, 3, 4)).transpose(2, 0, 1),
    np.broadcast_to(np.arange(3), (2, 3)),
    np.array([1, 2], ">i4"),
    np.array([1 + 2j], ">c8"),
    np.array([True, False]),
    np.array([1.5, np.nan, -0.0], np.float16),
    np.array([1, 2], np.longlong),
    np.array([1.1, np.nan], np.longdouble),
    np.array([1.1 + 2j, np.inf], np.clongdouble),
    np.array(["a", "bcd", "\U0010ffff"]),
    np.array([b"a", b"\0b"]),
    np.array([b"ab"], "V2"),
    np.zeros(2, "U0"),
    np.array(["2020-01-01", "NaT"], "M8[ns]"),
    np.array([1, 2], ">m8[25s]"),
    np.array(["NaT"], "M8"),
    np.array(["x", ""], np.dtypes.StringDType()),
    np.array(["x", None], np.dtypes.StringDType(na_object=None, coerce=False)),
    np.array([(1, "x", [1.0, 2.0])], [("a", "i4"), ("b", "U3"), ("c", ">f8", 2)]),
    np.array([(1, 2)], np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    np.array([((1, 2),)], [("outer", [("x", "i1"), ("y", "g")])]),
    np.array([(1, [2])], [("a", "i4"), ("o", "O")]),
    np.array([(1,)], [(("title", "a"), ">i2")]),
    np.asfortranarray(np.zeros((2, 3), [("a", "i4"), ("b", "f8")])),
    np.zeros(3, np.dtype([])),
    objects([1], np.array(5), np.array([1, 2]), None, {"a": (1,)}, np.float32(1)),
    objects().reshape(0, 2),
]

SCALARS = [
    np.float64(1.5),
    np.int64(1),
    np.longlong(1),
    np.bool_(True),
    np.complex64(2j),
    np.longdouble("1.1"),
    np.str_("a\0"),
    np.str_("\ud800"),
    np.bytes_(b"a\0"),
    np.void(b"ab"),
    np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")])[0],
    np.datetime64("2020"),
    np.datetime64("NaT", "ns"),
    np.timedelta64(3, "D"),
]


def assert_same_array(back: Any, value: Any) -> None:
    assert type(back) is type(value)
    dtype = value.dtype
    assert (back.dtype, back.dtype.str, back.dtype.char) == (dtype, dtype.str, dtype.char)
    assert back.dtype.isalignedstruct == dtype.isalignedstruct
    assert back.shape == value.shape
    if dtype.kind == "O":
        assert list(map(type, back.flat)) == list(map(type, value.flat))
    assert repr(back) == repr(value)


@pytest.mark.parametrize("value", ARRAYS + SCALARS, ids=lambda value: f"{value.dtype}{value.shape}")
def test_numpy_values_come_back(value: Any) -> None:
    """Any array or scalar of numpy's comes back with its values, type, byte order and shape, however it is strided."""
    assert_same_array(again(value), value)


def test_arrays_are_ones_own() -> None:
    """An array that comes back is in C or Fortran order as it was, and can be written to."""
    for order in ("C", "F"):
        back = again(np.ones((2, 3), order=order))
        assert back.flags.c_contiguous == (order == "C")
        back[0, 0] = 5
        assert back.sum() == 10


@settings(max_examples=40, deadline=None)
@given(array_strategies.arrays(array_strategies.array_dtypes() | array_strategies.scalar_dtypes(), st.just((2, 2))))
def test_any_array_comes_back(value: Any) -> None:
    """Arrays of any type, structured ones among them, come back with the same bytes in each item."""
    back = again(value)
    assert back.dtype == value.dtype
    assert repr(back) == repr(value)
    assert canonical(back) == canonical(value)


# --- pandas ----------------------------------------------------------------------------------------------------

PERIODS = pd.period_range("2020", periods=2, freq="Q-NOV")
INDEXES = [
    pd.RangeIndex(0, 10, 3, name="r"),
    pd.Index([1, 2], name=("a", 1)),
    pd.Index([1.5], dtype="float32"),
    pd.Index(["a", None], dtype=object),
    pd.Index(["a", None], dtype="str"),
    pd.Index([(1, 2), (3, 4)], tupleize_cols=False),
    pd.Index([date(2020, 1, 1)]),
    pd.Index([1, None], dtype="Int64"),
    pd.Index([]),
    pd.date_range("2020", periods=3, freq="ME", tz=BERLIN, name="n"),
    pd.date_range("2026-10-25", periods=5, freq="h", tz=BERLIN),
    pd.date_range("2020", periods=3, unit="s", tz=timezone(timedelta(hours=1))),
    pd.date_range("2020", periods=0, freq="D"),
    pd.DatetimeIndex(["2020-01-01", "NaT"]),
    pd.timedelta_range("1h", periods=3, freq="30min"),
    PERIODS,
    pd.interval_range(0, 3, closed="left"),
    pd.IntervalIndex.from_tuples([(0, 1), (2, 3)]),
    pd.CategoricalIndex(["a", "b"], categories=["b", "a", "z"], ordered=True, name="c"),
    pd.CategoricalIndex(pd.Categorical(pd.date_range("2020", periods=2))),
    pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["x", None])[:2],
    pd.MultiIndex.from_product([pd.date_range("2020", periods=2, tz=BERLIN), [1, 2]]),
]

EXTENSION_ARRAYS = [
    pd.array([1, None], dtype="Int8"),
    pd.array([1, None], dtype="UInt64"),
    pd.array([1.5, None], dtype="Float32"),
    pd.arrays.FloatingArray(np.array([1.0, np.nan, 0.0]), np.array([False, False, True])),
    pd.array([True, None], dtype="boolean"),
    pd.array(["a", None], dtype="string"),
    pd.array(["a", None, "\ud800"], dtype=pd.StringDtype("python", na_value=np.nan)),
    pd.array([], dtype="string"),
    pd.Categorical(["a", None]),
    pd.Categorical([1, 2], ordered=True),
    pd.array(np.array(["2020", "NaT"], "M8[ns]")),
    pd.array(np.array([1], "m8[s]")),
    pd.date_range("2020", periods=2, tz=BERLIN).array,
    pd.array([pd.Period("2020", "Y"), None]),
    pd.arrays.IntervalArray.from_tuples([(0, 1), None]),
    pd.arrays.NumpyExtensionArray(np.array([1, 2])),
]

PANDAS_SCALARS = [
    pd.NA,
    pd.NaT,
    pd.Timestamp("2020-01-01 00:00:00.123456789", tz=BERLIN),
    pd.Timestamp("2026-10-25 02:30").tz_localize(BERLIN, ambiguous=False),
    pd.Timestamp("2020", tz="UTC"),
    pd.Timestamp("2020").replace(fold=1),
    pd.Timestamp("2020").as_unit("s"),
    pd.Timedelta(1, "ns"),
    pd.Timedelta("1D"),
    pd.Period("2020-01", freq="M"),
    pd.Interval(pd.Timestamp("2020"), pd.Timestamp("2021"), "both"),
]

MIXED = pd.DataFrame(
    {
        "integers": [1, 2, 3],
        "floats": [1.0, np.nan, 2],
        "texts": ["a", None, "c"],
        "objects": pd.Series(["x", 1, [2]], dtype=object),
        "categories": pd.Categorical(["a", "b", "a"]),
        "times": pd.date_range("2020", periods=3, tz=BERLIN),
        "nullable": pd.array([1, None, 2], dtype="Int8"),
        "truths": [True, False, True],
        "spans": pd.timedelta_range("1h", periods=3),
    },
    index=pd.date_range("2020", periods=3, freq="D"),
)
MIXED.attrs = {"source": {"row": (1, 2)}}

FRAMES = [
    MIXED,
    MIXED.T,
    MIXED.iloc[::2],
    pd.DataFrame([[1, "a"], [2, "b"]], columns=["x", "x"], index=[1, 1]),
    pd.DataFrame(np.arange(4.0).reshape(2, 2), columns=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)])),
    pd.DataFrame({"a": [1]}).set_flags(allows_duplicate_labels=False),
    pd.DataFrame(),
    pd.DataFrame(index=[1, 2]),
    pd.DataFrame(columns=["a"]),
]


def assert_same_index(back: Any, value: Any) -> None:
    assert type(back) is type(value)
    assert_index_equal(back, value, exact=True)
    assert back.dtype == value.dtype
    assert getattr(back, "freq", None) == getattr(value, "freq", None)
    for level, other in zip(getattr(back, "levels", ()), getattr(value, "levels", ()), strict=True):
        assert_same_index(level, other)


@pytest.mark.parametrize("value", INDEXES, ids=lambda value: f"{type(value).__name__} {value.dtype}")
def test_indexes_come_back(value: Any) -> None:
    """Each kind of index comes back as that kind, with its type, names, levels and frequency."""
    assert_same_index(again(value), value)


@pytest.mark.parametrize("value", EXTENSION_ARRAYS, ids=lambda value: f"{type(value).__name__} {value.dtype}")
def test_extension_arrays_and_series_come_back(value: Any) -> None:
    """Each kind of array of pandas' comes back, alone and in a series with a name, an index and attrs."""
    back = again(value)
    assert type(back) is type(value)
    assert_extension_array_equal(back, value)
    series = pd.Series(value, dtype=value.dtype, name=("s", 1), index=pd.RangeIndex(5, 5 + len(value)))
    series.attrs = {"unit": ("m", 1)}
    back = again(series)
    assert_series_equal(back, series, check_index_type="exact", check_flags=True)
    assert back.attrs == series.attrs
    assert type(back.array) is type(series.array)


@pytest.mark.parametrize("value", PANDAS_SCALARS, ids=repr)
def test_pandas_scalars_come_back(value: Any) -> None:
    """Timestamps keep their zone, fold and unit, and what is missing is the one object that says so."""
    back = again(value)
    assert type(back) is type(value)
    assert repr(back) == repr(value)
    assert getattr(back, "unit", None) == getattr(value, "unit", None)
    assert getattr(back, "fold", None) == getattr(value, "fold", None)


@pytest.mark.parametrize("value", FRAMES, ids=lambda value: str(value.shape))
def test_frames_come_back(value: Any) -> None:
    """A frame comes back with its columns' types, its indexes, its attrs and its flags."""
    back = again(value)
    assert_frame_equal(back, value, check_column_type="exact", check_index_type="exact", check_freq=True)
    assert_same_index(back.columns, value.columns)
    assert_same_index(back.index, value.index)
    assert (back.attrs, back.flags) == (value.attrs, value.flags)


@settings(max_examples=20, deadline=None)
@given(
    frame_strategies.data_frames(
        [
            frame_strategies.column("a", dtype="int16"),
            frame_strategies.column("b", dtype=float),
            frame_strategies.column("c", elements=st.none() | st.integers() | st.text(), dtype=object),
        ]
    )
)
def test_any_frame_comes_back(value: Any) -> None:
    """Whatever values a frame holds, it comes back, and has the key that it had."""
    back = again(value)
    assert_frame_equal(back, value)
    assert canonical(back) == canonical(value)


# --- polars ----------------------------------------------------------------------------------------------------

NOON = datetime(2020, 1, 1, 12)
NUMBERS = (pl.Int8, pl.Int128, pl.UInt64, pl.Float32, pl.Date, pl.Time, pl.Datetime("ns", BERLIN), pl.Duration("us"))
SERIES = [
    *(pl.Series("numbers", [1, None], dtype=dtype) for dtype in NUMBERS),
    pl.Series([1.5, float("nan"), None]),
    pl.Series([2**100], dtype=pl.Int128),
    pl.Series([True, None]),
    pl.Series(["x", None, ""]),
    pl.Series([b"", None]),
    pl.Series([None, None]),
    pl.Series([Decimal("1.20"), None]),
    pl.Series(["u", None], dtype=pl.Categorical),
    pl.Series(["u"], dtype=pl.Categorical(pl.Categories("name", "space", pl.UInt8))),
    pl.Series(["u"], dtype=pl.Enum(["v", "u"])),
    pl.Series([[NOON], [], None, [None]], dtype=pl.List(pl.Datetime("ns"))),
    pl.Series([[[1, 2], [3, 4]], None], dtype=pl.Array(pl.Int8, (2, 2))),
    pl.Series([{"p": NOON, "q": ["x"]}, None, {"p": None, "q": None}]),
    pl.Series([], dtype=pl.Struct({"a": pl.Array(pl.Int8, 2)})),
]


@pytest.mark.parametrize("value", SERIES, ids=lambda value: str(value.dtype))
def test_polars_values_come_back(value: Any) -> None:
    """Series and frames of polars come back with their names, types and missing values, nested ones too."""
    back = again(value)
    assert type(back) is pl.Series
    assert (back.name, back.dtype, back.null_count()) == (value.name, value.dtype, value.null_count())
    frame = value.to_frame()
    assert_polars_equal(again(frame), frame, check_exact=True)


def test_polars_frames_without_columns() -> None:
    """A frame of polars keeps its height even when it has no columns."""
    assert again(pl.DataFrame(height=3)).shape == (3, 0)


# --- refusals --------------------------------------------------------------------------------------------------


class OwnFrame(pd.DataFrame):
    """A subclass, which would come back as its base."""


OWN_DAYS = pd.offsets.CustomBusinessDay(holidays=["2020-01-02"])
REFUSED = [
    ({"x": pd.DataFrame({"a": [1], "c": objects(object())})}, "value['x'].column 'c'[0]", ""),
    ([pl.DataFrame({"a": [1], "o": pl.Series([object()], dtype=pl.Object)})], "value[0].column 'o'", "Object"),
    (np.array([[1, object()]], object), "value[0, 1]", ""),
    (np.ma.masked_array([1]), "value", ""),
    (np.broadcast_to(np.zeros(1), (10**9,)), "value", "1,000,000,000 items in 8,000,000,000 bytes"),
    (np.zeros(2, [("a", "i4"), ("b", "i4"), ("c", "i4")])[["a", "c"]], "value", "packed"),
    (np.dtype("i4"), "value", ""),
    (OwnFrame({"a": [1]}), "value", ""),
    (pd.DataFrame({"a": pd.arrays.SparseArray([1, 0])}), "value.column 'a'", ""),
    (pd.Series([1], name=object()), "value.name", ""),
    (pd.date_range("2020", periods=1, tz="dateutil/Europe/Berlin"), "value.values.tz", ""),
    (pd.DataFrame(index=pd.bdate_range("2020", periods=1, freq=OWN_DAYS)), "value.index", "CustomBusinessDay"),
]


@pytest.mark.parametrize(("value", "path", "reason"), REFUSED, ids=range(len(REFUSED)))
def test_what_can_not_come_back_is_refused(value: Any, path: str, reason: str) -> None:
    """What would not come back the same is refused, naming the column or the item that is the reason."""
    with pytest.raises(ResultNotSerializable) as caught:
        encode(value)
    assert caught.value.path == path
    assert reason in "".join(getattr(caught.value, "__notes__", [""]))


# --- keys ------------------------------------------------------------------------------------------------------

TABLE = np.arange(6.0).reshape(2, 3)
OTHER_NAN = np.array([0x7FF8000000000001], "u8").view("f8")
PADDED = np.dtype([("a", "i1"), ("b", "f8")], align=True)


def dirty_padding() -> Any:
    """A zero of a padded type, with other bytes between its fields."""
    made = np.full(PADDED.itemsize, 0xFF, "u1").view(PADDED)
    made["a"], made["b"] = 0, 0
    return made


EQUAL = [
    (TABLE, np.asfortranarray(TABLE)),
    (TABLE, np.repeat(TABLE, 2, axis=1)[:, ::2]),
    (TABLE, TABLE.astype(">f8")),
    (np.array([np.nan]), OTHER_NAN),
    (np.array([complex(np.nan, 1)]), np.array([complex(OTHER_NAN[0], 1)])),
    (np.zeros(1, PADDED), dirty_padding()),
    (pd.array([1, None], dtype="Int8"), pd.arrays.IntegerArray(np.array([1, 77], "i1"), np.array([False, True]))),
    (INDEXES[-2], INDEXES[-2].remove_unused_levels()),
    (pd.DataFrame({"a": [1, 2], "b": [3, 4]}), pd.DataFrame(np.array([[1, 3], [2, 4]]), columns=["a", "b"])),
    (pl.Series([1, 2]), pl.concat([pl.Series([1]), pl.Series([2])], rechunk=False)),
    (pl.Series(["b", "a"], dtype=pl.Categorical)[1:], pl.Series(["a"], dtype=pl.Categorical)),
]


@pytest.mark.parametrize(("value", "other"), EQUAL, ids=range(len(EQUAL)))
def test_equal_values_have_one_key(value: Any, other: Any) -> None:
    """A key does not depend on order in memory, strides, byte order, padding, chunks, or which NaN it is."""
    assert canonical({"x": value}) == canonical({"x": other})


def test_different_values_have_different_keys() -> None:
    """What comes back from the journal different has another key: types, shapes, names, zones and attrs count."""
    frame = pd.DataFrame({"a": [1, 2], "b": [3, 4]})
    noted = frame.copy()
    noted.attrs = {"unit": "m"}
    days = pd.date_range("2020", periods=2, freq="D")
    values = [
        np.zeros(6),
        np.zeros((2, 3)),
        np.zeros((3, 2)),
        np.zeros(6, "f4"),
        np.zeros(6, "i8"),
        np.negative(np.zeros(6)),
        np.float64(0),
        0.0,
        np.array(["a"]),
        np.array(["a"], object),
        frame,
        noted,
        frame[["b", "a"]],
        frame.rename(columns={"a": "x"}),
        frame.astype("Int64"),
        frame.set_axis(pd.Index([0, 1], dtype="int8")),
        days,
        days.tz_localize("UTC"),
        days.tz_localize(BERLIN),
        pd.DatetimeIndex(days, freq=None),
        days.as_unit("s"),
        pl.DataFrame({"a": [1, 2], "b": [3, 4]}),
        pl.Series([1, 2]),
        pl.Series("a", [1, 2]),
        pl.Series([1, 2], dtype=pl.Int8),
    ]
    assert len({canonical(value) for value in values}) == len(values)


def test_a_large_array_has_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """An array too large to be kept can still be part of a key, as only its digest is."""
    large = np.zeros(1000)
    monkeypatch.setattr(numpy_values, "MAX_BYTES", 7999)
    with pytest.raises(ResultNotSerializable):
        encode(large)
    assert len(canonical(large)) < 100


VALUES = [*ARRAYS, *SCALARS, *INDEXES, *EXTENSION_ARRAYS, *PANDAS_SCALARS, *FRAMES, *SERIES]

PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from undertow.engine.codec import canonical, decode, encode
canonical(decode(encode([1, (2.0, {{"three"}})])))
assert sys.modules.keys().isdisjoint(("numpy", "pandas", "polars"))
print(decode(bytes.fromhex({stored!r})))
assert "numpy" in sys.modules
assert sys.modules.keys().isdisjoint(("pandas", "polars"))
import test_frames
for value in test_frames.VALUES:
    print(canonical(value).hex())
"""


@pytest.mark.real_time
def test_another_process_agrees() -> None:
    """A fresh interpreter makes the same keys, and loads a library only for a value of its own, met or read."""
    program = PROGRAM.format(tests=str(Path(__file__).parent), stored=encode(np.int64(7)).hex())
    other_seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "PYTHONHASHSEED": other_seed},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == ["7", *(canonical(value).hex() for value in VALUES)]


# --- hostile bytes ---------------------------------------------------------------------------------------------


def stored(*parts: Any) -> bytes:
    """The bytes of a frame of these parts, whatever they are."""
    return bytes(msgpack.packb(msgpack.ExtType(FRAME, msgpack.packb(parts))))


NOT_VALUES = {
    "no such library": ("pyarrow", "Table", b""),
    "no such kind": ("numpy", "memmap", "/etc/passwd"),
    "no such kind of polars": ("polars", "LazyFrame", []),
    "pointers": ("numpy", "ndarray", "|O", False, [1], b"\0" * 8),
    "objects of bytes": ("numpy", "ndarray", "object", False, [1], b"\0" * 8),
    "a type with a comma": ("numpy", "ndarray", "i4,O", False, [1], b"\0" * 12),
    "fewer bytes": ("numpy", "ndarray", "<f8", False, [10**9], b""),
    "a negative shape": ("numpy", "ndarray", "<f8", False, [-1, -1], b"\0" * 8),
    "a shape without bytes": ("numpy", "ndarray", "<U0", False, [2**40], b""),
    "fields without bytes": ("numpy", "ndarray", ["fields", False, []], False, [2**40], []),
    "a truth that is 2": ("numpy", "ndarray", "|b1", False, [1], b"\2"),
    "no character": ("numpy", "ndarray", "<U1", False, [1], b"\xff" * 4),
    "zeros for a number": ("numpy", "bytes_", 10**12),
    "periods of no array": ("pandas", "PeriodArray", 2, "Y-DEC"),
    "too few parts": ("pandas", "Interval", 1),
    "room for missing lists": ("polars", "Series", "a", ["Array", ["Array", "Int8", 60_000], 60_000], [None]),
    "a type of polars' with no end": ("polars", "Series", "a", ["Array", "Int8", 2**60], []),
    "columns of two lengths": ("polars", "DataFrame", 2, [], ()),
}


@pytest.mark.parametrize("parts", NOT_VALUES.values(), ids=NOT_VALUES)
def test_bytes_that_claim_to_be_frames(parts: Any) -> None:
    """Bytes that claim more than they hold, or what is no value, are refused before anything is made of them."""
    with pytest.raises(ResultUnreadable):
        decode(stored(*parts))


def trees(data: bytes) -> Any:
    """Written bytes as lists that can be altered: an extension is the list of a mark, its code and its content."""
    return msgpack.unpackb(
        data,
        ext_hook=lambda code, content: [trees, code, trees(content)],
        object_pairs_hook=lambda pairs: [dict, *(part for pair in pairs for part in pair)],
        strict_map_key=False,
        unicode_errors="surrogatepass",
    )


def written(tree: Any) -> bytes:
    """The bytes of an altered tree, each length in them as it has become."""
    packer = msgpack.Packer(unicode_errors="surrogatepass")
    if not isinstance(tree, list):
        return bytes(packer.pack(tree))
    if tree[:1] == [trees]:
        _, code, content = tree
        return bytes(packer.pack(msgpack.ExtType(code, written(content))))
    if tree[:1] == [dict]:
        return bytes(packer.pack_map_header((len(tree) - 1) // 2)) + b"".join(map(written, tree[1:]))
    return bytes(packer.pack_array_header(len(tree))) + b"".join(map(written, tree))


def places(tree: Any) -> Iterator[tuple[list[Any], int]]:
    """Where something can be altered: each list in a tree, with each index of something in it."""
    if isinstance(tree, list):
        skipped = 2 if tree[:1] == [trees] else 1 if tree[:1] == [dict] else 0
        for index in range(skipped, len(tree)):
            yield tree, index
            yield from places(tree[index])


TEXTS = ["", "a", "<f8", "|O8", "object", "ns", "ME", "UTC", "No/Where", "Int8", "Array", "left", "pandas"]
ODD_NUMBERS = [None, True, 0, -1, 2**31, -(2**63), 2**64 - 1, 1.5, float("nan")]
ODD = [*TEXTS, *ODD_NUMBERS, b"", b"\0" * 8, b"\xff" * 8, [], [1], [None], [[1], 2]]


def test_altered_bytes() -> None:
    """Written bytes that were altered are read as some value or refused with `ResultUnreadable`, and nothing else."""
    rng = random.Random(20260101)
    sources = [encode(value) for value in VALUES]
    refused = 0
    for _ in range(1500):
        tree = [trees(rng.choice(sources))]
        where, index = rng.choice(list(places(tree)))
        where[index] = rng.choice(ODD) if rng.random() < 0.7 else trees(rng.choice(sources))
        data = written(tree)
        try:
            decode(data)
        except ResultUnreadable:
            refused += 1
        except BaseException as error:
            raise AssertionError(f"decode({data!r})") from error
    assert 300 < refused < 1500


def test_a_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stored value of a library that is not installed is `ResultUnreadable`, naming the library."""
    data = encode(pl.Series([1]))
    monkeypatch.delitem(sys.modules, "undertow.engine.polars_values")
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ResultUnreadable, match="polars, which is not installed"):
        decode(data)


# --- in a run --------------------------------------------------------------------------------------------------


async def test_a_cached_task_of_frames(engine: Engine) -> None:
    """A cached task that is given equal frames runs once, and its frame comes back from the journal."""
    calls = []

    @task(cache_policy=INPUTS)
    async def doubled(frame: pd.DataFrame) -> pd.DataFrame:
        calls.append(len(frame))
        return frame * 2

    numbers = pd.DataFrame({"a": [1.0, np.nan]}, index=pd.date_range("2020", periods=2, freq="D"))
    first, second = await doubled(numbers), await doubled(numbers.copy())
    assert_frame_equal(first, second)
    assert second.index.freq == numbers.index.freq
    assert calls == [2]
