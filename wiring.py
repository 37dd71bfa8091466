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
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, TypeVar, overload

import anyio

from .engine import context
from .engine.core import Core
from .engine.durable import find_definition
from .engine.errors import EngineClosed, EngineOpen, InvalidOption, RunNotResumable
from .engine.flow import Flow
from .engine.futures import Future
from .engine.host import Portal, open_host
from .engine.limits import LimitLike, Limits
from .engine.memo import unserialize
from .engine.pipeline import member
from .engine.ports import Clock, Journal, Observer, Randomness
from .engine.states import RUNNING, SCHEDULED
from .engine.task import Task
from .runners import InlineRunner, ThreadRunner
from .storage import SQLiteJournal
from .storage.schema import Durability

T = TypeVar("T")
Started: TypeAlias = Flow[..., T] | Task[..., T]


def default_journal() -> Path:
    """Where the default engine's journal is."""
    named = os.environ.get("UNDERTOW_JOURNAL")
    return Path(named) if named else Path.home() / ".undertow" / "journal.db"


class Engine:
    """The engine of an application: a journal, limits and threads, open for the time of an `async with` (or `with`).

    `journal` is the path of an SQLite file, `":memory:"`, or a journal of your own. `limits` maps names to numbers of
    slots, `Limit(...)` or `RateLimit(...)`. `threads` bounds the threads of submitted sync tasks. `grace_seconds` is
    how long background runs may go on when the engine is closed, before they are cancelled.

    `clock`, `random` and `observers` are there for tests and for tools. Raises `InvalidOption` for a bad option and
    `JournalError`s when it is opened.
    """

    def __init__(
        self,
        journal: str | os.PathLike[str] | Journal | None = None,
        *,
        limits: Mapping[str, LimitLike] | None = None,
        durability: Durability = "process",
        threads: int | None = None,
        grace_seconds: float = 10.0,
        backend: str = "asyncio",
        clock: Clock | None = None,
        monotonic: Callable[[], float] | None = None,
        random: Randomness | None = None,
        observers: list[Observer] | None = None,
    ) -> None:
        if limits is not None and not isinstance(limits, Mapping):
            raise InvalidOption(
                "limits", limits, "a mapping from names to numbers of slots, Limit(...) or RateLimit(...)"
            )
        if isinstance(grace_seconds, bool) or not isinstance(grace_seconds, int | float) or grace_seconds < 0:
            raise InvalidOption("grace_seconds", grace_seconds, "a number of seconds, 0 or more")
        if backend not in ("asyncio", "trio"):
            raise InvalidOption("backend", backend, "'asyncio' or 'trio'")
        if observers is not None and (not isinstance(observers, list) or not all(map(callable, observers))):
            raise InvalidOption("observers", observers, "a list of functions of a run")
        if journal is None:
            journal = default_journal()
        if not isinstance(journal, str | os.PathLike) and not callable(getattr(journal, "record", None)):
            raise InvalidOption("journal", journal, "a path, ':memory:', or a journal of your own")
        if isinstance(journal, str | os.PathLike):
            journal = SQLiteJournal(journal, durability)
        ports: dict[str, Any] = {"clock": clock, "monotonic": monotonic, "random": random, "observers": observers}
        given = {name: port for name, port in ports.items() if port is not None}
        self.grace_seconds = grace_seconds
        self.core = Core(
            journal=journal,
            inline=InlineRunner(),
            threads=ThreadRunner() if threads is None else ThreadRunner(threads),
            portal=Portal(backend),
            limits=Limits(limits, **({"now": monotonic} if monotonic else {})),
            is_open=False,
            **given,
        )
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
        self.core.journal.open()
        self.core.is_open = True
        context.enter(self.core)

    def close(self) -> None:
        """End the portal's runs, write what is left, and close the journal. Closing twice is harmless."""
        if self.core.is_open:
            self.core.is_open = False
            context.leave(self.core)
            self.core.portal.close(self.grace_seconds)
            self.core.journal.close()

    def __enter__(self) -> Engine:
        self.open()
        self._sync_stack.enter_context(self.active())
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
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self.close)

    async def _drain(self) -> None:
        """Let background runs end by themselves for the grace period, then cancel what is left."""
        host = self.core.host
        assert host is not None
        await host.drain(self.grace_seconds, "the engine was closed")

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

    async def resume(self, run_id: str) -> Any:
        """Run a durable flow run again that failed, crashed or was cancelled, and return its result.

        What completed inside it is handed back and does not run again. Raises `RunNotResumable`, and whatever the
        flow raises.
        """
        return await self._claimed(run_id, await self._resumable(run_id))

    async def _resumable(self, run_id: str) -> list[Any]:
        record = await self.core.journal.load(f"start:{run_id}")
        if record is None:
            raise RunNotResumable(run_id, "there is no durable run of that id in this journal")
        start: list[Any] = unserialize(record)
        return start

    async def _claimed(self, run_id: str, start: list[Any]) -> Any:
        key, args, kwargs = start
        definition = find_definition(run_id, key)
        await self.core.journal.commit()
        entry = (SCHEDULED, "Resuming", "", self.core.clock.now())
        history = await self.core.journal.claim(run_id, entry)
        if history is None:
            raise RunNotResumable(run_id, "it completed, or is still running")
        run = definition.make_run(args, kwargs, core=self.core, run_id=run_id, parentless=True)
        run.history = history
        run.attempts = sum(kind == RUNNING for kind, *_ in history)
        run.replaying = True
        return await definition.awaited(run)

    # --- background runs ---------------------------------------------------------------------------------------

    @overload
    def start(self, definition: Started[Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> Future[T]: ...
    @overload
    def start(self, definition: Started[T], *args: Any, **kwargs: Any) -> Future[T]: ...
    def start(self, definition: Any, *args: Any, **kwargs: Any) -> Future[Any]:
        """Start a run that belongs to the engine, not to the caller, and return its future at once.

        It outlives the request that started it; the engine waits for it, for `grace_seconds`, when it is closed.
        Raises `EngineClosed`, and `SignatureMismatch` if the arguments don't fit.
        """
        if not isinstance(definition, Flow | Task):
            raise InvalidOption("start", definition, "a @flow or a @task")
        if not self.core.is_open:
            raise EngineClosed(f"Starting {definition.name}")
        run = definition.make_run(args, kwargs, core=self.core, parentless=True)
        run.host = host = self.core.host or self.core.portal.host()
        future: Future[Any] = Future(run, host)
        self.core.journal.record(run)
        host.spawn(member, run, future)
        return future


_default: list[Engine] = []
_lock = threading.Lock()


def _open_default() -> Core:
    with _lock:
        if not _default or not _default[0].core.is_open:
            path = default_journal()
            if "UNDERTOW_JOURNAL" not in os.environ:
                path.parent.mkdir(mode=0o700, exist_ok=True)
            engine = Engine(path)
            engine.core.journal.open()
            engine.core.is_open = engine.core.is_default = True
            if not _default:
                atexit.register(_close_default)
            _default[:] = [engine]
        return _default[0].core


def _close_default() -> None:
    for engine in _default:
        engine.close()


context.install_default(_open_default)
