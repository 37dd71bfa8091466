"""Retention: what is too old goes, whole and in small steps, and nothing else does."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiosqlite
import anyio
import pytest
from anyio.lowlevel import checkpoint

from undertow import INPUTS, Engine, InvalidOption, JournalError, RunNotResumable, flow, task
from undertow.engine.ports import SystemClock
from undertow.storage import retention, service

pytestmark = pytest.mark.real_time

HOUR = timedelta(hours=1)
BIG = 300 * 1024
"""Bytes of a result that goes to a file."""


class SetBack(SystemClock):
    """The machine's clock, set back by some time."""

    def __init__(self) -> None:
        self.back = timedelta(0)

    def now(self) -> int:
        return super().now() - int(self.back.total_seconds() * 1e6)


@pytest.fixture
def clock() -> SetBack:
    return SetBack()


@pytest.fixture
def no_safe_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files go at once, however new."""
    monkeypatch.setattr(retention, "SAFE_SECONDS", -1)


@task
async def step(x: Any = None) -> Any:
    return x


@flow
async def single(x: Any = None) -> Any:
    return await step(x)


@flow(persist_result=True)
async def kept(x: int) -> bytes:
    return bytes([x]) * BIG


@flow(durable=True)
async def durable(x: int) -> int:
    return len(await step(bytes([x]) * BIG)) + len(await step("small"))


@flow(durable=True)
async def family(x: int) -> int:
    """Runs of all kinds, at three levels, with results of all kinds."""
    await single.submit(x)
    await kept(x)
    await durable(x)
    await step.map(range(5))
    return await middle(x)


@flow
async def middle(x: int) -> int:
    await kept(x + 1)
    return await durable(x + 1)


@flow
async def bad() -> None:
    raise ValueError("by design")


async def log_everywhere(engine: Engine) -> None:
    """A log record of each run there is."""
    for row in rows(engine, "SELECT id FROM run"):
        engine.journal.log(row["id"], 1, "INFO", "some", "line")
    await engine.journal.commit()


def rows(engine: Engine, sql: str) -> list[dict[str, Any]]:
    return engine.journal.query(sql)  # type: ignore[attr-defined, no-any-return]


def counts(engine: Engine) -> dict[str, int]:
    """How many rows the private tables have, and how many files there are."""
    found = {table: rows(engine, f"SELECT count(*) AS n FROM {table}")[0]["n"] for table in ("run", "result", "log")}
    return found | {"file": len(files(engine.journal.path))}  # type: ignore[attr-defined]


def files(path: str | Path) -> list[Path]:
    """The files of results beside a journal."""
    return list(Path(path).parent.glob(f"{Path(path).name}.results/*"))


NOTHING = {"run": 0, "result": 0, "log": 0, "file": 0}


async def tidy(engine: Engine) -> None:
    await engine.journal.tidy()  # type: ignore[attr-defined]


# --- what goes ---------------------------------------------------------------------------------------------------


async def test_keep_for(path: Path, clock: SetBack) -> None:
    """With `keep_for`, outermost runs that ended longer ago are removed, flows and tasks, failed ones too."""
    async with Engine(path, clock=clock, keep_for=HOUR) as engine:
        clock.back = 2 * HOUR
        await single("old")
        await step("old")
        await bad(return_state=True)
        clock.back = timedelta(0)
        young = await single("young", return_state=True)
        await tidy(engine)
        assert [row["id"] for row in rows(engine, "SELECT id FROM flow_runs")] == [young.run_id]
        assert [row["flow_run_id"] for row in rows(engine, "SELECT flow_run_id FROM task_runs")] == [young.run_id]


async def test_keep_runs(path: Path) -> None:
    """With `keep_runs`, the flow runs that ended last are kept, that many, each with all that is in it."""
    async with Engine(path, keep_runs=2) as engine:
        states = [await single(n, return_state=True) for n in range(6)]
        await tidy(engine)
        kept_ids = [state.run_id for state in states[-2:]]
        assert [row["id"] for row in rows(engine, "SELECT id FROM flow_runs ORDER BY id")] == kept_ids
        assert [row["flow_run_id"] for row in rows(engine, "SELECT flow_run_id FROM task_runs ORDER BY id")] == kept_ids


@pytest.mark.parametrize("outermost", [family, flow(family.fn)], ids=["durable", "plain"])
async def test_a_family_goes_whole(path: Path, no_safe_time: None, outermost: Any) -> None:
    """With a run goes all that ran inside it, at every level, with logs, kept results, steps and their files."""
    async with Engine(path, keep_runs=0) as engine:
        await outermost(1)
        await log_everywhere(engine)
        before = counts(engine)
        assert before["run"] == before["log"] > 10
        assert before["result"] >= 8
        assert before["file"] == 2
        await tidy(engine)
        assert counts(engine) == NOTHING


async def test_unfinished_runs_stay(path: Path, clock: SetBack) -> None:
    """A run that has not ended stays, however old, and with it what ended inside it."""
    begun, end = anyio.Event(), anyio.Event()

    @flow
    async def waiting() -> None:
        await single()
        begun.set()
        await end.wait()

    async with Engine(path, clock=clock, keep_for=HOUR, keep_runs=0) as engine:
        clock.back = 2 * HOUR
        future = engine.start(waiting)
        await begun.wait()
        await single()
        await tidy(engine)
        assert [row["flow"] for row in rows(engine, "SELECT flow FROM flow_runs ORDER BY id")] == ["waiting", "single"]
        assert counts(engine)["run"] == 3
        end.set()
        await future
        await tidy(engine)
        assert counts(engine) == NOTHING


async def test_without_bounds_all_stays(path: Path, clock: SetBack) -> None:
    """An engine without `keep_for` and `keep_runs` removes no run and no result of one."""
    clock.back = timedelta(days=10_000)
    async with Engine(path, clock=clock) as engine:
        await family(1)
        before = counts(engine)
        await tidy(engine)
        assert counts(engine) == before


async def test_expired_results(path: Path, clock: SetBack) -> None:
    """Cached results that have expired are removed in any case; those that count still, and those for ever, stay."""
    cached = task(cache_policy=INPUTS)(step.fn)
    async with Engine(path, clock=clock) as engine:
        clock.back = 2 * HOUR
        for x, expiration in enumerate((HOUR, 3 * HOUR, None)):
            await cached.with_options(cache_expiration=expiration)(x)
        await tidy(engine)
        assert counts(engine)["result"] == 2
        assert counts(engine)["run"] == 3


async def test_chosen_ids(path: Path) -> None:
    """A run whose id was chosen goes with its result, and a later call with that id is a new run."""
    calls: list[int] = []

    @flow
    async def counted() -> int:
        calls.append(1)
        return len(calls)

    async with Engine(path, keep_runs=0) as engine:
        for expected in (1, 2):
            assert await engine.start(counted, run_id="report-7") == expected
            assert counts(engine)["result"] == 1
            await tidy(engine)
            assert counts(engine) == NOTHING


async def test_a_run_that_is_gone_can_not_be_resumed(path: Path) -> None:
    """Of a durable run that was removed nothing is left to resume, and asking says so."""
    failing = flow(durable=True)(bad.fn)
    async with Engine(path, keep_runs=0) as engine:
        state = await failing(return_state=True)
        await tidy(engine)
        with pytest.raises(RunNotResumable, match="no durable run"):
            await engine.resume(str(state.run_id))


# --- files -------------------------------------------------------------------------------------------------------


async def test_a_file_in_use_stays(path: Path, clock: SetBack, no_safe_time: None) -> None:
    """A result's file that another result refers to stays until that one goes too."""
    async with Engine(path, clock=clock, keep_for=HOUR) as engine:
        await kept(1)
        clock.back = 2 * HOUR
        await kept(1)
        await kept(2)
        await tidy(engine)
        assert counts(engine) == {"run": 1, "result": 1, "log": 0, "file": 1}


