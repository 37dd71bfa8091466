"""The codec: what goes in comes out, equal and of the same type, or is refused with the way to it."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

import attrs
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codec_values import (
    VALUES,
    Derived,
    Failure,
    Hashed,
    HashedToo,
    Model,
    NotedPlace,
    OwnText,
    OwnZone,
    Pair,
    Place,
    Point,
    Private,
    built,
    model,
    nested,
)
from undertow import ResultNotSerializable, ResultUnreadable, register_type
from undertow.engine import codec
from undertow.engine.codec import MAX_DEPTH, canonical, decode, encode


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
