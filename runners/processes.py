"""The pool of worker processes, for sync tasks that need a processor, or a timeout that really stops them.

A worker serves one run at a time and fills one place. One that dies takes nothing with it but the attempt that it
ran; one whose attempt is cancelled or out of time is killed, and its place is free when it is gone. Idle workers
belong to their event loop, serve every runner in it, and end with it.
"""

# This is how `anyio.to_process` works, on anyio's processes and sockets. Not on `to_process` itself: that loses track
# of a worker whose caller is cancelled while it starts, and talks to it over its standard input and output, which the
# body and the programs that it starts would then read and write.

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from typing import Any

import anyio
import attrs
from anyio.abc import Process, UNIXSocketStream
from anyio.lowlevel import RunVar
from anyio.streams.buffered import BufferedByteReceiveStream

from ..engine.context import CURRENT
from ..engine.errors import CannotTravel, InvalidOption, WorkerDied, WorkersKeepDying
from ..engine.granting import Limits
from ..engine.logs import follow_host
from ..engine.prints import logs_prints
from ..engine.run import Run
from ..engine.tap import keep
from ..engine.tracebacks import describe
from . import travel
from .travel import Kind

DEATHS = 5
DEATHS_WITHIN = 60.0
"""After so many deaths within so many seconds, no body is started until there are fewer."""


class ProcessRunner:
    """Runs bodies in at most `max_workers` processes at a time (default: one for each processor).

    The function, its arguments and its result are pickled: functions and classes must stand at the top level of a
    module. A cancelled attempt, or one that is out of time, ends at once, with the processes that its body started.
    """

    def __init__(self, max_workers: int | None = None) -> None:
        if max_workers is None:
            max_workers = os.cpu_count() or 1
        if isinstance(max_workers, bool) or not isinstance(max_workers, int) or max_workers < 1:
            raise InvalidOption("max_workers", max_workers, "a whole number, 1 or more")
        self.max_workers = max_workers
        self.places = Limits({"processes": max_workers})
        self._deaths: deque[float] = deque(maxlen=DEATHS)
        self._last_death = ""

    async def run(self, run: Run, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], /) -> Any:
        call = _call(run, args, kwargs)  # `fn`, which calls the definition's function, has its like in the worker
        place = await self.places.acquire(("processes",), priority=run.definition.priority)
        try:
            self._refuse_if_many_died(run)
            kind, payload = await self._answer(run, call)
        finally:
            place.release()
        if kind is Kind.ERROR:
            raise travel.unpack_error(payload, run.name)
        try:
            return travel.loads(payload)
        except Exception as error:
            raise CannotTravel(
                f"The result of task run {run.name!r}", f"it can't be read ({describe(error)})"
            ) from None

    async def _answer(self, run: Run, call: bytes) -> tuple[Kind, bytes]:
        idle = await _idle_workers()
        while True:
            was_idle = bool(idle)
            worker = idle.pop() if idle else await WorkerProcess.start()
            answer = None
            try:
                answer = await worker.ask(call)
            finally:
                if answer is None:
                    await worker.kill()
            if answer is not None:
                idle.append(worker)
                return answer
            # One that died with nothing to do has cost nobody an attempt.
            if worker.began or not was_idle:
                self._deaths.append(run.core.monotonic())
                died = WorkerDied(run.name, worker.process.pid, _how(worker.process), worker.began)
                self._last_death = str(died)
                raise died

    def _refuse_if_many_died(self, run: Run) -> None:
        if len(self._deaths) == DEATHS:
            wait = self._deaths[0] + DEATHS_WITHIN - run.core.monotonic()
            if wait > 0:
                raise WorkersKeepDying(DEATHS, DEATHS_WITHIN, self._last_death, wait)


# --- one worker ------------------------------------------------------------------------------------------------

_START = """
import json, socket, sys
line = socket.socket(fileno=int(sys.argv[1]))
size = int.from_bytes(line.recv(8, socket.MSG_WAITALL), "big")
script, sys.path[:], sys.argv = json.loads(line.recv(size, socket.MSG_WAITALL))
from undertow.runners.worker import main
main(line, script)
"""


def _greeting() -> bytes:
    """What it takes to import the worker's program: too much, sometimes, for a command line."""
    told = json.dumps([travel.main_module(), travel.search_path(), sys.argv]).encode()
    return len(told).to_bytes(8, "big") + told


