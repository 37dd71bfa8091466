"""Reading a journal from outside: a read-only connection of its own, that may look on while a process writes.

Reading leaves no trace: nothing in the file, and nothing beside it where no process has the journal open.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ..engine.errors import JournalCorrupt, JournalError, JournalMissing, UndertowError
from ..engine.tracebacks import describe
from .opening import MISUNDERSTOOD, check, check_objects, translate

IN_USE = ("-wal", "-journal")
"""What SQLite keeps beside a database that is open for writing, or that a process died over."""

Stillness = tuple[int, ...]


class Reader:
    """Questions to a journal, each answered by rows as dictionaries. A context manager.

    Raises `JournalError`s that name the file and the remedy.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        try:
            self._file = Path(path).resolve()
            is_folder = self._file.is_dir()
        except (OSError, RuntimeError) as error:  # too long a name, or a link to itself
            raise JournalError(self.path, f"it can't be looked for ({error})", "Give another path.") from None
        if is_folder:
            raise JournalError(self.path, "it is a folder", "Give the path of the file, such as app.db inside it.")
        if not self._file.is_file():
            raise JournalMissing(self.path, "there is no such file", "Run a flow first, or give another --journal.")
        if self._file.stat().st_size == 0:
            raise JournalMissing(self.path, "the file is empty", "Run a flow first, or give another --journal.")
        self._connect()
        try:
            found = [self.rows(f"PRAGMA {name}")[0][name] for name in ("application_id", "user_version")]
            check(self.path, found[0], found[1], 1)
            objects = self.rows("SELECT type, name, sql FROM sqlite_master")
            check_objects(self.path, ((row["type"], row["name"], row["sql"]) for row in objects))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
        if isinstance(error, MISUNDERSTOOD) and not isinstance(error, UndertowError):
            raise self._damaged(error) from error

    def close(self) -> None:
        """Let go of the file. Closing twice is harmless."""
        self._connection.close()

    def rows(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[dict[str, Any]]:
        """The rows of any query, all of one moment."""
        while True:
            try:
                rows = [dict(row) for row in self._connection.execute(sql, values)]
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                if not self._disturbed():
                    told = translate(self.path, error) if isinstance(error, sqlite3.Error) else self._damaged(error)
                    raise told from error
            else:
                if not self._disturbed():
                    return rows
            self.close()
            self._connect()

    def _damaged(self, error: BaseException) -> JournalCorrupt:
        remedy = "Restore a copy; `undertow doctor` looks closer."
        return JournalCorrupt(self.path, f"what stands in it makes no sense ({describe(error)})", remedy)

    def run(self, run_id: str) -> dict[str, Any]:
        """Everything about one run."""
        return self.rows("SELECT * FROM run WHERE id = ?", (run_id,))[0]

    def family(self, run_id: str) -> list[dict[str, Any]]:
        """A run, and after it all that ran inside it, in the order in which it was made."""
        return self.rows(
            "WITH RECURSIVE inside(id) AS (SELECT :id UNION"
            " SELECT run.id FROM inside JOIN run ON run.parent_run_id = inside.id)"
            " SELECT run.* FROM inside JOIN run USING (id) ORDER BY run.id = :id DESC, run.id",
            {"id": run_id},
        )

    # --- leaving no trace --------------------------------------------------------------------------------------

    def _connect(self) -> None:
        """Open the file, in the way that suits whether it is in use.

        SQLite's own reader puts a `-wal` and a `-shm` file beside a journal that has none, and can't take them away
        again. It does not when told that the file is immutable; but then it doesn't look whether somebody writes after
        all. So that is looked up after every answer, and what was read while somebody came is read again.
        """
        self._still = self._stillness()
        immutable = "" if self._still is None else "&immutable=1"
        try:
            self._connection = sqlite3.connect(
                f"{self._file.as_uri()}?mode=ro{immutable}", uri=True, isolation_level=None
            )
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA busy_timeout = 5000")
            self._connection.execute("PRAGMA cell_size_check = ON")  # somebody may have been sent the file
        except sqlite3.Error as error:
            raise translate(self.path, error) from error

    def _stillness(self) -> Stillness | None:
        """What is different once somebody has written to the file; `None` while it is in use."""
        try:
            seen = os.stat(self._file)
        except OSError as error:
            raise JournalMissing(self.path, f"it can't be looked at ({error.strerror})", "Check the path.") from None
        if any(os.path.lexists(f"{self._file}{suffix}") for suffix in IN_USE):
            return None
        return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns

    def _disturbed(self) -> bool:
        return self._still is not None and self._stillness() != self._still
