"""Running one flow in this process for the command line: an engine around it, and what became of it as one value.

The engine's own rules hold: a flow that fails has failed, and is reported; only an interrupt ends things early.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import anyio
import attrs

from ..engine.flow import Flow
from ..engine.pausing import forget_answers
from ..engine.recovery import BROKEN, resumed
from ..engine.run import Run
from ..engine.signals import ask
from ..engine.states import PAUSED, State, StateType
from ..wiring import Engine, default_journal
from .progress import progress


@attrs.define
class Finished:
    """What became of the run: its state, or the interrupt that ended it. `run` is missing if it never began."""

    run: Run | None = None
    state: State[Any] | None = None
    interrupt: BaseException | None = None


def journal_path(given: str | None) -> str:
    """The journal that is meant: the one given, else `$UNDERTOW_JOURNAL`, else the default."""
    return given if given is not None else str(default_journal())


def make_default_folder(path: str) -> None:
    """See to it that the folder of the default journal is there, if that is the journal."""
    if path == str(default_journal()) and not os.environ.get("UNDERTOW_JOURNAL"):
        Path(path).parent.mkdir(mode=0o700, exist_ok=True)


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
    make_default_folder(path)
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


@attrs.frozen
class Answer:
    """What a suspended run is resumed with."""

    value: Any = None


def resume_run(
    run_id: str,
    path: str,
    backend: str,
    options: Mapping[str, Any],
    on_start: Callable[[Run], None],
    answer: Answer | None = None,
) -> Finished:
    """Have a recorded durable run go on to its end; with an answer, one that is suspended.

    Raises `RunNotResumable` and `JournalError`s.
    """
    finished = Finished()

    async def go_on() -> None:
        async with Engine(path, backend=backend, recover=False) as engine:
            types: Sequence[StateType] = BROKEN
            if answer is not None:
                await forget_answers(engine.core, run_id)
                await ask(engine.core, f"resume:{run_id}", run_id, answer.value)
                types = (PAUSED,)
            finished.run = run = await resumed(engine.core, run_id, types, **options)
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


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[TextIO]:
    """Send what the program prints, child processes and all, to stderr: stdout is for JSON, by what this yields."""
    sys.stdout.flush()
    real: TextIO = sys.stdout
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ValueError):  # in a test stdout may be no file
            number = sys.stdout.fileno()
            kept = os.dup(number)
            real = stack.enter_context(open(kept, "w", encoding=sys.stdout.encoding))
            os.dup2(sys.stderr.fileno(), number)
            stack.callback(os.dup2, kept, number)
            stack.callback(sys.stdout.flush)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield real
