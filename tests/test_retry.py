"""Retries and time limits: how often, how soon, for which errors, and what a waiting run holds meanwhile."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from undertow import (
    Engine,
    Fail,
    Failed,
    InvalidOption,
    RetryAfter,
    RunFailed,
    RunTimedOut,
    RunView,
    State,
    Task,
    concurrency,
    exponential_backoff,
    flow,
    runtime,
    task,
)

if TYPE_CHECKING:
    from conftest import ListJournal


def failing(**options: Any) -> tuple[Task[[], Any], list[float]]:
    """A task that always raises, and the times at which its body began."""
    starts: list[float] = []

    @task(**options)
    async def unlucky() -> None:
        starts.append(anyio.current_time())
        raise ValueError(f"attempt {len(starts)}")

    return unlucky, starts


async def gaps(**options: Any) -> list[float]:
    """The waits between the attempts of a task that always fails."""
    unlucky, starts = failing(**options)
    with pytest.raises(ValueError, match=r"attempt \d+"):
        await unlucky()
    return [round(after - before, 9) for before, after in pairwise(starts)]


# --- how many, and how long between them -------------------------------------------------------------------------


@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_retries_are_attempts_beyond_the_first(engine: Engine, retries: int) -> None:
    """`retries=n` gives a task n + 1 attempts, at once where no delay was asked for, and then its last error."""
    unlucky, starts = failing(retries=retries)
    with pytest.raises(ValueError, match=f"attempt {retries + 1}"):
        await unlucky()
    assert starts == [starts[0]] * (retries + 1)


@pytest.mark.parametrize(
    ("delays", "expected"),
    [
        (0.25, [0.25, 0.25, 0.25, 0.25]),
        ([1, 10], [1, 10, 10, 10]),
        ((1, 2, 3, 4, 5, 6), [1, 2, 3, 4]),
        ([], [0, 0, 0, 0]),
        ([5, 0], [5, 0, 0, 0]),
        (exponential_backoff(0.5), [0.5, 1, 2, 4]),
        (lambda retries: [float(retries)] * 2, [4, 4, 4, 4]),
    ],
    ids=["scalar", "list", "long tuple", "empty list", "list ending in 0", "backoff", "callable"],
)
async def test_delays(engine: Engine, delays: Any, expected: list[float]) -> None:
    """Delays are a number, a list whose last item repeats, or a function from the retries to a list."""
    assert await gaps(retries=4, retry_delay_seconds=delays) == expected


async def test_a_delay_function_is_called_once(engine: Engine) -> None:
    """A delay function is asked once, at decoration, with the number of retries."""
    asked: list[int] = []

    def delays(retries: int) -> Sequence[float]:
        asked.append(retries)
        return [1]

    unlucky, _ = failing(retries=2, retry_delay_seconds=delays)
    assert asked == [2]
    await unlucky(return_state=True)
    await unlucky(return_state=True)
    assert asked == [2]


def test_exponential_backoff_is_bounded() -> None:
    """`exponential_backoff(b)` gives b·2^i for each retry, and fifty of them at most."""
    assert exponential_backoff(3)(4) == [3, 6, 12, 24]
    assert len(exponential_backoff(1)(80)) == 50


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("retries", -1),
        ("retries", 1.5),
        ("retries", True),
        ("retry_delay_seconds", [1.0] * 51),
        ("retry_delay_seconds", -1),
        ("retry_delay_seconds", "5"),
        ("retry_delay_seconds", [1, None]),
        ("retry_delay_seconds", math.nan),
        ("retry_delay_seconds", lambda retries: 5),
        ("retry_delay_seconds", lambda retries: [1.0] * 51),
        ("retry_jitter_factor", -0.1),
        ("retry_jitter_factor", "much"),
        ("max_retry_delay_seconds", -1),
        ("max_elapsed_seconds", "1h"),
        ("retry_on", "ValueError"),
        ("retry_on", [ValueError, 3]),
        ("give_up_on", ValueError("instance")),
        ("retry_condition_fn", 3),
        ("timeout_seconds", 0),
        ("timeout_seconds", -1),
        ("timeout_seconds", "1s"),
    ],
)
@pytest.mark.parametrize("decorator", [task, flow])
def test_bad_options(decorator: Callable[..., Any], option: str, value: object) -> None:
    """A retry or time option that can't be is refused at decoration, by name."""
    with pytest.raises(InvalidOption, match=option):
        decorator(**{"retries": 1, option: value})(lambda: None)


