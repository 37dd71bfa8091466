"""Hooks: functions called when a run enters a state, as `hook(task_or_flow, run, state)`.

A finishing hook is part of the finish sequence: shielded from cancellation and bounded in time. A hook that raises
is logged and changes nothing about the run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import anyio

from .core import logger
from .errors import InvalidOption
from .run import Run
from .states import CANCELLED, COMPLETED, CRASHED, FAILED, RUNNING, State, StateType

Hook: TypeAlias = Callable[..., Any]

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
    with anyio.move_on_after(run.core.finish_seconds, shield=True) as scope:
        for hook in hooks:
            try:
                answer = hook(run.definition, run.view(), state)
                if inspect.isawaitable(answer):
                    await answer
            except Exception:
                logger.exception("Hook %r of %s run %r raised.", hook, run.kind, run.name)
    if scope.cancelled_caught:
        logger.error(
            "The hooks of %s run %r took more than %g s and were stopped.", run.kind, run.name, run.core.finish_seconds
        )
