"""The engine as what an application holds: opening and closing it, background runs, observers, event loops."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from undertow import Engine, EngineClosed, Future, InvalidOption, SignatureMismatch, UndertowError, flow, task


@task
async def double(n: int) -> int:
    return 2 * n


@flow
async def doubled(n: int) -> int:
    return await double(n)


@flow
def tripled(n: int) -> int:
    return 3 * n


@flow
async def resting(seconds: float) -> str:
    await anyio.sleep(seconds)
    return "rested"


def count(path: Path, where: str = "true") -> int:
    """How many flow runs the file has."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM flow_runs WHERE {where}").fetchone()[0])


# --- opening and closing ---------------------------------------------------------------------------------------


async def test_async_with(make_engine: Callable[..., Engine], journal: Any) -> None:
    """`async with Engine(...)` is the engine of the calls in the block, and its journal is closed after it."""
    async with make_engine():
        assert journal.is_open
        assert await doubled(2) == 4
    assert journal.story("doubled") == ["Pending", "Running", "Completed"]
    assert not journal.is_open


@pytest.mark.real_time
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_with(backend: str, journal: Any) -> None:
    """`with Engine(...)` does the same in a script."""
    with Engine(journal, backend=backend):
        assert tripled(2) == 6
    assert journal.story("tripled") == ["Pending", "Running", "Completed"]
    assert not journal.is_open


async def test_an_error_in_the_block(make_engine: Callable[..., Engine], journal: Any) -> None:
    """What is raised in the block leaves it as the same object, and the engine is closed all the same."""
    error = KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with make_engine():
            raise error
    assert caught.value is error
    assert not journal.is_open


@pytest.mark.real_time
async def test_reopening(tmp_path: Path) -> None:
    """An engine that was closed may be opened again, as a web application's is by each of its tests."""
    engine = Engine(tmp_path / "app.db")
    with anyio.fail_after(10):
        for n in range(3):
            async with engine:
                assert await doubled(n) == 2 * n
                assert await doubled(n) == 2 * n
                assert count(tmp_path / "app.db") == 2 * n + 2


@pytest.mark.real_time
def test_reopening_in_a_script(tmp_path: Path) -> None:
    """The same holds for `with`, whose thread is started anew."""
    engine = Engine(tmp_path / "app.db")
    for n in range(3):
        with engine:
            assert tripled(n) == 3 * n
            assert engine.start(doubled, n).result() == 2 * n
            assert count(tmp_path / "app.db") == 2 * n + 2


async def test_opening_twice(make_engine: Callable[..., Engine]) -> None:
    """Opening an engine that is open is refused with a message that says so, and the engine goes on."""
    async with make_engine() as engine:
        with pytest.raises(UndertowError, match="open already") as caught:
            await engine.__aenter__()
        assert "is not open" not in str(caught.value)
        assert await doubled(2) == 4


async def test_closed_engine(make_engine: Callable[..., Engine]) -> None:
    """Before it is opened and after it is closed, an engine refuses to be used, and says how to open it."""
    engine = make_engine()
    for _ in range(2):
        with pytest.raises(EngineClosed, match=r"resting.*async with Engine"):
            engine.start(resting, 1)
        with pytest.raises(EngineClosed, match="async with Engine"), engine.active():
            pass
        async with engine:
            pass
        engine.close()


