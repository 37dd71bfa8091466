"""Hooks: what is called when a run enters a state, with what, and what it can and can't do to the run."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from undertow import (
    Cancelled,
    Completed,
    Crashed,
    Engine,
    Failed,
    InvalidOption,
    RunView,
    Skip,
    State,
    flow,
    task,
)

if TYPE_CHECKING:
    from conftest import ListJournal

HOOKS = ["on_running", "on_completion", "on_failure", "on_cancellation", "on_crashed"]


class Stop(BaseException):
    """What is no `Exception`, as KeyboardInterrupt is."""


class Calls:
    """Hooks that note how they were called, one for each option."""

    def __init__(self, is_async: bool) -> None:
        self.noted: list[tuple[str, Any, RunView, State[Any]]] = []
        self.options = {option: self._async(option) if is_async else self._sync(option) for option in HOOKS}

    def _sync(self, option: str) -> Callable[..., None]:
        return lambda *given: self.noted.append((option, *given))

    def _async(self, option: str) -> Callable[..., Any]:
        async def hook(*given: Any) -> None:
            await anyio.sleep(1)
            self.noted.append((option, *given))

        return hook

    @property
    def names(self) -> list[str]:
        return [option for option, *_ in self.noted]


async def completes() -> str:
    return "value"


async def fails() -> None:
    raise ValueError("by design")


async def times_out() -> None:
    await anyio.sleep(1000)


async def crashes() -> None:
    raise Stop("now")


async def is_cancelled() -> None:
    await anyio.sleep_forever()


async def skips() -> None:
    raise Skip("no news")


ENDS: list[tuple[Callable[[], Any], list[str], str]] = [
    (completes, ["on_completion"], "Completed"),
    (fails, ["on_failure"], "Failed"),
    (times_out, ["on_failure"], "TimedOut"),
    (crashes, ["on_crashed"], "Crashed"),
    (is_cancelled, ["on_cancellation"], "Cancelled"),
    (skips, [], "Skipped"),
]


async def run_to_the_end(definition: Any) -> None:
    """Await a run, however it ends; after half a minute it is cancelled."""
    with anyio.move_on_after(30):
        try:
            await definition(return_state=True)
        except Stop:
            return


@pytest.mark.parametrize(("body", "hooks", "name"), ENDS, ids=lambda value: getattr(value, "__name__", None))
@pytest.mark.parametrize("decorator", [task, flow])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync hooks", "async hooks"])
async def test_every_end(
    engine: Engine, decorator: Any, is_async: bool, body: Callable[[], Any], hooks: list[str], name: str
) -> None:
    """Tasks and flows call, for each state they enter, the hooks for it and no others, sync and async."""
    calls = Calls(is_async)
    definition = decorator(timeout_seconds=20 if body is times_out else None, **calls.options)(body)
    await run_to_the_end(definition)
    assert calls.names == ["on_running", *hooks]
    for _, given, run, _ in calls.noted:
        assert given is definition
        assert run.function == body.__name__
        assert run.kind == definition.kind
    assert [state.name for *_, state in calls.noted] == ["Running", name][: len(calls.noted)]
    assert [run.state.name for _, _, run, _ in calls.noted] == ["Running", name][: len(calls.noted)]


async def test_what_a_hook_is_told(engine: Engine, journal: ListJournal) -> None:
    """A finishing hook's state carries the result or the exception."""
    calls = Calls(is_async=False)
    await task(**calls.options)(completes)()
    with pytest.raises(ValueError, match="by design"):
        await task(**calls.options)(fails)()
    (_, _, run, completed), (_, _, _, failed) = calls.noted[1], calls.noted[3]
    assert completed.result() == "value"
    assert isinstance(failed.data, ValueError)
    assert completed.run_id == run.id == journal.of("completes")[0].id


async def test_hooks_run_in_order(engine: Engine) -> None:
    """Several hooks of one state are called one after another, in the order they were given."""
    order: list[str] = []

    async def slow(*_: object) -> None:
        await anyio.sleep(1)
        order.append("slow")

    await task(on_completion=[slow, lambda *_: order.append("quick")])(completes)()
    assert order == ["slow", "quick"]


