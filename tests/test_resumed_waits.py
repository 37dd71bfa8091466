"""What a resumed run still waits for: the rest of a retry's delay, the rest of a sleep, and how many attempts are left."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import undertow
from undertow import Engine, Flow, flow, runtime, task
from undertow.engine.states import CANCELLED, CRASHED, RUNNING

if TYPE_CHECKING:
    from conftest import ListJournal

Whole = Flow[[], Coroutine[Any, Any, Any]]


def ended_dead(journal: ListJournal) -> None:
    """Make the journal say what it would if the process of all cancelled runs had died in their place."""
    for run in journal.runs.values():
        kind, _, _, at = run.history[-1]
        if kind is CANCELLED:
            run.history[-1] = (CRASHED, "Crashed", "Crash detected! Its process 1 on here is gone.", at)


async def broken_off(engine: Engine, whole: Whole, journal: ListJournal, seconds: float, run_id: str = "") -> str:
    """Run, or resume, a flow for so long, then have its process die; the id of the run."""
    with anyio.move_on_after(seconds) as scope:
        await (engine.resume(run_id) if run_id else whole())
    assert scope.cancelled_caught
    ended_dead(journal)
    return journal.of(whole.name)[0].id


def unlucky(attempts: list[float], **options: Any) -> Whole:
    """A durable flow of one task that notes when its attempts begin, takes 10 seconds for each, and fails."""

    @task(**options)
    async def failing() -> None:
        attempts.append(anyio.current_time() - start)
        await anyio.sleep(10)
        raise ConnectionError(f"attempt {len(attempts)}")

    @flow(durable=True)
    async def whole() -> None:
        await failing()

    start = anyio.current_time()
    return whole


async def test_the_rest_of_a_delay(engine: Engine, journal: ListJournal) -> None:
    """A retry that waited when its process died waits only for the rest, and one whose time has come not at all."""
    for pause, begins in ((40, 110), (500, 550)):
        journal.runs.clear()
        attempts: list[float] = []
        whole = unlucky(attempts, retries=1, retry_delay_seconds=100)
        run_id = await broken_off(engine, whole, journal, 50)
        await anyio.sleep(pause)
        with pytest.raises(ConnectionError, match="attempt 2"):
            await engine.resume(run_id)
        assert attempts == pytest.approx([0, begins], abs=0.01)
    assert journal.story("failing") == [
        "Pending", "Running", "AwaitingRetry", "Crashed", "Resuming", "Retrying", "Failed",
    ]  # fmt: skip


async def test_a_delay_that_is_broken_off_twice(engine: Engine, journal: ListJournal) -> None:
    """A retry whose process dies again while it waits for the rest still begins at its time."""
    attempts: list[float] = []
    whole = unlucky(attempts, retries=1, retry_delay_seconds=100)
    run_id = await broken_off(engine, whole, journal, 50)
    for _ in range(2):
        await broken_off(engine, whole, journal, 20, run_id)
    with pytest.raises(ConnectionError, match="attempt 2"):
        await engine.resume(run_id)
    assert attempts == pytest.approx([0, 110], abs=0.01)


async def test_attempts_never_exceed_the_limit(engine: Engine, journal: ListJournal) -> None:
    """However often the process dies while it waits, a task that always fails is tried once and then `retries` times."""
    attempts: list[float] = []
    whole = unlucky(attempts, retries=3, retry_delay_seconds=100)
    run_id = await broken_off(engine, whole, journal, 50)
    for _ in range(2):
        await broken_off(engine, whole, journal, 110, run_id)
    with pytest.raises(ConnectionError, match="attempt 4"):
        await engine.resume(run_id)
    assert len(attempts) == 4


async def test_attempts_that_were_broken_off(engine: Engine, journal: ListJournal) -> None:
    """An attempt that its process's death broke off is no failure: all the retries are left, however many deaths."""
    attempts: list[float] = []
    whole = unlucky(attempts, retries=1)
    run_id = await broken_off(engine, whole, journal, 5)
    for _ in range(3):
        await broken_off(engine, whole, journal, 5, run_id)
    with pytest.raises(ConnectionError, match="attempt 6"):
        await engine.resume(run_id)
    assert len(attempts) == 4 + 2


