"""Requests: how a run is spoken to, from its own process or another, through the journal.

A request is a value that is kept under `ask:KIND:RUN:...` until the run takes it. The process that owns the run is told
of requests that others write.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

from ..engine.codec import encode
from ..engine.core import new_id
from ..engine.errors import JournalMissing
from ..engine.ports import Record
from .checkpoints import pragmas
from .opening import translate
from .results import INSERT

ASKED = """
SELECT key, value, file, serializer, run_id, kept_at, expires_at, about FROM result JOIN run ON run.id = result.run_id
WHERE key >= 'ask:' AND key < 'ask;' AND run.owner = ? AND run.ended_at IS NULL
"""

OLDEST = """
SELECT key, value, file, serializer, run_id, kept_at, expires_at, about FROM result
WHERE key >= ? AND key < ? ORDER BY key LIMIT 1
"""


ASK_ALONE = """
INSERT INTO result (key, value, file, serializer, run_id, kept_at, expires_at, about) SELECT ?, ?, ?, ?, ?, ?, ?, ?
WHERE NOT EXISTS (SELECT 1 FROM result WHERE key >= ? AND key < ?)
"""


def ask(path: str | Path, kind: str, run_id: str, value: object, *, alone: bool = False) -> bool:
    """Write a request of that kind to a run, from a process that has no engine open; whether that was done.

    If it is to be `alone`, it is not written when there is another of its kind. Raises `JournalError`s.
    """
    if not Path(path).is_file():
        raise JournalMissing(str(path), "there is no such file", "Give the journal that the run is in.")
    key = f"ask:{kind}:{run_id}:{new_id()}"
    record = Record(encode(value), "msgpack", run_id, time.time_ns() // 1000)
    values = (key, record.value, None, record.serializer, record.run_id, record.kept_at, None, None)
    try:
        with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
            for pragma in pragmas():
                connection.execute(pragma)
            if not alone:
                return connection.execute(INSERT, values).rowcount > 0
            prefix = f"ask:{kind}:{run_id}:"
            return connection.execute(ASK_ALONE, (*values, prefix, f"{prefix}\U0010ffff")).rowcount > 0
    except sqlite3.Error as error:
        raise translate(str(path), error) from error
