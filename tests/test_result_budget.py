"""The result budget: results that wait to be taken wait in the journal, and nobody can tell but by the memory."""

from __future__ import annotations

import enum
import gc
import os
from collections import namedtuple
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from undertow import (
    Completed,
    Engine,
    Future,
    InvalidOption,
    JournalClosed,
    as_completed,
    flow,
    register_type,
    task,
    wait_async,
)
from undertow.storage import retention

if TYPE_CHECKING:
    from conftest import ListJournal

PAGE = os.sysconf("SC_PAGE_SIZE")
Values = Callable[..., Any]


class Colour(enum.Enum):
    RED = 1


VALUES: list[Any] = [
    [1, 2.5, "text", b"bytes", None, True, 10**30],
    {"nested": {1: (2, {3}, frozenset({4}))}},
    datetime(2026, 1, 1, tzinfo=UTC),
    Colour.RED,
    "x" * 100_000,
    0,
    "",
    [],
]


@pytest.fixture
def spilled(journal: ListJournal) -> Callable[[], int]:
    """How many results wait in the test's journal."""
    return lambda: sum(key.startswith("spill:") for key in journal.kept)


@pytest.fixture
async def tight(make_engine: Callable[..., Engine]) -> Any:
    """An open engine that may keep no result in memory."""
    async with make_engine(result_budget_bytes=0) as engine:
        yield engine


@task
async def give(value: Any) -> Any:
    return value


@task
async def make(size: int) -> bytes:
    return os.urandom(size)


async def in_a_flow(body: Callable[[], Awaitable[Any]]) -> Any:
    """What an async function gives when it is the body of a flow that is judged by what it returns."""
    return await flow(final_state="return")(body)()


# --- taking spilled results --------------------------------------------------------------------------------------


async def test_every_way_to_take_a_result(tight: Engine, spilled: Callable[[], int]) -> None:
    """Spilled results come back equal and of the same type, however they are asked for, and as often as one likes."""

    async def body() -> None:
        futures = [give.submit(value) for value in VALUES]
        await wait_async(futures)
        assert spilled() == len(VALUES)
        for future, value in zip(futures, VALUES, strict=True):
            state = await future.wait_async()
            assert state is not None
            taken = [
                await future,
                await future.result_async(),
                future.result(),
                future.state.result(),
                future.get_state().result(),
                state.result(),
                future.wait().result(),  # type: ignore[union-attr]
                await give(future),
                (await give([future]))[0],
                await give.submit({"deep": future}, wait_for=[future]).result_async() == {"deep": value} and value,
            ]
            assert taken == [value] * len(taken)
            assert {type(each) for each in taken} == {type(value)}
            assert future.state.name == "Completed"
            assert "Completed" in repr(future)

    await in_a_flow(body)


async def test_results_of_many(tight: Engine) -> None:
    """Lists of futures, `as_completed`, `wait_async` and streams give spilled results as any others."""

    async def body() -> None:
        futures = give.map([[n] for n in range(10)])
        assert await futures == [[n] for n in range(10)]
        assert futures.result() == [[n] for n in range(10)]
        assert [state and state.result() for state in futures.wait()] == [[n] for n in range(10)]
        assert sorted([await future async for future in as_completed(futures)]) == [[n] for n in range(10)]
        done, not_done = await wait_async(futures)
        assert (len(done), len(not_done)) == (10, 0)
        assert [value async for value in give.stream([n] for n in range(10))] == [[n] for n in range(10)]

    await in_a_flow(body)


async def test_a_flow_that_returns_spilled_futures(tight: Engine) -> None:
    """A flow that returns futures of spilled results is judged by them, and gives their states."""

    @flow
    async def outer() -> Any:
        futures = give.map([[1], [2]])
        await futures.wait_async()
        return list(futures)

    assert [state.result() for state in await outer()] == [[1], [2]]
    state = await tight.start(give, Completed(data=[3])).wait_async()
    assert state is not None
    assert state.result() == [3]


