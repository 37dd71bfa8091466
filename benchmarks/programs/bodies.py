"""The bodies of the tasks, the same for every engine.

Standard library alone, because every engine has an environment of its own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

NAP_SECONDS = 0.1
"""How long a sleeping task sleeps."""

NAPS_AT_ONCE = 100
"""How many sleep at a time where that is limited."""

IN_FLIGHT = 100
"""How many tasks of a stream are on their way at a time."""

LARGE_IN_FLIGHT = 10
"""How many large results are held at a time."""


def incremented(x: int) -> int:
    return x + 1


def kilobyte(i: int) -> bytes:
    return bytes(1_000)


def large(i: int) -> bytes:
    return bytes([i % 256]) * 100_000


def failing_once(marker: str) -> int:
    """Fail, if the marker ends in 0, when it is met for the first time; a file tells, so that any process knows."""
    if marker.endswith("0"):
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return 1
        raise ConnectionError("the line was busy")
    return 1


def summed(xs: Sequence[int]) -> int:
    return sum(xs)
