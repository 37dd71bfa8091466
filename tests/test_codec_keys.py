"""Canonical bytes: one key for equal values, in every process."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.codec_values import VALUES, Handle, Level, Model, Point, Private, Slotted, model
from undertow.engine.codec import canonical


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
from codec_values import VALUES
from undertow.engine.codec import canonical
for value in VALUES:
    print(canonical(value).hex())
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
