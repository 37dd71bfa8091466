"""The journal in an SQLite file, as the engine sees it: plain calls that put something in the backlog, and questions.

What is written and answered, and how, is the service's (`service.py`), which has a thread, an event loop and a
connection of its own. Nothing here waits, but the blocking half of a `Reply`.
"""

from __future__ import annotations

import os
import sqlite3
import weakref
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from anyio.from_thread import start_blocking_portal

from ..engine.errors import InvalidOption, JournalClosed, UndertowError
from ..engine.ports import Earlier, Past, Record
from ..engine.run import Run
from ..engine.states import Entry, StateType
from ..engine.waking import Reply
from . import again
from .backlog import Backlog, LogLine
from .opening import MEMORY, MISUNDERSTOOD, prepare, translate
from .retention import Retention, sweep
from .schedules import Timetable
from .schema import DURABILITIES, Durability
from .service import Service
from .slots import SlotPool

T = TypeVar("T")


class SQLiteJournal:
    """A journal in an SQLite file, or in memory with the path `":memory:"`.

    `durability` says what an acknowledged record survives: `"process"` (default) the death of the process, and a power
    cut but for the last 100 ms; `"power"` a power cut; `"none"` makes no promise about either. `keep_for` and
    `keep_runs` say how long runs that have ended are kept, and how many outermost flow runs (default: all, for ever).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        durability: Durability = "process",
        keep_for: timedelta | None = None,
        keep_runs: int | None = None,
    ) -> None:
        if durability not in DURABILITIES:
            raise InvalidOption("durability", durability, f"one of {', '.join(map(repr, DURABILITIES))}")
        self.path = MEMORY if str(path) == MEMORY else os.path.abspath(path)
        self.durability: Durability = durability
        self.retention = Retention(keep_for, keep_runs)
        self._backlog = Backlog()
        self._service: Service | None = None
        self._pending: set[Reply[Any]] = set()
        self._stack = ExitStack()
        self._hear: Callable[[str, Record], None] = _nobody_listens

    def listen(self, hear: Callable[[str, Record], None]) -> None:
        """Call `hear(key, record)`, in the service's thread, when another process asks something of a run."""
        self._hear = hear

    @property
    def pool(self) -> SlotPool:
        """The slots that are shared with other processes."""
        return SlotPool(self.ask)

    @property
    def timetable(self) -> Timetable:
        """The schedules that are served, and their fires."""
        return Timetable(self.ask)

    # --- said ------------------------------------------------------------------------------------------------------

    @property
    def crowded(self) -> bool:
        """True while so much waits to be written that new runs had better wait for `room`."""
        return self._backlog.crowded

    def waiting(self) -> tuple[int, int | None]:
        """How many runs wait to be written, and when the first of them changed last, in microseconds."""
        runs = self._backlog.runs
        try:
            return len(runs), runs[0].history[-1][3]
        except IndexError:
            return 0, None

    @property
    def dropped_logs(self) -> int:
        """How many log records were dropped because too many waited to be written."""
        return self._backlog.dropped_logs

    def record(self, run: Run) -> None:
        """Have the run's story written soon. Never waits."""
        if run.recorded:
            return
        service = self._running()
        run.recorded = True
        self._backlog.add(run)
        if not service.roused:
            service.rouse()

    def keep(self, key: str, record: Record) -> None:
        """Have a result written soon, before the run that made it. Never waits."""
        self._change(key, record)

    def discard(self, key: str) -> None:
        """Have what was kept or reserved under a key deleted soon. Never waits."""
        self._change(key, None)

    def _change(self, key: str, record: Record | None) -> None:
        service = self._running()
        self._backlog.keep(key, record)
        if not service.roused:
            service.rouse()

    def log(self, run_id: str, at: int, level: str, logger: str, message: str) -> None:
        """Have a log record of a run written soon. Never waits; a journal that is closed takes none."""
        service = self._service
        if service is None:
            return
        self._backlog.log(LogLine(run_id, at, level, logger, message))
        if not service.roused:
            service.rouse()

    # --- asked -----------------------------------------------------------------------------------------------------

    def commit(self) -> Reply[None]:
        """All that was said so far is committed; the reply raises `JournalError` if it can't be."""
        service = self._service
        if not self._backlog and (service is None or not service.writing):
            return Reply.of(None)
        service = self._running()
        reply, is_first = self._backlog.ask()
        if is_first:
            service.hurry()
        return reply

    async def room(self) -> None:
        """Return when the backlog has been written down, however long that takes."""
        await self._backlog.room()

    def load(self, key: str) -> Reply[Record | None]:
        """What was kept under a key."""
        waiting = self._backlog.results
        return Reply.of(waiting[key]) if key in waiting else self.ask(Service.load, key)

    def oldest(self, prefix: str) -> Reply[tuple[str, Record] | None]:
        """The first of what is on disk under keys that begin so."""
        return self.ask(Service.oldest, prefix)

    def reserve(self, key: str, run_id: str) -> Reply[bool]:
        """Put the key aside for this process, until it is discarded or the process dies."""
        return self.ask(again.reserve, key, run_id)

    def enroll(self, run: Run) -> Reply[Earlier | None]:
        """Write a run of a chosen id, or find the one that is there."""
        return self.ask(again.enroll, run)

    def find(self, run_id: str) -> Reply[Earlier | None]:
        """What is written of a run."""
        return self.ask(again.find, run_id)

    def claim(self, run_id: str, types: Sequence[StateType], entry: Entry) -> Reply[Earlier | None]:
        """Append `entry` to the history of a run that ended in one of these types, if nobody else has by now."""
        return self.ask(again.claim, run_id, types, entry)

    def past(self, root: str) -> Reply[Past]:
        """What is recorded about the steps of a durable run."""
        return self.ask(again.past, root)

    def fork(self, root: str, at: str, new_root: str) -> Reply[None]:
        """Copy the recorded steps that were called before the run `at`, for the durable run `new_root`."""
        return self.ask(again.fork, root, at, new_root)

    def recoverable(self) -> Reply[list[Earlier]]:
        """The outermost durable runs that were broken off."""
        return self.ask(again.recoverable)

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Rows of a read-only query on the journal's own connection, after all that was said before; it blocks."""
        self.commit().wait()
        return self.ask(Service.named_rows, sql, values).wait()

    def tidy(self) -> Reply[None]:
        """Remove now, as far as one pass goes, what `keep_for` and `keep_runs` don't keep, and expired results."""
        return self.ask(_tidy, self.retention, Path(f"{self.path}.results"))

    def ask(self, question: Callable[..., Coroutine[Any, Any, T]], *values: Any) -> Reply[T]:
        """Have a question about the connection answered, in the service's loop."""
        service = self._running()
        reply: Reply[T] = Reply()
        self._pending.add(reply)
        service.answer(reply, self._answered, reply, service, question, *values)
        return reply

    async def _answered(
        self, reply: Reply[T], service: Service, question: Callable[..., Coroutine[Any, Any, T]], *values: Any
    ) -> T:
        try:
            return await question(service, *values)
        finally:
            self._pending.discard(reply)

    def _running(self) -> Service:
        if self._service is None:
            raise self._closed()
        return self._service

    def _closed(self) -> JournalClosed:
        return JournalClosed(
            self.path, "it is closed, or belongs to the parent of this process", "Open an engine here."
        )

    # --- opening and closing ---------------------------------------------------------------------------------------

    def open(self) -> None:
        """Start the service thread and open the file. Raises `JournalError`s naming the file and the remedy."""
        prepare(self.path)
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal("asyncio", name="undertow-journal"))
            service = Service(self.path, self.durability, self._backlog, self.retention, self._hear)
            try:
                stack.enter_context(portal.wrap_async_context_manager(service))
            except UndertowError:
                raise
            except (sqlite3.Error, *MISUNDERSTOOD) as error:
                raise translate(self.path, error) from error
            self._stack = stack.pop_all()
        self._service = service
        _open_journals.add(self)

    def close(self) -> None:
        """Write what is left, close the file, and end the thread. Closing twice is harmless."""
        if self._service is not None:
            self._service.closing = True
        self._stack.close()
        _open_journals.discard(self)
        self._service = None
        for reply in (*self._pending, *self._backlog.asked):
            reply.settle(error=self._closed())

    def poison(self) -> None:
        """Refuse every further use: this is the copy of the journal in a forked child."""
        self._service = None
        self._backlog = Backlog()
        _abandoned.append(self._stack)
        self._stack = ExitStack()


def _nobody_listens(key: str, record: Record) -> None:
    """What becomes of requests where there is no engine."""


async def _tidy(service: Service, retention: Retention, files: Path) -> None:
    await retention.tidy(service.connection)
    await sweep(service.connection, files)


_abandoned: list[ExitStack] = []
"""Contexts of the parent's threads, in a forked child: leaving them, or dropping them, would wait for those threads."""

_open_journals: weakref.WeakSet[SQLiteJournal] = weakref.WeakSet()


def _poison_all() -> None:
    for journal in list(_open_journals):
        journal.poison()


os.register_at_fork(after_in_child=_poison_all)
