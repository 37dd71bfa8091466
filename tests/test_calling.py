"""Every form of a call, in async code: called, submitted, awaited, asked for its state; inside flows and outside."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from undertow import Engine, Future, NoHost, State, StateType, WouldBlock, flow, runtime, task, wiring


class Broken(Exception):
    """What the failing tasks of these tests raise."""


@task
async def double(x: int) -> int:
    return 2 * x


@task
async def pause(seconds: float) -> float:
    await anyio.sleep(seconds)
    return seconds


@task
async def fail() -> None:
    raise Broken("by design")


@task
def add(a: int, b: int = 1) -> int:
    return a + b


# --- t(x) ------------------------------------------------------------------------------------------------------


async def test_calling_an_async_task_gives_an_awaitable_of_its_value(engine: Engine, journal: Any) -> None:
    """`await t(x)` is the value, as of the plain function, and the run is on record."""

    @flow
    async def outer() -> int:
        return await double(4)

    assert await outer() == 8
    assert journal.story("double") == ["Pending", "Running", "Completed"]


async def test_a_called_task_raises_its_own_exception(engine: Engine) -> None:
    """What a task raised reaches the caller as the very same object, bare and not in a group."""
    error = Broken("the one")

    @task
    async def give_up() -> None:
        raise error

    @flow
    async def outer() -> str:
        with pytest.raises(Broken) as caught:
            await give_up()
        assert caught.value is error
        return "went on"

    assert await outer() == "went on"


async def test_a_sync_task_runs_inline_in_an_async_flow(engine: Engine) -> None:
    """Calling a sync task in async code runs its body there and then, in the same thread, and gives the value."""

    @task
    def where() -> int:
        return threading.get_ident()

    @flow
    async def outer() -> tuple[int, int]:
        return where(), add(1, b=2)

    assert await outer() == (threading.get_ident(), 3)


async def test_holding_the_loop_is_said_once(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """A sync task that held the loop for more than 100 ms is warned about once, with what to write instead."""
    moment = 0.0

    def stopwatch() -> float:
        return moment

    engine.core.monotonic = stopwatch

    @task
    def crunch(seconds: float) -> None:
        nonlocal moment
        moment += seconds

    @flow
    async def outer() -> None:
        crunch(0.09)
        assert not caplog.records
        crunch(0.25)
        crunch(0.25)

    with caplog.at_level(logging.WARNING, "undertow"):
        await outer()
    [record] = caplog.records
    assert "'crunch' held the event loop for 0.2 s" in record.getMessage()
    assert "await crunch.submit(" in record.getMessage()


async def test_an_inline_retry_waits_where_it_is(engine: Engine, journal: Any) -> None:
    """The retry delay of a sync task called in async code holds the thread, as the plain call would."""
    attempts: list[int] = []

    @task(retries=2, retry_delay_seconds=[3, 5])
    def flaky() -> int:
        attempts.append(1)
        if len(attempts) < 3:
            raise Broken
        return len(attempts)

    @flow
    async def outer() -> int:
        return flaky()

    assert await outer() == 3
    assert engine.core.clock.blocked == [3, 5]  # type: ignore[attr-defined]
    assert journal.story("flaky") == [
        "Pending", "Running", "AwaitingRetry", "Retrying", "AwaitingRetry", "Retrying", "Completed",
    ]  # fmt: skip


async def test_an_inline_call_never_waits_for_a_slot(make_engine: Callable[..., Engine]) -> None:
    """A sync task called in async code while its limit is full raises `WouldBlock`, and takes or leaves no slot."""

    @task(limits=["db"])
    async def hold() -> None:
        await anyio.sleep(10)

    @task(limits=["db"])
    def read() -> str:
        return "row"

    @flow(final_state="return")
    async def outer() -> str:
        holding = hold.submit()
        await anyio.sleep(1)
        with pytest.raises(WouldBlock, match=r"await read\.submit\("):
            read()
        assert engine.core.limits.waiting("db") == 0
        await holding
        return read()

    async with make_engine(limits={"db": 1}) as engine:
        assert await outer() == "row"
        assert engine.core.limits.active("db") == 0


async def test_an_inline_call_never_waits_for_a_future(engine: Engine) -> None:
    """A sync task called in async code on an unfinished future raises `WouldBlock`; on a finished one it runs."""

    @flow(final_state="return")
    async def outer() -> int:
        future = double.submit(1)
        with pytest.raises(WouldBlock, match=r"await add\.submit\("):
            add(future)  # type: ignore[arg-type]
        await future
        return add(future)  # type: ignore[arg-type]

    assert await outer() == 3


async def test_async_hooks_of_an_inline_call(engine: Engine, journal: Any) -> None:
    """Async hooks of a sync task called in async code run as far as they needn't wait; the run and its caller go on."""
    begun: list[str] = []

    async def slow_hook(_: object, __: object, state: State[Any]) -> None:
        begun.append(state.name)
        await anyio.sleep(1)

    async def quick_hook(_: object, __: object, state: State[Any]) -> None:
        begun.append(state.name)

    @task(on_running=[slow_hook], on_completion=[slow_hook, slow_hook, quick_hook])
    def hooked() -> int:
        return 1

    @flow
    async def outer() -> int:
        value = hooked()
        await anyio.sleep(1)
        return value

    assert await outer() == 1
    assert begun == ["Running", "Completed", "Completed", "Completed"]
    assert journal.story("hooked") == ["Pending", "Running", "Completed"]


