"""Arguments: checked against the signature at the call, searched for futures, resolved before the body, mapped over.

A future anywhere inside an argument is an edge of the graph. Containers are searched to any depth, scalars cost
almost nothing, and a program that never made a future pays for no search at all.
"""

from __future__ import annotations

import copy
import inspect
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import attrs

from .errors import ArgumentsTooDeep, MappingLengthMismatch, MappingMissingIterable, SignatureMismatch, WouldBlock
from .futures import Future, deliver
from .gathering import FutureList
from .run import Handles
from .states import State
from .waking import in_event_loop

T = TypeVar("T")

SEARCH_BUDGET = 10_000
_SCALARS = frozenset({int, str, float, bool, bytes, type(None), complex})


@attrs.frozen
class unmapped(Generic[T]):
    """`map(xs, unmapped(v))` gives `v` to every call as it is."""

    value: T


@attrs.frozen
class allow_failure(Generic[T]):
    """Let a failed upstream through: the exception is passed in place of the result."""

    value: T


@attrs.frozen
class quote(Generic[T]):
    """Pass a value without searching it for futures; the body gets the bare value."""

    value: T


# --- the signature ---------------------------------------------------------------------------------------------


class Signature:
    """A function's signature, with a quick test for the ordinary call."""

    __slots__ = ("_at_least", "_at_most", "_name", "signature")

    def __init__(self, fn: Callable[..., Any], name: str) -> None:
        self._name = name
        self.signature = inspect.signature(fn)
        parameters = self.signature.parameters.values()
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        required = sum(p.default is p.empty for p in positional)
        keyword_needed = any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters)
        open_ended = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        # A call with positional arguments alone fits when their number does.
        self._at_least = 1 << 30 if keyword_needed else required
        self._at_most = 1 << 30 if open_ended else len(positional)

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise `SignatureMismatch` if the call doesn't fit."""
        if kwargs or not self._at_least <= len(args) <= self._at_most:
            self.bind(args, kwargs)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name, defaults included. Raises `SignatureMismatch`."""
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise SignatureMismatch(self._name, self.signature, str(error)) from None
        bound.apply_defaults()
        return bound.arguments


# --- futures inside arguments ----------------------------------------------------------------------------------


Upstream: TypeAlias = Future[Any] | State[Any]


def need_search(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether arguments need to be searched at all; scalars, the ordinary case, don't."""
    for value in args:
        if type(value) not in _SCALARS:
            return True
    return bool(kwargs)


def find_upstreams(name: str, *trees: object) -> list[tuple[Upstream, bool]]:
    """The futures and states in some values, each once, and whether its failure is allowed.

    Raises `ArgumentsTooDeep` when there are too many containers to look into.
    """
    if not Handles.made:
        return []
    found: dict[int, tuple[Upstream, bool]] = {}
    seen: set[tuple[int, bool]] = set()
    budget = SEARCH_BUDGET
    pending: list[tuple[object, bool]] = [(tree, False) for tree in trees]
    while pending:
        value, allowed = pending.pop()
        if isinstance(value, Future | State):
            # By identity, for as long as the values are alive here: states are equal when they look the same.
            found[id(value)] = (value, allowed and (id(value) not in found or found[id(value)][1]))
            continue
        if isinstance(value, allow_failure):
            pending.append((value.value, True))
            continue
        parts = None if (id(value), allowed) in seen else _parts(value)
        if parts is not None:
            seen.add((id(value), allowed))  # so that what holds itself is searched once
            budget -= 1
            if budget < 0:
                raise ArgumentsTooDeep(name, SEARCH_BUDGET)
            pending.extend((part, allowed) for part in parts if type(part) not in _SCALARS)
    return list(reversed(found.values()))


def unwrapped(value: Any) -> Any:
    """What stands in `quote(...)` or `allow_failure(...)`, and any other value as it is."""
    return value.value if isinstance(value, quote | allow_failure) else value


def state_of(upstream: Upstream) -> State[Any]:
    """The state of an upstream now."""
    return upstream if isinstance(upstream, State) else upstream.state


def _parts(value: object) -> Iterator[object] | Sequence[object] | None:
    """What a container holds; `None` for what is not searched."""
    if isinstance(value, list | tuple | set | frozenset | FutureList):
        return value  # type: ignore[return-value]
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, type | quote):
        return None
    names = field_names(type(value))
    return None if names is None else [getattr(value, name, None) for name in names]