async def test_a_new_file_stays_for_a_while(path: Path) -> None:
    """A file that was touched lately stays, as somebody may be about to refer to it; later it goes."""
    async with Engine(path, keep_runs=0) as engine:
        await kept(1)
        await tidy(engine)
        [file] = files(path)
        assert counts(engine) == NOTHING | {"file": 1}
        os.utime(file, (0, 0))
        await tidy(engine)
        assert counts(engine) == NOTHING


async def test_a_file_that_can_not_be_removed(path: Path, monkeypatch: pytest.MonkeyPatch, no_safe_time: None) -> None:
    """A file that can't be removed stops neither this pass nor the ones after it, and the engine closes as ever."""
    monkeypatch.setattr(service, "PEER_SECONDS", 0.005)
    async with Engine(path, keep_for=timedelta(milliseconds=50)) as engine:
        for x in range(2):
            await kept(x)
            for file in files(path):
                if file.is_file():
                    file.unlink()
                    file.mkdir()
            await until(lambda: counts(engine)["run"] == 0)


async def until(condition: Callable[[], bool]) -> None:
    """Return when a condition is met that holds up this thread while it is looked at."""
    while not condition():
        await checkpoint()


# --- how it goes -------------------------------------------------------------------------------------------------


async def test_by_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open engine tidies up every few seconds, and at the next open what was left."""
    async with Engine(path):
        await family(1)
    monkeypatch.setattr(service, "PEER_SECONDS", 0.005)
    async with Engine(path, keep_runs=0) as engine:
        await until(lambda: counts(engine)["run"] == 0)
        await single()
        await until(lambda: counts(engine)["run"] == 0)


async def test_in_small_steps(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A big family goes in many small statements, and other work does not wait for the last of them."""
    monkeypatch.setattr(retention, "CHUNK", 2)
    ended: list[str] = []

    @flow
    async def wide() -> None:
        await step.map(range(1000))

    async def tidying(engine: Engine) -> None:
        await tidy(engine)
        ended.append("tidying")

    async with Engine(path, keep_for=timedelta(0)) as engine:
        await wide()
        async with anyio.create_task_group() as group:
            group.start_soon(tidying, engine)
            await anyio.wait_all_tasks_blocked()
            await single()
            ended.append("other work")
        assert ended == ["other work", "tidying"]
        assert counts(engine)["run"] <= 2


