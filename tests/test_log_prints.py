"""`log_prints`: what a body prints becomes records of its run, and what others print stays as it is."""

from __future__ import annotations

import builtins
import io
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest

from undertow import Engine, flow, runtime, task, temporary_settings
from undertow.engine import prints


@task(log_prints=True)
async def printing(act: Callable[[], object]) -> None:
    act()


@pytest.fixture
def no_leak() -> Iterator[None]:
    """`print` is the same afterwards."""
    before = builtins.print
    yield
    assert builtins.print is before


@pytest.mark.usefixtures("no_leak")
async def test_log_prints(
    engine: Engine, journal: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """With `log_prints` a print in the body is an INFO record of the run logger, made where the print is."""
    caplog.set_level(logging.INFO)

    @task(log_prints=True)
    async def talk() -> str | None:
        print("rows:", 3, 100, sep=" ", end="%\n", flush=True)
        print("two\nlines", file=sys.stderr)
        print()
        print("elsewhere", file=io.StringIO())
        return runtime.task_run.id

    run_id = await talk()
    print("outside")
    assert journal.logged == [(run_id, "INFO", "undertow.runs", text) for text in ("rows: 3 100%", "two\nlines")]
    assert capsys.readouterr().out == "outside\n"
    assert {(record.funcName, vars(record)["run_id"]) for record in caplog.records} == {("talk", run_id)}


@pytest.mark.parametrize(
    ("of_task", "of_flow", "setting", "logged"),
    [
        (None, None, None, False),
        (None, None, True, True),
        (None, False, True, False),
        (None, True, None, True),
        (False, True, True, False),
        (True, False, False, True),
    ],
)
async def test_whose_log_prints_counts(
    of_task: bool | None,
    of_flow: bool | None,
    setting: bool | None,
    logged: bool,
    make_engine: Callable[..., Engine],
    journal: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The task's own `log_prints` counts before its flow's, that before its flow's flow's, and that before the setting."""

    @task(log_prints=of_task)
    async def talk() -> None:
        print("hello")

    @flow
    async def inner() -> str:
        await talk()
        return "data"

    @flow(log_prints=of_flow)
    async def outer() -> str:
        await inner()
        return "data"

    with temporary_settings(**({} if setting is None else {"logging_log_prints": setting})):
        async with make_engine():
            await outer()
    assert [line[3] for line in journal.logged] == ["hello"] * logged
    assert capsys.readouterr().out == "hello\n" * (not logged)


@pytest.mark.usefixtures("no_leak")
async def test_prints_of_others(engine: Engine, journal: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """While one body logs its prints, those of other tasks and threads go where they always went."""
    begun, finished = anyio.Event(), anyio.Event()

    @task(log_prints=True)
    async def logs() -> None:
        begun.set()
        await finished.wait()
        print("logged")

    @task
    async def prints_plainly() -> None:
        await begun.wait()
        print("in a task")
        thread = threading.Thread(target=print, args=("in a thread",))
        thread.start()
        thread.join()
        finished.set()

    futures = [logs.submit(), prints_plainly.submit()]
    for future in futures:
        await future
    assert capsys.readouterr().out == "in a task\nin a thread\n"
    assert [line[3] for line in journal.logged] == ["logged"]


@pytest.mark.usefixtures("no_leak")
async def test_prints_of_generators(engine: Engine, journal: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The prints of a generator's body are logged, and those of the loop over it are not."""

    @task(log_prints=True)
    async def rows() -> AsyncIterator[int]:
        print("one")
        yield 1

    @task(log_prints=True)
    def sync_rows() -> Iterator[int]:
        print("two")
        yield 2

    async for row in rows():  # type: ignore[attr-defined]
        print("got", row)
    for row in sync_rows():
        print("got", row)
    assert [line[3] for line in journal.logged] == ["one", "two"]
    assert capsys.readouterr().out == "got 1\ngot 2\n"


@pytest.mark.real_time
@pytest.mark.usefixtures("no_leak")
def test_prints_in_threads(sync_engine: Engine, journal: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Sync bodies log their prints as well, called or submitted."""

    @task
    def talk(text: str) -> None:
        print(text)

    @flow(log_prints=True)
    def outer() -> str:
        talk("called")
        talk.submit("submitted").result()
        return "data"

    outer()
    assert sorted(line[3] for line in journal.logged) == ["called", "submitted"]
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("no_leak")
async def test_handler_that_prints(
    engine: Engine, journal: Any, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that prints what it is given prints it, and does not log it again."""

    class Printing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print("handled", record.getMessage())

    handler = Printing()
    logging.root.addHandler(handler)
    caplog.set_level(logging.INFO)
    try:
        await printing(lambda: print("hello"))
    finally:
        logging.root.removeHandler(handler)
    assert capsys.readouterr().out == "handled hello\n"
    assert [line[3] for line in journal.logged] == ["hello"]


async def test_print_that_others_replace(engine: Engine, journal: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Who replaces `print` while a body logs its prints finds it as it was left, and it still prints."""
    plain = builtins.print

    def replace() -> None:
        ours: Any = builtins.print
        builtins.print = lambda *values: ours("theirs:", *values)  # type: ignore[assignment]

    try:
        await printing(replace)
        print("hello")
        await printing(lambda: print("logged"))
    finally:
        builtins.print = prints._print
        await printing(lambda: None)
        assert builtins.print is plain
    assert capsys.readouterr().out == "theirs: hello\n"
    assert [line[3] for line in journal.logged] == ["theirs: logged"]
