"""Opening a journal's file: where it is, whether it may be used, and what exactly is wrong when it may not."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from ..engine.errors import (
    JournalCorrupt,
    JournalError,
    JournalFull,
    JournalLocked,
    JournalMissing,
    JournalReadOnly,
    JournalTooNew,
)
from .schema import APPLICATION_ID, VERSION

MEMORY = ":memory:"


def prepare(path: str) -> None:
    """See that the file can be written, creating it with mode 0600 if it is not there. Raises `JournalError`s."""
    if path == MEMORY:
        return
    file = Path(path)
    if file.is_dir():
        raise JournalError(path, "it is a folder", "Give the path of a file, such as app.db inside it.")
    if not file.parent.is_dir():
        raise JournalMissing(path, f"the folder {file.parent} does not exist", f"Create it: mkdir -p {file.parent}")
    try:
        # Created by us, and so before SQLite would, because the files that SQLite puts beside it take over its mode.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW, 0o600))
    except FileExistsError:
        if not os.access(path, os.W_OK):
            raise read_only(path) from None
    except PermissionError:
        raise read_only(path) from None
    except OSError as error:
        raise JournalError(path, f"it can't be created ({error.strerror})", "Choose another place for it.") from None


def read_only(path: str) -> JournalReadOnly:
    return JournalReadOnly(
        path, "it can't be written", f"Check the permissions of the file and of {Path(path).parent}, or choose another."
    )


def check(path: str, application_id: int, version: int, tables: int) -> None:
    """See that an existing file is a journal of a version that is understood. Raises `JournalError`s."""
    if application_id == 0 and tables == 0:
        return  # a new file
    if application_id != APPLICATION_ID:
        raise JournalCorrupt(path, "it is an SQLite database, but no journal", "Give another path; it was not changed.")
    if version > VERSION:
        raise JournalTooNew(
            path,
            f"it has schema version {version}, and this undertow knows up to {VERSION}",
            "Upgrade undertow, or give another path; the file was not changed.",
        )


def translate(path: str, error: sqlite3.Error) -> JournalError:
    """What an SQLite error means for a person."""
    text = str(error)
    code = getattr(error, "sqlite_errorname", "")
    if "FULL" in code or "disk is full" in text:
        return JournalFull(path, "the disk is full", "Free some space; writing goes on by itself then.")
    if "READONLY" in code or "readonly" in text:
        return read_only(path)
    if "BUSY" in code or "LOCKED" in code or "locked" in text:
        return JournalLocked(path, "another process holds its lock", "Find out which (lsof), and let it finish.")
    if "CORRUPT" in code or "NOTADB" in code or "malformed" in text or "not a database" in text:
        return JournalCorrupt(path, "the file is damaged or is no journal", "Restore a copy, or give another path.")
    if "CANTOPEN" in code or "unable to open" in text:
        return JournalError(path, "it can't be opened", "Check that the file and its folder can be read and written.")
    return JournalError(path, f"SQLite says {text!r}", "Check the disk and the file.")