@pytest.mark.real_time
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_in_a_script(journal: ListJournal, spilled: Callable[[], int], backend: str) -> None:
    """In threads too spilled results are taken in every way."""

    @flow
    def outer() -> None:
        futures = give.map([[1], [2]])
        assert [future.result() for future in as_completed(futures)]
        assert spilled() == 2
        assert futures.result() == [[1], [2]]
        assert futures[0].state.result() == [1]
        assert task(lambda value: value).submit(futures[1]).result() == [2]
        assert list(give.stream([[3]])) == [[3]]

    with Engine(journal, backend=backend, result_budget_bytes=0):
        outer()
    assert spilled() == 0


@pytest.mark.real_time
async def test_in_a_file(tmp_path: Path) -> None:
    """From a journal on disk they come back in every size, before and after they are written."""
    async with Engine(tmp_path / "app.db", result_budget_bytes=0) as engine:

        async def body() -> None:
            values = [bytes([n]) * 10**n for n in range(1, 7)]
            futures = [give.submit(value) for value in values]
            for commit in (False, True):
                if commit:
                    await engine.journal.commit()
                assert [await future for future in futures] == values

        await in_a_flow(body)


# --- what stays in memory ----------------------------------------------------------------------------------------


async def test_within_the_budget(make_engine: Callable[..., Engine], spilled: Callable[[], int]) -> None:
    """Results within the budget stay as they are, the same objects; when they are let go of, there is room again."""

    async def body() -> None:
        values = [["x" * 400], ["y" * 400], ["z" * 400]]
        futures = []
        for value in values:
            futures.append(give.submit(value))
            await futures[-1].wait_async()
        assert spilled() == 1
        assert [await future is value for future, value in zip(futures, values, strict=True)] == [True, True, False]
        del futures[0]
        another = give.submit(values[0])
        assert await another is values[0]
        assert spilled() == 1

    async with make_engine(result_budget_bytes=1000) as engine:
        await in_a_flow(body)
        assert engine.core.budget is not None
        assert engine.core.budget.used == 0


class Handle:
    """What no journal can keep."""


class Broken:
    """What has a registered encoder with a bug."""


Misnamed = namedtuple("NotItsName", "x")  # type: ignore[name-match]


def refuse(value: Any) -> Any:
    raise RuntimeError("a bug in an encoder")


@pytest.mark.parametrize("value", [Handle(), Broken(), Misnamed(1), None, lambda: None], ids=lambda v: type(v).__name__)
async def test_what_can_not_be_spilled(tight: Engine, spilled: Callable[[], int], value: Any) -> None:
    """A result that can't be written, or could not be read back, stays in memory."""
    register_type(Broken, "broken", refuse, refuse)

    async def body() -> None:
        future = give.submit(value)
        with anyio.fail_after(10):
            assert await future is value
        assert spilled() == 0

    await in_a_flow(body)


