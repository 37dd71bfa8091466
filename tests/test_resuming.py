"""Resuming durable runs from the file: after a failure, a cancellation, and a death at any instant of their lives."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

import undertow
from undertow import INPUTS, Engine, JournalError, RunNotResumable, UpstreamFailed, flow, task
from undertow.engine.ports import Record
from undertow.engine.waking import Reply
from undertow.storage import SQLiteJournal

MakeEngine = Callable[..., Engine]

ran: list[Any] = []
"""What began to run, in every life of a flow."""
given: list[Any] = []
"""What bodies of flows were given, in every life."""
trouble: list[Exception] = []
"""What the next flow that looks for it raises."""


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    for each in (ran, given, trouble):
        each.clear()


# --- the file, in virtual time -----------------------------------------------------------------------------------------


class PatientJournal(SQLiteJournal):
    """A journal that holds the caller until it has answered, so that virtual time stands still meanwhile."""

    def commit(self) -> Reply[None]:
        return answered(super().commit())

    def _ask(self, *question: Any) -> Reply[Any]:
        return answered(super()._ask(*question))


def answered(reply: Reply[Any]) -> Reply[Any]:
    with suppress(JournalError):
        reply.wait()
    return reply


def left_behind(path: Path, to: Path) -> Path:
    """A copy of a journal as it is on disk now, with its process dead."""
    with closing(sqlite3.connect(path)) as connection:
        to.write_bytes(connection.serialize())
    with closing(sqlite3.connect(to)) as connection, connection:
        connection.execute("UPDATE owner SET started = 'long ago'")
    return to


def rows(engine: Engine, sql: str, *values: Any) -> list[tuple[Any, ...]]:
    """What a query on the open journal gives."""
    return [tuple(row.values()) for row in engine.journal.query(sql, values)]  # type: ignore[attr-defined]


def story(engine: Engine, run_id: str) -> list[str]:
    """The names of the states that a run went through."""
    return [name for (name,) in rows(engine, "SELECT name FROM states WHERE run_id = ? ORDER BY seq", run_id)]


def outermost(engine: Engine) -> str:
    """The id of the only outermost flow run."""
    [(run_id,)] = rows(engine, "SELECT id FROM flow_runs WHERE parent_run_id IS NULL")
    return str(run_id)


# --- a flow of many kinds of steps -------------------------------------------------------------------------------------


@attrs.frozen
class Parcel:
    """A result of a class of its own."""

    name: str
    parts: frozenset[int]


class Refused(Exception):
    """An error with an attribute that is no argument."""

    def __init__(self, code: int) -> None:
        super().__init__(f"refused with {code}")
        self.code = code
        self.add_note("please ask again")


@task
async def step(x: Any) -> Any:
    ran.append(x)
    await anyio.sleep(1)
    return x


@task(retries=2, retry_delay_seconds=30)
async def stubborn() -> str:
    ran.append("stubborn")
    if undertow.runtime.task_run.run_count < 2:
        raise ConnectionError("not yet")
    return "stubborn"


@task
async def refusing(code: int) -> None:
    ran.append(code)
    raise Refused(code)


@task(cache_policy=INPUTS)
async def cached(x: int) -> Parcel:
    ran.append(f"cached {x}")
    return Parcel("cached", frozenset({x}))


@task
async def outer(x: int) -> list[Any]:
    return [await step(f"inner {x}"), await step.submit(f"member {x}")]


@task
def plain(x: str) -> str:
    ran.append(x)
    return x


@flow
async def part(name: str) -> Any:
    return [await deliver(step(f"{name} {index}")) for index in range(2)]


@flow(durable=True)
async def short(x: int) -> str:
    await plain.submit(str(x))
    if trouble:
        raise trouble.pop()
    return "done"


async def deliver(result: Any) -> Any:
    value = await result
    given.append(value)
    return value


@flow(durable=True)
async def whole(n: int) -> dict[str, Any]:
    mapped = step.map(range(n))
    parts = part.submit("part")
    result: dict[str, Any] = {"first": await deliver(step("first")), "mapped": await mapped}
    given.extend(result["mapped"])
    await undertow.sleep(10)
    with pytest.raises(Refused) as refused:
        await refusing(7)
    given.append(7)
    result |= {"refused": refused.value.code, "outer": await outer(1), "stubborn": await deliver(stubborn())}
    result |= {"cached": [await cached(1), await cached(1)], "plain": plain("plain"), "parts": await parts}
    given.append("plain")
    if trouble:
        raise trouble.pop()
    return result | {"last": await deliver(step("last"))}


EXPECTED = {
    "first": "first",
    "mapped": [0, 1, 2],
    "refused": 7,
    "outer": ["inner 1", "member 1"],
    "stubborn": "stubborn",
    "cached": [Parcel("cached", frozenset({1}))] * 2,
    "plain": "plain",
    "parts": ["part 0", "part 1"],
    "last": "last",
}
STEPS = {"step": 9, "refusing": 1, "outer": 1, "stubborn": 1, "cached": 2, "plain": 1}


# --- after a failure, a cancellation, a close --------------------------------------------------------------------------


async def test_after_a_failure(make_engine: MakeEngine, path: Path) -> None:
    """A flow that failed goes on: completed steps are handed back, of the same types, and failed ones are tried again."""
    trouble.append(ValueError("half way"))
    async with make_engine(journal=PatientJournal(path)):
        state = await whole(3, return_state=True)
        assert state.is_failed()
    before = Counter(map(str, ran))
    ran.clear()
    async with make_engine(journal=PatientJournal(path)) as engine:
        assert await engine.resume(state.run_id) == EXPECTED
        assert ran == [7, "last"]
        assert before == Counter(
            map(
                str,
                [
                    "first",
                    0,
                    1,
                    2,
                    7,
                    "inner 1",
                    "member 1",
                    "stubborn",
                    "stubborn",
                    "cached 1",
                    "plain",
                    "part 0",
                    "part 1",
                ],
            )
        )
        assert story(engine, state.run_id) == ["Pending", "Running", "Failed", "Resuming", "Retrying", "Completed"]


async def test_what_is_in_the_journal_afterwards(make_engine: MakeEngine, path: Path) -> None:
    """A resumed run keeps its id and its rows: one for each step, with the whole story, and edges between them."""

    @task
    async def second(x: Any) -> Any:
        if trouble:
            raise trouble.pop()
        return x

    @flow(durable=True)
    async def chain() -> Any:
        first = step.submit("first")
        return await second.submit(first)

    trouble.append(ValueError("half way"))
    async with make_engine(journal=PatientJournal(path)) as engine:
        state = await chain(return_state=True)
        ids = rows(engine, "SELECT id, task FROM task_runs ORDER BY id")
        edges = rows(engine, "SELECT * FROM edges")
        assert await engine.resume(state.run_id) == "first"
        assert rows(engine, "SELECT id, task FROM task_runs ORDER BY id") == ids
        assert rows(engine, "SELECT * FROM edges") == edges == [(ids[0][0], ids[1][0])]
        assert story(engine, ids[0][0]) == ["Pending", "Running", "Completed"]
        assert story(engine, ids[1][0]) == ["Pending", "Running", "Failed", "Resuming", "Retrying", "Completed"]
        assert rows(engine, "SELECT state_name, attempts, parent_run_id FROM flow_runs") == [("Completed", 2, None)]


async def test_what_a_skipped_step_needed(make_engine: MakeEngine, path: Path) -> None:
    """What is skipped in a resumed flow needed a run that there is: the one that has gone on, under its own id."""

    @flow(durable=True)
    async def chain() -> Any:
        return await step.submit(refusing.submit(7))

    async with make_engine(journal=PatientJournal(path)) as engine:
        state = await chain(return_state=True)
        with pytest.raises(UpstreamFailed):
            await engine.resume(state.run_id)
        [(refused,)] = rows(engine, "SELECT id FROM task_runs WHERE task = 'refusing'")
        assert {upstream for upstream, _ in rows(engine, "SELECT * FROM edges")} == {refused}


async def test_after_a_cancellation(make_engine: MakeEngine, path: Path) -> None:
    """A flow that was cancelled goes on where it was: what had been recorded stays, what was under way runs again."""
    async with make_engine(journal=PatientJournal(path)) as engine:
        with anyio.move_on_after(12.5):  # within the second half of `outer`
            await whole(3)
        run_id = outermost(engine)
        assert story(engine, run_id) == ["Pending", "Running", "Cancelled"]
        assert ran[-1] == "member 1"
        ran.clear()
        assert await engine.resume(run_id) == EXPECTED
        assert Counter(map(str, ran)) == Counter(["member 1", "stubborn", "stubborn", "cached 1", "plain", "last"])


async def test_resumed_again_and_again(make_engine: MakeEngine, path: Path) -> None:
    """A run may fail and be resumed any number of times, each time from where it was."""
    async with make_engine(journal=PatientJournal(path)) as engine:
        trouble.append(ValueError("half way"))
        state = await whole(3, return_state=True)
        for _ in range(3):
            ran.clear()
            trouble.append(ValueError("again"))
            with pytest.raises(ValueError, match="again"):
                await engine.resume(state.run_id)
            assert ran == [7]
        assert await engine.resume(state.run_id) == EXPECTED


async def test_big_results(make_engine: MakeEngine, path: Path) -> None:
    """Results too big for the journal are files beside it; they are handed back like any other."""

    @task
    async def blob(size: int) -> bytes:
        ran.append(size)
        return bytes(size)

    @flow(durable=True)
    async def carrier() -> list[int]:
        sizes = [len(await blob(size)) for size in (10, 10_000, 1_000_000)]
        if trouble:
            raise trouble.pop()
        return sizes

    trouble.append(ValueError("half way"))
    async with make_engine(journal=PatientJournal(path)) as engine:
        state = await carrier(return_state=True)
        assert [file.stat().st_size > 1_000_000 for file in path.with_name("app.db.results").iterdir()] == [True]
        assert await engine.resume(state.run_id) == ran == [10, 10_000, 1_000_000]


async def test_a_sync_flow(make_engine: MakeEngine, path: Path) -> None:
    """A durable `def` flow is resumed from async code like any other, its body in a thread."""

    @flow(durable=True)
    def sync_whole(n: int) -> list[str]:
        early = [plain(f"{n}"), *plain.map(["a", "b"]).result()]
        if trouble:
            raise trouble.pop()
        return [*early, plain("last")]

    trouble.append(ValueError("half way"))
    with Engine(path):
        run_id = sync_whole(1, return_state=True).run_id
    ran.clear()
    async with make_engine(journal=PatientJournal(path)) as engine:
        assert await engine.resume(str(run_id)) == ["1", "a", "b", "last"]
        assert ran == ["last"]


async def test_a_copy_with_other_options(make_engine: MakeEngine, path: Path) -> None:
    """A run is resumed as what its module defines, whatever copies with other options were made, and are gone."""
    trouble.append(ValueError("half way"))
    async with make_engine(journal=PatientJournal(path)) as engine:
        state = await whole.with_options(name="copy")(3, return_state=True)
        copies = [flow(whole.fn), whole.with_options(durable=False)]
        ran.clear()
        assert await engine.resume(state.run_id) == EXPECTED
        assert ran == [7, "last"]
        del copies


@pytest.mark.real_time
async def test_two_who_resume(path: Path) -> None:
    """Of two that resume a run at once one gets it; the other is refused, and told why."""
    trouble.append(ValueError("half way"))
    results: list[Any] = []

    async def resume(engine: Engine) -> None:
        try:
            results.append(await engine.resume(str(state.run_id)))
        except RunNotResumable as error:
            results.append(str(error))

    async with Engine(path) as one, Engine(path) as two:
        state = await short(1, return_state=True)
        async with anyio.create_task_group() as group:
            for engine in (one, two, one):
                group.start_soon(resume, engine)
    assert results.count("done") == 1
    assert sum("perhaps it completed, or runs" in str(result) for result in results) == 2
    assert ran == ["1"]


# --- after a death, at any instant -------------------------------------------------------------------------------------


class Witness(PatientJournal):
    """A journal that copies itself at every change: each copy is what a process killed then would have left behind."""

    def __init__(self, path: Path, folder: Path) -> None:
        super().__init__(path)
        self.folder = folder
        self.copies: list[tuple[Path, Counter[str], int]] = []
        self._copying = False

    def copy(self, *_: Any) -> None:
        if not self._copying and self._service is not None:
            self._copying = True
            self.commit()
            copy = left_behind(Path(self.path), self.folder / f"{len(self.copies)}.db")
            self.copies.append((copy, Counter(map(str, given)), len(ran)))
            self._copying = False

    def keep(self, key: str, record: Record) -> None:
        super().keep(key, record)
        self.copy()  # the result is on disk, and nothing yet that says that the run has ended


async def test_after_a_death_at_any_instant(make_engine: MakeEngine, tmp_path: Path) -> None:
    """From every prefix of its journal a run ends with the same result, and what a body was given never runs again."""
    journal = Witness(tmp_path / "app.db", tmp_path)
    async with make_engine(journal=journal, observers=[journal.copy]):
        assert await whole(3) == EXPECTED
    begun = list(ran)
    assert len(journal.copies) > 50
    for copy, delivered, so_far in journal.copies:
        ran.clear()
        given.clear()
        async with make_engine(journal=PatientJournal(copy)) as engine:
            if not rows(engine, "SELECT id FROM flow_runs WHERE state_name = 'Crashed'"):
                continue  # it had not begun, or was over
            run_id = outermost(engine)
            assert await engine.resume(run_id) == EXPECTED
            assert not Counter(map(str, ran)) & delivered, "what had been delivered ran again"
            assert [*begun[:so_far], *ran].count("stubborn") <= 3, (
                "more attempts than one that failed, one that was broken off, and the last"
            )
            assert story(engine, run_id)[-1] == "Completed"
            assert dict(rows(engine, "SELECT task, count(*) FROM task_runs GROUP BY task")) == STEPS
            states = set(rows(engine, "SELECT task, state_type FROM task_runs"))
            assert states == {(name, "FAILED" if name == "refusing" else "COMPLETED") for name in STEPS}
