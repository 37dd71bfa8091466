"""The ports of one engine, in one value: what every run of it is given.

`Core` knows how to make a run and nothing about where the ports come from; the composition root builds it.
"""

from __future__ import annotations

import logging
import random as random_module
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import attrs
import uuid_utils

from .context import CURRENT, TAGS, TRANSACTION
from .limits import Limits
from .logs import Logs
from .ports import Clock, Journal, Observer, Randomness, Runner, SystemClock
from .run import Run, Tally
from .settings import Settings
from .spill import Budget
from .states import PENDING

if TYPE_CHECKING:
    from .definition import Definition
    from .futures import Future
    from .host import Host, Portal
    from .memo import Flight

logger = logging.getLogger("undertow")
logger.addHandler(logging.NullHandler())

HELD_LOOP_SECONDS = 0.1
"""How long a sync call may hold an event loop before that is worth a warning."""


def new_id() -> str:
    """A time-ordered UUID (version 7), as text."""
    return str(uuid_utils.uuid7())


@attrs.define(eq=False)
class Core:
    """Clock, randomness, journal, runners and limits of one engine."""

    journal: Journal
    inline: Runner
    """Runs the body of a sync task that is called on an event loop's thread."""
    threads: Runner
    """Runs the bodies of sync functions that are submitted."""
    portal: Portal
    """Hosts what is called from plain threads."""
    limits: Limits = attrs.field(factory=Limits)
    clock: Clock = attrs.field(factory=SystemClock)
    monotonic: Callable[[], float] = time.monotonic
    random: Randomness = attrs.field(factory=random_module.Random)
    new_id: Callable[[], str] = new_id
    observers: list[Observer] = attrs.field(factory=list)
    flights: dict[str, Flight] = attrs.field(factory=dict)
    """Cached results that are being computed now, by key."""
    enrolled: WeakValueDictionary[str, Future[Any]] = attrs.field(factory=WeakValueDictionary)
    """Futures of runs whose ids were chosen, by id."""
    budget: Budget | None = None
    """How much of the results of done futures may wait in memory."""
    flows: dict[str, Run] = attrs.field(factory=dict)
    """Flow runs whose bodies are running, by id."""
    logs: Logs = attrs.field(factory=lambda: Logs(Settings()))
    """What it asks of logging, while it is open."""
    host: Host | None = None
    """Where background runs live, while the engine is open in an event loop."""
    is_open: bool = True
    is_default: bool = False
    """Opened by the first run because there was no other: nothing may be left running in it."""
    finish_seconds: float = 10.0
    """How long hooks and the last commit of a cancelled run may take."""
    _warned: set[str] = attrs.field(factory=set)

    def make_run(
        self,
        definition: Definition[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        map_index: int | None = None,
        run_id: str | None = None,
        parentless: bool = False,
    ) -> Run:
        """A run in its first state, recorded."""
        parent = None if parentless else CURRENT.get()
        if parent is None or parent.core is not self:
            flow, host, parent = None, self.host, None
        else:
            flow = parent if parent.tally is not None else parent.flow
            host = parent.host
        tags = TAGS.get()
        run = Run(
            run_id or self.new_id(),
            definition,
            self,
            parent,
            args,
            kwargs,
            [(PENDING, "Pending", "", self.clock.now())],
            definition.tags | tags if tags else definition.tags,
            flow,
            host,
            map_index,
        )
        if definition.kind == "flow":
            run.tally = Tally()
        if not parentless:
            run.transaction = TRANSACTION.get()
        return run

    @contextmanager
    def watching_hold(self, definition: Definition[..., Any]) -> Iterator[None]:
        """Around what holds up an event loop: say so once for each definition, if it took long."""
        start = self.monotonic()
        try:
            yield
        finally:
            held = self.monotonic() - start
            if held > HELD_LOOP_SECONDS and definition.key not in self._warned:
                self._warned.add(definition.key)
                name = definition.name
                logger.warning(
                    "The sync %s %r held the event loop for %.1f s. `await %s.submit(...)` runs it in a thread.",
                    definition.kind,
                    name,
                    held,
                    name,
                )

    def cancel_flow(self, run_id: str, reason: str) -> None:
        """Cancel a flow run of this engine whose body is running, from any thread; of no other run is there a word."""
        run = self.flows.get(run_id)
        host = None if run is None else run.host
        if host is not None:
            host.cancel(reason)

    def observe(self, run: Run) -> None:
        """Tell the observers of a transition; one that raises is dropped, never the run."""
        for observer in list(self.observers):
            try:
                observer(run)
            except Exception:
                logger.exception("Observer %r raised, and is told nothing more.", observer)
                self.observers.remove(observer)
