"""Durable flows whose code changed: nothing is handed to another call than it was recorded for, unless one says so."""

from __future__ import annotations

import gc
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from undertow import (
    Engine,
    InvalidOption,
    RunNotResumable,
    SignatureMismatch,
    StepMismatch,
    UndertowError,
    flow,
    task,
)

if TYPE_CHECKING:
    from conftest import ListJournal

SHOP = """
from undertow import flow, task

ran, trouble = [], []

@task
async def price(item):
    ran.append(f"price {item}")
    return len(item)

@task
async def total(prices):
    ran.append("total")
    return sum(prices)

@task(key="{item}")
async def pack(item, paper):
    ran.append(f"pack {item}")
    return f"{item} in {paper}"

@task
async def send(parcel):
    ran.append("send")
    return "sent " + parcel

@flow
async def wrapped(item):
    return await pack(item, "brown")

@flow(durable=True, retries=1, retry_condition_fn=lambda *_: not trouble)
async def order(items):
    prices = price.map(items)
    sum_ = total.submit(list(prices))
    results = [await sum_, await wrapped(items[0])]
    if trouble:
        raise trouble[0]
    return [*results, await send(results[1])]
"""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Writes a module with some texts replaced by others, and imports it in place of the last one."""
    versions = iter(range(100))

    def load(*changes: tuple[str, str]) -> ModuleType:
        source = SHOP
        sys.modules.pop("shop", None)
        gc.collect()  # the version before is gone, as it would be in another process
        for old, new in changes:
            assert old in source
            source = source.replace(old, new)
        file = tmp_path / f"shop{next(versions)}.py"
        file.write_text(source)
        spec = spec_from_file_location("shop", file)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules["shop"] = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    del sys.modules["shop"]


ITEMS = ["tea", "cake"]


async def fallen(shop: Callable[..., Any]) -> str:
    """A run of the shop's first version that failed after everything but the last step."""
    module = shop()
    module.trouble.append(ValueError("half way"))
    state = await module.order(ITEMS, return_state=True)
    assert sorted(module.ran) == ["pack tea", "price cake", "price tea", "total"]
    return str(state.run_id)


# --- the code of a step --------------------------------------------------------------------------------------------


async def test_changed_code(engine: Engine, journal: ListJournal, shop: Callable[..., Any]) -> None:
    """A step whose code is another than the recorded is an error that names the step, its run, and what one can do."""
    run_id = await fallen(shop)
    module = shop(("return sum(prices)", "return sum(prices) + 1"))
    before = dict(journal.kept)
    with pytest.raises(StepMismatch) as mismatch:
        await engine.resume(run_id)
    recorded = journal.of("total")[0].id
    for part in ("'total'", f"run {recorded}", "other code", "on_mismatch='rerun'", "on_mismatch='accept'"):
        assert part in str(mismatch.value)
    assert module.ran == [], "something ran before the mismatch was seen, or after it"
    assert journal.kept == before, "a mismatch leaves what is recorded as it was"
    shop()
    assert await engine.resume(run_id) == [7, "tea in brown", "sent tea in brown"], "the change was undone"


async def test_rerun(engine: Engine, shop: Callable[..., Any]) -> None:
    """With `on_mismatch="rerun"` changed steps run again, and so does what is given other results; the rest does not."""
    run_id = await fallen(shop)
    module = shop(("return len(item)", "return len(item) * 10"))
    assert await engine.resume(run_id, on_mismatch="rerun") == [70, "tea in brown", "sent tea in brown"]
    assert sorted(module.ran) == ["price cake", "price tea", "send", "total"]


async def test_accept(engine: Engine, shop: Callable[..., Any]) -> None:
    """With `on_mismatch="accept"` recorded results are taken as they are, whatever the code says now."""
    run_id = await fallen(shop)
    module = shop(("return len(item)", "return len(item) * 10"), ("return sum(prices)", "return 0"))
    assert await engine.resume(run_id, on_mismatch="accept") == [7, "tea in brown", "sent tea in brown"]
    assert module.ran == ["send"]


@pytest.mark.parametrize(("choice", "total"), [("rerun", 8), ("accept", 7)])
async def test_the_choice_of_the_flow(engine: Engine, shop: Callable[..., Any], choice: str, total: int) -> None:
    """`@flow(on_mismatch=...)` decides where `resume` is not told, and `resume` overrides it."""
    change = ("return sum(prices)", "return sum(prices) + 1")
    declared = ("@flow(durable=True,", f"@flow(durable=True, on_mismatch={choice!r},")
    run_id = await fallen(shop)
    shop(change, declared)
    with pytest.raises(StepMismatch):
        await engine.resume(run_id, on_mismatch="raise")
    assert (await engine.resume(run_id))[0] == total


async def test_changed_inputs(engine: Engine, shop: Callable[..., Any]) -> None:
    """A step with an explicit key that is given other arguments than the recorded is an error that says so."""
    run_id = await fallen(shop)
    module = shop(('pack(item, "brown")', 'pack(item, "red")'))
    with pytest.raises(StepMismatch, match=r"'wrapped' .* was recorded .* with other code"):
        await engine.resume(run_id)
    module = shop(
        (
            "    results = [await sum_, await wrapped(items[0])]",
            '    results = [await sum_, await pack(items[0], "red")]',
        )
    )
    assert await engine.resume(run_id, on_mismatch="rerun") == [7, "tea in red", "sent tea in red"]
    assert module.ran == ["pack tea", "send"]