@pytest.mark.parametrize("factor", [-1, "2", None])
def test_bad_backoff(factor: Any) -> None:
    """A backoff factor that can't be is refused, by name."""
    with pytest.raises(InvalidOption, match="backoff_factor"):
        exponential_backoff(factor)


async def test_the_longest_delay(engine: Engine) -> None:
    """`max_retry_delay_seconds` cuts delays, jittered ones too."""
    assert await gaps(retries=4, retry_delay_seconds=exponential_backoff(1), max_retry_delay_seconds=3) == [1, 2, 3, 3]
    jittered = await gaps(retries=40, retry_delay_seconds=10, retry_jitter_factor=1, max_retry_delay_seconds=12)
    assert max(jittered) == 12
    assert min(jittered) < 12


async def test_the_longest_time(engine: Engine) -> None:
    """No attempt begins later than `max_elapsed_seconds` after the first one began."""
    assert await gaps(retries=9, retry_delay_seconds=4, max_elapsed_seconds=12) == [4, 4, 4]
    assert await gaps(retries=9, retry_delay_seconds=4, max_elapsed_seconds=11.9) == [4, 4]
    assert await gaps(retries=9, max_elapsed_seconds=0) == []


# --- jitter ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
async def test_jitter(engine: Engine, factor: float) -> None:
    """Jitter spreads delays within its bounds, half of them below the median, with the mean near the one asked for."""
    mean, draws = 2.0, 1000
    waits = await gaps(retries=draws, retry_delay_seconds=mean, retry_jitter_factor=factor)
    high = 1 + factor
    low = math.log2(2**high / (2**high - 1))
    assert low * mean <= min(waits) < (low + 0.1) * mean
    assert high * mean * 0.85 < max(waits) <= high * mean
    median = -math.log((math.exp(-low) + math.exp(-high)) / 2)
    below = sum(wait < median * mean for wait in waits)
    assert draws * 0.44 < below < draws * 0.56
    assert fmean(waits) == pytest.approx(mean, rel=0.15)


async def test_jitter_of_nothing(engine: Engine) -> None:
    """Jitter around a delay of 0 is 0, and jitter of factor 0 changes nothing."""
    assert await gaps(retries=3, retry_delay_seconds=0, retry_jitter_factor=2) == [0, 0, 0]
    assert await gaps(retries=3, retry_delay_seconds=0.2, retry_jitter_factor=0) == [0.2, 0.2, 0.2]


async def test_jitter_follows_the_seed(make_engine: Callable[..., Engine]) -> None:
    """Jitter is drawn from the engine's own randomness, so one seed gives one series of delays."""

    async def series(seed: int) -> list[float]:
        async with make_engine(random=random.Random(seed)):
            return await gaps(retries=5, retry_delay_seconds=1, retry_jitter_factor=1)

    assert await series(1) == await series(1) != await series(2)


# --- for which errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "attempts"),
    [
        ({"retry_on": ValueError}, 3),
        ({"retry_on": (KeyError, LookupError)}, 1),
        ({"retry_on": [Exception]}, 3),
        ({"give_up_on": ValueError}, 1),
        ({"give_up_on": {KeyError}}, 3),
        ({"retry_on": Exception, "give_up_on": ValueError}, 1),
    ],
)
async def test_which_errors(engine: Engine, options: dict[str, Any], attempts: int) -> None:
    """Only errors in `retry_on` are retried, and never those in `give_up_on`; subclasses count."""
    assert len(await gaps(retries=2, **options)) == attempts - 1


