"""Recorded failures: what a flow catches the second time is what it caught the first time, without running the task."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import attrs
import pytest

from undertow import Engine, Failed, RunFailed, flow, task

if TYPE_CHECKING:
    from conftest import ListJournal


class Refused(Exception):
    """An error with an attribute that is no argument, and a note."""

    def __init__(self, code: int) -> None:
        super().__init__(f"refused with {code}")
        self.code = code
        self.reasons = {"first": (1, {2})}
        self.add_note("please ask again")


@attrs.define
class Slotted(Exception):
    """An error whose attributes are not in a dictionary."""

    code: int


class Picky(Exception):
    """An error that can't be made of its arguments."""

    def __new__(cls, code: int, *, source: str) -> Picky:
        return super().__new__(cls, code)

    def __init__(self, code: int, *, source: str) -> None:
        super().__init__(code)


def local_error() -> Exception:
    """An error of a class that nobody can find again."""

    class Local(Exception): ...

    return Local("lost")


async def caught(engine: Engine, journal: ListJournal, failing: Any) -> list[Exception]:
    """What a durable flow catches from a task: in its first life, and in the one after it was broken off."""
    errors: list[Exception] = []
    runs: list[int] = []

    @task
    async def failing_task() -> Any:
        runs.append(1)
        answer = failing()
        if isinstance(answer, Exception):
            raise answer
        return answer

    @flow(durable=True)
    async def whole() -> str:
        try:
            await failing_task()
        except Exception as error:
            errors.append(error)
        await anyio.sleep(10)
        return "caught"

    with anyio.move_on_after(5):
        await whole()
    assert await engine.resume(journal.of("whole")[0].id) == "caught"
    assert runs == [1]
    return errors


@pytest.mark.parametrize(
    "failing",
    [
        lambda: Refused(3),
        lambda: KeyError("k"),
        lambda: FileNotFoundError(2, "No such file", "a.txt"),
        lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad byte"),
        lambda: StopAsyncIteration("over"),
        lambda: Slotted(5),
    ],
    ids=["attributes", "builtin", "oserror", "unicode", "signal", "slots"],
)
async def test_the_same_error(engine: Engine, journal: ListJournal, failing: Callable[[], Exception]) -> None:
    """A recorded failure is raised again as it was: its class, its arguments, its attributes, its text and its notes."""
    first, again = await caught(engine, journal, failing)
    assert type(again) is type(first)
    assert (again.args, str(again), repr(again)) == (first.args, str(first), repr(first))
    names = [name for name in dir(first) if not name.startswith("__") and not callable(getattr(first, name, len))]
    assert {name: getattr(again, name) for name in names} == {name: getattr(first, name) for name in names}
    notes = first.__notes__
    assert again.__notes__[: len(notes)] == notes
    assert "task 'failing_task' ran before; it was not run again" in again.__notes__[-1]


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        (local_error, "Local: lost"),
        (lambda: ValueError(object()), "ValueError: <object"),
        (lambda: Picky(3, source="x"), "Picky: 3"),
        (lambda: ExceptionGroup("several", [ValueError(1)]), "ExceptionGroup: several"),
    ],
    ids=["local class", "argument", "constructor", "group"],
)
async def test_an_error_that_can_not_be_made_again(
    engine: Engine, journal: ListJournal, failing: Callable[[], Exception], message: str
) -> None:
    """A failure whose exception can't be found, or made, again is told by `RunFailed`, with the text it had."""
    first, again = await caught(engine, journal, failing)
    assert type(first) is not RunFailed
    assert type(again) is RunFailed
    assert message in str(again)


async def test_a_failed_state(engine: Engine, journal: ListJournal) -> None:
    """A step that returned a Failed state by hand is handed back with its name and its message."""
    states: list[tuple[str, str, str]] = []

    @task
    async def deciding() -> Any:
        return Failed("no rows", name="Empty")

    @flow(durable=True, final_state="return")
    async def whole() -> None:
        state = await deciding(return_state=True)
        states.append((state.type, state.name, state.message))
        await anyio.sleep(10)

    with anyio.move_on_after(5):
        await whole()
    await engine.resume(journal.of("whole")[0].id)
    assert states == [("FAILED", "Empty", "no rows")] * 2
    assert journal.story("deciding") == ["Pending", "Running", "Empty"]