UNREACHABLE = """
SELECT 'run' FROM run WHERE parent_run_id IS NOT NULL AND parent_run_id NOT IN (SELECT id FROM run)
UNION ALL SELECT 'log' FROM log WHERE run_id NOT IN (SELECT id FROM run)
UNION ALL SELECT key FROM result WHERE key GLOB 'run:*' AND substr(key, 5) NOT IN (SELECT id FROM run)
UNION ALL SELECT key FROM result WHERE key GLOB 'start:*' AND substr(key, 7) NOT IN (SELECT id FROM run)
UNION ALL SELECT key FROM result WHERE key GLOB 'step:*'
    AND substr(key, 6, instr(key, '/') - 6) NOT IN (SELECT id FROM run)
"""


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """How many more statements that delete something come to their end."""
    real = aiosqlite.Connection.execute
    left = {"statements": float("inf")}

    def execute(connection: aiosqlite.Connection, sql: str, *given: Any) -> Any:
        if sql.lstrip().startswith("DELETE"):
            left["statements"] -= 1
            if left["statements"] < 0:
                raise sqlite3.OperationalError("the process died here")
        return real(connection, sql, *given)

    monkeypatch.setattr(aiosqlite.Connection, "execute", execute)
    return left


async def test_a_crash_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_safe_time: None, dying: dict[str, float]
) -> None:
    """Broken off after any statement, a pass leaves nothing that the next one would not find."""
    monkeypatch.setattr(retention, "CHUNK", 2)
    async with Engine(tmp_path / "0.db") as engine:
        await family(1)
        await log_everywhere(engine)
        assert counts(engine)["file"] == 2
    for number in range(100):
        path = tmp_path / f"{number}.db"
        shutil.copy(path, tmp_path / f"{number + 1}.db")
        shutil.copytree(f"{path}.results", tmp_path / f"{number + 1}.db.results")
        async with Engine(path) as engine:
            await tidy(engine)
            engine.journal.retention = retention.Retention(keep_runs=0)  # type: ignore[attr-defined]
            dying["statements"] = 5 * number
            with suppress(JournalError):
                await tidy(engine)
            died = dying["statements"] < 0
            dying["statements"] = float("inf")
            assert rows(engine, UNREACHABLE) == []
            await tidy(engine)
            assert counts(engine) == NOTHING
        if not died:
            break
    assert 0 < number < 99


# --- options -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("keep_for", timedelta(seconds=-1)),
        ("keep_runs", -1),
        ("keep_runs", True),
        ("keep_runs", 1.5),
    ],
)
def test_bad_options(option: str, value: Any) -> None:
    """An impossible bound is refused when the engine is made, naming the option and the value."""
    with pytest.raises(InvalidOption, match=option):
        Engine(":memory:", **{option: value})
