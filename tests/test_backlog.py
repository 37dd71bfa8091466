"""The backlog: what waits to be written is bounded, written in order, and written in the end whatever happens."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from undertow import INPUTS, Engine, JournalClosed, JournalError, flow, task
from undertow.engine.ports import Record
from undertow.storage import SQLiteJournal, backlog, results, service, writing
from undertow.storage.backlog import Backlog, LogLine
from undertow.storage.writing import GroupConnection


class Recorded:
    """As much of a run as the backlog looks at."""

    recorded = True


def run() -> Any:
    return Recorded()


def record(value: bytes = b"value") -> Record:
    return Record(value, "msgpack", "run", 0)


def line(number: int) -> LogLine:
    return LogLine("run", number, "INFO", "logger", f"line {number}")


# --- in memory ---------------------------------------------------------------------------------------------------


def test_first_come_first_written() -> None:
    """Runs and log records are taken in the order in which they came, as many as asked for."""
    waiting, runs = Backlog(), [run() for _ in range(5)]
    assert not waiting
    for each in runs:
        waiting.add(each)
    for number in range(5):
        waiting.log(line(number))
    assert waiting
    assert waiting.take_runs(3) == runs[:3]
    assert waiting.take_runs(3) == runs[3:]
    assert [taken.at for taken in waiting.take_logs(3) + waiting.take_logs(3)] == [0, 1, 2, 3, 4]
    assert waiting.take_runs(3) == []
    assert not waiting


def test_too_many_log_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log records above the bound are dropped and counted; there is room again when some were taken."""
    monkeypatch.setattr(backlog, "MAX_LOGS", 3)
    waiting = Backlog()
    for number in range(5):
        waiting.log(line(number))
    assert waiting.dropped_logs == 2
    waiting.take_logs(1)
    waiting.log(line(9))
    assert [taken.at for taken in waiting.take_logs(5)] == [1, 2, 9]
    assert waiting.dropped_logs == 2


def test_runs_that_could_not_be_written() -> None:
    """Runs that are put back wait once more, each once, also those whose story went on meanwhile."""
    waiting, runs = Backlog(), [run() for _ in range(3)]
    for each in runs:
        waiting.add(each)
    taken = waiting.take_runs(3)
    for each in taken:
        each.recorded = False  # as when its row is made
    taken[1].recorded = True
    waiting.add(taken[1])  # as when it goes on after that
    waiting.put_back(taken)
    assert sorted(map(id, waiting.take_runs(9))) == sorted(map(id, runs))
    assert all(each.recorded for each in runs)


async def test_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above its bound the backlog is crowded, and those who wait for room go on together when it is not."""
    monkeypatch.setattr(backlog, "MAX_RUNS", 2)
    waiting, entered = Backlog(), []
    await waiting.room()

    async def enter() -> None:
        await waiting.room()
        entered.append(1)

    for _ in range(3):
        assert not waiting.crowded
        waiting.add(run())
    assert waiting.crowded
    async with anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(enter)
        with anyio.move_on_after(1):
            await waiting.room()  # one who gives up keeps nobody else waiting
        waiting.look()
        await anyio.sleep(1)
        assert entered == []
        waiting.take_runs(1)
        waiting.look()
        await anyio.sleep(1)
        assert len(entered) == 100


@pytest.mark.real_time
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_room_in_several_loops(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """Loops of several threads wait for the same room, and each is told."""
    monkeypatch.setattr(backlog, "MAX_RUNS", 0)
    waiting = Backlog()
    waiting.add(run())
    threads = [threading.Thread(target=anyio.run, args=[waiting.room], kwargs={"backend": backend}) for _ in range(5)]
    for thread in threads:
        thread.start()
    waiting.take_runs(1)
    while any(thread.is_alive() for thread in threads):
        waiting.look()
        threads[0].join(0.001)


# --- in a journal ------------------------------------------------------------------------------------------------


@task(cache_policy=INPUTS)
async def square(x: int) -> int:
    return x * x


@flow
async def squares() -> list[int]:
    return [await square(x) for x in range(3)]


RESULT = "INSERT INTO result (key, value"
"""How the statement begins that writes a result."""


class Faults:
    """Has statements that begin in some way fail, so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: dict[str, float] = {}
        real = sqlite3.Connection.execute

        def execute(connection: sqlite3.Connection, sql: str, *given: Any) -> Any:
            for beginning in self.left:
                if sql.lstrip().startswith(beginning):
                    self.hit(beginning)
            return real(connection, sql, *given)

        monkeypatch.setattr(GroupConnection, "execute", execute)
        monkeypatch.setattr(service, "RETRY_SECONDS", 0.001)

    def hit(self, what: str, error: type[Exception] = sqlite3.OperationalError) -> None:
        """Fail, if it is to."""
        if self.left.get(what, 0) > 0:
            self.left[what] -= 1
            raise error("disk I/O error")


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(monkeypatch)


