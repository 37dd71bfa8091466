"""Checks of what is given as an option, shared by decorators, engines and calls. Each raises `InvalidOption`."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection

from .errors import InvalidOption


def check_flag(option: str, value: object) -> None:
    """Refuse what is neither a boolean nor `None`."""
    if value is not None and not isinstance(value, bool):
        raise InvalidOption(option, value, "True or False")


def check_one_of(option: str, value: object, known: Collection[str]) -> None:
    """Refuse what is none of these words."""
    if not isinstance(value, str) or value not in known:
        raise InvalidOption(option, value, f"one of {', '.join(map(repr, known))}")


def is_number(value: object) -> bool:
    """Whether it is a number that counts something: no boolean, not NaN, and not too big for a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max or value in (math.inf, -math.inf)
