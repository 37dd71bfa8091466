"""The journal's service: a connection and its tasks, in an event loop and a thread of their own.

It takes what has come together in the backlog, a few milliseconds' worth, and writes it as one statement, which SQLite
commits by itself: no transaction of ours is ever left open, and user tasks, which may be cancelled anywhere, never
touch the connection. It answers questions, notices the death of other processes, and tidies up.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from ..engine.errors import JournalClosed, JournalError
from ..engine.ports import Record
from ..engine.run import Run
from ..engine.waking import Reply
from . import owners, requests, results
from .backlog import Backlog
from .opening import MEMORY, check, translate
from .retention import Retention, sweep
from .rows import MAX_ROWS, clean, log_statement, parameters, statement
from .schema import SCHEMA, Durability

T = TypeVar("T")
logger = logging.getLogger("undertow")

LINGER_SECONDS = 0.005
"""How long the first record of a group waits for others to join it."""

SYNC_SECONDS = 0.1
"""With durability "process", at most so much acknowledged history is lost when the power fails."""

RETRY_SECONDS = 0.5
"""How long to wait before a group that could not be written is tried again."""

REQUEST_SECONDS = 0.5
"""How often to look whether another process asks for a run to be cancelled."""

SWEEP_SECONDS = 600.0
"""How often to look for results' files that nothing refers to."""

PEER_SECONDS = 5.0
"""How often to look whether another process that uses the journal has died."""


