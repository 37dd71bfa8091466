"""Pausing, suspending and resuming flow runs: waiting for a person, in the process or without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import attrs
import pydantic
import pytest

from tests.conftest import ListJournal
from undertow import (
    Engine,
    InvalidOption,
    NeverResumed,
    NotInFlow,
    ParameterInvalid,
    RunCancelled,
    RunEnded,
    RunNotPaused,
    RunPaused,
    RunUnknown,
    flow,
    pause_flow_run,
    resume_flow_run,
    suspend_flow_run,
    task,
)

MakeEngine = Callable[..., Engine]

worked: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    worked.clear()


@task
async def work(what: str) -> str:
    worked.append(what)
    return what


class Answer(pydantic.BaseModel):
    approved: bool
    note: str = ""


@attrs.frozen
class Choice:
    number: int


# --- paused ----------------------------------------------------------------------------------------------------


@flow
async def asks(wanted: Any = None, timeout: float | None = 60) -> Any:
    await work("before")
    answer = await pause_flow_run(wanted, timeout=timeout)
    await work("after")
    return answer


async def test_pausing(engine: Engine, journal: ListJournal) -> None:
    """A paused flow is Paused, runs nothing, and goes on when it is resumed."""
    handle = engine.start(asks)
    await anyio.sleep(30)
    assert (handle.state.type, handle.state.name) == ("PAUSED", "Paused")
    assert worked == ["before"]
    await resume_flow_run(handle.run_id)
    assert await handle is None
    assert journal.story("asks") == ["Pending", "Running", "Paused", "Running", "Completed"]


@pytest.mark.parametrize(
    ("wanted", "value", "answer"),
    [
        (bool, True, True),
        (int, 3, 3),
        (dict, {"a": [1]}, {"a": [1]}),
        (Answer, {"approved": True}, Answer(approved=True)),
        (Answer, Answer(approved=False, note="no"), Answer(approved=False, note="no")),
        (Choice, Choice(3), Choice(3)),
        (list[int], ["1", 2], [1, 2]),
        (None, "anything", "anything"),
    ],
)
async def test_input(engine: Engine, wanted: Any, value: Any, answer: Any) -> None:
    """What a flow is resumed with is what its pause returns, made into the type that was asked for."""
    handle = engine.start(asks, wanted)
    await anyio.sleep(1)
    await resume_flow_run(handle.run_id, value)
    assert await handle == answer


async def test_input_of_another_type(engine: Engine) -> None:
    """An input that is not of the type asked for is refused, and the run stays paused."""
    handle = engine.start(asks, Answer)
    await anyio.sleep(1)
    with pytest.raises(ParameterInvalid, match="Answer"):
        await resume_flow_run(handle.run_id, {"approved": "perhaps"})
    await anyio.sleep(1)
    assert handle.state.name == "Paused"
    await resume_flow_run(handle.run_id, {"approved": True})
    assert await handle == Answer(approved=True)


async def test_never_resumed(engine: Engine, journal: ListJournal) -> None:
    """A flow that is not resumed in time fails, and says so; the pause raises, so a body may do something else."""

    @flow
    async def gives_up() -> str:
        try:
            await pause_flow_run(timeout=10)
        except NeverResumed:
            return "went on without"
        return "resumed"

    handle = engine.start(asks, timeout=60)
    with pytest.raises(NeverResumed, match="never resumed within 60 s"):
        await handle
    assert anyio.current_time() == 60
    assert journal.story("asks") == ["Pending", "Running", "Paused", "Running", "Failed"]
    assert await gives_up() == "went on without"


async def test_pausing_for_ever(engine: Engine) -> None:
    """With `timeout=None` a pause has no end of its own."""
    handle = engine.start(asks, timeout=None)
    await anyio.sleep(80_000)
    await resume_flow_run(handle.run_id)
    assert await handle is None


async def test_cancelling_a_paused_run(engine: Engine, journal: ListJournal) -> None:
    """A paused run can be cancelled."""
    handle = engine.start(asks)
    await anyio.sleep(1)
    handle.cancel("not needed")
    with pytest.raises(RunCancelled):
        await handle
    assert journal.story("asks")[-2:] == ["Paused", "Cancelled"]
    assert engine.core.paused == {}
    assert engine.core.bells == {}


async def test_what_was_submitted(engine: Engine) -> None:
    """What a flow submitted before it paused goes on meanwhile."""

    @flow
    async def both() -> str:
        future = work.submit("meanwhile")
        await pause_flow_run()
        return await future

    handle = engine.start(both)
    await anyio.sleep(1)
    assert worked == ["meanwhile"]
    await resume_flow_run(handle.run_id)
    assert await handle == "meanwhile"


async def test_two_pauses(engine: Engine) -> None:
    """Each pause takes an input of its own, in order."""

    @flow
    async def twice() -> list[int]:
        return [await pause_flow_run(int), await pause_flow_run(int)]

    handle = engine.start(twice)
    for number in (1, 2):
        await anyio.sleep(1)
        await resume_flow_run(handle.run_id, number)
    assert await handle == [1, 2]


async def test_resuming_what_is_not_paused(engine: Engine) -> None:
    """Resuming is refused for a run that is unknown, has ended, or is not paused."""

    @flow
    async def busy() -> None:
        await anyio.sleep(10)

    with pytest.raises(RunUnknown, match="nobody"):
        await resume_flow_run("nobody")
    handle = engine.start(busy)
    await anyio.sleep(1)
    with pytest.raises(RunNotPaused, match="Running, neither Paused nor Suspended"):
        await resume_flow_run(handle.run_id)
    await handle
    with pytest.raises(RunEnded, match="Completed"):
        await resume_flow_run(handle.run_id)


async def test_pausing_elsewhere(engine: Engine) -> None:
    """Pausing and suspending belong into a flow's body: not outside of one, and not into a task."""

    @task
    async def pauses() -> None:
        await pause_flow_run()

    @flow
    async def not_durable() -> None:
        await suspend_flow_run()

    for call in (pause_flow_run, pauses, not_durable, suspend_flow_run):
        with pytest.raises(NotInFlow, match=r"flow_run\(\.\.\.\) was called outside"):
            await call()
    with pytest.raises(InvalidOption, match="timeout"):
        await asks(timeout=-1)


