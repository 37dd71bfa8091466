"""The codec: what goes in comes out, equal and of the same type, and nothing else gets in."""

from __future__ import annotations

import dataclasses
import enum
import math
import os
import subprocess
import sys
import tracemalloc
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgpack
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from undertow import ResultNotSerializable, ResultUnreadable, register_type
from undertow.engine import codec
from undertow.engine.builtin_values import BYTEARRAY, SET, TUPLE
from undertow.engine.codec import INSTANCE, MAX_DEPTH, canonical, decode, encode

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


def model(**extra: Any) -> Model:
    made = Model(nr=1, **extra)
    made._seen = 7
    return made


def built(make: Callable[[], Any], **attributes: Any) -> Any:
    made = make()
    vars(made).update(attributes)
    return made


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


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back(value: Any) -> None:
    """Every kind of value that the codec knows comes back equal and of the same type."""
    back = decode(encode(value))
    assert back == value
    assert type(back) is type(value)
    assert canonical(back) == canonical(value)


def test_what_equality_does_not_see_comes_back() -> None:
    """NaN, the sign of zero, a fold, a zone's name and which fields of a model were given come back too."""
    back = decode(encode([math.nan, -0.0, {math.nan: 1}, Decimal("sNaN"), datetime(2026, 1, 1, fold=1)]))
    assert math.isnan(back[0])
    assert math.copysign(1, back[1]) == -1
    assert [math.isnan(key) for key in back[2]] == [True]
    assert back[3].is_snan()
    assert back[4].fold == 1
    assert decode(encode(timezone(timedelta(0), "Z"))).tzname(None) == "Z"
    assert decode(encode(UTC)) is UTC
    given = decode(encode(model(more=1)))
    assert given.model_fields_set == {"number", "more"}
    assert (given._seen, given.more) == (7, 1)


def test_instances_are_whole() -> None:
    """An instance has the attributes that it had beside its fields, can be hashed, and computes the rest anew."""
    value = Derived("two words")
    assert value.first is not None
    back = decode(encode(value))
    assert vars(back) == {"length": 2 + 7, "kind": None, "words": ["two", "words"]}
    for cls in (Hashed, HashedToo):
        hashed = cls("a")
        assert hash(hashed) == hash(decode(encode(hashed)))
        assert {decode(encode(hashed)): 1} == {hashed: 1}


KEYS = st.integers() | st.text() | st.binary() | st.booleans() | st.none() | st.dates() | st.tuples(st.integers())
SCALARS = KEYS | st.floats(allow_nan=False) | st.decimals(allow_nan=False) | st.uuids() | st.timedeltas()
SCALARS |= st.datetimes(timezones=st.none() | st.timezones()) | st.times() | st.complex_numbers(allow_nan=False)
ANY = st.recursive(
    SCALARS | st.sets(KEYS) | st.frozensets(KEYS),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner)
        | st.builds(Point, st.integers(), inner)
        | st.builds(Private, st.integers(), inner)
        | st.builds(Place, st.integers(), inner)
    ),
    max_leaves=10,
)


@given(ANY)
def test_any_value_comes_back(value: Any) -> None:
    """However values of all kinds are nested, they come back as they were, and have the key that they had."""
    back = decode(encode(value))
    assert back == value
    assert repr(back) == repr(value) or "{" in repr(value)
    assert canonical(back) == canonical(value)


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
        (Place(1, [object()]), "value.y[0]"),
        (model(more=object()), "value.more"),
        ({"k": {(1, object): 2}}, "value['k'] key (1, <class 'object'>)[1]"),
        ({1 << 100_000: object()}, "value[<int>]"),
        ({"k" * 100: object()}, "value['kkkkkkkkkkkk...kkkkkkkkkkkkk']"),
    ],
)
def test_the_path_to_what_can_not_be_written(value: Any, path: str) -> None:
    """What can't be written is refused, and the message names the way to it."""
    with pytest.raises(ResultNotSerializable) as caught:
        encode(value)
    assert caught.value.path == path
    assert "register_type" in str(caught.value)


class OwnText(str):
    pass


class OwnList(list[Any]):
    pass


class OwnMoment(datetime):
    pass


