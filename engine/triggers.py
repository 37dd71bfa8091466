"""Trigger rules: may a task start, given how its upstreams ended?

A rule is a pure function over final states. *Succeeded* is COMPLETED; *failed* is FAILED, CRASHED, CANCELLED, or
skipped because of such a one; a run that was rightly skipped is neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from .errors import InvalidOption, UpstreamFailed
from .states import COMPLETED, SKIPPED, State

RuleName: TypeAlias = Literal["all_succeeded", "all_failed", "all_done", "any_failed", "any_succeeded", "none_failed"]
Rule: TypeAlias = Callable[[Sequence[State[Any]]], bool]


def succeeded(state: State[Any]) -> bool:
    return state.type is COMPLETED


def failed(state: State[Any]) -> bool:
    """Whether the run ended badly, or was skipped because one before it did."""
    if state.type is SKIPPED:
        return isinstance(state.data, UpstreamFailed) and state.data.counts
    return state.type is not COMPLETED


RULES: Mapping[str, Rule] = {
    "all_succeeded": lambda states: all(map(succeeded, states)),
    "all_failed": lambda states: bool(states) and all(map(failed, states)),
    "all_done": lambda states: True,
    "any_failed": lambda states: any(map(failed, states)),
    "any_succeeded": lambda states: any(map(succeeded, states)),
    "none_failed": lambda states: not any(map(failed, states)),
}


def check_rule(value: str | Rule | None) -> str | Rule | None:
    """A valid `when=`, or `None` for the default. Raises `InvalidOption`."""
    if value is None or (isinstance(value, str) and value == "all_succeeded"):
        return None
    if value not in RULES if isinstance(value, str) else not callable(value):
        raise InvalidOption("when", value, f"a function over states, or one of {', '.join(map(repr, RULES))}")
    return value


def met(rule: str | Rule, states: Sequence[State[Any]]) -> bool:
    """Whether the rule lets the task start."""
    return bool(RULES[rule](states) if isinstance(rule, str) else rule(states))


def name_of(rule: str | Rule) -> str:
    return rule if isinstance(rule, str) else getattr(rule, "__name__", repr(rule))
