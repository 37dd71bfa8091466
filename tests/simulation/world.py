"""A world: one engine after another on one disk, in one thread and virtual time, with clients, faults and a judge.

Each life is a process: it opens an engine on what the disk holds, its clients ask for their flows, and it ends in an
orderly way, early, or by dying at any step. The last life is free of faults and has to bring everything to its end.
All that happens is noted in a trace, which is one and the same for one seed.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Any

import anyio
import anyio.to_thread
import attrs

from undertow import Engine, RateLimit
from undertow.engine.errors import Fail
from undertow.engine.limits import Limit
from undertow.engine.run import Run
from undertow.engine.waking import Waker

from . import scheduling
from .bodies import WORLD, of
from .faults import Faults
from .journal import Disk, Row, SimulatedJournal
from .model import EPOCH, Model
from .plans import LIMITS, RATE, RATE_PER_SECOND, RATE_SLOTS, Client, Kind, Node, draw
from .threads import SimulatedThreads

LONG = 2000.0
"""Virtual seconds within which every life of a world has to end."""
MOST_EVENTS = 20_000
"""What a world notes at most: more is a world that goes round in circles."""


class Stuck(Exception):
    """The world goes round in circles."""


@attrs.define
class How:
    """How a body ended; `cancelled` until it is known better."""

    end: str = "cancelled"
    returned: list[Any] = attrs.field(factory=list)


class World:
    """One seed's world. `play` lives it; `trace`, `faults.fired` and `model.wrong` tell what happened."""

    def __init__(self, seed: int, kind: Kind = "mixed") -> None:
        self.plan = draw(seed, kind)
        self.nodes = self.plan.nodes()
        self.faults = Faults(seed)
        self.random = Random(f"world {seed}")
        self.disk = Disk()
        self.trace: list[tuple[Any, ...]] = []
        self.life = 0
        self.dead = False
        self._ids = 0
        self._steps_to_live = 0
        """How many events the present process lives for; 0 for one that does not die."""
        self._thread: How | None = None
        own = {name: node.own_slots for node in self.nodes.values() for name in node.limits if name not in LIMITS}
        self.model = Model(self.disk, anyio.current_time, {**LIMITS, **own}, self.note)
        self.model.held = self._held
        self.model.excused = lambda: self.journal.excused
        self.model.is_punctual = self.faults.is_punctual
        self.model.kept = lambda key: self.journal.holds(key)

    # --- what everything in the world stands on --------------------------------------------------------------------

    def node(self, path: str) -> Node:
        """The node of a path; the runs of a map or a stream share one."""
        return self.nodes[path.partition("[")[0]]

    def note(self, *what: Any) -> None:
        """Add to the trace. The process may die of it."""
        if self.dead:
            return
        self.trace.append((round(anyio.current_time(), 6), self.life, *what))
        if len(self.trace) > MOST_EVENTS:
            raise Stuck(f"more than {MOST_EVENTS} events")
        if self._steps_to_live:
            self._steps_to_live -= 1
            if not self._steps_to_live:
                self._die()

    def later(self, seconds: float, fn: Callable[[], object]) -> None:
        """Call `fn` in virtual time, in this life of the world."""

        async def wait() -> None:
            await anyio.sleep(seconds)
            fn()

        self.background.start_soon(wait)

    def now(self) -> int:
        """Wall-clock time: the world is its engines' clock."""
        return int((EPOCH + anyio.current_time()) * 1e6)

    def block(self, seconds: float) -> None:
        """A retry on the spot holds the thread, for which no time passes here."""

    def new_id(self) -> str:
        self._ids += 1
        return f"run-{self._ids:04d}"

    def _held(self, name: str) -> float:
        bucket = self.engine.core.limits.buckets.get(name)
        return 0.0 if bucket is None else bucket.taken

    # --- the ledger ------------------------------------------------------------------------------------------------

    @contextmanager
    def body(self, run: Run, node: Node) -> Iterator[How]:
        """Around the body of a run: what really ran, noted outside of the engine."""
        if self._thread is not None:
            yield self._thread  # it began when its thread did
            return
        how, life = How(), self.life
        number = self.model.body_began(run, node)
        try:
            yield how
        except Exception as error:
            if how.end not in ("skip", "state", "later"):
                how.end = "fatal" if isinstance(error, Fail) else "raise"
            raise
        except BaseException:
            how.end = "cancelled"
            raise
        finally:
            if life == self.life:
                end = "raise" if how.end in ("state", "later") else how.end
                self.model.body_ended(run, number, end, how.returned)

    @contextmanager
    def in_thread(self, how: How) -> Iterator[None]:
        """Around the call of a function by the double of a thread."""
        self._thread = how
        try:
            yield
        finally:
            self._thread = None

    def _observe(self, run: Run) -> None:
        known = self.model.runs.get(run.id)
        self.model.transition(run, self.node(run.args[0]) if run.args else known.node)  # type: ignore[union-attr]

    def _wrote(self, before: Row | None, after: Row) -> None:
        self.note("disk", after.id, after.history[-1][1])
        self.model.wrote(before, after)

    # --- lives -----------------------------------------------------------------------------------------------------

    async def play(self) -> None:
        """Live all the lives of the world."""
        WORLD.set(self)
        lives = self.random.choice((1, 1, 2, 2, 3))
        for self.life in range(lives):
            self.faults.healed = lives > 1 and self.life == lives - 1
            with anyio.move_on_after(LONG) as scope:
                await self._live("none" if self.life == lives - 1 else self.random.choice(("crash", "crash", "close")))
            if scope.cancelled_caught:
                unfinished = [row.id for row in self.disk.rows.values() if not row.ended]
                self.model.complain("liveness", f"after {LONG:g} s these have not ended: {unfinished}")
                return

    async def _live(self, end: str) -> None:
        """One process, from its start to its end."""
        self.dead = False
        self._steps_to_live = self.random.randint(1, self.random.choice((5, 20, 80))) if end == "crash" else 0
        self.model.new_life()
        self.disk.bury(self.life, self.now())
        async with anyio.create_task_group() as self.background:
            self.journal = SimulatedJournal(
                self.disk, self.life, self.faults, self.later, self._wrote, self.model.gave_up
            )
            self.engine = self._make_engine()
            try:
                with anyio.CancelScope() as self._process:
                    await self._serve(self.random.choice((0.0, 0.5, 2.0)) if end == "close" else None)
            except Exception:
                if not self.dead:
                    raise
            if not self.dead:
                self._steps_to_live = 0
                await anyio.sleep(5)  # until the last thread has ended
                self.model.closed()
            self.background.cancel_scope.cancel()

    def _make_engine(self) -> Engine:
        engine = Engine(
            self.journal,
            limits={
                **LIMITS,
                "shared": Limit(LIMITS["shared"], shared=True),
                RATE: RateLimit(RATE_PER_SECOND, per=1.0, burst=RATE_SLOTS),
            },
            recover=True,
            max_recoveries=100,
            grace_seconds=1.0,
            clock=self,
            monotonic=anyio.current_time,
            random=self.random,
            observers=[self._observe],
        )
        engine.core.threads = SimulatedThreads(self)
        engine.core.new_id = self.new_id
        return engine

    def _die(self) -> None:
        """The process is gone, at once: what it still does in this world leaves no trace."""
        self.faults.fired["crash"] += 1
        self.trace.append((round(anyio.current_time(), 6), self.life, "dies"))
        self.dead = self.model.frozen = True
        self.journal.die()
        self._process.cancel()

    async def _serve(self, closes_after: float | None) -> None:
        async with self.engine:
            async with anyio.create_task_group() as clients:
                for number, client in enumerate(self.plan.clients):
                    clients.start_soon(self._ask, number, client)
                if closes_after is not None:
                    await anyio.sleep(closes_after)
                    self.note("closes")
                    self.faults.fired["close"] += 1
                    self.model.doomed |= self.nodes.keys()
                    clients.cancel_scope.cancel()
            while closes_after is None and self._is_busy():  # noqa: ASYNC110 - nobody would set an event
                await anyio.sleep(0.5)

    def _is_busy(self) -> bool:
        core = self.engine.core
        assert core.host is not None
        unfinished = any(not row.ended for row in self.disk.rows.values())
        return bool(unfinished or self.disk.slots or core.flows or core.host._members or self.disk.recoverable())

    # --- clients ---------------------------------------------------------------------------------------------------

    async def _ask(self, number: int, client: Client) -> None:
        """Ask for a flow, and say what one was told; only a named one is asked for in every life."""
        if self.life and client.form != "named":
            return
        await anyio.sleep(client.begins)
        root, path = of(client.root), client.root.path
        with anyio.CancelScope() as scope:
            if client.form == "await":
                self._lose_patience(client, scope.cancel)
                state = await root(path, return_state=True)
                self.model.acknowledged(state.run_id, state.type.value)
            else:
                run_id = f"named-{number}" if client.form == "named" else None
                known = run_id in self.disk.rows
                future = self.engine.start(root, path, run_id=run_id)
                self._lose_patience(client, future.cancel)
                state = await future.wait_async()
                assert state is not None
                if known and (state.is_cancelled() or "was not kept" in state.message):
                    return  # it asked after an earlier life's run and gave up, or what that returned can't be written
                self.model.acknowledged(future.run_id, state.type.value)

    def _lose_patience(self, client: Client, cancel: Callable[[], object]) -> None:
        def give_up() -> None:
            self.note("gives up", client.root.path)
            self.faults.fired["cancel"] += 1
            self.model.doomed.add(client.root.path)
            cancel()

        if client.patience is not None:
            self.later(client.patience, give_up)


def play(seed: int, backend: str, kind: Kind = "mixed") -> World:
    """Live the world of a seed, and return it."""
    world = World(seed, kind)
    with _doubles(world):
        try:
            scheduling.run(world.play, backend, seed, world.faults)
        except Exception as error:
            world.model.wrong.append(f"the world broke: {error!r}\n{''.join(traceback.format_exception(error))}")
    return world


@contextmanager
def _doubles(world: World) -> Iterator[None]:
    """Put the world's own in the place of threads, and of wake-ups, which come late or twice here."""
    wake, run_sync = Waker.wake, anyio.to_thread.run_sync
    faults = world.faults

    def wake_somehow(waker: Waker) -> None:
        late = faults.strikes("wake late")
        if late:
            world.later(faults.seconds(2), partial(wake, waker))
        else:
            wake(waker)
        if faults.strikes("wake doubled"):
            world.later(faults.seconds(2), partial(wake, waker))

    async def run_here(fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return fn(*args)

    Waker.wake, anyio.to_thread.run_sync = wake_somehow, run_here  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        Waker.wake, anyio.to_thread.run_sync = wake, run_sync  # type: ignore[method-assign]
