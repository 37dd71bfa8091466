"""Cancellation and interrupts: recorded, raised again as they are, and nothing left behind, wherever they strike."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from undertow import Engine, RunCancelled, as_completed, concurrency, flow, task


class Broken(Exception):
    """What the failing tasks of these tests raise."""


class Interrupt(BaseException):
    """No `Exception`, and no cancellation either."""


@task
async def after(seconds: float) -> float:
    await anyio.sleep(seconds)
    return seconds


@task
async def breaks(seconds: float = 1) -> None:
    await anyio.sleep(seconds)
    raise Broken("by design")


def ends(journal: Any, name: str) -> list[str]:
    """The states in which the runs of a task or flow stand, by name."""
    return [run.history[-1][1] for run in journal.of(name)]


# --- the host cancels --------------------------------------------------------------------------------------------


async def test_a_cancelled_caller_cancels_its_flow(engine: Engine, journal: Any) -> None:
    """A flow whose caller is cancelled ends Cancelled with all that is in it, and the cancellation goes on up."""

    @flow
    async def outer() -> None:
        after.submit(50)
        await after(50)

    with anyio.move_on_after(1) as scope:
        await outer()
    assert scope.cancelled_caught
    assert ends(journal, "outer") + ends(journal, "after") == ["Cancelled"] * 3
    assert "its caller was cancelled" in journal.of("outer")[0].history[-1][2]
    assert journal.commits == 1


async def test_a_timeout_of_the_callers_own(engine: Engine, journal: Any) -> None:
    """A time limit that a body puts around a call cancels that call and nothing else."""

    @flow(final_state="return")
    async def outer() -> float:
        with pytest.raises(TimeoutError), anyio.fail_after(1):
            await after(50)
        return await after(2)

    assert await outer() == 2
    assert ends(journal, "after") == ["Cancelled", "Completed"]
    assert ends(journal, "outer") == ["Completed"]


def test_native_cancellation(make_engine: Callable[..., Engine], journal: Any) -> None:
    """`asyncio.Task.cancel` on a task that awaits a flow is a cancellation like any other."""

    @flow
    async def outer() -> None:
        after.submit(50)
        await after(50)

    async def main() -> None:
        async with make_engine():
            awaiting = asyncio.ensure_future(outer())
            await anyio.wait_all_tasks_blocked()
            awaiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await awaiting

    asyncio.run(main())
    assert ends(journal, "outer") + ends(journal, "after") == ["Cancelled"] * 3


@pytest.mark.real_time
async def test_cancellation_waits_for_threads(engine: Engine, journal: Any) -> None:
    """A cancelled flow ends when its threads have ended: they can't be stopped, and none outlives it or is belied."""
    started, gate, ended = threading.Event(), threading.Event(), threading.Event()

    @task
    def stuck() -> None:
        started.set()
        gate.wait(20)
        ended.set()

    @flow
    async def outer() -> None:
        stuck.submit()
        await anyio.sleep_forever()

    async def cancel(scope: anyio.CancelScope) -> None:
        await anyio.to_thread.run_sync(started.wait)
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        gate.set()

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(cancel, scope)
            await outer()
        assert ended.is_set()
    assert ends(journal, "outer") + ends(journal, "stuck") == ["Cancelled", "Completed"]


# --- interrupts --------------------------------------------------------------------------------------------------


async def interrupts() -> None:
    await checkpoint()
    raise Interrupt("stop")


def interrupts_in_thread() -> None:
    raise Interrupt("stop")


@flow
async def interrupted_subflow() -> None:
    await interrupts()


@pytest.mark.parametrize(
    "cause",
    [
        interrupts,
        task(interrupts),
        task(interrupts).submit,
        lambda: task(interrupts_in_thread)(),
        lambda: task(interrupts_in_thread).submit(),
        interrupted_subflow,
        interrupted_subflow.submit,
    ],
)
@pytest.mark.real_time
async def test_an_interrupt_crashes_the_flow(engine: Engine, journal: Any, cause: Callable[[], Any]) -> None:
    """An exception that is no `Exception`, from any depth, crashes every run it passes and is raised again bare."""

    @flow
    async def outer() -> None:
        sibling = after.submit(50)
        result = cause()
        if result is not None:
            await result
        await sibling

    with pytest.raises(Interrupt, match="stop") as caught:
        await outer(return_state=True)
    assert not isinstance(caught.value, BaseExceptionGroup)
    assert ends(journal, "after") == ["Cancelled"]
    others = [run.history[-1] for run in journal.runs.values() if run.definition.name != "after"]
    assert {entry[1] for entry in others} == {"Crashed"}
    assert all("Interrupt: stop" in entry[2] for entry in others)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("form", ["call", "submit"])
