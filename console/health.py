"""Whether a journal and what it stands on are in order: one finding for each thing looked at, each with its remedy.

Nothing is written or repaired. The journal's files are looked at from outside, by their directory entries, and read
through SQLite alone: to open and close such a file in any other way takes away the locks that this process has on it.
"""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import attrs

from ..engine.errors import JournalError
from ..storage.checkpoints import has_race
from ..storage.owners import Process
from ..storage.reading import Reader
from ..storage.schema import VERSION
from .wording import counted, size

DISTRIBUTIONS = ("undertow", "anyio", "trio", "attrs", "msgpack", "aiosqlite")

LOW_BYTES, SCARCE_BYTES = 64 * 2**20, 2**30
BIG_WAL_BYTES = 256 * 2**20
YOUNG_SECONDS = 3600
"""A result's file younger than this may belong to a result that is about to be written."""

SHARED_FILE_SYSTEMS = ("nfs", "cifs", "smb", "9p", "fuse.sshfs", "fuse.glusterfs", "afs", "ceph")


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@attrs.frozen
class Finding:
    """What was found about one thing, and what to do about it."""

    about: str
    verdict: Verdict
    said: str
    remedy: str = ""


def examine(path: str, is_named: bool, thorough: bool = True) -> Iterator[Finding]:
    """Look at everything. `is_named` says that this journal was asked for, so it is wrong that there is none."""
    yield from _versions()
    file = Path(path)
    if not os.path.lexists(path):
        yield _missing(path, is_named)
        yield _room(file.absolute().parent, 0)
        return
    try:
        with Reader(path) as reader:
            owners = _owners(reader)
            yield _file(file)
            yield from _permissions(file)
            yield from _file_system(file)
            yield _schema(reader)
            yield _integrity(reader, thorough)
            yield _wal(file)
            yield from _owned(owners)
            yield _sqlite()
            yield from _result_files(reader, Path(f"{file.resolve()}.results"))
            yield _content(reader)
    except JournalError as error:
        yield Finding("journal", Verdict.PROBLEM, str(error))
    yield _room(file.resolve().parent, _bytes(file))


# --- what is installed -----------------------------------------------------------------------------------------


