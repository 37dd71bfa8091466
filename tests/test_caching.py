"""Caching: one computation for one key, kept in the journal, and never a wrong result."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from undertow import (
    FLOW_PARAMETERS,
    INPUTS,
    NO_CACHE,
    RUN_ID,
    TASK_SOURCE,
    Engine,
    InvalidOption,
    ResultNotSerializable,
    UncacheableArgument,
    flow,
    task,
)

Counted = Callable[..., Any]


def counted(**options: Any) -> tuple[Any, list[Any]]:
    """A task that notes the calls of its body, and the notes."""
    calls: list[Any] = []

    @task(**options)
    async def square(x: int, session: object = None) -> int:
        calls.append(x)
        await anyio.sleep(1)
        return x * x

    return square, calls


async def test_a_second_call_is_cached(engine: Engine) -> None:
    """A call with the same inputs ends Cached with the same result, and its body does not run."""
    square, calls = counted(cache_policy=INPUTS)
    assert [await square(3), await square(3), await square(4)] == [9, 9, 16]
    state = await square(3, return_state=True)
    assert (state.name, state.type, state.result()) == ("Cached", "COMPLETED", 9)
    assert calls == [3, 4]


async def test_equal_calls_at_once_run_once(engine: Engine) -> None:
    """Of several equal calls at once one computes, and the others become Cached."""
    square, calls = counted(cache_policy=INPUTS)

    @flow
    async def outer() -> list[str]:
        futures = square.map([5] * 10)
        assert await futures == [25] * 10
        return sorted(future.state.name for future in futures)

    assert await outer() == ["Cached"] * 9 + ["Completed"]
    assert calls == [5]


async def test_a_failed_leader_poisons_nobody(engine: Engine) -> None:
    """When the one that computes fails, or is cancelled, the next of those who wait computes."""
    attempts = 0

    @task(cache_policy=INPUTS)
    async def flaky(x: int) -> int:
        nonlocal attempts
        attempts += 1
        mine = attempts
        await anyio.sleep(1)
        if mine == 1:
            raise ValueError("first")
        return x

    @flow(final_state="return")
    async def outer() -> list[str]:
        futures = flaky.map([1] * 4)
        await futures.wait_async()
        assert engine.core.flights == {}
        return sorted(future.state.name for future in futures)

    assert await outer() == ["Cached", "Cached", "Completed", "Failed"]


async def test_expiration_and_refresh(engine: Engine) -> None:
    """A kept result counts until it expires, and `refresh_cache` computes it anew."""
    square, calls = counted(cache_policy=INPUTS, cache_expiration=timedelta(seconds=100))
    await square(2)
    await anyio.sleep(50)
    await square(2)
    assert calls == [2]
    await anyio.sleep(60)
    await square(2)
    assert calls == [2, 2]
    await square.with_options(refresh_cache=True)(2)
    assert calls == [2, 2, 2]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (INPUTS, 2),
        (INPUTS - "x", 1),
        (RUN_ID, 2),
        (INPUTS + RUN_ID, 4),
        (TASK_SOURCE, 1),
        (FLOW_PARAMETERS, 2),
        (NO_CACHE, 4),
    ],
)
async def test_policies(engine: Engine, policy: Any, expected: int) -> None:
    """Each policy counts as equal just the calls that it says; sums need all their parts, and arguments can be left out."""
    square, calls = counted(cache_policy=policy)

    @flow
    async def outer(n: int) -> None:
        await square(1)
        await square(2)

    await outer(1)
    await outer(2)
    assert len(calls) == expected


async def test_a_key_function(engine: Engine) -> None:
    """`cache_key_fn` gives the key from the run and its arguments; `None` from it means that the call is not cached."""
    square, calls = counted(cache_key_fn=lambda run, parameters: "odd" if parameters["x"] % 2 else None)
    assert [await square(1), await square(3), await square(2), await square(2)] == [1, 1, 4, 4]
    assert calls == [1, 2, 2]


async def test_what_can_not_be_in_a_key(engine: Engine) -> None:
    """An argument without canonical bytes is an error that names it and its type, unless it is left out."""
    square, calls = counted(cache_policy=INPUTS)
    with pytest.raises(UncacheableArgument, match=r"'session' of task 'square'.*builtins\.object.*INPUTS - 'session'"):
        await square(1, session=object())
    assert calls == []
    assert await square.with_options(cache_policy=INPUTS - "session")(1, session=object()) == 1


async def test_a_result_that_can_not_be_kept(engine: Engine) -> None:
    """A cached task whose result can't be written is Failed, and the error names the path to it."""

    @task(cache_policy=INPUTS)
    async def opaque() -> Any:
        return {"handle": object()}

    @task(cache_policy=INPUTS)
    async def pickled(x: int) -> Any:
        return {x}

    with pytest.raises(ResultNotSerializable, match=r"value\['handle'\]"):
        await opaque.with_options(cache_policy=TASK_SOURCE)()
    assert await pickled.with_options(result_serializer="pickle")(1) == {1}


@pytest.mark.parametrize(
    ("option", "value"),
    [("cache_policy", "inputs"), ("cache_key_fn", 3), ("cache_expiration", 60), ("result_serializer", "json")],
)
def test_bad_options(option: str, value: Any) -> None:
    """A caching option with an impossible value is refused at decoration, naming the option and the value."""
    with pytest.raises(InvalidOption, match=f"{option}={value!r}"):
        counted(**{option: value})
    with pytest.raises(InvalidOption, match="'nobody'"):
        counted(cache_policy=INPUTS - "nobody")


@pytest.mark.real_time
async def test_results_outlive_the_engine(tmp_path: Path) -> None:
    """Kept results, small ones in the journal and big ones in files beside it, are there for the next engine."""
    calls: list[int] = []

    @task(cache_policy=INPUTS)
    async def blob(size: int) -> bytes:
        calls.append(size)
        return bytes(size)

    for _ in range(2):
        async with Engine(tmp_path / "app.db"):
            assert [len(await blob(size)) for size in (10, 1_000_000)] == [10, 1_000_000]
    assert calls == [10, 1_000_000]
    files = list((tmp_path / "app.db.results").iterdir())
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600]
    files[0].write_bytes(b"altered")
    async with Engine(tmp_path / "app.db"):
        assert len(await blob(1_000_000)) == 1_000_000
    assert calls == [10, 1_000_000, 1_000_000]