def local_class() -> Any:
    @attrs.frozen
    class Local:
        pass

    return Local()


REFUSED = {
    "an OrderedDict": (OrderedDict(a=1), ""),
    "a defaultdict": (defaultdict(int), ""),
    "a Counter": (Counter("a"), ""),
    "a deque": (deque([1]), ""),
    "a subclass of str": (OwnText("a"), ""),
    "a subclass of str as a key": ({OwnText("a"): 1}, ""),
    "a subclass of list": (OwnList(), ""),
    "a subclass of datetime": (OwnMoment(2026, 1, 1), ""),
    "a subclass of Decimal": (type("OwnDecimal", (Decimal,), {})(1), ""),
    "a memoryview": (memoryview(b"a"), ""),
    "a range": (range(3), ""),
    "a class": (int, ""),
    "msgpack's own timestamp": (msgpack.Timestamp(1), ""),
    "a zone of one's own": (datetime(2026, 1, 1, tzinfo=OwnZone()), "its time zone is"),
    "an exception with fields": (Failure("x"), "derives from Exception"),
    "a local class": (local_class(), "made inside a function"),
    "a class that is not in its module": (attrs.make_class("Nowhere", ["x"])(1), "not to be found as"),
    "a field that is not set": (object.__new__(Pair), "'left' is not set"),
    "a named tuple with more": (built(lambda: NotedPlace(1), more=2), "attributes that are no items"),
    "a model without a field": (Model.model_construct(note="a"), "'number' is not set"),
}