def _versions() -> Iterator[Finding]:
    found: dict[str, str] = {"Python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version_of(name)
        except PackageNotFoundError:
            yield Finding("versions", Verdict.PROBLEM, f"{name} is not installed", "pip install undertow")
    yield Finding("versions", Verdict.OK, ", ".join(f"{name} {version}" for name, version in found.items()))


def _sqlite() -> Finding:
    """Several processes of undertow may write to one journal with any version of SQLite."""
    said = f"SQLite {sqlite3.sqlite_version}"
    if has_race(sqlite3.sqlite_version_info):
        said += ", which has the WAL-reset race; undertow's checkpoints avoid it (other programs had better only read)"
        return Finding("sqlite", Verdict.OK, said)
    return Finding("sqlite", Verdict.OK, f"{said}, without the WAL-reset race")


# --- the file --------------------------------------------------------------------------------------------------


def _missing(path: str, is_named: bool) -> Finding:
    folder = Path(path).absolute().parent
    if not folder.is_dir() and is_named:
        return Finding("journal", Verdict.PROBLEM, f"the folder {folder} does not exist", f"mkdir -p {folder}")
    said = f"there is no {path} yet; the first run makes it"
    return Finding("journal", Verdict.PROBLEM if is_named else Verdict.OK, said, "Check the path." if is_named else "")


def _file(file: Path) -> Finding:
    return Finding("journal", Verdict.OK, f"{file} ({size(_bytes(file))})")


def _bytes(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _permissions(file: Path) -> Iterator[Finding]:
    """The file, what SQLite has beside it, and the folders: others of the machine should not get at them."""
    found: list[Finding] = []
    for each in (file, *(Path(f"{file.resolve()}{suffix}") for suffix in ("-wal", "-shm", ".results"))):
        try:
            seen = each.stat()
        except FileNotFoundError:
            continue
        found += _access(each, seen)
    folder = file.resolve().parent
    mode = folder.stat().st_mode
    if mode & 0o022 and not mode & stat.S_ISVTX:
        said = f"the folder {folder} can be written by others (mode {stat.S_IMODE(mode):04o})"
        found.append(Finding("permissions", Verdict.WARNING, said, f"chmod go-w {folder}"))
    yield from found or [Finding("permissions", Verdict.OK, "only you can read it and write it")]


def _access(each: Path, seen: os.stat_result) -> Iterator[Finding]:
    mode = stat.S_IMODE(seen.st_mode)
    if mode & 0o077:
        said = f"{each.name} is open to others of this machine (mode {mode:04o})"
        yield Finding("permissions", Verdict.WARNING, said, f"chmod go-rwx {each}")
    if seen.st_uid != os.geteuid():
        said = f"{each.name} belongs to another user (uid {seen.st_uid})"
        yield Finding("permissions", Verdict.WARNING, said, f"sudo chown {os.geteuid()} {each}")


def _file_system(file: Path) -> Iterator[Finding]:
    """A journal's readers and writers share memory, so they have to be on one machine."""
    kind = _kind_of_file_system(file.resolve())
    if kind.startswith(SHARED_FILE_SYSTEMS):
        said = f"it is on a file system of type {kind}; several machines must not use it at once"
        yield Finding("file system", Verdict.WARNING, said, "Put the journal on a disk of this machine.")


def _kind_of_file_system(file: Path) -> str:
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in mounts:
        _, place, found, *_ = line.split(" ")
        place = place.replace("\\040", " ")
        if len(place) >= len(best) and file.is_relative_to(place):
            best, kind = place, found
    return kind


def _wal(file: Path) -> Finding:
    """Beside a journal that is in use there is a write-ahead log, which is written back from time to time."""
    found = _bytes(Path(f"{file.resolve()}-wal"))
    if found > BIG_WAL_BYTES:
        remedy = "Some program reads the journal without an end; let it finish (lsof tells which)."
        return Finding("wal", Verdict.WARNING, f"its write-ahead log is big: {size(found)}", remedy)
    return Finding("wal", Verdict.OK, f"its write-ahead log has {size(found)}" if found else "no write-ahead log")


def _room(folder: Path, journal: int) -> Finding:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    said = f"{size(free)} free in {folder}"
    if free < LOW_BYTES:
        return Finding("disk", Verdict.PROBLEM, said, "Free some space: a full disk stops the writing of the journal.")
    if free < max(SCARCE_BYTES, journal):
        return Finding("disk", Verdict.WARNING, said, "Free some space before the journal grows.")
    return Finding("disk", Verdict.OK, said)


# --- what is in it ---------------------------------------------------------------------------------------------


def _schema(reader: Reader) -> Finding:
    found = reader.rows("PRAGMA user_version")[0]["user_version"]
    return Finding("schema", Verdict.OK, f"version {found}, and this undertow writes {VERSION}")


def _integrity(reader: Reader, thorough: bool) -> Finding:
    check = "integrity_check" if thorough else "quick_check"
    found = [row[check] for row in reader.rows(f"PRAGMA {check}(10)")]
    if found == ["ok"]:
        return Finding("integrity", Verdict.OK, f"SQLite's {check} finds nothing wrong")
    remedy = "Copy the file away, and restore a backup; `sqlite3 FILE .recover` may save what is readable."
    return Finding("integrity", Verdict.PROBLEM, "; ".join(str(each) for each in found), remedy)


def _owners(reader: Reader) -> list[dict[str, Any]]:
    """The processes that opened the journal and did not close it, and whether they are gone."""
    rows = reader.rows(
        "SELECT id, host, boot, namespace, pid, started, (SELECT count(*) FROM run WHERE owner = owner.id"
        " AND ended_at IS NULL) AS unfinished FROM owner WHERE closed_at IS NULL"
    )
    described = ("host", "boot", "namespace", "pid", "started")
    return [row | {"gone": Process(**{name: row[name] for name in described}).is_gone()} for row in rows]


def _owned(owners: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    dead = [owner for owner in owners if owner["gone"]]
    left = sum(owner["unfinished"] for owner in dead)
    if left:
        told = ", ".join(f"{owner['pid']} on {owner['host']}" for owner in dead if owner["unfinished"])
        said = f"{counted(left, 'run')} did not end and never will: the process is gone ({told})"
        remedy = "They are marked Crashed when the journal is next opened for writing; durable ones can be resumed."
        yield Finding("owners", Verdict.WARNING, said, remedy)
    alive = [owner for owner in owners if not owner["gone"]]
    told = ", ".join(f"{owner['pid']} on {owner['host']}" for owner in alive)
    yield Finding("owners", Verdict.OK, f"in use by {told}" if alive else "no process has it open")


def _result_files(reader: Reader, folder: Path) -> Iterator[Finding]:
    """Big results are files of their own: each that is recorded should be there, and the other way round."""
    there = {entry.name: entry for entry in os.scandir(folder)} if folder.is_dir() else {}
    wanted = {row["file"] for row in reader.rows("SELECT DISTINCT file FROM result WHERE file IS NOT NULL")}
    missing = sorted(name for name in wanted if not (folder / name).is_file())
    if missing:
        said = f"{counted(len(missing), 'file')} of results can't be found in {folder}, such as {missing[0]}"
        yield Finding("results", Verdict.PROBLEM, said, "Restore them from a backup, or those tasks run again.")
    old = time.time() - YOUNG_SECONDS
    orphans = [entry for name, entry in there.items() if name not in wanted and _modified(entry) < old]
    if orphans:
        amount = sum(_bytes(Path(entry)) for entry in orphans)
        said = f"{counted(len(orphans), 'file')} in {folder} of no result ({size(amount)})"
        yield Finding("results", Verdict.WARNING, said, "They may be deleted.")
    if not missing and not orphans:
        yield Finding("results", Verdict.OK, f"{counted(len(wanted), 'file')} of big results, all there")


def _modified(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _content(reader: Reader) -> Finding:
    row = reader.rows(
        "SELECT (SELECT count(*) FROM run WHERE kind = 'flow') AS flows, (SELECT count(*) FROM run) AS runs,"
        " (SELECT count(*) FROM log) AS logs"
    )[0]
    said = f"{counted(row['flows'], 'flow run')}, {counted(row['runs'] - row['flows'], 'task run')}"
    return Finding("content", Verdict.OK, f"{said}, {counted(row['logs'], 'log record')}")
