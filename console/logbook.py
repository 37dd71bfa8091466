"""The log records of a run and of all inside it: those that are there, and those that come while it goes on."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import attrs

from ..storage.reading import Reader
from .wording import iso

PAGE = 1000
"""So many records are asked for at once while following."""

UNCLEAR = 10_000
"""So many records are kept whose runs are not known yet."""


@attrs.frozen
class LogLine:
    """One log record."""

    seq: int
    run_id: str
    at: int
    level: str
    logger: str
    message: str

    def as_document(self) -> dict[str, Any]:
        """The record for a program to read; the keys are those of the journal's view of logs."""
        return {
            "run_id": self.run_id,
            "at": iso(self.at),
            "level": self.level,
            "logger": self.logger,
            "message": self.message,
        }


def severity(level: str) -> int:
    """The number of a level's name; one that logging doesn't know counts as INFO."""
    return logging.getLevelNamesMapping().get(level.upper(), logging.INFO)


_INSIDE = """
WITH RECURSIVE inside(id) AS (SELECT :run UNION
    SELECT run.id FROM inside JOIN run ON run.parent_run_id = inside.id)
SELECT {} FROM inside JOIN log ON log.run_id = inside.id
"""


def newest(reader: Reader, run_id: str, limit: int | None = None) -> list[LogLine]:
    """The last records of a run and all inside it, or all of them, oldest first."""
    sql = _INSIDE.format("log.*") + "ORDER BY log.seq DESC LIMIT :limit"
    rows = reader.rows(sql, {"run": run_id, "limit": -1 if limit is None else limit})
    return [LogLine(**row) for row in reversed(rows)]


def counted_by_level(reader: Reader, run_id: str) -> dict[str, int]:
    """How many records there are of each level."""
    rows = reader.rows(_INSIDE.format("level, count(*) AS records") + "GROUP BY level", {"run": run_id})
    return {row["level"]: row["records"] for row in rows}


class Follower:
    """Hands out the records of a run, and of all inside it, that came since it was last asked.

    A record may be written before the run that it belongs to: it is kept until it is known whose it is.
    """

    def __init__(self, run_id: str, after: int) -> None:
        self.after = after
        self._inside = {run_id: True}
        self._unclear: list[LogLine] = []

    def more(self, reader: Reader) -> list[LogLine]:
        """What is new, in the order in which it was written."""
        found: list[LogLine] = []
        while True:
            sql = "SELECT * FROM log WHERE seq > ? ORDER BY seq LIMIT ?"
            rows = [LogLine(**row) for row in reader.rows(sql, (self.after, PAGE))]
            waiting = [*self._unclear, *rows]
            self._find_out(reader, [line.run_id for line in waiting])
            self._unclear = [line for line in waiting if line.run_id not in self._inside][-UNCLEAR:]
            found += [line for line in waiting if self._inside.get(line.run_id)]
            if not rows:
                return found
            self.after = rows[-1].seq

    def _find_out(self, reader: Reader, run_ids: Sequence[str]) -> None:
        """Learn which of these runs are inside the one that is followed, by their parents' being so."""
        parents: dict[str, str | None] = {}
        asked = {run_id for run_id in run_ids if run_id not in self._inside}
        while asked:
            rows = reader.rows(
                "SELECT id, parent_run_id FROM run WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(sorted(asked)),),
            )
            parents |= {row["id"]: row["parent_run_id"] for row in rows}
            above = {row["parent_run_id"] for row in rows} - {None}
            asked = above - self._inside.keys() - parents.keys()
        for run_id in run_ids:
            self._settle(run_id, parents)

    def _settle(self, run_id: str, parents: dict[str, str | None]) -> None:
        line = [run_id]
        while line[-1] not in self._inside and (above := parents.get(line[-1])) is not None and above not in line:
            line.append(above)
        if line[-1] in self._inside:
            self._inside |= dict.fromkeys(line, self._inside[line[-1]])
        elif line[-1] in parents:
            self._inside |= dict.fromkeys(line, False)


def last_seq(reader: Reader) -> int:
    """The number of the journal's last record."""
    return reader.rows("SELECT coalesce(max(seq), 0) AS seq FROM log")[0]["seq"]  # type: ignore[no-any-return]
