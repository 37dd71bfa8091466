"""The composition root: `Engine` wires the core to the journal and the runners, and is what an application holds.

Without one, the first run opens a default engine on `$UNDERTOW_JOURNAL`, else `~/.undertow/journal.db`, which is
flushed and closed when the process exits.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, TypeVar, overload

import anyio

from .engine import context, settings
from .engine.background import start
from .engine.core import Core
from .engine.enrolment import OnConflict, call_digest, check_choice, enrolled, taking_part
from .engine.errors import EngineClosed, EngineOpen, InvalidOption
from .engine.events import Events, find_events
from .engine.finishing import undisturbed
from .engine.flow import Flow
from .engine.futures import Future
from .engine.granting import Limits
from .engine.health import Health, check_health
from .engine.host import Host, Portal, open_host
from .engine.limits import LimitLike
from .engine.logs import Logs
from .engine.plans import Plan
from .engine.ports import Clock, Journal, Observer, OnMismatch, Randomness
from .engine.recovery import forked, recover, resumed
from .engine.run import CLOSED
from .engine.serving import claim_names, serve_plans
from .engine.settings import Settings
from .engine.signals import cancel_run, hear
from .engine.spill import Budget
from .engine.task import Task
from .engine.timetable import Schedules
from .runners import InlineRunner, ThreadRunner
from .storage import SQLiteJournal
from .storage.schema import Durability

T = TypeVar("T")
Started: TypeAlias = Flow[..., T] | Task[..., T]


def default_journal() -> Path:
    """Where the default engine's journal is."""
    return Path(settings.load().journal)


