"""`engine.retry` and `engine.fork`: a recorded run again, from its failures or from a step of one's choice."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from undertow import Engine, InvalidOption, RunIdConflict, RunNotResumable, flow, task

pytestmark = pytest.mark.real_time

ran: list[Any] = []
factor = [1]
broken: set[Any] = set()


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    ran.clear()
    broken.clear()
    factor[:] = [1]


@task(task_run_name="{x}")
async def step(x: Any) -> Any:
    ran.append(x)
    if x in broken:
        raise ConnectionError(str(x))
    return f"{x} times {factor[0]}"


@flow
async def part(name: str) -> list[Any]:
    return [await step(f"{name}.{index}") for index in range(3)]


@flow(durable=True)
async def whole() -> list[Any]:
    results = [await step("a"), await part("b"), await part("c")]
    if "tolerant" not in broken:
        return [*results, await step("d")]
    try:
        results.append(await step("x"))
    except ConnectionError:
        results.append("failed")
    return [*results, await step("d")]


def ids(engine: Engine, run_id: str | None = None) -> dict[str, str]:
    """The ids of all task runs inside a flow run, by their names, in the order of their calls."""
    journal: Any = engine.journal
    found = journal.query(
        "WITH RECURSIVE inside(id) AS (SELECT ? UNION SELECT flow_runs.id FROM flow_runs JOIN inside"
        " ON flow_runs.parent_run_id = inside.id) SELECT id, name FROM task_runs WHERE flow_run_id IN inside ORDER BY id",
        (run_id or outermost(engine),),
    )
    return {row["name"]: row["id"] for row in found}


def outermost(engine: Engine) -> str:
    journal: Any = engine.journal
    return str(journal.query("SELECT id FROM flow_runs WHERE parent_run_id IS NULL ORDER BY id")[0]["id"])


def tables(path: Path) -> dict[str, list[Any]]:
    """All that is in a journal's file."""
    with closing(sqlite3.connect(path)) as connection:
        return {name: connection.execute(f"SELECT * FROM {name} ORDER BY 1").fetchall() for name in ("run", "result")}


# --- retry -----------------------------------------------------------------------------------------------------------


async def test_retry(tmp_path: Path) -> None:
    """`retry` runs only what failed, wherever it is in the tree, and what came after."""
    broken.add("c.1")
    async with Engine(tmp_path / "app.db") as engine:
        with pytest.raises(ConnectionError):
            await whole()
        ran.clear()
        broken.clear()
        assert await engine.retry(outermost(engine)) == [
            "a times 1", *([f"{name}.{index} times 1" for index in range(3)] for name in "bc"), "d times 1",
        ]  # fmt: skip
        assert ran == ["c.1", "c.2", "d"]


async def test_retry_after_an_interruption(tmp_path: Path) -> None:
    """After an interruption `resume` hands a recorded failure back, and `retry` tries it again."""
    broken.update(["x", "tolerant"])

    @flow(durable=True)
    async def tolerant() -> str:
        try:
            return str(await step("x"))
        except ConnectionError:
            if "interrupt" in broken:
                raise KeyboardInterrupt from None
            return "failed"

    async with Engine(tmp_path / "app.db") as engine:
        for again, expected, starts in ((engine.resume, "failed", 1), (engine.retry, "x times 1", 2)):
            broken.update(["interrupt", "x"])
            ran.clear()
            with pytest.raises(KeyboardInterrupt):
                await tolerant()
            broken.remove("interrupt")
            if again == engine.retry:
                broken.remove("x")
            [run_id] = [
                row["id"] for row in engine.journal.query("SELECT id FROM flow_runs WHERE state_name = 'Crashed'")
            ]  # type: ignore[attr-defined]
            assert await again(run_id) == expected
            assert len(ran) == starts


async def test_retry_of_what_did_not_fail(tmp_path: Path) -> None:
    """A run that completed can't be retried, nor one that is not there; the error says so."""
    async with Engine(tmp_path / "app.db") as engine:
        await whole()
        with pytest.raises(RunNotResumable, match="not in a state to resume from: Failed or Crashed or Cancelled"):
            await engine.retry(outermost(engine))
        with pytest.raises(RunNotResumable, match="'nobody'.*no durable run of that id"):
            await engine.retry("nobody")


