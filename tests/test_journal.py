"""The journal's face: a documented SQLite file, and five views that anything that reads SQLite can query."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from undertow import Engine, Failed, InvalidOption, allow_failure, flow, tags, task
from undertow.engine.parameters import REPR_LENGTH
from undertow.storage import SQLiteJournal, writing

pytestmark = pytest.mark.real_time

VIEWS = {
    "flow_runs": (
        "id name flow version state_type state_name state_message parent_run_id attempts parameters tags created_at "
        "expected_start_at started_at ended_at owner"
    ),
    "task_runs": (
        "id name task flow_run_id parent_run_id map_index state_type state_name state_message attempts tags cache_key "
        "created_at started_at ended_at"
    ),
    "states": "run_id seq type name message at",
    "edges": "upstream_id downstream_id",
    "logs": "run_id at level logger message",
    "schedules": "name flow schedule parameters overlap catch_up decided_until paused_at owner",
}
ISO_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def rows(path: Path, sql: str, *values: object) -> list[dict[str, Any]]:
    """Rows as another program sees them, through a read-only connection of its own."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(sql, values)]


class StillClock:
    """A clock that stands still."""

    def now(self) -> int:
        return 1_767_225_600_000_001

    def block(self, seconds: float) -> None:
        raise AssertionError("nothing here waits in a thread")


@task
async def double(n: int) -> int:
    return 2 * n


@flow
async def doubled(n: int) -> int:
    return await double(n)


@flow
def same(n: int) -> int:
    return n


# --- the views -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", VIEWS)
def test_views_have_their_documented_columns(view: str, path: Path) -> None:
    """Each public view has exactly the columns that are documented, in that order."""
    with Engine(path):
        assert [row["name"] for row in rows(path, f"PRAGMA table_info({view})")] == VIEWS[view].split()


def test_views_are_the_six(path: Path) -> None:
    """The public views are flow_runs, task_runs, states, edges, logs and schedules, and no others."""
    with Engine(path):
        assert {row["name"] for row in rows(path, "SELECT name FROM sqlite_master WHERE type = 'view'")} == set(VIEWS)


async def test_flow_run_row(path: Path) -> None:
    """A flow run's row says who it was, what it was given, when it ran, and how it ended."""
    named = doubled.with_options(version="7", flow_run_name="twice-{n}", tags=["b", "a"])
    async with Engine(path):
        state = await named(4, return_state=True)
    (row,) = rows(path, "SELECT * FROM flow_runs")
    times = [row.pop(name) for name in ("created_at", "started_at", "ended_at")]
    assert times == sorted(times)
    assert all(ISO_UTC.fullmatch(time) for time in times)
    assert str(os.getpid()) in row.pop("owner")
    assert json.loads(row.pop("parameters")) == {"n": 4}
    assert json.loads(row.pop("tags")) == ["a", "b"]
    assert row == {
        "id": state.run_id,
        "name": "twice-4",
        "flow": "doubled",
        "version": "7",
        "state_type": "COMPLETED",
        "state_name": "Completed",
        "state_message": "All states completed." if state.message else "",
        "parent_run_id": None,
        "attempts": 1,
        "expected_start_at": None,
    }


async def test_task_run_row(path: Path) -> None:
    """A task run's row says which flow and which run it was part of, its place in a map, and how it ended."""

    @flow
    async def outer() -> None:
        with tags("blue"):
            await double.map([5, 6])

    async with Engine(path):
        flow_state = await outer(return_state=True)
    first, second = rows(path, "SELECT * FROM task_runs ORDER BY map_index")
    assert [first["map_index"], second["map_index"]] == [0, 1]
    assert first["name"] == f"double-{first['id'][-4:]}"
    assert first["flow_run_id"] == first["parent_run_id"] == flow_state.run_id
    assert (first["task"], first["attempts"], json.loads(first["tags"])) == ("double", 1, ["blue"])
    assert (first["state_type"], first["state_name"], first["state_message"]) == ("COMPLETED", "Completed", "")
    assert first["cache_key"] is None
    assert all(ISO_UTC.fullmatch(first[name]) for name in ("created_at", "started_at", "ended_at"))


async def test_relatives_in_rows(path: Path) -> None:
    """A task in a task belongs to the flow around both, a task outside any flow to none; a subflow has a parent."""

    @task
    async def outer_task() -> int:
        return await double(1)

    @flow
    async def parent() -> int:
        return await outer_task() + await doubled(1)

    async with Engine(path):
        await double(0)
        await parent()
    flows = rows(path, "SELECT id, flow AS function, parent_run_id FROM flow_runs ORDER BY id")
    tasks = rows(path, "SELECT id, task AS function, flow_run_id, parent_run_id FROM task_runs ORDER BY id")
    function_of = {None: None} | {row["id"]: row["function"] for row in flows + tasks}
    assert [(row["function"], function_of[row["parent_run_id"]]) for row in flows] == [
        ("parent", None),
        ("doubled", "parent"),
    ]
    family = [(row["function"], function_of[row["parent_run_id"]], function_of[row["flow_run_id"]]) for row in tasks]
    assert family == [
        ("double", None, None),
        ("outer_task", "parent", "parent"),
        ("double", "outer_task", "parent"),
        ("double", "doubled", "doubled"),
    ]