# --- t.submit(x) and the future ----------------------------------------------------------------------------------


async def test_submit_returns_at_once_and_gives_nobody_a_turn(engine: Engine) -> None:
    """`submit` is a plain call with no checkpoint in it: nothing runs before the submitter awaits something."""
    order: list[str] = []

    @task
    async def note(text: str) -> None:
        order.append(text)

    @flow
    async def outer() -> None:
        futures = [note.submit(f"task {i}") for i in range(3)]
        assert all(isinstance(future, Future) and not future.done for future in futures)
        order.append("flow")
        for future in futures:
            await future

    await outer()
    assert order[0] == "flow"
    assert sorted(order[1:]) == ["task 0", "task 1", "task 2"]


async def test_awaiting_a_future(engine: Engine) -> None:
    """`await f` is the value, as often as it is asked, and the exception's own self where the task raised one."""

    @flow(final_state="return")
    async def outer() -> None:
        good, bad = double.submit(3), fail.submit()
        assert [await good, await good] == [6, 6]
        with pytest.raises(Broken, match="by design") as first:
            await bad
        with pytest.raises(Broken) as second:
            await bad
        assert first.value is second.value

    await outer()


async def test_blocking_methods_never_block_the_loop(engine: Engine) -> None:
    """`result()` and `wait()` of an unfinished future raise `WouldBlock` naming the awaitable form; else they answer."""

    @flow(final_state="return")
    async def outer() -> None:
        good, bad = double.submit(3), fail.submit()
        with pytest.raises(WouldBlock, match="await future"):
            good.result()
        with pytest.raises(WouldBlock, match=r"await future\.wait_async\(\)"):
            good.wait(timeout=1)
        await good.wait_async()
        await bad.wait_async()
        state = good.wait()
        assert good.result() == 6
        assert state is not None
        assert state.is_completed()
        assert isinstance(bad.result(raise_on_failure=False), Broken)
        with pytest.raises(Broken):
            bad.result()

    await outer()


async def test_waiting_with_a_limit_of_time(engine: Engine) -> None:
    """`wait_async(timeout)` is `None` and `result_async(timeout)` a `TimeoutError` when the run takes longer."""

    @flow
    async def outer() -> None:
        future = pause.submit(10)
        assert await future.wait_async(timeout=1) is None
        with pytest.raises(TimeoutError, match="did not end within 2 s"):
            await future.result_async(timeout=2)
        assert anyio.current_time() - start == 3
        assert await future.result_async(timeout=100) == 10
        state = await future.wait_async(timeout=0)
        assert state is not None
        assert state.is_completed()

    start = anyio.current_time()
    await outer()


