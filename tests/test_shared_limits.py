"""Shared limits: slots that all processes with one journal take from, and that come back when a process dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.conftest import ListJournal
from undertow import (
    Engine,
    InvalidOption,
    Limit,
    LimitImpossible,
    RateLimit,
    SlotTimeout,
    concurrency,
    flow,
    rate_limit,
    task,
)
from undertow.storage import slots
from undertow.storage.slots import SlotPool

pytestmark = pytest.mark.real_time

MakeEngine = Callable[..., Engine]

SHARED = {"db": Limit(2, shared=True), "own": 1}


class Gauge:
    """How many are inside at once, and were at most."""

    def __init__(self) -> None:
        self.now = self.most = self.times = 0

    async def __aenter__(self) -> None:
        self.now += 1
        self.times += 1
        self.most = max(self.most, self.now)

    async def __aexit__(self, *_: object) -> None:
        self.now -= 1


async def test_between_engines(tmp_path: Path) -> None:
    """Two engines on one journal together hold no more slots of a shared limit than it has."""
    gauge = Gauge()

    @task(limits=["db"])
    async def part() -> None:
        async with gauge:
            await anyio.sleep(0.02)

    @flow
    async def parts() -> None:
        for future in [part.submit() for _ in range(8)]:
            await future

    async with Engine(tmp_path / "app.db", limits=SHARED) as one, Engine(tmp_path / "app.db", limits=SHARED) as other:
        handles = [one.start(parts), other.start(parts)]
        for handle in handles:
            await handle
    assert (gauge.times, gauge.most, gauge.now) == (16, 2, 0)


async def test_limits_that_are_not_shared(tmp_path: Path) -> None:
    """A limit that is not declared as shared counts in its own engine only."""
    async with Engine(tmp_path / "app.db", limits=SHARED) as one:
        async with concurrency("own"), Engine(tmp_path / "app.db", limits=SHARED) as other:
            with other.active():
                async with concurrency("own", timeout_seconds=5):
                    assert one.core.limits.active("own") == other.core.limits.active("own") == 1


async def test_waiting_is_seen(tmp_path: Path) -> None:
    """A run that waits for a slot which another process holds is AwaitingConcurrencySlot; a block times out."""

    @task(limits=["db"])
    async def part() -> str:
        return "done"

    async with Engine(tmp_path / "app.db", limits=SHARED) as one, Engine(tmp_path / "app.db", limits=SHARED) as other:
        with one.active():
            async with concurrency("db", occupy=2):
                handle = other.start(part)
                async for event in handle.events():
                    if event.name == "AwaitingConcurrencySlot":
                        break
                with other.active(), pytest.raises(SlotTimeout, match="'db'"):
                    async with concurrency("db", timeout_seconds=0.01):
                        pass
        with anyio.fail_after(10):
            assert await handle == "done"
        assert other.core.limits.active("db") == 0


async def test_all_or_none(tmp_path: Path) -> None:
    """Slots of several shared limits are taken together or not at all."""
    limits = {"a": Limit(1, shared=True), "b": Limit(1, shared=True)}
    async with Engine(tmp_path / "app.db", limits=limits) as one, Engine(tmp_path / "app.db", limits=limits) as other:
        with one.active():
            async with concurrency("b"):
                with other.active(), pytest.raises(SlotTimeout):
                    async with concurrency("a", "b", timeout_seconds=0.05):
                        pass
                async with concurrency("a", timeout_seconds=5):
                    assert one.journal.query("SELECT name FROM slot ORDER BY name") == [{"name": "a"}, {"name": "b"}]  # type: ignore[attr-defined]


async def test_a_cancelled_waiter(tmp_path: Path) -> None:
    """Who is cancelled while it asks for a shared slot holds none afterwards, at whatever moment that is."""
    async with Engine(tmp_path / "app.db", limits=SHARED) as engine:
        for delay in range(30):
            with anyio.move_on_after(delay / 10_000):
                async with concurrency("db"):
                    pass
        async with concurrency("db", occupy=2, timeout_seconds=5):
            assert engine.core.limits.active("db") == 2


async def test_rates(tmp_path: Path) -> None:
    """A shared rate holds for all engines together: what one has taken, the other has to wait for."""
    limits = {"api": RateLimit(2, per=0.4, shared=True)}
    start = time.monotonic()
    async with Engine(tmp_path / "app.db", limits=limits) as one, Engine(tmp_path / "app.db", limits=limits) as other:
        for engine in (one, other, one, other, one, other):
            with engine.active():
                await rate_limit("api")
    assert time.monotonic() - start >= 0.75


def test_impossible_limits() -> None:
    """More slots than a shared limit has are refused at once, as is a `shared` that is neither true nor false."""
    with pytest.raises(InvalidOption, match="shared"):
        Limit(1, shared="yes")  # type: ignore[arg-type]
    with Engine(":memory:", limits=SHARED), pytest.raises(LimitImpossible), concurrency("db", occupy=3):
        pass


HOLDER = """
import os, signal, sys
import anyio
from undertow import Engine, Limit, concurrency

