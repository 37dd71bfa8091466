"""What users test with: virtual time that waits for threads and the journal, short retries, fixtures for pytest."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from undertow import Engine, InvalidOption, RetryAfter, flow, task
from undertow.testing import BACKENDS, VirtualClock, set_testing

pytest_plugins = ["pytester"]

JOURNALS = ("file", "memory")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=JOURNALS)
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return ":memory:" if request.param == "memory" else str(tmp_path / "journal.db")


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


def run(clock: VirtualClock, backend: str, main: Callable[[], Awaitable[Any]]) -> Any:
    """Run an async function in virtual time, beside somebody who watches the clock second by second."""

    async def watched() -> Any:
        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            result = await main()
            group.cancel_scope.cancel()
        return result

    async def tick() -> None:
        while True:  # noqa: ASYNC110 - no event, for the point is that something is always due
            await anyio.sleep(1)

    name, options = clock.backend(backend)
    return anyio.run(watched, backend=name, backend_options=options)


def engine_of(clock: VirtualClock, journal: str) -> Engine:
    return Engine(journal, durability="none", clock=clock, monotonic=clock.elapsed)


# --- the clock -------------------------------------------------------------------------------------------------


def test_time_jumps(clock: VirtualClock, backend: str) -> None:
    """When everybody waits the clock jumps to what is due next, and wall-clock time goes with it, from 2026 on."""

    async def main() -> list[datetime]:
        before = clock.time
        await anyio.sleep(3600)
        return [before, clock.time]

    assert run(clock, backend, main) == [datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 1, tzinfo=UTC)]


def test_advancing_and_jumping(clock: VirtualClock, backend: str) -> None:
    """`advance` lets time pass and what is due happen; `jump` makes it late at once, as a machine asleep does."""

    async def main() -> list[float]:
        woken: list[float] = []

        async def sleeper() -> None:
            await anyio.sleep(10)
            woken.append(clock.elapsed())

        async with anyio.create_task_group() as group:
            group.start_soon(sleeper)
            await clock.advance(5.5)
            woken.append(clock.elapsed())
            clock.jump(60)
        return woken

    assert run(clock, backend, main) == [5.5, 65.5]


def test_each_loop_begins_anew(clock: VirtualClock, backend: str) -> None:
    """Where one clock serves several event loops in turn, as with generated examples, each begins at the same moment."""

    async def main() -> tuple[float, datetime]:
        await anyio.sleep(60)
        return clock.elapsed(), clock.time

    assert run(clock, backend, main) == run(clock, backend, main) == (60, datetime(2026, 1, 1, 0, 1, tzinfo=UTC))


def test_unknown_backend(clock: VirtualClock) -> None:
    """A backend that there is none of is refused, naming it and those there are."""
    with pytest.raises(InvalidOption, match=r"'curio'.*'asyncio' or 'trio'"):
        clock.backend("curio")


@task
async def double(number: int) -> int:
    return 2 * number


@task
def add_up(numbers: int) -> int:
    return sum(range(numbers))


@flow(durable=True)
async def doubled(times: int) -> int:
    return sum([await double(number) for number in range(times)])


@flow
async def added_up(numbers: int) -> list[int]:
    return list(await add_up.map([numbers] * 3))


def test_the_journal_takes_no_time(clock: VirtualClock, backend: str, journal: str) -> None:
    """However long the journal takes to answer, no virtual time passes: timers wait until it has."""

    async def main() -> tuple[int, float]:
        async with engine_of(clock, journal):
            return await doubled(20), clock.elapsed()

    assert run(clock, backend, main) == (380, 0.0)


def test_bodies_in_threads_take_no_time(clock: VirtualClock, backend: str, journal: str) -> None:
    """While the body of a sync task is at work in a thread the clock stands still."""

    async def main() -> tuple[list[int], float]:
        async with engine_of(clock, journal):
            return await added_up(300_000), clock.elapsed()

    assert run(clock, backend, main) == ([44999850000] * 3, 0.0)


def test_other_threads_take_no_time(clock: VirtualClock, backend: str) -> None:
    """The clock stands still while a function is at work in `anyio.to_thread.run_sync` or `asyncio.to_thread`."""

    async def main() -> float:
        clock.heed_threads()
        await anyio.to_thread.run_sync(add_up.fn, 300_000)
        if backend == "asyncio":
            await asyncio.to_thread(add_up.fn, 300_000)
        return clock.elapsed()

    assert run(clock, backend, main) == 0.0


def test_patience(clock: VirtualClock, backend: str) -> None:
    """A thread that itself waits for the loop does not stop the time for ever, only until the clock's patience ends."""
    clock.patience = 0.01
    over = threading.Event()

    @task
    def waits() -> bool:
        return over.wait(30)

    @flow
    async def ends_the_wait() -> bool:
        waiting = waits.submit()
        await anyio.sleep(60)
        over.set()
        return await waiting

    async def main() -> bool:
        async with engine_of(clock, ":memory:"):
            return await ends_the_wait()

    assert run(clock, backend, main)
    assert clock.elapsed() >= 60