async def test_pauses_of_a_durable_flow(engine: Engine) -> None:
    """A pause that a durable flow has passed is not repeated when the flow is retried."""
    failures = [ConnectionError("once")]

    @flow(durable=True, retries=1)
    async def order() -> int:
        answer = await pause_flow_run(int)
        if failures:
            raise failures.pop()
        return answer

    handle = engine.start(order)
    await anyio.sleep(1)
    await resume_flow_run(handle.run_id, 7)
    assert await handle == 7


async def test_a_key_for_a_pause(engine: Engine) -> None:
    """Pauses of a durable flow that have keys are told apart by these, in whatever order they come again."""
    order_of = [["a", "b"], ["b", "a"]]

    @flow(durable=True, retries=1, on_mismatch="accept")
    async def order() -> dict[str, int]:
        answers = {key: await pause_flow_run(int, key=key) for key in order_of.pop(0)}
        if order_of:
            raise ConnectionError("once")
        return answers

    handle = engine.start(order)
    for number in (1, 2):
        await anyio.sleep(1)
        await resume_flow_run(handle.run_id, number)
    assert await handle == {"a": 1, "b": 2}


# --- suspended -------------------------------------------------------------------------------------------------


@flow(durable=True)
async def approval(name: str) -> str:
    first = await work(f"write {name}")
    answer = await suspend_flow_run(Answer)
    number = await suspend_flow_run(int)
    return f"{first}, {answer.note}, {number}"


async def test_suspending(engine: Engine, journal: ListJournal) -> None:
    """A suspended flow leaves its body, is Suspended, and runs on with its input when it is resumed, twice if need be."""
    handle = engine.start(approval, "a")
    with pytest.raises(RunPaused, match="resume_flow_run"):
        await handle
    assert (handle.state.type, handle.state.name) == ("PAUSED", "Suspended")
    assert "Answer" in handle.state.message
    assert engine.core.flows == {}
    await resume_flow_run(handle.run_id, Answer(approved=True, note="fine"))
    again = engine.handle(handle.run_id)
    assert again is not None
    assert (await again.wait_async()).name == "Suspended"  # type: ignore[union-attr]
    await resume_flow_run(handle.run_id, 5)
    last = engine.handle(handle.run_id)
    assert last is not None
    assert await last == "write a, fine, 5"
    assert worked == ["write a"]


@pytest.mark.real_time
async def test_suspended_over_a_restart(tmp_path: Path) -> None:
    """A suspended run stays so when its engine closes, is no crash to the next one, and can be resumed there."""
    async with Engine(tmp_path / "app.db") as engine:
        state = await approval("b", return_state=True)
        assert state.name == "Suspended"
    async with Engine(tmp_path / "app.db", recover=True) as engine:
        [row] = engine.journal.query("SELECT id, state_name, ended_at FROM flow_runs")  # type: ignore[attr-defined]
        assert (row["state_name"], row["ended_at"]) == ("Suspended", None)
        await resume_flow_run(row["id"], {"approved": True, "note": "ok"})
        future = engine.handle(row["id"])
        assert future is not None
        await future.wait_async()
        await resume_flow_run(row["id"], 6)
        future = engine.handle(row["id"])
        assert future is not None
        assert await future == "write b, ok, 6"
    assert worked == ["write b"]


async def test_suspending_takes_no_retry(engine: Engine) -> None:
    """Being suspended is no failed attempt: retries are still there for the rest."""
    failures = [ConnectionError("once")]

    @flow(durable=True, retries=1)
    async def order() -> int:
        number = await suspend_flow_run(int)
        if failures:
            raise failures.pop()
        return number

    handle = engine.start(order)
    await handle.wait_async()
    await resume_flow_run(handle.run_id, 4)
    future = engine.handle(handle.run_id)
    assert future is not None
    assert await future == 4


async def test_a_wrong_input_for_a_suspended_run(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """A suspended run that is resumed with a wrong input says so on the log, and suspends itself again."""
    handle = engine.start(approval, "c")
    await handle.wait_async()
    await resume_flow_run(handle.run_id, "perhaps")
    future = engine.handle(handle.run_id)
    assert future is not None
    assert (await future.wait_async()).name == "Suspended"  # type: ignore[union-attr]
    assert "is not resumed" in caplog.text


async def test_a_body_that_catches_everything(engine: Engine) -> None:
    """A body that handles every `Exception` doesn't keep its flow from being suspended."""

    @flow(durable=True)
    async def careless() -> None:
        try:
            await suspend_flow_run()
        except Exception:
            worked.append("handled")

    assert (await careless(return_state=True)).name == "Suspended"
    assert worked == []
