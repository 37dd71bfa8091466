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

import anyio
import attrs
import uuid_utils

from .context import CURRENT, TAGS, TRANSACTION
from .granting import Limits
from .logs import Logs
from .ports import Clock, Journal, Observer, Randomness, Runner, SystemClock
from .run import Run, Tally
from .settings import Settings
from .spill import Budget
from .states import PENDING
from .waking import Waker

if TYPE_CHECKING:
    from .definition import Definition
    from .futures import Future
    from .host import Host, Portal
    from .memo import Flight
    from .plans import Plan

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
    background: WeakValueDictionary[str, Future[Any]] = attrs.field(factory=WeakValueDictionary)
    """Futures of runs that belong to the engine, by id."""
    bells: dict[str, list[Waker]] = attrs.field(factory=dict)
    """Who waits for something to be asked of a run, or of a schedule, by its id or name."""
    paused: dict[str, Any] = attrs.field(factory=dict)
    """The type of the input that paused runs wait for, by id."""
    served: dict[str, Plan] = attrs.field(factory=dict)
    """What is served, by name."""
    budget: Budget | None = None
    """How much of the results of done futures may wait in memory."""
    flows: dict[str, Run] = attrs.field(factory=dict)
    """Flow runs whose bodies are running, by id."""
    logs: Logs = attrs.field(factory=lambda: Logs(Settings()))
    """What it asks of logging, while it is open."""
    host: Host | None = None
    """Where background runs live, while the engine is open in an event loop."""
    is_open: bool = True
    is_closing: bool = False
    """It takes no new background runs any more."""
    late_after: float = 15.0
    """Seconds after its time at which a scheduled run that has not begun is Late."""
    is_default: bool = False
    """Opened by the first run because there was no other: nothing may be left running in it."""
    finish_seconds: float = 10.0
    """How long hooks and the last commit of a cancelled run may take."""
    _warned: set[str] = attrs.field(factory=set)
    _turns: WeakValueDictionary[str, anyio.Lock] = attrs.field(factory=WeakValueDictionary)

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
                instead = f"{name}.submit(...)" if definition.kind == "task" else f"engine.start({name}, ...)"
                logger.warning(
                    "The sync %s %r held the event loop for %.1f s. `await %s` runs it in a thread.",
                    definition.kind,
                    name,
                    held,
                    instead,
                )

    def cancel_flow(self, run_id: str, reason: str) -> None:
        """Cancel a flow run of this engine, from any thread: one whose body is running, or a background run."""
        run, future = self.flows.get(run_id), self.background.get(run_id)
        host = None if run is None else run.host
        if host is not None:
            host.cancel(reason)
        elif future is not None:
            future.cancel(reason)

    # --- being asked for something -----------------------------------------------------------------------------

    def ring(self, name: str) -> None:
        """Wake those who wait for something to be asked of that run or schedule; from any thread."""
        for bell in tuple(self.bells.get(name, ())):
            bell.wake()

    def turn(self, prefix: str) -> anyio.Lock:
        """A lock for those who take requests of one kind, so that each takes another."""
        return self._turns.setdefault(prefix, anyio.Lock())

    @contextmanager
    def listening(self, name: str) -> Iterator[Waker]:
        """A bell that rings when something is asked of that run or schedule."""
        bell = Waker()
        self.bells.setdefault(name, []).append(bell)
        try:
            yield bell
        finally:
            self.bells[name].remove(bell)
            if not self.bells[name]:
                del self.bells[name]

    def observe(self, run: Run) -> None:
        """Tell the observers of a transition; one that raises is dropped, never the run."""
        for observer in list(self.observers):
            try:
                observer(run)
            except Exception:
                logger.exception("Observer %r raised, and is told nothing more.", observer)
                self.observers.remove(observer)
