"""Checkpoints: the log is copied back while nobody writes, it stays small, and nothing acknowledged is lost by it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from undertow import Engine, JournalError, flow, task
from undertow.storage import Reader, SQLiteJournal, checkpoints
from undertow.storage.checkpoints import Checkpoints

pytestmark = pytest.mark.real_time

SMALL = 64 * 1024


@task
async def double(n: int) -> int:
    return 2 * n


@flow
async def doubled(n: int) -> int:
    return await double(n)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log is copied back when it has 64 kB."""
    monkeypatch.setattr(checkpoints, "WAL_BYTES", SMALL)


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=0, isolation_level=None)


def log_bytes(path: Path) -> int:
    return os.stat(f"{path}-wal").st_size


COPIED = """
import sqlite3, sys
connection = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro&immutable=1", uri=True)
has_tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
print(connection.execute("SELECT count(*) FROM flow_runs").fetchone()[0] if has_tables else 0)
"""


def copied(path: Path) -> int:
    """How many flow runs the file has without its log, as another process sees it."""
    return int(subprocess.check_output([sys.executable, "-c", COPIED, str(path)]))


@pytest.fixture
def makes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One item for each checkpoint that was made."""
    made: list[int] = []
    real = Checkpoints.make

    def make(self: Checkpoints) -> None:
        real(self)
        made.append(1)

    monkeypatch.setattr(Checkpoints, "make", make)
    return made


# --- who copies, and when ----------------------------------------------------------------------------------------


async def test_no_checkpoint_in_passing(path: Path) -> None:
    """A journal's own connection leaves checkpoints alone, so that none meets another process that writes."""
    async with Engine(path) as engine:
        assert isinstance(engine.journal, SQLiteJournal)
        assert engine.journal.query("PRAGMA wal_autocheckpoint") == [{"wal_autocheckpoint": 0}]
        assert engine.journal.query("PRAGMA journal_size_limit") == [{"journal_size_limit": checkpoints.WAL_BYTES}]


async def test_nobody_writes_during_a_checkpoint(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the log is copied nobody can write, and afterwards everybody can; what was written is in the file."""
    tried: list[str] = []
    real = Checkpoints._copy

    def copy(self: Checkpoints, connection: sqlite3.Connection) -> None:
        with closing(connect(path)) as other, pytest.raises(sqlite3.OperationalError) as caught:
            other.execute("INSERT INTO synced VALUES (1, 1)")
        tried.append(str(caught.value))
        real(self, connection)

    monkeypatch.setattr(Checkpoints, "_copy", copy)
    async with Engine(path):
        for n in range(3):
            await doubled(n)
        before = copied(path)
        Checkpoints(str(path), "process").make()
        assert (before, copied(path)) == (0, 3)
        await doubled(3)
    assert tried == ["database is locked"]


def test_a_checkpoint_gives_way(path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another process keeps the write lock, a checkpoint is given up, and tried again when more was written."""
    monkeypatch.setattr(checkpoints, "LOCK_SECONDS", 0)
    with closing(connect(path)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("CREATE TABLE large (bytes BLOB)")
        other.execute("INSERT INTO large VALUES (zeroblob(?))", (2 * SMALL,))
        mine = Checkpoints(str(path), "process")
        assert mine.due()
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            mine.make()
        other.execute("ROLLBACK")
        assert not mine.due()
        other.execute("INSERT INTO large VALUES (zeroblob(?))", (SMALL,))
        assert mine.due()


# --- how big the log gets ----------------------------------------------------------------------------------------


async def test_the_log_stays_small(path: Path, small: None, makes: list[int]) -> None:
    """However much is written, the log is copied back and begins anew before it has twice its size."""
    sizes = []
    async with Engine(path):
        for n in range(100):
            await doubled(n)
            sizes.append(log_bytes(path))
    assert SMALL < max(sizes) < 2 * SMALL
    assert 5 <= len(makes) <= 50


async def test_a_reader_is_not_waited_for(path: Path, small: None, makes: list[int]) -> None:
    """A long reader sees what it saw and holds nobody up; the log grows meanwhile, and is small again afterwards."""
    async with Engine(path):
        await doubled(0)
        with closing(connect(path)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM flow_runs").fetchone() == (1,)
            for n in range(1, 60):
                await doubled(n)
            assert reader.execute("SELECT count(*) FROM flow_runs").fetchone() == (1,)
            grown = log_bytes(path)
            assert len(makes) <= grown // (SMALL // 4)
        for n in range(60, 100):
            await doubled(n)
        assert log_bytes(path) < 2 * SMALL < grown


async def test_readers_never_copy(path: Path) -> None:
    """What looks at a journal from outside can't make a checkpoint, not even when it is told to."""
    async with Engine(path):
        await doubled(1)
        with Reader(path) as reader, pytest.raises(JournalError):
            reader.rows("PRAGMA wal_checkpoint")
        assert copied(path) == 0


def test_memory_has_no_log() -> None:
    """A journal in memory never needs a checkpoint."""
    assert not Checkpoints(":memory:", "process").due()


# --- several processes -------------------------------------------------------------------------------------------

WRITER = """
import os
import sys
import anyio
from undertow import Engine, flow, task
from undertow.storage import checkpoints

checkpoints.WAL_BYTES = int(sys.argv[2])
made = 0
make = checkpoints.Checkpoints.make

def counted(self):
    global made
    make(self)
    made += 1

checkpoints.Checkpoints.make = counted

@task
async def step(n): return n

@flow
async def work(n): return [await step(n), await step(n)]

async def main():
    biggest = 0
    async with Engine(sys.argv[1]):
        for n in range(int(sys.argv[3])):
            state = await work(n, return_state=True)
            print(state.run_id, flush=True)
            biggest = max(biggest, os.stat(f"{sys.argv[1]}-wal").st_size)
    print("made", made, biggest, flush=True)

anyio.run(main)
"""

Start = Callable[[int], "subprocess.Popen[str]"]


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    """Start a process that runs so many flows, and prints the ids of those that were acknowledged."""
    processes: list[subprocess.Popen[str]] = []

    def started(flows: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WRITER, str(path), str(SMALL), str(flows)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield started
    for process in processes:
        process.kill()
        process.communicate()


def test_processes_that_write_and_copy_at_once(path: Path, start: Start) -> None:
    """Processes on one file make checkpoints in turn: the file is sound, the log small, and no acknowledged run lost."""
    writers = [start(120) for _ in range(3)]
    killed = start(10_000)
    assert killed.stdout is not None
    told = [killed.stdout.readline().strip() for _ in range(50)]
    killed.send_signal(signal.SIGKILL)
    rest = [writer.communicate(timeout=60)[0].split() for writer in writers]
    for *ids, word, made, biggest in rest:
        assert (len(ids), word) == (120, "made")
        assert int(made) > 0
        assert int(biggest) < 16 * SMALL  # of some 200 times that are written
        told += ids
    assert runs(path, told) == len(told)
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def rows(path: Path, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    with closing(connect(path)) as connection:
        return connection.execute(sql, values).fetchall()


def runs(path: Path, ids: list[str]) -> int:
    """How many of these flow runs completed, with both their tasks."""
    completed = "SELECT flow_run_id FROM task_runs WHERE state_type = 'COMPLETED' GROUP BY 1 HAVING count(*) = 2"
    found = rows(path, f"SELECT id FROM flow_runs WHERE state_type = 'COMPLETED' AND id IN ({completed})")
    return len({run_id for (run_id,) in found} & set(ids))
