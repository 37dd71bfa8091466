"""A flow's parameters: checked against the annotations before the body runs, and put down as JSON for the journal."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, get_args, get_origin
from weakref import WeakKeyDictionary

from .arguments import allow_failure, quote
from .errors import ParameterInvalid
from .futures import Future
from .secrets import Secret, hide_in_repr, is_telling, secret_type, shown
from .states import State

REPR_LENGTH = 1000
"""What JSON can't say is written as its `repr`, cut to so many characters."""

JSON_LENGTH = 64 * 1024


def as_json(parameters: Mapping[str, Any]) -> str:
    """The parameters as one JSON object; what JSON can't say becomes its `repr`, cut to `REPR_LENGTH`.

    What is secret, or has a name that says so, is hidden.
    """
    seen = {name: _seen(name, value) for name, value in parameters.items()}
    text = json.dumps({name: _plain(value) for name, value in seen.items()})
    if len(text) <= JSON_LENGTH:
        return text
    return json.dumps({name: _short_repr(value) for name, value in seen.items()})


def _seen(name: str, value: Any) -> Any:
    try:
        return shown(name, value)
    except RecursionError:
        return _short_repr(value)  # it holds itself


def _plain(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
        return value
    except (TypeError, ValueError, RecursionError):
        return _short_repr(value)


def _short_repr(value: object) -> str:
    try:
        return hide_in_repr(repr(value))[:REPR_LENGTH]
    except Exception as error:
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"


def validate(flow: str, fn: Callable[..., Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, converted where the annotation asks for it. Raises `ParameterInvalid`.

    A value that is an instance of its annotated class passes as it is. Others go through pydantic where the program
    has imported it; without it, a plain class is required and anything more elaborate is let through.
    """
    hints, kinds = _annotations(fn)
    if not hints.keys() & parameters.keys():
        return dict(parameters)
    valid = dict(parameters)
    for name, value in parameters.items():
        if name not in hints:
            continue
        if kinds[name] is inspect.Parameter.VAR_POSITIONAL:
            valid[name] = tuple(checked(flow, name, item, hints[name]) for item in value)
        elif kinds[name] is inspect.Parameter.VAR_KEYWORD:
            valid[name] = {key: checked(flow, key, item, hints[name]) for key, item in value.items()}
        else:
            valid[name] = checked(flow, name, value, hints[name])
    return valid


Annotations: TypeAlias = "tuple[dict[str, Any], dict[str, Any]]"

_known: WeakKeyDictionary[Callable[..., Any], Annotations] = WeakKeyDictionary()


def _annotations(fn: Callable[..., Any]) -> Annotations:
    """The types that a function's parameters are to have, and the kinds of parameters; looked up once."""
    plain = isinstance(fn, types.FunctionType)
    known = _known.get(fn) if plain else None
    if known is None:
        try:
            hints = typing.get_type_hints(fn)
        except (NameError, TypeError, AttributeError):
            return {}, {}  # an annotation that can't be evaluated here, or not yet, checks nothing
        known = hints, {name: parameter.kind for name, parameter in inspect.signature(fn).parameters.items()}
        if plain:
            _known[fn] = known
    return known


def checked(flow: str, name: str, value: Any, hint: Any) -> Any:
    """One value, converted where its annotation asks for it. Raises `ParameterInvalid`."""
    secret = secret_type(hint)
    if secret is not None and not (value is None and _fits(None, hint)):
        return _checked_secret(flow, name, Secret(value), secret)
    if _fits(value, hint):
        return value
    if "pydantic" in sys.modules:
        pydantic = importlib.import_module("pydantic")
        config = None if _is_model(hint) else pydantic.ConfigDict(arbitrary_types_allowed=True)
        try:
            return pydantic.TypeAdapter(hint, config=config).validate_python(value)
        except pydantic.ValidationError as error:
            told = "" if is_telling(name) else error.errors()[0]["msg"]
            raise ParameterInvalid(flow, name, _named(name, value), _shown(hint), told) from None
        except pydantic.errors.PydanticUserError:
            return value
    if _is_checkable(hint):
        raise ParameterInvalid(flow, name, _named(name, value), _shown(hint))
    return value


def _named(name: str, value: Any) -> Any:
    """The value as an error may speak of it."""
    return Secret(value) if is_telling(name) else value


def _checked_secret(flow: str, name: str, value: Secret[Any], hint: Any) -> Secret[Any]:
    for wanted in get_args(hint):
        try:
            return Secret(checked(flow, name, value.reveal(), wanted))
        except ParameterInvalid:
            raise ParameterInvalid(flow, name, value, _shown(wanted)) from None
    return value


def sealed(
    fn: Callable[..., Any], signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """The arguments of a call, those wrapped whose annotation says that they are secret.

    Done at the call, before anything is said or written about it. What is a future is wrapped when it is resolved.
    """
    hints, kinds = _annotations(fn)
    secret = {name for name, hint in hints.items() if name in kinds and secret_type(hint) is not None}
    if not secret:
        return args, kwargs
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError:
        return args, kwargs  # the call is refused anyway
    for name in secret & bound.arguments.keys():
        value = bound.arguments[name]
        if kinds[name] is inspect.Parameter.VAR_POSITIONAL:
            value = tuple(map(_sealed, value))
        elif kinds[name] is inspect.Parameter.VAR_KEYWORD:
            value = {key: _sealed(item) for key, item in value.items()}
        else:
            value = _sealed(value)
        bound.arguments[name] = value
    return bound.args, bound.kwargs


def _sealed(value: Any) -> Any:
    return value if isinstance(value, type(None) | Secret | Future | State | allow_failure | quote) else Secret(value)


def _is_model(hint: Any) -> bool:
    return hasattr(hint, "__pydantic_fields__") or hasattr(hint, "__dataclass_fields__")


def _is_checkable(hint: Any) -> bool:
    return isinstance(hint, type) and not getattr(hint, "_is_protocol", False)


def _fits(value: Any, hint: Any) -> bool:
    """Whether it is certain, without looking inside containers, that the value is what the annotation says."""
    if hint is Any or hint is object:
        return True
    if hint is None or hint is type(None):
        return value is None
    origin = get_origin(hint)
    if origin is typing.Union or origin is types.UnionType:
        return any(_fits(value, option) for option in get_args(hint))
    if origin is not None or not _is_checkable(hint):
        return False
    if hint is float and isinstance(value, int):
        return True
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


def _shown(hint: Any) -> str:
    return getattr(hint, "__name__", str(hint))
