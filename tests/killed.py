"""What the killed processes of `kills.py` do: a durable flow of 200 steps, plain flows beside it, and their own end.

A process may be told to die in a window: at the n-th moment while the writer has a group in hand, while a journal's
tables are made, and so on. The windows are wrapped around the storage's own functions, and SQLite is asked to call back
within its statements, so that a moment may lie in the middle of one. Two windows are the operating system's: a file that
must not grow beyond a size kills the process in the middle of a write to it.

What the tasks do is written to a ledger outside of the journal, on disk before they go on.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import attrs

import undertow
from undertow import Engine, flow, runtime, task
from undertow.storage import again, checkpoints, owners
from undertow.storage.service import Service
from undertow.storage.writing import Writer

# --- the ledger --------------------------------------------------------------------------------------------------------


class Ledger:
    """Lines that are on disk when `write` returns."""

    path = Path()
    _file = -1

    def open(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def write(self, *words: object) -> None:
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())
        os.fsync(self._file)


LEDGER = Ledger()


def given(name: str, result: Any) -> Any:
    """Note that a body was given a step's result."""
    LEDGER.write("given", name)
    return result


# --- the flows ---------------------------------------------------------------------------------------------------------

STEPS = 200


@task(task_run_name="{name}")
async def step(name: str, x: int) -> int:
    LEDGER.write("start", name, runtime.task_run.id)
    await anyio.sleep(0.001 * (x % 3))
    return x + 1


@task(task_run_name="{name}")
def sync_step(name: str, x: int) -> int:
    LEDGER.write("start", name, runtime.task_run.id)
    return x + 1


@task(task_run_name="{name}", retries=3, retry_delay_seconds=0.005)
def unsteady(name: str, x: int) -> int:
    LEDGER.write("start", name, runtime.task_run.id)
    failures = Path(f"{LEDGER.path}.{name}")
    if x % 2 and not failures.exists():
        failures.touch()
        raise ConnectionError(name)
    return x + 1


@task(task_run_name="{name}")
async def hopeless(name: str) -> None:
    LEDGER.write("start", name, runtime.task_run.id)
    raise ConnectionError(name)


@flow
async def part(name: str) -> int:
    total = sum(await step.map([f"{name}.{index}" for index in range(10)], range(10)))
    for index in range(10, 15):
        total += given(f"{name}.{index}", await step(f"{name}.{index}", index))
    return total


@flow(durable=True)
async def work() -> int:
    total = 0
    parts = [part.submit(name) for name in ("left", "right")]
    for index in range(40):
        total += given(f"row.{index}", await step(f"row.{index}", index))
        if index % 10 == 0:
            await undertow.sleep(0.002)
            total += given(f"sync.{index}", sync_step(f"sync.{index}", index))
    mapped = step.map([f"map.{index}" for index in range(80)], range(80))
    async for future in mapped.as_completed():
        total += await future
    for index in range(43):
        total += given(f"unsteady.{index}", await unsteady.submit(f"unsteady.{index}", index))
    for index in range(3):
        try:
            await hopeless(f"hopeless.{index}")
        except ConnectionError:
            given(f"hopeless.{index}", None)
    return total + sum([await future for future in parts])


RESULT = sum(range(1, 41)) + sum((1, 11, 21, 31)) + sum(range(1, 81)) + sum(range(1, 44)) + 2 * sum(range(1, 16))


@task
async def double(x: int) -> int:
    return 2 * x


@task
def triple(x: int) -> int:
    return 3 * x


@flow
async def inner(x: int) -> int:
    return await double(x) + triple(x)


@flow
async def plain(x: int) -> int:
    """Not durable: what it promises is that all of it is on disk once its call has returned."""
    return await inner(x) + sum(await double.map(range(x % 5)))


async def plainly() -> None:
    """Call the plain flow over and over, and write down what was acknowledged: its run, and how many are inside."""
    for x in range(1_000_000):
        state = await plain(x, return_state=True)
        LEDGER.write("acknowledged", state.run_id, 3 + x % 5)
        await anyio.sleep(0.002)


# --- the windows -------------------------------------------------------------------------------------------------------


