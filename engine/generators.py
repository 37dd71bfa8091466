"""Calls of generator tasks: the items reach the caller one by one, and nothing keeps them.

The run is Running from the first item asked for until the last; a consumer that leaves early completes it. Because
the caller drives, there are no retries and no timeout here: a submitted generator task has both, and gives a list.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from anyio.from_thread import run as run_in_loop

from .context import CURRENT
from .futures import deliver
from .holding import release_slots, take_slots
from .pipeline import admit, begin, drive, failure, finish, interrupted, refused
from .prints import printing
from .run import Outcome, Run
from .states import COMPLETED
from .waking import in_event_loop

_EXHAUSTED = object()


async def _enter(run: Run) -> Outcome | None:
    """Everything before the first item; an outcome means that there will be none."""
    try:
        outcome = await admit(run) if run.waits_on else refused(run)
        if outcome is None:
            await take_slots(run)
            await begin(run)
    except BaseException as error:
        await _leave(run, interrupted(run, error))
        raise
    if outcome is not None:
        await _leave(run, outcome)
    return outcome


async def _leave(run: Run, outcome: Outcome) -> None:
    release_slots(run)
    await finish(run, outcome)


def _completed() -> Outcome:
    return Outcome(COMPLETED, "Completed", "")


def _ended_by(run: Run, error: BaseException) -> Outcome:
    if isinstance(error, GeneratorExit):
        return _completed()  # the consumer has seen enough
    return failure(run, error) if isinstance(error, Exception) else interrupted(run, error)


async def async_items(run: Run) -> AsyncIterator[Any]:
    """The items of an async generator task."""
    refused = await _enter(run)
    if refused is not None:
        deliver(refused, run)
        return
    generator = run.definition.fn(*run.args, **run.kwargs)
    outcome = _completed()
    try:
        while True:
            token = CURRENT.set(run)
            try:
                with printing(run):
                    item = await anext(generator, _EXHAUSTED)
            finally:
                CURRENT.reset(token)
            if item is _EXHAUSTED:
                break
            yield item
    except BaseException as error:
        outcome = _ended_by(run, error)
        raise
    finally:
        await generator.aclose()
        await _leave(run, outcome)


def sync_items(run: Run) -> Iterator[Any]:
    """The items of a generator task, produced in the caller's own thread."""
    step = _stepper(run)
    refused = step(_enter, run)
    if refused is not None:
        deliver(refused, run)
        return
    generator = run.definition.fn(*run.args, **run.kwargs)
    outcome = _completed()
    try:
        while True:
            token = CURRENT.set(run)
            try:
                with printing(run):
                    item = next(generator, _EXHAUSTED)
            finally:
                CURRENT.reset(token)
            if item is _EXHAUSTED:
                break
            yield item
    except BaseException as error:
        outcome = _ended_by(run, error)
        raise
    finally:
        generator.close()
        step(_leave, run, outcome)


def _stepper(run: Run) -> Callable[..., Any]:
    """How the engine's own steps are taken from here: on the spot on a loop's thread, else in the host's loop."""
    name = run.definition.name
    if in_event_loop():
        run.runner = run.core.inline
        run.on_the_spot = True

        def on_the_spot(step: Callable[..., Any], *args: Any) -> Any:
            return drive(step(*args), name)

        return on_the_spot
    run.host = run.host or run.core.portal.host()
    token = run.host.token

    def in_the_loop(step: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        async def call() -> Any:
            return await step(*args)

        return run_in_loop(call, token=token)

    return in_the_loop