class Deciding:
    """A condition that is an object, not a function."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer

    def __call__(self, *_: object) -> bool:
        return self.answer


async def _yes(*_: object) -> bool:
    await anyio.sleep(1)
    return True


async def _no(*_: object) -> bool:
    return False


def _raising(*_: object) -> bool:
    raise RuntimeError("the condition is broken")


async def _raising_later(*_: object) -> bool:
    raise RuntimeError("the condition is broken")


@pytest.mark.parametrize(
    ("condition", "attempts"),
    [
        (lambda *_: True, 3),
        (lambda *_: False, 1),
        (_yes, 3),
        (_no, 1),
        (Deciding(True), 3),
        (Deciding(False), 1),
        (_raising, 1),
        (_raising_later, 1),
    ],
    ids=["yes", "no", "async yes", "async no", "object yes", "object no", "raising", "async raising"],
)
async def test_condition(engine: Engine, condition: Callable[..., Any], attempts: int) -> None:
    """A retry condition may be any callable, sync or async; one that raises means no retry."""
    assert len(await gaps(retries=2, retry_condition_fn=condition)) == attempts - 1


async def test_a_raising_condition_is_logged(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """A retry condition that raises is logged with its traceback."""
    await gaps(retries=2, retry_condition_fn=_raising)
    assert "the condition is broken" in caplog.text


async def test_what_a_condition_is_told(engine: Engine) -> None:
    """A condition is given the task, the run and the failed state, after each attempt that could be retried."""
    told: list[tuple[Any, RunView, State[Any]]] = []
    unlucky, _ = failing(retries=2, retry_condition_fn=lambda *given: told.append(given) or True)
    await unlucky(return_state=True)
    assert [each for each, _, _ in told] == [unlucky, unlucky]
    assert [run.run_count for _, run, _ in told] == [1, 2]
    assert [str(state.data) for _, _, state in told] == ["attempt 1", "attempt 2"]
    assert {state.type for _, _, state in told} == {"FAILED"}


# --- what a body can say -----------------------------------------------------------------------------------------


async def test_fail_is_not_retried(engine: Engine) -> None:
    """`raise Fail(...)` ends a run at once, whatever retries are left."""
    attempts: list[int] = []

    @task(retries=5)
    async def hopeless() -> None:
        attempts.append(1)
        raise Fail("bad key")

    state = await hopeless(return_state=True)
    assert (state.type, state.name, len(attempts)) == ("FAILED", "Failed", 1)
    with pytest.raises(Fail, match="bad key"):
        state.result()


async def test_retry_after(engine: Engine) -> None:
    """`raise RetryAfter(s)` retries after s seconds instead of the usual delay, as long as retries are left."""
    starts: list[float] = []

    @task(retries=2, retry_delay_seconds=1, retry_jitter_factor=1, retry_on=KeyError)
    async def throttled() -> None:
        starts.append(anyio.current_time())
        raise RetryAfter(30)

    with pytest.raises(RetryAfter, match="30"):
        await throttled()
    assert [after - before for before, after in pairwise(starts)] == [30, 30]


async def test_a_returned_failed_state_is_retried(engine: Engine) -> None:
    """A task that returns a Failed state is retried as one that raises."""
    attempts: list[int] = []

    @task(retries=1)
    async def polite() -> State[Any]:
        attempts.append(1)
        return Failed("no rows")

    with pytest.raises(RunFailed, match="no rows"):
        await polite()
    assert len(attempts) == 2


# --- between the attempts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delay", "story"),
    [
        (None, ["Running", "Retrying", "Failed"]),
        (0, ["Running", "Retrying", "Failed"]),
        (0.001, ["Running", "AwaitingRetry", "Retrying", "Failed"]),
    ],
)
async def test_story_of_a_retry(engine: Engine, journal: ListJournal, delay: float | None, story: list[str]) -> None:
    """A retry with a delay is AwaitingRetry and then Retrying; one without is Retrying at once."""
    unlucky, _ = failing(retries=1, retry_delay_seconds=delay)
    await unlucky(return_state=True)
    assert journal.story("unlucky")[1:] == story


async def test_a_waiting_retry_holds_no_slot(make_engine: Callable[..., Engine]) -> None:
    """While a run waits for its retry, others may have its slots; it queues for them again."""
    starts: list[tuple[str, float]] = []

    @task(tags=["db"], retries=1, retry_delay_seconds=10)
    async def work(name: str) -> None:
        starts.append((name, anyio.current_time()))
        await anyio.sleep(4)
        if len(starts) == 1:
            raise ValueError("the first attempt fails")

    async with make_engine(limits={"db": 1}):
        begun = anyio.current_time()
        await work.map(["a", "b", "c", "d"])
    # the first one fails at 4 and could go on at 14, while the fourth has the slot until 16
    assert [at - begun for _, at in starts] == [0, 4, 8, 12, 16]
    assert sorted(name for name, _ in starts[:4]) == ["a", "b", "c", "d"]
    assert starts[4][0] == starts[0][0]


@pytest.mark.real_time
async def test_a_waiting_retry_holds_no_thread(make_engine: Callable[..., Engine]) -> None:
    """While a sync task waits for its retry, its thread is free for others."""
    order: list[str] = []

    @task(retries=1, retry_delay_seconds=0.05)
    def work(name: str) -> None:
        order.append(name)
        if len(order) == 1:
            raise ValueError("the first attempt fails")

    async with make_engine(threads=1):
        await work.map(["a", "b"])
    assert len(order) == 3
    assert order[0] == order[2] != order[1]


async def test_a_waiting_retry_can_be_cancelled(engine: Engine, journal: ListJournal) -> None:
    """A run that waits for its retry ends Cancelled at once when it is cancelled."""
    unlucky, starts = failing(retries=1, retry_delay_seconds=1000)
    future = unlucky.submit()
    await anyio.sleep(1)
    future.cancel()
    state = await future.wait_async()
    assert state is not None
    assert (state.type, len(starts)) == ("CANCELLED", 1)
    assert anyio.current_time() < 1000
    assert journal.story("unlucky")[1:] == ["Running", "AwaitingRetry", "Cancelled"]


async def test_the_body_knows_its_attempt(engine: Engine) -> None:
    """A body is told the number of its attempt and the previous error by `runtime.task_run`."""
    known: list[tuple[int, str]] = []

    @task(retries=2)
    async def curious() -> None:
        known.append((runtime.task_run.run_count, repr(runtime.task_run.previous_error)))
        raise ValueError(len(known))

    await curious(return_state=True)
    assert known == [(1, "None"), (2, "ValueError(1)"), (3, "ValueError(2)")]


async def test_a_sync_task_on_the_loop_retries(make_engine: Callable[..., Engine]) -> None:
    """A sync task that is called on a loop's thread holds it during its retry delay, as the plain call would."""
    attempts: list[int] = []

    @task(retries=2, retry_delay_seconds=[3, 5])
    def plain() -> int:
        attempts.append(1)
        return 1 // max(0, len(attempts) - 2)

    async with make_engine() as engine:
        assert plain() == 1
        assert engine.core.clock.blocked == [3, 5]  # type: ignore[attr-defined]


