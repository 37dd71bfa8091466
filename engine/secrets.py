"""Secrets: values that a body is given and that nobody else sees.

What is wrapped in `Secret` shows as `***` wherever it is put into words, and can't be written down: the codec and
pickle refuse it. What is not wrapped, but has a telling name such as `api_key`, is hidden where a flow's parameters
are recorded; that is a net, and no promise.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Generic, NoReturn, TypeVar, get_args, get_origin

from .codec import register_type
from .errors import UndertowError

T = TypeVar("T")

HIDDEN = "***"

_TELLING = (
    r"(?:pass(?:word|wd|phrase|code)|pwd|secrets?|token|credentials?|authorization|auth|cookie|"
    r"(?:api|access|private|secret|signing|encryption)[-_]?key)"
)
_NAME = re.compile(rf"(?:.*[^a-z])?{_TELLING}", re.DOTALL)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_IN_REPR = re.compile(rf"(?i)((?:\b|_|(?<=[a-z])){_TELLING}=)(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^,)\s]+)")


class Secret(Generic[T]):
    """A value that is given to the body of a run and never written down: `Secret("...")`, and `.reveal()` there.

    A flow whose parameter is annotated `Secret[str]` may be called with the plain text: it is wrapped at once.
    """

    __slots__ = ("_value",)

    def __init__(self, value: T | Secret[T]) -> None:
        plain: Any = value.reveal() if isinstance(value, Secret) else value
        self._value: T = plain

    def reveal(self) -> T:
        """The value itself. What becomes of it from here on is the caller's affair."""
        return self._value

    def __repr__(self) -> str:
        return HIDDEN

    def __format__(self, spec: str) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._value)

    def __copy__(self) -> Secret[T]:
        return self

    def __deepcopy__(self, memo: object) -> Secret[T]:
        return self

    def __reduce__(self) -> NoReturn:
        refuse(self)


class SecretNotRecordable(UndertowError, TypeError):
    """A durable flow was given a secret, which its record would have to hold."""

    def __init__(self, flow: str, parameter: str) -> None:
        super().__init__(
            f"Parameter {parameter!r} of durable flow {flow!r} is a Secret, and what a durable flow is started with is "
            "written to the journal, so that it can be resumed. Read the secret inside the flow, from the environment "
            "or a vault, and pass what it is called there."
        )


def refuse(value: object) -> NoReturn:
    """Don't write a secret down."""
    raise TypeError("a Secret is never written down; keep it where it came from, and pass what it is called there")


register_type(Secret, "undertow.Secret", refuse, refuse)


def refuse_secrets(flow: str, parameters: Mapping[str, Any]) -> None:
    """Raise `SecretNotRecordable` where one of a durable flow's parameters is a secret."""
    for name, value in parameters.items():
        if isinstance(value, Secret):
            raise SecretNotRecordable(flow, name)


def secret_type(hint: Any) -> Any:
    """The part of an annotation that asks for a secret: `Secret[str]` of `Secret[str] | None`; `None`: it asks not."""
    options = get_args(hint) if get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return next((option for option in options if option is Secret or get_origin(option) is Secret), None)


# --- hiding ------------------------------------------------------------------------------------------------------


def is_telling(name: object) -> bool:
    """Whether a name says that its value is not to be seen: `password`, `github_token`, `X-Api-Key`, `dbPassword`."""
    return isinstance(name, str) and _NAME.fullmatch(_HUMP.sub("_", name).lower()) is not None


def shown(name: object, value: Any) -> Any:
    """The value under this name, as it may be seen: what is secret in it, at any depth, is hidden."""
    if isinstance(value, Secret) or (value is not None and is_telling(name)):
        return HIDDEN
    if isinstance(value, dict):
        return {key: shown(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple) and not _SCALARS.issuperset(map(type, value)):
        return [shown(None, item) for item in value]
    return value


def hide_in_repr(text: str) -> str:
    """The `repr` of an object, without the values of its telling fields."""
    return _IN_REPR.sub(rf"\1{HIDDEN}", text)


_SCALARS = frozenset({type(None), bool, int, float, str, bytes})
