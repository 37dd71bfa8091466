"""Durable flows: what completed inside one is recorded before it is delivered, and handed back when it runs again.

A run inside a durable flow is a *step*. Its identity is made when the call is made, from where it is called (the
parent's step), what is called, a digest of the inputs, and how many equal calls came before; so it does not depend on
the order in which concurrent runs happen to start. A step whose result is recorded never runs again in that flow run:
not in a retry of the flow, and not after a crash, in another process.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import anyio

from .arguments import resolve
from .caching import digest
from .codec import canonical
from .context import CURRENT
from .errors import JournalError, ResultNotSerializable, RunNotResumable
from .futures import Future
from .memo import serialize, unserialize
from .ports import Record
from .run import Outcome, Run
from .states import COMPLETED, FAILED
from .tracebacks import describe, format_error

if TYPE_CHECKING:
    from .definition import Definition

_definitions: WeakValueDictionary[str, Definition[..., Any]] = WeakValueDictionary()


# --- identity --------------------------------------------------------------------------------------------------


def take_step(run: Run) -> None:
    """Give a new run its place in the durable flow that it is made in."""
    parent = run.parent
    if parent is not None and parent.step is not None:
        run.replaying = parent.replaying
        run.step = next_step(parent, run.definition.key, _inputs(run))


def next_step(parent: Run, key: str, inputs: bytes) -> str:
    """The identity of the next call of `key` with these inputs inside a durable run."""
    assert parent.step is not None
    if parent.steps is None:
        parent.steps = {}
    call = digest(parent.step.encode(), key.encode(), inputs)
    parent.steps[call] = occurrence = parent.steps.get(call, 0) + 1
    return digest(call.encode(), str(occurrence).encode())


def _inputs(run: Run) -> bytes:
    """Bytes for the arguments: a future counts as the step it stands for, what has no canonical form as its type."""

    def stand_in(value: Any) -> Any:
        return [value.run.step or value.run.id, "future"] if isinstance(value, Future) else repr(value)

    parts = []
    for name, value in sorted(run.definition.signature.bind(run.args, run.kwargs).items()):
        try:
            plain = canonical(resolve(value, stand_in))
        except ResultNotSerializable:
            plain = f"{type(value).__module__}.{type(value).__qualname__}".encode()
        parts += [name.encode(), plain]
    return digest(*parts).encode()


# --- records ---------------------------------------------------------------------------------------------------


async def replay(run: Run) -> Outcome | None:
    """The recorded outcome of the step; the run then is the recorded one, with its id."""
    journal = run.core.journal
    key = f"step:{run.step}"
    record = journal.load_blocking(key) if run.runner is run.core.inline else await journal.load(key)
    if record is None:
        return None
    run.id = record.run_id
    run.history = [(COMPLETED, "Completed", "", record.kept_at)]
    run.recorded = True  # its row is in the journal, from when it ran
    return Outcome(COMPLETED, "Completed", "", unserialize(record))


async def record_step(run: Run, outcome: Outcome) -> Outcome:
    """See a completed step's result on disk before anybody is given it; a result that can't be kept fails the run."""
    if outcome.type is not COMPLETED or run.ended:
        return outcome
    core = run.core
    try:
        value = serialize(outcome.data, run.definition.serializer)
        core.journal.keep(f"step:{run.step}", Record(value, run.definition.serializer, run.id, core.clock.now()))
        if run.runner is core.inline:
            core.journal.commit_blocking()
        else:
            await core.journal.commit()
    except (ResultNotSerializable, JournalError) as error:
        run.error = format_error(error)
        return Outcome(FAILED, "Failed", f"{run.kind.capitalize()} run raised {describe(error)}", error)
    return outcome


# --- starting, and starting again ------------------------------------------------------------------------------


def begin_durable(run: Run) -> None:
    """Make the run the root of a durable tree, and keep what it takes to run it again.

    Raises `ResultNotSerializable` for parameters that can't be written down.
    """
    run.step = run.id
    value = serialize([run.definition.key, list(run.args), dict(run.kwargs)], "msgpack")
    run.core.journal.keep(f"start:{run.id}", Record(value, "msgpack", run.id, run.core.clock.now()))


def remember_definition(definition: Definition[..., Any]) -> None:
    """Let the definition be found by its key when a run of it is resumed."""
    _definitions[definition.key] = definition


def find_definition(run_id: str, key: str) -> Definition[..., Any]:
    """The flow that a recorded run is of. Raises `RunNotResumable`."""
    found = _definitions.get(key)
    module = key
    while found is None and "." in module:
        module = module.rpartition(".")[0]
        if module not in sys.modules:
            try:
                importlib.import_module(module)
            except ImportError:
                continue
        found = _definitions.get(key)
    if found is None:
        raise RunNotResumable(run_id, f"its flow {key} is not loaded; import the module that defines it first")
    return found


async def sleep(seconds: float) -> None:
    """Sleep that many seconds. In a durable flow, one that is resumed sleeps only for the rest."""
    run = CURRENT.get()
    if run is None or run.step is None:
        await anyio.sleep(seconds)
        return
    core = run.core
    key = f"step:{next_step(run, 'undertow.sleep', repr(seconds).encode())}"
    record = await core.journal.load(key) if run.replaying else None
    if record is None:
        now = core.clock.now()
        record = Record(serialize(now + int(seconds * 1e6), "msgpack"), "msgpack", run.id, now)
        core.journal.keep(key, record)
        await core.journal.commit()
    await anyio.sleep(max(0.0, (unserialize(record) - core.clock.now()) / 1e6))
