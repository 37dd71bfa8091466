"""Hooks: functions called when a run enters a state, as `hook(task_or_flow, run, state)`.

A finishing hook is part of the finish sequence: shielded from cancellation and bounded in time. A hook that raises
is logged and changes nothing about the run.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import chain
from typing import Any, TypeAlias

from .core import logger
from .errors import InvalidOption
from .finishing import undisturbed
from .run import Run
from .states import CANCELLED, COMPLETED, CRASHED, FAILED, RUNNING, State, StateType

Hook: TypeAlias = Callable[..., Any]
_Answer: TypeAlias = tuple[Hook, Awaitable[object]]

HOOKS = {
    RUNNING: "on_running",
    COMPLETED: "on_completion",
    FAILED: "on_failure",
    CANCELLED: "on_cancellation",
    CRASHED: "on_crashed",
}


def check_hooks(option: str, value: Iterable[Hook] | Hook | None) -> tuple[Hook, ...]:
    """A tuple of hooks from one function or several. Raises `InvalidOption`."""
    if value is None:
        return ()
    hooks: tuple[Any, ...] = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not all(callable(hook) for hook in hooks):
        raise InvalidOption(option, value, "a function of (task or flow, run, state), or a list of such functions")
    return hooks


async def call_hooks(run: Run, kind: StateType, data: object = None) -> None:
    """Call the hooks for entering `kind`, one after another, for `finish_seconds` at the most."""
    hooks = run.definition.hooks.get(kind)
    if not hooks:
        return
    state = run.state()
    state = State(state.type, state.name, state.message, data, state.at, state.run_id, state.run_name)
    answers = _answers(run, hooks, state)
    first = next(answers, None)
    if first is None:
        return
    if run.on_the_spot:
        await _awaited(run, first, answers)
    elif not await undisturbed(_awaited, run, first, answers, seconds=run.core.finish_seconds):
        logger.error(
            "The hooks of %s run %r took more than %g s and were stopped.", run.kind, run.name, run.core.finish_seconds
        )


def _answers(run: Run, hooks: Iterable[Hook], state: State[Any]) -> Iterator[_Answer]:
    """Call the hooks, and stop at each that gives something to be awaited."""
    for hook in hooks:
        try:
            answer = hook(run.definition, run.view(), state)
        except Exception:
            _complain(run, hook)
        else:
            if inspect.isawaitable(answer):
                yield hook, answer


async def _awaited(run: Run, first: _Answer, others: Iterator[_Answer]) -> None:
    for hook, answer in chain([first], others):
        try:
            await answer
        except Exception:
            _complain(run, hook)


def _complain(run: Run, hook: Hook) -> None:
    logger.exception("Hook %r of %s run %r raised.", hook, run.kind, run.name)