def test_retries_and_timeouts_are_on_the_second(clock: VirtualClock, backend: str, journal: str) -> None:
    """Delays and timeouts take exactly their time, of which the journal's own work is no part, in every run alike."""

    @task(retries=2, retry_delay_seconds=[60, 600], timeout_seconds=5)
    async def slow() -> None:
        await anyio.sleep(30)

    @flow
    async def impatient() -> None:
        await slow()

    async def main() -> list[tuple[str, str]]:
        async with engine_of(clock, journal) as engine:
            await impatient(return_state=True)
            sql = "SELECT name, at FROM states WHERE run_id IN (SELECT id FROM task_runs) ORDER BY seq"
            return [(row["name"], row["at"][11:19]) for row in engine.journal.query(sql)]  # type: ignore[attr-defined]

    assert run(clock, backend, main) == [
        ("Pending", "00:00:00"),
        ("Running", "00:00:00"),
        ("AwaitingRetry", "00:00:05"),
        ("Retrying", "00:01:05"),
        ("AwaitingRetry", "00:01:10"),
        ("Retrying", "00:11:10"),
        ("TimedOut", "00:11:15"),
    ]


# --- short retries ---------------------------------------------------------------------------------------------


@task(retries=2, retry_delay_seconds=3600)
async def flaky(failures: list[Exception]) -> str:
    if failures:
        raise failures.pop()
    return "done"


@pytest.mark.parametrize("error", [ValueError("no"), RetryAfter(3600)], ids=["delay", "RetryAfter"])
def test_short_retries(backend: str, error: Exception) -> None:
    """Inside `set_testing` no retry waits longer than it says, on the machine's own clock."""

    async def main() -> str:
        async with Engine(":memory:"):
            with set_testing(max_delay_seconds=0.001):
                return await flaky([error, error])

    assert anyio.run(main, backend=backend) == "done"


def test_short_retries_end(clock: VirtualClock, backend: str) -> None:
    """After the block of `set_testing`, retries wait as they are told to."""

    async def main() -> float:
        async with engine_of(clock, ":memory:"):
            with set_testing(max_delay_seconds=10):
                await flaky([ValueError("no")])
            await flaky([ValueError("no")])
            return clock.elapsed()

    assert run(clock, backend, main) == 3610


@pytest.mark.parametrize("value", [-1, "soon", True, None])
def test_short_retries_refused(value: Any) -> None:
    """`set_testing` refuses what is no number of seconds, naming it."""
    with pytest.raises(InvalidOption, match=f"max_delay_seconds.*{value!r}"):
        set_testing(max_delay_seconds=value)


# --- the plugin ------------------------------------------------------------------------------------------------

