"""Transactions in threads: `with transaction()` does what `async with` does on a loop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from tests.conftest import ListJournal
from tests.transactions.noting import Noted
from undertow import Engine, Part, flow, get_transaction, task, transaction


@pytest.fixture(params=["asyncio", "trio"])
def script(request: pytest.FixtureRequest, journal: ListJournal) -> Iterator[Engine]:
    """An open engine around a test that has no event loop, with the engine's own on either backend."""
    with Engine(journal, backend=request.param, threads=1) as opened:
        yield opened


def block_of_every_form(write: Any, here: Any) -> None:
    """A block in a thread, with runs of every form that give 1 to 7 in that order."""
    with transaction():
        assert write(1) == 1
        assert here(2) == 2
        assert write.submit(3).result() == 3
        assert here.submit(4).result() == 4
        assert here.map([5]).result() == [5]
        assert list(here.stream([6])) == [6]
        flow(lambda: here(7), name="inner")()


@pytest.mark.real_time
@pytest.mark.parametrize("place", ["script", "flow", "thread of the pool"])
def test_in_a_thread(script: Engine, noted: Noted, write: Any, place: str) -> None:
    """In a script, a `def` flow and a `def` task `with transaction()` does the same, also when the pool has one thread."""
    here = noted.task(lambda x: x)

    def body() -> None:
        block_of_every_form(write, here)

    {"script": body, "flow": flow(body), "thread of the pool": flow(lambda: task(body).submit().result())}[place]()
    assert noted.calls == [("commit", x) for x in (1, 2, 3, 4, 5, 6, 7)]


@pytest.mark.real_time
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_rolled_back_in_a_thread(
    script: Engine, journal: ListJournal, noted: Noted, write: Any, kind: type[BaseException]
) -> None:
    """In a thread too what the block raises rolls it back in reverse order and comes out as it was."""
    error = kind("bare")

    @flow
    def body() -> None:
        with transaction() as outer:
            write(1)
            with transaction() as inner:
                assert get_transaction() is inner
                write(2)
            assert get_transaction() is outer
            write.submit(3, 0.01)
            raise error

    with pytest.raises(kind) as caught:
        body()
    assert caught.value is error
    assert noted.calls == [("rollback", 3), ("rollback", 2), ("rollback", 1)]
    assert journal.story("write", 1) == ["Pending", "Running", "Completed", "RolledBack"]


@pytest.mark.real_time
def test_async_hooks_in_a_thread(script: Engine, noted: Noted, write: Any) -> None:
    """A block in a thread calls async hooks in the engine's loop; one without an end is stopped."""
    script.core.finish_seconds = 0.05

    async def endless(part: Part) -> None:
        await anyio.sleep_forever()

    async def undo(part: Part) -> None:
        await checkpoint()
        noted.rollback(part)

    write = write.with_options(on_rollback=[endless, undo])
    with pytest.raises(ValueError), transaction():
        write(1)
        raise ValueError
    assert noted.calls == [("rollback", 1)]


@pytest.mark.real_time
def test_a_roll_back_in_a_thread_does_not_wait_for_ever(script: Engine, noted: Noted, write: Any) -> None:
    """In a thread too a block that raises does not wait for ever for runs that don't end."""
    script.core.finish_seconds = 0.05

    @flow(final_state="return")
    def body() -> None:
        with pytest.raises(ValueError), transaction():
            write(1)
            future = write.submit("endless", 1e6)
            raise ValueError
        future.cancel()

    body()
    assert noted.calls == [("rollback", 1)]


@pytest.mark.real_time
def test_interrupted_while_leaving(script: Engine, noted: Noted, write: Any) -> None:
    """An interrupt that reaches a thread while it waits for a block's last runs rolls the block back."""
    script.core.finish_seconds = 0.05
    leaving, undone = threading.Event(), threading.Event()
    main = threading.get_ident()

    @task
    def interrupting() -> None:
        leaving.wait(5)
        signal.pthread_kill(main, signal.SIGINT)
        undone.wait(5)

    with pytest.raises(KeyboardInterrupt), transaction():
        write.with_options(on_rollback=[noted.rollback, lambda part: undone.set()])(1)
        interrupting.submit()
        leaving.set()
    assert noted.calls == [("rollback", 1)]
