"""Signals from outside: Ctrl-C once and twice, termination, a stopped process, and a killed one with living peers."""

from __future__ import annotations

import importlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import anyio
import anyio.to_thread
import pytest

from undertow import Engine
from undertow.engine import recovery
from undertow.storage import owners, service

pytestmark = pytest.mark.real_time

FLOWS = """
import gc, sys, threading
import anyio
from undertow import Engine, flow, task
from undertow.engine.context import current_core

gc.disable()  # an interrupt that strikes in a finalizer is lost, as Python has it
stubborn = "stubborn" in sys.argv

def say(word):
    print(word, file=sys.stderr, flush=True)

@task
async def waits():
    await current_core().journal.commit()
    try:
        say("begun")
        await anyio.sleep_forever()
    finally:
        if stubborn:
            say("cleaning up")
            with anyio.CancelScope(shield=True):
                await anyio.sleep_forever()

@task
def waits_here():
    current_core().journal.commit().wait()
    try:
        say("begun")
        threading.Event().wait()
    finally:
        if stubborn:
            say("cleaning up")
            threading.Event().wait()

@flow
async def loop():
    await waits()

@flow
def plain():
    waits_here()

@flow
def portal():
    waits.submit().result()

async def main():
    async with Engine(sys.argv[1]):
        await loop()
"""

IN_A_SCRIPT = "\nwith Engine(sys.argv[1]):\n    {}()\n"
IN_A_LOOP = "\nanyio.run(main, backend={!r})\n"

SCRIPTS = {
    "plain": IN_A_SCRIPT.format("plain"),
    "asyncio": IN_A_LOOP.format("asyncio"),
    "trio": IN_A_LOOP.format("trio"),
}

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts processes; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str, **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, *words], text=True, **pipes, **options)
        started.append(process)
        return process

    yield begin
    for process in started:
        with process:
            process.kill()


def said(process: subprocess.Popen[str], word: str) -> None:
    """Wait until a process has said this on stderr."""
    assert process.stderr is not None
    for line in process.stderr:
        if line == f"{word}\n":
            return
    raise AssertionError(f"it never said {word!r}")


def kinds(path: Path) -> set[str]:
    """The types of the states of all runs in the journal, which has to be sound."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return {
            kind
            for (kind,) in connection.execute("SELECT state_type FROM flow_runs UNION SELECT state_type FROM task_runs")
        }


def broken_off(on_asyncio: bool, times: int) -> list[set[str]]:
    """What runs may be that so many Ctrl-C have broken off: asyncio makes a cancellation of the first one, and of the second what its loop was at."""
    if not on_asyncio:
        return [{"CRASHED"}]
    return [{"CANCELLED"}] if times == 1 else [{"CANCELLED"}, {"CRASHED"}]


# --- Ctrl-C --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_one_interrupt(script: str, path: Path, start: Start) -> None:
    """Ctrl-C ends a script as it ends any, and what it broke off is on record: Cancelled where the loop cancels, else Crashed."""
    process = start("-c", FLOWS + SCRIPTS[script], str(path))
    said(process, "begun")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert kinds(path) in broken_off(script == "asyncio", 1)


@pytest.mark.parametrize("script", SCRIPTS)
def test_two_interrupts(script: str, path: Path, start: Start) -> None:
    """A second Ctrl-C ends a cleanup that would never end, and what it broke off is on record as Crashed or Cancelled."""
    process = start("-c", FLOWS + SCRIPTS[script], str(path), "stubborn")
    said(process, "begun")
    process.send_signal(signal.SIGINT)
    said(process, "cleaning up")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT
    assert kinds(path) in broken_off(script == "asyncio", 2)


def test_an_interrupt_while_a_script_waits(path: Path, start: Start) -> None:
    """Ctrl-C in a script that waits for a task in the engine's own loop cancels the task, and the flow is Crashed."""
    process = start("-c", FLOWS + IN_A_SCRIPT.format("portal"), str(path))
    said(process, "begun")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT
    assert kinds(path) == {"CRASHED", "CANCELLED"}


COMMANDS = [("loop", "asyncio"), ("loop", "trio"), ("plain", "asyncio")]


def command(start: Start, path: Path, name: str, backend: str, *more: str) -> subprocess.Popen[str]:
    """The command line, running a flow that waits."""
    (path.parent / "waiting.py").write_text(FLOWS)
    words = ["run", f"waiting:{name}", "--backend", backend, "--journal", str(path)]
    program = "import sys; from undertow.console.command import cli; words = sys.argv[1:]; sys.argv[1:] = words[:1]; cli(words[1:])"
    return start("-c", program, *(more or ("",)), *words, cwd=path.parent)


