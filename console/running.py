"""Running one flow in this process for the command line: an engine around it, and what became of it as one value.

The engine's own rules hold: a flow that fails has failed, and is reported; only an interrupt ends things early.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import attrs

from ..engine.flow import Flow
from ..engine.recovery import resumed
from ..engine.run import Run
from ..engine.states import State
from ..wiring import Engine, default_journal
from .progress import progress
from .wording import safe


@attrs.define
class Finished:
    """What became of the run: its state, or the interrupt that ended it. `run` is missing if it never began."""

    run: Run | None = None
    state: State[Any] | None = None
    interrupt: BaseException | None = None


def journal_path(given: str | None) -> str:
    """The journal that is meant: the one given, else `$UNDERTOW_JOURNAL`, else the default."""
    return given if given is not None else str(default_journal())


def run_flow(
    flow: Flow[..., Any],
    arguments: dict[str, Any],
    path: str,
    backend: str,
    on_start: Callable[[Run], None],
    watched: bool = False,
) -> Finished:
    """Run the flow to its end, with a live view of it if it is watched.

    Raises `JournalError`s when the journal can't be opened.
    """
    if path == str(default_journal()) and not os.environ.get("UNDERTOW_JOURNAL"):
        Path(path).parent.mkdir(mode=0o700, exist_ok=True)
    finished = Finished()

    def observe(run: Run) -> None:
        if finished.run is None and run.parent is None and run.definition.fn is flow.fn:
            finished.run = run
            on_start(run)

    engine = Engine(path, backend=backend, observers=[observe])
    try:
        with progress(core=engine.core) if watched else contextlib.nullcontext():
            if flow.is_async:
                finished.state = anyio.run(_in_loop, engine, flow, arguments, backend=backend)
            else:
                with engine:
                    finished.state = flow(**arguments, return_state=True)
    except (KeyboardInterrupt, SystemExit) as interrupt:
        finished.interrupt = interrupt
    return finished


def resume_run(
    run_id: str, path: str, backend: str, options: Mapping[str, Any], on_start: Callable[[Run], None]
) -> Finished:
    """Have a recorded durable run go on to its end. Raises `RunNotResumable` and `JournalError`s."""
    finished = Finished()

    async def go_on() -> None:
        async with Engine(path, backend=backend) as engine:
            finished.run = run = await resumed(engine.core, run_id, **options)
            on_start(run)
            finished.state = await run.definition.awaited(run, return_state=True)

    try:
        anyio.run(go_on, backend=backend)
    except (KeyboardInterrupt, SystemExit) as interrupt:
        finished.interrupt = interrupt
    return finished


async def _in_loop(engine: Engine, flow: Flow[..., Any], arguments: dict[str, Any]) -> State[Any]:
    async with engine:
        state: State[Any] = await flow(**arguments, return_state=True)
    return state


class _SafeFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return safe(super().format(record), keep="\n\t")


@contextlib.contextmanager
def logging_shown() -> Iterator[None]:
    """Show the log on stderr, from WARNING on, and what runs log from INFO on, where the program set nothing up."""
    root, ours = logging.getLogger(), logging.getLogger("undertow")
    if root.handlers or ours.level != logging.NOTSET:
        yield
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_SafeFormatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S"))
    root.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        ours.setLevel(logging.NOTSET)


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send what the program prints, child processes and all, to stderr: stdout is for one JSON document."""
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ValueError):  # in a test stdout may be no file
            number = sys.stdout.fileno()
            kept = os.dup(number)
            os.dup2(sys.stderr.fileno(), number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            stack.callback(sys.stdout.flush)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield
