"""Kept results: small ones are rows, big ones files beside the journal, named by the digest of what they hold."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ..engine.errors import ResultUnreadable

MAX_INLINE_BYTES = 256 * 1024
"""A result above this size goes to a file."""

INSERT = """
INSERT INTO result (key, value, file, serializer, run_id, kept_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, file = excluded.file, serializer = excluded.serializer,
    run_id = excluded.run_id, kept_at = excluded.kept_at, expires_at = excluded.expires_at
"""

SELECT = "SELECT value, file, serializer, run_id, kept_at, expires_at FROM result WHERE key = ?"


def write_file(folder: Path, value: bytes) -> str:
    """Write a result atomically and return its name; the same bytes are written once."""
    name = hashlib.blake2b(value, digest_size=32).hexdigest()
    target = folder / name
    if not target.exists() or target.read_bytes() != value:
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
    try:
        value = (folder / name).read_bytes()
    except OSError as error:
        raise ResultUnreadable(f"its file {folder / name} can't be read ({error.strerror})") from None
    if hashlib.blake2b(value, digest_size=32).hexdigest() != name:
        raise ResultUnreadable(f"its file {folder / name} was altered")
    return value