@pytest.mark.parametrize("decorator", [task, flow])
async def test_each_attempt_is_told(engine: Engine, decorator: Any) -> None:
    """`on_running` is called for each attempt, and finishing hooks once, after the last one."""
    calls = Calls(is_async=False)
    await decorator(retries=2, retry_delay_seconds=1, **calls.options)(fails)(return_state=True)
    assert calls.names == ["on_running"] * 3 + ["on_failure"]
    assert [run.run_count for _, _, run, _ in calls.noted] == [1, 2, 3, 3]
    assert [state.name for *_, state in calls.noted] == ["Running", "Retrying", "Retrying", "Failed"]


@pytest.mark.parametrize(
    ("made", "hook"),
    [
        (Completed("x"), "on_completion"),
        (Failed("x"), "on_failure"),
        (Crashed("x"), "on_crashed"),
        (Cancelled("x"), "on_cancellation"),
    ],
)
@pytest.mark.parametrize("decorator", [task, flow])
async def test_states_by_hand(engine: Engine, decorator: Any, made: State[Any], hook: str) -> None:
    """A state that the body returns calls the same hooks as one that the engine reached."""
    calls = Calls(is_async=True)

    async def body() -> State[Any]:
        return made

    await decorator(**calls.options)(body)(return_state=True)
    assert calls.names == ["on_running", hook]


async def test_hooks_of_what_never_began(engine: Engine) -> None:
    """A run that is cancelled before its body began calls its cancellation hooks alone."""
    calls = Calls(is_async=True)
    up = task(is_cancelled).submit()
    waiting = task(**calls.options)(lambda x: x).submit(up)
    await anyio.sleep(1)
    waiting.cancel()
    await waiting.wait_async()
    up.cancel()
    assert calls.names == ["on_cancellation"]


async def test_hooks_of_a_failed_validation(engine: Engine) -> None:
    """A flow whose parameters don't validate calls its failure hooks."""
    calls = Calls(is_async=False)

    @flow(**calls.options)
    async def strict(n: int) -> None:
        raise AssertionError("this body must not run")

    await strict("three", return_state=True)
    assert calls.names == ["on_failure"]


# --- a hook can't harm the run -----------------------------------------------------------------------------------


@pytest.mark.parametrize("option", HOOKS)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("decorator", [task, flow])
async def test_a_raising_hook(
    engine: Engine,
    journal: ListJournal,
    caplog: pytest.LogCaptureFixture,
    decorator: Any,
    is_async: bool,
    option: str,
) -> None:
    """A hook that raises is logged with its traceback, and changes neither the run nor the hooks after it."""
    body = dict(zip(HOOKS, [completes, completes, fails, is_cancelled, crashes], strict=True))[option]
    after: list[str] = []

    def broken(*_: object) -> None:
        raise RuntimeError("the hook is broken")

    async def broken_later(*_: object) -> None:
        await anyio.sleep(1)
        raise RuntimeError("the hook is broken")

    hooks = [broken_later if is_async else broken, lambda *_: after.append("called")]
    await run_to_the_end(decorator(**{option: hooks})(body))
    assert (
        journal.of(body.__name__)[0].type
        == {
            "completes": "COMPLETED",
            "fails": "FAILED",
            "is_cancelled": "CANCELLED",
            "crashes": "CRASHED",
        }[body.__name__]
    )
    assert after == ["called"]
    assert "the hook is broken" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("decorator", [task, flow])
@pytest.mark.parametrize("form", ["awaited", "submitted"])
async def test_hooks_are_shielded(engine: Engine, decorator: Any, form: str) -> None:
    """A cancelled run's hooks run to their end, awaits included, before the cancellation goes on."""
    story: list[str] = []

    async def note(*_: object) -> None:
        story.append("hook begins")
        await anyio.sleep(3)
        story.append("hook ends")

    @decorator(on_cancellation=note)
    async def body() -> None:
        await anyio.sleep_forever()

    begun = anyio.current_time()
    with anyio.move_on_after(5):
        await (body() if form == "awaited" else run_submitted(body))
    story.append("caller goes on")
    assert story == ["hook begins", "hook ends", "caller goes on"]
    assert anyio.current_time() - begun == 8


