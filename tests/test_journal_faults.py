"""What the journal does when its file is not what it should be, and when writing fails."""

from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from undertow import (
    Engine,
    JournalCorrupt,
    JournalError,
    JournalMissing,
    JournalTooNew,
    flow,
    task,
)
from undertow.storage import Reader, SQLiteJournal, backlog, service, writing
from undertow.storage.rows import statement

pytestmark = pytest.mark.real_time


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """Rows as another program sees them, through a read-only connection of its own."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


@task
async def double(n: int) -> int:
    return 2 * n


@task
def triple(n: int) -> int:
    return 3 * n


@flow
async def doubled(n: int) -> int:
    return await double(n)


@flow
def tripled(n: int) -> int:
    return triple(n)


@flow
async def failing(n: int) -> int:
    raise KeyError(await double(n))


def used(path: Path) -> Path:
    """The path of a journal that has been written and closed."""
    with Engine(path):
        for n in range(100):
            tripled(n)
    return path


# --- a file that can't be opened -------------------------------------------------------------------------------


def test_missing_folder(tmp_path: Path) -> None:
    """A journal in a folder that isn't there is refused, and the message says how to make the folder."""
    folder = tmp_path / "not" / "there"
    with pytest.raises(JournalMissing) as caught, Engine(folder / "app.db"):
        pass
    assert str(caught.value) == (
        f"Journal {folder}/app.db: the folder {folder} does not exist. Create it: mkdir -p {folder}"
    )
    assert not folder.exists()