@pytest.mark.parametrize(("value", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_would_come_back_as_something_else(value: Any, reason: str) -> None:
    """What would come back as another type, or not at all, is refused when it is written, with the reason if any."""
    with pytest.raises(ResultNotSerializable) as caught:
        encode(value)
    assert reason in "".join(getattr(caught.value, "__notes__", [""]))
    with pytest.raises(ResultNotSerializable):
        canonical(value)


def nested(value: Any, depth: int, wrap: Callable[[Any], Any]) -> Any:
    for _ in range(depth):
        value = wrap(value)
    return value


WRAPS: dict[str, Callable[[Any], Any]] = {
    "list": lambda value: [value],
    "dict": lambda value: {"k": value},
    "tuple": lambda value: (value,),
    "attrs": Pair,
    "set": lambda value: frozenset({value}),
    "registered": lambda value: Own(value),
}


@attrs.define
class Own:
    """A registered type: what it was registered with comes before what it is."""

    value: Any


register_type(Own, "own", lambda own: own.value, Own)


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_the_limit_on_nesting(wrap: Callable[[Any], Any]) -> None:
    """What is nested as deep as may be comes back, an int of any size innermost; one level more is refused at once."""
    for innermost in (1, 2**100):
        deep = nested(innermost, MAX_DEPTH, wrap)
        data = encode(deep)
        assert encode(decode(data)) == data
        canonical(deep)
        for write in (encode, canonical):
            with pytest.raises(ResultNotSerializable) as caught:
                write(wrap(deep))
            assert caught.value.path == "value"
            assert "nested more than 100 deep" in caught.value.__notes__[0]


def test_a_value_that_holds_itself() -> None:
    """A list or a map that holds itself is refused, not followed for ever."""
    endless: list[Any] = []
    endless.append(endless)
    around: dict[str, Any] = {}
    around["self"] = [(around,)]
    for value in (endless, around, Point(1, endless)):
        for write in (encode, canonical):
            with pytest.raises(ResultNotSerializable):
                write(value)


def test_few_values_that_stand_for_many() -> None:
    """A value whose parts are shared, so that written out it has no end, is refused for the number of its items."""
    many: list[Any] = [None] * 10
    for _ in range(50):
        many = [many, many]
    with pytest.raises(ResultNotSerializable) as caught:
        encode({"many": many})
    assert "more than 4,000,000 items" in caught.value.__notes__[0]


def test_the_limits_on_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is too large to be read is refused when it is written, and says so."""
    monkeypatch.setattr(codec, "MAX_BYTES", 1000)
    monkeypatch.setattr(codec, "MAX_ITEMS", 100)
    monkeypatch.setattr(codec, "MAX_NESTED_BYTES", 2000)
    monkeypatch.setattr(codec, "_SMALL_LENGTH", 5)
    assert decode(encode([None] * 100)) == [None] * 100
    assert decode(encode([[None] * 9] * 10)) == [[None] * 9] * 10
    assert decode(encode("x" * 997)) == "x" * 997
    assert decode(encode(((("x" * 480,),),))) == ((("x" * 480,),),)
    for value, reason in (
        ([None] * 101, "more than 100 items"),
        ([1, [[None] * 10] * 10], "more than 100 items"),
        ({"a": "x" * 1000}, "it takes 1,006 bytes, more than 1,000"),
        (Point(1, ((("x" * 900,),),)), "bytes, too many at 4 levels down"),
    ):
        with pytest.raises(ResultNotSerializable) as caught:
            encode(value)
        assert reason in caught.value.__notes__[0]
        canonical(value)
    for data in (b"\xc0" * 1001, b"\xdc\x00\x65" + b"\xc0" * 101, b"\x92" + 2 * (b"\xdc\x00\x33" + b"\xc0" * 51)):
        with pytest.raises(ResultUnreadable, match=r"bytes|items|max_array_len"):
            decode(data)


def test_a_registered_type() -> None:
    """A type that the codec was taught comes back like any other."""
    register_type(
        Fraction, "fraction", lambda value: [value.numerator, value.denominator], lambda parts: Fraction(*parts)
    )
    assert decode(encode({"half": Fraction(1, 2)})) == {"half": Fraction(1, 2)}


def test_a_registered_type_that_fails() -> None:
    """An error of a registered function is the codec's own kind of error, with that one's text."""

    def fail(value: Any) -> Any:
        raise KeyError("no such part")

    register_type(Fraction, "fraction", fail, fail)
    with pytest.raises(ResultNotSerializable) as caught:
        encode([Fraction(1, 2)])
    assert caught.value.path == "value[0]"
    assert "KeyError: 'no such part'" in caught.value.__notes__[0]
    register_type(Fraction, "fraction", str, fail)
    with pytest.raises(ResultUnreadable, match="KeyError"):
        decode(encode(Fraction(1, 2)))


def test_a_class_that_is_not_loaded() -> None:
    """A recorded value whose class is not loaded is `ResultUnreadable`: reading never imports."""
    data = encode(Point(1, 2)).replace(b"Point", b"Paint")
    with pytest.raises(ResultUnreadable, match="Paint is not loaded"):
        decode(data)


def stored(code: int, *parts: Any) -> bytes:
    """The bytes of an extension of these parts, whatever they are."""
    return bytes(msgpack.packb(msgpack.ExtType(code, msgpack.packb(list(parts)))))


def test_a_class_that_was_changed() -> None:
    """A recorded instance whose class has other fields by now is `ResultUnreadable`, naming them."""
    with pytest.raises(ResultUnreadable, match=r"Point no longer has the fields recorded: y, z"):
        decode(stored(INSTANCE, __name__, "Point", None, "x", 1, "z", 2))
    with pytest.raises(ResultUnreadable, match="Spot no longer has the fields recorded"):
        decode(stored(INSTANCE, __name__, "Spot", 1))
    with pytest.raises(ResultUnreadable, match="Model no longer has the fields recorded: note"):
        decode(stored(INSTANCE, __name__, "Model", [], None, None, "number", 1))
    with pytest.raises(ResultUnreadable, match="are no map"):
        decode(stored(INSTANCE, __name__, "Model", [], "x", None, "number", 1, "note", ""))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "object"),
        ("subprocess", "Popen"),
        ("collections", "OrderedDict"),
        (__name__, "Point.__init__"),
        (__name__, "Path"),
        (__name__, "OwnText"),
        ("no_such_module", "Point"),
        (1, "Point"),
    ],
)
def test_bytes_that_name_another_class(module: Any, name: str) -> None:
    """Bytes can only name enums, named tuples, attrs classes, dataclasses and models, by their own names."""
    with pytest.raises(ResultUnreadable):
        decode(stored(INSTANCE, module, name, None, "x", 1))


def test_reading_asks_no_module_for_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that imports what it is asked for is not asked."""
    asked = []
    lazy = ModuleType("lazy")
    lazy.__getattr__ = asked.append  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "lazy", lazy)
    with pytest.raises(ResultUnreadable, match=r"lazy\.Point is not loaded"):
        decode(stored(INSTANCE, "lazy", "Point", None))
    assert asked == []


def array_of(count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big")


def wrapped(data: bytes, code: int, depth: int) -> bytes:
    return nested(data, depth, lambda inner: bytes(msgpack.packb(msgpack.ExtType(code, inner))))


BOMBS = {
    "a length and nothing else": array_of(2**32 - 1),
    "lengths in lengths": array_of(2**32 - 1) * 1000,
    "lengths in lengths, with something in them": array_of(2**20) * 1000 + b"\0" * 2**20,
    "lists in lists": b"\x91" * 100_000 + b"\0",
    "extensions in extensions": wrapped(b"\x90", TUPLE, 200),
    "large extensions in extensions": wrapped(msgpack.packb(b"x" * 10_000_000), SET, 60),
    "a bytearray of a number": bytes(msgpack.packb(msgpack.ExtType(BYTEARRAY, msgpack.packb(2**40)))),
    "more items than may be": array_of(codec.MAX_ITEMS + 1) + b"\x90" * (codec.MAX_ITEMS + 1),
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_bytes_that_claim_more_than_they_hold(data: bytes) -> None:
    """Bytes made to fill the memory are refused before they do."""
    tracemalloc.start()
    try:
        with pytest.raises(ResultUnreadable):
            decode(data)
        assert tracemalloc.get_traced_memory()[1] < 300 * 2**20
    finally:
        tracemalloc.stop()


@given(st.data())
def test_altered_bytes(data: st.DataObject) -> None:
    """Written bytes that were altered are read as some value, or refused with `ResultUnreadable`."""
    altered = bytearray(encode(data.draw(st.sampled_from(VALUES[:30]))))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(altered) - 1))
        altered[place] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(altered))
    except ResultUnreadable:
        return


