"""Requests: how one process asks another, through the journal they share, to cancel a flow run."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from ..engine.errors import JournalMissing
from .opening import translate

ASK = """
INSERT INTO request (run_id, reason, at) VALUES (?, ?, ?)
ON CONFLICT (run_id) DO UPDATE SET reason = excluded.reason, at = excluded.at
"""

WAITING = "SELECT 1 FROM request JOIN run ON run.id = request.run_id WHERE run.owner = ? LIMIT 1"

TAKE = """
DELETE FROM request WHERE run_id IN (SELECT id FROM run JOIN request ON run.id = request.run_id WHERE run.owner = ?)
RETURNING run_id, reason
"""


def ask_to_cancel(path: str | Path, run_id: str, reason: str) -> None:
    """Have the process that runs a flow run cancel it, as soon as it looks. Raises `JournalError`s."""
    if not Path(path).is_file():
        raise JournalMissing(str(path), "there is no such file", "Give the journal that the run is in.")
    try:
        with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
            connection.execute(ASK, (run_id, reason, time.time_ns() // 1000))
    except sqlite3.Error as error:
        raise translate(str(path), error) from error
