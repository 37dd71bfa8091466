"""Reading a journal from outside: a read-only connection of its own, that may look on while a process writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ..engine.errors import JournalMissing
from .opening import check, translate


class RunNotFound(LookupError):
    """No run, or more than one, has an id that begins so."""

    def __init__(self, prefix: str, matches: Sequence[str]) -> None:
        if matches:
            super().__init__(f"More than one run begins with {prefix!r}: {', '.join(matches)}. Give more of the id.")
        else:
            super().__init__(f"No run has the id {prefix!r}, or begins with it.")


class Reader:
    """Questions to a journal, each answered by rows as dictionaries. A context manager."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        if not Path(path).is_file():
            raise JournalMissing(self.path, "there is no such file", "Run a flow first, or give another --journal.")
        uri = f"{Path(path).absolute().as_uri()}?mode=ro"
        try:
            self._connection = sqlite3.connect(uri, uri=True, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA busy_timeout = 5000")
            version = [
                self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
            ]
            check(self.path, version[0], version[1], 1)
        except sqlite3.Error as error:
            raise translate(self.path, error) from error

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._connection.close()

    def rows(self, sql: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[dict[str, Any]]:
        """The rows of any query over the public views."""
        try:
            return [dict(row) for row in self._connection.execute(sql, values)]
        except sqlite3.DatabaseError as error:
            raise translate(self.path, error) from error

    def resolve(self, prefix: str) -> dict[str, Any]:
        """The one run whose id begins with `prefix`, or whose name is `prefix`. Raises `RunNotFound`."""
        by_id = self.rows("SELECT id FROM run WHERE id >= ? AND id < ? LIMIT 5", (prefix, prefix + "\U0010ffff"))
        found = by_id or self.rows("SELECT id FROM flow_runs WHERE name = ? LIMIT 5", (prefix,))
        exact = [row for row in found if row["id"] == prefix]
        if len(exact or found) != 1:
            raise RunNotFound(prefix, [row["id"] for row in found])
        return self.run((exact or found)[0]["id"])

    def run(self, run_id: str) -> dict[str, Any]:
        """Everything about one run."""
        return self.rows("SELECT * FROM run WHERE id = ?", (run_id,))[0]

    def recent_flows(self, limit: int, state: str | None = None) -> list[dict[str, Any]]:
        """The newest outermost flow runs, with the number of their task runs by state."""
        return self.rows(
            "SELECT * FROM flow_runs WHERE (:state IS NULL OR state_type = :state OR state_name = :state)"
            " ORDER BY id DESC LIMIT :limit",
            {"state": state, "limit": limit},
        )

    def family(self, run_id: str) -> list[dict[str, Any]]:
        """A run and all that ran inside it, parents before children."""
        # Ids are ordered in time, so nothing inside the run has a smaller one: no index on the parent is needed.
        return self.rows(
            "WITH RECURSIVE later AS MATERIALIZED (SELECT * FROM run WHERE id >= :id),"
            " inside(id) AS (SELECT :id UNION"
            " SELECT later.id FROM later JOIN inside ON later.parent_run_id = inside.id)"
            " SELECT later.* FROM later JOIN inside USING (id) ORDER BY later.id",
            {"id": run_id},
        )
