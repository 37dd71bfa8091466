"""One journal, several writers: nobody is refused, and nothing is lost, because somebody else wrote at that moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from undertow import Engine, JournalError, flow, task
from undertow.engine.ports import Record
from undertow.storage import SQLiteJournal

pytestmark = pytest.mark.real_time


@task
async def step(x: int) -> int:
    return x


@flow(durable=True)
async def whole() -> list[int]:
    return await step.map(range(20))


async def test_questions_do_not_get_in_the_way_of_writing(tmp_path: Path) -> None:
    """A write that comes while a question is being answered is not refused because another process has just written."""
    async with Engine(tmp_path / "app.db") as engine:
        await whole()
        [run] = engine.journal.query("SELECT id FROM flow_runs")  # type: ignore[attr-defined]
        other = SQLiteJournal(tmp_path / "app.db")
        other.open()
        for number in range(100):
            record = Record(b"\xc0", "msgpack", "a run", number)
            replies = []
            for journal in (engine.journal, other):
                replies += [journal.past(run["id"]) for _ in range(3)]
                journal.keep(f"run:{number % 7}", record)
                replies.append(journal.commit())
            for reply in replies:
                reply.wait()  # raises what went wrong
        other.close()


async def test_a_result_that_can_not_be_written_takes_no_run_along(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Runs that wait to be written with a result whose file can't be written are written when it can."""
    path, obstacle = tmp_path / "app.db", tmp_path / "app.db.results"
    obstacle.touch()

    @flow(persist_result=True)
    async def big() -> bytes:
        return bytes(1_000_000)

    async with Engine(path) as engine:
        await big()
        assert "a result's file can't be written" in caplog.text
        with pytest.raises(JournalError):
            engine.journal.commit().wait()
        obstacle.unlink()
        assert [row["state_name"] for row in engine.journal.query("SELECT state_name FROM flow_runs")] == ["Completed"]  # type: ignore[attr-defined]