async def run_submitted(definition: Any) -> None:
    """A flow that submits something and waits for it."""

    @flow
    async def outer() -> None:
        await definition.submit()

    await outer()


async def test_completion_hooks_are_shielded(engine: Engine, journal: ListJournal) -> None:
    """A cancellation that comes during a completion hook ends neither the hook nor the run's success."""
    story: list[str] = []

    async def note(*_: object) -> None:
        await anyio.sleep(3)
        story.append("hook ends")

    with anyio.move_on_after(1):
        await task(on_completion=note)(completes)()
    assert story == ["hook ends"]
    assert journal.story("completes") == ["Pending", "Running", "Completed"]


@pytest.mark.parametrize("option", HOOKS)
async def test_hooks_are_bounded(
    make_engine: Callable[..., Engine], journal: ListJournal, caplog: pytest.LogCaptureFixture, option: str
) -> None:
    """Hooks that don't end are stopped after a while and reported; the run ends as it would have."""
    body = dict(zip(HOOKS, [completes, completes, fails, is_cancelled, crashes], strict=True))[option]

    async def endless(*_: object) -> None:
        await anyio.sleep_forever()

    async with make_engine() as engine:
        begun = anyio.current_time()
        await run_to_the_end(task(**{option: endless})(body))
        spent = anyio.current_time() - begun
    assert spent == engine.core.finish_seconds + (30 if body is is_cancelled else 0)
    assert "took more than 10 s" in caplog.text
    assert journal.of(body.__name__)[0].ended


async def test_time_for_hooks_is_not_the_bodys(engine: Engine) -> None:
    """The time that hooks take is no part of the run's time limit."""
    calls = Calls(is_async=True)

    async def body() -> str:
        await anyio.sleep(1.5)
        return "value"

    assert await task(timeout_seconds=2, **calls.options)(body)() == "value"


# --- which hooks there can be ------------------------------------------------------------------------------------


async def test_other_callables(engine: Engine) -> None:
    """A hook may be any callable: a method, a partial, an object."""
    calls: list[object] = []

    class Hooks:
        def method(self, *given: Any) -> None:
            calls.append("method")

        async def __call__(self, *given: Any) -> None:
            calls.append("object")

    def plain(word: str, *given: Any) -> None:
        calls.append(word)

    hooks = Hooks()
    await task(on_completion=[hooks.method, hooks, functools.partial(plain, "partial")])(completes)()
    assert calls == ["method", "object", "partial"]


@pytest.mark.parametrize("option", HOOKS)
@pytest.mark.parametrize("value", [3, "notify", [print, None]])
@pytest.mark.parametrize("decorator", [task, flow])
def test_bad_hooks(decorator: Any, option: str, value: object) -> None:
    """A hook that can't be called is refused at decoration, by the option's name."""
    with pytest.raises(InvalidOption, match=option):
        decorator(**{option: value})(completes)


def test_hooks_of_sync_runs(sync_engine: Engine) -> None:
    """Sync tasks and flows call their hooks too, sync and async ones."""
    for is_async in (False, True):
        noted: list[str] = []

        async def hook(definition: Any, run: RunView, state: State[Any], noted: list[str] = noted) -> None:
            noted.append(f"{run.kind} {state.name}")

        def plain(definition: Any, run: RunView, state: State[Any], noted: list[str] = noted) -> None:
            noted.append(f"{run.kind} {state.name}")

        chosen = hook if is_async else plain

        @task(on_running=chosen, on_completion=chosen)
        def step() -> int:
            return threading.get_ident()

        @flow(on_running=chosen, on_completion=chosen)
        def outer(step: Any = step) -> Any:
            return step()

        assert outer() == threading.get_ident()
        assert noted == ["flow Running", "task Running", "task Completed", "flow Completed"]
