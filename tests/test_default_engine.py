"""Without an engine of your own: nothing happens at import, and the first run opens a default one."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real_time

DEFINITIONS = """
import os, sys
import anyio
from undertow import Engine, JournalError, flow, task

@task
async def double(n): return 2 * n

@flow
async def doubled(n): return await double(n)

@flow
def tripled(n): return 3 * n
"""


def run(code: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script with a home folder of its own, which is also where it works."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNDERTOW")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", DEFINITIONS + code],
        cwd=home,
        env=kept | {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=30,
    )


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


# --- at import -------------------------------------------------------------------------------------------------

BEFORE = """
import logging, os, signal, sys, threading

opened = []

def hear(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        writes = args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) if args[2] is not None else 0
        if writes:
            opened.append(args[0])
    elif event.split(".")[0] in ("sqlite3", "socket", "subprocess") and event != "sqlite3.enable_load_extension":
        opened.append(event)

sys.addaudithook(hear)
signals = {number: signal.getsignal(number) for number in signal.valid_signals()}
hooks = (sys.excepthook, threading.excepthook, sys.unraisablehook)
"""

AFTER = """
assert threading.enumerate() == [threading.main_thread()]
assert opened == [], opened
assert os.listdir() == []
assert {number: signal.getsignal(number) for number in signal.valid_signals()} == signals
assert (sys.excepthook, threading.excepthook, sys.unraisablehook) == hooks
loggers = {"root": logging.root} | logging.root.manager.loggerDict
handled = {name: logger.handlers for name, logger in loggers.items() if getattr(logger, "handlers", None)}
assert [(name, [type(handler) for handler in handlers]) for name, handlers in handled.items()] == [
    ("undertow", [logging.NullHandler])
]
levels = {name for name, logger in loggers.items() if getattr(logger, "level", 0)}
assert levels - {"root", "concurrent.futures", "asyncio"} == set()
assert logging.root.level == logging.WARNING
"""


def test_import_does_nothing(tmp_path: Path) -> None:
    """Import, decorators and making an engine start no thread, open no file, and touch no logger but our own."""
    code = BEFORE + DEFINITIONS + "engine = Engine('never.db', limits={'github': 2})" + AFTER
    command = [sys.executable, "-W", "error", "-c", code]
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_import_imports_nothing(tmp_path: Path) -> None:
    """`import undertow` alone imports no other module of it and no dependency: each comes with its first use."""
    code = "import sys; before = set(sys.modules); import undertow; print(*set(sys.modules) - before)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    third_parties = {"anyio", "attr", "attrs", "trio", "msgpack", "aiosqlite", "uuid_utils", "sqlite3", "asyncio"}
    imported = done.stdout.split()
    assert [name for name in imported if name.startswith("undertow")] == ["undertow"]
    assert third_parties.isdisjoint(imported)


# --- the default engine ----------------------------------------------------------------------------------------


def test_default_journal_in_the_environment(tmp_path: Path) -> None:
    """The first run opens the default engine on `$UNDERTOW_JOURNAL`, which is whole and closed when the script ends."""
    path = tmp_path / "mine.db"
    code = """
assert not os.path.exists(os.environ["UNDERTOW_JOURNAL"])
print(tripled(2), anyio.run(doubled, 2), anyio.run(doubled, 3, backend="trio"))
assert os.path.exists(os.environ["UNDERTOW_JOURNAL"])
"""
    done = run(code, tmp_path, UNDERTOW_JOURNAL=str(path))
    assert (done.stdout, done.stderr, done.returncode) == ("6 4 6\n", "", 0)
    assert os.listdir(tmp_path) == ["mine.db"]
    assert rows(path, "SELECT flow, state_type FROM flow_runs ORDER BY id") == [
        ("tripled", "COMPLETED"),
        ("doubled", "COMPLETED"),
        ("doubled", "COMPLETED"),
    ]


def test_default_journal_at_home(tmp_path: Path) -> None:
    """Without that variable it is `~/.undertow/journal.db`, in a folder that is made for it and is private."""
    done = run("os.umask(0o022); print(tripled(2))", tmp_path)
    assert (done.stdout, done.stderr) == ("6\n", "")
    folder = tmp_path / ".undertow"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert rows(folder / "journal.db", "SELECT state_type FROM flow_runs") == [("COMPLETED",)]


def test_default_journal_that_cant_be_opened(tmp_path: Path) -> None:
    """When the default journal can't be opened, the first call raises the error that says why, and so does the next."""
    code = """
for _ in range(2):
    try:
        tripled(2)
    except JournalError as error:
        print(error)
"""
    done = run(code, tmp_path, UNDERTOW_JOURNAL=str(tmp_path / "not" / "there.db"))
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(f"the folder {tmp_path}/not does not exist" in line for line in lines)
    assert done.stderr == ""


def test_default_engine_is_one(tmp_path: Path) -> None:
    """Threads that all need the default engine at once share one."""
    code = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    print(sorted(pool.map(tripled, range(8))))
"""
    done = run(code, tmp_path, UNDERTOW_JOURNAL=str(tmp_path / "mine.db"))
    assert (done.stdout, done.stderr) == ("[0, 3, 6, 9, 12, 15, 18, 21]\n", "")
    assert rows(tmp_path / "mine.db", "SELECT count(*), count(DISTINCT owner) FROM flow_runs") == [(8, 1)]


@pytest.mark.parametrize("leave", ["sys.exit(3)", "raise KeyError('mine')"])
def test_script_that_ends_badly(leave: str, tmp_path: Path) -> None:
    """However a script ends, its default engine is closed, and exit code and traceback are the script's own."""
    done = run(f"tripled(2); {leave}", tmp_path, UNDERTOW_JOURNAL=str(tmp_path / "mine.db"))
    assert done.returncode == (3 if "exit" in leave else 1)
    assert done.stderr.splitlines()[-1:] == ([] if "exit" in leave else ["KeyError: 'mine'"])
    assert os.listdir(tmp_path) == ["mine.db"]
    assert rows(tmp_path / "mine.db", "SELECT state_type FROM flow_runs") == [("COMPLETED",)]


def test_default_engine_steps_back(tmp_path: Path) -> None:
    """Once an engine of your own is open, it runs the calls, and the default one again after it is closed."""
    code = """
tripled(1)
with Engine("own.db"):
    tripled(2)
tripled(3)
"""
    done = run(code, tmp_path, UNDERTOW_JOURNAL=str(tmp_path / "mine.db"))
    assert done.stderr == ""
    assert rows(tmp_path / "own.db", "SELECT parameters FROM flow_runs") == [('{"n": 2}',)]
    assert rows(tmp_path / "mine.db", "SELECT parameters FROM flow_runs ORDER BY id") == [('{"n": 1}',), ('{"n": 3}',)]
