"""Retention: what is too old goes, in small steps between the writer's own, so that no statement holds it up for long.

Outermost runs that have ended go with all that ran inside them, their log records and their kept results. Expired
cached results go in any case. A result's file goes when no result refers to it any more.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiosqlite
import attrs

from ..engine.errors import InvalidOption

CHUNK = 1000
"""Rows that one statement deletes at most."""

ROOTS = 100
"""Outermost runs that one pass removes at most."""

SAFE_SECONDS = 3600
"""Only files that were not touched for so long go: another process may be about to refer to a newer one."""

TOO_OLD = """
SELECT id FROM run WHERE parent_run_id IS NULL AND ended_at < ? ORDER BY ended_at LIMIT ?
"""
TOO_MANY = """
SELECT id FROM run WHERE parent_run_id IS NULL AND ended_at IS NOT NULL AND kind = 'flow' ORDER BY ended_at DESC
LIMIT ? OFFSET ?
"""
LEAVES = """
DELETE FROM run WHERE id IN (
    SELECT id FROM run AS child
    WHERE parent_run_id = ? AND NOT EXISTS (SELECT 1 FROM run WHERE parent_run_id = child.id) LIMIT ?)
"""
LOGS = "DELETE FROM log WHERE seq IN (SELECT seq FROM log WHERE run_id = ? LIMIT ?)"
STEPS = """
DELETE FROM result WHERE key IN (
    SELECT key FROM result WHERE key >= 'step:' || ?1 || '/' AND key < 'step:' || ?1 || '0' LIMIT ?2) RETURNING file
"""
OWN = "DELETE FROM result WHERE key IN ('start:' || ?1, 'run:' || ?1) RETURNING file"
EXPIRED = "DELETE FROM result WHERE key IN (SELECT key FROM result WHERE expires_at < ? LIMIT ?) RETURNING file"


@attrs.frozen
class Retention:
    """How long runs are kept: `keep_for` after they ended, and the last `keep_runs` flow runs; `None`: for ever."""

    keep_for: timedelta | None = None
    keep_runs: int | None = None

    def __attrs_post_init__(self) -> None:
        if self.keep_for is not None and (not isinstance(self.keep_for, timedelta) or self.keep_for < timedelta(0)):
            raise InvalidOption("keep_for", self.keep_for, "a timedelta, 0 or more")
        runs = self.keep_runs
        if runs is not None and (isinstance(runs, bool) or not isinstance(runs, int) or runs < 0):
            raise InvalidOption("keep_runs", runs, "a whole number, 0 or more")

    async def tidy(self, connection: aiosqlite.Connection, files: Path) -> None:
        """One pass: remove what has to go, as far as one pass removes."""
        now = time.time_ns() // 1000
        dropped = await _deleted(connection, EXPIRED, now, CHUNK)
        doomed: list[str] = []
        if self.keep_for is not None:
            doomed += await _column(connection, TOO_OLD, now - int(self.keep_for.total_seconds() * 1e6), ROOTS)
        if self.keep_runs is not None:
            doomed += await _column(connection, TOO_MANY, ROOTS, self.keep_runs)
        for root in dict.fromkeys(doomed):
            dropped += await _remove(connection, root)
        for name in set(dropped):
            await _drop_file(connection, files, name)


async def _remove(connection: aiosqlite.Connection, root: str) -> list[str]:
    """Remove an outermost run, from the leaves up; its own row last, so that a crash leaves nothing out of reach."""
    dropped: list[str] = []
    line = [root]
    while line:
        run = line[-1]
        if await _count(connection, LEAVES, run, CHUNK):
            continue
        inside = await _column(connection, "SELECT id FROM run WHERE parent_run_id = ? LIMIT 1", run)
        if inside:
            line += inside
            continue
        while await _count(connection, LOGS, run, CHUNK):
            continue
        dropped += await _deleted(connection, OWN, run)
        if run == root:
            while files := await _deleted(connection, STEPS, run, CHUNK):
                dropped += files
        await connection.execute("DELETE FROM run WHERE id = ?", (run,))
        line.pop()
    return [name for name in dropped if name]


async def _drop_file(connection: aiosqlite.Connection, files: Path, name: str) -> None:
    used = await _column(connection, "SELECT 1 FROM result WHERE file = ? LIMIT 1", name)
    file = files / name
    if not used and file.exists() and time.time() - file.stat().st_mtime > SAFE_SECONDS:
        file.unlink()


async def _column(connection: aiosqlite.Connection, sql: str, *values: Any) -> list[Any]:
    async with connection.execute(sql, values) as cursor:
        rows: Sequence[Any] = list(await cursor.fetchall())
    return [row[0] for row in rows]


async def _deleted(connection: aiosqlite.Connection, sql: str, *values: Any) -> list[Any]:
    """What the deleted rows had as their file; `""` for those that had none."""
    return [file or "" for file in await _column(connection, sql, *values)]


async def _count(connection: aiosqlite.Connection, sql: str, *values: Any) -> int:
    async with connection.execute(sql, values) as cursor:
        return cursor.rowcount
