"""Every write, sync and other call to the disk fails once, and the disk is full from every one of them on."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tests.faults import IO_ERROR, NO_SPACE, Disk, Operation, failing_disk
from undertow import Engine, JournalError, flow, task
from undertow.storage import SQLiteJournal, service

pytestmark = pytest.mark.real_time

BIG = 300_000
"""A text of so many letters is a result's file."""

FAULTS: dict[str, tuple[dict[Operation, int], bool]] = {
    "an I/O error": (IO_ERROR, False),
    "a full disk": (NO_SPACE, True),
}


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written is tried again at once."""
    monkeypatch.setattr(service, "RETRY_SECONDS", 0.001)


# --- what runs on it -------------------------------------------------------------------------------------------------

began: Counter[int] = Counter()
"""How often the body of each step began."""

given: list[int] = []
"""The steps whose results a durable flow was given."""

hooks: dict[int, Callable[[], None]] = {}
"""What else happens in the body of a step."""


@pytest.fixture(autouse=True)
def ledger() -> Iterator[None]:
    yield
    for each in (began, given, hooks):
        each.clear()


@task
async def step(n: int, letters: int = 0) -> str:
    began[n] += 1
    if n in hooks:
        hooks[n]()
    return str(n) * (letters or 1)


@task
def sync_step(n: int) -> str:
    began[n] += 1
    return str(n)


@flow
async def plain() -> str:
    return "".join([await step(1), await step.submit(2, BIG), sync_step(3), *await step.map([4, 5])])


@flow(durable=True)
async def durable() -> str:
    texts: list[str] = []
    for n, letters in enumerate((1, 1, BIG, 1)):
        texts.append(await step(n, letters))
        given.append(n)
    return "".join(texts)


RESULTS = {plain: "1" + "2" * BIG + "345", durable: "01" + "2" * BIG + "3"}


# --- at every call ---------------------------------------------------------------------------------------------------

UNPROVEN = """
SELECT count(*) FROM run WHERE state_type = 'COMPLETED' AND step NOT LIKE '%/'
    AND NOT EXISTS (SELECT 1 FROM result WHERE key = 'step:' || run.step)
"""
"""Steps that are said to be Completed, with no record of what they returned."""


class Life:
    """What one process's worth of work came to, while the disk failed from one call on, or at that call."""

    def __init__(self, disk: Disk, path: Path, number: int) -> None:
        self.disk, self.path, self.backend = disk, path, ("asyncio", "trio")[number % 2]
        self.result: Any = None
        self.refused: JournalError | None = None

    def live(self, definition: Any, resume: str | None = None) -> None:
        """Run the flow, or resume that run; what the journal may refuse is noted, and all else is raised."""
        try:
            anyio.run(self._work, definition, resume, backend=self.backend)
        except JournalError as error:
            self.refused = error
        finally:
            self.disk.heal()
        assert str(self.refused or f"Journal {self.path}: ").startswith(f"Journal {self.path}: ")

    async def _work(self, definition: Any, resume: str | None) -> None:
        given.clear()
        with anyio.fail_after(20):
            async with Engine(self.path) as engine:
                try:
                    self.result = await (definition() if resume is None else engine.resume(resume))
                finally:
                    with self.disk.aside():
                        assert rows(self.path, "SELECT count(*) FROM result WHERE key LIKE 'step:%'") >= [(len(given),)]
                    self.disk.heal()
                    await self._written()

    async def _written(self) -> None:
        """Wait until all that happened is on disk, for which nobody asks."""
        while not rows(self.path, "SELECT 1 FROM run WHERE parent_run_id IS NULL AND ended_at IS NOT NULL"):
            await anyio.lowlevel.checkpoint()

    def check_file(self) -> None:
        """See that the file is sound, and says no more than what is recorded."""
        with closing(sqlite3.connect(self.path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute(UNPROVEN).fetchall() == [(0,)]


@pytest.mark.parametrize("fault", FAULTS)
def test_plain_flow_at_every_call(fault: str, tmp_path: Path) -> None:
    """Whichever call to the disk fails, a new journal opens or says why not, a plain flow has its result, and all of it gets to disk by itself."""
    codes, lasting = FAULTS[fault]
    opened = refused = 0
    for number in count():
        path = tmp_path / f"{number}.db"
        with failing_disk(path) as disk:
            life = Life(disk, path, number)
            disk.watch(codes, number, lasting)
            life.live(plain)
            if not disk.hits:
                break
            if life.refused:
                refused += 1
                assert not began
                life.live(plain)
            opened += 1
            assert life.result == RESULTS[plain]
        life.check_file()
        assert rows(path, "SELECT state_type, count(*) FROM run GROUP BY 1") == [("COMPLETED", 6)]
        began.clear()
    assert opened > 40
    assert refused > 20


@pytest.mark.parametrize("fault", FAULTS)
def test_durable_flow_at_every_call(fault: str, tmp_path: Path) -> None:
    """Whichever call to the disk fails, a durable flow is given no result that is not on disk, and resumed later it runs nothing again that was."""
    codes, lasting = FAULTS[fault]
    with Engine(tmp_path / "new.db"):
        pass
    refused = 0
    for number in count():
        path = shutil.copy(tmp_path / "new.db", tmp_path / f"{number}.db")
        with failing_disk(path) as disk:
            life = Life(disk, path, number)
            disk.watch(codes, number, lasting)
            life.live(durable)
            if not disk.hits:
                break
            life.check_file()
            runs = rows(path, "SELECT id FROM flow_runs")
            if life.result is None and runs:
                refused += 1
                recorded = set(given)
                began.clear()
                life.live(durable, resume=runs[0][0])
                assert not began.keys() & recorded
            assert life.result == RESULTS[durable] if runs else not began
        began.clear()
    assert refused > 10


@pytest.fixture
def broken_off(tmp_path: Path) -> tuple[Path, str]:
    """The folder and id of a durable run whose process died in its third step, with a log that SQLite has to recover."""
    folder = tmp_path / "broken off"
    folder.mkdir()
    first = tmp_path / "first.db"

    def die() -> None:
        # By another program: who opens and closes these files loses the locks that SQLite has in this one.
        for suffix in ("", "-wal"):
            subprocess.run(["cp", f"{first}{suffix}", folder / f"app.db{suffix}"], check=True)

    async def live() -> None:
        async with Engine(first) as engine:
            assert isinstance(engine.journal, SQLiteJournal)
            engine.journal.query("UPDATE owner SET started = 'earlier'")
            hooks[2] = die
            await durable()

    anyio.run(live)
    hooks.clear()
    began.clear()
    [(run_id,)] = rows(first, "SELECT id FROM flow_runs")
    return folder, run_id


@pytest.mark.parametrize("fault", FAULTS)
def test_recovery_at_every_call(fault: str, tmp_path: Path, broken_off: tuple[Path, str]) -> None:
    """Whichever call to the disk fails while a journal is recovered and a run resumed, nothing recorded is lost or runs again, and the run can be resumed later."""
    codes, lasting = FAULTS[fault]
    template, run_id = broken_off
    refused = 0
    for number in count():
        path = shutil.copytree(template, tmp_path / str(number)) / "app.db"
        with failing_disk(path) as disk:
            life = Life(disk, path, number)
            disk.watch(codes, number, lasting)
            life.live(durable, run_id)
            if not disk.hits:
                break
            life.check_file()
            if life.result is None:
                refused += 1
                life.live(durable, run_id)
        assert life.result == RESULTS[durable]
        assert not began.keys() & {0, 1}
        began.clear()
    assert refused > 10