# --- flows -------------------------------------------------------------------------------------------------------


async def test_a_flow_retries(engine: Engine, journal: ListJournal) -> None:
    """A flow is retried by the same rules; each attempt runs the whole body with new children."""
    starts: list[float] = []

    @task
    async def step() -> None:
        starts.append(anyio.current_time())
        if len(starts) < 3:
            raise ValueError("not yet")

    @flow(retries=3, retry_delay_seconds=[2, 7])
    async def outer() -> tuple[int, str]:
        await step()
        return runtime.flow_run.run_count, repr(runtime.flow_run.previous_error)

    assert await outer() == (3, "ValueError('not yet')")
    assert [after - before for before, after in pairwise(starts)] == [2, 7]
    assert len(journal.of("step")) == 3
    assert journal.story("outer")[1:] == ["Running", *["AwaitingRetry", "Retrying"] * 2, "Completed"]


async def test_a_flow_is_retried_for_its_children(engine: Engine) -> None:
    """A flow that failed for its children's sake is retried, and judged by the last attempt's children alone."""
    attempts: list[int] = []

    @task
    async def step() -> None:
        if len(attempts) == 1:
            raise ValueError("not yet")

    @flow(retries=1)
    async def outer() -> None:
        attempts.append(1)
        step.submit()

    state = await outer(return_state=True)
    assert (state.type, len(attempts)) == ("COMPLETED", 2)


# --- time limits -------------------------------------------------------------------------------------------------


