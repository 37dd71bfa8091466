"""Checkpoints: when the write-ahead log is copied back into the journal's file, and who keeps still meanwhile.

SQLite before 3.51.3 can damage a file when one connection starts the log anew at the moment at which another begins a
checkpoint, for that takes frames of the new log for copied ones of the old. So no connection to a journal makes
checkpoints in passing. They are a step of their own, during which one connection copies while a second one holds the
write lock, so that no process can write, and so start the log anew, and no two checkpoints meet.

What SQLite does when the last connection closes needs no such care: it holds the whole file then, against everybody.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from .opening import MEMORY
from .schema import Durability

RACE_FIXED = (3, 51, 3)
RACE_FIXED_TOO = ((3, 44, 6), (3, 50, 7))
"""Releases, and older lines of releases, from which on SQLite itself is free of the race."""

WAL_BYTES = 4 * 1024 * 1024
"""A log of more bytes is copied back; when it starts anew, its file is cut to so many."""

LOCK_SECONDS = 1.0
"""How long to wait for the write lock."""


def has_race(version: tuple[int, ...]) -> bool:
    """Whether this version of SQLite has the race that the checkpoints here avoid."""
    mended = (fixed for fixed in RACE_FIXED_TOO if fixed[:2] == version[:2])
    return version < next(mended, RACE_FIXED)


def pragmas() -> tuple[str, ...]:
    """What every connection that writes to a journal begins with."""
    return "PRAGMA wal_autocheckpoint = 0", f"PRAGMA journal_size_limit = {WAL_BYTES}"


class Checkpoints:
    """The checkpoints of one journal, made by this process."""

    def __init__(self, path: str, durability: Durability) -> None:
        self._path = path
        self._syncs = durability != "none"
        self._size = 0
        self._enough = WAL_BYTES

    def due(self) -> bool:
        """Whether the log has grown enough. Its file is looked at, not opened: that would drop SQLite's locks."""
        if self._path == MEMORY:
            return False
        try:
            self._size = os.stat(f"{self._path}-wal").st_size
        except OSError:
            return False
        if self._size <= WAL_BYTES:
            self._enough = WAL_BYTES  # it has started anew
        return self._size > self._enough

    def make(self) -> None:
        """Copy the log back, as far as no reader still needs what the file holds. Blocks; raises `sqlite3.Error`s."""
        # Where a reader has kept the log from starting anew, it is not tried again for every group.
        self._enough = max(self._size, WAL_BYTES) + WAL_BYTES // 4
        with closing(self._connect()) as keeping, closing(self._connect()) as copying:
            copying.execute("PRAGMA user_version").fetchall()  # or it does not know yet that there is a log
            keeping.execute("BEGIN IMMEDIATE")
            self._copy(copying)

    def _connect(self) -> sqlite3.Connection:
        uri = f"{Path(self._path).as_uri()}?mode=rw"  # never makes a file
        connection = sqlite3.connect(uri, uri=True, timeout=LOCK_SECONDS, isolation_level=None)
        for pragma in (*pragmas(), f"PRAGMA synchronous = {'NORMAL' if self._syncs else 'OFF'}"):
            connection.execute(pragma)
        return connection

    def _copy(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
