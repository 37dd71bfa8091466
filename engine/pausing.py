"""Pausing: a flow that waits for a person, in its process or without one, and going on with what the person says.

A *paused* run keeps its body where it is. A *suspended* one, which has to be durable, leaves it: nothing of it is in
memory, and whoever resumes it runs it again, with all that it recorded handed back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

import anyio

from .background import start
from .context import CURRENT, core_here
from .core import Core, logger
from .durable import once
from .errors import InvalidOption, NeverResumed, NotInFlow, ParameterInvalid, RunNotPaused, Suspension
from .memo import unserialize
from .parameters import checked
from .ports import Record
from .recovery import resumed
from .run import Run
from .signals import ask, taken
from .states import PAUSED, RUNNING, TERMINAL, transition

T = TypeVar("T")


@overload
async def pause_flow_run(
    wait_for_input: None = None, *, timeout: float | None = 3600, key: str | None = None
) -> Any: ...
@overload
async def pause_flow_run(wait_for_input: type[T], *, timeout: float | None = 3600, key: str | None = None) -> T: ...
def pause_flow_run(
    wait_for_input: type[Any] | None = None, *, timeout: float | None = 3600, key: str | None = None
) -> Any:
    """Pause the flow whose body calls this until `resume_flow_run`, and return the input that it is resumed with.

    With `wait_for_input`, a class or another annotation, an input that is not such a value is refused. What was
    submitted before goes on meanwhile; slots stay taken, and the flow's own timeout goes on. In a durable flow a pause
    that was passed is not repeated when the flow runs again; `key` tells pauses apart in place of the type they want.

    Raises `NeverResumed` after `timeout` seconds (`None`: it waits for ever), and `NotInFlow`.
    """
    run = _flow_run("pause_flow_run(...)")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0):
        raise InvalidOption("timeout", timeout, "a number of seconds, 0 or more, or None")

    async def wait() -> list[Any]:
        await _forget_what_came_before(run)
        until = "" if timeout is None else f", for {timeout:g} s at most"
        transition(run, PAUSED, "Paused", f"Waits for {_named(wait_for_input)}{until}.")
        answer: list[Any] | None = None
        run.core.paused[run.id] = wait_for_input
        try:
            with anyio.move_on_after(timeout):
                answer = await _answer(run, wait_for_input)
        except GeneratorExit:
            raise
        except BaseException:
            if not run.cancel_reason and not (run.host is not None and run.host.cancelled_for):
                transition(run, RUNNING, "Running", "Did not wait any longer.")
            raise
        finally:
            del run.core.paused[run.id]
        if answer is None:
            transition(run, RUNNING, "Running", "Never resumed.")
            raise NeverResumed(run.name, timeout or 0)
        transition(run, RUNNING, "Running", "Resumed.")
        return answer

    return _passed(run, "pause", wait_for_input, key, wait)


@overload
async def suspend_flow_run(wait_for_input: None = None, *, key: str | None = None) -> Any: ...
@overload
async def suspend_flow_run(wait_for_input: type[T], *, key: str | None = None) -> T: ...
def suspend_flow_run(wait_for_input: type[Any] | None = None, *, key: str | None = None) -> Any:
    """Leave the durable flow whose body calls this; when it is resumed, this returns the input it is resumed with.

    The run is Suspended, with nothing of it in memory, and may stay so over restarts of the process. Who awaits it
    gets `RunPaused`. `resume_flow_run(run_id, value)` runs it again, with what it recorded handed back. An input
    that is not of the type asked for is reported, and the run suspends itself again.

    Raises `NotInFlow` anywhere but in the body of an outermost durable flow.
    """
    run = _flow_run("suspend_flow_run(...)")
    if run.step is None or run.is_step:
        raise NotInFlow("suspend_flow_run(...)", "the body of an outermost @flow(durable=True)")

    async def leave() -> list[Any]:
        await _forget_what_came_before(run)
        await run.core.journal.commit()
        while (found := await run.core.journal.oldest(_prefix(run.id))) is not None:
            accepted = _accepted(run, wait_for_input, found)
            if accepted is not None:
                return accepted
            await run.core.journal.commit()
        raise Suspension(f"Waits for {_named(wait_for_input)}.")

    return _passed(run, "suspend", wait_for_input, key, leave)


async def resume_flow_run(run_id: str, value: object = None) -> None:
    """Let a paused or suspended flow run go on, with a value as its input; it is on disk when this returns.

    A paused run goes on in its own process, at once in this one; a suspended one becomes a background run of the
    engine around this call, which has to know its flow. Raises `RunUnknown`, `RunEnded`, `RunNotPaused` (also when
    somebody was faster), `ParameterInvalid` for an input that a paused run of this process does not take, and
    `RunNotResumable`.
    """
    core = core_here()
    if core.paused.get(run_id) is not None:
        checked(run_id, "value", value, core.paused[run_id])
    async with core.turn(f"answer:{run_id}"):
        await core.journal.commit()
        found = await core.journal.find(run_id)
        if found is not None and found.history[-1][0] not in (PAUSED, *TERMINAL):
            raise RunNotPaused(run_id, found.history[-1][1])
        suspended = found is not None and found.history[-1][1] == "Suspended"
        if suspended:
            await forget_answers(core, run_id)  # whoever gave it could not have the run go on
        elif await core.journal.oldest(_prefix(run_id)) is not None:
            raise RunNotPaused(run_id, "resumed already")
        await ask(core, f"resume:{run_id}", run_id, value)
        if suspended:
            start(core, await resumed(core, run_id, (PAUSED,)))


# --- what both share -------------------------------------------------------------------------------------------


def _flow_run(what: str) -> Run:
    run = CURRENT.get()
    if run is None or run.kind != "flow":
        raise NotInFlow(what, "a flow's body")
    if not run.definition.is_async:  # told at the call: a coroutine that nobody awaits looks like a consent
        raise NotInFlow(what, "an `async def` flow's body")
    return run


def _prefix(run_id: str) -> str:
    return f"ask:resume:{run_id}:"


def _named(wanted: Any) -> str:
    return "resume_flow_run" if wanted is None else f"an input: {getattr(wanted, '__name__', wanted)}"


async def _passed(run: Run, what: str, wanted: Any, key: str | None, wait: Callable[[], Awaitable[list[Any]]]) -> Any:
    async with run.core.turn(_prefix(run.id)):
        asked, value = await once(run, f"undertow.{what}", key or _named(wanted), f"{what}_flow_run()", wait)
        run.core.journal.discard(asked)
    return value if wanted is None else checked(run.name, "value", value, wanted)


async def _forget_what_came_before(run: Run) -> None:
    """Nobody can have meant this pause yet; unless it is the same one in another life of the run."""
    if run.past is None:
        await forget_answers(run.core, run.id)


async def forget_answers(core: Core, run_id: str) -> None:
    """Drop what a run was to be resumed with."""
    while (found := await core.journal.oldest(_prefix(run_id))) is not None:
        core.journal.discard(found[0])
        await core.journal.commit()


async def _answer(run: Run, wanted: Any) -> list[Any]:
    """The first input that is of the type wanted, and where it was kept."""
    while True:
        accepted = _accepted(run, wanted, await taken(run.core, run.id, _prefix(run.id)))
        if accepted is not None:
            return accepted


def _accepted(run: Run, wanted: Any, found: tuple[str, Record]) -> list[Any] | None:
    key, record = found
    value = unserialize(record)
    try:
        if wanted is not None:
            checked(run.name, "value", value, wanted)
    except ParameterInvalid as error:
        logger.error("Run %r is not resumed. %s", run.name, error)
        run.core.journal.discard(key)
        return None
    return [key, value]
