"""Writing: how what has come together in the backlog gets to disk, in one visit to the thread of the connection.

A group is one statement for each kind of record, which SQLite commits by itself: first the results, then the runs that
they belong to, then the log records. When a group is due is the service's to say (`service.py`).
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

from ..engine.errors import JournalError
from ..engine.ports import Record
from ..engine.run import Run
from . import results
from .backlog import Backlog
from .opening import MEMORY, translate
from .rows import (
    MAX_ROWS,
    RESULT_COLUMNS,
    clean,
    deletion,
    log_statement,
    padded,
    parameters,
    result_statement,
    statement,
)
from .schema import Durability

logger = logging.getLogger("undertow")

SYNC_SECONDS = 0.1
"""With durability "process", at most so much acknowledged history is lost when the power fails."""

SYNC = "INSERT INTO synced VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET at = excluded.at"


class GroupConnection(sqlite3.Connection):
    """A connection in autocommit mode, whose `commit`, in the connection's own thread, writes what waits."""

    def __init__(self, *args: Any, write: Callable[[sqlite3.Connection], None], **options: Any) -> None:
        super().__init__(*args, **options)
        self._write = write

    def commit(self) -> None:
        """Write what waits, and commit it."""
        self._write(self)


class Writer:
    """Writes down the backlog of one journal. The service has one `write` under way at a time."""

    def __init__(self, path: str, durability: Durability, backlog: Backlog) -> None:
        self.owner = 0
        self.error: JournalError | None = None
        """Why the last group could not be written, if it could not."""
        self.synchronous = "OFF" if durability == "none" else "NORMAL"
        """The level of syncing that the connection is set to."""
        self._path = path
        self._files = None if path == MEMORY else Path(f"{path}.results")
        self._durability = durability
        self._backlog = backlog
        self._synced_at = 0.0
        self._unsynced = False

    def connect(self, *args: Any, **options: Any) -> sqlite3.Connection:
        """A connection whose `commit` is `write`; SQLite's `factory`."""
        return GroupConnection(*args, write=self.write, **options)

    def write(self, connection: sqlite3.Connection) -> None:
        """Write all that is in the backlog, and answer those who asked before it was taken; sync what is due."""
        backlog = self._backlog
        asked = [backlog.asked.popleft() for _ in range(len(backlog.asked))]
        error: JournalError | None = None
        try:
            for _ in range(max(-(-len(backlog.runs) // MAX_ROWS), bool(backlog))):
                self._write_group(connection)
            if self.seconds_to_sync() == 0:
                self._sync(connection)
        except (sqlite3.Error, OSError) as raised:
            error = translate(self._path, raised)
        backlog.look()
        for reply in asked:
            reply.settle(error=error)
        if error is not None and str(error) != str(self.error):
            logger.error("%s", error)  # once for each trouble, however often it is tried again
        self.error = error

    def _write_group(self, connection: sqlite3.Connection) -> None:
        runs = self._backlog.take_runs(MAX_ROWS)
        try:
            self._choose_level(connection)
            self._write_results(connection)
            self._write_runs(connection, runs)
            self._write_logs(connection)
        except (sqlite3.Error, OSError):
            self._backlog.put_back(runs)
            raise

    def _write_runs(self, connection: sqlite3.Connection, runs: list[Run]) -> None:
        """Write these runs; one that can't be put into a row is reported, and takes no other along."""
        if not runs:
            return
        try:
            values = parameters(runs, self.owner)
        except Exception:
            if len(runs) > 1:
                for run in runs:
                    self._write_runs(connection, [run])
            else:
                logger.exception("Run %s can't be written to the journal.", runs[0].id)
            return
        connection.execute(statement(len(runs)), values)

    def _write_results(self, connection: sqlite3.Connection) -> None:
        """Write the kept results, in the order of their keys; they are on disk before the run that says so."""
        for _, like in groupby(list(self._backlog.results.items()), lambda kept: kept[1] is None):
            waiting = list(like)
            for start in range(0, len(waiting), MAX_ROWS):
                self._write_alike(connection, waiting[start : start + MAX_ROWS])

    def _write_alike(self, connection: sqlite3.Connection, waiting: list[tuple[str, Record | None]]) -> None:
        """Keep these results, or delete them all; one that can't be written is reported, and takes no other along."""
        try:
            kept = [(key, record) for key, record in waiting if record is not None]
            if kept:
                values = [value for key, record in kept for value in results.row(key, record, self._files, self.owner)]
                connection.execute(result_statement(len(kept)), padded(values, len(RESULT_COLUMNS)))
            else:
                connection.execute(deletion(len(waiting)), padded([key for key, _ in waiting], 1))
        except (sqlite3.Error, OSError):
            raise
        except Exception:  # no fault of the file's: it would fail again and again, and all else with it
            if len(waiting) > 1:
                for one in waiting:
                    self._write_alike(connection, [one])
                return
            logger.exception("The result under %r can't be written to the journal.", waiting[0][0])
        for key, record in waiting:
            self._backlog.kept(key, record)

    def _write_logs(self, connection: sqlite3.Connection) -> None:
        while lines := self._backlog.take_logs(MAX_ROWS):
            values = [clean(value) if isinstance(value, str) else value for line in lines for value in line]
            try:
                connection.execute(log_statement(len(lines)), values)
            except sqlite3.Error:
                self._backlog.logs.extendleft(reversed(lines))
                raise

    # --- syncing -------------------------------------------------------------------------------------------------

    def seconds_to_sync(self) -> float | None:
        """How long what was written may still do without a sync; `None` when nothing waits for one."""
        return max(0.0, self._synced_at + SYNC_SECONDS - time.monotonic()) if self._unsynced else None

    def _choose_level(self, connection: sqlite3.Connection) -> None:
        """Choose how this group is synced: one FULL commit also covers the NORMAL ones before it."""
        if self._durability == "none":
            return
        now = time.monotonic()
        full = self._durability == "power" or now - self._synced_at >= SYNC_SECONDS
        self._set_level(connection, "FULL" if full else "NORMAL")
        if full:
            self._synced_at = now
        self._unsynced = not full

    def _sync(self, connection: sqlite3.Connection) -> None:
        """Sync what earlier groups committed, since no later one has done it."""
        self._set_level(connection, "FULL")
        connection.execute(SYNC, (time.time_ns() // 1000,))
        self._synced_at = time.monotonic()
        self._unsynced = False

    def _set_level(self, connection: sqlite3.Connection, level: str) -> None:
        if level != self.synchronous:
            connection.execute(f"PRAGMA synchronous = {level}")
            self.synchronous = level