@pytest.mark.parametrize(("name", "backend"), COMMANDS)
@pytest.mark.parametrize("times", [1, 2])
def test_interrupts_of_the_command(name: str, backend: str, times: int, path: Path, start: Start) -> None:
    """However often it takes Ctrl-C to end it, `undertow run` exits with 130, tells no traceback, and the run is on record."""
    process = command(start, path, name, backend, *["stubborn"] * (times - 1))
    said(process, "begun")
    process.send_signal(signal.SIGINT)
    if times == 2:
        said(process, "cleaning up")
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert kinds(path) in broken_off((name, backend) == ("loop", "asyncio"), times)
    assert kinds(path).pop().capitalize() in out


# --- termination ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [*SCRIPTS, "command"])
def test_termination(how: str, path: Path, start: Start) -> None:
    """SIGTERM ends a process that has set up nothing for it at once, and its runs are Crashed at the next open of the journal."""
    process = (
        command(start, path, "loop", "asyncio") if how == "command" else start("-c", FLOWS + SCRIPTS[how], str(path))
    )
    said(process, "begun")
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGTERM
    assert kinds(path) == {"RUNNING"}
    with Engine(path):
        pass
    assert kinds(path) == {"CRASHED"}


# --- living peers --------------------------------------------------------------------------------------------------

LOOK_SECONDS = 0.02


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> SimpleQueue[int]:
    """Engines of this process look often whether a peer has died; each look is put here when it is over."""
    done: SimpleQueue[int] = SimpleQueue()
    bury = owners.bury_the_dead

    async def look(connection: Any, own: int) -> None:
        await bury(connection, own)
        done.put(own)

    monkeypatch.setattr(owners, "bury_the_dead", look)
    monkeypatch.setattr(service, "PEER_SECONDS", LOOK_SECONDS)
    monkeypatch.setattr(recovery, "RECOVERY_SECONDS", LOOK_SECONDS)
    return done


PEER = """
import os, sys, threading
from undertow import Engine, flow, task

@task
def waits():
    print("begun", flush=True)
    return sys.stdin.readline().strip()

@flow
def going_on(engine):
    engine.journal.commit().wait()
    return waits()

with Engine(sys.argv[1]) as engine:
    print(going_on(engine), flush=True)
"""


def test_a_stopped_owner_is_not_dead(path: Path, start: Start, looks: SimpleQueue[int]) -> None:
    """A process that is stopped, however long, is not taken for dead by its peers; when it goes on, its runs end as its own."""
    process = start("-c", PEER, str(path))
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGSTOP)
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    with Engine(path):
        for _ in range(5):  # the first is that of the opening
            looks.get(timeout=10)
        assert kinds(path) == {"RUNNING"}
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate("well\n", timeout=10)
        assert out == "well\n"
    assert kinds(path) == {"COMPLETED"}
    with closing(sqlite3.connect(path)) as connection:
        story = connection.execute("SELECT DISTINCT name FROM states ORDER BY name").fetchall()
    assert story == [("Completed",), ("Pending",), ("Running",)]


def test_a_killed_owner_is_buried(path: Path, start: Start, looks: SimpleQueue[int]) -> None:
    """The runs of a killed process are Crashed, in words that name it, as soon as a living peer has looked again."""
    process = start("-c", PEER, str(path))
    assert process.stdout is not None
    with Engine(path):
        assert process.stdout.readline() == "begun\n"
        process.kill()
        process.wait(10)
        for _ in range(looks.qsize() + 2):  # one look may have begun before the end
            looks.get(timeout=10)
        assert kinds(path) == {"CRASHED"}
        with closing(sqlite3.connect(path)) as connection:
            [(message,)] = connection.execute("SELECT DISTINCT state_message FROM flow_runs")
    assert f"process {process.pid} " in message


HANDED_ON = """
import sys, threading
import anyio
from undertow import Engine, flow, task

ran = []
over = threading.Event()

@task
async def stage(number):
    ran.append(number)
    if number == 2 and __name__ == "__main__":
        print("half way", flush=True)
        await anyio.sleep_forever()
    return number

@flow(durable=True)
async def both():
    total = await stage(1) + await stage(2)
    over.set()
    return total

async def main():
    async with Engine(sys.argv[1]):
        await both()

if __name__ == "__main__":
    anyio.run(main)
"""


async def test_a_peer_takes_over(
    path: Path, start: Start, looks: SimpleQueue[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A durable run whose process is killed goes on in a living peer that recovers, after what was recorded."""
    path.with_name("handed_on.py").write_text(HANDED_ON)
    monkeypatch.syspath_prepend(path.parent)
    monkeypatch.delitem(sys.modules, "handed_on", raising=False)
    here = importlib.import_module("handed_on")
    process = start(str(path.with_name("handed_on.py")), str(path))
    assert process.stdout is not None
    async with Engine(path, recover=True):
        assert await anyio.to_thread.run_sync(process.stdout.readline) == "half way\n"
        process.kill()
        assert await anyio.to_thread.run_sync(here.over.wait, 10)
    assert kinds(path) == {"COMPLETED"}
    assert here.ran == [2]
