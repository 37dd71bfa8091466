"""Transactions in async code: runs that count together, or are undone together in reverse order."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from tests.conftest import ListJournal
from tests.transactions.noting import Noted, in_a_flow, rolled_back
from undertow import INPUTS, Engine, InvalidOption, Part, Skip, WouldBlock, flow, get_transaction, task, transaction


class Stop(BaseException):
    """What is no `Exception`, as KeyboardInterrupt is."""


# --- committed, or rolled back -----------------------------------------------------------------------------------


@pytest.mark.real_time
@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_every_form_of_a_call(engine: Engine, noted: Noted, write: Any, ending: str) -> None:
    """Runs of every form are part of the block: committed in order of completion, or rolled back in the reverse."""
    here = noted.task(lambda x: x)

    @flow
    async def inner(x: int) -> None:
        await write(x)

    @flow
    def inner_here(x: int) -> None:
        here(x)

    async def body() -> None:
        async with transaction():
            await write(1)
            await write.submit(2)
            await write.map([3])
            here(4)
            await here.submit(5)
            await task(lambda: here(6)).submit()
            assert [x async for x in write.stream([7])] == [7]
            await inner(8)
            await inner_here.submit(9)
            assert noted.calls == []
            if ending == "rollback":
                raise ValueError

    try:
        await in_a_flow(body)
    except ValueError:
        assert ending == "rollback"
    numbers = range(1, 10) if ending == "commit" else range(9, 0, -1)
    assert noted.calls == [(ending, x) for x in numbers]


async def test_order_of_completion(engine: Engine, noted: Noted, write: Any) -> None:
    """Leaving the block waits for the runs submitted in it, and commits in the order in which they ended."""

    async def body() -> None:
        async with transaction():
            write.submit("slow", 3)
            write.submit("quick", 1)
            write.submit("middling", 2)
        assert noted.calls == [("commit", "quick"), ("commit", "middling"), ("commit", "slow")]

    await in_a_flow(body)


async def test_outside_any_flow(engine: Engine, noted: Noted, write: Any) -> None:
    """A block needs no flow around it."""
    async with transaction():
        await write(1)
        await write.submit(2)
    with pytest.raises(ValueError):
        async with transaction():
            await write(3)
            raise ValueError
    assert noted.calls == [("commit", 1), ("commit", 2), ("rollback", 3)]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, Stop])
async def test_the_exception_passes_through(
    engine: Engine, noted: Noted, write: Any, kind: type[BaseException]
) -> None:
    """What the block raised, of whatever kind, rolls it back and comes out bare: that very exception, unchanged."""
    cause, error = OSError("cause"), kind("bare")
    with pytest.raises(kind) as caught:
        async with transaction():
            await write(1)
            raise error from cause
    assert caught.value is error
    assert (error.__cause__, error.__context__) == (cause, None)
    assert noted.calls == [("rollback", 1)]


async def test_an_exception_without_words(engine: Engine, noted: Noted, write: Any) -> None:
    """An exception that can't even be turned into text rolls the block back as any other."""

    class Wordless(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    with pytest.raises(Wordless):
        async with transaction():
            await write(1)
            raise Wordless
    assert noted.calls == [("rollback", 1)]


async def test_only_what_completed_counts(engine: Engine, noted: Noted, write: Any) -> None:
    """Runs that failed, were skipped or cancelled, or whose result came from the cache, have nothing to undo."""

    async def ends(how: Exception) -> None:
        raise how

    bad = noted.task(ends)
    kept = noted.task(write.fn, cache_policy=INPUTS)
    await kept("kept before")

    async def body() -> None:
        await bad(OSError("failed"), return_state=True)
        await bad(Skip("skipped"), return_state=True)
        late = write.submit("cancelled", 100)
        await anyio.sleep(1)
        late.cancel()
        await late.wait_async()
        assert await kept("kept before") == "kept before"
        await write("done")

    await rolled_back(body)
    assert noted.calls == [("rollback", "done")]


async def test_a_retried_task_counts_once(engine: Engine, noted: Noted) -> None:
    """A task that needed several attempts is part of the block once, with the result of the last one."""
    attempts = 0

    async def flaky() -> int:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise OSError
        return attempts

    await rolled_back(noted.task(flaky, retries=5, retry_delay_seconds=1))
    assert noted.calls == [("rollback", 3)]


async def test_states(engine: Engine, journal: ListJournal, write: Any) -> None:
    """Each completed task of a block that is rolled back is RolledBack in the journal, hooks or not, with the cause."""
    plain = task(name="plain")(write.fn)

    async def body() -> None:
        await write(1)
        await plain(2)

    await rolled_back(body)
    for name in ("write", "plain"):
        assert journal.story(name) == ["Pending", "Running", "Completed", "RolledBack"]
        assert "ValueError: at the end" in journal.of(name)[0].history[-1][2]
    assert journal.story("outer") == ["Pending", "Running", "Failed"]


# --- hooks -------------------------------------------------------------------------------------------------------


async def test_parts(engine: Engine, write: Any) -> None:
    """A hook is given the completed run, its result, and what was `set`, here or in a block around."""
    parts: list[Part] = []
    write = write.with_options(on_rollback=[parts.append, lambda part: part.set("hook", part.get("near"))])

    async def body() -> None:
        transaction_here = get_transaction()
        assert transaction_here is not None
        transaction_here.set("far", 1)
        async with transaction("inner") as inner:
            assert inner.key == "inner"
            inner.set("near", 2)
            await write("result")
            raise ValueError

    with pytest.raises(ValueError):
        await in_a_flow(lambda: in_a_block(body))
    [part] = parts
    assert part.result == "result"
    assert (part.run.function, part.run.state.name, part.run.run_count) == ("write", "Completed", 1)
    assert [part.get(name) for name in ("far", "near", "hook", "nothing")] == [1, 2, 2, None]
    assert part.get("nothing", "default") == "default"


async def in_a_block(body: Callable[[], Awaitable[Any]]) -> Any:
    async with transaction():
        return await body()


async def test_hooks_as_decorators(engine: Engine, noted: Noted, write: Any) -> None:
    """`@t.on_rollback` and `@t.on_commit` add a hook, sync or async, and leave the function as it was."""

    @write.on_rollback
    async def undo(part: Part) -> None:
        await anyio.sleep(1)
        noted.calls.append(("decorated", part.result))

    @write.on_commit
    def told(part: Part) -> None:
        noted.calls.append(("told", part.result))

    assert callable(told)
    await rolled_back(lambda: write(1))
    await in_a_block(lambda: write(2))
    await rolled_back(lambda: write.with_options(name="copy")(3))
    assert noted.calls[:4] == [("rollback", 1), ("decorated", 1), ("commit", 2), ("told", 2)]
    assert noted.calls[4:] == [("rollback", 3), ("decorated", 3)]
    with pytest.raises(InvalidOption, match="on_rollback"):
        write.on_rollback("no function")
    with pytest.raises(InvalidOption, match="on_commit"):
        task(on_commit=[3])(write.fn)


async def test_a_hook_that_raises(engine: Engine, noted: Noted, write: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A hook that raises is logged, and stops neither the other hooks nor the block's exception."""

    def bad(part: Part) -> None:
        raise OSError(f"bad hook of {part.result}")

    write = write.with_options(on_rollback=[bad, noted.rollback], on_commit=[bad, noted.commit])

    async def both() -> None:
        await write(1)
        await write(2)

    await rolled_back(both)
    await in_a_block(both)
    assert noted.calls == [("rollback", 2), ("rollback", 1), ("commit", 1), ("commit", 2)]
    assert sum("hook" in record.message and record.exc_info is not None for record in caplog.records) == 4


async def test_a_hook_without_an_end(
    engine: Engine, noted: Noted, write: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A hook that takes too long is stopped and logged, and the others are called."""

    async def endless(part: Part) -> None:
        await anyio.sleep_forever()

    write = write.with_options(on_rollback=[endless, noted.rollback])
    start = anyio.current_time()
    with caplog.at_level(logging.ERROR):
        await rolled_back(lambda: write(1))
    assert anyio.current_time() - start <= engine.core.finish_seconds
    assert noted.calls == [("rollback", 1)]
    assert "endless" in caplog.text


# --- blocks in blocks --------------------------------------------------------------------------------------------


async def test_a_block_inside_another(engine: Engine, noted: Noted, write: Any) -> None:
    """What an inner block completed is committed with the outer one; an inner roll-back leaves the outer one alone."""

    async def body() -> None:
        async with transaction():
            await write(1)
            await in_a_block(lambda: write(2))
            assert noted.calls == []
            with pytest.raises(ValueError):
                async with transaction():
                    await write(3)
                    raise ValueError
            assert noted.calls == [("rollback", 3)]
            await write(4)

    await in_a_flow(body)
    assert noted.calls[1:] == [("commit", 1), ("commit", 2), ("commit", 4)]


async def test_an_outer_roll_back(engine: Engine, write: Any) -> None:
    """An outer block that is rolled back undoes what inner ones completed, each with what was set in its own."""
    undone: list[Any] = []
    write = write.with_options(on_rollback=lambda part: undone.append((part.result, part.get("name"))))

    async def named(name: str, body: Callable[[], Awaitable[Any]]) -> None:
        async with transaction() as block:
            block.set("name", name)
            await body()

    async def body() -> None:
        block = get_transaction()
        assert block is not None
        block.set("name", "outer")
        await write(1)
        await named("inner", lambda: write(2))
        await task(named)("in a task", lambda: write(3))

    await rolled_back(body)
    assert undone == [(3, "in a task"), (2, "inner"), (1, "outer")]


@pytest.mark.real_time
async def test_the_innermost_block(engine: Engine) -> None:
    """`get_transaction` is the innermost block around a call, in the runs made in it too, and `None` outside."""
    seen: list[Any] = []
    look = task(lambda: seen.append(get_transaction()))

    @task
    async def look_around() -> None:
        look()
        await look.submit()

    async with transaction() as outer:
        async with transaction() as inner:
            await look_around()
            await look_around.submit()
        assert get_transaction() is outer
    assert get_transaction() is None
    assert seen == [inner] * 4
    assert inner.outer is outer


# --- cached results ----------------------------------------------------------------------------------------------


async def test_cached_results_are_kept_with_the_commit(engine: Engine, journal: ListJournal, noted: Noted) -> None:
    """What a cached task computes in a block is kept for others when it is committed, and never when it is not."""
    computed: list[int] = []

    async def square(x: int) -> int:
        computed.append(x)
        return x * x

    cached = noted.task(square, cache_policy=INPUTS)
    await rolled_back(lambda: in_a_block(lambda: cached(2)))
    assert journal.kept == {}
    async with transaction():
        await in_a_block(lambda: cached(2))
        await cached(3)
        assert journal.kept == {}
    assert len(journal.kept) == 2
    assert [await cached(2), await cached(3)] == [4, 9]
    assert computed == [2, 2, 3]


async def test_cached_results_count_inside_at_once(engine: Engine, noted: Noted) -> None:
    """Inside the block, and in blocks inside it, what was computed once is not computed again."""
    computed: list[int] = []

    async def square(x: int) -> int:
        computed.append(x)
        return x * x

    cached = noted.task(square, cache_policy=INPUTS)

    async def body() -> None:
        assert await cached(2) == 4
        assert (await cached(2, return_state=True)).name == "Cached"
        assert await in_a_block(lambda: cached(2)) == 4
        assert await cached.map([3] * 5) == [9] * 5

    await rolled_back(body)
    assert computed == [2, 3]
    assert noted.calls == [("rollback", 9), ("rollback", 4)]


# --- misuse ------------------------------------------------------------------------------------------------------


async def test_a_plain_with_on_a_loop(engine: Engine) -> None:
    """`with transaction()` on an event loop's thread is refused, and the message says what to write."""
    with pytest.raises(WouldBlock, match="async with transaction"), transaction():
        pass
    assert get_transaction() is None
