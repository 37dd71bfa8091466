"""A worker process from the inside: it reads calls from its socket, runs each body, and sends the outcome back.

There is no engine here, no journal and no event loop, only enough of the run for `runtime` and for the log. What the
body prints and logs goes back over the socket. When the other end is gone, so is the worker.
"""

from __future__ import annotations

import contextvars
import io
import logging
import os
import runpy
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from queue import SimpleQueue
from types import GeneratorType, ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, cast

import attrs

from ..engine import context
from ..engine.errors import NoEngineInWorker
from ..engine.ports import SystemClock
from ..engine.prints import printing
from .travel import HEAD, Call, Kind, dumps, frame, loads, loggers, pack_error, pack_record

if TYPE_CHECKING:
    from ..engine.run import Run, RunView


_CALL_HANDLERS = logging.Logger.callHandlers


def main(line: socket.socket, script: Sequence[str] | None) -> NoReturn:
    """Serve the process at the other end of the line, whose script is loaded when something of it is used."""
    if script is not None:
        sys.modules["__main__"] = sys.modules["__mp_main__"] = _Script(*script)
    context.forbid_engines(_refusal)
    try:
        Worker(line).serve()
    except OSError:
        pass  # nobody is at the other end any more
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)  # the other end learns that the worker died, and not of what
    finally:
        os._exit(1)  # whatever threads a body has left behind


class _Script(ModuleType):
    """The `__main__` of the process that started the worker; run, as `__mp_main__`, when something of it is used."""

    def __init__(self, kind: str, place: str) -> None:
        super().__init__("__mp_main__")
        self._kind, self._place, self._was_run = kind, place, False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or self._was_run:
            raise AttributeError(f"{self._place} has no {name!r}")
        run = runpy.run_module if self._kind == "name" else runpy.run_path
        self.__dict__.update(run(self._place, run_name="__mp_main__"))
        self._was_run = True
        return getattr(self, name)


def _refusal() -> Exception:
    run = context.CURRENT.get()
    return NoEngineInWorker(run.name if run is not None else None)


class _StandIn:
    """Stands where a run would, or its engine; who asks it for more than it has is told that there is no engine."""

    def __getattr__(self, name: str) -> NoReturn:
        raise _refusal()


class RemoteRun(_StandIn):
    """The run whose body is run here, or one around it: what `runtime`, its logger and `print` ask of it."""

    def __init__(self, view: RunView, parent: RemoteRun | None, core: _RemoteCore, log_prints: bool) -> None:
        self._view = view
        self.parent = parent
        self.core = core
        self.id, self.name, self.kind, self.attempts = view.id, view.name, view.kind, view.run_count
        self.definition = SimpleNamespace(name=view.function, options=SimpleNamespace(log_prints=log_prints))

    @property
    def flow(self) -> RemoteRun | None:
        return self.parent if self.parent is None or self.parent.kind == "flow" else self.parent.flow

    def view(self) -> RunView:
        return self._view


class _RemoteCore(_StandIn):
    """The engine of a run here: there is no more of it than what goes past the standard library's logging needs."""

    def __init__(self, worker: Worker, capture_level: int | None) -> None:
        self._worker = worker
        self._capture_level = capture_level
        self.logs = self.journal = self
        self.clock = SystemClock()

    def captures(self, level: int) -> bool:
        return self._capture_level is not None and level >= self._capture_level

    def log(self, run_id: str, at: int, level: str, logger: str, message: str) -> None:
        self._worker.send(Kind.KEEP, dumps((level, logger, message)))