class WorkerProcess:
    """A worker process, and our end of the socket between us."""

    def __init__(self, process: Process, line: UNIXSocketStream) -> None:
        self.process = process
        self.began = False
        """Whether it has read a call that it has not answered."""
        self._line = line
        self._unsent = _greeting()
        self._received = BufferedByteReceiveStream(line)

    @classmethod
    async def start(cls) -> WorkerProcess:
        """Start a process, without waiting for it to be ready."""
        # So that what it makes of the script's classes can be read here (`multiprocessing` does the same).
        sys.modules.setdefault("__mp_main__", sys.modules["__main__"])
        worker: WorkerProcess | None = None
        ours, theirs = socket.socketpair()
        with theirs, anyio.CancelScope(shield=True):
            line = await UNIXSocketStream.from_socket(ours)
            try:
                process = await anyio.open_process(
                    [sys.executable, "-c", _START, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=None,
                    stderr=None,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C is our matter; and it can be killed with what it has started
                )
            except BaseException:
                await line.aclose()
                raise
            worker = cls(process, line)
        assert worker is not None
        return worker

    async def ask(self, call: bytes) -> tuple[Kind, bytes] | None:
        """Have a body run, passing on what it prints and logs, and return its answer; `None` when the worker died."""
        self.began = False
        try:
            await self._line.send(self._unsent + call)
        except anyio.BrokenResourceError:
            return None
        self._unsent = b""
        while True:
            try:
                kind, in_run, size = travel.HEAD.unpack(await self._received.receive_exactly(travel.HEAD.size))
                payload = await self._received.receive_exactly(size)
            except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError):
                return None
            if kind == Kind.BEGUN:
                self.began = True
            elif kind in (Kind.VALUE, Kind.ERROR):
                self.began = False
                return Kind(kind), payload
            elif in_run:
                _pass_on(kind, payload)
            else:
                Context().run(_pass_on, kind, payload)

    async def kill(self) -> None:
        """End the process, with what its body has started, and return when it is gone."""
        with anyio.CancelScope(shield=True):
            # One that has died in its body may have left some of what that started; others are not looked for, as
            # their number may be another's by now.
            if self.process.returncode is None or self.began:
                with suppress(ProcessLookupError, PermissionError):  # it is just ending
                    os.killpg(self.process.pid, signal.SIGKILL)
            await self._line.aclose()
            await self.process.aclose()


def _pass_on(kind: int, payload: bytes) -> None:
    """Print, log or keep here what was printed or logged in a worker."""
    if kind == Kind.OUTPUT:
        stream = sys.stdout if payload[0] == 1 else sys.stderr
        if stream is not None:
            stream.write(payload[1:].decode("utf-8", "replace"))
            stream.flush()
        return
    if kind == Kind.KEEP:
        run = CURRENT.get()
        if run is not None:
            keep(run, *travel.loads(payload))
        return
    try:
        record = travel.unpack_record(payload)
    except Exception as error:
        logging.getLogger("undertow").warning("A worker's log record can't be read: %s", describe(error))
        return
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def _how(process: Process) -> str:
    code = process.returncode
    if code is None or code >= 0:
        return f"exited with code {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    return f"was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"


# --- what it is told -------------------------------------------------------------------------------------------


def _call(run: Run, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """The frames that have a worker run the body. Raises `CannotTravel` naming what can't be sent."""
    function: Any = run.definition.fn
    previous = None if run.last_error is None else travel.portable(run.last_error, run.name)
    try:
        body = travel.dumps((function, tuple(args), dict(kwargs), previous))
    except CannotTravel:
        whose = f"of task {run.definition.name!r}"
        travel.dumps(function, f"The function {whose}")
        for name, value in run.definition.signature.signature.bind(*args, **kwargs).arguments.items():
            travel.dumps(value, f"Argument {name!r} {whose}")
        raise
    call = travel.Call(
        home=travel.Home.of(function),
        views=[attrs.evolve(each.view(), previous_error=None) for each in run.ancestors()],
        levels=_levels(),
        disabled=logging.root.manager.disable,
        capture_level=run.core.logs.settings.logging_capture_level,
        log_prints=logs_prints(run),
    )
    return travel.frame(Kind.CALL, travel.dumps(call)) + travel.frame(Kind.BODY, body)


def _levels() -> dict[str, int]:
    levels = {}
    for logger in travel.loggers():
        follow_host(logger)
        if logger.level:
            levels[logger.name] = int(logger.level)
    return levels


# --- those with nothing to do ----------------------------------------------------------------------------------

_IDLE: RunVar[tuple[list[WorkerProcess], AsyncGenerator[None, None]]] = RunVar("undertow_idle_workers")


async def _idle_workers() -> list[WorkerProcess]:
    """The workers of this event loop that have nothing to do."""
    kept = _IDLE.get(None)
    if kept is None:
        idle: list[WorkerProcess] = []
        end = _end_with_the_loop(idle)
        _IDLE.set(kept := (idle, end))
        await anext(end)
    return kept[0]


async def _end_with_the_loop(idle: list[WorkerProcess]) -> AsyncGenerator[None, None]:
    """Started and kept, and otherwise left alone: an event loop that ends closes its asynchronous generators."""
    try:
        yield
    finally:
        while idle:
            await idle.pop().kill()