# --- fork ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "fresh"),
    [
        ("a", ["a", "b.0", "b.1", "b.2", "c.0", "c.1", "c.2", "d"]),
        ("b.1", ["b.1", "b.2", "c.0", "c.1", "c.2", "d"]),
        ("c.0", ["c.0", "c.1", "c.2", "d"]),
        ("d", ["d"]),
    ],
)
async def test_fork(tmp_path: Path, at: str, fresh: list[str]) -> None:
    """A fork is handed what was called before the step, also deep inside a subflow, and runs that step and the rest anew."""
    async with Engine(tmp_path / "app.db") as engine:
        await whole()
        origin, steps = outermost(engine), ids(engine)
        before = engine.journal.query("SELECT * FROM task_runs ORDER BY id")  # type: ignore[attr-defined]
        ran.clear()
        factor[:] = [2]
        future = await engine.fork(origin, at=steps[at])
        a, b, c, d = await future
        results = dict(zip(steps, [a, *b, *c, d], strict=True))
        assert results == {name: f"{name} times {2 if name in fresh else 1}" for name in steps}
        assert ran == fresh
        assert future.run_id != origin
        after = engine.journal.query("SELECT * FROM task_runs ORDER BY id")  # type: ignore[attr-defined]
        assert after[: len(before)] == before, "the fork changed the run that it was made of"
        assert ids(engine, future.run_id).keys() >= {"a", *fresh, "d"}


async def test_fork_of_a_subflow(tmp_path: Path) -> None:
    """A fork at a subflow runs the whole subflow anew."""
    async with Engine(tmp_path / "app.db") as engine:
        await whole()
        [_, second] = [
            row["id"] for row in engine.journal.query("SELECT id FROM flow_runs WHERE flow = 'part' ORDER BY id")
        ]  # type: ignore[attr-defined]
        ran.clear()
        await (await engine.fork(outermost(engine), at=second))
        assert ran == ["c.0", "c.1", "c.2", "d"]


async def test_a_fork_is_durable_itself(tmp_path: Path) -> None:
    """A fork that fails can be resumed, and forked, like the run that it was made of."""
    async with Engine(tmp_path / "app.db") as engine:
        await whole()
        broken.add("d")
        future = await engine.fork(outermost(engine), at=ids(engine)["c.1"], new_id="second")
        with pytest.raises(ConnectionError):
            await future
        broken.clear()
        ran.clear()
        await engine.resume("second")
        assert ran == ["d"]
        third = await engine.fork("second", at=ids(engine, "second")["c.2"])
        await third
        assert ran == ["d", "c.2", "d"]
        assert list(ids(engine, third.run_id)) == ["a", "c.0", "c.1", "c.2", "d"]  # the other subflow as a whole


async def test_what_can_not_be_forked(tmp_path: Path) -> None:
    """A fork needs the id of one step, or the beginning of one, and an id that is free; nothing is written otherwise."""
    path = tmp_path / "app.db"
    async with Engine(path) as engine:
        await whole()
        origin, steps = outermost(engine), ids(engine)
        before = tables(path)
        for at, problem in (
            ("nothing", "no step"),
            ("", "no step"),
            (steps["a"][:4], r"\d+ steps"),
            (origin, "no step"),
        ):
            with pytest.raises(RunNotResumable, match=f"{problem} in it has the id '{at}'.*one of its task runs"):
                await engine.fork(origin, at=at)
        with pytest.raises(RunNotResumable, match="no durable run"):
            await engine.fork("nobody", at=steps["a"])
        with pytest.raises(RunIdConflict, match=origin):
            await engine.fork(origin, at=steps["a"], new_id=origin)
        with pytest.raises(InvalidOption, match="'no id!'"):
            await engine.fork(origin, at=steps["a"], new_id="no id!")
        engine.journal.commit().wait()
        assert tables(path) == before


async def test_a_fork_at_the_beginning_of_an_id(tmp_path: Path) -> None:
    """The beginning of a step's id is enough where there is only one such step."""
    async with Engine(tmp_path / "app.db") as engine:
        await whole()
        ran.clear()
        await (await engine.fork(outermost(engine), at=ids(engine)["d"][:-1]))
        assert ran == ["d"]