def test_exit_leaves_a_program(
    make_engine: Callable[..., Engine], journal: Any, backend: str, kind: type[BaseException], form: str
) -> None:
    """SystemExit and KeyboardInterrupt in a task leave the program bare, through the flow and the engine around it."""

    @task
    async def leave() -> None:
        await checkpoint()
        raise kind(3)

    @flow
    async def outer() -> None:
        await (leave() if form == "call" else leave.submit())

    async def main() -> None:
        async with make_engine():
            await outer()

    with pytest.raises(kind) as caught:
        anyio.run(main, backend=backend)
    assert caught.value.args == (3,)
    assert ends(journal, "outer") == ends(journal, "leave") == ["Crashed"]


@pytest.mark.parametrize("error", [Broken, Interrupt])
async def test_errors_leave_the_engines_block_bare(
    make_engine: Callable[..., Engine], error: type[BaseException]
) -> None:
    """An exception that leaves an `async with Engine(...)` block leaves it as it is, not in a group."""
    with pytest.raises(error, match="out") as caught:
        async with make_engine():
            raise error("out")
    assert caught.value.__class__ is error


# --- a failure among the children --------------------------------------------------------------------------------


async def test_siblings_go_on(engine: Engine, journal: Any) -> None:
    """By default a failed child leaves its siblings alone, and the flow ends when they have."""

    @flow
    async def outer() -> None:
        breaks.submit()
        after.submit(5)

    start = anyio.current_time()
    with pytest.raises(Broken):
        await outer()
    assert anyio.current_time() - start == 5
    assert ends(journal, "after") == ["Completed"]


async def test_the_first_failure_cancels_the_siblings(engine: Engine, journal: Any) -> None:
    """With `on_child_failure="cancel"` the first failure cancels the other children, and is what the flow raises."""

    @flow(on_child_failure="cancel")
    async def outer(awaited: bool) -> None:
        breaks.submit()
        sibling = after.submit(50)
        waiting = after.submit(sibling)
        if awaited:
            await waiting

    for awaited in (False, True):
        start = anyio.current_time()
        with pytest.raises(Broken, match="by design"):
            await outer(awaited)
        assert anyio.current_time() - start == 1
    assert ends(journal, "after") == ["Cancelled"] * 4
    assert ends(journal, "outer") == ["Failed"] * 2
    assert "breaks-" in journal.of("after")[0].history[-1][2]


# --- no orphan ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_child_failure", ["continue", "cancel"])
async def test_no_orphan_when_a_flow_raises(engine: Engine, journal: Any, on_child_failure: Any) -> None:
    """When a flow call has raised, everything it had submitted has ended, cleanup included."""
    cleaned: list[float] = []

    @task
    async def careful() -> None:
        try:
            await anyio.sleep(5)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(2)
            cleaned.append(anyio.current_time())

    @flow(on_child_failure=on_child_failure)
    async def outer() -> None:
        careful.submit()
        await anyio.sleep(1)
        raise Broken("the flow itself")

    start = anyio.current_time()
    with pytest.raises(Broken, match="the flow itself"):
        await outer()
    assert cleaned == [anyio.current_time()]
    assert cleaned[0] - start == (7 if on_child_failure == "continue" else 3)
    assert ends(journal, "careful") == ["Completed" if on_child_failure == "continue" else "Cancelled"]


async def test_no_orphan_when_a_flow_returns(engine: Engine, journal: Any) -> None:
    """When a flow call has returned, everything it had submitted has ended, whatever was awaited."""

    @flow
    async def inner() -> str:
        after.submit(9)
        return "early"

    @flow
    async def outer() -> str:
        inner.submit()
        return await inner()

    start = anyio.current_time()
    assert await outer() == "early"
    assert anyio.current_time() - start == 9
    assert ends(journal, "after") == ["Completed"] * 2