async def test_what_is_too_big_to_be_read_back(
    tight: Engine, spilled: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result of more bytes than the journal gives back stays in memory."""
    monkeypatch.setattr("undertow.engine.codec.MAX_BYTES", 1000)

    async def body() -> None:
        future = make.submit(2000)
        assert len(await future) == 2000
        assert spilled() == 0

    await in_a_flow(body)


async def test_failures_stay(tight: Engine, spilled: Callable[[], int]) -> None:
    """Exceptions are not spilled: the very exception comes out."""
    error = ValueError("by design")

    @task
    async def fail() -> None:
        raise error

    async def body() -> None:
        future = fail.submit()
        with pytest.raises(ValueError) as caught:
            await future
        assert caught.value is error
        assert spilled() == 0

    await in_a_flow(body)


# --- letting go --------------------------------------------------------------------------------------------------


async def test_dropped_futures(tight: Engine, spilled: Callable[[], int]) -> None:
    """A spilled result is deleted when its future is dropped, and not before, awaited or not."""

    async def body() -> None:
        futures = list(give.map([[n] for n in range(10)]))
        await wait_async(futures)
        for left in range(9, -1, -1):
            assert spilled() == left + 1
            future = futures.pop()
            if left % 2:
                assert await future == [left]
            del future
        give.submit([1])
        await anyio.sleep(1)
        assert spilled() == 0

    await in_a_flow(body)


@pytest.mark.real_time
async def test_dropped_futures_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On disk too nothing is left of the result of a dropped future, neither a row nor, soon, a file."""
    monkeypatch.setattr(retention, "SAFE_SECONDS", -1)
    path = tmp_path / "app.db"
    async with Engine(path, result_budget_bytes=0) as engine:

        async def body() -> None:
            futures = [make.submit(size) for size in (10, 10_000, 300_000)]
            await wait_async(futures)
            await engine.journal.commit()

        await in_a_flow(body)
        assert rows(engine) == []
        await engine.journal.tidy()  # type: ignore[attr-defined]
        assert list(path.parent.glob("app.db.results/*")) == []


def rows(engine: Engine) -> list[str]:
    """The keys of spilled results on disk."""
    found = engine.journal.query("SELECT key FROM result WHERE key GLOB 'spill:*'")  # type: ignore[attr-defined]
    return [row["key"] for row in found]


@pytest.mark.real_time
async def test_held_longer_than_results_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A future that is held keeps its spilled result for as long as that takes, whatever is tidied up meanwhile."""
    monkeypatch.setattr("undertow.engine.spill.KEPT_MICROSECONDS", -1, raising=False)
    async with Engine(tmp_path / "app.db", result_budget_bytes=0, keep_runs=0) as engine:

        async def body() -> None:
            future = give.submit([1])
            await future
            await engine.journal.commit()
            await engine.journal.tidy()  # type: ignore[attr-defined]
            assert await future == [1]

        await in_a_flow(body)


@pytest.mark.real_time
async def test_one_id_in_two_engines(tmp_path: Path) -> None:
    """Two engines that take part in one run each have their own copy of its result."""
    path = tmp_path / "app.db"
    async with Engine(path, result_budget_bytes=0) as one, Engine(path, result_budget_bytes=0) as two:
        future = one.start(give, [1], run_id="chosen")
        assert await future == [1]
        other = two.start(give, [1], run_id="chosen")
        assert await other == [1]
        await two.journal.commit()
        del future
        await one.journal.commit()
        assert await other == [1]


@pytest.mark.real_time
async def test_the_engine_closed_meanwhile(tmp_path: Path) -> None:
    """When the engine has closed, asking for a spilled result says so; the state is known still."""
    engine = Engine(tmp_path / "app.db", result_budget_bytes=0)
    futures: list[Future[Any]] = []

    async def body() -> None:
        futures.append(give.submit([1]))
        await wait_async(futures)

    async with engine:
        await in_a_flow(body)
    [future] = futures
    assert future.done
    assert "Completed" in repr(future)
    assert (future.state.name, future.state.type) == ("Completed", "COMPLETED")
    for take in (future.result, lambda: future.state.result()):
        with pytest.raises(JournalClosed, match="it is closed"):
            take()


# --- memory ------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_collector() -> Iterator[None]:
    """No garbage collection during the test."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def resident() -> int:
    """Bytes of memory that the process occupies."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@pytest.mark.real_time
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_resident_memory(anyio_backend: str, no_collector: None, tmp_path: Path) -> None:
    """2 000 results of 100 kB that are all held take, with a budget of 5 MB, little more memory than that."""
    async with Engine(tmp_path / "app.db", result_budget_bytes=5_000_000, durability="none") as engine:

        async def body() -> None:
            await wait_async([make.submit(100_000) for _ in range(100)])
            before, most = resident(), 0
            futures: list[Future[bytes]] = []
            for _ in range(20):
                futures += make.map([100_000] * 100)
                await wait_async(futures)
                most = max(most, resident() - before)
            assert most < 45_000_000
            assert [len(await future) for future in futures[::10]] == [100_000] * 200
            assert len(rows(engine)) > 1900

        await in_a_flow(body)
        assert rows(engine) == []


@pytest.mark.parametrize("value", [-1, 1.5, True, "5 MB"])
def test_bad_options(value: Any) -> None:
    """An impossible budget is refused when the engine is made."""
    with pytest.raises(InvalidOption, match="result_budget_bytes"):
        Engine(":memory:", result_budget_bytes=value)
