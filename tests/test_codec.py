"""The codec: what goes in comes out, equal and of the same type, and nothing else gets in."""

from __future__ import annotations

import enum
import math
from collections import namedtuple
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undertow import ResultNotSerializable, ResultUnreadable, register_type
from undertow.engine.codec import canonical, decode, encode


@dataclass
class Point:
    x: int
    y: Any


@attrs.frozen
class Pair:
    left: int
    right: Any = None


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    HIGH = 5


Spot = namedtuple("Spot", "row column")

VALUES = [
    None,
    True,
    2**100,
    -(2**64),
    math.inf,
    "\ud800",
    b"bytes",
    [1, [2]],
    (1, (2,)),
    {"a": 1, 2: 3, None: 4, b"x": 5, 1.5: 6},
    {1, 2},
    frozenset({1}),
    datetime(2026, 3, 29, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
    datetime(2026, 1, 1),
    datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    date(2026, 1, 1),
    time(1, 2, tzinfo=UTC),
    timedelta(days=-1, microseconds=3),
    UUID(int=7),
    Decimal("1.20"),
    Path("a/b"),
    PurePosixPath("/x"),
    3 + 4j,
    Point(1, {1, 2}),
    Pair(1, Point(2, (3,))),
    Colour.RED,
    Level.HIGH,
    Spot(1, 2),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back(value: Any) -> None:
    """Every kind of value that the codec knows comes back equal and of the same type."""
    back = decode(encode(value))
    assert back == value
    assert type(back) is type(value)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(PLAIN)
def test_any_nesting_comes_back(value: Any) -> None:
    """However plain values are nested, they come back as they were."""
    assert decode(encode(value)) == value


@given(st.binary(max_size=200))
def test_reading_nonsense(data: bytes) -> None:
    """Bytes that are no value are refused with `ResultUnreadable`, and with nothing else."""
    try:
        decode(data)
    except ResultUnreadable:
        return


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (object(), "value"),
        ({"k": [1, Point(1, object())]}, "value['k'][1].y"),
        ([1, {2: (3, object())}], "value[1][2][1]"),
        (Pair(1, lambda: 0), "value.right"),
    ],
)
def test_the_path_to_what_can_not_be_written(value: Any, path: str) -> None:
    """What can't be written is refused, and the message names the way to it."""
    with pytest.raises(ResultNotSerializable) as caught:
        encode(value)
    assert caught.value.path == path
    assert "register_type" in str(caught.value)


def test_a_value_that_holds_itself() -> None:
    """A list that holds itself is refused, not followed for ever."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ResultNotSerializable):
        encode(endless)


def test_a_registered_type() -> None:
    """A type that the codec was taught comes back like any other."""
    register_type(
        Fraction, "fraction", lambda value: [value.numerator, value.denominator], lambda parts: Fraction(*parts)
    )
    assert decode(encode({"half": Fraction(1, 2)})) == {"half": Fraction(1, 2)}


def test_a_class_that_is_not_loaded() -> None:
    """A recorded value whose class is not loaded is `ResultUnreadable`: reading never imports."""
    data = encode(Point(1, 2)).replace(b"Point", b"Paint")
    with pytest.raises(ResultUnreadable, match="Paint is not loaded"):
        decode(data)


def test_canonical_bytes() -> None:
    """Equal values have the same canonical bytes whatever their order, and different types have different ones."""
    assert canonical({"a": 1, "b": {3, 1, 2}}) == canonical({"b": {2, 3, 1}, "a": 1})
    assert canonical(Point(1, {"x": {1, 2}, "y": 1})) == canonical(Point(1, {"y": 1, "x": {2, 1}}))
    assert canonical(float("nan")) == canonical(-float("nan"))
    different = [1, True, 1.0, "1", b"1", [1], (1,), {1}, frozenset({1}), {1: 1}, Level.HIGH]
    assert len({canonical(value) for value in different}) == len(different)
