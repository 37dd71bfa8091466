"""Events: the story of a run and of all that runs inside it, told live to whoever listens."""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest

from undertow import Engine, Event, Events, Future, RunIdConflict, RunNotHere, flow, task
from undertow.engine.events import MAX_WAITING

MakeEngine = Callable[..., Engine]


@task(retries=1, retry_delay_seconds=30)
async def part(gate: anyio.Event, fails: bool = False) -> int:
    await gate.wait()
    if fails:
        raise ConnectionError("the line was busy")
    return 1


@task
async def quick(n: int) -> int:
    return n


@flow
async def inner(gate: anyio.Event) -> int:
    return await part(gate)


@flow
async def whole(gate: anyio.Event, fails: bool = False) -> int:
    return await part.submit(gate, fails)


@flow
async def nested(gate: anyio.Event) -> int:
    return await inner(gate)


@flow
async def many(begin: anyio.Event, number: int) -> int:
    await begin.wait()
    return sum([await quick(n) for n in range(number)])


async def told(events: Events) -> list[tuple[str, str]]:
    return [(event.function, event.name) async for event in events]


@pytest.fixture
def gate() -> anyio.Event:
    return anyio.Event()


# --- what is told ----------------------------------------------------------------------------------------------


async def test_from_the_beginning_to_the_end(engine: Engine, gate: anyio.Event) -> None:
    """A run's events are its own states and those of what runs inside it, in order, and they end when it has ended."""
    run = engine.start(whole, gate, fails=True)
    events = run.events()
    gate.set()
    assert await told(events) == [
        ("whole", "Pending"),
        ("whole", "Running"),
        ("part", "Running"),
        ("part", "AwaitingRetry"),
        ("part", "Retrying"),
        ("part", "Failed"),
        ("whole", "Failed"),
    ]
    assert run.done
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_what_was_before_comes_first(engine: Engine, gate: anyio.Event) -> None:
    """Who comes later is told what the run itself went through so far; of a run that has ended, its whole story."""
    run = engine.start(whole, gate)
    await anyio.wait_all_tasks_blocked()
    late = run.events()
    gate.set()
    assert await run == 1
    assert await told(late) == [
        ("whole", "Pending"),
        ("whole", "Running"),
        ("part", "Completed"),
        ("whole", "Completed"),
    ]
    assert await told(run.events()) == [("whole", "Pending"), ("whole", "Running"), ("whole", "Completed")]


async def test_an_event_says_what_has_happened(engine: Engine, gate: anyio.Event) -> None:
    """An event names run, function and caller, and turns into one line of JSON that says the same."""
    run = engine.start(whole, gate, fails=True)
    gate.set()
    events = [event async for event in run.events()]
    ended = next(event for event in events if event.name == "AwaitingRetry")
    assert (ended.kind, ended.function, ended.type, ended.missed) == ("task", "part", "SCHEDULED", 0)
    assert ended.run_name.startswith("part-")
    assert ended.parent_run_id == run.run_id == events[0].run_id
    assert events[0].parent_run_id is None
    assert events[0].timestamp == datetime(2026, 1, 1, tzinfo=UTC)
    line = next(event for event in events if event.name == "Failed").to_json()
    assert "\n" not in line
    said = json.loads(line)
    assert (said["type"], said["message"]) == ("FAILED", "Task run raised ConnectionError: the line was busy")
    assert datetime.fromisoformat(said["timestamp"]) == datetime(
        2026, 1, 1, 0, 0, 30, 1, tzinfo=UTC
    )  # two states of a run differ in it


async def test_runs_elsewhere_are_not_told(engine: Engine, gate: anyio.Event) -> None:
    """Events are those of the run listened to, at any depth, and of no other run."""
    one, other = engine.start(nested, gate), engine.start(whole, gate)
    listening = one.events()
    gate.set()
    assert await other == 1
    assert {function for function, _ in await told(listening)} == {"nested", "inner", "part"}


async def test_the_last_event_comes_with_the_result(engine: Engine, journal: Any, gate: anyio.Event) -> None:
    """When the final state is told, the run's records are on disk and its result is there."""
    gate.set()
    run = engine.start(whole, gate)
    async for event in run.events():
        assert run.done == (event.name == "Completed" and event.function == "whole")
        assert journal.commits == run.done
    assert run.state.result() == 1


@pytest.mark.parametrize("reason", ["no longer wanted"])
async def test_a_cancelled_run(engine: Engine, gate: anyio.Event, reason: str) -> None:
    """The events of a run that is cancelled end with that."""
    run = engine.start(nested, gate)
    await anyio.wait_all_tasks_blocked()
    events = run.events()
    run.cancel(reason)
    assert await told(events) == [
        ("nested", "Pending"),
        ("nested", "Running"),
        ("part", "Cancelled"),
        ("inner", "Cancelled"),
        ("nested", "Cancelled"),
    ]


async def test_a_run_that_may_not_begin(engine: Engine, gate: anyio.Event) -> None:
    """The events of a future whose run is refused, because its id is taken, end with that failure."""
    first = engine.start(quick, 1, run_id="mine")
    assert await first == 1
    del first
    gc.collect()
    run = engine.start(quick, 2, run_id="mine")
    assert await told(run.events()) == [("quick", "Pending"), ("quick", "Failed")]
    with pytest.raises(RunIdConflict):
        await run


