"""What the tests of the command line stand on: a folder with flows, the command itself, journals made by hand, and a
process that writes a journal while it is looked at."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from undertow.console.command import cli
from undertow.console.records import Change, RunRecord
from undertow.storage.schema import SCHEMA

JOBS = '''
import subprocess
from undertow import Skip, flow, get_run_logger, tags, task

@task(retries=2)
async def fetch(n: int) -> int:
    if n in (17, 203):
        raise ValueError(f"no rows at {n}")
    return n

@task
async def add(rows: list[int]) -> int:
    return sum(rows)

@flow
async def report(rows: list[int]) -> int:
    return await add(rows)

@flow
async def nightly(n: int = 300) -> dict[str, int]:
    """Three hundred tasks, two of them bad, then a subflow."""
    rows = [await f for f in fetch.map(range(n)) if (await f.wait_async()).is_completed()]
    return {"rows": len(rows), "total": await report(rows)}

@flow
async def strict(n: int = 20) -> None:
    await fetch.map(range(n))

@flow
async def chain() -> int:
    return await add.submit([fetch.submit(1), fetch.submit(2)])

@flow
async def nested() -> None:
    await strict()

@flow
async def careless() -> None:
    bad = fetch.submit(17)
    add.submit([bad])

@flow
def echo(text: str, count: float = 1, *, more: list[int] | str = "") -> list[object]:
    return [text, count, more]

@flow
def loud() -> set[int]:
    print("from the body")
    subprocess.run(["echo", "from a child"])
    get_run_logger().info("from the log")
    return {1}

@task
async def broken(n: int) -> None:
    raise RuntimeError("no")

@task
async def down(n: int) -> int:
    return n and await down(n - 1)

@flow
async def extremes() -> list[int]:
    broken.map(range(12))
    await down(50)
    return list(range(1000))

@flow
def idle() -> None:
    raise Skip("nothing new")

@flow
def leaves() -> None:
    raise SystemExit(3)

@task(task_run_name="[red]x[/red]\\x1b[31m\\r{n}")
async def hostile(n: int) -> None:
    raise ValueError("[/nope]\\x1b]0;title\\x07 \\u202e")

@flow(flow_run_name="[b]n\\u00e4me[/b]\\x1b[2J")
async def odd() -> None:
    await hostile(1)

def plain() -> None: ...
'''

STUCK = """
import sys, threading
from undertow import flow
from undertow.engine.context import current_core

@flow
def waits():
    current_core().journal.commit().wait()
    print("begun", file=sys.stderr, flush=True)
    threading.Event().wait()
"""

BUSY = """
import sys, threading
import anyio
from undertow import Engine, flow, runtime, task

@task(retries=1)
async def work(n):
    if n % 7 == 3:
        raise ValueError(f"bad {n}")
    await anyio.sleep(0)

@flow
async def busy(journal, done):
    log = lambda text: journal.log(runtime.flow_run.id, 0, "INFO", "busy", text)
    log("first")
    rounds = 0
    while not done.is_set():
        for future in work.map(range(8)):
            await future.wait_async()
        await anyio.sleep(0.02)
        rounds += 1
        if rounds == 3:
            await journal.commit()
            print("begun", file=sys.stderr, flush=True)
    log("last")

async def main():
    done = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
    async with Engine(sys.argv[1]) as engine:
        await busy(engine.journal, done, return_state=True)

