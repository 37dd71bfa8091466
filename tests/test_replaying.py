"""`replay`: what is recorded of a durable flow is run again against the present code, and no step is executed for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from undertow import (
    Engine,
    InvalidOption,
    JournalMissing,
    RunNotResumable,
    Skip,
    StepMismatch,
    flow,
    sleep,
    task,
    transaction,
)
from undertow.testing import replay

pytestmark = pytest.mark.real_time

ran: list[str] = []
"""What was executed, in order."""


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    ran.clear()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@task
async def price(item: str) -> int:
    ran.append(f"price {item}")
    return len(item)


@task
def pack(item: str) -> str:
    ran.append(f"pack {item}")
    return item.upper()


@task
async def refuse(item: str) -> None:
    ran.append(f"refuse {item}")
    raise ValueError(item)


@task
async def pass_over(item: str) -> None:
    raise Skip(f"no {item}")


@task
async def bulky() -> str:
    ran.append("bulky")
    return "x" * 300_000


def shop(body: Callable[[str], Any], **options: Any) -> Any:
    """The flow `order` with one body or another, as if its code had changed."""

    @flow(durable=True, **options)
    async def order(item: str) -> Any:
        ran.append(f"order {item}")
        return await body(item)

    return order


async def as_ever(item: str) -> list[Any]:
    prices = price.map([item, "wrapping"])
    return [await prices, await pack.submit(item)]


async def recorded(journal: Path, order: Any, *items: str) -> list[str]:
    """Run the flow, and return the ids of its runs, with nothing left in `ran`."""
    async with Engine(journal) as engine:
        for item in items:
            await order(item, return_state=True)
        rows = engine.journal.query("SELECT id FROM flow_runs WHERE parent_run_id IS NULL ORDER BY id")  # type: ignore[attr-defined]
    ran.clear()
    return [row["id"] for row in rows]


async def test_the_same_code(journal: Path) -> None:
    """Every recorded run of the flow is replayed, oldest first, and only the body of the flow itself is executed."""
    ids = await recorded(journal, shop(as_ever), "vase", "cup")
    assert replay(journal, shop(as_ever)) == ids
    assert ran == ["order vase", "order cup"]


async def test_one_run(journal: Path) -> None:
    """One run is replayed where its id is given."""
    ids = await recorded(journal, shop(as_ever), "vase", "cup")
    assert replay(journal, shop(as_ever), ids[1]) == [ids[1]]
    assert ran == ["order cup"]


async def test_the_journal_is_not_changed(journal: Path) -> None:
    """A replay leaves the journal, and what is beside it, as it is."""

    def everything() -> dict[str, str]:
        files = [file for file in journal.parent.rglob("*") if file.is_file()]
        return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    async def body(item: str) -> int:
        return len(await bulky())

    await recorded(journal, shop(body), "vase")
    before = everything()
    replay(journal, shop(body))
    assert len(before) == 2
    assert everything() == before
    assert ran == ["order vase"]


async def test_an_open_engine(journal: Path) -> None:
    """The journal of an open engine is replayed, with what it has recorded by now."""
    async with Engine(journal) as engine:
        assert await shop(as_ever)("vase") == [[4, 8], "VASE"]
        ran.clear()
        assert len(replay(engine, shop(as_ever))) == 1
        assert ran == ["order vase"]


async def another_step(item: str) -> list[Any]:
    return [await as_ever(item), await price("stamp")]


async def another_order(item: str) -> list[Any]:
    return [await pack.submit(f"my {item}"), await price(item)]


async def a_step_less(item: str) -> list[Any]:
    return [await price(item), await price("wrapping")]


async def a_sleep_more(item: str) -> list[Any]:
    await sleep(3600)
    return await as_ever(item)


async def swallowing(item: str) -> list[Any]:
    try:
        await price("stamp")
    except Exception:
        ran.append("swallowed")
    return await as_ever(item)


async def failing(item: str) -> None:
    await as_ever(item)
    raise KeyError(item)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (another_step, r"'order'.*calls task 'price', which is not recorded in run {id}; nothing else"),
        (another_order, r"'order'.*calls task 'pack', which is not recorded in run {id}; .*task 'price', task 'pack'"),
        (a_step_less, r"task 'pack' is recorded in flow 'order', which did not call it this time"),
        (a_sleep_more, r"'order'.*calls sleep\(3600\), which is not recorded in run {id}; .*task 'price', task 'pack'"),
        (swallowing, r"'order'.*calls task 'price', which is not recorded in run {id}"),
        (failing, r"run {id} is recorded as COMPLETED, and now ends Failed. .*KeyError"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_other_code(journal: Path, body: Any, message: str) -> None:
    """Code that does not do what is recorded fails with both sides named, and no step of it is executed."""
    (run_id,) = await recorded(journal, shop(as_ever), "vase")
    with pytest.raises(StepMismatch, match=message.format(id=run_id)):
        replay(journal, shop(body))
    assert not [each for each in ran if each.startswith(("price", "pack"))]


async def test_a_step_whose_code_changed(journal: Path) -> None:
    """A step whose recorded outcome is another code's fails, as it would when the run is resumed."""

    def weighing(better: bool) -> Any:
        if better:

            @task
            async def weigh(item: str) -> int:
                return 2 * len(item)
        else:

            @task
            async def weigh(item: str) -> int:
                return len(item)

        return weigh

    await recorded(journal, shop(weighing(False)), "vase")
    assert replay(journal, shop(weighing(False)))
    with pytest.raises(StepMismatch, match="task 'weigh' was recorded .* with other code than now"):
        replay(journal, shop(weighing(True)))