async def test_two_engines(make_engine: Callable[..., Engine]) -> None:
    """Of two open engines the one made active runs a call, else the one opened last; what runs inside stays with it."""
    first: list[str] = []
    second: list[str] = []
    async with (
        make_engine(observers=[lambda run: first.append(run.definition.name)]) as one,
        make_engine(observers=[lambda run: second.append(run.definition.name)]) as two,
    ):
        with one.active():
            await doubled(1)
            with two.active():
                await resting(0)
            await double(1)
        assert first == ["doubled", "double", "double", "doubled", "double", "double"]
        assert second == ["resting", "resting"]
        await doubled(1)
        assert second[2:] == ["doubled", "double", "double", "doubled"]
        assert await one.start(resting, 0) == "rested"
        assert first[6:] == ["resting", "resting"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grace_seconds": -1}, "grace_seconds=-1"),
        ({"grace_seconds": "long"}, "grace_seconds='long'"),
        ({"threads": 0}, "threads=0"),
        ({"limits": ["github"]}, r"limits=\['github'\]"),
        ({"limits": {"github": "ten"}}, "'ten'"),
        ({"journal": 3}, "journal=3"),
        ({"backend": "twisted"}, "backend='twisted'"),
        ({"observers": "me"}, "observers='me'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    """An option that an engine can't have is refused when it is made; the message names the option and the value."""
    with pytest.raises(InvalidOption, match=message):
        Engine(**{"journal": ":memory:"} | options)


# --- background runs -------------------------------------------------------------------------------------------


async def test_start_in_a_cancelled_scope(engine: Engine) -> None:
    """A background run belongs to the engine: neither its caller's end nor its cancellation touches it."""
    handles: list[Future[str]] = []

    @flow
    async def caller() -> None:
        handles.append(engine.start(resting, 60))
        await anyio.sleep_forever()

    with anyio.move_on_after(1):
        await caller()
    assert await handles[0] == "rested"
    assert handles[0].run.parent is None


async def test_start_refuses_at_once(engine: Engine, journal: Any) -> None:
    """`engine.start` refuses what is no task or flow, and arguments that don't fit, at the call."""
    with pytest.raises(InvalidOption, match=r"must be a @flow or a @task"):
        engine.start(lambda: None)  # type: ignore[arg-type]
    with pytest.raises(SignatureMismatch, match="resting"):
        engine.start(resting)
    assert journal.of("resting") == []


async def test_start_from_a_thread(engine: Engine) -> None:
    """A background run may be started from any thread; async ones run in the engine's own loop."""

    @flow
    async def where() -> int:
        return threading.get_ident()

    @flow
    def where_sync() -> int:
        return threading.get_ident()

    future = await anyio.to_thread.run_sync(engine.start, where)
    assert await future == threading.get_ident()
    future = await anyio.to_thread.run_sync(engine.start, where_sync)
    assert await future != threading.get_ident()


@pytest.mark.real_time
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_start_in_a_script(backend: str, journal: Any) -> None:
    """In a script background runs go on beside it, and `result()` waits for one."""
    gate = threading.Event()

    @flow
    def waiting() -> str:
        return "open" if gate.wait(10) else "shut"

    with Engine(journal, backend=backend) as engine:
        future = engine.start(waiting)
        assert tripled(1) == 3
        assert not future.done
        gate.set()
        assert future.result() == "open"


async def test_close_waits_for_background_runs(make_engine: Callable[..., Engine]) -> None:
    """Closing the engine waits for background runs that end within `grace_seconds`, and no longer than they take."""
    before = anyio.current_time()
    async with make_engine(grace_seconds=10) as engine:
        future = engine.start(resting, 3)
    assert anyio.current_time() - before == pytest.approx(3)
    assert future.state.is_completed()


@pytest.mark.parametrize("grace", [0, 5])
async def test_close_cancels_after_the_grace(grace: float, make_engine: Callable[..., Engine], journal: Any) -> None:
    """After `grace_seconds` background runs are cancelled; they clean up before the engine is closed."""
    cleaned: list[bool] = []

    @flow
    async def endless() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cleaned.append(journal.is_open)

    before = anyio.current_time()
    async with make_engine(grace_seconds=grace) as engine:
        future = engine.start(endless)
        await anyio.wait_all_tasks_blocked()
    assert anyio.current_time() - before == pytest.approx(grace)
    assert cleaned == [True]
    assert journal.story("endless") == ["Pending", "Running", "Interrupted"]
    assert "the engine was closed" in future.state.message


@pytest.mark.real_time
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_close_waits_in_a_script(backend: str, journal: Any) -> None:
    """The end of `with Engine(...)` waits for background runs in the same way."""
    with Engine(journal, backend=backend, grace_seconds=30) as engine:
        future = engine.start(resting, 0.05)
    assert future.state.is_completed()
    with Engine(journal, backend=backend, grace_seconds=0) as engine:
        future = engine.start(resting, 3600)
    assert future.state.is_cancelled()


# --- observers -------------------------------------------------------------------------------------------------


async def test_observers_in_order(make_engine: Callable[..., Engine]) -> None:
    """Observers are told of each transition, one after the other, in the order in which they were given."""
    told: list[tuple[str, str]] = []
    observers = [
        lambda run: told.append(("first", run.history[-1][1])),
        lambda run: told.append(("second", run.history[-1][1])),
    ]
    async with make_engine(observers=observers):
        await double(1)
    assert told == [("first", "Running"), ("second", "Running"), ("first", "Completed"), ("second", "Completed")]


async def test_an_observer_that_raises(make_engine: Callable[..., Engine], caplog: pytest.LogCaptureFixture) -> None:
    """An observer that raises is told nothing more, which is logged; the run and the other observers go on."""
    told: list[str] = []

    def broken(run: Any) -> None:
        told.append("broken")
        raise KeyError("observer")

    async with make_engine(observers=[broken, lambda run: told.append(run.history[-1][1])]):
        assert await double(1) == 2
    assert told == ["broken", "Running", "Completed"]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "is told nothing more" in record.getMessage()


# --- event loops -----------------------------------------------------------------------------------------------


@pytest.mark.real_time
def test_both_backends_in_one_process(tmp_path: Path) -> None:
    """The same flows run on asyncio and on trio, one after the other, with an engine each or with one for all."""

    async def main() -> list[int]:
        return [await doubled(1), await doubled.with_options(retries=1)(2)]

    async def with_engine() -> list[int]:
        async with Engine(tmp_path / "app.db"):
            return await main()

    for backend in ("asyncio", "trio", "asyncio"):
        assert anyio.run(with_engine, backend=backend) == [2, 4]
    with Engine(tmp_path / "app.db"):
        for backend in ("trio", "asyncio", "trio"):
            assert anyio.run(main, backend=backend) == [2, 4]
            assert tripled(1) == 3
    assert count(tmp_path / "app.db", "state_type = 'COMPLETED'") == 15


async def test_flows_stay_in_the_callers_loop(engine: Engine) -> None:
    """Async flows and tasks run in the event loop and thread of their caller, submitted or awaited."""

    @task
    async def where() -> int:
        return threading.get_ident()

    @flow
    async def all_forms() -> set[int]:
        return {await where(), await where.submit(), *await where.map([])}

    assert await all_forms() == {threading.get_ident()}