async def test_states_in_order(path: Path) -> None:
    """The states view has every transition of a run, in order, with type, name, message and time."""

    @task(retries=2, retry_delay_seconds=[0, 0.001])
    async def third_time_lucky() -> None:
        attempts.append(1)
        if len(attempts) < 3:
            raise ValueError("not yet")

    attempts: list[int] = []
    async with Engine(path):
        state = await third_time_lucky(return_state=True)
    story = rows(path, "SELECT * FROM states WHERE run_id = ? ORDER BY seq", state.run_id)
    assert [row["seq"] for row in story] == [1, 2, 3, 4, 5, 6]
    assert [(row["type"], row["name"]) for row in story] == [
        ("PENDING", "Pending"),
        ("RUNNING", "Running"),
        ("RUNNING", "Retrying"),
        ("SCHEDULED", "AwaitingRetry"),
        ("RUNNING", "Retrying"),
        ("COMPLETED", "Completed"),
    ]
    assert "0.001 s" in story[3]["message"]
    assert [row["at"] for row in story] == sorted({row["at"] for row in story})
    assert all(ISO_UTC.fullmatch(row["at"]) for row in story)
    assert rows(path, "SELECT attempts FROM task_runs") == [{"attempts": 3}]


async def test_times_are_exact(path: Path) -> None:
    """Times keep their microseconds, and where the clock stands still each state is one microsecond later."""
    async with Engine(path, clock=StillClock()):
        await double(1)
    assert rows(path, "SELECT name, at FROM states ORDER BY seq") == [
        {"name": "Pending", "at": "2026-01-01T00:00:00.000001Z"},
        {"name": "Running", "at": "2026-01-01T00:00:00.000002Z"},
        {"name": "Completed", "at": "2026-01-01T00:00:00.000003Z"},
    ]


async def test_edges(path: Path) -> None:
    """Edges tell which run needed which: a future anywhere in an argument, in `wait_for`, or let through failed."""

    @task
    async def join(*parts: Any, **named: Any) -> None:
        return None

    @flow
    async def graph() -> dict[str, str]:
        a, b, c, d = (double.submit(n) for n in range(4))
        end = join.submit([{"deep": (a,)}], b, key=allow_failure(c), wait_for=[d])
        await end
        return {"end": end.run_id, "a": a.run_id, "b": b.run_id, "c": c.run_id, "d": d.run_id}

    async with Engine(path):
        ids = await graph()
    edges = rows(path, "SELECT * FROM edges ORDER BY upstream_id")
    assert [edge["downstream_id"] for edge in edges] == [ids.pop("end")] * 4
    assert {edge["upstream_id"] for edge in edges} == set(ids.values())


# --- what people and programs write into it --------------------------------------------------------------------


class Opaque:
    """Something that JSON has no word for."""

    def __repr__(self) -> str:
        return "<" + "o" * 5000 + ">"


class Broken:
    """Something that can't even be shown."""

    def __repr__(self) -> str:
        raise ValueError("no repr today")


async def test_parameters_json_cant_say(path: Path) -> None:
    """A parameter that JSON can't say is its repr, cut to the documented length; the others stay as they are."""

    @flow
    async def given(plain: Any, opaque: Any, broken: Any, odd: Any) -> None:
        return None

    async with Engine(path):
        await given({"a": [1, None, True, "ü"]}, Opaque(), Broken(), float("nan"))
    (row,) = rows(path, "SELECT parameters, parameters ->> '$.plain.a[3]' AS letter FROM flow_runs")
    parameters = json.loads(row["parameters"])
    assert parameters["plain"] == {"a": [1, None, True, "ü"]}
    assert parameters["opaque"] == repr(Opaque())[:REPR_LENGTH]
    assert "Broken" in parameters["broken"]
    assert parameters["odd"] == "nan"
    assert row["letter"] == "ü"


async def test_a_parameter_that_holds_itself(path: Path) -> None:
    """A list that holds itself is a parameter like any other, whether or not futures are about; it is its repr."""

    @flow
    async def given(circle: Any) -> int:
        return await double.submit(len(circle))

    circle: list[Any] = []
    circle.append(circle)
    async with Engine(path):
        assert [await given(circle), await given(circle)] == [2, 2]
    assert rows(path, "SELECT DISTINCT parameters FROM flow_runs") == [{"parameters": '{"circle": "[[...]]"}'}]


