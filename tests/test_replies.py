"""Replies: an answer that another thread gives reaches whoever waits, in a loop or in a thread, once and surely."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import anyio
import anyio.to_thread
import pytest

from undertow.engine.waking import Reply


@contextmanager
def answering() -> Iterator[SimpleQueue[tuple[Reply[int], int] | None]]:
    """A thread that settles each reply put into the queue with the number that comes with it."""
    asked: SimpleQueue[tuple[Reply[int], int] | None] = SimpleQueue()

    def answer() -> None:
        while (question := asked.get()) is not None:
            reply, number = question
            reply.settle(number)

    thread = threading.Thread(target=answer)
    thread.start()
    yield asked
    asked.put(None)
    thread.join()


async def test_an_answer_that_is_there() -> None:
    """A reply that is settled gives its answer at once, in a loop and in a thread, as often as it is asked."""
    reply = Reply.of("answer")
    assert [await reply, await reply, reply.wait()] == ["answer"] * 3
    nothing: Reply[None] = Reply()
    nothing.settle()
    await nothing
    assert await Reply.of(None) is None


async def test_it_does_not_yield_when_it_need_not() -> None:
    """Awaiting a reply that is settled is no checkpoint: nothing else runs, and no cancellation is met."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        assert await Reply.of(1) == 1
    assert not scope.cancelled_caught


async def test_errors() -> None:
    """A reply that is settled with an error raises it, in a loop and in a thread."""
    reply: Reply[int] = Reply()
    reply.settle(error=OSError("no answer"))
    with pytest.raises(OSError, match="no answer"):
        await reply
    with pytest.raises(OSError, match="no answer"):
        reply.wait()


async def test_the_first_answer_counts() -> None:
    """Settling again, with whatever, changes nothing."""
    reply = Reply.of(1)
    reply.settle(2)
    reply.settle(error=OSError())
    assert await reply == 1


async def test_waiting_in_a_loop() -> None:
    """Whoever awaits a reply goes on when it is settled, and the loop is free meanwhile."""
    reply: Reply[str] = Reply()
    got: list[str] = []

    async def waiting() -> None:
        got.append(await reply)

    async with anyio.create_task_group() as group:
        group.start_soon(waiting)
        await anyio.sleep(5)
        assert got == []
        reply.settle("answer")
    assert got == ["answer"]


@pytest.mark.real_time
async def test_answers_from_another_thread() -> None:
    """However close the answer comes to the question, it is not missed."""
    with answering() as asked:
        for number in range(500):
            reply: Reply[int] = Reply()
            asked.put((reply, number))
            assert await reply == number


@pytest.mark.real_time
def test_waiting_in_a_thread() -> None:
    """A plain thread waits for answers of another one, and misses none."""
    with answering() as asked:
        for number in range(500):
            reply: Reply[int] = Reply()
            asked.put((reply, number))
            assert reply.wait() == number


@pytest.mark.real_time
async def test_many_at_once() -> None:
    """Each of many tasks of one loop gets the answer to its own question."""
    answers: dict[int, int] = {}

    async def ask(number: int) -> None:
        reply: Reply[int] = Reply()
        asked.put((reply, number))
        answers[number] = await reply

    with answering() as asked:
        async with anyio.create_task_group() as group:
            for number in range(200):
                group.start_soon(ask, number)
    assert answers == {number: number for number in range(200)}


async def test_a_waiter_that_is_cancelled() -> None:
    """Cancelling the wait leaves the reply as it was: it can be settled, and awaited again."""
    reply: Reply[int] = Reply()
    with anyio.move_on_after(1) as scope:
        await reply
    assert scope.cancelled_caught
    reply.settle(1)
    assert await reply == 1


@pytest.mark.real_time
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_has_ended(backend: str) -> None:
    """Settling a reply whose waiter's loop has ended harms nobody."""
    reply: Reply[int] = Reply()

    async def leave_early() -> None:
        with anyio.move_on_after(0.001):
            await reply

    anyio.run(leave_early, backend=backend)
    reply.settle(1)
    assert reply.wait() == 1