class Engine:
    """The engine of an application: a journal, limits and threads, open for the time of an `async with` (or `with`).

    `journal` is the path of an SQLite file, `":memory:"`, or a journal of your own. `limits` maps names to numbers of
    slots, `Limit(...)` or `RateLimit(...)`. `threads` bounds the threads of submitted sync tasks. `grace_seconds` is
    how long background runs may go on when the engine is closed, before they are cancelled. A scheduled run that has
    not begun `late_after` seconds after its time (default: 15) is Late.

    With `recover=True` durable flow runs that were broken off, by the death of their process or by the closing of their
    engine, go on by themselves, each after at most `max_recoveries` deaths. `keep_for` and `keep_runs` bound how long
    runs that have ended stay in the journal, and how many outermost flow runs (default: all, for ever). With
    `result_budget_bytes`, results of done futures that take more than that together wait in the journal, not in memory.

    `clock`, `random` and `observers` are there for tests and for tools. Raises `InvalidOption` for a bad option and
    `JournalError`s when it is opened.
    """

    def __init__(
        self,
        journal: str | os.PathLike[str] | Journal | None = None,
        *,
        limits: Mapping[str, LimitLike] | None = None,
        durability: Durability | None = None,
        threads: int | None = None,
        grace_seconds: float | None = None,
        recover: bool | None = None,
        max_recoveries: int | None = None,
        late_after: float | None = None,
        keep_for: timedelta | None = None,
        keep_runs: int | None = None,
        result_budget_bytes: int | None = None,
        backend: str | None = None,
        logging: Mapping[str, object] | None = None,
        clock: Clock | None = None,
        monotonic: Callable[[], float] | None = None,
        random: Randomness | None = None,
        observers: list[Observer] | None = None,
    ) -> None:
        chosen = settings.load(
            logging,
            journal=journal if isinstance(journal, str | os.PathLike) else None,
            limits=limits,
            durability=durability,
            threads=threads,
            grace_seconds=grace_seconds,
            recover=recover,
            max_recoveries=max_recoveries,
            late_after=late_after,
            keep_for=keep_for,
            keep_runs=keep_runs,
            result_budget_bytes=result_budget_bytes,
            backend=backend,
        )
        if observers is not None and (not isinstance(observers, list) or not all(map(callable, observers))):
            raise InvalidOption("observers", observers, "a list of functions of a run")
        if journal is None or isinstance(journal, str | os.PathLike):
            journal = SQLiteJournal(chosen.journal, chosen.durability, chosen.keep_for, chosen.keep_runs)
        elif not callable(getattr(journal, "record", None)):
            raise InvalidOption("journal", journal, "a path, ':memory:', or a journal of your own")
        self._max_recoveries = chosen.max_recoveries if chosen.recover else 0
        self.grace_seconds = chosen.grace_seconds
        ports = {"clock": clock, "monotonic": monotonic, "random": random, "observers": list(observers or ())}
        self.core = _made(chosen, journal, {name: port for name, port in ports.items() if port is not None})
        self._stack = AsyncExitStack()
        self._sync_stack = ExitStack()

    @property
    def journal(self) -> Journal:
        """The journal; an `SQLiteJournal` has `query(sql)`."""
        return self.core.journal

    # --- opening and closing -----------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the journal and become the engine of calls that are in no other; `with` and `async with` do it."""
        if self.core.is_open:
            raise EngineOpen
        context.check_engines_allowed()
        self.core.journal.listen(partial(hear, self.core))
        self.core.journal.open()
        self.core.logs.start()
        self.core.is_open = True
        context.enter(self.core)

    def close(self) -> None:
        """End the portal's runs, write what is left, and close the journal. Closing twice is harmless."""
        if self.core.is_open:
            self.core.is_open = self.core.is_closing = False
            self.core.served.clear()
            context.leave(self.core)
            self.core.portal.close(self.grace_seconds)
            self.core.logs.stop()
            self.core.journal.close()

    def __enter__(self) -> Engine:
        self.open()
        self._sync_stack.enter_context(self.active())
        if self._max_recoveries:
            self.core.portal.serve(self._recovering)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._sync_stack.close()
        self.close()

    async def __aenter__(self) -> Engine:
        await self._stack.enter_async_context(self._opened())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, tb)

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[None]:
        self.open()
        error: BaseException | None = None
        try:
            async with open_host(keep_members=True, lasting=True) as host:
                self.core.host = host
                if self._max_recoveries:
                    host.serve(self._recovering, host)
                with self.active():
                    try:
                        yield
                    except anyio.get_cancelled_exc_class():
                        raise
                    except BaseException as raised:
                        error = raised  # raised again outside the host, which would wrap it in a group
                await self._drain()
            if error is not None:
                raise error
        finally:
            del error
            self.core.host = None
            await undisturbed(anyio.to_thread.run_sync, self.close)

    async def _recovering(self, host: Host) -> None:
        await recover(self.core, self._max_recoveries, partial(start, self.core, host=host))

    async def _drain(self) -> None:
        """Let background runs end by themselves for the grace period, then cancel what is left."""
        host = self.core.host
        assert host is not None
        self.core.is_closing = True
        await host.drain(self.grace_seconds, CLOSED)

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """The engine as an ASGI application's lifespan: `FastAPI(lifespan=engine.lifespan)`."""
        async with self:
            yield

    @contextmanager
    def active(self) -> Iterator[Engine]:
        """Make it the engine of the calls in the block: for programs with several engines."""
        if not self.core.is_open:
            raise EngineClosed("Activating an engine")
        before = context.ENGINE.get()
        context.ENGINE.set(self.core)
        try:
            yield self
        finally:
            # Not reset by token: a server may leave its lifespan in another context than it entered it in.
            context.ENGINE.set(before)

    # --- running again ---------------------------------------------------------------------------------------------

    async def resume(self, run_id: str, *, on_mismatch: OnMismatch | None = None) -> Any:
        """Run a durable flow run again that failed, crashed or was cancelled, and return its result.

        What completed inside it is handed back and does not run again; recorded failures are tried again if the run
        had failed. `on_mismatch` overrides the flow's own. Raises `RunNotResumable`, `StepMismatch`, and whatever the
        flow raises.
        """
        run = await resumed(self.core, run_id, on_mismatch=on_mismatch)
        return await run.definition.awaited(run)

    async def retry(self, run_id: str, *, on_mismatch: OnMismatch | None = None) -> Any:
        """As `resume`, but failures that are recorded in the run are always tried again."""
        run = await resumed(self.core, run_id, on_mismatch=on_mismatch, retries_failures=True)
        return await run.definition.awaited(run)

    async def fork(
        self, run_id: str, at: str, *, new_id: str | None = None, on_mismatch: OnMismatch | None = None
    ) -> Future[Any]:
        """Start a new run of a durable flow run's flow and parameters, and return its future.

        It is handed back what the recorded run called before the step `at`, given by the id of its task run (or the
        beginning of it); that step and all that was called later run anew. Raises `RunNotResumable`.
        """
        return start(self.core, await forked(self.core, run_id, at, new_id, on_mismatch))

    # --- background runs ---------------------------------------------------------------------------------------

    @overload
    def start(
        self,
        definition: Started[Coroutine[Any, Any, T]],
        *args: Any,
        run_id: str | None = None,
        on_conflict: OnConflict = "attach",
        **kwargs: Any,
    ) -> Future[T]: ...
    @overload
    def start(
        self,
        definition: Started[T],
        *args: Any,
        run_id: str | None = None,
        on_conflict: OnConflict = "attach",
        **kwargs: Any,
    ) -> Future[T]: ...
    def start(
        self,
        definition: Any,
        *args: Any,
        run_id: str | None = None,
        on_conflict: OnConflict = "attach",
        **kwargs: Any,
    ) -> Future[Any]:
        """Start a run that belongs to the engine, not to the caller, and return its future at once.

        It outlives the request that started it; the engine waits for it, for `grace_seconds`, when it is closed.

        With a `run_id` of your choice there is one execution for that id, in all processes that share the journal: a
        later call with the same arguments gets the outcome of the first (`on_conflict="attach"`), is refused
        (`"reject"`), or restarts a run that failed (`"restart_if_failed"`; a durable one goes on where it was).

        Raises `EngineClosed`, `SignatureMismatch` if the arguments don't fit, `InvalidOption` for an impossible id, and
        `RunIdConflict`; where the other run is another process's, the future raises that.
        """
        if not isinstance(definition, Flow | Task):
            raise InvalidOption("start", definition, "a @flow or a @task")
        if not self.core.is_open or self.core.is_closing:
            raise EngineClosed(f"Starting {definition.name}")
        check_choice(run_id, on_conflict)
        run = definition.make_run(args, kwargs, core=self.core, run_id=run_id, parentless=True)
        if run_id is None:
            self.core.journal.record(run)
            return start(self.core, run)
        run.call = call_digest(run)
        run.given_name = run.given_name or f"{definition.name}-{run_id}"
        future = taking_part(self.core, run, on_conflict)
        return start(self.core, run, partial(enrolled, on_conflict=on_conflict)) if future is None else future

    async def cancel(self, run_id: str, reason: str = "") -> None:
        """Have a flow run end Cancelled, whichever process it is in; one of another process, as soon as that looks.

        Does nothing to a run that has ended, or that there is none of.
        """
        await cancel_run(self.core, run_id, reason or "engine.cancel() was called")

    def handle(self, run_id: str) -> Future[Any] | None:
        """The future of a background run of this process by its id, while anybody holds it; `None` for any other."""
        return self.core.background.get(run_id)

    def events(self, run_id: str) -> Events:
        """What happens to a run of this process, and inside it: `async for event in engine.events(run_id)`.

        Its history so far comes first, and its final state last. Raises `RunNotHere`.
        """
        return find_events(self.core, run_id)

    async def health(self, timeout: float = 2.0) -> Health:
        """How the engine is, for probes: found out within `timeout` seconds. Raises nothing."""
        return await check_health(self.core, timeout)

    # --- by themselves -----------------------------------------------------------------------------------------

    def serve(self, *plans: Plan) -> None:
        """Run flows when their plans say so, for as long as the engine is open: `engine.serve(flow.on(cron=...))`.

        A plain call, for a web application's lifespan or a script: the engine owns the runs, waits for them for
        `grace_seconds` when it is closed, and then cancels them. Raises `EngineClosed` and `InvalidOption`.
        """
        if not self.core.is_open or self.core.is_closing:
            raise EngineClosed("Serving schedules")
        claim_names(self.core, plans)
        if self.core.host is not None:
            self.core.host.serve(serve_plans, self.core, plans, self.core.host)
        else:
            self.core.portal.serve(partial(serve_plans, self.core, plans))

    @property
    def schedules(self) -> Schedules:
        """The schedules in the journal: `await engine.schedules.pause(name)`, `resume`, `trigger` and `backfill`."""
        return Schedules(self.core)


