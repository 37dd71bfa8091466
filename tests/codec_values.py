"""Values of every kind that the codec knows, and the classes that they are made of."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections import namedtuple
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgpack
import pydantic

from undertow.engine.builtin_values import TUPLE

T = TypeVar("T")


@dataclasses.dataclass
class Point:
    x: int
    y: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    x: int
    hidden: Any = dataclasses.field(default=None, compare=False)


@dataclasses.dataclass
class Derived:
    """Its `__init__` takes something else than its fields, and sets more than them."""

    text: dataclasses.InitVar[str]
    length: int = dataclasses.field(init=False)
    kind: Any = None

    def __post_init__(self, text: str) -> None:
        self.length = len(text)
        self.words = text.split()

    @cached_property
    def first(self) -> Any:
        return object()


@dataclasses.dataclass
class Box(Generic[T]):
    item: T


@attrs.frozen
class Pair:
    left: int
    right: Any = None


@attrs.define
class Private:
    _secret: int = attrs.field(alias="code")
    note: Any = attrs.field(default=None, eq=False)


@attrs.frozen(cache_hash=True)
class Hashed:
    name: str


@attrs.frozen(cache_hash=True, slots=False)
class HashedToo:
    name: str


@attrs.define(eq=False)
class Handle:
    number: int


@attrs.define
class Failure(Exception):
    reason: str


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")

    number: int = pydantic.Field(alias="nr")
    note: str = ""
    _seen: int = pydantic.PrivateAttr(default=0)


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


class Colour(enum.Enum):
    RED = 1
    CRIMSON = 1


class Level(enum.IntEnum):
    HIGH = 5


class Word(enum.StrEnum):
    YES = "yes"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


Spot = namedtuple("Spot", "row column")


class Place(NamedTuple):
    x: int
    y: Any = None


class NotedPlace(Place):
    """Has a `__dict__`, unlike its base."""


class Outer:
    @attrs.frozen
    class Inner:
        x: int


class OwnZone(tzinfo):
    def utcoffset(self, when: Any) -> timedelta:
        return timedelta(hours=1)


class OwnText(str):
    pass


def model(**extra: Any) -> Model:
    made = Model(nr=1, **extra)
    made._seen = 7
    return made


def built(make: Callable[[], Any], **attributes: Any) -> Any:
    made = make()
    vars(made).update(attributes)
    return made


def nested(value: Any, depth: int, wrap: Callable[[Any], Any]) -> Any:
    for _ in range(depth):
        value = wrap(value)
    return value


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
    0,
    2**63 - 1,
    2**64 - 1,
    2**64,
    -(2**63),
    -(2**63) - 1,
    1 << 10_000,
    bytearray(b"bytes"),
    {(1, 2): 3, frozenset({4}): 5, Level.HIGH: 6, date(2026, 1, 1): 7},
    ZoneInfo("Europe/Berlin"),
    timezone(timedelta(hours=1), "CET"),
    time(2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
    datetime(2026, 1, 1, fold=1),
    datetime.max.replace(tzinfo=timezone(-timedelta(hours=23, microseconds=1))),
    Decimal("-0"),
    Decimal("1E+100"),
    PureWindowsPath("c:/x"),
    Path("\udcff"),
    Slotted(1, hidden=[2]),
    Derived("two words", kind=(1,)),
    Box[int](3),
    Private(code=4, note={5}),
    Hashed("a"),
    HashedToo("a"),
    Outer.Inner(1),
    Word.YES,
    Colour.CRIMSON,
    Access.READ,
    Access.READ | Access.WRITE,
    Access(0),
    Place(1, (2,)),
    NotedPlace(1),
    model(more=[1, (2,)]),
    Page[int](items=[1]),
    msgpack.ExtType(TUPLE, b"\x90"),
    [Point(1, [Pair(2, {"k": Model(nr=3)})])],
]
