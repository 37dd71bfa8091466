"""Serving on a real journal: over restarts, and with several engines at once, every time fires once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from undertow import Engine, InvalidOption, flow
from undertow.engine.states import micros, moment
from undertow.storage import SQLiteJournal

pytestmark = pytest.mark.real_time

ran: list[datetime] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    ran.clear()


@flow
async def tick() -> None:
    ran.append(datetime.now(UTC))


def rows(engine: Engine, sql: str) -> list[dict[str, Any]]:
    assert isinstance(engine.journal, SQLiteJournal)
    return engine.journal.query(sql)


ENDED = "SELECT * FROM flow_runs WHERE ended_at IS NOT NULL ORDER BY expected_start_at"


async def until(condition: Callable[[], object]) -> None:
    """Return when it holds; the journal is asked again and again, as by another process."""
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - nothing tells of rows
            await anyio.sleep(0.02)


async def runs_of(engine: Engine, number: int) -> list[dict[str, Any]]:
    """The flow runs, once so many have ended."""
    await until(lambda: len(rows(engine, ENDED)) >= number)
    return rows(engine, ENDED)


async def test_every_second(tmp_path: Path) -> None:
    """A schedule of every second fires on a real journal, and its times stand in the view `flow_runs`."""
    async with Engine(tmp_path / "app.db") as engine:
        engine.serve(tick.on(interval=1))
        first, second = await runs_of(engine, 2)
        [schedule] = rows(engine, "SELECT * FROM schedules")
    at = [datetime.fromisoformat(row["expected_start_at"]) for row in (first, second)]
    assert at[1] - at[0] == timedelta(seconds=1)
    assert (schedule["name"], json.loads(schedule["schedule"])["interval"]) == ("tick", 1)
    assert schedule["owner"].endswith(f":{os.getpid()}")


async def test_two_engines(tmp_path: Path) -> None:
    """Of two engines that serve one schedule, as two processes may, each time is fired by one."""
    path = tmp_path / "app.db"
    async with Engine(path) as one, Engine(path) as other:
        one.serve(tick.on(interval=1, overlap="allow"))
        other.serve(tick.on(interval=1, overlap="allow"))
        found = await runs_of(one, 3)
    times = [row["expected_start_at"] for row in found]
    assert len(set(times)) == len(times)


async def test_asking_where_nobody_serves(tmp_path: Path) -> None:
    """A run that is asked for while nobody serves its schedule begins when somebody does."""
    path, plan = tmp_path / "app.db", tick.on(cron="0 0 1 1 *")
    async with Engine(path) as engine:
        engine.serve(plan)
        await until(lambda: rows(engine, "SELECT name FROM schedules"))
    async with Engine(path) as engine:
        run_id = await engine.schedules.trigger("tick")
        assert await engine.schedules.pause("tick")
    async with Engine(path) as engine:
        assert await engine.schedules.resume("tick")
        engine.serve(plan)
        [row] = await runs_of(engine, 1)
    assert (row["id"], row["state_name"]) == (run_id, "Completed")


async def test_a_changed_name(tmp_path: Path) -> None:
    """A plan has one name; a second one for the same flow needs another."""
    async with Engine(tmp_path / "app.db") as engine:
        engine.serve(tick.on(interval=3600), tick.on(interval=3600, name="other"))
        with pytest.raises(InvalidOption, match="'other'"):
            engine.serve(tick.on(interval=1, name="other"))


def test_in_a_script(tmp_path: Path) -> None:
    """`with Engine(...)` serves too, in the engine's own thread."""
    with Engine(tmp_path / "app.db") as engine:
        engine.serve(tick.on(interval=1))

        async def wait() -> None:
            await runs_of(engine, 1)

        anyio.run(wait)
    assert ran


def test_moments() -> None:
    """Times are kept to the microsecond, on both sides of 1970."""
    for when in (datetime(2026, 1, 2, 3, 4, 5, 678901, UTC), datetime(1950, 1, 1, 0, 0, 0, 1, UTC)):
        assert moment(micros(when)) == when


SERVER = """
import sys, os
import anyio
from undertow import Engine, flow

@flow
async def tick():
    with open(sys.argv[2], "a") as file:
        file.write("x")
    if sys.argv[3] == "die":
        os.kill(os.getpid(), 9)

async def main():
    async with Engine(sys.argv[1]) as engine:
        engine.serve(tick.on(interval=1, catch_up="all", overlap="allow"))
        while len(engine.journal.query("SELECT 1 FROM flow_runs WHERE state_name = 'Completed'")) < 2:
            await anyio.sleep(0.05)

anyio.run(main)
"""


def test_killed_while_serving(tmp_path: Path) -> None:
    """A process that is killed in a scheduled run leaves it Crashed; the next goes on, and no time fires twice."""
    program, journal, ledger = tmp_path / "server.py", tmp_path / "app.db", tmp_path / "ledger"
    program.write_text(SERVER)

    def serve(how: str) -> int:
        command = [sys.executable, str(program), str(journal), str(ledger), how]
        return subprocess.run(command, timeout=40, check=False).returncode

    assert serve("die") == -signal.SIGKILL
    assert serve("live") == 0
    with Engine(journal) as engine:
        found = rows(engine, "SELECT state_name, expected_start_at FROM flow_runs ORDER BY expected_start_at")
    times = [row["expected_start_at"] for row in found]
    assert len(set(times)) == len(times)
    assert found[0]["state_name"] == "Crashed"
    assert len(ledger.read_text()) == len([row for row in found if row["state_name"] in ("Crashed", "Completed")])


async def test_fires_whose_runs_are_not_kept(tmp_path: Path) -> None:
    """What has run is not run again when its run is kept no longer: neither a time of the schedule nor a trigger."""
    path, plan = tmp_path / "app.db", tick.on(interval=3600)
    async with Engine(path) as engine:
        engine.serve(plan)
        await until(lambda: rows(engine, "SELECT name FROM schedules"))
        rows(engine, "UPDATE schedule SET mark = mark - 3600000000")
    async with Engine(path, keep_for=timedelta(0)) as engine:
        engine.serve(plan)
        await until(lambda: len(ran) == 1)
        await engine.schedules.trigger("tick")
        await until(lambda: len(ran) == 2)
        await runs_of(engine, 2)
        assert isinstance(engine.journal, SQLiteJournal)
        await engine.journal.tidy()
        assert not rows(engine, "SELECT id FROM flow_runs")
    async with Engine(path) as engine:
        engine.serve(plan)
        await until(lambda: rows(engine, "SELECT 1 FROM schedules WHERE owner IS NOT NULL"))
        await anyio.sleep(0.3)
    assert len(ran) == 2
