"""Kept results: small ones are rows, big ones files beside the journal, named by the digest of what they hold."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..engine.errors import ResultUnreadable
from ..engine.ports import Record

MAX_INLINE_BYTES = 256 * 1024
"""A result above this size goes to a file."""

NAME = re.compile(r"[0-9a-f]{64}")
"""The name of a result's file: the digest of what it holds."""

INSERT = """
INSERT INTO result (key, value, file, serializer, run_id, kept_at, expires_at, about) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, file = excluded.file, serializer = excluded.serializer,
    run_id = excluded.run_id, kept_at = excluded.kept_at, expires_at = excluded.expires_at, about = excluded.about
"""

SELECT = "SELECT value, file, serializer, run_id, kept_at, expires_at, about FROM result WHERE key = ?"


def row(key: str, record: Record, folder: Path | None, owner: int) -> Sequence[Any]:
    """The values of `INSERT`; what is big goes to a file in `folder`, where there is one.

    What is no run's, but waits here for the process that owns it, has the owner's number in the place of the run's id.
    """
    value = record.value
    file: str | None = None
    if value is not None and len(value) > MAX_INLINE_BYTES and folder is not None:
        file = write_file(folder, value)
        value = None
    about = None if record.about is None else json.dumps(record.about)
    return (key, value, file, record.serializer, record.run_id or str(owner), record.kept_at, record.expires_at, about)


def record(found: Sequence[Any], folder: Path) -> Record:
    """A record from a row of `SELECT`. Raises `ResultUnreadable`."""
    value, file, serializer, run_id, kept_at, expires_at, about = found
    value = read_file(folder, file) if file else value
    return Record(value, serializer, run_id, kept_at, expires_at, None if about is None else json.loads(about))


def write_file(folder: Path, value: bytes) -> str:
    """Write a result atomically and return its name; the same bytes are written once."""
    name = hashlib.blake2b(value, digest_size=32).hexdigest()
    target = folder / name
    if target.exists() and target.read_bytes() == value:
        os.utime(target)  # so that nobody who tidies up takes it for unused
    else:
        folder.mkdir(mode=0o700, exist_ok=True)
        part = folder / f"{name}.{os.getpid()}"
        with open(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(value)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    return name


def read_file(folder: Path, name: str) -> bytes:
    """The bytes of a result's file. Raises `ResultUnreadable` when it is gone or was altered."""
    if not NAME.fullmatch(name):
        raise ResultUnreadable(f"{name!r} is no name of a result's file")  # it might lead anywhere
    try:
        # What is no file any more, a link or a pipe, must not lead elsewhere or have us wait.
        with open(os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ResultUnreadable(f"{folder / name} is no file")
            value = file.read()
    except OSError as error:
        raise ResultUnreadable(f"its file {folder / name} can't be read ({error.strerror})") from None
    if hashlib.blake2b(value, digest_size=32).hexdigest() != name:
        raise ResultUnreadable(f"its file {folder / name} was altered")
    return value
