"""The functions behind the nodes of a plan: real tasks and flows, which do what their node says and tell the ledger.

A definition is made once for each set of options and serves all worlds. A body finds its world in the context, and its
node by the path that it is called with.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

import anyio

from undertow import Failed, allow_failure, concurrency, flow, rate_limit, sleep, task
from undertow.engine.context import CURRENT
from undertow.engine.errors import Fail, RetryAfter, Skip, SlotTimeout

from .plans import RATE, Node, Statement

if TYPE_CHECKING:
    from .world import World

WORLD: ContextVar[World] = ContextVar("world")


class Trouble(Exception):
    """What a body raises that is to fail."""


@cache
def definition(kind: str, is_async: bool, options: tuple[tuple[str, Any], ...]) -> Any:
    """The task or flow with these options, whose name in the registry is its own."""

    async def body(path: str, *upstreams: Any) -> Any:
        return await (perform_flow if kind == "flow" else perform_task)(path)

    def sync_body(path: str, *upstreams: Any) -> Any:
        return perform_at_once(path)

    fn: Callable[..., Any] = body if is_async else sync_body
    fn.__name__ = kind
    fn.__qualname__ = f"{kind}{'' if is_async else ' sync'} {options}"
    made = dict(options)
    if isinstance(made.get("retry_delay_seconds"), tuple):
        made["retry_delay_seconds"] = list(made["retry_delay_seconds"])
    return (flow if kind == "flow" else task)(**made)(fn)


def of(node: Node) -> Any:
    return definition(node.kind, node.is_async, node.options)


# --- tasks -------------------------------------------------------------------------------------------------------------


async def perform_task(path: str) -> Any:
    """Do what the node says for this attempt."""
    world, run = WORLD.get(), CURRENT.get()
    assert run is not None
    node = world.node(path)
    attempt = node.attempts[min(run.attempts, len(node.attempts)) - 1]
    with world.body(run, node) as how:
        for line in node.statements:
            await _call(world, line, path)
        await anyio.sleep(attempt.seconds)
        how.end = attempt.end
        return ending(attempt.end, path)


def perform_at_once(path: str) -> Any:
    """The same for a sync function, which takes no time here; the double of a thread has taken it before."""
    world, run = WORLD.get(), CURRENT.get()
    assert run is not None
    node = world.node(path)
    attempt = node.attempts[min(run.attempts, len(node.attempts)) - 1]
    with world.body(run, node) as how:
        how.end = attempt.end
        return ending(attempt.end, path)


def ending(end: str, path: str) -> Any:
    """End a task's body in that way."""
    if end == "raise":
        raise Trouble(path)
    if end == "fatal":
        raise Fail(path)
    if end == "skip":
        raise Skip(path)
    if end == "later":
        raise RetryAfter(1.5)
    return Failed(message=path) if end == "state" else value_of(path)


def value_of(path: str) -> str:
    """What the task of that path returns."""
    return f"the value of {path}"


# --- flows -------------------------------------------------------------------------------------------------------------


async def perform_flow(path: str) -> Any:
    """Go through the node's statements and end as it says."""
    world, run = WORLD.get(), CURRENT.get()
    assert run is not None
    node = world.node(path)
    futures: list[Any] = []
    with world.body(run, node) as how:
        for number, line in enumerate(node.statements):
            await OPS[line.op](world, line, f"{path}.{number}", futures)
        how.end = node.end
        how.returned = futures if node.end in ("futures", "nested") else []
        if not how.returned and node.end == "futures":
            how.end = "value"
        if node.end == "raise":
            raise Trouble(path)
        return {"none": None, "futures": futures, "nested": {"all": futures}}.get(node.end, value_of(path))


def _check(world: World, child: Node, path: str, value: Any) -> None:
    if child.kind == "task" and value != value_of(path):
        world.model.complain("values", f"{path} gave {value!r}")


async def _call(world: World, line: Statement, path: str, futures: object = None) -> None:
    child = line.child
    assert child is not None
    try:
        answer = of(child)(child.path, return_state=True) if line.form == "state" else of(child)(child.path)
        value = await answer if child.is_async else answer
        if line.form == "value":
            _check(world, child, child.path, value)
    except Exception:
        if not line.catches:
            raise


async def _submit(world: World, line: Statement, path: str, futures: list[Any]) -> None:
    child = line.child
    assert child is not None
    ups = [futures[number] for number in line.upstreams]
    if line.form == "wait_for":
        futures.append(of(child).submit(child.path, wait_for=ups))
    else:
        futures.append(of(child).submit(child.path, *(map(allow_failure, ups) if line.form == "allow" else ups)))


async def _map(world: World, line: Statement, path: str, futures: list[Any]) -> None:
    assert line.child is not None
    futures.extend(of(line.child).map([f"{path}[{number}]" for number in range(line.number)]))


async def _stream(world: World, line: Statement, path: str, futures: list[Any]) -> None:
    child = line.child
    assert child is not None
    paths = [f"{path}[{number}]" for number in range(line.number)]
    got = []
    try:
        async for value in of(child).stream(paths, max_in_flight=2, ordered=line.form == "ordered"):
            got.append(value)
    except Exception:
        world.model.doomed.add(CURRENT.get())  # what was in flight is cancelled
        if not line.catches:
            raise
    else:
        wanted = [value_of(each) for each in paths]
        if (got if line.form == "ordered" else sorted(got)) != wanted:
            world.model.complain("values", f"the stream {path} gave {got}")


async def _await(world: World, line: Statement, path: str, futures: list[Any]) -> None:
    future = futures[line.number]
    try:
        if line.form == "wait":
            await future.wait_async()
        elif line.form == "result":
            await future.result_async(raise_on_failure=not line.catches)
        elif line.form == "in time":
            await future.result_async(timeout=line.seconds)
        else:
            await future
    except Exception:
        if not line.catches:
            raise


async def _cancel(world: World, line: Statement, path: str, futures: list[Any]) -> None:
    await anyio.sleep(line.seconds)
    future = futures[line.number]
    if not future.done:
        world.model.doomed.add(future.run)
        world.note("cancels", future.run_id)
    future.cancel()


async def _slots(world: World, line: Statement, path: str, futures: list[Any]) -> None:
    if line.form == RATE:
        await rate_limit(RATE)
        world.model.let_through()
        return
    slots = 1 if line.form == "one" else line.number
    with suppress(SlotTimeout):
        async with concurrency(line.form, occupy=slots, timeout_seconds=5):
            with world.model.holding(line.form, slots):
                await anyio.sleep(line.seconds)


async def _sleep(world: World, line: Statement, path: str, futures: list[Any]) -> None:
    await sleep(line.seconds)


OPS: dict[str, Callable[..., Any]] = {
    "call": _call,
    "submit": _submit,
    "map": _map,
    "stream": _stream,
    "await": _await,
    "cancel": _cancel,
    "slots": _slots,
    "sleep": _sleep,
}
