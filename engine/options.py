"""Checks of what is given as an option, shared by decorators, engines and calls. Each raises `InvalidOption`."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Collection

from .errors import InvalidOption

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_id(option: str, value: object) -> None:
    """Refuse what can't identify a run, or a signal."""
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise InvalidOption(option, value, "1 to 128 letters, digits, '.', '_' or '-', the first a letter or digit")


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
