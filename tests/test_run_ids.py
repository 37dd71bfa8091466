"""Chosen run ids: one execution for each id, for tasks, threads and processes that share a journal."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from undertow import (
    Engine,
    InvalidOption,
    ResultUnreadable,
    RunCancelled,
    RunCrashed,
    RunFailed,
    RunIdConflict,
    SignatureMismatch,
    flow,
    task,
)

pytestmark = pytest.mark.real_time

ran: list[Any] = []
trouble: list[Exception] = []
gates: dict[int, Gate] = {}


class Gate:
    """Where an order stops half way, until it is opened."""

    def __init__(self) -> None:
        self.reached = anyio.Event()
        self.open = anyio.Event()

    async def passed(self) -> None:
        self.reached.set()
        await self.open.wait()


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    for each in (ran, trouble, gates):
        each.clear()  # type: ignore[attr-defined]


@task
async def step(x: Any) -> Any:
    ran.append(x)
    return x


@flow(durable=True)
async def order(number: int, colour: str = "red") -> list[Any]:
    first = await step(f"first {number}")
    if number in gates:
        await gates[number].passed()
    if trouble:
        raise trouble.pop()
    return [first, await step(f"last {number}"), colour]


@flow
async def plain(number: int) -> list[Any]:
    return await order.fn(number)


@task
async def failing() -> None:
    ran.append("failing")
    raise ConnectionError("no")


@flow(durable=True)
async def patient(number: int) -> str:
    try:
        await failing()
    except ConnectionError:
        if number in gates:
            await gates[number].passed()
        return "failed"
    return "completed"


@flow
async def opaque() -> object:
    return object()


def rows(engine: Engine, sql: str) -> list[Any]:
    return [tuple(row.values()) for row in engine.journal.query(sql)]  # type: ignore[attr-defined]


# --- in one process ----------------------------------------------------------------------------------------------------


async def test_attach(path: Path) -> None:
    """Later calls with an id and the same arguments get the outcome of the first, while it runs and when it is over."""
    gates[1] = Gate()
    async with Engine(path) as engine:
        futures = [engine.start(order, 1, run_id="order-1") for _ in range(20)]
        futures.append(engine.start(order, colour="red", number=1, run_id="order-1"))
        gates[1].open.set()
        assert [await future for future in futures] == [["first 1", "last 1", "red"]] * 21
        assert await engine.start(order, 1, run_id="order-1") == ["first 1", "last 1", "red"]
        assert rows(engine, "SELECT id, name, attempts FROM flow_runs") == [("order-1", "order-order-1", 1)]
    assert ran == ["first 1", "last 1"]


@pytest.mark.parametrize("definition", [order, plain, step], ids=["durable", "plain", "task"])
async def test_attach_in_another_engine(path: Path, definition: Any) -> None:
    """The result of a run with a chosen id is kept for whoever calls later, also when its engine is long closed."""
    results = []
    for _ in range(2):
        async with Engine(path) as engine:
            results.append(await engine.start(definition, 7, run_id="seven"))
    assert results[0] == results[1]
    assert len(ran) == (1 if definition is step else 2)


async def test_attach_to_a_failure(path: Path) -> None:
    """Who attaches to a run that failed is told that it failed, and why; it is not run again."""
    trouble.append(ValueError("no stock"))
    async with Engine(path) as engine:
        with pytest.raises(ValueError, match="no stock"):
            await engine.start(plain, 1, run_id="order-1")
    async with Engine(path) as engine:
        with pytest.raises(RunFailed, match="no stock"):
            await engine.start(plain, 1, run_id="order-1")
    assert ran == ["first 1"]


async def test_reject(path: Path) -> None:
    """With `on_conflict="reject"` an id that was used is refused, whatever became of its run."""
    async with Engine(path) as engine, Engine(path) as other:
        assert await engine.start(order, 1, run_id="order-1", on_conflict="reject")
        for each in (engine, other):
            with pytest.raises(RunIdConflict, match=r"'order-1'.*on_conflict='reject'"):
                await each.start(order, 1, run_id="order-1", on_conflict="reject")
    assert ran == ["first 1", "last 1"]


@pytest.mark.parametrize("definition", [order, plain], ids=["durable", "plain"])
@pytest.mark.parametrize("again", ["same engine", "another engine"])
async def test_restart_if_failed(path: Path, definition: Any, again: str) -> None:
    """`on_conflict="restart_if_failed"` runs a failed run again, a durable one from where it was, and attaches to any other."""
    trouble.append(ValueError("no stock"))
    async with Engine(path) as engine, Engine(path) as other:
        with pytest.raises(ValueError, match="no stock"):
            await engine.start(definition, 1, run_id="order-1", on_conflict="restart_if_failed")
        second = engine if again == "same engine" else other
        for _ in range(2):
            result = await second.start(definition, 1, run_id="order-1", on_conflict="restart_if_failed")
            assert result == ["first 1", "last 1", "red"]
        assert await engine.start(definition, 1, run_id="order-1", on_conflict="restart_if_failed") == result
        [(name, attempts)] = rows(engine, "SELECT state_name, attempts FROM flow_runs")
        assert (name, attempts) == ("Completed", 2)
    assert ran == (["first 1", "last 1"] if definition is order else ["first 1", "first 1", "last 1"])


async def test_two_who_restart(path: Path) -> None:
    """Of two that restart a failed run at once, one does, and the other gets the outcome of that."""
    async with Engine(path) as engine, Engine(path) as other:
        for number in range(20):
            trouble.append(ValueError("no stock"))
            with pytest.raises(ValueError, match="no stock"):
                await engine.start(order, number, run_id=f"order-{number}")
        ran.clear()
        futures = [
            each.start(order, number, run_id=f"order-{number}", on_conflict="restart_if_failed")
            for number in range(20)
            for each in (engine, other)
        ]
        assert [await future for future in futures] == [
            [f"first {number}", f"last {number}", "red"] for number in range(20) for _ in range(2)
        ]
    assert sorted(ran) == sorted(f"last {number}" for number in range(20))


@pytest.mark.parametrize("where", ["running", "over", "another engine"])
async def test_another_call_with_the_same_id(path: Path, where: str) -> None:
    """An id that belongs to another function, or to other arguments, is refused, and changes nothing about its run."""
    trouble.append(ValueError("no stock"))
    gates[1] = Gate()
    async with Engine(path) as engine, Engine(path) as other:
        future = engine.start(order, 1, run_id="order-1")
        await gates[1].reached.wait()
        if where != "running":
            gates[1].open.set()
            await future.wait_async()
        second = other if where == "another engine" else engine
        for definition, arguments in ((order, (2,)), (order, (1, "blue")), (plain, (1,))):
            with pytest.raises(RunIdConflict, match=r"'order-1' already.*another function, or .* other arguments"):
                await second.start(definition, *arguments, run_id="order-1")
        gates[1].open.set()
        await future.wait_async()
        assert await engine.resume("order-1") == ["first 1", "last 1", "red"], "it was resumed with other arguments"
        assert rows(engine, "SELECT id, flow, parameters FROM flow_runs") == [
            ("order-1", "order", '{"number": 1, "colour": "red"}')
        ]


@pytest.mark.parametrize("run_id", ["", "a b", "../x", "-x", ".x", "x\n", "é", "x" * 129, 7, b"x"])
async def test_bad_ids(path: Path, run_id: Any) -> None:
    """An id that is no short plain word is refused at the call, with what is allowed."""
    async with Engine(path) as engine:
        with pytest.raises(InvalidOption, match="1 to 128 letters, digits"):
            engine.start(order, 1, run_id=run_id)
        with pytest.raises(InvalidOption, match=r"on_conflict='retry'.*'attach', 'reject', 'restart_if_failed'"):
            engine.start(order, 1, on_conflict="retry")  # type: ignore[arg-type]
        with pytest.raises(SignatureMismatch):
            engine.start(order, run_id="order-1")
        assert await engine.start(order, 1, run_id="A.b-c_9" + "x" * 121) == ["first 1", "last 1", "red"]


async def test_a_result_that_can_not_be_kept(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A result that can't be written reaches who started the run, with a warning; who comes later is told."""
    async with Engine(path) as engine, Engine(path) as other:
        assert type(await engine.start(opaque, run_id="one")) is object
        assert "result of run one is not kept" in caplog.text
        with pytest.raises(ResultUnreadable, match="result of run one was not kept"):
            await other.start(opaque, run_id="one")