anyio.run(main)
"""

Invoke = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with modules of flows, which is the current one; its journal is the default."""
    (tmp_path / "jobs.py").write_text(JOBS)
    (tmp_path / "stuck.py").write_text(STUCK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNDERTOW_JOURNAL", "runs.db")
    for variable in ("FORCE_COLOR", "COLUMNS", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def undertow(folder: Path) -> Invoke:
    """The command, in this process."""
    return lambda *words, **options: CliRunner().invoke(cli, words, **options)


@pytest.fixture
def complaint() -> Callable[[Result], str]:
    """The one line of complaint of a command; fails when there is anything else."""

    def of(result: Result) -> str:
        assert (result.exit_code, result.stdout) == (2, ""), result.output
        assert result.stderr.startswith("undertow: ")
        assert result.stderr.count("\n") == 1
        return result.stderr

    return of


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command in a process of its own; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "undertow.console", *words]
        pipe = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        started.append(subprocess.Popen(command, text=True, **pipe | options))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def wait_for_line() -> Callable[[subprocess.Popen[str], str], None]:
    """Reads a process's stderr up to a line."""

    def wait(process: subprocess.Popen[str], line: str) -> None:
        assert process.stderr is not None
        while (said := process.stderr.readline()) != line:
            assert said, "the process ended before it said that"

    return wait


@pytest.fixture
def writer(folder: Path, wait_for_line: Callable[..., None]) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a flow and writes `runs.db` all the time, until its stdin is closed."""
    command = [sys.executable, "-c", BUSY, str(folder / "runs.db")]
    pipe = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    quiet = os.environ | {"UNDERTOW_LOGGING_CONSOLE": "off"}
    process = subprocess.Popen(command, text=True, env=quiet, **pipe)
    wait_for_line(process, "begun\n")
    yield process
    _, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    with closing(sqlite3.connect(folder / "runs.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# --- journals and runs made by hand ----------------------------------------------------------------------------


def record(number: int, function: str, parent: int | None = 0, state: str = "Completed", **more: Any) -> RunRecord:
    """A run that began and ended."""
    states = (Change("PENDING", "Pending", "", number), Change(state.upper(), state, "", number + 5))
    parent_id = None if parent is None else f"{parent:05}"
    plain = {
        "id": f"{number:05}",
        "kind": "task",
        "function": function,
        "name": f"{function}-{number}",
        "parent_id": parent_id,
        "attempts": 1,
        "states": states,
        "started": number,
        "ended": number + 5,
    }
    return RunRecord(**plain | more)


@pytest.fixture(name="record")
def record_fixture() -> Callable[..., RunRecord]:
    """Makes a record of a run that began and ended: by number, function, parent's number and state."""
    return record


@pytest.fixture
def journal_of(tmp_path: Path) -> Callable[..., Path]:
    """Writes a journal with these runs, and with these log records: (run id, microseconds, level, logger, message)."""

    def write(runs: list[RunRecord], logs: list[tuple[Any, ...]] = [], name: str = "runs.db") -> Path:  # noqa: B006
        path = tmp_path / name
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(SCHEMA)
            closed = None if any(run.ended is None for run in runs) else 1
            me = ("a host", "", "", 7, "", 0, closed)
            connection.execute("INSERT INTO owner VALUES (1, ?, ?, ?, ?, ?, ?, ?)", me)
            connection.execute("BEGIN")
            for run in runs:
                add_run(connection, run)
            connection.executemany("INSERT INTO log (run_id, at, level, logger, message) VALUES (?, ?, ?, ?, ?)", logs)
            connection.execute("COMMIT")
        return path

    return write


def add_run(connection: sqlite3.Connection, run: RunRecord) -> None:
    details = {
        "version": run.version,
        "map_index": run.map_index,
        "parameters": None if run.parameters is None else json.dumps(run.parameters),
        "upstreams": list(run.upstreams) or None,
        "error": run.error,
        "expected_start_at": run.expected_start,
    }
    columns = {
        "id": run.id,
        "kind": run.kind,
        "function": run.function,
        "name": run.name,
        "parent_run_id": run.parent_id,
        "tags": json.dumps(run.tags) if run.tags else None,
        "state_type": run.state.type,
        "started_at": run.started,
        "ended_at": run.ended,
        "attempts": run.attempts,
        "history": json.dumps(run.states),
        "owner": 1,
        "details": json.dumps({name: value for name, value in details.items() if value is not None}),
    }
    places = ", ".join("?" * len(columns))
    connection.execute(f"INSERT INTO run ({', '.join(columns)}) VALUES ({places})", list(columns.values()))
