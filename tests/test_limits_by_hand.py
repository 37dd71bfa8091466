"""`concurrency`: holding slots of a limit for a block, in async code and in threads."""

from __future__ import annotations

import threading

import anyio
import pytest

from tests.conftest import ListJournal
from tests.gauge import Gauge, MakeEngine, all_free, until
from undertow import Engine, SlotTimeout, WouldBlock, concurrency, task


async def test_concurrency(make_engine: MakeEngine) -> None:
    """`async with concurrency(name)` holds a slot for the block, or as many as it asks for."""
    gauge = Gauge()

    async def use(size: int) -> None:
        async with concurrency("db", occupy=size):
            await gauge.use(10, size=size)

    async with make_engine(limits={"db": 4}) as engine, anyio.create_task_group() as group:
        for size in (3, 2, 1, 4, 1):
            group.start_soon(use, size)
    assert gauge.peak == 4
    assert all_free(engine)


async def test_concurrency_gives_up(make_engine: MakeEngine) -> None:
    """`timeout_seconds` bounds the wait for a slot with `SlotTimeout`, which is a `TimeoutError`."""
    async with make_engine(limits={"db": 1, "net": 1}) as engine:
        async with concurrency("db"):
            begun = anyio.current_time()
            with pytest.raises(SlotTimeout, match=r"'net', 'db'.* 5 s") as error:
                async with concurrency("net", "db", timeout_seconds=5):
                    raise AssertionError("there is no slot")
            assert anyio.current_time() - begun == 5
            assert isinstance(error.value, TimeoutError)
            assert engine.core.limits.active("net") == 0
        async with concurrency(["net", "db"], timeout_seconds=5):
            assert engine.core.limits.active("net") == 1
        assert all_free(engine)


@pytest.mark.real_time
async def test_concurrency_in_threads(make_engine: MakeEngine) -> None:
    """`with concurrency(name)` in a sync task holds a slot for the block: never too many threads, never too few."""
    gauge = Gauge()
    pair = threading.Barrier(2)

    @task
    def work() -> None:
        with concurrency("db"), gauge():
            pair.wait(10)  # passes only when two are inside

    async with make_engine(limits={"db": 2}, monotonic=None) as engine:
        for future in [work.submit() for _ in range(6)]:
            await future
        assert all_free(engine)
    assert gauge.peak == 2


@pytest.mark.real_time
async def test_a_waiting_thread_fills_no_place(make_engine: MakeEngine) -> None:
    """A thread that waits for a slot leaves its place in the pool to the one that has the slot."""

    @task
    def waits() -> str:
        with concurrency("db", timeout_seconds=2):
            return "had its turn"

    @task(tags=["db"])
    def has_the_slot() -> str:
        return "done"

    async with make_engine(limits={"db": 1}, threads=1, monotonic=None) as engine:
        async with concurrency("db"):
            first = has_the_slot.submit()
            await until(lambda: engine.core.limits.waiting("db") == 1)
            second = waits.submit()
            await until(lambda: engine.core.limits.waiting("db") == 2)
        assert await first == "done"
        assert await second == "had its turn"


def test_concurrency_in_plain_threads(journal: ListJournal) -> None:
    """`with concurrency(name)` works in a script's threads, outside of any run."""
    refused: list[BaseException] = []

    def other() -> None:
        try:
            with concurrency("db", timeout_seconds=0.01):
                raise AssertionError("there is no slot")
        except SlotTimeout as error:
            refused.append(error)

    with Engine(journal, limits={"db": 1}) as engine:
        with concurrency("db"):
            thread = threading.Thread(target=other)
            thread.start()
            thread.join(10)
        assert len(refused) == 1
        with concurrency("db", timeout_seconds=0.01):
            assert engine.core.limits.active("db") == 1
        assert all_free(engine)


async def test_no_waiting_on_the_loop(make_engine: MakeEngine) -> None:
    """What would have to wait for a slot while it holds the loop raises `WouldBlock`, and leaves nothing behind."""

    @task(tags=["db"])
    def plain() -> str:
        return "done"

    async with make_engine(limits={"db": 1}) as engine:
        elsewhere = engine.core.limits.try_acquire(("db",))
        assert elsewhere is not None
        with pytest.raises(WouldBlock, match=r"async with concurrency"):
            with concurrency("db"):
                raise AssertionError("there is no slot")
        with pytest.raises(WouldBlock, match=r"plain\.submit"):
            plain()
        elsewhere.release()
        assert all_free(engine)
        assert plain() == "done"


async def test_a_call_in_a_block_shares_its_slot(make_engine: MakeEngine) -> None:
    """A task that is awaited in a `concurrency` block uses the slot that the block holds, and does not wait for it."""

    @task(tags=["db"])
    async def query() -> float:
        return engine.core.limits.active("db")

    async with make_engine(limits={"db": 1}) as engine:
        async with concurrency("db"):
            assert await query() == 1
        assert all_free(engine)