async def test_result_async_can_return_the_exception(engine: Engine) -> None:
    """`result_async(raise_on_failure=False)` returns what the task raised."""

    @flow(final_state="return")
    async def outer() -> BaseException | None:
        error: Any = await fail.submit().result_async(raise_on_failure=False)
        return type(error)

    assert await outer() is Broken


async def test_the_state_of_a_future_is_of_now(engine: Engine, journal: Any) -> None:
    """`f.state` and `f.get_state()` follow the run from Pending through Running to Completed, with no I/O."""

    @flow
    async def outer() -> None:
        future = pause.submit(5)
        seen = [future.state.type]
        await anyio.sleep(1)
        seen.append(future.get_state().type)
        assert future.state.data is None
        await future
        seen.append(future.get_state().type)
        assert seen == [StateType.PENDING, StateType.RUNNING, StateType.COMPLETED]
        assert future.state.result() == 5
        assert journal.commits == 0

    await outer()


# --- return_state=True ------------------------------------------------------------------------------------------


async def test_return_state_gives_a_final_state(engine: Engine) -> None:
    """With `return_state=True` a call or a submit gives the final state, awaited in async code; no failure is raised."""

    @task
    def broken() -> None:
        raise Broken("inline")

    @flow(final_state="return")
    async def outer() -> None:
        states: list[State[Any]] = [
            await double(1, return_state=True),
            await double.submit(1, return_state=True),
            await fail(return_state=True),
            await fail.submit(return_state=True),
            add(1, return_state=True),
            broken(return_state=True),
            await broken.submit(return_state=True),
        ]
        assert [state.name for state in states] == [
            "Completed", "Completed", "Failed", "Failed", "Completed", "Failed", "Failed",
        ]  # fmt: skip
        assert states[0].result() == 2
        assert "Broken: by design" in states[2].message
        with pytest.raises(Broken, match="inline"):
            states[5].result()

    await outer()


async def test_a_flow_called_for_its_state(engine: Engine) -> None:
    """A flow called with `return_state=True` gives its final state and raises none of its failures."""

    @flow
    async def breaks() -> None:
        raise Broken("in the flow")

    state = await breaks(return_state=True)
    assert state.is_failed()
    with pytest.raises(Broken, match="in the flow"):
        state.result()


# --- where a call may be made -----------------------------------------------------------------------------------


async def test_a_task_needs_no_flow(engine: Engine, journal: Any) -> None:
    """A task called or submitted outside any flow is a run of its own, committed when the call returns."""
    assert await double(2) == 4
    assert add(1) == 2
    assert journal.commits == 2
    assert await double.submit(5) == 10
    assert all(run.parent is None and run.flow is None for run in journal.runs.values())


async def test_a_task_inside_a_task(engine: Engine, journal: Any) -> None:
    """A task called or submitted in another task's body is that task's child, in the same flow."""

    @task
    async def middle() -> int:
        called = await double(1)
        submitted = double.submit(called)
        return await submitted + add(1)

    @flow
    async def outer() -> int:
        return await middle()

    assert await outer() == 6
    [flow_run], [parent] = journal.of("outer"), journal.of("middle")
    children = [*journal.of("double"), *journal.of("add")]
    assert len(children) == 3
    assert all(child.parent is parent and child.flow is flow_run for child in children)


async def test_tasks_in_the_users_own_task_group(engine: Engine, journal: Any) -> None:
    """Tasks started in a task group of the user's run there, as children of the flow around it."""
    results: list[float] = []

    async def collect(seconds: float) -> None:
        results.append(await pause(seconds))

    @flow
    async def outer() -> None:
        start = anyio.current_time()
        async with anyio.create_task_group() as group:
            for seconds in (3, 1, 2):
                group.start_soon(collect, seconds)
            group.start_soon(double, 1)
        assert anyio.current_time() - start == 3

    await outer()
    assert results == [1, 2, 3]
    [flow_run] = journal.of("outer")
    assert all(run.parent is flow_run for run in journal.of("pause") + journal.of("double"))


