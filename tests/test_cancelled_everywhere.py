"""Cancellation at every checkpoint of everything that the engine does, in every way that a host can cancel."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.cancelling import CASES, ENDS, Stage, body, explore, unfinished
from undertow import (
    INPUTS,
    RUN_ID,
    Part,
    ProcessRunner,
    RunTimedOut,
    UpstreamFailed,
    allow_failure,
    as_completed,
    concurrency,
    flow,
    rate_limit,
    sleep,
    task,
    transaction,
    wait_async,
)

SCENARIOS: dict[str, tuple[Any, dict[str, Any]]] = {}


def scenario(**options: Any) -> Any:
    """Have the function played as a scenario, on a stage with these options."""

    def note(play: Any) -> Any:
        SCENARIOS[play.__name__] = (play, options)
        return play

    return note


class Broken(Exception):
    """What the failing tasks of these scenarios raise."""


@task
async def nap(seconds: float = 1, result: Any = None) -> Any:
    with body():
        await anyio.sleep(seconds)
    return result


@task
async def breaks() -> None:
    await nap()
    raise Broken("by design")


# --- calling, submitting, mapping --------------------------------------------------------------------------------


@scenario()
async def calls(stage: Stage) -> Any:
    @task
    async def outer() -> int:
        return await nap(1, 7)

    @flow
    async def works() -> int:
        return await nap(1, 3) + await outer()

    return await works()


@scenario()
async def futures(stage: Stage) -> Any:
    @flow
    async def works() -> list[Any]:
        one = nap.submit(1, 1)
        two = nap.submit(2, one)
        three = nap.submit(3, 3)
        nobody_waits = nap.submit(5, wait_for=[two])
        assert await three.wait_async(timeout=1) is None
        await wait_async([one, three], timeout=2)
        order = [await future async for future in as_completed([three, two, one])]
        assert not nobody_waits.done
        return [order, await two.result_async()]

    return await works()


@scenario()
async def maps(stage: Stage) -> Any:
    held = nap.with_options(limits=["line"])
    pairs = nap.with_options(limits=["pair"], tags=["line"])

    @flow
    async def works() -> list[Any]:
        futures = held.map(1, [1, 2, 3])
        await pairs.map([1, 2])
        return await futures

    return await works()


@scenario()
async def limits(stage: Stage) -> Any:
    limited = nap.with_options(tags=["api"])
    alone = nap.with_options(concurrency_limit=1)

    @task
    async def in_block() -> None:
        async with concurrency("line", "pair", timeout_seconds=9):
            await nap()
        await rate_limit("api")

    @flow(concurrency_limit=1)
    async def works() -> list[Any]:
        futures = [in_block.submit(), limited.submit(), in_block.submit(), limited.submit()]
        async with concurrency("pair", occupy=2):
            await nap.with_options(limits=["pair"])()
        await alone.map([1, 1])
        return [await future for future in futures]

    return await works()


# --- attempts ----------------------------------------------------------------------------------------------------


@scenario()
async def retries(stage: Stage) -> Any:
    async def condition(task: Any, run: Any, state: Any) -> bool:
        await anyio.sleep(0.5)
        return True

    left = [Broken("once"), Broken("twice"), Broken("thrice")]

    @task(retries=2, retry_delay_seconds=2, retry_condition_fn=condition, limits=["line"])
    async def flaky() -> None:
        await nap()
        if len(left) > 1:
            raise left.pop()

    @flow(retries=1, retry_delay_seconds=1)
    async def works() -> None:
        futures = flaky.submit(), nap.with_options(limits=["line"]).submit()
        for future in futures:
            await future
        if left:
            raise left.pop()

    return await works()


@scenario(ends=ENDS | {"TimedOut"}, cancels_itself=True)
async def timeouts(stage: Stage) -> Any:
    @task(timeout_seconds=1, limits=["line"])
    async def slow() -> None:
        await nap(5)

    @flow(timeout_seconds=2)
    async def slow_flow() -> None:
        nap.submit(5)
        await nap(5)

    @flow(final_state="return")
    async def works() -> str:
        future = slow.submit()
        with pytest.raises(RunTimedOut):
            await slow_flow()
        with pytest.raises(RunTimedOut):
            await future
        with anyio.move_on_after(1):
            await nap(5)
        return "late"

    return await works()


# --- trees -------------------------------------------------------------------------------------------------------


@scenario()
async def subflows(stage: Stage) -> Any:
    @flow
    async def inner(number: int) -> int:
        nap.submit(2)
        return await nap(1, number)

    @flow
    async def works() -> list[int]:
        future = inner.submit(1)
        return [await inner(2), await future]

    return await works()


@scenario(ends=ENDS | {"Failed", "Skipped"}, cancels_itself=True)
async def failures(stage: Stage) -> Any:
    @task(when="any_failed")
    async def clean(*parts: Any) -> None:
        await nap()

    @flow(final_state="return")
    async def works() -> None:
        failed, fine = breaks.submit(), nap.submit(3)
        skipped = nap.submit(1, failed)
        await clean.submit(failed, fine)
        await nap.with_options(when="all_done").submit(wait_for=[failed, skipped])
        assert isinstance(await nap.submit(1, allow_failure(failed)), Broken)
        with pytest.raises(UpstreamFailed):
            await skipped

    @flow(on_child_failure="cancel")
    async def together() -> None:
        breaks.submit()
        await nap.submit(5)

    await works()
    with pytest.raises(Broken):
        await together()


@scenario(cancels_itself=True)
async def streams(stage: Stage) -> Any:
    async def numbers() -> AsyncIterator[int]:
        for number in range(4):
            await anyio.sleep(0.3)
            yield number

    @task
    async def shown(number: int) -> int:
        return await nap(1 + number % 2, number)

    @flow(final_state="return")
    async def works() -> list[list[int]]:
        async with aclosing(numbers()) as source:
            ordered = [number async for number in shown.stream(source, max_in_flight=2)]
        either = [number async for number in shown.stream(range(4), max_in_flight=3, ordered=False)]
        async for number in shown.stream(range(9), max_in_flight=3):
            if number == 1:
                break
        return [ordered, sorted(either)]

    return await works()


@scenario()
async def generators(stage: Stage) -> Any:
    @task(limits=["line"])
    async def items() -> AsyncIterator[int]:
        with body():
            for number in range(3):
                await anyio.sleep(1)
                yield number

    @task
    def here() -> Iterator[int]:
        yield from range(3)

    @flow
    async def works() -> list[Any]:
        found = [number async for number in items()]
        for number in here():
            await nap(number)
        return [found, await items.submit()]

    return await works()


# --- hooks and transactions --------------------------------------------------------------------------------------


@scenario()
async def hooks(stage: Stage) -> Any:
    told: list[str] = []

    async def slowly(*_: object) -> None:
        told.append("begun")
        with body():
            await anyio.sleep(1)
        told.append("ended")

    def at_once(*_: object) -> None:
        return

    every = {"on_running": [at_once, slowly], "on_completion": [slowly, at_once], "on_cancellation": [slowly, at_once]}
    hooked = nap.with_options(**every)

    @flow(**every)
    async def works() -> None:
        future = hooked.submit()
        await hooked()
        await future

    try:
        return await works()
    finally:
        assert told.count("begun") == told.count("ended")


@scenario(ends=ENDS | {"Failed", "RolledBack"}, cancels_itself=True)
async def transactions(stage: Stage) -> Any:
    """Whatever happens, what was written in one block is all committed, or all rolled back."""
    blocks: list[list[str]] = []

    @task(limits=["line"])
    async def writes(block: list[str]) -> list[str]:
        await nap()
        block.append("written")
        return block

    @writes.on_rollback
    async def undo(part: Part) -> None:
        with body():
            await anyio.sleep(1)
        part.result.append("undone")

    @writes.on_commit
    async def approve(part: Part) -> None:
        with body():
            await anyio.sleep(1)
        part.result.append("approved")

    @flow(final_state="return")
    async def works() -> None:
        blocks.extend([[], []])
        async with transaction():
            writes.submit(blocks[0])
            async with transaction():
                await writes(blocks[0])
        with pytest.raises(Broken):
            async with transaction():
                writes.submit(blocks[1])
                await writes(blocks[1])
                await breaks()

    try:
        await works()
    finally:
        assert all(block.count("written") in (block.count("undone"), block.count("approved")) for block in blocks), (
            blocks
        )


@scenario(ends=ENDS | {"Cached"})
async def cached(stage: Stage) -> Any:
    computed = nap.with_options(cache_policy=INPUTS)

    @flow
    async def works() -> list[Any]:
        futures = [computed.submit(1, 7) for _ in range(3)]
        return [await computed(1, 7), *[await future for future in futures]]

    return await works()


@task(cache_policy=INPUTS)
async def shared(number: int) -> int:
    return await nap(1, number)


async def also_needs_it() -> None:
    assert [await shared(1), await shared(2)] == [1, 2]


@scenario(ends=ENDS | {"Cached"}, beside=also_needs_it)
async def single_flight(stage: Stage) -> Any:
    """One of two that need the same results is cancelled; the other gets them, whoever computes."""

    @flow
    async def works() -> list[int]:
        return await shared.map([1, 2, 1])

    return await works()


@scenario()
async def memory(stage: Stage) -> Any:
    class Big:
        pass

    @task
    async def holds(big: Big) -> Big:
        await anyio.sleep(1)
        result = Big()
        stage.mortals.extend([weakref.ref(big), weakref.ref(result)])
        return result

    @flow
    async def works(big: Big) -> None:
        await holds(await holds.submit(holds.submit(big)))

    await works(Big())


@scenario()
async def durable(stage: Stage) -> Any:
    left = [Broken("once")]

    @task(retries=1, retry_delay_seconds=1)
    async def flaky(number: int) -> int:
        await nap()
        if left:
            raise left.pop()
        return number

    @flow(durable=True)
    async def works() -> list[int]:
        future = flaky.submit(1)
        await sleep(2)
        return [await flaky(2), await future]

    return await works()


# --- threads -----------------------------------------------------------------------------------------------------


@scenario(ends=ENDS | {"Cached", "RolledBack"})
async def threads(stage: Stage) -> Any:
    @task
    def plain(number: int) -> int:
        with body():
            return number + 1

    computed = plain.with_options(cache_policy=INPUTS, limits=["line"])

    @flow
    def in_thread() -> int:
        with concurrency("pair"), transaction():
            return plain(1) + computed(2) + plain.submit(3).result() + sum(plain.stream([4]))

    @flow
    async def works() -> list[Any]:
        futures = computed.map([1, 2, 1])
        future = in_thread.submit()
        return [plain(0), await future, await futures]

    return await works()


# --- engines -----------------------------------------------------------------------------------------------------


@scenario()
async def an_engine(stage: Stage) -> Any:
    async with stage.engine(), stage.engine() as engine:
        with engine.active():
            future = nap.submit(1, 3)
            return [await flow(nap.fn)(1, 4), await future]


@scenario(ends=ENDS | {"Interrupted"}, cancels_itself=True)
async def background(stage: Stage) -> Any:
    """Runs that end by themselves in the engine's period of grace, and one that does not."""

    @flow
    async def works(seconds: float) -> int:
        nap.submit(seconds)
        return await nap(seconds, 3)

    async with stage.engine(grace_seconds=5) as engine:
        futures = [engine.start(works, seconds) for seconds in (1, 2, 3, 50)]
        named = [engine.start(nap, 1, 2, run_id="one", on_conflict="attach") for _ in range(2)]
        result = await futures[0], await named[1]
    return result


