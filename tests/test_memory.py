"""What is let go of, and when: with the garbage collector switched off, so that nothing may wait for it."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from undertow import INPUTS, Engine, Part, flow, quote, register_type, task, transaction, wait_async
from undertow.engine.ports import Record
from undertow.storage import backlog

PAGE = os.sysconf("SC_PAGE_SIZE")


class Blob:
    """A value that can be watched being let go of."""

    made: weakref.WeakSet[Blob] = weakref.WeakSet()

    def __init__(self) -> None:
        self.made.add(self)


def alive() -> int:
    """How many blobs there are."""
    return len(Blob.made)


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """No garbage collection during the test."""
    gc.collect()
    gc.disable()
    Blob.made.clear()
    yield
    gc.enable()


@pytest.fixture
def runs(journal: Any) -> Any:
    """The runs that are still held by something other than the journal."""
    journal.runs = weakref.WeakValueDictionary()
    return journal.runs


@task
async def make(_: Any = None) -> Blob:
    return Blob()


@task
def make_in_thread(_: Any = None) -> Blob:
    return Blob()


@task
async def use(blob: Any) -> None:
    await checkpoint()


async def in_a_flow(body: Callable[[], Awaitable[Any]]) -> Any:
    """What an async function gives when it is the body of a flow that is judged by what it returns."""
    return await flow(final_state="return")(body)()


# --- resident memory ---------------------------------------------------------------------------------------------


def resident() -> int:
    """Bytes of memory that the process occupies."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@pytest.mark.real_time
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_hundred_thousand_calls(anyio_backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 000 awaited calls in one flow, each returning 1 kB and journaled on disk, take less than 5 MB."""
    monkeypatch.setattr(backlog, "MAX_RUNS", 1000)  # on a busy machine more of them would wait to be written

    @task
    async def kilobyte(number: int) -> bytes:
        return bytes(1024)

    @flow
    async def outer() -> int:
        for number in range(10_000):
            await kilobyte(number)
        before = resident()
        for number in range(90_000):
            await kilobyte(number)
        return resident() - before

    async with Engine(tmp_path / "journal.db"):
        assert await outer() < 5_000_000


# --- values ------------------------------------------------------------------------------------------------------


async def test_an_awaited_value_belongs_to_its_caller(engine: Engine, runs: Any) -> None:
    """The value of a call is held by its caller alone: let go of, it is gone."""

    async def body() -> None:
        for _ in range(100):
            value = await make()
            assert alive() == 1
            del value
            assert alive() == 0

    await in_a_flow(body)


async def test_a_value_goes_with_its_future(engine: Engine, runs: Any) -> None:
    """A future that is held keeps its value and is all that does: futures dropped in order free their values in order."""

    async def body() -> None:
        futures = list(make.map(range(50)))
        await wait_async(futures)
        while futures:
            assert alive() == len(futures)
            future = futures.pop(0)
            assert isinstance(await future, Blob)
            del future
        assert alive() == 0

    await in_a_flow(body)


async def test_values_nobody_wants_are_not_kept(engine: Engine, runs: Any) -> None:
    """Of a submitted run whose future was dropped nothing is left when it has ended, neither value nor run."""

    async def body() -> None:
        for _ in range(100):
            make.submit()
        await anyio.sleep(1)
        assert alive() == 0
        assert len(runs) == 1

    await in_a_flow(body)


async def test_a_chain_holds_one_link(engine: Engine, runs: Any) -> None:
    """In a chain of dependent runs a value goes as soon as the run that needed it has ended."""
    most = 0

    @task
    async def link(previous: Blob) -> Blob:
        nonlocal most
        await anyio.sleep(1)
        most = max(most, alive())
        return Blob()

    async def body() -> None:
        future = make.submit()
        for _ in range(30):
            future = link.submit(future)
        await future
        assert alive() == 1
        del future
        assert alive() == 0

    await in_a_flow(body)
    assert most <= 2


async def test_a_value_given_to_many(engine: Engine, runs: Any) -> None:
    """A value that several runs depend on goes when its future is dropped and the last of them has ended."""

    async def body() -> None:
        future = make.submit()
        users = [use.submit([{"deep": future}]) for _ in range(5)]
        del future
        await wait_async(users)
        assert alive() == 0

    await in_a_flow(body)


@pytest.mark.real_time
async def test_values_from_threads(engine: Engine, runs: Any) -> None:
    """No thread keeps the value of a body that it ran, nor its arguments."""

    @task
    def swap(blob: Blob) -> Blob:
        return Blob()

    async def body() -> None:
        value: Any = await make_in_thread.submit()
        for _ in range(5):
            value = await swap.submit(quote(value))
        assert alive() == 1
        del value
        assert alive() == 0

    await in_a_flow(body)


# --- arguments ---------------------------------------------------------------------------------------------------


class Broken(Exception):
    """What the failing tasks of these tests raise."""


async def endless(blob: Blob) -> None:
    await anyio.sleep_forever()


async def breaks(blob: Blob) -> None:
    copy = [blob]
    await checkpoint()
    raise Broken(len(copy))


def breaks_inline(blob: Blob) -> None:
    copy = [blob]
    raise Broken(len(copy))


async def fine(blob: Blob) -> None:
    await checkpoint()


async def breaks_in_helper(blob: Blob) -> None:
    await breaks(blob)


async def breaks_deeper(blob: Blob) -> None:
    try:
        await breaks(blob)
    except Broken as error:
        raise ValueError("with a cause") from error


BODIES = [
    task(fine),
    task(breaks),
    task(breaks_inline),
    task(breaks_in_helper),
    task(breaks_deeper),
    task(retries=2)(breaks),
    task(retries=1, retry_delay_seconds=0.01)(breaks),
    task(timeout_seconds=0.02)(endless),
    flow(fine),
    flow(breaks),
    flow(breaks_deeper),
    flow(timeout_seconds=0.02)(endless),
]


@pytest.mark.real_time
@pytest.mark.parametrize("definition", BODIES)
async def test_arguments_go_with_the_last_attempt(engine: Engine, runs: Any, definition: Any) -> None:
    """When a run has ended, in whatever way, its arguments are let go of, while its future and its state are kept."""

    async def body() -> None:
        future = definition.submit(quote(Blob()))
        state = await future.wait_async()
        assert state.is_final()
        assert alive() == 0, state
        blob = Blob()
        state = definition(blob, return_state=True)
        state = state if definition.fn is breaks_inline else await state
        assert state.is_final()
        del blob
        await checkpoint()  # until then the loop itself holds the exception that it last threw into this task
        assert alive() == 0, state

    await in_a_flow(body)


async def test_arguments_of_the_cancelled(engine: Engine, runs: Any) -> None:
    """A run that was cancelled, before its start or while it ran or slept before a retry, has let go of everything."""
    late = task(retries=1, retry_delay_seconds=50)(breaks)

    async def body() -> None:
        futures = [
            task(endless).submit(Blob()),
            late.submit(Blob()),
            use.submit(make.submit(), wait_for=[make.submit()]),
        ]
        await anyio.sleep(1)
        futures.append(use.submit(Blob()))
        for future in futures:
            future.cancel()
        await wait_async(futures)
        assert [future.state.name for future in futures] == ["Cancelled", "Cancelled", "Completed", "Cancelled"]
        await checkpoint()
        assert alive() == 0

    await in_a_flow(body)


async def test_an_exception_passed_on(engine: Engine, runs: Any) -> None:
    """An exception that is caught and kept keeps none of what the run's frames held."""

    async def body() -> None:
        try:
            await task(breaks)(Blob())
        except Broken as error:
            kept = error
        assert alive() == 0
        assert kept.args == (1,)

    await in_a_flow(body)


# --- flows and runs ----------------------------------------------------------------------------------------------


async def test_a_subflow_that_returns_nothing_holds_numbers(engine: Engine, runs: Any) -> None:
    """A flow without a return value holds none of its children's values, states or runs, while it runs and after."""

    @flow
    async def inner() -> None:
        for _ in range(100):
            await make()
            make.submit()
            assert alive() == 0
        await anyio.sleep(1)
        assert alive() == 0
        assert len(runs) == 2

    async def body() -> None:
        future = inner.submit()
        await future
        assert alive() == 0
        assert future.run.tally is not None
        assert future.run.tally.completed == 200

    await in_a_flow(body)


async def test_no_run_waits_for_the_collector(engine: Engine, runs: Any) -> None:
    """Runs, futures and values go by reference counting alone: when a flow has returned nothing of it is left."""

    @task(retries=1, tags=["tag"])
    async def parent(blob: Blob) -> Blob:
        child = make.submit(blob)
        return await child

    @flow
    async def inner(blob: Blob) -> Blob:
        return await parent(blob)

    @flow
    async def outer() -> None:
        await inner(await parent.submit(make.submit()))
        assert len(await make.map([1, 2, 3])) == 3
        assert len([1 async for _ in make.stream(range(10), max_in_flight=3)]) == 10
        make_in_line = task(lambda: Blob())
        make_in_line()

    await outer()
    assert alive() == 0
    assert list(runs) == []


@pytest.mark.real_time
def test_no_run_of_a_script_waits_for_the_collector(sync_engine: Engine, runs: Any) -> None:
    """In a script too, nothing of a `def` flow is left when it has returned but the value that its caller holds."""

    @flow
    def outer() -> Any:
        value = make()
        value = make_in_thread.submit(value).result()
        return make_in_thread(make.map([value]).result()[0])

    value = outer()
    assert alive() == 1
    del value
    assert alive() == 0
    assert list(runs) == []


# --- generators --------------------------------------------------------------------------------------------------


@task
async def stream_of(make: Callable[[], Any], number: int) -> Any:
    for _ in range(number):
        yield make()


@task
def stream_of_here(make: Callable[[], Any], number: int) -> Any:
    for _ in range(number):
        yield make()


@pytest.mark.real_time
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_million_items(anyio_backend: str, engine: Engine) -> None:
    """A generator task that yields 1 000 000 items of 1 kB, async or sync, is flat."""

    def kilobyte() -> bytes:
        return bytes(1024)

    before, most, number = resident(), 0, 0
    async for _ in stream_of(kilobyte, 1_000_000):
        number += 1
        if number % 100_000 == 0:
            most = max(most, resident() - before)
    for _ in stream_of_here(kilobyte, 1_000_000):
        number += 1
        if number % 100_000 == 0:
            most = max(most, resident() - before)
    assert number == 2_000_000
    assert most < 5_000_000


def consume_here() -> None:
    for _ in stream_of_here(Blob, 100):
        assert alive() <= 2


async def test_items_go_one_after_another(engine: Engine, runs: Any) -> None:
    """Of the items of a generator task only the last one is held, until the next; a generator that ended holds none."""

    async def consume() -> None:
        async for _ in stream_of(Blob, 100):
            assert alive() <= 2

    async def body() -> None:
        await consume()
        consume_here()
        assert alive() == 0
        unfinished = stream_of(Blob, 100)
        await anext(unfinished)
        await unfinished.aclose()
        unfinished_here = stream_of_here(Blob, 100)
        next(unfinished_here)
        unfinished_here.close()
        del unfinished, unfinished_here
        assert alive() == 0
        assert len(runs) == 1

    await in_a_flow(body)


@pytest.mark.real_time
def test_items_in_a_script(sync_engine: Engine, runs: Any) -> None:
    """In a script too only the last item of a generator task is held, and the run goes with the generator."""
    consume_here()
    assert alive() == 0
    assert list(runs) == []


# --- what is recorded --------------------------------------------------------------------------------------------


@pytest.fixture
def writable_blobs() -> None:
    """Blobs can be written to a journal; each time one is read it is a new one."""
    register_type(Blob, "Blob", lambda blob: "blob", lambda plain: Blob())


def undo(part: Part) -> None:
    """A hook that looks at what it is given."""
    assert isinstance(part.result, Blob)


@pytest.mark.parametrize("ending", ["commit", "rollback", "cancellation"])
async def test_nothing_is_left_of_a_transaction(engine: Engine, runs: Any, ending: str) -> None:
    """A block holds the results that its hooks are to be given until it has ended, and then nothing."""
    write = task(on_commit=undo, on_rollback=undo)(make.fn)
    blocks: weakref.WeakSet[Any] = weakref.WeakSet()

    async def body() -> None:
        async with transaction() as outer:
            blocks.add(outer)
            outer.set("blob", Blob())
            await write()
            write.submit()
            async with transaction() as inner:
                blocks.add(inner)
                await make()
                await write()
            del outer, inner
            await anyio.sleep(1)
            assert alive() == 4
            if ending == "cancellation":
                await anyio.sleep_forever()
            if ending == "rollback":
                raise Broken(0)

    with anyio.move_on_after(10):
        try:
            await in_a_flow(body)
        except Broken:
            assert ending == "rollback"
    await checkpoint()  # until then the loop itself holds the exception that it last threw into this task
    assert alive() == 0
    assert list(blocks) == []
    assert [run.name for run in runs.values() if run.kind == "task"] == []


async def test_nothing_is_left_of_a_durable_run(engine: Engine, runs: Any, writable_blobs: None) -> None:
    """A durable flow, retried and with its steps handed back, leaves nothing behind that waits for the collector."""
    attempts = 0

    @flow(durable=True, retries=1)
    async def outer() -> Blob:
        nonlocal attempts
        attempts += 1
        async with transaction():
            await use(await make())
            await make.submit(Blob())
        values = await make.map([1, 2, 3])
        if attempts == 1:
            raise Broken(len(values))
        return values[0]

    value = await outer()
    assert alive() == 1
    del value
    assert alive() == 0
    assert list(runs) == []


async def test_nothing_is_left_of_cached_runs(engine: Engine, runs: Any, writable_blobs: None) -> None:
    """Runs that wait for a cached result, and runs with a chosen id, are let go of as any others."""
    cached = task(cache_policy=INPUTS)(make.fn)

    async def body() -> None:
        futures = cached.map([1] * 5)
        await futures
        assert [future.state.name for future in futures].count("Cached") == 4
        del futures
        assert await engine.start(make, run_id="chosen")
        assert alive() == 0
        assert len(engine.core.background) == 0
        assert len(runs) == 1

    await in_a_flow(body)


@pytest.mark.real_time
async def test_an_answer_belongs_to_who_asked(tmp_path: Path) -> None:
    """The journal keeps no answer once it was given, and nothing that was written."""
    async with Engine(tmp_path / "app.db") as engine:
        record = Record(b"value", "msgpack", "run", 0)
        kept = weakref.ref(record)
        engine.journal.keep("cache:key", record)
        await engine.journal.commit()
        del record
        loaded = await engine.journal.load("cache:key")
        assert loaded is not None
        given = weakref.ref(loaded)
        del loaded
        await engine.journal.load("cache:nothing")
        assert (kept(), given()) == (None, None)