async def test_submit_without_a_home(make_engine: Callable[..., Engine]) -> None:
    """`submit` and `map` where neither a flow nor an open engine could own the run raise `NoHost`, saying what to do."""
    engine = make_engine()
    engine.open()
    try:
        with pytest.raises(
            NoHost, match=r"double can't be submitted here: .*@flow.*async with Engine.*double\(\.\.\.\)"
        ):
            double.submit(1)
        with pytest.raises(NoHost):
            double.map([1, 2])
    finally:
        engine.close()


@pytest.mark.real_time
async def test_submit_with_no_engine_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no engine open, `submit` outside flows is the same `NoHost`, and a plain call works on the default engine."""
    monkeypatch.setenv("UNDERTOW_JOURNAL", str(tmp_path / "journal.db"))
    try:
        with pytest.raises(NoHost):
            double.submit(1)
        assert await double(1) == 2
    finally:
        wiring._close_default()


async def test_nested_submits(engine: Engine) -> None:
    """Tasks that submit tasks that submit tasks all end before the flow does, awaited or not."""
    ended: list[int] = []

    @task
    async def grow(depth: int) -> None:
        if depth:
            grow.submit(depth - 1)
            await grow.submit(depth - 1)
        await anyio.sleep(1)
        ended.append(depth)

    @flow
    async def outer() -> None:
        grow.submit(5)

    await outer()
    assert [ended.count(depth) for depth in range(6)] == [32, 16, 8, 4, 2, 1]


# --- subflows ----------------------------------------------------------------------------------------------------


async def test_subflows_are_runs_of_their_own(engine: Engine, journal: Any) -> None:
    """A flow called or submitted in a flow is a child of it with children of its own; submitted ones run concurrently."""

    @flow
    async def inner(seconds: float) -> float:
        return await pause(seconds) + (runtime.flow_run.name == "outer-run")

    @flow(flow_run_name="outer-run")
    async def outer() -> float:
        start = anyio.current_time()
        first, second = inner.submit(2), inner.submit(3)
        total = await inner(1) + await first + await second
        assert anyio.current_time() - start == 3
        return total

    assert await outer() == 6
    [parent] = journal.of("outer")
    inner_runs, paused = journal.of("inner"), journal.of("pause")
    assert [run.parent for run in inner_runs] == [parent] * 3
    assert {run.flow for run in paused} == set(inner_runs)


async def test_a_subflows_exception_reaches_its_parent_bare(engine: Engine) -> None:
    """What a subflow raises is raised in its parent as it is, called or submitted."""

    @flow
    async def inner() -> None:
        raise Broken("deep down")

    @flow(final_state="return")
    async def outer() -> int:
        with pytest.raises(Broken, match="deep down"):
            await inner()
        future = inner.submit()
        with pytest.raises(Broken, match="deep down"):
            await future
        return 1

    assert await outer() == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_async_flow_from_a_script(make_engine: Callable[..., Engine], journal: Any, backend: str) -> None:
    """`anyio.run(flow)` is all that a script needs; the run is committed when it returns."""

    @flow
    async def outer(x: int) -> int:
        return await double.submit(x)

    with make_engine():
        assert anyio.run(outer, 21, backend=backend) == 42
    assert journal.story("outer") == ["Pending", "Running", "Completed"]
    assert journal.commits == 1


async def test_waiting_on_the_spot(engine: Engine) -> None:
    """A sync task that would have to wait where it is called leaves nothing behind there: its caller is not woken."""
    event = anyio.Event()

    async def waits(*_: object) -> None:
        await event.wait()

    @task(on_completion=waits)
    def now() -> None: ...

    @flow
    async def work() -> float:
        with contextlib.suppress(WouldBlock):
            now()
        event.set()
        await anyio.sleep(5)
        return anyio.current_time()

    assert await work() == 5