async def test_a_run_that_failed(journal: Path) -> None:
    """A run that failed is replayed to the same failure, at once: it is not tried again."""
    await recorded(journal, shop(refuse, retries=1), "vase")
    assert len(replay(journal, shop(refuse, retries=1, retry_delay_seconds=3600))) == 1
    assert ran == ["order vase"]
    with pytest.raises(StepMismatch, match="calls task 'price', which is not recorded.*task 'refuse'"):
        replay(journal, shop(price))


async def test_steps_without_outcome(journal: Path) -> None:
    """A step that was skipped, or cancelled, is so again; it is not executed."""

    @task
    async def linger() -> None:
        ran.append("lingers")
        await anyio.sleep_forever()

    async def body(item: str) -> list[str]:
        lingering = linger.submit()
        skipped = await pass_over(item, return_state=True)
        lingering.cancel()
        return [skipped.name, (await lingering.wait_async()).name]

    await recorded(journal, shop(body), "vase")
    assert len(replay(journal, shop(body))) == 1
    assert "lingers" not in ran


async def test_hooks_stay_silent(journal: Path) -> None:
    """No hook of the flow is called by a replay."""
    order = shop(as_ever, on_running=lambda *_: ran.append("runs"), on_completion=lambda *_: ran.append("completed"))
    await recorded(journal, order, "vase")
    replay(journal, order)
    assert ran == ["order vase"]


async def test_sleeps_subflows_and_transactions(journal: Path) -> None:
    """Recorded sleeps, subflows and transactions are replayed too, and none of them takes time."""

    @flow
    async def wrapped(item: str) -> str:
        ran.append("wrapped")
        return await pack.submit(item)

    async def body(item: str) -> str:
        await sleep(0.01)
        async with transaction():
            await price(item)
        await anyio.sleep(0.01)
        return await wrapped(item)

    await recorded(journal, shop(body), "vase")
    assert len(replay(journal, shop(body))) == 1
    assert ran == ["order vase"]


def test_in_a_thread(journal: Path) -> None:
    """Flows of sync functions are replayed as well, and `replay` needs no event loop around it."""

    @flow(durable=True)
    def order(item: str) -> str:
        ran.append("order")
        return f"{pack(item)} {pack.submit('paper').result()}"

    with Engine(journal):
        assert order("vase") == "VASE PAPER"
    ran.clear()
    assert len(replay(journal, order)) == 1
    assert ran == ["order"]


async def test_what_is_not_replayed(journal: Path) -> None:
    """Runs of other flows, and such as have neither completed nor failed, are left out, or refused where asked for."""

    async def cancelled(item: str) -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await shop(price)(item)

    @flow(durable=True)
    async def other(item: str) -> int:
        return await price(item)

    async with Engine(journal):
        await cancelled("vase")
    (left,) = await recorded(journal, other)
    with pytest.raises(RunNotResumable, match=f"{left}.*no durable run of that id has completed or failed"):
        replay(journal, shop(price), left)
    theirs = (await recorded(journal, other, "cup"))[-1]
    assert replay(journal, shop(price)) == []
    with pytest.raises(RunNotResumable, match=f"{theirs}.*it is a run of .*other, not of .*order"):
        replay(journal, shop(price), theirs)


def test_bad_arguments(journal: Path) -> None:
    """A journal in memory, a flow that is not durable and a file that is not there are refused by name."""
    with pytest.raises(InvalidOption, match="journal.*:memory:.*a journal in a file"):
        replay(":memory:", shop(price))
    with pytest.raises(InvalidOption, match="replay.*order.*durable=True"):
        replay(journal, shop(price).with_options(durable=False))
    with pytest.raises(JournalMissing, match="no such file"):
        replay(journal, shop(price))
