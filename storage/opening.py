"""Opening a journal's file: where it is, whether it may be used, and what exactly is wrong when it may not."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
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
from .schema import APPLICATION_ID, SCHEMA, VERSION

MEMORY = ":memory:"

BESIDE = ("-wal", "-shm", ".results")
"""What stands beside a journal: SQLite's log and its index, and the folder of big results."""


def prepare(path: str) -> None:
    """See that the file can be written, creating it with mode 0600 if it is not there. Raises `JournalError`s."""
    if path == MEMORY:
        return
    file = Path(path)
    try:
        is_folder, has_folder = file.is_dir(), file.parent.is_dir()
    except OSError as error:  # too long a name
        raise JournalError(path, f"it can't be looked for ({error.strerror})", "Give another path.") from None
    if is_folder:
        raise JournalError(path, "it is a folder", "Give the path of a file, such as app.db inside it.")
    if not has_folder:
        raise JournalMissing(path, f"the folder {file.parent} does not exist", f"Create it: mkdir -p {file.parent}")
    for each in (path, *(f"{path}{suffix}" for suffix in BESIDE)):
        _refuse_planted(path, each)
    try:
        # Created by us, and so before SQLite would, because the files that SQLite puts beside it take over its mode.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW, 0o600))
    except FileExistsError:
        if not os.access(path, os.W_OK):
            raise read_only(path) from None
    except PermissionError:
        raise read_only(path) from None
    except OSError as error:
        if error.errno in NO_SPACE:
            raise full(path) from None
        raise JournalError(path, f"it can't be created ({error.strerror})", "Choose another place for it.") from None


def _refuse_planted(path: str, each: str) -> None:
    """In a folder that everybody may write to, nothing is used that another user has put there, links included."""
    try:
        folder, seen = os.stat(Path(each).parent), os.lstat(each)
    except FileNotFoundError:
        return
    if folder.st_mode & stat.S_IWOTH and seen.st_uid not in (os.geteuid(), folder.st_uid, 0):
        raise JournalError(
            path,
            f"{each} is another user's (uid {seen.st_uid}), in a folder that everybody may write to",
            "Choose a folder of your own.",
        )


NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def full(path: str) -> JournalFull:
    return JournalFull(path, "the disk is full", "Free some space; writing goes on by itself then.")


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


OBJECTS = {
    name: words[1].lower()
    for words in (line.split() for line in SCHEMA.splitlines())
    if words[:1] == ["CREATE"] and words[1] in ("TABLE", "VIEW") and (name := words[2])
}
"""The tables and views of a journal, and which of the two each is."""


def check_objects(path: str, objects: Iterable[tuple[str, str, str | None]]) -> None:
    """See that nothing in a journal, given by type, name and SQL, does what no journal does. Raises `JournalCorrupt`.

    Whoever opens a journal that was sent to him reads its tables and views, and fires its triggers.
    """
    for kind, name, sql in objects:
        expected = OBJECTS.get(name)
        virtual = kind == "table" and not (sql or "").upper().startswith("CREATE TABLE")
        if kind == "trigger" or virtual or (expected is not None and kind in ("table", "view") and kind != expected):
            raise JournalCorrupt(
                path,
                f"it holds a {'virtual ' if virtual else ''}{kind} {name!r}, as no journal does",
                "Don't use it: find out who made it. It was not changed.",
            )


MISUNDERSTOOD = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What comes of taking the content of a journal for what it should be, when it is damaged or was made by hand."""


def translate(path: str, error: Exception) -> JournalError:
    """What an error of SQLite's, of a result's file, or of misunderstood content means for a person."""
    if isinstance(error, MISUNDERSTOOD):
        told = f"{type(error).__name__}: {error}"
        return JournalCorrupt(path, f"what it holds can't be read ({told})", "Restore a copy, or give another path.")
    if isinstance(error, OSError):
        if error.errno in NO_SPACE:
            return full(path)
        return JournalError(path, f"a result's file can't be written ({error})", "Check the disk and the folder.")
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