class Service:
    """The open journal; a context of the service thread's loop. Raises `JournalError`s and `sqlite3.Error`s."""

    def __init__(
        self,
        path: str,
        durability: Durability,
        backlog: Backlog,
        retention: Retention,
        cancel: Callable[[str, str], None],
    ) -> None:
        self.path = path
        self.owner = 0
        self.closing = False
        self.roused = False
        """True while a write is due: nobody else needs to ask for one."""
        self.writing = False
        self._durability = durability
        self._backlog = backlog
        self._retention = retention
        self._cancel = cancel
        self._files = Path(f"{path}.results")
        self._background: deque[asyncio.Task[None]] = deque(maxlen=64)
        self._trouble = ""
        self._synced_at = 0.0
        self._synchronous = ""

    # --- from any thread -----------------------------------------------------------------------------------------

    def rouse(self) -> None:
        """Have the backlog written soon."""
        self._post(lambda: self._loop.call_later(LINGER_SECONDS, self._go.set))
        self.roused = True

    def hurry(self) -> None:
        """Have the backlog written now."""
        self.roused = True
        self._post(self._go.set)

    def answer(self, reply: Reply[T], question: Callable[..., Coroutine[Any, Any, T]], *values: Any) -> None:
        """Have a question about the connection answered."""

        async def ask() -> None:
            try:
                reply.settle(await question(*values))
            except sqlite3.Error as error:
                reply.settle(error=self._closed() if self.closing else translate(self.path, error))
            except Exception as error:
                reply.settle(error=self._closed() if self.closing else error)
            finally:
                reply.settle(error=self._closed())  # counts only for a question that the closing has cut off

        self._post(lambda: self._background.append(self._loop.create_task(ask())))

    def _post(self, fn: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(fn)
        except RuntimeError:
            raise self._closed() from None

    def _closed(self) -> JournalClosed:
        return JournalClosed(self.path, "it is closed", "Open an engine here.")

    # --- opening and closing -------------------------------------------------------------------------------------

    async def __aenter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._go = asyncio.Event()
        self.connection = await aiosqlite.connect(self.path, isolation_level=None, cached_statements=16)
        self.connection.row_factory = sqlite3.Row
        try:
            await self._prepare()
        except BaseException:
            await self.connection.close()
            raise
        self._writer = self._loop.create_task(self._write_groups())
        self._watchers = [self._loop.create_task(self._watch()), self._loop.create_task(self._hear())]

    async def _prepare(self) -> None:
        await self.connection.execute("PRAGMA busy_timeout = 10000")
        # The tables first: another process that makes them at this moment writes them and both numbers at once.
        tables = await self.scalar("SELECT count(*) FROM sqlite_master")
        found = [await self.scalar(f"PRAGMA {name}") for name in ("application_id", "user_version")]
        check(self.path, found[0], found[1], tables)
        await self.connection.execute("PRAGMA journal_mode = WAL")
        await self._set_synchronous("OFF" if self._durability == "none" else "NORMAL")
        if tables == 0:
            await self._create()
        self.owner = await owners.register(self.connection)
        await owners.bury_the_dead(self.connection, self.owner)

    async def _create(self) -> None:
        try:
            await self.connection.executescript(SCHEMA)
        except sqlite3.OperationalError:
            # Another process made it first, between our look and our lock.
            if self.connection.in_transaction:
                await self.connection.rollback()
            if not await self.scalar("SELECT count(*) FROM sqlite_master WHERE name = 'run'"):
                raise

    async def __aexit__(self, *_: object) -> None:
        for watcher in self._watchers:
            watcher.cancel()
        self._go.set()
        try:
            await self._writer
            if self._backlog:
                await self._write_group()  # once more, for a try that had begun before the close
            if self._backlog.runs:
                logger.error("Journal %s was closed with %d runs not written.", self.path, len(self._backlog.runs))
            await owners.deregister(self.connection, self.owner)
        except sqlite3.Error as error:
            logger.error("%s", translate(self.path, error))
        finally:
            await self.connection.close()

    async def _watch(self) -> None:
        """Every few seconds, look after processes that died and after what need not be kept."""
        swept_at = -math.inf
        while True:
            more = False
            try:
                more = await self._retention.tidy(self.connection)
                if time.monotonic() - swept_at > SWEEP_SECONDS:
                    await sweep(self.connection, self._files)
                    swept_at = time.monotonic()
            except (sqlite3.Error, OSError) as error:
                logger.warning("%s", self._told(error))
            await asyncio.sleep(0 if more else PEER_SECONDS)
            try:
                await owners.bury_the_dead(self.connection, self.owner)
            except sqlite3.Error as error:
                logger.warning("%s", translate(self.path, error))

    async def _hear(self) -> None:
        """Look again and again whether another process asks for something."""
        while self.path != MEMORY:
            await asyncio.sleep(REQUEST_SECONDS)
            try:
                if await self.row(requests.WAITING, (self.owner,)) is not None:
                    for run_id, reason in await self.rows(requests.TAKE, (self.owner,)):
                        self._cancel(run_id, reason)
            except sqlite3.Error as error:
                logger.warning("%s", translate(self.path, error))

    # --- writing -------------------------------------------------------------------------------------------------

    async def _write_groups(self) -> None:
        backlog = self._backlog
        while True:
            await self._go.wait()
            self._go.clear()
            self.writing = True
            error = await self._write_group()
            self.writing = False
            if self.closing and (error or not backlog):
                return
            # Sleep only after another look at the backlog: a record made before the flag fell would rouse nobody.
            self.roused = False
            if backlog or backlog.asked:
                self.roused = True
                self._loop.call_later(RETRY_SECONDS if error else 0, self._go.set)

    async def _write_group(self) -> JournalError | None:
        """Write all that is in the backlog, and answer those who asked before it was taken."""
        backlog = self._backlog
        asked = [backlog.asked.popleft() for _ in range(len(backlog.asked))]
        error: JournalError | None = None
        for _ in range(max(-(-len(backlog.runs) // MAX_ROWS), bool(backlog))):
            runs = backlog.take_runs(MAX_ROWS)
            try:
                await self._before_group()
                await self._write_results()
                await self._write_runs(runs)
                await self._write_logs()
            except (sqlite3.Error, OSError) as raised:
                error = self._told(raised)
                backlog.put_back(runs)
                break
        backlog.look()
        for reply in asked:
            reply.settle(error=error)
        if error is not None and str(error) != self._trouble:
            logger.error("%s", error)  # once for each trouble, however often it is tried again
        self._trouble = "" if error is None else str(error)
        return error

    def _told(self, error: Exception) -> JournalError:
        if isinstance(error, sqlite3.Error):
            return translate(self.path, error)
        return JournalError(self.path, f"a result's file can't be written ({error})", "Check the disk and the folder.")

    async def _write_runs(self, runs: list[Run]) -> None:
        """Write these runs; one that can't be put into a row is reported, and takes no other along."""
        if not runs:
            return
        try:
            values = parameters(runs, self.owner)
        except Exception:
            if len(runs) > 1:
                for run in runs:
                    await self._write_runs([run])
            else:
                logger.exception("Run %s can't be written to the journal.", runs[0].id)
            return
        await self.connection.execute(statement(len(runs)), values)

    async def _write_results(self) -> None:
        """Write the kept results; they are on disk before the run that says so."""
        waiting = self._backlog.results
        for key, record in list(waiting.items()):
            try:
                await self._write_result(key, record)
            except (sqlite3.Error, OSError):
                raise
            except Exception:  # no fault of the file's: it would fail again and again, and all else with it
                logger.exception("The result under %r can't be written to the journal.", key)
            self._backlog.kept(key, record)

    async def _write_result(self, key: str, record: Record | None) -> None:
        if record is None:
            await self.connection.execute(results.DELETE, (key,))
        else:
            files = None if self.path == MEMORY else self._files
            await self.connection.execute(results.INSERT, results.row(key, record, files, self.owner))

    async def _write_logs(self) -> None:
        while lines := self._backlog.take_logs(MAX_ROWS):
            values = [clean(value) if isinstance(value, str) else value for line in lines for value in line]
            try:
                await self.connection.execute(log_statement(len(lines)), values)
            except sqlite3.Error:
                self._backlog.logs.extendleft(reversed(lines))
                raise

    # --- syncing -------------------------------------------------------------------------------------------------

    async def _before_group(self) -> None:
        """Choose how this group is synced: one FULL commit also covers the NORMAL ones before it."""
        if self._durability == "none":
            return
        now = time.monotonic()
        full = self._durability == "power" or now - self._synced_at >= SYNC_SECONDS
        await self._set_synchronous("FULL" if full else "NORMAL")
        if full:
            self._synced_at = now
        else:
            self._loop.call_later(SYNC_SECONDS, self._sync_later, self._synced_at)

    def _sync_later(self, since: float) -> None:
        if self._synced_at == since and not self.closing:
            self._background.append(self._loop.create_task(self._sync()))

    async def _sync(self) -> None:
        """Sync what earlier groups committed, when no later group has done it."""
        self._synced_at = time.monotonic()
        try:
            await self._set_synchronous("FULL")
            await self.connection.execute(
                "INSERT INTO synced VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET at = excluded.at",
                (time.time_ns() // 1000,),
            )
        except sqlite3.Error as error:
            logger.error("%s", translate(self.path, error))

    async def _set_synchronous(self, level: str) -> None:
        if level != self._synchronous:
            await self.connection.execute(f"PRAGMA synchronous = {level}")
            self._synchronous = level

    # --- asking --------------------------------------------------------------------------------------------------

    async def rows(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[Any]:
        """All rows of a statement.

        Fetched in the same breath: while a statement stands open, its connection reads an old snapshot, and what is
        written in between, by the service's other tasks, fails at once when another process has written since.
        """
        return list(await self.connection.execute_fetchall(sql, values))

    async def row(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> Any:
        """The first row of a statement, or `None`."""
        found = await self.rows(sql, values)
        return found[0] if found else None

    async def scalar(self, sql: str, values: Sequence[Any] = ()) -> Any:
        """The first value of the first row."""
        found = await self.row(sql, values)
        return None if found is None else found[0]

    async def named_rows(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """All rows of a statement, as dictionaries."""
        return [dict(row) for row in await self.rows(sql, values)]

    async def load(self, key: str) -> Any:
        """What is kept on disk under a key."""
        found = await self.row(results.SELECT, (key,))
        return None if found is None else results.record(found, self._files)