async def test_cancelling_one_who_attached(path: Path) -> None:
    """Cancelling the future of one who attached from another engine ends that wait, and not the run."""
    gates[1] = Gate()
    async with Engine(path) as engine, Engine(path) as other:
        future = engine.start(order, 1, run_id="order-1")
        await gates[1].reached.wait()
        attached = other.start(order, 1, run_id="order-1")
        await anyio.wait_all_tasks_blocked()
        attached.cancel("not interested")
        with pytest.raises(RunCancelled, match="not interested"):
            await attached
        gates[1].open.set()
        assert await future == ["first 1", "last 1", "red"]
        assert rows(engine, "SELECT state_name FROM flow_runs") == [("Completed",)]


def test_from_threads(path: Path) -> None:
    """In a script, too, all calls with an id get the outcome of one run."""
    with Engine(path) as engine:
        futures = [engine.start(order, 3, run_id="three") for _ in range(5)]
        assert [future.result(timeout=10) for future in futures] == [["first 3", "last 3", "red"]] * 5
    assert ran == ["first 3", "last 3"]


# --- runs that go on ---------------------------------------------------------------------------------------------------


async def test_attach_to_a_resumed_run(path: Path) -> None:
    """A run that is resumed keeps its id's name and call: later calls attach to it, and get its result."""
    trouble.append(ValueError("no stock"))
    async with Engine(path) as engine, Engine(path) as other:
        await engine.start(order, 1, run_id="order-1").wait_async()
        gates[1] = Gate()
        async with anyio.create_task_group() as group:
            group.start_soon(other.resume, "order-1")
            await gates[1].reached.wait()
            attached = other.start(order, 1, run_id="order-1")
            gates[1].open.set()
        assert await attached == ["first 1", "last 1", "red"]
        for each in (other, engine):
            assert await each.start(order, 1, run_id="order-1", on_conflict="restart_if_failed") == [
                "first 1",
                "last 1",
                "red",
            ]
        assert rows(engine, "SELECT name, state_name FROM flow_runs") == [("order-order-1", "Completed")]


