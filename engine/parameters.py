"""A flow's parameters: checked against the annotations before the body runs, and put down as JSON for the journal."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, get_args, get_origin
from weakref import WeakKeyDictionary

from .errors import ParameterInvalid

REPR_LENGTH = 1000
"""What JSON can't say is written as its `repr`, cut to so many characters."""

JSON_LENGTH = 64 * 1024


def as_json(parameters: Mapping[str, Any]) -> str:
    """The parameters as one JSON object; what JSON can't say becomes its `repr`, cut to `REPR_LENGTH`."""
    text = json.dumps({name: _plain(value) for name, value in parameters.items()})
    if len(text) <= JSON_LENGTH:
        return text
    return json.dumps({name: _short_repr(value) for name, value in parameters.items()})


def _plain(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
        return value
    except (TypeError, ValueError, RecursionError):
        return _short_repr(value)


def _short_repr(value: object) -> str:
    try:
        return repr(value)[:REPR_LENGTH]
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
    checked = dict(parameters)
    for name, value in parameters.items():
        if name not in hints:
            continue
        if kinds[name] is inspect.Parameter.VAR_POSITIONAL:
            checked[name] = tuple(_checked(flow, name, item, hints[name]) for item in value)
        elif kinds[name] is inspect.Parameter.VAR_KEYWORD:
            checked[name] = {key: _checked(flow, key, item, hints[name]) for key, item in value.items()}
        else:
            checked[name] = _checked(flow, name, value, hints[name])
    return checked


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


def _checked(flow: str, name: str, value: Any, hint: Any) -> Any:
    if _fits(value, hint):
        return value
    if "pydantic" in sys.modules:
        pydantic = importlib.import_module("pydantic")
        config = None if _is_model(hint) else pydantic.ConfigDict(arbitrary_types_allowed=True)
        try:
            return pydantic.TypeAdapter(hint, config=config).validate_python(value)
        except pydantic.ValidationError as error:
            raise ParameterInvalid(flow, name, value, _shown(hint), error.errors()[0]["msg"]) from None
        except pydantic.errors.PydanticUserError:
            return value
    if _is_checkable(hint):
        raise ParameterInvalid(flow, name, value, _shown(hint))
    return value


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