def _made(chosen: Settings, journal: Journal, ports: Mapping[str, Any]) -> Core:
    """The core of an engine with these settings."""
    now = {"now": ports["monotonic"]} if "monotonic" in ports else {}
    return Core(
        journal=journal,
        inline=InlineRunner(),
        threads=ThreadRunner(chosen.threads),
        portal=Portal(chosen.backend),
        limits=Limits(chosen.limits, pool=journal.pool, **now),
        budget=None if chosen.result_budget_bytes is None else Budget(chosen.result_budget_bytes),
        is_open=False,
        late_after=chosen.late_after,
        logs=Logs(chosen),
        **ports,
    )


_default: list[Engine] = []
_lock = threading.Lock()


def _open_default() -> Core:
    with _lock:
        if not _default or not _default[0].core.is_open:
            path = default_journal()
            if path == Path.home() / ".undertow" / "journal.db":
                path.parent.mkdir(mode=0o700, exist_ok=True)
            engine = Engine(path)
            engine.core.journal.open()
            engine.core.logs.start()
            engine.core.is_open = engine.core.is_default = True
            if not _default:
                atexit.register(_close_default)
            _default[:] = [engine]
        return _default[0].core


def _close_default() -> None:
    for engine in _default:
        engine.close()


context.install_default(_open_default)