@pytest.mark.parametrize(("backend", "way"), CASES)
@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_left(name: str, backend: str, way: str) -> None:
    """Wherever a scenario is cancelled, and however, it leaves nothing behind, its runs say what happened, and the engine goes on."""
    play, options = SCENARIOS[name]
    assert explore(Stage(backend, play, **options), way) > 2


# --- on disk -----------------------------------------------------------------------------------------------------


@task
async def step(number: int) -> int:
    return number


@flow(durable=True)
async def steps() -> list[int]:
    future = step.submit(1)
    return [await step(2), await future]


async def on_disk(stage: Stage) -> Any:
    return await steps(), await step.with_options(cache_policy=RUN_ID)(3)


trouble: list[Broken] = []


@flow(durable=True)
async def troubled() -> list[int]:
    future = step.submit(1)
    if trouble:
        raise trouble.pop()
    return [await step(2), await future]


async def resumed_on_disk(stage: Stage) -> Any:
    """A run that failed goes on, or is cancelled and goes on later, but never stays in between."""
    trouble[:] = [Broken("once")]
    with pytest.raises(Broken):
        await troubled()
    (run_id,) = (run.id for run in stage.runs.values() if run.kind == "flow")
    return await stage.engines[0].resume(run_id)


numbers = count()


async def engine_on_disk(stage: Stage) -> Any:
    """An engine of its own on a file of its own, in which nothing is unfinished when it is opened the next time."""
    path = f"{stage.path}.again"
    assert unfinished(path) == []
    async with stage.engine(journal=path, recover=True, max_recoveries=1) as engine:
        named = engine.start(steps, run_id=f"run-{next(numbers)}")
        future = engine.start(steps)
        return [await steps(), await future, await named]