# --- by id -----------------------------------------------------------------------------------------------------


async def test_events_by_id(engine: Engine, gate: anyio.Event) -> None:
    """`engine.events(run_id)` listens to a background run, or to any flow run whose body runs, without its future."""
    run_id = engine.start(nested, gate).run_id
    await anyio.wait_all_tasks_blocked()
    outer = engine.events(run_id)
    called = next(run.id for run in engine.core.flows.values() if run.definition.name == "inner")
    within = engine.events(called)
    gate.set()
    assert (await told(outer))[-1] == ("nested", "Completed")
    assert await told(within) == [
        ("inner", "Pending"),
        ("inner", "Running"),
        ("part", "Completed"),
        ("inner", "Completed"),
    ]


async def test_events_of_no_run(engine: Engine) -> None:
    """Events of a run that does not go on in this process are refused, with the id and where else to look."""
    for run_id in ("0198-nothing", engine.start(quick, 1).run_id):
        await anyio.wait_all_tasks_blocked()
        gc.collect()
        with pytest.raises(RunNotHere, match=f"{run_id}.*journal"):
            engine.events(run_id)


# --- who listens -----------------------------------------------------------------------------------------------


async def test_nobody_listens(engine: Engine, gate: anyio.Event) -> None:
    """An engine watches for events only while somebody listens: not before, and not after the last has gone."""
    run = engine.start(whole, gate)
    assert engine.core.observers == []
    closed, dropped, ended = run.events(), run.events(), run.events()
    assert len(engine.core.observers) == 1
    assert (await anext(closed)).name == "Pending"
    await closed.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(closed)
    del dropped
    gate.set()
    assert len(await told(ended)) == 5
    assert engine.core.observers == []
    await told(run.events())
    assert engine.core.observers == []


async def test_dropped_listeners_leave_nothing(engine: Engine, gate: anyio.Event) -> None:
    """Listeners that come and go, closed or not, leave nothing behind on a run that goes on."""
    run = engine.start(whole, gate)
    before = len(run._callbacks or ())
    for _ in range(100):
        assert (await anext(run.events())).name == "Pending"
        await run.events().aclose()
    for _ in range(100):
        assert (await anext(run.events())).name == "Pending"
    gc.collect()
    last = run.events()
    [feed] = engine.core.observers
    assert len(feed.listeners[run.run]) == 1  # type: ignore[attr-defined]
    assert len(run._callbacks or ()) == before + 1
    del last
    gc.collect()
    gate.set()
    await run
    assert engine.core.observers == []


async def test_several_listeners(engine: Engine, gate: anyio.Event) -> None:
    """Each listener is told everything, at its own pace."""
    run = engine.start(whole, gate)
    stories: list[list[tuple[str, str]]] = []

    async def listen(events: Events) -> None:
        stories.append(await told(events))

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(listen, run.events())
        await anyio.wait_all_tasks_blocked()
        gate.set()
    assert [len(story) for story in stories] == [5, 5, 5]
    assert stories[0] == stories[1] == stories[2]


async def test_a_cancelled_wait_loses_nothing(engine: Engine, gate: anyio.Event) -> None:
    """A wait for the next event may be given up and begun again; no event is lost or told twice."""
    run = engine.start(whole, gate)
    events = run.events()
    story: list[Event] = []
    while len(story) < 5:
        with anyio.move_on_after(1):
            story.append(await anext(events))
            continue
        gate.set()
    assert [event.name for event in story] == ["Pending", "Running", "Running", "Completed", "Completed"]


async def test_a_slow_listener(engine: Engine, gate: anyio.Event) -> None:
    """For who doesn't keep up, the oldest events of inner runs are dropped and counted, those of the run itself never."""
    run = engine.start(many, gate, MAX_WAITING)
    events = run.events()
    gate.set()
    await run
    story = [event async for event in events]
    assert [event.name for event in story if event.function == "many"] == ["Pending", "Running", "Completed"]
    assert len(story) == MAX_WAITING + 3
    assert [event.missed for event in story if event.missed] == [MAX_WAITING]
    assert (story[2].missed, story[2].function) == (MAX_WAITING, "quick")


# --- from elsewhere --------------------------------------------------------------------------------------------


@pytest.mark.real_time
def test_from_another_thread_and_loop(sync_engine: Engine, anyio_backend_name: str) -> None:
    """Events of a run in one loop can be listened to in another, of either backend, in another thread."""
    heard, stories = threading.Event(), []

    @task
    def triple(n: int) -> int:
        return 3 * n

    @flow
    def outer() -> int:
        assert heard.wait(20)
        return triple(1)

    async def listen(run: Future[int]) -> list[tuple[str, str]]:
        story = []
        async for event in run.events():
            story.append((event.function, event.name))
            heard.set()
        return story

    run = sync_engine.start(outer)
    listening = threading.Thread(target=lambda: stories.append(anyio.run(listen, run, backend=anyio_backend_name)))
    listening.start()
    assert run.result(20) == 3
    listening.join(20)
    assert stories == [
        [
            ("outer", "Pending"),
            ("outer", "Running"),
            ("triple", "Running"),
            ("triple", "Completed"),
            ("outer", "Completed"),
        ]
    ]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)
