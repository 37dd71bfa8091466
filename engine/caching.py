"""Cache policies: what makes two runs of a task the same, so that the second can have the first one's result.

A policy computes parts of a key from a run and its arguments; policies add up (`INPUTS + TASK_SOURCE`), and an
argument can be left out (`INPUTS - "session"`). A key is the BLAKE2b-256 digest of canonical bytes: the same in every
process, free of pickle, `id` and `hash`.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import attrs

from .codec import canonical
from .errors import InvalidOption, ResultNotSerializable, UncacheableArgument

if TYPE_CHECKING:
    from .run import Run

Part: TypeAlias = bytes | None
Serializer: TypeAlias = Literal["msgpack", "pickle"]
SERIALIZERS = ("msgpack", "pickle")
KeyFunction: TypeAlias = Callable[[Any, dict[str, Any]], str | None]


def digest(*parts: bytes) -> str:
    """The BLAKE2b-256 digest of some byte strings, each with its length, as hexadecimal text."""
    hashed = hashlib.blake2b(digest_size=32)
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big"))
        hashed.update(part)
    return hashed.hexdigest()


class CachePolicy:
    """How a cache key is computed. Policies are values: adding and subtracting makes new ones."""

    def part(self, run: Run, parameters: Mapping[str, Any]) -> Part:
        """This policy's part of the key; `None` when it has nothing to say. Raises `UncacheableArgument`."""
        raise NotImplementedError

    def key(self, run: Run, parameters: Mapping[str, Any]) -> str | None:
        """The whole key; `None` means that this call is not cached."""
        part = self.part(run, parameters)
        return None if part is None else digest(part)

    def __add__(self, other: CachePolicy) -> CachePolicy:
        if not isinstance(other, CachePolicy):
            return NotImplemented
        return Compound(tuple(policy for policy in (self, other) if not isinstance(policy, NoCache)))

    def __sub__(self, argument: str) -> CachePolicy:
        if not isinstance(argument, str):
            return NotImplemented
        return self

    def excluded(self) -> frozenset[str]:
        """The names of the arguments that were left out."""
        return frozenset()


@attrs.frozen
class Inputs(CachePolicy):
    """All arguments by name. A call without arguments has no part."""

    exclude: frozenset[str] = frozenset()
    on_unhashable: str = "raise"
    """What to do about an argument that has no canonical form: `"raise"`, or `"skip"` caching."""

    def part(self, run: Run, parameters: Mapping[str, Any]) -> Part:
        parts: list[bytes] = []
        for name in sorted(parameters.keys() - self.exclude):
            try:
                parts += name.encode(), canonical(parameters[name])
            except ResultNotSerializable as error:
                if self.on_unhashable == "skip":
                    return None
                raise UncacheableArgument(run.definition.name, name, error.path, parameters[name]) from None
        return bytes.fromhex(digest(*parts)) if parts else None

    def __sub__(self, argument: str) -> CachePolicy:
        if not isinstance(argument, str):
            return NotImplemented
        return attrs.evolve(self, exclude=self.exclude | {argument})

    def excluded(self) -> frozenset[str]:
        return self.exclude


@attrs.frozen
class TaskSource(CachePolicy):
    """The task's source text, or its byte code where there is no source."""

    def part(self, run: Run, parameters: Mapping[str, Any]) -> Part:
        return source_of(run.definition.fn)


@attrs.frozen
class RunId(CachePolicy):
    """The flow run around the task, or the task run itself: reuse within one run and its retries."""

    def part(self, run: Run, parameters: Mapping[str, Any]) -> Part:
        return (run if run.flow is None else run.flow).id.encode()


@attrs.frozen
class FlowParameters(CachePolicy):
    """The parameters of the flow around the task; not as they are recorded, which hides and cuts some."""

    def part(self, run: Run, parameters: Mapping[str, Any]) -> Part:
        flow = run.flow
        if flow is None:
            return None
        return INPUTS.part(flow, flow.definition.signature.bind(flow.args, flow.kwargs)) or b""