@pytest.mark.real_time
@pytest.mark.parametrize(("backend", "way"), CASES)
@pytest.mark.parametrize(("play", "stride"), [(on_disk, 1), (resumed_on_disk, 1), (engine_on_disk, 2)])
def test_nothing_is_left_on_disk(tmp_path: Path, play: Any, stride: int, backend: str, way: str) -> None:
    """A durable flow on a real journal, cancelled anywhere, leaves it without an unfinished run, an open transaction or an unanswered question."""
    ends = ENDS | {"Cached", "Interrupted", "Failed"}
    stage = Stage(backend, play, path=str(tmp_path / "app.db"), ends=ends, stride=stride)
    assert explore(stage, way) > 2


# --- in other processes ------------------------------------------------------------------------------------------

WORKERS = ProcessRunner(1)


@task(runner=WORKERS)
def far(number: int) -> int:
    return number


async def processes(stage: Stage) -> Any:
    @flow
    async def works() -> list[int]:
        return await far.map([1, 2])

    result = await works()
    assert WORKERS.places.active("processes") == 0
    return result


@pytest.mark.real_time
@pytest.mark.parametrize(("backend", "way"), [("asyncio", "scope"), ("asyncio", "task"), ("trio", "scope")])
def test_no_place_is_left_taken(backend: str, way: str) -> None:
    """Tasks in worker processes, cancelled now and then, give up their places, and the next find a worker."""
    stage = Stage(backend, processes, path=":memory:", stride=6, keeps=frozenset({"descriptors", "threads"}))
    assert explore(stage, way) > 2