async def test_a_run_that_failed_for_good(engine: Engine, journal: ListJournal) -> None:
    """A flow that failed and is resumed tries its failed tasks as often as the first time."""
    attempts: list[float] = []
    whole = unlucky(attempts, retries=2)
    with pytest.raises(ConnectionError, match="attempt 3"):
        await whole()
    for last in (6, 9):
        with pytest.raises(ConnectionError, match=f"attempt {last}"):
            await engine.resume(journal.of("whole")[0].id)
    assert [run.attempts for run in journal.of("failing")[-1:]] == [9]


async def test_a_failed_step_that_was_tried_again(engine: Engine, journal: ListJournal) -> None:
    """A failed step that is tried again when the process dies is tried once more, and not handed back as it had failed."""
    attempts: list[float] = []

    @task
    async def failing() -> str:
        attempts.append(anyio.current_time())
        if len(attempts) == 1:
            raise ConnectionError("once")
        await anyio.sleep(10)
        return "done"

    @flow(durable=True)
    async def whole() -> str:
        return await failing()

    with pytest.raises(ConnectionError):
        await whole()
    run_id = await broken_off(engine, whole, journal, 5, journal.of("whole")[0].id)
    assert await engine.resume(run_id) == "done"
    assert len(attempts) == 3


async def test_attempt_numbers_go_on(engine: Engine, journal: ListJournal) -> None:
    """A resumed task knows how many attempts there were in all."""
    numbers: list[int] = []

    @task(retries=1)
    async def counting() -> int:
        numbers.append(runtime.task_run.run_count)
        await anyio.sleep(10)
        if len(numbers) < 3:
            raise ConnectionError("not yet")
        return numbers[-1]

    @flow(durable=True)
    async def whole() -> int:
        return await counting()

    run_id = await broken_off(engine, whole, journal, 15)
    assert await engine.resume(run_id) == 3
    assert numbers == [1, 2, 3]


async def test_a_flow_that_waited(engine: Engine, journal: ListJournal) -> None:
    """A durable flow whose own retry waited when its process died waits for the rest, and has as many attempts."""
    attempts: list[float] = []
    start = anyio.current_time()

    @flow(durable=True, retries=1, retry_delay_seconds=100)
    async def whole() -> None:
        attempts.append(anyio.current_time() - start)
        raise ConnectionError(f"attempt {len(attempts)}")

    run_id = await broken_off(engine, whole, journal, 60)
    with pytest.raises(ConnectionError, match="attempt 2"):
        await engine.resume(run_id)
    assert attempts == pytest.approx([0, 100], abs=0.01)
    assert [kind for kind, *_ in journal.of("whole")[0].history].count(RUNNING) == 2


async def test_a_sync_task_that_waited(make_engine: Callable[..., Engine], journal: ListJournal) -> None:
    """A `def` task that is called on the loop's thread waits for the rest as it waits for a delay: holding the thread."""

    class Killer:
        """A clock on which the process dies while a thread is held."""

        def __init__(self) -> None:
            self.time = 1_000_000_000_000_000
            self.blocked: list[float] = []
            self.kills = True

        def now(self) -> int:
            self.time += 1
            return self.time

        def block(self, seconds: float) -> None:
            if self.kills:
                self.time += 30_000_000
                raise KeyboardInterrupt
            self.blocked.append(seconds)

    attempts: list[int] = []

    @task(retries=1, retry_delay_seconds=100)
    def failing() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError("not yet")
        return "done"

    @flow(durable=True)
    async def whole() -> str:
        return failing()

    clock = Killer()
    async with make_engine(clock=clock) as engine:
        with pytest.raises(KeyboardInterrupt):
            await whole()
        clock.kills = False
        assert await engine.resume(journal.of("whole")[0].id) == "done"
    assert clock.blocked == pytest.approx([70], abs=0.01)


async def test_sleeps(engine: Engine, journal: ListJournal) -> None:
    """A durable sleep that was broken off ends when it would have, and one that is over is not slept again."""
    naps: list[float] = []
    start = anyio.current_time()

    @flow(durable=True)
    async def whole() -> None:
        naps.clear()
        for _ in range(2):
            await undertow.sleep(100)
            naps.append(anyio.current_time() - start)

    run_id = await broken_off(engine, whole, journal, 130)
    await broken_off(engine, whole, journal, 20, run_id)
    await anyio.sleep(30)
    await engine.resume(run_id)
    assert naps == pytest.approx([180, 200], abs=0.01)