def test_path_is_a_folder(tmp_path: Path) -> None:
    """A path that is a folder is refused, and the message says so."""
    with pytest.raises(JournalError, match=f"Journal {tmp_path}: it is a folder"), Engine(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_symlink_to_nowhere(path: Path, tmp_path: Path) -> None:
    """A link that leads to no file is refused, so nobody's link decides where the journal is made."""
    path.symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(JournalError, match=f"Journal {path}: "), Engine(path):
        pass
    assert not (tmp_path / "elsewhere.db").exists()


# Root may write to anything, so the script becomes another user first; its engine in memory loads what it needs.
AS_ANOTHER_USER = """
import os, sys
from undertow import Engine, JournalReadOnly, flow

@flow
def one(): return 1

with Engine(":memory:"):
    one()
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    with Engine(sys.argv[1]):
        print("opened")
except JournalReadOnly as error:
    print(error)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may look into; the folders of pytest are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder
        folder.chmod(0o700)


def open_as_another_user(path: Path) -> str:
    command = [sys.executable, "-c", AS_ANOTHER_USER, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout


def test_read_only_file(open_folder: Path) -> None:
    """A file that may only be read is refused, with its name and where to look, and stays as it is."""
    path = used(open_folder / "app.db")
    path.chmod(0o444)
    before = path.read_bytes()
    assert open_as_another_user(path).startswith(f"Journal {path}: it can't be written. Check the permissions")
    assert path.read_bytes() == before


def test_read_only_folder(open_folder: Path) -> None:
    """A new journal in a folder that may only be read is refused, with its name and where to look."""
    path = open_folder / "app.db"
    open_folder.chmod(0o555)
    printed = open_as_another_user(path)
    assert printed.startswith(f"Journal {path}: it can't be written. Check the permissions")
    assert str(open_folder) in printed
    assert not path.exists()


def test_file_in_read_only_folder(open_folder: Path) -> None:
    """A journal that may be written, in a folder that may not, is refused: SQLite needs two files beside it."""
    path = used(open_folder / "app.db")
    path.chmod(0o666)
    open_folder.chmod(0o555)
    assert open_as_another_user(path).startswith(f"Journal {path}: it can't be written. Check the permissions")


# --- a file that is no journal of ours -------------------------------------------------------------------------


def text_file(path: Path) -> None:
    path.write_text("Dear diary,\n" * 1000)


def short_file(path: Path) -> None:
    path.write_bytes(b"\0" * 30)


def other_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE invoices (id INTEGER); INSERT INTO invoices VALUES (1);")


def other_database_in_use(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA journal_mode = WAL; CREATE TABLE invoices (id INTEGER);")


def other_application(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA application_id = 4711; PRAGMA user_version = 1;")


def broken_first_page(path: Path) -> None:
    used(path)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 3000)


def truncated(path: Path) -> None:
    used(path)
    os.truncate(path, 5000)


@pytest.mark.parametrize(
    "make",
    [text_file, short_file, other_database, other_database_in_use, other_application, broken_first_page, truncated],
)
def test_not_a_journal(make: Callable[[Path], None], path: Path) -> None:
    """A file that is damaged or is something else is refused with its name, and not one byte of it changes."""
    make(path)
    before = path.read_bytes()
    with pytest.raises(JournalCorrupt, match=f"^Journal {path}: .*[Gg]ive another path"), Engine(path):
        pass
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["app.db"]


def test_newer_schema(path: Path) -> None:
    """A journal of a newer undertow is refused, to write and to read, and not one byte of it changes."""
    with closing(sqlite3.connect(used(path))) as connection:
        connection.execute("PRAGMA user_version = 1000000")
    before = path.read_bytes()
    with pytest.raises(JournalTooNew, match=f"^Journal {path}: .*version 1000000.*Upgrade undertow"), Engine(path):
        pass
    assert os.listdir(path.parent) == ["app.db"]
    with pytest.raises(JournalTooNew):
        Reader(path)
    assert path.read_bytes() == before


def test_empty_file(path: Path) -> None:
    """An empty file is a new journal, as it is for SQLite."""
    path.touch()
    used(path)
    assert rows(path, "SELECT count(*) FROM flow_runs") == [(100,)]


def test_failed_open_leaves_nothing(path: Path) -> None:
    """An engine that could not be opened is not the engine of later calls, and opens once the fault is gone."""
    engine = Engine(path)
    text_file(path)
    with Engine(":memory:") as other:
        with pytest.raises(JournalCorrupt), engine:
            pass
        tripled(1)
        assert isinstance(other.journal, SQLiteJournal)
        assert other.journal.query("SELECT count(*) AS runs FROM flow_runs") == [{"runs": 1}]
    path.unlink()
    with engine:
        tripled(2)
    assert rows(path, "SELECT count(*) FROM flow_runs") == [(1,)]


# --- writing fails ---------------------------------------------------------------------------------------------


@contextmanager
def locked(engine: Engine, path: Path) -> Iterator[None]:
    """Another program holds the file's lock, and the journal's patience is short."""
    assert isinstance(engine.journal, SQLiteJournal)
    engine.journal.query("PRAGMA busy_timeout = 1")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def full(engine: Engine, path: Path) -> Iterator[None]:
    """The file may not grow any more."""
    assert isinstance(engine.journal, SQLiteJournal)
    engine.journal.query("PRAGMA max_page_count = 1")
    yield


FAULTS = {"locked": (locked, "another process holds its lock"), "full": (full, "the disk is full")}


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that could not be written is tried again at once."""
    monkeypatch.setattr(service, "RETRY_SECONDS", 0.001)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


def bulky(definition: Any) -> Any:
    """The same flow, with so long a name that its row finds no place in a file that can't grow."""
    return definition.with_options(flow_run_name="x" * 50_000)


@pytest.mark.parametrize("fault", FAULTS)
async def test_result_survives(fault: str, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When writing fails, results and exceptions reach async callers all the same, and the log says what is wrong."""
    break_it, problem = FAULTS[fault]
    async with Engine(path) as engine:
        with break_it(engine, path):
            assert await bulky(doubled)(2) == 4
            assert (await doubled(2, return_state=True)).is_completed()
            assert await engine.start(doubled, 4) == 8
            assert triple(3) == 9
            with pytest.raises(KeyError, match="6"):
                await failing(3)
    assert any(line.startswith(f"Journal {path}: {problem}. ") for line in errors(caplog))
    assert any("are not on disk" in line and f"Journal {path}: {problem}" in line for line in errors(caplog))


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_result_survives_in_threads(fault: str, backend: str, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When writing fails, results and exceptions reach plain threads all the same, and the log says why."""

    @flow
    def failing_here() -> None:
        raise KeyError("mine")

    break_it, problem = FAULTS[fault]
    with Engine(path, backend=backend) as engine, break_it(engine, path):
        assert bulky(tripled)(2) == 6
        assert triple(3) == 9
        with pytest.raises(KeyError, match="mine"):
            failing_here()
    assert any("are not on disk" in line and f"Journal {path}: {problem}" in line for line in errors(caplog))


async def test_writing_resumes_by_itself(path: Path, hasty: None) -> None:
    """What could not be written is written as soon as it can be, without a word from the program."""
    async with Engine(path) as engine:
        with locked(engine, path):
            await doubled(1)
            await doubled(2)
            assert rows(path, "SELECT count(*) FROM flow_runs") == [(0,)]
        with anyio.fail_after(10):
            while rows(path, "SELECT count(*) FROM flow_runs") != [(2,)]:
                await anyio.lowlevel.checkpoint()
    assert rows(path, "SELECT state_type, count(*) FROM task_runs GROUP BY 1") == [("COMPLETED", 2)]


async def test_next_commit_brings_the_rest(path: Path) -> None:
    """The first call after a fault has gone finds its own records on disk, and those that could not be written."""
    async with Engine(path) as engine:
        with locked(engine, path):
            await doubled(1)
        await doubled(2)
        assert rows(path, "SELECT state_type, count(*) FROM flow_runs GROUP BY 1") == [("COMPLETED", 2)]


async def test_close_brings_the_rest(path: Path) -> None:
    """Closing the engine after a fault has gone writes what could not be written."""
    async with Engine(path) as engine:
        with locked(engine, path):
            await doubled(1)
    assert rows(path, "SELECT state_type, count(*) FROM flow_runs GROUP BY 1") == [("COMPLETED", 1)]


async def test_crowded_while_writing_fails(path: Path, hasty: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that begins while too much waits to be written waits as well, and then ends as it would."""
    monkeypatch.setattr(backlog, "MAX_RUNS", 1)
    tries: SimpleQueue[int] = SimpleQueue()

    def tried(size: int) -> str:
        tries.put(size)
        return statement(size)

    monkeypatch.setattr(writing, "statement", tried)
    answers: list[int] = []

    async def ask() -> None:
        answers.append(await doubled(2))

    async with Engine(path) as engine:
        async with anyio.create_task_group() as group:
            with locked(engine, path):
                await doubled(1)
                assert engine.journal.crowded
                group.start_soon(ask)
                for _ in range(tries.qsize() + 3):
                    await anyio.to_thread.run_sync(tries.get)
                assert answers == []
        assert answers == [4]
    assert rows(path, "SELECT state_type, count(*) FROM flow_runs GROUP BY 1") == [("COMPLETED", 2)]


async def test_log_is_not_flooded(path: Path, hasty: None, caplog: pytest.LogCaptureFixture) -> None:
    """However often writing is tried again, the writer says once what is wrong."""
    async with Engine(path) as engine:
        with locked(engine, path):
            for n in range(20):
                await doubled(n)
    assert len([line for line in errors(caplog) if line.startswith("Journal ")]) == 1


@pytest.mark.parametrize("fault", FAULTS)
async def test_close_says_what_is_lost(fault: str, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A journal that can't write the rest when it is closed says how many runs are missing, and raises nothing."""
    break_it, _ = FAULTS[fault]
    with ExitStack() as outside:
        async with Engine(path) as engine:
            outside.enter_context(break_it(engine, path))
            await bulky(doubled)(1)
    assert f"Journal {path} was closed with 2 runs not written." in errors(caplog)


def test_damage_met_while_writing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A flow keeps its result when the journal turns out to be damaged, and the log says so."""
    half = used(path).stat().st_size // 2
    with path.open("r+b") as file:
        file.seek(half)
        file.write(b"\xff" * half)
    with Engine(path):
        assert tripled(1) == 3
    assert any(line.startswith(f"Journal {path}: the file is damaged") for line in errors(caplog))


async def test_commit_that_takes_too_long(make_engine: Callable[..., Engine], caplog: pytest.LogCaptureFixture) -> None:
    """A call whose records are not on disk in time returns its result all the same, and the log says so."""

    class Stuck:
        """A journal that takes everything and writes nothing."""

        crowded = False
        pool = None

        def listen(self, cancel: object) -> None: ...

        def record(self, run: object) -> None: ...

        def open(self) -> None: ...

        def close(self) -> None: ...

        async def commit(self) -> None:
            await anyio.sleep_forever()

    engine = make_engine(journal=Stuck())
    engine.core.finish_seconds = 0.001
    async with engine:
        assert await doubled(1) == 2
    assert any("are not on disk" in line for line in errors(caplog))


LIMITED = """
import logging, os, resource, sys
from undertow import Engine, flow

logging.basicConfig(format="%(message)s")

@flow
def work(n): return n

path = sys.argv[1]
with Engine(path):
    work(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path + "-wal"), hard))
    print([work(n) for n in range(1, 5)])
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    print(work(5))
"""


def test_operating_system_refuses_to_write(path: Path) -> None:
    """Flows go on while the system refuses every write to the file, and their records follow when it no longer does."""
    command = [sys.executable, "-c", LIMITED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[1, 2, 3, 4]\n5\n"
    said = done.stderr.splitlines()
    assert sum("are not on disk" in line for line in said) == 4
    assert all(f"Journal {path}: " in line for line in said)
    assert rows(path, "SELECT state_type, count(*) FROM flow_runs GROUP BY 1") == [("COMPLETED", 6)]
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