@pytest.mark.parametrize("text", ['it\'s "bad" \\', "日本語 🎉", "line\nbreak", "half a \ud800 pair", "a \0 inside"])
async def test_any_text_in_a_message(text: str, path: Path) -> None:
    """A failure's message names the exception and its text, and can be read back whatever characters are in it."""

    @task
    async def failing() -> None:
        raise ValueError(text)

    async with Engine(path):
        await failing(return_state=True)
    (row,) = rows(path, "SELECT state_message FROM task_runs")
    (last,) = rows(path, "SELECT message FROM states WHERE type = 'FAILED'")
    assert row["state_message"] == last["message"]
    assert "ValueError" in last["message"]
    assert text[-5:] in last["message"]


@pytest.mark.parametrize("text", ["a'b\"c", "日本語", "half a \ud800 pair", "a \0 inside", "x" * 100_000])
async def test_any_text_in_a_name(text: str, path: Path) -> None:
    """The name of a function or of a run may be any text: it is written down, and the runs after it as well."""
    async with Engine(path):
        with anyio.fail_after(5):
            await doubled.with_options(name=text, flow_run_name=lambda: text)(1)
            await doubled(2)
    assert [row["state_type"] for row in rows(path, "SELECT name, state_type FROM flow_runs")] == ["COMPLETED"] * 2


async def test_a_message_that_is_no_text(path: Path) -> None:
    """A state made by hand with an exception for a message is written down as text, and so are the runs after it."""

    @task
    async def by_hand() -> Any:
        return Failed(message=ValueError("no rows"))  # type: ignore[arg-type]

    async with Engine(path):
        with anyio.fail_after(5):
            await by_hand(return_state=True)
            await doubled(1)
    assert "no rows" in rows(path, "SELECT state_message FROM task_runs WHERE task = 'by_hand'")[0]["state_message"]
    assert rows(path, "SELECT state_type FROM flow_runs") == [{"state_type": "COMPLETED"}]


# --- the file --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o022, 0o000, 0o077])
def test_files_are_private(umask: int, path: Path) -> None:
    """The journal and the files that SQLite puts beside it can be read by their owner only, whatever the umask."""
    before = os.umask(umask)
    try:
        with Engine(path):
            same(1)
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"app.db": 0o600, "app.db-wal": 0o600, "app.db-shm": 0o600}


def test_one_file_after_close(path: Path) -> None:
    """A closed journal is one sound file, which can be copied as it is."""
    with Engine(path):
        same(1)
    assert [file.name for file in path.parent.iterdir()] == ["app.db"]
    assert rows(path, "PRAGMA integrity_check") == [{"integrity_check": "ok"}]


async def test_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`:memory:` is a journal as any other, leaves no file, and is not shared."""
    monkeypatch.chdir(tmp_path)
    async with Engine(":memory:") as one, Engine(":memory:") as two:
        with one.active():
            await doubled(1)
        assert isinstance(one.journal, SQLiteJournal)
        assert isinstance(two.journal, SQLiteJournal)
        assert await anyio.to_thread.run_sync(one.journal.query, "SELECT flow FROM flow_runs") == [{"flow": "doubled"}]
        assert await anyio.to_thread.run_sync(two.journal.query, "SELECT flow FROM flow_runs") == []
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("durability", "synchronous"), [("process", 1), ("power", 2), ("none", 0)])
def test_durability(durability: Any, synchronous: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`process` commits without a sync between its regular ones, `power` syncs every group, `none` never does."""
    monkeypatch.setattr(writing, "SYNC_SECONDS", 3600)
    with Engine(path, durability=durability) as engine:
        same(1)
        same(2)
        assert isinstance(engine.journal, SQLiteJournal)
        assert engine.journal.query("PRAGMA synchronous") == [{"synchronous": synchronous}]
    assert rows(path, "SELECT count(*) AS runs FROM flow_runs") == [{"runs": 2}]


def test_process_durability_syncs_regularly(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `process`, a group that comes when the last sync is long ago is synced."""
    monkeypatch.setattr(writing, "SYNC_SECONDS", 0)
    with Engine(path) as engine:
        same(1)
        same(2)
        assert isinstance(engine.journal, SQLiteJournal)
        assert engine.journal.query("PRAGMA synchronous") == [{"synchronous": 2}]


@pytest.mark.parametrize("durability", ["full", "", 2])
def test_unknown_durability(durability: Any, path: Path) -> None:
    """Another durability is refused with the value and the allowed ones, before any file is made."""
    with pytest.raises(InvalidOption, match=r"durability=.*'process', 'power', 'none'") as caught:
        Engine(path, durability=durability)
    assert repr(durability) in str(caught.value)
    assert not path.exists()