def rows(engine: Engine, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in engine.journal.query(sql)]  # type: ignore[attr-defined]


@pytest.mark.real_time
@pytest.mark.parametrize("what", ["PRAGMA synchronous", RESULT, "INSERT INTO run", "INSERT INTO log"])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_group_that_could_not_be_written(
    path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch, what: str, times: int
) -> None:
    """Whatever part of a group can't be written, nothing of it is lost: it is written when that is possible again."""
    monkeypatch.setattr(writing, "SYNC_SECONDS", 0)
    async with Engine(path, durability="power" if times == 1 else "process") as engine:
        faults.left[what] = times
        for number in range(3):
            engine.journal.log("run", number, "INFO", "logger", f"line {number}")
        assert await squares() == [0, 1, 4]
        await written(engine)
        assert faults.left == {what: 0}
        assert rows(engine, "SELECT state_type, count(*) FROM task_runs GROUP BY 1") == [("COMPLETED", 3)]
        assert rows(engine, "SELECT state_type, count(*) FROM flow_runs GROUP BY 1") == [("COMPLETED", 1)]
        assert rows(engine, "SELECT count(*) FROM result WHERE key LIKE 'cache:%'") == [(3,)]
        assert rows(engine, "SELECT message FROM logs") == [("line 0",), ("line 1",), ("line 2",)]


async def written(engine: Engine) -> None:
    """Return when everything is on disk."""
    while True:
        try:
            return await engine.journal.commit()
        except JournalError:
            continue


