"""Retention: what is too old goes, in small steps between the writer's own, so that no statement holds it up for long.

Outermost runs that have ended go with all that ran inside them, their log records and their kept results. Expired
cached results go in any case. A result's file goes when no result refers to it any more, some time later.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiosqlite
import attrs

from ..engine.errors import InvalidOption
from .results import NAME

logger = logging.getLogger("undertow")

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
SELECT id FROM run AS child
WHERE parent_run_id = ? AND NOT EXISTS (SELECT 1 FROM run WHERE parent_run_id = child.id) LIMIT ?
"""
INSIDE = "SELECT id FROM run WHERE parent_run_id = ? LIMIT ?"
LOGS = """
DELETE FROM log WHERE seq IN (
    SELECT seq FROM log WHERE run_id IN (SELECT value FROM json_each(?)) LIMIT ?) RETURNING seq
"""
OWN = """
DELETE FROM result WHERE key IN (
    SELECT prefix || value FROM json_each(?), (SELECT 'start:' AS prefix UNION ALL SELECT 'run:')) RETURNING file
"""
DURABLE = "SELECT id FROM run WHERE id IN (SELECT value FROM json_each(?)) AND step = id || '/'"
STEPS = """
DELETE FROM result WHERE key IN (
    SELECT key FROM result WHERE key >= 'step:' || ?1 || '/' AND key < 'step:' || ?1 || '0' LIMIT ?2) RETURNING file
"""
ASKED = """
DELETE FROM result WHERE key >= 'ask:' AND key < 'ask;' AND run_id IN (SELECT value FROM json_each(?)) RETURNING file
"""
FIRED = """
DELETE FROM fire WHERE (run_id IN (SELECT value FROM json_each(?)) OR owner = 0)
    AND nominal <= (SELECT mark FROM schedule WHERE name = fire.schedule) RETURNING nominal
"""
STAYS = "UPDATE fire SET owner = 0 WHERE run_id IN (SELECT value FROM json_each(?)) RETURNING nominal"
"""A fire that is not decided otherwise stays, so that it is not fired again; as nobody's, for whose death to free."""
RUNS = "DELETE FROM run WHERE id IN (SELECT value FROM json_each(?))"
USED = "SELECT 1 FROM result WHERE file = ? LIMIT 1"
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

    async def tidy(self, connection: aiosqlite.Connection) -> bool:
        """One pass: remove what has to go, as far as one pass removes; whether there may be more."""
        now = time.time_ns() // 1000
        expired = await _column(connection, EXPIRED, now, CHUNK)
        doomed: list[str] = []
        if self.keep_for is not None:
            doomed += await _column(connection, TOO_OLD, max(0, now - int(self.keep_for.total_seconds() * 1e6)), ROOTS)
        if self.keep_runs is not None:
            doomed += await _column(connection, TOO_MANY, ROOTS, self.keep_runs)
        for root in dict.fromkeys(doomed):
            await _remove(connection, root)
        return len(expired) == CHUNK or len(doomed) >= ROOTS


async def sweep(connection: aiosqlite.Connection, folder: Path) -> None:
    """Remove the files that no result refers to: of results that are gone, or of a process that died writing."""
    for file in await asyncio.to_thread(_old_files, folder):
        if not await _column(connection, USED, file.name) and _is_old(file):
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("The result's file %s is of no use and can't be removed: %s", file, error.strerror)


def _old_files(folder: Path) -> list[Path]:
    try:
        # By name: if the folder is not ours, what is in it is nobody's to remove.
        return [file for file in folder.iterdir() if NAME.match(file.name) and _is_old(file)]
    except FileNotFoundError:
        return []  # there never was a big result


def _is_old(file: Path) -> bool:
    try:
        return time.time() - file.stat().st_mtime > SAFE_SECONDS
    except FileNotFoundError:
        return False  # another process was faster


async def _remove(connection: aiosqlite.Connection, root: str) -> None:
    """Remove an outermost run, from the leaves up; its own row last, so that a crash leaves nothing out of reach."""
    line = [root]
    while line:
        run = line[-1]
        if leaves := await _column(connection, LEAVES, run, CHUNK):
            await _erase(connection, leaves)
        elif inside := await _column(connection, INSIDE, run, CHUNK):
            line += inside
        else:
            await _erase(connection, [run])
            line.pop()


async def _erase(connection: aiosqlite.Connection, runs: Sequence[str]) -> None:
    """Remove runs that have no others inside them; what belongs to them first."""
    ids = json.dumps(runs)
    while await _column(connection, LOGS, ids, CHUNK):
        continue
    for run in await _column(connection, DURABLE, ids):
        while await _column(connection, STEPS, run, CHUNK):
            continue
    for belongings in (OWN, ASKED, FIRED, STAYS):
        await _column(connection, belongings, ids)
    await connection.execute(RUNS, (ids,))


async def _column(connection: aiosqlite.Connection, sql: str, *values: Any) -> list[Any]:
    return [row[0] for row in await connection.execute_fetchall(sql, values)]
