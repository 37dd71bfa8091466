"""Progress: a live view of what runs, from counts alone."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from rich.console import Console

from undertow import Engine, flow, progress, task
from undertow.console.progress import Counts, Drawing, Node

MakeEngine = Callable[..., Engine]
tries: list[int] = []


@task(retries=1, retry_delay_seconds=30)
async def unsteady() -> None:
    if not tries:
        tries.append(1)
        raise ConnectionError("busy")


@task
async def wrong() -> None:
    raise ValueError("no rows")


@flow
async def inner() -> None:
    await unsteady()


@flow
async def outer() -> str:
    await inner()
    for future in wrong.map(range(0)):
        await future
    await wrong(return_state=True)
    return "done"


@pytest.fixture(autouse=True)
def fresh() -> None:
    tries.clear()


def node_at(counts: Counts, *path: str) -> Node:
    node = counts.snapshot()
    for name in path:
        node = node.children[name]
    return node


async def test_counts_by_place(engine: Engine) -> None:
    """Runs are counted where they were called: ended by state, running, retried."""
    with progress(io.StringIO()) as counts:
        await outer()
    assert node_at(counts, "outer").ended == {"Completed": 1}
    assert node_at(counts, "outer", "inner", "unsteady").retries == 1
    assert node_at(counts, "outer", "wrong").ended == {"Failed": 1}
    assert node_at(counts, "outer", "inner", "unsteady").running == 0


async def test_what_is_going_on(engine: Engine) -> None:
    """While a run waits for its next attempt it is counted as waiting, and its flow as running."""
    async with anyio.create_task_group() as group:
        with progress(io.StringIO()) as counts:
            group.start_soon(inner)
            await anyio.sleep(10)
            assert node_at(counts, "inner").running == 1
            assert node_at(counts, "inner", "unsteady").waiting == 1
            await anyio.sleep(30)
            assert node_at(counts, "inner", "unsteady").waiting == 0


async def test_plain_lines(engine: Engine) -> None:
    """Without a terminal the last word is one plain line, free of control characters."""
    stream = io.StringIO()
    with progress(stream):
        await outer()
    [line] = stream.getvalue().splitlines()
    assert "outer: 1 done" in line
    assert "unsteady: 1 done, 1 retried" in line
    assert "wrong: 1 Failed" in line
    assert line.isprintable()


async def test_a_tree_on_a_terminal(engine: Engine) -> None:
    """The tree shows each place with its numbers; a name can't smuggle control characters onto the terminal."""
    hostile = task(wrong.fn, name="evil\x1b[31m")

    @flow
    async def calls() -> str:
        await hostile(return_state=True)
        return "done"

    with progress(io.StringIO()) as counts:
        await calls()
    shown: Any = io.StringIO()
    Console(file=shown, width=100, color_system=None).print(Drawing(counts).tree())
    assert "calls  1 done" in shown.getvalue()
    assert "1 Failed" in shown.getvalue()
    assert "\x1b" not in shown.getvalue()


async def test_nothing_is_left_behind(engine: Engine) -> None:
    """After the block nothing is observed any more."""
    with progress(io.StringIO()) as counts:
        await inner()
    assert engine.core.observers == []
    await inner()
    assert node_at(counts, "inner").ended == {"Completed": 1}
