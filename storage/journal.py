"""The journal's writer: a thread with an event loop and one connection of its own, fed from any loop or thread.

`record` appends to a buffer and returns. The service thread takes what has come together, a few milliseconds' worth,
and writes it as one statement, which SQLite commits by itself: no transaction of ours is ever left open, and user
tasks, which may be cancelled anywhere, never touch the connection.

A run stands in the buffer at most once, however often its story changed; the row is made when it is written. So the
buffer is bounded by the number of runs, and the last word always gets to disk.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar, cast

import aiosqlite
import attrs
from anyio.from_thread import BlockingPortal, start_blocking_portal

from ..engine.errors import InvalidOption, JournalClosed, JournalError
from ..engine.ports import Record
from ..engine.run import Run
from ..engine.states import Entry, StateType
from ..engine.waking import Waker
from . import owners
from .opening import MEMORY, check, prepare, translate
from .results import INSERT, MAX_INLINE_BYTES, SELECT, read_file, write_file
from .rows import MAX_ROWS, parameters, statement
from .schema import DURABILITIES, SCHEMA, Durability

T = TypeVar("T")
logger = logging.getLogger("undertow")

LINGER_SECONDS = 0.005
"""How long the first record of a group waits for others to join it."""

SYNC_SECONDS = 0.1
"""With durability "process", at most so much acknowledged history is lost when the power fails."""

RETRY_SECONDS = 0.5
"""How long to wait before a group that could not be written is tried again."""

PEER_SECONDS = 5.0
"""How often to look whether another process that uses the journal has died."""

CLAIM = """
UPDATE run SET owner = ?, state_type = ?, ended_at = NULL, history = json_insert(history, '$[#]', json(?))
WHERE id = ? AND state_type IN ('FAILED', 'CRASHED', 'CANCELLED') RETURNING history
"""

MAX_BACKLOG = 10_000
"""Runs in the buffer beyond which new ones wait."""


class SQLiteJournal:
    """A journal in an SQLite file, or in memory with the path `":memory:"`.

    `durability` says what an acknowledged record survives: `"process"` (default) the death of the process, and a power
    cut but for the last 100 ms; `"power"` a power cut; `"none"` makes no promise about either.
    """

    def __init__(self, path: str | os.PathLike[str], durability: Durability = "process") -> None:
        if durability not in DURABILITIES:
            raise InvalidOption("durability", durability, f"one of {', '.join(map(repr, DURABILITIES))}")
        self.path = MEMORY if str(path) == MEMORY else os.path.abspath(path)
        self.durability = durability
        self.owner = 0
        self.crowded = False
        self._buffer: deque[Run] = deque()
        self._unwritten: dict[str, Record] = {}
        self._results = Path(f"{self.path}.results")
        self._background: deque[asyncio.Task[None]] = deque(maxlen=16)
        self._committers: deque[Callable[[JournalError | None], None]] = deque()
        self._gates: dict[int, Waker] = {}
        self._reset()
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None

    def _reset(self) -> None:
        self._roused = False
        self._writing = False
        self._closing = False
        self._trouble = ""
        self._synced_at = 0.0
        self._synchronous = ""

    # --- from any loop or thread -------------------------------------------------------------------------------

    def record(self, run: Run) -> None:
        """Have the run's story written soon. Never waits."""
        if run.recorded:
            return
        run.recorded = True
        self._buffer.append(run)
        if not self._roused:
            try:
                self._post(self._rouse)
            except JournalClosed:
                run.recorded = False
                raise
            self._roused = True
        if len(self._buffer) > MAX_BACKLOG:
            self.crowded = True

    def keep(self, key: str, record: Record) -> None:
        """Have a result written soon, before the run that made it. Never waits."""
        self._unwritten[key] = record

    async def load(self, key: str) -> Record | None:
        """What was kept under a key."""
        if key in self._unwritten:
            return self._unwritten[key]
        return await self._in_service(self._load, key)

    def load_blocking(self, key: str) -> Record | None:
        """`load`, holding the calling thread."""
        return self._unwritten[key] if key in self._unwritten else self._call(self._load, key)

    async def commit(self) -> None:
        """Return when all that was recorded so far is committed; raise `JournalError` if it can't be."""
        if self._idle():
            return
        waker = Waker()
        answer: list[JournalError | None] = []

        def done(error: JournalError | None) -> None:
            answer.append(error)
            waker.wake()

        self._ask(done)
        await waker.wait()
        if answer[0] is not None:
            raise answer[0]

    def commit_blocking(self) -> None:
        """`commit`, holding the calling thread."""
        if self._idle():
            return
        flag = threading.Event()
        answer: list[JournalError | None] = []

        def done(error: JournalError | None) -> None:
            answer.append(error)
            flag.set()

        self._ask(done)
        flag.wait()
        if answer[0] is not None:
            raise answer[0]

    async def room(self) -> None:
        """Return when the buffer has been written down, however long that takes."""
        while self.crowded:
            # One gate for all who wait in one loop: thousands of members may.
            gate = self._gates.setdefault(threading.get_ident(), Waker())
            if self.crowded:
                await gate.opened()

    def query(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Rows of a read-only query on the journal's own connection, after all that was recorded before."""
        self.commit_blocking()
        return self._call(self._query, sql, values)

    # --- opening and closing -----------------------------------------------------------------------------------

    def open(self) -> None:
        """Start the service thread and open the file. Raises `JournalError`s naming the file and the remedy."""
        prepare(self.path)
        self._reset()
        with ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal("asyncio", name="undertow-journal"))
            try:
                stack.enter_context(self._portal.wrap_async_context_manager(_Service(self)))
            except sqlite3.Error as error:
                raise translate(self.path, error) from error
            self._stack = stack.pop_all()
        _open_journals.add(self)

    def close(self) -> None:
        """Write what is left, close the file, and end the thread. Closing twice is harmless."""
        self._closing = True
        self._stack.close()
        _open_journals.discard(self)
        self._portal = None

    def poison(self) -> None:
        """Refuse every further use: this is the copy of the journal in a forked child."""
        self._portal = None
        self._roused = False
        self._buffer.clear()
        _abandoned.append(self._stack)
        self._stack = ExitStack()

    # --- inside ------------------------------------------------------------------------------------------------

    def _idle(self) -> bool:
        return not self._buffer and not self._unwritten and not self._writing

    def _ask(self, done: Callable[[JournalError | None], None]) -> None:
        self._committers.append(done)
        self._roused = True
        self._post(self._hurry)

    def _post(self, fn: Callable[[], object]) -> None:
        loop = self._loop if self._portal is not None else None
        if loop is None:
            raise JournalClosed(
                self.path, "it is closed, or belongs to the parent of this process", "Open an engine here."
            )
        loop.call_soon_threadsafe(fn)

    def _call(self, fn: Callable[..., Awaitable[T]], *args: Any) -> T:
        if self._portal is None:
            raise JournalClosed(
                self.path, "it is closed, or belongs to the parent of this process", "Open an engine here."
            )
        return self._portal.call(fn, *args)

    async def _in_service(self, fn: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        """Await `fn(*args)` in the service thread's loop, from any other loop."""
        waker = Waker()
        answer: list[tuple[T | None, Exception | None]] = []

        async def call() -> None:
            try:
                answer.append((await fn(*args), None))
            except sqlite3.Error as error:
                answer.append((None, translate(self.path, error)))
            except Exception as error:
                answer.append((None, error))
            finally:
                waker.wake()

        self._post(lambda: self._background.append(self._loop.create_task(call())))
        await waker.wait()
        value, error = answer[0]
        if error is not None:
            raise error
        return cast("T", value)

    # --- in the service thread ---------------------------------------------------------------------------------

    async def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._go = asyncio.Event()
        # No statement cache: a group's statement is as long as the group, and seldom comes twice.
        self._connection = await aiosqlite.connect(self.path, isolation_level=None, cached_statements=0)
        try:
            await self._prepare_file()
        except BaseException:
            await self._connection.close()
            raise
        self._writer = self._loop.create_task(self._write_groups())
        self._watcher = self._loop.create_task(self._watch_peers())

    async def _prepare_file(self) -> None:
        await self._connection.execute("PRAGMA busy_timeout = 10000")
        found = [await self._scalar(f"PRAGMA {name}") for name in ("application_id", "user_version")]
        tables = await self._scalar("SELECT count(*) FROM sqlite_master")
        check(self.path, found[0], found[1], tables)
        await self._connection.execute("PRAGMA journal_mode = WAL")
        await self._set_synchronous("OFF" if self.durability == "none" else "NORMAL")
        if tables == 0:
            await self._create()
        process = owners.this_process()
        self.owner = await self._scalar(owners.INSERT, (*attrs.astuple(process), _now()))
        await self._notice_deaths()

    async def _create(self) -> None:
        try:
            await self._connection.executescript(SCHEMA)
        except sqlite3.OperationalError:
            # Another process made it first, between our look and our lock.
            if self._connection.in_transaction:
                await self._connection.rollback()
            if not await self._scalar("SELECT count(*) FROM sqlite_master WHERE name = 'run'"):
                raise

    async def _notice_deaths(self) -> None:
        """Have the unfinished runs of processes that are gone end Crashed; look again every few seconds."""
        async with self._connection.execute(owners.OTHERS, (self.owner,)) as cursor:
            others = list(await cursor.fetchall())
        for number, *described in others:
            process = owners.Process(*described)
            if process.is_gone():
                message = f"Crash detected! Its process {process.pid} on {process.host} is gone."
                await self._connection.execute(owners.BURY, {"owner": number, "now": _now(), "message": message})
                await self._connection.execute(owners.CLOSE, (_now(), number))

    async def _watch_peers(self) -> None:
        while True:
            await asyncio.sleep(PEER_SECONDS)
            try:
                await self._notice_deaths()
            except sqlite3.Error as error:
                logger.warning("%s", translate(self.path, error))

    async def claim(self, run_id: str, entry: Entry) -> list[Entry] | None:
        """Append `entry` to the history of a run that did not complete, if nobody else has by now."""
        return await self._in_service(self._claim, run_id, entry)

    async def _claim(self, run_id: str, entry: Entry) -> list[Entry] | None:
        values = (self.owner, entry[0], json.dumps(entry), run_id)
        async with self._connection.execute(CLAIM, values) as cursor:
            row = await cursor.fetchone()
        if row is None:
            return None
        return [(StateType(kind), name, message, at) for kind, name, message, at in json.loads(row[0])]

    async def _scalar(self, sql: str, values: Sequence[Any] = ()) -> Any:
        async with self._connection.execute(sql, values) as cursor:
            row = await cursor.fetchone()
        return row[0] if row is not None else None

    async def _close(self) -> None:
        self._watcher.cancel()
        self._go.set()
        try:
            await self._writer
            if self._buffer:
                await self._write_group()  # once more, for a try that had begun before the close
            if self._buffer:
                logger.error("Journal %s was closed with %d runs not written.", self.path, len(self._buffer))
            await self._connection.execute(owners.CLOSE, (_now(), self.owner))
        except sqlite3.Error as error:
            logger.error("%s", translate(self.path, error))
        finally:
            await self._connection.close()

    def _rouse(self) -> None:
        self._loop.call_later(LINGER_SECONDS, self._go.set)

    def _hurry(self) -> None:
        self._go.set()

    async def _write_groups(self) -> None:
        while True:
            await self._go.wait()
            self._go.clear()
            self._writing = True
            error = await self._write_group()
            self._writing = False
            if self._closing and (error or not self._buffer):
                return
            # Sleep only after another look at the buffer: a record made before the flag fell would rouse nobody.
            self._roused = False
            if self._buffer or self._committers or self._unwritten:
                self._roused = True
                self._loop.call_later(RETRY_SECONDS if error else 0, self._go.set)

    async def _write_group(self) -> JournalError | None:
        """Write all that is in the buffer, and answer those who asked before it was taken."""
        asked = [self._committers.popleft() for _ in range(len(self._committers))]
        error: JournalError | None = None
        for _ in range(max(-(-len(self._buffer) // MAX_ROWS), bool(self._unwritten))):
            runs = [self._buffer.popleft() for _ in range(min(MAX_ROWS, len(self._buffer)))]
            try:
                await self._before_group()
                await self._write_results()
                await self._write_runs(runs)
            except (sqlite3.Error, OSError) as raised:
                error = self._told(raised)
                for run in runs:
                    if not run.recorded:
                        run.recorded = True
                        self._buffer.append(run)
                break
        self.crowded = len(self._buffer) > MAX_BACKLOG
        while self._gates and not self.crowded:
            self._gates.popitem()[1].wake()
        for done in asked:
            done(error)
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
        try:
            values = parameters(runs, self.owner)
        except Exception:
            if len(runs) > 1:
                for run in runs:
                    await self._write_runs([run])
            else:
                logger.exception("Run %s can't be written to the journal.", runs[0].id)
            return
        await self._connection.execute(statement(len(runs)), values)

    async def _write_results(self) -> None:
        """Write the kept results; they are on disk before the run that says so."""
        for key, record in list(self._unwritten.items()):
            value: bytes | None = record.value
            file = None
            if len(record.value) > MAX_INLINE_BYTES and self.path != MEMORY:
                value, file = None, write_file(self._results, record.value)
            row = (key, value, file, record.serializer, record.run_id, record.kept_at, record.expires_at)
            await self._connection.execute(INSERT, row)
            if self._unwritten.get(key) is record:
                del self._unwritten[key]

    async def _load(self, key: str) -> Record | None:
        async with self._connection.execute(SELECT, (key,)) as cursor:
            row = await cursor.fetchone()
        if row is None:
            return None
        value, file, serializer, run_id, kept_at, expires_at = row
        return Record(read_file(self._results, file) if file else value, serializer, run_id, kept_at, expires_at)

    async def _before_group(self) -> None:
        """Choose how this group is synced: one FULL commit also covers the NORMAL ones before it."""
        if self.durability == "none":
            return
        now = time.monotonic()
        full = self.durability == "power" or now - self._synced_at >= SYNC_SECONDS
        await self._set_synchronous("FULL" if full else "NORMAL")
        if full:
            self._synced_at = now
        else:
            self._loop.call_later(SYNC_SECONDS, self._sync_later, self._synced_at)

    def _sync_later(self, since: float) -> None:
        if self._synced_at == since and not self._closing:
            self._background.append(self._loop.create_task(self._sync()))

    async def _sync(self) -> None:
        """Sync what earlier groups committed, when no later group has done it."""
        self._synced_at = time.monotonic()
        try:
            await self._set_synchronous("FULL")
            await self._connection.execute(
                "INSERT INTO synced VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET at = excluded.at",
                (_now(),),
            )
        except sqlite3.Error as error:
            logger.error("%s", translate(self.path, error))

    async def _set_synchronous(self, level: str) -> None:
        if level != self._synchronous:
            await self._connection.execute(f"PRAGMA synchronous = {level}")
            self._synchronous = level

    async def _query(self, sql: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        async with self._connection.execute(sql, values) as cursor:
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) async for row in cursor]


class _Service:
    """The open connection and its writer task, as a context in the service thread's loop."""

    def __init__(self, journal: SQLiteJournal) -> None:
        self._journal = journal

    async def __aenter__(self) -> None:
        await self._journal._open()

    async def __aexit__(self, *_: object) -> None:
        await self._journal._close()


def _now() -> int:
    return time.time_ns() // 1000


_abandoned: list[ExitStack] = []
"""Contexts of the parent's threads, in a forked child: leaving them, or dropping them, would wait for those threads."""

_open_journals: weakref.WeakSet[SQLiteJournal] = weakref.WeakSet()


def _poison_all() -> None:
    for journal in list(_open_journals):
        journal.poison()


os.register_at_fork(after_in_child=_poison_all)
