"""Reading what the codec may not have written: nothing gets in, and nothing is loaded, run or filled up by it."""

from __future__ import annotations

import sys
import tracemalloc
from types import ModuleType
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.codec_values import VALUES, Point, nested
from undertow import ResultUnreadable
from undertow.engine import codec
from undertow.engine.builtin_values import BYTEARRAY, SET, TUPLE
from undertow.engine.codec import INSTANCE, decode, encode

HERE = Point.__module__
"""Where the classes are that bytes may name."""


@given(st.binary(max_size=200))
def test_reading_nonsense(data: bytes) -> None:
    """Bytes that are no value are refused with `ResultUnreadable`, and with nothing else."""
    try:
        decode(data)
    except ResultUnreadable:
        return


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
        decode(stored(INSTANCE, HERE, "Point", None, "x", 1, "z", 2))
    with pytest.raises(ResultUnreadable, match="Spot no longer has the fields recorded"):
        decode(stored(INSTANCE, HERE, "Spot", 1))
    with pytest.raises(ResultUnreadable, match="Model no longer has the fields recorded: note"):
        decode(stored(INSTANCE, HERE, "Model", [], None, None, "number", 1))
    with pytest.raises(ResultUnreadable, match="are no map"):
        decode(stored(INSTANCE, HERE, "Model", [], "x", None, "number", 1, "note", ""))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "object"),
        ("subprocess", "Popen"),
        ("collections", "OrderedDict"),
        (HERE, "Point.__init__"),
        (HERE, "Path"),
        (HERE, "OwnText"),
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