# --- cancelled at every moment -----------------------------------------------------------------------------------


class Moments:
    """Counts what happens in a scenario, and cancels it at one of those moments."""

    def __init__(self, cancel_at: int) -> None:
        self.scope = anyio.CancelScope()
        self.count = 0
        self._cancel_at = cancel_at

    def pass_by(self, *_: object) -> None:
        self.count += 1
        if self.count == self._cancel_at:
            self.scope.cancel()

    def __call__(self, awaitable: Awaitable[Any]) -> _Watched:
        return _Watched(awaitable, self)


class _Watched:
    """An awaitable in which every suspension is a moment."""

    def __init__(self, awaitable: Awaitable[Any], moments: Moments) -> None:
        self._awaitable = awaitable
        self._moments = moments

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._awaitable.__await__()
        answer: Any = None
        error: BaseException | None = None
        while True:
            try:
                trap = steps.send(answer) if error is None else steps.throw(error)
            except StopIteration as stop:
                return stop.value
            self._moments.pass_by()
            answer = error = None
            try:
                answer = yield trap
            except BaseException as thrown:
                error = thrown


async def scenario(moments: Moments) -> None:
    """A bit of everything that can wait."""
    attempts = 0

    @task(limits=["one"], retries=1, retry_delay_seconds=1)
    async def limited(x: Any) -> Any:
        nonlocal attempts
        attempts += 1
        await moments(checkpoint())
        if attempts == 2:
            raise Broken
        return x

    @task(tags=["two"], timeout_seconds=3)
    async def slow(x: Any) -> Any:
        async with concurrency("three", occupy=2):
            await moments(anyio.sleep(2))
        return x

    @task
    async def items() -> Any:
        yield 1
        await moments(checkpoint())
        yield 2

    @task
    def inline(x: int) -> int:
        return x

    @flow
    async def inner() -> list[Any]:
        return await moments(limited.map([1, 2]))

    @flow(final_state="return", on_running=[lambda *_: checkpoint()], on_cancellation=[lambda *_: checkpoint()])
    async def outer() -> list[Any]:
        futures = [limited.submit(slow.submit(inline(3))), slow.submit(4), inner.submit()]
        seen = [item async for item in items()]
        async for future in as_completed(futures):
            seen.append(await moments(future))
        seen += [x async for x in limited.stream([5, 6, 7], max_in_flight=2)]
        await moments(after.submit(100).wait_async(timeout=1))
        return seen

    with moments.scope:
        await moments(outer())


async def test_cancelled_at_every_moment(make_engine: Callable[..., Engine], journal: Any) -> None:
    """Wherever cancellation strikes, no slot, waiter, member or unfinished run is left, and it is raised again."""
    tasks_before = len(anyio.get_running_tasks())
    moments, at = Moments(0), 0
    while at == 0 or moments.scope.cancel_called:  # until the scenario is over before the moment comes
        at += 1
        journal.runs.clear()
        moments = Moments(cancel_at=at)
        async with make_engine(limits={"one": 1, "two": 1, "three": 2}, observers=[moments.pass_by]) as engine:
            with anyio.fail_after(1000):
                await scenario(moments)
            limits = engine.core.limits
            left = {name: (limits.active(name), limits.waiting(name)) for name in limits.buckets}
            assert set(left.values()) == {(0, 0)}, f"cancelled at moment {at}: {left}"
        unfinished = [run.name for run in journal.runs.values() if not run.ended]
        assert unfinished == [], f"cancelled at moment {at}: {unfinished}"
        assert all(run.args == run.kwargs == run.leases == () for run in journal.runs.values())
        assert ends(journal, "outer") in ([], ["Cancelled" if moments.scope.cancelled_caught else "Completed"])
    assert at > 40
    assert len(anyio.get_running_tasks()) == tasks_before


async def test_a_cancelled_run_is_cancelled_for_those_who_ask(engine: Engine) -> None:
    """Whoever awaits a run that was cancelled by its future gets `RunCancelled`, and is not cancelled himself."""

    @flow(final_state="return")
    async def outer() -> str:
        future = after.submit(50)
        future.cancel("not today")
        with pytest.raises(RunCancelled, match="not today"):
            await future
        return "went on"

    assert await outer() == "went on"
