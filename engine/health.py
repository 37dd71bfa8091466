"""Health: how an engine is, for the probes of a load balancer or an orchestrator.

Asked with a time limit, and answered whatever is the matter. That the journal can be written is tried, not guessed: a
small record is committed and removed again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import anyio
import attrs

from .core import Core
from .errors import JournalError
from .ports import Record


@runtime_checkable
class Telling(Protocol):
    """What a journal may tell besides."""

    path: str

    def waiting(self) -> tuple[int, int | None]:
        """How many runs wait to be written, and when the first of them changed last, in microseconds."""
        ...


@attrs.frozen
class Health:
    """How an engine is. `ok` when there are no `problems`, each of which is one line for a person."""

    problems: tuple[str, ...]
    journal: str | None
    """The path of the journal, of one that has a path."""
    journal_writable: bool
    """Whether a commit came through in time."""
    backlog: int | None
    """How many runs wait to be written, if the journal tells."""
    oldest_unwritten_seconds: float | None
    """For how long one of them has waited, if any does."""
    running_flows: int
    """Flow runs whose bodies run."""
    waiting: Mapping[str, int]
    """How many requests wait for slots, by limit."""
    schedules: int
    """How many schedules are served."""
    closing: bool
    """Whether it is being closed, and starts no more background runs."""

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON knows it."""
        return {"ok": self.ok, **attrs.asdict(self), "problems": list(self.problems), "waiting": dict(self.waiting)}


async def check_health(core: Core, timeout: float) -> Health:
    """How the engine is, within `timeout` seconds. Raises nothing."""
    problems = []
    if not core.is_open:
        problems.append("The engine is not open.")
    elif core.is_closing:
        problems.append("The engine is being closed.")
    trouble = await _trouble(core, timeout)
    if trouble:
        problems.append(trouble)
    if core.journal.crowded:
        problems.append("So much waits to be written to the journal that new runs have to wait.")
    path, backlog, since = _told(core)
    return Health(
        problems=tuple(problems),
        journal=path,
        journal_writable=not trouble,
        backlog=backlog,
        oldest_unwritten_seconds=None if since is None else max(0, core.clock.now() - since) / 1e6,
        running_flows=len(core.flows),
        waiting={name: core.limits.waiting(name) for name in list(core.limits.buckets)},
        schedules=len(core.served),
        closing=core.is_closing,
    )


async def _trouble(core: Core, timeout: float) -> str:
    """What is wrong with writing to the journal; empty when nothing is."""
    journal, key, now = core.journal, f"probe:{os.getpid()}", core.clock.now()
    try:
        journal.keep(key, Record(b"", "probe", "", now, now))
        try:
            with anyio.move_on_after(timeout) as scope:
                await journal.commit()
        finally:
            journal.discard(key)
    except JournalError as error:
        return str(error)
    except Exception as error:  # a journal of somebody's own may raise anything
        return f"The journal raised {type(error).__name__}: {error}"
    return f"The journal has not committed within {timeout:g} s." if scope.cancelled_caught else ""


def _told(core: Core) -> tuple[str | None, int | None, int | None]:
    """Path, backlog and since when something waits, of a journal that tells."""
    if not isinstance(core.journal, Telling):
        return None, None, None
    return core.journal.path, *core.journal.waiting()
