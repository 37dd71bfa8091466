"""Journals that are locked, damaged, cut short or without their files: what an engine does, and what the command line says."""

from __future__ import annotations

import errno
import random
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import pytest
from click.testing import CliRunner

from undertow import (
    INPUTS,
    Engine,
    JournalError,
    JournalFull,
    JournalLocked,
    JournalTooNew,
    flow,
    task,
)
from undertow.console.command import cli
from undertow.storage import SQLiteJournal, results

pytestmark = pytest.mark.real_time

VERBS = ("ls", "show", "doctor")
PAGE = 4096


@task
async def text(letters: int) -> str:
    return "x" * letters


@flow
async def plain() -> str:
    return await text(3) + await text(4)


@flow(durable=True)
async def durable() -> str:
    return await text(3) + await text(300_000)


@task(cache_policy=INPUTS)
def big(n: int) -> str:
    ran.append(n)
    return str(n) * 300_000


@flow
def cached() -> str:
    return big(7)


ran: list[int] = []


@pytest.fixture(autouse=True)
def none_ran() -> Iterator[None]:
    yield
    ran.clear()


@flow(durable=True)
def durable_big() -> str:
    return big(7)


@flow
def once() -> str:
    return "my own result"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a journal with some runs in it."""
    path = tmp_path_factory.mktemp("sound") / "app.db"
    with Engine(path) as engine:
        for _ in range(3):
            engine.start(plain).result()
        engine.start(durable).result()
        once()
    return path.read_bytes()


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def look(path: Path, *verbs: str) -> list[str]:
    """What the command line says is wrong when it looks at a journal: at most a line, and never a traceback."""
    said = []
    for verb in verbs or VERBS:
        told = CliRunner().invoke(cli, [verb, "--journal", str(path)])
        assert told.exception is None or isinstance(told.exception, SystemExit), told.exception
        assert "Traceback" not in told.output
        said += told.stderr.splitlines()
    assert len(said) <= len(verbs or VERBS)
    assert all(line.startswith("undertow: ") for line in said)
    return said


def run_on(path: Path) -> JournalError | None:
    """Run a flow with a journal that may be damaged: it has its result, unless the journal does not open."""
    try:
        with Engine(path, grace_seconds=0):
            assert once() == "my own result"
        return None
    except JournalError as error:
        refused = error
    assert str(refused).startswith(f"Journal {path}: ")
    return refused


# --- locked ----------------------------------------------------------------------------------------------------------

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Another process holds the file's lock."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdout.readline()
        yield
        holder.stdin.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal's own connection waits for nobody's lock."""
    execute = aiosqlite.Connection.execute

    def hurried(connection: aiosqlite.Connection, sql: str, *values: Any) -> Any:
        return execute(connection, "PRAGMA busy_timeout = 1" if "busy_timeout" in sql else sql, *values)

    monkeypatch.setattr(aiosqlite.Connection, "execute", hurried)


def test_locked_by_another_process(path: Path, sound: bytes, impatient: None) -> None:
    """A journal whose lock another process holds for too long is refused, saying so, and may be looked at meanwhile."""
    path.write_bytes(sound)
    with Engine(path):
        pass  # in WAL mode, with its files
    with held(path):
        with pytest.raises(JournalLocked, match=f"^Journal {path}: another process holds its lock. Find out which"):
            Engine(path).open()
        assert look(path) == []
    assert run_on(path) is None


# --- damaged ---------------------------------------------------------------------------------------------------------


def test_cut_at_every_sector(path: Path, sound: bytes) -> None:
    """Of a journal that is cut short at any 512th byte the command line says so in a line, and an engine refuses it or works."""
    refused = 0
    for number, size in enumerate(range(512, len(sound), 512)):
        path.write_bytes(sound[:size])
        look(path, VERBS[number % 3])
        if number % 16 == 0:
            refused += run_on(path) is not None
            path.with_name("app.db-wal").unlink(missing_ok=True)
    assert refused > 5