@pytest.mark.real_time
async def test_a_file_that_could_not_be_written(path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a result's file can't be written, neither the result nor the runs that wait with it are lost."""
    real = results.write_file

    def write_file(folder: Path, value: bytes) -> str:
        faults.hit("file", OSError)
        return real(folder, value)

    monkeypatch.setattr(results, "write_file", write_file)
    faults.left["file"] = 1
    big = flow(persist_result=True)(lambda: "x" * 300_000)
    async with Engine(path) as engine:
        await anyio.to_thread.run_sync(big)
        await written(engine)
        assert faults.left == {"file": 0}
        assert rows(engine, "SELECT state_type FROM flow_runs") == [("COMPLETED",)]
        assert rows(engine, "SELECT count(*) FROM result") == [(1,)]


@pytest.mark.real_time
async def test_what_can_never_be_written(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A record that no journal can hold is reported, and takes nothing else along; a text is written in any case."""
    async with Engine(path) as engine:
        engine.journal.keep("cache:impossible", Record(b"", "msgpack", "run", 0, 2**70))
        engine.journal.log("run", 1, "INFO", "logger", "half a pair: \ud800, and NUL: \0")
        engine.journal.log("run", 2, "INFO", "logger", "whole")
        with anyio.fail_after(5):
            assert await squares() == [0, 1, 4]
            await written(engine)
        assert rows(engine, "SELECT message FROM logs") == [("half a pair: \\ud800, and NUL: \\x00",), ("whole",)]
        assert rows(engine, "SELECT count(*) FROM result") == [(3,)]
        assert rows(engine, "SELECT state_type FROM flow_runs") == [("COMPLETED",)]
    assert "cache:impossible" in caplog.text


@pytest.mark.real_time
async def test_a_result_that_is_kept_very_long(path: Path) -> None:
    """A result that is to be kept for longer than a journal can say is kept for ever."""
    lasting = square.with_options(cache_expiration=timedelta.max)
    async with Engine(path) as engine:
        assert await lasting(3) == 9
        await written(engine)
        assert rows(engine, "SELECT expires_at FROM result") == [(None,)]


@pytest.mark.real_time
async def test_a_result_is_written_before_its_run(path: Path, faults: Faults) -> None:
    """While a result can't be written, no run on disk says that it has completed."""
    async with Engine(path) as engine:
        faults.left[RESULT] = float("inf")
        await squares()
        with closing(sqlite3.connect(path)) as other:
            assert other.execute("SELECT id FROM task_runs WHERE state_type = 'COMPLETED'").fetchall() == []
        with pytest.raises(JournalError, match="disk I/O error"):
            await engine.journal.commit()
        faults.left.clear()
        await written(engine)
        assert rows(engine, "SELECT DISTINCT state_type FROM task_runs") == [("COMPLETED",)]


@pytest.mark.real_time
async def test_what_is_not_written_yet(path: Path, faults: Faults) -> None:
    """What waits to be written, or to be deleted, is loaded as if it had been; the last word under a key counts."""
    async with Engine(path) as engine:
        journal = engine.journal
        journal.keep("cache:kept", record(b"old"))
        await journal.commit()
        faults.left[RESULT] = faults.left["DELETE FROM result"] = float("inf")
        journal.discard("cache:kept")
        journal.keep("cache:new", record(b"first"))
        journal.keep("cache:new", record(b"second"))
        journal.keep("cache:gone", record())
        journal.discard("cache:gone")
        for _ in range(2):
            assert await journal.load("cache:kept") is None
            assert await journal.load("cache:gone") is None
            loaded = await journal.load("cache:new")
            assert loaded is not None
            assert loaded.value == b"second"
            faults.left.clear()
            await written(engine)
        assert rows(engine, "SELECT key, value FROM result") == [("cache:new", b"second")]


@pytest.mark.real_time
async def test_too_many_log_records_for_a_journal(path: Path, faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log records that a journal had to drop are counted, and logging to one that is closed does nothing."""
    monkeypatch.setattr(backlog, "MAX_LOGS", 10)
    engine = Engine(path)
    async with engine:
        faults.left["INSERT INTO log"] = float("inf")
        for number in range(25):
            engine.journal.log("run", number, "INFO", "logger", f"line {number}")
        assert engine.journal.dropped_logs == 15  # type: ignore[attr-defined]
        faults.left.clear()
        await written(engine)
        assert rows(engine, "SELECT count(*) FROM logs") == [(10,)]
    engine.journal.log("run", 0, "INFO", "logger", "too late")


# --- asking ------------------------------------------------------------------------------------------------------


@pytest.mark.real_time
async def test_commit(path: Path, faults: Faults) -> None:
    """`commit` answers when all that was said before is on disk, at once when it is, and says why it can't be."""
    async with Engine(path) as engine:
        await engine.journal.commit()
        engine.journal.keep("cache:key", record())
        faults.left[RESULT] = 1
        with pytest.raises(JournalError, match="disk I/O error"):
            await engine.journal.commit()
        await written(engine)
        assert rows(engine, "SELECT key FROM result") == [("cache:key",)]


@pytest.mark.real_time
@pytest.mark.parametrize(
    "question",
    [
        lambda journal: journal.load("cache:key"),
        lambda journal: journal.reserve("flight:key", "run"),
        lambda journal: journal.find("run"),
        lambda journal: journal.past("run"),
        lambda journal: journal.recoverable(),
        lambda journal: journal.tidy(),
    ],
)
def test_closing_answers_everybody(path: Path, question: Callable[[SQLiteJournal], Any]) -> None:
    """Whoever waits for an answer when the journal is closed gets it, or is told that it is closed."""
    journal = SQLiteJournal(path)
    journal.open()
    replies = [question(journal) for _ in range(100)]
    journal.close()
    for reply in replies:
        try:
            reply.wait()
        except JournalClosed:
            continue
    for said in (
        lambda: question(journal),
        lambda: journal.keep("cache:key", record()),
        lambda: journal.discard("cache:key"),
    ):
        with pytest.raises(JournalClosed, match="Open an engine"):
            said()