def field_names(cls: type) -> tuple[str, ...] | None:
    """The fields of a dataclass, an attrs class or a pydantic model; `None` for any other class."""
    for attribute in ("__dataclass_fields__", "__pydantic_fields__"):
        fields = getattr(cls, attribute, None)
        if isinstance(fields, dict):
            return tuple(fields)
    return tuple(field.name for field in attrs.fields(cls)) if attrs.has(cls) else None


def resolve(value: Any, replace: Callable[[Any], Any]) -> Any:
    """The value with every future and state in it replaced; what holds none comes back as it is."""
    if type(value) in _SCALARS:
        return value
    if isinstance(value, Future | State):
        return replace(value)
    if isinstance(value, FutureList):
        value = list(value)
    if isinstance(value, allow_failure | quote | unmapped):
        return value.value if isinstance(value, quote) else resolve(value.value, replace)
    if isinstance(value, dict):
        pairs = {resolve(k, replace): resolve(v, replace) for k, v in value.items()}
        return pairs if _changed(value, pairs) else value
    if isinstance(value, list | tuple | set | frozenset):
        items = [resolve(item, replace) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return _resolve_fields(value, replace)


def _changed(old: dict[Any, Any], new: dict[Any, Any]) -> bool:
    return any(new.get(key, _changed) is not value for key, value in old.items())


def _resolve_fields(value: Any, replace: Callable[[Any], Any]) -> Any:
    names = None if isinstance(value, type) else field_names(type(value))
    if names is None:
        return value
    fields = {name: getattr(value, name) for name in names if hasattr(value, name)}
    new = {name: resolve(field, replace) for name, field in fields.items()}
    changed = {name: item for name, item in new.items() if item is not fields[name]}
    if not changed:
        return value
    copied = copy.copy(value)
    for name, item in changed.items():
        object.__setattr__(copied, name, item)  # also where the class is frozen
    return copied


def value_of(upstream: Any) -> Any:
    """What a body gets for a done future or a state: the result, or the exception where the run may start with it."""
    if isinstance(upstream, State):
        return upstream.result(raise_on_failure=False)
    future: Future[Any] = upstream
    return deliver(future.taken(), future.run, raise_on_failure=False)


# --- mapping ---------------------------------------------------------------------------------------------------


def expand(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """The arguments of each call of a `map`. Raises `MappingMissingIterable` and `MappingLengthMismatch` at once."""
    given = {f"argument {i + 1}": value for i, value in enumerate(args)} | dict(kwargs)
    columns = {key: _column(name, value) for key, value in given.items()}
    lengths = {key: len(column) for key, column in columns.items() if column is not None}
    if not lengths:
        raise MappingMissingIterable(name, (f"{key} ({type(value).__name__})" for key, value in given.items()))
    if len(set(lengths.values())) > 1:
        raise MappingLengthMismatch(name, lengths)
    keys = list(columns)
    positional, named = keys[: len(args)], keys[len(args) :]

    def at(key: str, index: int) -> Any:
        column = columns[key]
        return _constant(given[key]) if column is None else column[index]

    return (
        ([at(key, i) for key in positional], {key: at(key, i) for key in named})
        for i in range(next(iter(lengths.values())))
    )


def _constant(value: Any) -> Any:
    return value.value if isinstance(value, unmapped) else value


def _column(name: str, value: Any) -> Sequence[Any] | None:
    """What an argument is mapped over; `None` for what goes to every call."""
    if isinstance(value, allow_failure | quote):
        column = _column(name, value.value)
        return None if column is None else [type(value)(item) for item in column]
    if isinstance(value, Future):
        if not value.done and in_event_loop():
            raise WouldBlock(f"{name}.map() over the unfinished {value!r}", f"{name}.map(await future)")
        return _column(name, value.result())
    if not is_mapped(value):
        return None
    return value if isinstance(value, list | tuple) else list(value)


def is_mapped(value: object) -> bool:
    """Whether `map` goes through the items of a value."""
    return hasattr(value, "__iter__") and not isinstance(value, str | bytes | bytearray | unmapped | io.IOBase | State)