async def test_a_key_given_other_arguments(engine: Engine, journal: ListJournal) -> None:
    """An explicit key says which step it is, and the digest of its inputs whether it is still the same."""
    paper, ran = ["brown"], []

    @task(key="{item}")
    async def pack(item: str, paper: str) -> str:
        ran.append(paper)
        return paper

    @flow(durable=True)
    async def order() -> str:
        packed = await pack("tea", paper[0])
        if paper == ["brown"]:
            raise ValueError("half way")
        return packed

    with pytest.raises(ValueError, match="half way"):
        await order()
    paper[:] = ["red"]
    run_id = journal.of("order")[0].id
    with pytest.raises(StepMismatch, match=r"task 'pack' was recorded .* with other inputs than now"):
        await engine.resume(run_id)
    assert await engine.resume(run_id, on_mismatch="rerun") == "red"
    assert ran == ["brown", "red"]


async def test_a_retry_does_not_get_round_a_mismatch(engine: Engine, shop: Callable[..., Any]) -> None:
    """A flow with retries ends at a mismatch: trying again would not help, and must not accept what is recorded."""
    run_id = await fallen(shop)
    module = shop(("return sum(prices)", "return sum(prices) + 1"))
    with pytest.raises(StepMismatch):
        await engine.resume(run_id)
    assert "send" not in module.ran


async def test_what_is_no_change(engine: Engine, shop: Callable[..., Any]) -> None:
    """The flow's own code may change, lines may move, and steps may be added, as long as the recorded calls are made."""
    run_id = await fallen(shop)
    module = shop(
        ("from undertow", "# a comment above\n\nfrom undertow"),
        ("    if trouble:\n        raise trouble[0]\n", "    await price('a new one')\n"),
    )
    assert await engine.resume(run_id) == [7, "tea in brown", "sent tea in brown"]
    assert module.ran == ["price a new one", "send"]


async def test_objects_that_can_be_called(engine: Engine, journal: ListJournal) -> None:
    """A task made of an object that can be called has the same code in every process, wherever the object is in memory."""

    class Adder:
        def __init__(self, by: int) -> None:
            self.by = by

        def __call__(self, x: int) -> int:
            return x + self.by

    attempts: list[Any] = []

    @flow(durable=True)
    async def whole() -> int:
        attempts.append(task(Adder(1)))  # kept, so that the next one is not made in its place
        result: int = await attempts[-1].submit(1)
        if len(attempts) == 1:
            raise ValueError("half way")
        return result

    with pytest.raises(ValueError, match="half way"):
        await whole()
    assert await engine.resume(journal.of("whole")[0].id) == 2


# --- another way through the body ------------------------------------------------------------------------------------


async def test_a_call_that_is_gone(engine: Engine, shop: Callable[..., Any]) -> None:
    """A body that does not make a recorded call any more is an error that names it, and what is called in its place."""
    run_id = await fallen(shop)
    shop(("await wrapped(items[0])", 'await send("nothing")'))
    with pytest.raises(StepMismatch) as mismatch:
        await engine.resume(run_id)
    for part in ("flow 'wrapped' is recorded in flow 'order'", "did not call it this time", "but called task 'send'"):
        assert part in str(mismatch.value)
    shop(("await wrapped(items[0])", '"nothing"'))
    assert await engine.resume(run_id, on_mismatch="accept") == [7, "nothing", "sent nothing"]


@pytest.mark.parametrize("choice", ["rerun", "accept"])
async def test_another_way_that_is_wanted(engine: Engine, shop: Callable[..., Any], choice: Any) -> None:
    """A body that makes other calls than recorded just makes them where the user said so."""
    run_id = await fallen(shop)
    module = shop(("await wrapped(items[0])", 'await send("nothing")'))
    assert await engine.resume(run_id, on_mismatch=choice) == [7, "sent nothing", "sent sent nothing"]
    assert module.ran == ["send", "send"]


# --- what can't go on at all -----------------------------------------------------------------------------------------


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("change", "error", "problem"),
    [
        (("async def order", "async def renamed"), RunNotResumable, "flow shop.order is not loaded"),
        (("async def order(items)", "async def order(items, address)"), SignatureMismatch, "'address'"),
        (("@flow(durable=True,", "@flow("), RunNotResumable, "not durable"),
    ],
    ids=["renamed", "another signature", "not durable"],
)
async def test_what_can_not_go_on(
    tmp_path: Path, shop: Callable[..., Any], change: tuple[str, str], error: type[UndertowError], problem: str
) -> None:
    """A flow that is gone, takes other parameters, or is not durable any more, is refused; its run is left as it is."""
    async with Engine(tmp_path / "app.db"):
        run_id = await fallen(shop)
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        before = list(connection.execute("SELECT * FROM run"))
        module = shop(change)
        async with Engine(tmp_path / "app.db") as engine:
            with pytest.raises(error, match=problem):
                await engine.resume(run_id)
            with pytest.raises(InvalidOption, match=r"on_mismatch='perhaps'.*'raise', 'rerun', 'accept'"):
                await engine.resume(run_id, on_mismatch="perhaps")  # type: ignore[arg-type]
        assert list(connection.execute("SELECT * FROM run")) == before
    assert module.ran == []