async def test_a_time_limit(engine: Engine, journal: ListJournal) -> None:
    """A task that takes longer than `timeout_seconds` is stopped there and ends Failed as TimedOut."""

    @task(timeout_seconds=5)
    async def slow() -> None:
        await anyio.sleep(100)

    begun = anyio.current_time()
    with pytest.raises(RunTimedOut, match="5 s"):
        await slow()
    assert anyio.current_time() - begun == 5
    run = journal.of("slow")[0]
    assert (run.type, run.history[-1][1]) == ("FAILED", "TimedOut")
    assert "exceeded its timeout of 5 s" in run.history[-1][2]


async def test_a_time_limit_is_for_each_attempt(engine: Engine, journal: ListJournal) -> None:
    """Each attempt has the whole time limit, waiting for a retry is no part of it, and TimedOut is retried."""
    starts: list[float] = []

    @task(timeout_seconds=5, retries=2, retry_delay_seconds=60)
    async def slow() -> None:
        starts.append(anyio.current_time())
        await anyio.sleep(100 if len(starts) < 3 else 4)

    await slow()
    assert [after - before for before, after in pairwise(starts)] == [65, 65]


async def test_waiting_for_a_slot_is_not_timed(make_engine: Callable[..., Engine]) -> None:
    """The time limit begins with the body, not with the wait for a slot."""

    @task(timeout_seconds=5, tags=["db"])
    async def work() -> str:
        await anyio.sleep(1)
        return "done"

    async with make_engine(limits={"db": 1}):
        async with concurrency("db"):
            future = work.submit()
            await anyio.sleep(100)
        assert await future == "done"


async def test_a_body_that_ignores_its_time_limit(make_engine: Callable[..., Engine]) -> None:
    """A body that held on beyond its time is TimedOut, even when it returned a value in the end."""

    @task(timeout_seconds=5)
    async def stubborn() -> str:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(6)
        return "late"

    async with make_engine():
        assert (await stubborn(return_state=True)).name == "TimedOut"


async def test_an_own_timeout_error_is_a_failure(engine: Engine) -> None:
    """A `TimeoutError` of the body's own is an ordinary failure."""

    @task(timeout_seconds=5)
    async def own() -> None:
        with anyio.fail_after(1):
            await anyio.sleep(2)

    state = await own(return_state=True)
    assert (state.type, state.name) == ("FAILED", "Failed")
    with pytest.raises(TimeoutError):
        state.result()


async def test_a_flow_has_a_time_limit(engine: Engine, journal: ListJournal) -> None:
    """A flow that takes too long is TimedOut, and what it had submitted ends Cancelled with it."""

    @task
    async def endless() -> None:
        await anyio.sleep_forever()

    @flow(timeout_seconds=5)
    async def outer() -> None:
        endless.submit()

    state = await outer(return_state=True)
    assert (state.type, state.name) == ("FAILED", "TimedOut")
    assert journal.story("endless") == ["Pending", "Running", "Cancelled"]
    assert all(run.ended for run in journal.runs.values())


async def test_a_flow_that_raised_in_time(engine: Engine, journal: ListJournal) -> None:
    """A flow that raises before its time is up ends by that, also if its time then runs out: `Fail` is not retried."""
    bodies: list[float] = []

    @task
    async def endless() -> None:
        await anyio.sleep_forever()

    @flow(timeout_seconds=5, retries=2)
    async def outer() -> None:
        bodies.append(anyio.current_time())
        endless.submit()
        raise Fail("bad key")

    state = await outer(return_state=True)
    assert (state.type, state.name) == ("FAILED", "Failed")
    with pytest.raises(Fail, match="bad key"):
        state.result()
    assert [anyio.current_time() - began for began in bodies] == [5]
    assert journal.story("endless") == ["Pending", "Running", "Cancelled"]


async def test_a_flow_that_raised_too_late(engine: Engine) -> None:
    """A flow that raises when its time is over is TimedOut, whatever it had submitted."""

    @task
    async def endless() -> None:
        await anyio.sleep_forever()

    @flow(timeout_seconds=5)
    async def stubborn() -> None:
        endless.submit()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(6)
        raise ValueError("late")

    assert (await stubborn(return_state=True)).name == "TimedOut"