@attrs.frozen
class NoCache(CachePolicy):
    """Never cached."""

    def part(self, run: Run, parameters: Mapping[str, Any]) -> Part:
        return None


@attrs.frozen
class Compound(CachePolicy):
    """Several policies; the parts that there are make up the key."""

    policies: tuple[CachePolicy, ...]

    def part(self, run: Run, parameters: Mapping[str, Any]) -> Part:
        parts = [part for policy in self.policies if (part := policy.part(run, parameters)) is not None]
        return bytes.fromhex(digest(*parts)) if parts else None

    def __sub__(self, argument: str) -> CachePolicy:
        if not isinstance(argument, str):
            return NotImplemented
        return Compound(tuple(policy - argument for policy in self.policies))

    def excluded(self) -> frozenset[str]:
        return frozenset().union(*(policy.excluded() for policy in self.policies))


@attrs.frozen
class KeyFrom(CachePolicy):
    """A key computed by a function of the run and its arguments; `None` from it means that the call is not cached."""

    function: KeyFunction

    def part(self, run: Run, parameters: Mapping[str, Any]) -> Part:
        key = self.function(run.view(), dict(parameters))
        if key is not None and not isinstance(key, str):
            raise InvalidOption("cache_key_fn", key, "a function that returns a text or None")
        return None if key is None else key.encode()


INPUTS = Inputs()
TASK_SOURCE = TaskSource()
RUN_ID = RunId()
FLOW_PARAMETERS = FlowParameters()
NO_CACHE = NoCache()
DEFAULT = INPUTS + TASK_SOURCE + RUN_ID


def source_of(fn: Callable[..., Any]) -> bytes:
    """The source of a function, or of an object's class, or else its byte code; the same in every process."""
    if isinstance(fn, functools.partial):
        fn = fn.func
    for part in (fn, type(fn)):
        try:
            return inspect.getsource(part).encode()
        except (OSError, TypeError):
            continue  # it was made by no file, or is no function
    code = getattr(fn, "__code__", None) or getattr(type(fn).__call__, "__code__", None)
    return type(fn).__qualname__.encode() if code is None else bytes(code.co_code)


@attrs.frozen
class Caching:
    """A task's caching options, checked."""

    policy: CachePolicy
    expiration: timedelta | None
    refresh: bool
    serializer: Serializer
    private: bool
    """Whether no other process can come to the same key."""


def read_caching(
    name: str,
    parameters: Mapping[str, Any],
    policy: object,
    key_fn: object,
    expiration: object,
    refresh: object,
    serializer: Serializer,
) -> Caching | None:
    """Check the caching options of a task; `None` when it is not cached. Raises `InvalidOption`."""
    if policy is not None and not isinstance(policy, CachePolicy):
        raise InvalidOption("cache_policy", policy, "INPUTS, TASK_SOURCE, RUN_ID, FLOW_PARAMETERS, NO_CACHE or a sum")
    if key_fn is not None and not callable(key_fn):
        raise InvalidOption("cache_key_fn", key_fn, "a function of (run, parameters) that returns a text or None")
    if expiration is not None and (not isinstance(expiration, timedelta) or expiration <= timedelta(0)):
        raise InvalidOption("cache_expiration", expiration, "a timedelta above 0")
    if key_fn is not None:
        policy = KeyFrom(cast("KeyFunction", key_fn))
    if policy is None or isinstance(policy, NoCache):
        return None
    unknown = policy.excluded() - parameters.keys()
    if unknown:
        raise InvalidOption("cache_policy", sorted(unknown)[0], f"an argument of {name}: {', '.join(parameters)}")
    parts = policy.policies if isinstance(policy, Compound) else (policy,)
    private = any(isinstance(part, RunId) for part in parts)
    return Caching(policy, expiration, bool(refresh), serializer, private)
