"""Forking with an open engine: the copy in the child refuses to work, and the parent's journal is unharmed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.real_time

SCRIPT = """
import os, sys
import anyio
from undertow import Engine, JournalClosed, flow

@flow
async def one(): return 1

@flow
def two(): return 2

def attempt():
    try:
        CALL
    except JournalClosed as error:
        print("refused:", error, flush=True)
    except BaseException as error:
        print("another error:", repr(error), flush=True)

with Engine(sys.argv[1]) as engine:
    anyio.run(one), two()
    child = os.fork()
    if not child:
        attempt()
        LEAVE
    print("child:", os.waitpid(child, 0)[1], flush=True)
    anyio.run(one), two()
print("parent done")
"""


def run(path: Path, call: str, leave: str = "os._exit(0)") -> str:
    """What parent and child print; both are killed when they take too long."""
    code = SCRIPT.replace("CALL", call).replace("LEAVE", leave)
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        try:
            return process.communicate(timeout=15)[0]
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def completed(path: Path) -> int:
    """How many flow runs the file has, all of them completed, in a sound file."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        ((kind, count),) = connection.execute("SELECT state_type, count(*) FROM flow_runs GROUP BY 1").fetchall()
    assert kind == "COMPLETED"
    return int(count)


@pytest.mark.parametrize("call", ["two()", "anyio.run(one)", "anyio.run(one, backend='trio')", "engine.start(two)"])
def test_child_is_refused(call: str, path: Path) -> None:
    """In a forked child the parent's engine refuses every use with JournalClosed, and the parent goes on unharmed."""
    printed = run(path, call)
    assert printed.startswith(f"refused: Journal {path}")
    assert printed.endswith("child: 0\nparent done\n")
    assert printed.count("\n") == 3
    assert completed(path) == 4


@pytest.mark.parametrize("leave", ["sys.exit(0)", "engine.close(); os._exit(0)"])
def test_child_ends(leave: str, path: Path) -> None:
    """A forked child that leaves its copy of an open engine alone ends as any process, and the parent is unharmed."""
    assert run(path, "pass", leave) == "child: 0\nparent done\n"
    assert completed(path) == 4


def test_child_opens_its_own(path: Path) -> None:
    """A forked child may open an engine of its own on the same file."""
    assert run(path, "with Engine(sys.argv[1]): print(anyio.run(one) + two(), flush=True)") == (
        "3\nchild: 0\nparent done\n"
    )
    assert completed(path) == 6
