"""The journal's service: a connection and its tasks, in an event loop and a thread of their own.

It has what comes together in the backlog written (`writing.py`) and copied back (`checkpoints.py`) when that is due. No
transaction of ours is ever left open, and user tasks, which may be cancelled anywhere, never touch the connection. It
answers questions, notices the death of other processes, and tidies up.
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

from ..engine.errors import JournalClosed, JournalLocked, UndertowError
from ..engine.ports import Record
from ..engine.waking import Reply
from . import owners, requests, results
from .backlog import Backlog
from .checkpoints import Checkpoints, pragmas
from .opening import MEMORY, MISUNDERSTOOD, check, check_objects, translate
from .retention import Retention, sweep
from .schema import SCHEMA, Durability
from .writing import Writer

T = TypeVar("T")
logger = logging.getLogger("undertow")

LINGER_SECONDS = 0.005
"""How long the first record of a group waits for others to join it."""

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
        told_of: Callable[[str, Record], None],
    ) -> None:
        self.path = path
        self.owner = 0
        self.closing = False
        self.roused = False
        """True while a write is due: nobody else needs to ask for one."""
        self.writing = False
        self._backlog = backlog
        self._writer = Writer(path, durability, backlog)
        self._checkpoints = Checkpoints(path, durability)
        self._retention = retention
        self._told_of = told_of
        self._files = Path(f"{path}.results")
        self._background: deque[asyncio.Task[None]] = deque(maxlen=64)

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
            except UndertowError as error:
                reply.settle(error=self._closed() if self.closing else error)
            except (sqlite3.Error, *MISUNDERSTOOD) as error:
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
        connection = aiosqlite.connect(
            self.path, isolation_level=None, cached_statements=32, factory=self._writer.connect
        )
        try:
            self.connection = await connection
        except BaseException:
            # aiosqlite doesn't wait for its thread then, which has something to tell this loop yet.
            await asyncio.to_thread(connection._thread.join)
            raise
        self.connection.row_factory = sqlite3.Row
        try:
            await self._prepare()
        except BaseException:
            await self.connection.close()
            raise
        self._groups = self._loop.create_task(self._write_groups())
        self._watchers = [self._loop.create_task(self._watch()), self._loop.create_task(self._hear())]

    async def _prepare(self) -> None:
        await self.connection.execute("PRAGMA busy_timeout = 10000")
        # The tables first: another process that makes them at this moment writes them and both numbers at once.
        tables = await self.scalar("SELECT count(*) FROM sqlite_master")
        found = [await self.scalar(f"PRAGMA {name}") for name in ("application_id", "user_version")]
        check(self.path, found[0], found[1], tables)
        check_objects(self.path, await self.rows("SELECT type, name, sql FROM sqlite_master"))
        await self.connection.execute("PRAGMA journal_mode = WAL")
        for pragma in (*pragmas(), f"PRAGMA synchronous = {self._writer.synchronous}"):
            await self.connection.execute(pragma)
        if tables == 0:
            await self._create()
        self.owner = self._writer.owner = await owners.register(self.connection)
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
            await self._groups
            if self._backlog:
                await self._write()  # once more, for a try that had begun before the close
            if self._backlog.runs:
                logger.error("Journal %s was closed with %d runs not written.", self.path, len(self._backlog.runs))
            if self._writer.seconds_to_sync() is not None:
                await self.connection.execute("PRAGMA synchronous = FULL")  # and with the last word all before it
            await owners.deregister(self.connection, self.owner)
        except (sqlite3.Error, *MISUNDERSTOOD) as error:
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
            except (sqlite3.Error, OSError, *MISUNDERSTOOD) as error:
                logger.warning("%s", translate(self.path, error))
            await asyncio.sleep(0 if more else PEER_SECONDS)
            try:
                await owners.bury_the_dead(self.connection, self.owner)
            except (sqlite3.Error, *MISUNDERSTOOD) as error:
                logger.warning("%s", translate(self.path, error))

    async def _hear(self) -> None:
        """Look again and again whether another process asks for something, and tell of each request once."""
        heard: set[str] = set()
        seen: tuple[int, int] | None = None
        while self.path != MEMORY:
            await asyncio.sleep(REQUEST_SECONDS)
            try:
                # The first number changes when others write, the second when we do: else there is nothing new.
                written = await self.scalar("PRAGMA data_version"), self.connection.total_changes
                if written == seen:
                    continue
                asked = await self.rows(requests.ASKED, (self.owner,))
            except sqlite3.Error as error:
                logger.warning("%s", translate(self.path, error))
                continue
            for key, *kept in asked:
                if key not in heard:
                    self._told_of(key, results.record(kept, self._files))
            heard = {key for key, *_ in asked}
            seen = written

    # --- writing -------------------------------------------------------------------------------------------------

    async def _write_groups(self) -> None:
        """Write what is in the backlog when that is due. After a look at an empty one, wait to be roused."""
        backlog, writer = self._backlog, self._writer
        next_look: asyncio.TimerHandle | None = None
        while True:
            await self._go.wait()
            self._go.clear()
            seconds: float | None = LINGER_SECONDS
            if backlog or backlog.asked:
                await self._write()
            else:
                if writer.seconds_to_sync() == 0:
                    await self._write()
                # Sleep only after another look at the backlog: a record made before the flag fell would rouse nobody.
                self.roused = False
                if backlog or backlog.asked:
                    self.roused = True
                else:
                    seconds = writer.seconds_to_sync()
            if self.closing and (writer.error or not backlog):
                return
            if writer.error is not None:
                seconds = RETRY_SECONDS
            elif backlog.asked:
                seconds = 0
            if next_look is not None:
                next_look.cancel()
            next_look = None if seconds is None else self._loop.call_later(seconds, self._go.set)

    async def _write(self) -> None:
        self.writing = True
        await self.connection.commit()
        self.writing = False
        if self._checkpoints.due():
            try:
                await asyncio.to_thread(self._checkpoints.make)
            except sqlite3.Error as error:
                if not isinstance(translate(self.path, error), JournalLocked):  # another process is at it
                    logger.warning("%s", translate(self.path, error))

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

    async def oldest(self, prefix: str) -> Any:
        """The first of what is kept on disk under keys that begin so."""
        found = await self.row(requests.OLDEST, (prefix, f"{prefix}\U0010ffff"))
        return None if found is None else (found[0], results.record(found[1:], self._files))

    async def load(self, key: str) -> Any:
        """What is kept on disk under a key."""
        found = await self.row(results.SELECT, (key,))
        return None if found is None else results.record(found, self._files)
