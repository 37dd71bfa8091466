"""Names that are made of a call's arguments: those of runs, and the keys of steps in a durable flow."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from .errors import InvalidOption

NameMaker: TypeAlias = str | Callable[..., str]
"""A template over the arguments, or a function of those that it names."""


def check_maker(option: str, maker: object) -> None:
    """Refuse what can't make a name."""
    if maker is not None and not isinstance(maker, str) and not callable(maker):
        raise InvalidOption(option, maker, "a template such as 'load {path}', or a function")


def made(option: str, maker: NameMaker, called: str, bound: Mapping[str, Any]) -> str:
    """The name that a call of `called` with these arguments is given. Raises `InvalidOption`."""
    if isinstance(maker, str):
        try:
            return maker.format(**bound)
        except (LookupError, ValueError, AttributeError) as error:
            names = ", ".join("{" + name + "}" for name in bound) or f"nothing: {called} has no parameters"
            raise InvalidOption(option, maker, f"a template over {names} ({error!r})") from None
    wanted = inspect.signature(maker).parameters
    name = maker(**{key: value for key, value in bound.items() if key in wanted})
    if not isinstance(name, str):
        raise InvalidOption(option, name, "a function that returns a text")
    return name