class Window:
    """A stretch of the storage's code in which this process may be told to die: at the n-th moment in it."""

    def __init__(self, name: str, moment: int) -> None:
        self.name = name
        self.moments_left = moment
        self.inside = 0

    def moment(self) -> None:
        """One more moment has come; also called by SQLite, in the connection's thread, within its statements."""
        if self.inside:
            self.moments_left -= 1
            if self.moments_left < 0:
                LEDGER.write("struck", self.name)
                os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def open(self) -> Iterator[None]:
        """What happens in the block happens in the window."""
        self.inside += 1
        try:
            self.moment()
            yield
            self.moment()
        finally:
            self.inside -= 1

    def around(self, owner: Any, name: str) -> None:
        """Make an async function of the storage the window: its beginning, its statements and its end."""
        original: Callable[..., Awaitable[Any]] = getattr(owner, name)

        async def watched(*args: Any) -> Any:
            with self.open():
                return await original(*args)

        setattr(owner, name, watched)

    def around_step(self, name: str) -> None:
        """Make a step of the writer's the window, in the thread of the connection."""
        original: Callable[..., None] = getattr(Writer, name)

        def watched(*args: Any) -> None:
            with self.open():
                original(*args)

        setattr(Writer, name, watched)

    def before_step(self, name: str) -> None:
        """Make the moment before a step of the writer's the window."""
        original: Callable[..., None] = getattr(Writer, name)

        def watched(*args: Any) -> None:
            self.inside += 1
            self.moment()
            self.inside -= 1
            original(*args)

        setattr(Writer, name, watched)

    def of_the_dead(self) -> None:
        """Make the burial of an owner the window, from the proof of its death on."""
        is_gone, bury = owners.Process.is_gone, owners.bury_the_dead

        def proven(process: owners.Process) -> bool:
            gone = is_gone(process)
            self.inside += gone
            self.moment()
            return gone

        async def buried(*args: Any) -> None:
            await bury(*args)
            self.moment()
            self.inside = 0

        owners.Process.is_gone = proven  # type: ignore[method-assign]
        owners.bury_the_dead = buried

    def watch_statements(self) -> None:
        """Have moments within the statements of the journal's connection, too."""
        connect = aiosqlite.Connection._connect

        async def connected(connection: aiosqlite.Connection) -> aiosqlite.Connection:
            await connect(connection)
            await connection.set_progress_handler(self.moment, 40 if self.name == "group" else 4)
            return connection

        aiosqlite.Connection._connect = connected  # type: ignore[method-assign]


def make(window: Window) -> None:
    """Have this process die in the window."""
    match window.name:
        case "schema":
            window.around(Service, "_create")
        case "registration":
            window.around(owners, "register")
        case "burial":
            window.of_the_dead()
        case "resume":
            for question in ("recoverable", "find", "claim", "past"):
                window.around(again, question)
        case "group":
            window.around_step("_write_group")
        case "result":
            window.before_step("_write_runs")
        case "acknowledgement":
            window.before_step("_write_logs")
    window.watch_statements()


def limit_files(size: int, log_bytes: int) -> None:
    """Have the system kill this process when it writes beyond so many bytes of any file, and have it make checkpoints."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    checkpoints.WAL_BYTES = log_bytes


# --- a life ------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Life:
    """One process's try to bring the run to its end, and how that is cut short."""

    journal: Path
    ledger: Path
    backend: str
    durability: Any
    recover: bool
    window: str = ""
    moment: int = 0
    file_size: int = 0
    log_bytes: int = checkpoints.WAL_BYTES

    def live(self) -> None:
        LEDGER.open(self.ledger)
        if self.file_size:
            limit_files(self.file_size, self.log_bytes)
        elif self.window:
            make(Window(self.window, self.moment))
        anyio.run(self._run, backend=self.backend)

    async def _run(self) -> None:
        async with Engine(self.journal, recover=self.recover, durability=self.durability) as engine:
            os.write(1, b"ready\n")
            async with anyio.create_task_group() as group:
                group.start_soon(plainly)
                result = await engine.start(work, run_id="work", on_conflict="restart_if_failed")
                group.cancel_scope.cancel()
        os.write(1, f"result {result}\n".encode())