CONFTEST = """\
import pytest
from undertow.testing import BACKENDS, virtual_time


@pytest.fixture(params=BACKENDS)
def anyio_backend(request):
    return virtual_time(request)
"""

EXAMPLE = """\
import pytest
from undertow import flow, task
from undertow.testing import replay


@task(retries=1, retry_delay_seconds=3600)
async def charge(card, answers):
    if answers.pop() == "busy":
        raise ConnectionError("busy")
    return f"charged {card}"


@flow(durable=True)
async def order(card, answers):
    return await charge(card, answers)


@pytest.mark.anyio
async def test_order(undertow_engine, undertow_clock):
    assert await order("visa", ["ok", "busy"]) == "charged visa"
    assert undertow_clock.elapsed() == 3600  # an hour, which nobody has waited
    assert len(replay(undertow_engine, order)) == 1
"""

USERS_TESTS = """
import anyio, pytest, sqlite3, threading
from undertow import flow, task

@task(retries=1, retry_delay_seconds=3600)
async def flaky(failures):
    if failures:
        raise failures.pop()

@task(concurrency_limit=1)
def held(seconds=0):
    return threading.current_thread().name

@flow
async def patient(failures):
    await flaky(failures)
    return "done"

@flow
def plain(failures):
    flaky(failures)
    return held.submit().result()

@pytest.mark.anyio
async def test_async(undertow_engine, undertow_clock, undertow_journal, anyio_backend_name):
    assert await patient([ValueError()]) == "done"
    assert undertow_clock.elapsed() == 3600
    assert undertow_clock.time.isoformat() == "2026-01-01T01:00:00+00:00"
    rows = sqlite3.connect(undertow_journal).execute("SELECT ended_at FROM flow_runs").fetchall()
    assert rows == [("2026-01-01T01:00:00.000000Z",)]

@pytest.mark.anyio
@pytest.mark.real_time
async def test_real(undertow_engine, undertow_no_delays):
    assert await patient([ValueError()]) == "done"
    assert undertow_engine.core.clock.now() != 1767225600000000

@pytest.mark.anyio
@pytest.mark.undertow(journal=":memory:", limits={"mine": 2})
async def test_options(undertow_engine):
    assert undertow_engine.core.limits.buckets["mine"]
    assert undertow_engine.journal.path == ":memory:"

@pytest.mark.undertow(backend="BACKEND")
def test_sync(undertow_sync_engine, undertow_clock):
    assert plain([ValueError()])
    assert undertow_clock.elapsed() == 3600
"""


def test_fixtures(pytester: pytest.Pytester, backend: str) -> None:
    """The fixtures give a test an open engine, on both backends and without a loop, in virtual time unless told so."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(USERS_TESTS.replace("BACKEND", backend))
    pytester.runpytest_inprocess("--strict-markers", "-W", "error").assert_outcomes(passed=7)


def test_the_example(pytester: pytest.Pytester) -> None:
    """The example in the README is a test that passes on both backends."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(EXAMPLE)
    pytester.runpytest_inprocess("--strict-markers", "-W", "error").assert_outcomes(passed=2)


def test_engine_in_another_time(pytester: pytest.Pytester) -> None:
    """An engine in virtual time, in a loop that is not, is refused by a message that says what to write and where."""
    pytester.makepyfile("""
        import pytest

        @pytest.mark.anyio
        async def test_it(undertow_engine):
            pass
    """)
    done = pytester.runpytest_inprocess()
    done.assert_outcomes(errors=2)
    done.stdout.fnmatch_lines(["*Put this into conftest.py*", "*from undertow.testing import BACKENDS, virtual_time*"])


def test_pytest_is_not_needed() -> None:
    """`import undertow` imports neither pytest nor what is there for tests."""
    program = (
        "import sys, undertow; undertow.Engine; print({'pytest', 'undertow.testing', 'trio.testing'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"