async def main():
    async with Engine(sys.argv[1], limits={"db": Limit(2, shared=True)}):
        async with concurrency("db", occupy=2):
            print("holds", flush=True)
            os.kill(os.getpid(), signal.SIGSTOP if sys.argv[2] == "stop" else signal.SIGKILL)
            print("let go", flush=True)

anyio.run(main)
"""


async def test_a_dead_holder(tmp_path: Path) -> None:
    """The slots of a process that was killed come back at once."""
    program = tmp_path / "holder.py"
    program.write_text(HOLDER)
    command = [sys.executable, str(program), str(tmp_path / "app.db"), "die"]
    holder = await anyio.to_thread.run_sync(lambda: subprocess.run(command, capture_output=True, check=False))
    assert holder.stdout == b"holds\n"
    async with Engine(tmp_path / "app.db", limits=SHARED):
        async with concurrency("db", occupy=2, timeout_seconds=5):
            assert holder.returncode == -9


async def test_a_silent_holder(tmp_path: Path) -> None:
    """The slots of a process that lives and only says nothing are not taken from it."""
    program = tmp_path / "holder.py"
    program.write_text(HOLDER)
    command = [sys.executable, str(program), str(tmp_path / "app.db"), "stop"]
    holder = await anyio.to_thread.run_sync(lambda: subprocess.Popen(command, stdout=subprocess.PIPE))
    assert holder.stdout is not None
    try:
        await anyio.to_thread.run_sync(os.waitpid, holder.pid, os.WUNTRACED)
        async with Engine(tmp_path / "app.db", limits=SHARED):
            with pytest.raises(SlotTimeout):
                async with concurrency("db", timeout_seconds=0.3):
                    pass
            holder.send_signal(18)
            async with concurrency("db", timeout_seconds=20):
                assert await anyio.to_thread.run_sync(holder.stdout.read) == b"holds\nlet go\n"
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


async def test_shared_slots_in_virtual_time(make_engine: MakeEngine, journal: ListJournal) -> None:
    """A journal of one's own counts shared slots in its pool."""
    async with make_engine(limits=SHARED):
        async with concurrency("db"):
            assert len(journal.pool.held) == 1
        assert journal.pool.held == {}


async def test_many_who_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many wait in a process for what another one holds, one of them asks; then all get it without delay."""
    limits = {"db": Limit(30, shared=True)}
    asked: list[str] = []
    take = SlotPool.take

    def counted(self: SlotPool, holder: str, *args: Any) -> Any:
        asked.append(holder)
        return take(self, holder, *args)

    async def waits() -> None:
        async with concurrency("db"):
            await done.wait()

    async with Engine(tmp_path / "app.db", limits=limits) as one, Engine(tmp_path / "app.db", limits=limits) as other:
        done = anyio.Event()
        async with anyio.create_task_group() as group:
            with one.active():
                async with concurrency("db", occupy=30):
                    with other.active():
                        monkeypatch.setattr(SlotPool, "take", counted)
                        for _ in range(30):
                            group.start_soon(waits)
                        await anyio.sleep(0.6)
                    assert len(asked) <= 45
            start = time.monotonic()
            while other.journal.query("SELECT count(*) AS n FROM slot")[0]["n"] < 30:  # type: ignore[attr-defined]
                assert time.monotonic() - start < 5
                await anyio.sleep(0.02)
            done.set()
    assert other.core.limits.active("db") == 0


async def test_letting_go_after_the_end(tmp_path: Path) -> None:
    """Who gives a shared slot back when the engine has closed is not bothered: the slot went with the engine."""
    async with Engine(tmp_path / "app.db", limits=SHARED):
        block = concurrency("db")
        await block.__aenter__()
    await block.__aexit__(None, None, None)
    async with Engine(tmp_path / "app.db", limits=SHARED), concurrency("db", occupy=2, timeout_seconds=5):
        pass


async def test_a_rate_when_the_clock_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that was an hour ahead for a while does not keep a shared rate from flowing for an hour."""

    class Ahead:
        @staticmethod
        def time() -> float:
            return time.time() + 3600

    async with Engine(tmp_path / "app.db", limits={"api": RateLimit(1, per=0.1, shared=True)}):
        with monkeypatch.context() as patch:
            patch.setattr(slots, "time", Ahead)
            await rate_limit("api")
        for _ in range(2):
            await rate_limit("api", timeout_seconds=5)