async def dead_half_way(path: Path) -> Path:
    """A journal whose process died while the run `order-1` was half way."""
    gates[1] = Gate()
    async with Engine(path.with_suffix(".first"), grace_seconds=0) as engine:
        engine.start(order, 1, run_id="order-1")
        await gates[1].reached.wait()
        rows(engine, "SELECT 1")
        with closing(sqlite3.connect(path.with_suffix(".first"))) as connection:
            connection.execute("VACUUM INTO ?", (str(path),))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE owner SET started = 'long ago'")
    del gates[1]
    return path


async def test_attach_to_a_recovered_run(path: Path) -> None:
    """A run that goes on by itself after a crash is still the run of its id."""
    await dead_half_way(path)
    gates[1] = Gate()
    async with Engine(path, recover=True) as engine, Engine(path) as other:
        await gates[1].reached.wait()
        futures = [each.start(order, 1, run_id="order-1") for each in (engine, other)]
        gates[1].open.set()
        assert [await future for future in futures] == [["first 1", "last 1", "red"]] * 2
    assert ran == ["first 1", "last 1"]


async def test_after_a_crash(path: Path) -> None:
    """Who attaches to a run whose process died is told so; with `restart_if_failed` it goes on where it was."""
    await dead_half_way(path)
    async with Engine(path) as engine:
        with pytest.raises(RunCrashed, match=r"Crash detected! Its process \d+"):
            await engine.start(order, 1, run_id="order-1")
        engine.core.background.clear()
        assert await engine.start(order, 1, run_id="order-1", on_conflict="restart_if_failed") == [
            "first 1",
            "last 1",
            "red",
        ]
    assert ran == ["first 1", "last 1"]


@pytest.mark.parametrize("ended", ["killed", "cancelled"])
async def test_restarting_hands_recorded_failures_back(path: Path, ended: str) -> None:
    """A run that was broken off, and is restarted, is handed back the failures that it had gone on with."""
    gates[1] = Gate()
    async with Engine(path.with_suffix(".first"), grace_seconds=0) as engine:
        future = engine.start(patient, 1, run_id="one")
        await gates[1].reached.wait()
        if ended == "cancelled":
            future.cancel()
            await future.wait_async()
        rows(engine, "SELECT 1")
        with closing(sqlite3.connect(path.with_suffix(".first"))) as connection:
            connection.execute("VACUUM INTO ?", (str(path),))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE owner SET started = 'long ago'")
    del gates[1]
    async with Engine(path) as engine:
        assert await engine.start(patient, 1, run_id="one", on_conflict="restart_if_failed") == "failed"
    assert ran == ["failing"]
