"""Every form of a call in `def` flows and scripts: plain values, blocking waits, bodies in the caller's own thread."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from undertow import Engine, Future, RunCancelled, RunTimedOut, State, ThreadRunner, as_completed, flow, task, wait

pytestmark = pytest.mark.real_time

SOON = 20.0
"""Seconds after which a gate that should have opened is given up."""


class Broken(Exception):
    """What the failing tasks of these tests raise."""


class Interrupt(BaseException):
    """No `Exception`, and no signal either."""


@pytest.fixture(params=["asyncio", "trio"])
def sync_engine(request: pytest.FixtureRequest, journal: Any) -> Iterator[Engine]:
    """An open engine around a script, whose portal runs on either backend."""
    with Engine(journal, backend=request.param) as opened:
        yield opened


@task
async def double(x: int) -> int:
    await anyio.lowlevel.checkpoint()
    return 2 * x


@task
def add(a: int, b: int = 1) -> int:
    return a + b


@task
def fail() -> int:
    raise Broken("by design")


@task
def fail_on(x: int, bad: int) -> int:
    if x == bad:
        raise Broken(f"at {x}")
    return x


# --- t(x) ------------------------------------------------------------------------------------------------------


def test_calls_give_values_in_a_script(sync_engine: Engine, journal: Any) -> None:
    """In a script a call of a task, async or sync, runs it to completion and gives the value; it is then committed."""
    assert double(4) == 8
    assert add(1, b=5) == 6
    assert journal.commits == 2
    assert journal.story("double") == ["Pending", "Running", "Completed"]


def test_calls_give_values_in_a_def_flow(sync_engine: Engine, journal: Any) -> None:
    """In a `def` flow async tasks, sync tasks and flows of both kinds give their values, as children of the flow."""

    @flow
    async def inner_async(x: int) -> int:
        return await double(x)

    @flow
    def inner(x: int) -> Any:
        return double(x)

    @flow
    def outer() -> list[Any]:
        return [double(1), add(2), inner(3), inner_async(4)]

    assert outer() == [2, 3, 6, 8]
    [parent] = journal.of("outer")
    assert [run.parent for run in journal.of("inner") + journal.of("inner_async")] == [parent, parent]
    assert journal.commits == 1


def test_bodies_run_in_the_callers_thread(sync_engine: Engine) -> None:
    """The bodies of `def` flows, and of sync tasks that are called, run in the thread that made the call."""

    @task
    def here() -> int:
        return threading.get_ident()

    @flow
    def inner() -> list[int]:
        return [threading.get_ident(), here()]

    @flow
    def outer() -> list[int]:
        return [threading.get_ident(), here(), *inner()]

    assert set(outer()) == {here()} == {threading.get_ident()}


def test_exceptions_are_bare(sync_engine: Engine) -> None:
    """What a body raises reaches the caller of the flow as the same object, and it can be caught on the way."""
    error = Broken("the one")

    @task
    async def give_up() -> None:
        raise error

    @flow
    def outer(catch: bool) -> str:
        if not catch:
            give_up()
        with pytest.raises(Broken) as caught:
            give_up()
        assert caught.value is error
        return "went on"

    assert outer(catch=True) == "went on"
    with pytest.raises(Broken) as caught:
        outer(catch=False)
    assert caught.value is error


def test_return_state_in_a_thread(sync_engine: Engine) -> None:
    """`return_state=True` gives the final state itself, called or submitted, and raises no failure."""

    @flow(final_state="return")
    def outer() -> list[str]:
        states: list[State[Any]] = [
            double(1, return_state=True),  # type: ignore[list-item]
            double.submit(1, return_state=True),  # type: ignore[list-item]
            fail(return_state=True),
            fail.submit(return_state=True),
        ]
        return [state.name for state in states]

    assert outer() == ["Completed", "Completed", "Failed", "Failed"]
    assert outer(return_state=True).is_completed()


# --- futures -----------------------------------------------------------------------------------------------------


def test_futures_block_in_a_thread(sync_engine: Engine) -> None:
    """`submit` gives a future at once; `result()` and `wait()` block until the value, the state or the exception."""

    @flow(final_state="return")
    def outer() -> None:
        good, bad = double.submit(add.submit(1)), fail.submit()
        assert isinstance(good, Future)
        assert good.result(timeout=SOON) == 4
        state = bad.wait()
        assert state is not None
        assert state.is_failed()
        assert bad.state.name == bad.get_state().name == "Failed"
        assert isinstance(bad.result(raise_on_failure=False), Broken)
        with pytest.raises(Broken, match="by design"):
            bad.result()

    outer()


def test_waiting_with_a_limit_of_time_in_a_thread(sync_engine: Engine) -> None:
    """A wait that runs out of time is `None`, a result `TimeoutError`, and both can be asked again later."""
    gate = threading.Event()

    @task
    def gated() -> str:
        return "open" if gate.wait(SOON) else "shut"

    @flow
    def outer() -> str:
        future = gated.submit()
        assert future.wait(timeout=0.01) is None
        with pytest.raises(TimeoutError, match=r"did not end within 0\.01 s"):
            future.result(timeout=0.01)
        done, not_done = wait([future], timeout=0.01)
        assert (done, not_done) == (set(), {future})
        with pytest.raises(TimeoutError, match="1 of 1 futures"):
            list(as_completed([future], timeout=0.01))
        gate.set()
        return future.result()

    assert outer() == "open"


def test_cancelling_from_a_thread(sync_engine: Engine, journal: Any) -> None:
    """`cancel` from a thread ends an async task in Cancelled with the reason, and what waits for it is skipped."""

    @task
    async def endless() -> None:
        await anyio.sleep_forever()

    @flow(final_state="return")
    def outer() -> None:
        future = endless.submit()
        behind = add.submit(future)
        future.cancel("not needed")
        with pytest.raises(RunCancelled, match="not needed"):
            future.result(SOON)
        state = behind.wait(SOON)
        assert state is not None
        assert state.is_skipped()

    outer()
    assert journal.story("endless")[-1] == "Cancelled"


def test_map_in_a_thread(sync_engine: Engine) -> None:
    """`map` gives futures whose `result()` is the list of values in order, and whose `wait()` the list of states."""

    @flow(final_state="return")
    def outer() -> None:
        futures = add.map([1, 2, 3], b=10)
        assert futures.result() == [11, 12, 13]
        assert [state.name for state in futures.wait() if state is not None] == ["Completed"] * 3
        assert [state.name for state in add.map([1], return_state=True)] == ["Completed"]
        assert double.map([1, 2]).result() == [2, 4]
        broken = fail_on.map([1, 2, 3], 2)
        assert [state.name for state in broken.wait() if state is not None] == ["Completed", "Failed", "Completed"]
        with pytest.raises(Broken, match="at 2"):
            broken.result()
        assert [type(item) for item in broken.result(raise_on_failure=False)] == [int, Broken, int]

    outer()


def test_stream_in_a_thread(sync_engine: Engine) -> None:
    """`stream` in a thread is an ordinary iterator, pulled from no further ahead than `max_in_flight`."""
    pulled: list[int] = []

    def source() -> Iterator[int]:
        for number in range(20):
            pulled.append(number)
            yield number

    @flow
    def outer() -> list[int]:
        results = []
        for result in double.stream(source(), max_in_flight=3):
            assert len(pulled) <= len(results) + 3
            results.append(result)
        assert sorted(add.stream(range(5), max_in_flight=2, ordered=False)) == [1, 2, 3, 4, 5]
        return results

    assert outer() == [2 * number for number in range(20)]


def test_as_completed_and_wait_in_a_thread(sync_engine: Engine) -> None:
    """`as_completed` gives futures in the order in which they end, and `wait` returns when all have."""
    gates = [threading.Event() for _ in range(3)]

    @task
    def gated(which: int) -> int:
        assert gates[which].wait(SOON)
        return which

    @flow
    def outer() -> list[int]:
        futures = gated.map([0, 1, 2])
        gates[2].set()
        order = []
        for future in as_completed(futures):
            order.append(future.result())
            gates[order[-1] - 1].set()
        assert wait(futures).done == set(futures)
        return order

    assert outer() == [2, 1, 0]


def test_submitting_from_a_script(sync_engine: Engine) -> None:
    """With an engine open around it, a script submits, maps and streams outside any flow."""
    assert double.submit(3).result() == 6
    assert add.map([1, 2]).result() == [2, 3]
    assert list(double.stream([1, 2])) == [2, 4]


def test_subflows_submitted_from_a_def_flow(sync_engine: Engine) -> None:
    """Submitted subflows run at the same time as each other and as the body, and their values come from futures."""
    meeting = threading.Barrier(3)

    @flow
    def inner(x: int) -> int:
        meeting.wait(SOON)
        return x

    @flow
    def outer() -> int:
        futures = [inner.submit(1), inner.submit(2)]
        meeting.wait(SOON)
        return sum(future.result() for future in futures)

    assert outer() == 3


# --- a def flow on the thread of a running loop ------------------------------------------------------------------


async def test_a_def_flow_called_on_a_loops_thread(engine: Engine) -> None:
    """A `def` flow called while a loop runs in its thread is a `def` flow all the same, in a thread without a loop."""

    @flow
    def inner() -> list[Any]:
        return [
            threading.get_ident(),
            add(1),
            double(1),
            double.submit(2).result(),
            *add.map([5]).result(),
            *double.stream([4]),
        ]

    @flow
    async def outer() -> list[Any]:
        return inner()

    for thread, *values in (inner(), await outer()):
        assert thread != threading.get_ident()
        assert values == [2, 2, 4, 6, 8]


# --- interrupts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, Interrupt])
def test_an_interrupt_in_a_body(sync_engine: Engine, journal: Any, kind: type[BaseException]) -> None:
    """An interrupt in a body is recorded as Crashed all the way up and raised again bare; the engine lives on."""

    @task
    async def stops() -> None:
        raise kind("stop")

    @task
    def stops_in_thread() -> None:
        raise kind("stop")

    @flow
    def outer(cause: Callable[[], Any]) -> None:
        cause()

    def stop_here() -> None:
        raise kind("stop")

    for cause in (
        stop_here,
        stops_in_thread,
        stops,
        lambda: stops_in_thread.submit().result(),
        lambda: stops.submit().result(),
    ):
        with pytest.raises(kind, match="stop"):
            outer(cause)
    crashed = [run for run in journal.runs.values() if run.history[-1][1] == "Crashed"]
    assert len(crashed) == len(journal.runs) == 9
    assert double(1) == 2


def test_ctrl_c_while_waiting(sync_engine: Engine, journal: Any) -> None:
    """Ctrl-C while the caller waits for async work cancels the work, records Crashed and is raised in the caller."""
    cleaned_up: list[bool] = []

    @task
    async def endless() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        try:
            await anyio.sleep_forever()
        finally:
            cleaned_up.append(True)

    @flow
    def outer() -> None:
        endless()

    with pytest.raises(KeyboardInterrupt):
        outer()
    assert cleaned_up == [True]
    assert journal.story("outer")[-1] == journal.story("endless")[-1] == "Crashed"
    assert double(1) == 2


# --- threads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_nested_submits_cant_exhaust_the_threads(sync_engine: Engine, workers: int) -> None:
    """Sync tasks that submit sync tasks and wait for them all end, in a pool of one thread or of two."""

    @task
    def tree(depth: int) -> int:
        if depth == 0:
            return 1
        left, right = tree.submit(depth - 1), tree.submit(depth - 1)
        return left.result(SOON) + sum(future.result() for future in as_completed([right]))

    @flow(task_runner=ThreadRunner(workers))
    def outer() -> int:
        return tree.submit(5).result()

    assert outer() == 32


def test_a_pool_runs_no_more_bodies_than_it_has_threads(sync_engine: Engine) -> None:
    """At most `max_workers` bodies run at a time, and every body runs in the end."""
    lock, running, most = threading.Lock(), 0, 0
    together = threading.Barrier(2)

    @task
    def busy() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(SOON)
        with lock:
            running -= 1

    @flow(task_runner=ThreadRunner(2))
    def outer() -> None:
        for _ in range(10):
            busy.submit()

    outer()
    assert most == 2


async def test_a_timeout_gives_up_a_thread_and_keeps_its_slot(make_engine: Callable[..., Engine], journal: Any) -> None:
    """A sync task is TimedOut at its deadline while its thread goes on; its slots come free when the thread ends."""
    gate, ended = threading.Event(), threading.Event()

    @task(timeout_seconds=0.02, limits=["db"])
    def stuck() -> None:
        gate.wait(SOON)
        ended.set()

    @task(limits=["db"])
    def after() -> bool:
        return ended.is_set()

    @flow(final_state="return")
    async def outer() -> bool:
        with pytest.raises(RunTimedOut, match=r"exceeded its timeout of 0\.02 s"):
            await stuck.submit()
        assert not ended.is_set()
        assert engine.core.limits.active("db") == 1
        waiting = after.submit()
        await anyio.wait_all_tasks_blocked()
        assert waiting.state.name == "AwaitingConcurrencySlot"
        gate.set()
        return await waiting

    async with make_engine(limits={"db": 1}, monotonic=time.monotonic) as engine:
        assert await outer() is True
        assert engine.core.limits.active("db") == 0
    assert journal.story("stuck")[-1] == "TimedOut"


def test_a_timeout_of_a_called_sync_task(sync_engine: Engine) -> None:
    """A sync task that is called with a time limit raises `RunTimedOut` at the deadline, while its thread goes on."""
    gate, ended = threading.Event(), threading.Event()

    @task(timeout_seconds=0.02)
    def stuck() -> None:
        gate.wait(SOON)
        ended.set()

    @flow(final_state="return")
    def outer() -> bool:
        with pytest.raises(RunTimedOut):
            stuck()
        return ended.is_set()

    assert outer() is False
    gate.set()
    assert ended.wait(SOON)
