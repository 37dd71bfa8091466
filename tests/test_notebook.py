"""In a notebook: cells that are run, one after another, in an event loop that belongs to somebody else."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

pytestmark = pytest.mark.real_time

KERNEL = """
import ast, asyncio, inspect, sys

CELLS = sys.stdin.read().split("# ---\\n")
names = {"__name__": "__main__"}


async def cell(source):
    code = compile(source, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    value = eval(code, names)
    if inspect.iscoroutine(value):
        await value


async def all_cells():
    for source in CELLS:
        await cell(source)


if sys.argv[1] == "a loop that goes on":  # a kernel's, where even a cell without `await` is run in the running loop
    asyncio.run(all_cells())
else:  # a terminal's, which stands still between two cells
    loop = asyncio.new_event_loop()
    try:
        for source in CELLS:
            loop.run_until_complete(cell(source))
    finally:
        loop.close()
"""


def play(cells: str, folder: Path, loop: str) -> tuple[str, str]:
    """What the cells print, and what they complain of."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNDERTOW")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", KERNEL, loop],
        input=cells,
        cwd=folder,
        env=kept | {"UNDERTOW_JOURNAL": str(folder / "notes.db")},
        capture_output=True,
        text=True,
        timeout=30,
    )
    # A slow machine is told that a sync flow held the kernel's loop; which is so.
    said = [line for line in done.stderr.splitlines() if "held the event loop" not in line]
    return done.stdout, "\n".join(said)


def flows(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT flow, state_name FROM flow_runs ORDER BY id").fetchall()


@pytest.fixture(params=["a loop that goes on", "a loop that rests"])
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


DEFINITIONS = """
import threading
from undertow import Engine, WouldBlock, flow, task

@task
async def double(n):
    return 2 * n

@task
def half(n):
    return n // 2, threading.current_thread() is threading.main_thread()

@flow
async def doubled(numbers):
    return await double.map(numbers)

@flow
def halved(n):
    return half(n)

@flow
def mixed(numbers):
    return double.map(numbers).result()
# ---
"""


def test_await_in_a_cell(tmp_path: Path, loop: str) -> None:
    """`await flow()` works in a cell, in the notebook's own loop, again and again."""
    cells = "print(await doubled([1, 2]))\n# ---\nprint(await doubled([3]))"
    assert play(DEFINITIONS + cells, tmp_path, loop) == ("[2, 4]\n[6]\n", "")
    assert flows(tmp_path / "notes.db") == [("doubled", "Completed")] * 2


def test_a_sync_flow_in_a_cell(tmp_path: Path, loop: str) -> None:
    """A `def` flow is just called in a cell: its body is run in a thread, and may use async tasks."""
    cells = "print(halved(6))\n# ---\nprint(mixed([4, 5]))"
    assert play(DEFINITIONS + cells, tmp_path, loop) == ("(3, False)\n[8, 10]\n", "")
    assert flows(tmp_path / "notes.db") == [("halved", "Completed"), ("mixed", "Completed")]


def test_an_engine_over_several_cells(tmp_path: Path, loop: str) -> None:
    """An engine that one cell opens and another closes has background runs in between."""
    cells = """
engine = Engine("own.db")
engine.open()
run = engine.start(doubled, [1, 2])
# ---
print(await run)
# ---
try:
    engine.start(mixed, [3]).result()
except WouldBlock as error:
    print("await" in str(error))
# ---
engine.close()
"""
    assert play(DEFINITIONS + cells, tmp_path, loop) == ("[2, 4]\nTrue\n", "")
    assert flows(tmp_path / "own.db") == [("doubled", "Completed"), ("mixed", "Completed")]


def test_a_notebook_that_is_left(tmp_path: Path, loop: str) -> None:
    """When the notebook's process ends, the default engine is flushed: whatever had been run is in its journal."""
    cells = "\n# ---\n".join(f"await doubled([{n}])\nhalved({n})" for n in range(10)) + "\n# ---\nraise SystemExit"
    assert play(DEFINITIONS + cells, tmp_path, loop) == ("", "")
    assert flows(tmp_path / "notes.db") == [("doubled", "Completed"), ("halved", "Completed")] * 10
    assert not (tmp_path / "notes.db-wal").exists()