def test_canonical_bytes() -> None:
    """Equal values have the same canonical bytes whatever their order, and different types have different ones."""
    assert canonical({"a": 1, "b": {3, 1, 2}}) == canonical({"b": {2, 3, 1}, "a": 1})
    assert canonical(Point(1, {"x": {1, 2}, "y": 1})) == canonical(Point(1, {"y": 1, "x": {2, 1}}))
    assert canonical(float("nan")) == canonical(-float("nan"))
    different = [1, True, 1.0, "1", b"1", [1], (1,), {1}, frozenset({1}), {1: 1}, Level.HIGH]
    assert len({canonical(value) for value in different}) == len(different)


def test_keys_of_what_is_not_compared() -> None:
    """A field that equality leaves out is no part of a key, unless the class compares by identity."""
    assert canonical(Private(1, note=2)) == canonical(Private(1, note=object()))
    assert canonical(Slotted(1, hidden=2)) == canonical(Slotted(1, hidden=3))
    assert canonical(Handle(1)) != canonical(Handle(2))
    assert canonical(Model(nr=1)) == canonical(Model(nr=1, note=""))
    assert canonical(model(more=1)) != canonical(model(more=2))


def test_keys_of_many_nans() -> None:
    """Maps and sets with several NaNs have one key in whatever order they were filled."""
    first, second = math.nan, -math.nan
    assert canonical({first: 1, second: 2}) == canonical({second: 2, first: 1})
    assert canonical({first: 2, second: 1}) == canonical({first: 1, second: 2})
    assert canonical({first, second, 1}) == canonical({1, second, first})


PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
import test_codec
for value in test_codec.VALUES:
    print(test_codec.canonical(value).hex())
"""


@pytest.mark.real_time
def test_processes_agree_on_keys() -> None:
    """Two fresh interpreters with different seeds for hashes make the same keys."""
    program = PROGRAM.format(tests=str(Path(__file__).parent))
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    first, second = (process.communicate()[0].splitlines() for process in started)
    assert len(first) == len(VALUES)
    assert first == second