def test_flipped_bits(path: Path, sound: bytes) -> None:
    """A journal with a flipped bit anywhere is read, or refused in a line; a flow on it has its own result."""
    dice = random.Random(20260101)
    for number in range(150):
        damaged = bytearray(sound)
        damaged[dice.randrange(len(sound))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        look(path, VERBS[number % 3])
        if number % 10 == 0:
            run_on(path)
            path.with_name("app.db-wal").unlink(missing_ok=True)


def test_zeroed_pages(path: Path, sound: bytes) -> None:
    """A journal with a page of nothing is refused in a line or told by doctor, and a flow on it has its own result."""
    found = 0
    for start in range(0, len(sound), PAGE):
        path.write_bytes(sound[:start] + bytes(PAGE) + sound[start + PAGE :])
        found += "problem" in CliRunner().invoke(cli, ["doctor", "--journal", str(path)]).output
        look(path, "ls", "show")
        run_on(path)
        path.with_name("app.db-wal").unlink(missing_ok=True)
    assert found > len(sound) // PAGE // 2


@pytest.mark.parametrize(
    "forged",
    [
        "history = 'x'",
        "history = '[]'",
        "history = '[[1]]'",
        """history = '[["FAILED", "Failed", "", 9e99]]'""",
        """history = '[["FAILED", "Failed", "", "today"]]'""",
        f"history = '{'[' * 900}{']' * 900}'",
        "history = x'ff00ff'",
        "details = '{'",
        "details = '[1]'",
        """details = '{"parameters": "no", "upstreams": 5, "error": 7}'""",
        "tags = '{'",
        "started_at = 1 << 62, ended_at = -(1 << 62)",
        "state_type = 'NONESUCH'",
        "parent_run_id = id",
        "function = x'fffe', name = x'80'",
        "attempts = 'many', kind = 'thing'",
    ],
    ids=str,
)
def test_forged_rows(forged: str, path: Path, sound: bytes) -> None:
    """What stands in a journal and makes no sense is told in a line by every verb, and takes no flow's result away."""
    path.write_bytes(sound)
    [(run_id,)] = rows(path, "SELECT min(id) FROM run WHERE parent_run_id IS NULL")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"UPDATE run SET {forged}")
        connection.execute("PRAGMA journal_mode = DELETE")
    for verb in ("ls", "show", "logs", "why", "graph", "doctor"):
        look(path, verb)
    for verb in ("show", "graph", "why"):
        told = CliRunner().invoke(cli, [verb, run_id, "--journal", str(path)])
        assert told.exception is None or isinstance(told.exception, SystemExit), told.exception
    run_on(path)


def test_newer_schema_is_one_line(path: Path, sound: bytes) -> None:
    """Every verb tells of a journal of a newer undertow in one line with the remedy."""
    path.write_bytes(sound)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1000000")
    assert isinstance(run_on(path), JournalTooNew)
    for line in look(path, "ls", "show"):
        assert "Upgrade undertow" in line


def test_deleted_log(path: Path) -> None:
    """A journal whose write-ahead log was deleted opens with what was written back before, whole runs only."""
    with Engine(path) as engine:
        assert isinstance(engine.journal, SQLiteJournal)
        once()
        engine.journal.query("PRAGMA wal_checkpoint(TRUNCATE)")
        once()
        # By another program: who opens and closes these files loses the locks that SQLite has in this one.
        subprocess.run(["cp", path, path.with_name("copy.db")], check=True)
    copy = path.with_name("copy.db")
    assert run_on(copy) is None
    assert rows(copy, "SELECT count(*), count(ended_at) FROM run") == [(2, 2)]
    assert look(copy) == []


# --- files of big results --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["gone", "altered", "a folder", "a link to nowhere"])
def test_result_file_lost(loss: str, path: Path) -> None:
    """A cached result whose file is gone, or no longer what it was, is computed anew; doctor tells of one that is gone."""
    with Engine(path):
        cached()
    [file] = Path(f"{path}.results").iterdir()
    if loss == "altered":
        file.write_bytes(b"\0" + file.read_bytes()[1:])
    else:
        file.unlink()
        if loss == "a folder":
            file.mkdir()
        if loss == "a link to nowhere":
            file.symlink_to("/nowhere")
    if loss == "gone":
        assert "can't be found" in CliRunner().invoke(cli, ["doctor", "--journal", str(path)]).output
    look(path)
    if loss == "a folder":
        file.rmdir()
    with Engine(path):
        assert cached() == "7" * 300_000
    assert ran == [7, 7]


REFUSED = {"open": results.os, "fsync": results.os, "mkdir": Path, "replace": Path}


@pytest.mark.parametrize("call", REFUSED)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full disk", "I/O error"])
def test_result_file_refused(call: str, number: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file of a big result can't be written, a durable flow fails with the reason, and goes on from there when it can."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(number, "refused")

    with Engine(path) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(REFUSED[call], call, refuse)
            future = engine.start(durable_big)
            expected = JournalFull if number == errno.ENOSPC else JournalError
            with pytest.raises(expected, match=f"^Journal {path}: ") as caught:
                future.result()
            assert type(caught.value) is expected
        [(run_id,)] = rows(path, "SELECT id FROM flow_runs") or [(future.state.run_id,)]
        assert anyio.run(engine.resume, run_id) == "7" * 300_000
    assert rows(path, "SELECT state_type, count(*) FROM flow_runs GROUP BY 1") == [("COMPLETED", 1)]