class Worker:
    """Runs one body at a time, in the main thread; another thread listens to the socket."""

    def __init__(self, line: socket.socket) -> None:
        line.set_inheritable(False)
        self._line = line
        self._lock = threading.Lock()
        self._received: SimpleQueue[bytes] = SimpleQueue()
        self._run: Run | None = None
        self._busy = False
        self._handler = _LogToWorker(self)
        self._outlets = sys.stdout, sys.stderr = _outlet(self, 1), _outlet(self, 2)
        os.register_at_fork(before=self._flush, after_in_child=self._leave_fork_alone)

    def serve(self) -> NoReturn:
        """Run bodies for as long as there is anybody to run them for."""
        threading.Thread(target=self._listen, daemon=True, name="undertow-worker").start()
        while True:
            call, body = self._received.get(), self._received.get()
            self._busy = True
            self.send(Kind.BEGUN, b"")
            kind, payload = contextvars.copy_context().run(self._perform, loads(call), body)
            self._run = None
            self._busy = False
            self.send(kind, payload)
            del call, body, payload

    def send(self, kind: Kind, payload: bytes) -> None:
        """Send a frame, from any thread."""
        in_run = self._run is not None and context.CURRENT.get() is self._run
        with self._lock:
            self._line.sendall(frame(kind, payload, in_run))

    def _listen(self) -> None:
        try:
            with suppress(OSError), self._line.makefile("rb") as stream:  # one that is killed may reset the connection
                while len(head := stream.read(HEAD.size)) == HEAD.size:
                    self._received.put(stream.read(HEAD.unpack(head)[2]))
            if self._busy:
                os.killpg(0, signal.SIGKILL)  # the body, and the processes that it started
        finally:
            os._exit(0)  # whatever happened: who can't be told anything is of no use

    def _perform(self, call: Call, body: bytes) -> tuple[Kind, bytes]:
        name = call.views[0].name
        try:
            call.home.load()
            function, args, kwargs, previous_error = loads(body)
            self._log_as_told(call)
            self._run = run = self._remote_run(call, previous_error)
            context.CURRENT.set(run)
            with printing(run):
                value = _collected(function(*args, **kwargs))
            return Kind.VALUE, dumps(value, f"The result of task run {name!r}")
        except BaseException as error:
            return Kind.ERROR, pack_error(error, name)
        finally:
            self._flush()

    def _remote_run(self, call: Call, previous_error: BaseException | None) -> Run:
        core, run = _RemoteCore(self, call.capture_level), None
        for view in reversed([attrs.evolve(call.views[0], previous_error=previous_error), *call.views[1:]]):
            run = RemoteRun(view, run, core, call.log_prints)
        return cast("Run", run)

    def _flush(self) -> None:
        for outlet in self._outlets:
            if not outlet.closed:
                outlet.flush()

    def _log_as_told(self, call: Call) -> None:
        """Log what would be logged at the other end, and there: whatever logging the modules here have set up."""
        logging.Logger.callHandlers = _CALL_HANDLERS  # type: ignore[method-assign]
        logging.disable(call.disabled)
        for logger in [*loggers(), *map(logging.getLogger, call.levels)]:
            logger.handlers.clear()
            logger.propagate = True
            logger.setLevel(call.levels.get(logger.name, logging.NOTSET))
        logging.getLogger().addHandler(self._handler)

    def _leave_fork_alone(self) -> None:
        """A process that the body forks has the standard streams of the worker, and no part in its conversation."""
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        logging.getLogger().removeHandler(self._handler)
        os.close(self._line.detach())  # what `close` would leave open for the one who listens


def _collected(value: Any) -> Any:
    """What comes as a generator is gone through where it was made."""
    return list(value) if isinstance(value, GeneratorType) else value


class _LogToWorker(logging.Handler):
    """Sends log records to where the run is."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._worker.send(Kind.LOG, pack_record(record))
        except Exception:
            self.handleError(record)


class _Outlet(io.RawIOBase):
    """Sends what is written to where the run is; programs that the body starts write to the real file."""

    def __init__(self, worker: Worker, number: int) -> None:
        self._worker = worker
        self._number = number

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def write(self, data: Any, /) -> int:
        written = bytes(data)
        self._worker.send(Kind.OUTPUT, bytes([self._number]) + written)
        return len(written)


def _outlet(worker: Worker, number: int) -> io.TextIOWrapper:
    # No buffer of bytes between the two: each piece of text then comes whole.
    outlet = cast("io.BufferedWriter", _Outlet(worker, number))
    return io.TextIOWrapper(outlet, "utf-8", "backslashreplace", line_buffering=True)
