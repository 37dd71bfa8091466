"""Damaged journals, other people's databases and odd command lines: one clear error each, and never a traceback."""

from __future__ import annotations

import random
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from time import perf_counter

import pytest
from click.testing import CliRunner

from undertow import Engine, JournalError, flow, task
from undertow.console.command import VERBS, cli
from undertow.storage.reading import Reader

pytestmark = pytest.mark.real_time

MAX_SECONDS = 2.0
"""What the worst input may cost, on a machine that has other things to do; it costs a few milliseconds."""

# --- the journal -----------------------------------------------------------------------------------------------------


@task
def double(x: int) -> int:
    return 2 * x


@flow(durable=True)
def durable(x: int) -> int:
    if x == 2:
        raise KeyboardInterrupt
    return double(x)


@flow
def doubled(x: int) -> int:
    return double(x)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a journal with a little of everything in it."""
    path = tmp_path_factory.mktemp("real") / "app.db"
    with Engine(path):
        for x in range(20):
            doubled(x)
        durable(1)
        with pytest.raises(KeyboardInterrupt):
            durable(2)
    return path.read_bytes()


WORDS = [
    b'"COMPLETED"',
    b'"Running"',
    b'[["',
    b'"call"',
    b'"parent"',
    b"step:",
    b"CRASHED",
    b"start:",
    b'{"',
    b"CREATE",
]


def mutated(real: bytes, dice: random.Random) -> bytes:
    """A journal that was damaged in one of many ways."""
    data = bytearray(real)
    place = dice.randrange(len(data))
    match dice.randrange(8):
        case 0:
            return dice.randbytes(dice.randrange(5000))
        case 1:
            return bytes(data[:place])
        case 2:
            data[place : place + 2000] = bytes(len(data[place : place + 2000]))
        case 3:
            data[place : place + 4096] = data[: len(data[place : place + 4096])]
        case 4:
            for _ in range(3):
                data[dice.randrange(100)] = dice.randrange(256)  # the header
        case 5:
            for _ in range(8):
                data[dice.randrange(len(data))] = dice.randrange(256)
        case _:
            for _ in range(5):  # what rows say, so that SQLite finds nothing wrong
                found = data.find(dice.choice(WORDS), dice.randrange(len(data)))
                if found >= 0:
                    data[found + dice.randrange(4)] = dice.choice(b'[]{}"\\\0x9,\xff')
    return bytes(data)


def names_it(error: JournalError, path: Path) -> None:
    """See that an error says which journal it is about."""
    assert str(error).startswith(f"Journal {path}: ")


def look_at(path: Path) -> None:
    """Open a journal to write and to read, and use it; the damage may only show as a `JournalError`."""
    began = perf_counter()
    try:
        with Engine(path, recover=True, grace_seconds=0):
            assert doubled(7) == 14
    except JournalError as error:
        names_it(error, path)
    try:
        with Reader(path) as reader:
            reader.rows("SELECT * FROM flow_runs")
            reader.rows("SELECT * FROM states")
    except JournalError as error:
        names_it(error, path)
    assert perf_counter() - began < MAX_SECONDS


def test_any_damage(real: bytes, tmp_path: Path) -> None:
    """However a journal was damaged, opening it, going on with it and reading it raise `JournalError`s and nothing else, and a flow keeps its result."""
    for seed in range(120):
        path = tmp_path / f"{seed}.db"
        path.write_bytes(mutated(real, random.Random(seed)))
        look_at(path)


OTHERS = [
    "CREATE TABLE run (id)",
    "PRAGMA application_id = 1970168948",
    "PRAGMA user_version = -1",
    "CREATE VIEW flow_runs AS SELECT 1",
    "CREATE VIRTUAL TABLE run USING fts5(id)",
    "PRAGMA application_id = 1970168948; PRAGMA user_version = 1; CREATE TABLE run (id); CREATE TABLE owner (id)",
    "PRAGMA application_id = 1970168948; PRAGMA user_version = 1; CREATE TRIGGER t AFTER INSERT ON x BEGIN SELECT 1; END",
    "PRAGMA encoding = 'UTF-16'; CREATE TABLE run (id)",
    "PRAGMA page_size = 512; CREATE TABLE run (id)",
]


@pytest.mark.parametrize("sql", OTHERS, ids=range(len(OTHERS)))
def test_other_databases(sql: str, tmp_path: Path) -> None:
    """A database of somebody else's is refused with a `JournalError`, also one that says it was a journal, and is left as it is."""
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE x (y)")
        connection.executescript(sql)
    before = path.read_bytes()
    with pytest.raises(JournalError), Engine(path):
        pass
    assert path.read_bytes()[100:] == before[100:]


# --- the command line --------------------------------------------------------------------------------------------------

FLOWS = """
from undertow import flow

@flow
def f(x: int = 1, s: str = "", *, k: float = 0.0): return x

@flow
def strange(x: "Nope" = 1): return 1

class C:
    @property
    def p(self): raise RuntimeError("no")

c = C()

def __getattr__(name):
    raise RuntimeError(name) if name == "dynamic" else AttributeError(name)
"""
FILES = {
    "jobs.py": FLOWS.encode(),
    "latin.py": b"x = '\xff'\n",
    "nul.py": b"x = 1\0",
    "deep.py": b"x = " + b"(" * 5000,
    "leaves.py": b"raise BaseException('no')",
    "lines.py": b"raise ValueError('a\\nb\\x1b[31m')",
    "mute.py": b"class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E",
}
WORD = [
    *(
        "",
        "-",
        "--",
        ".",
        "..",
        ":",
        "::",
        "/",
        "%",
        "_",
        "'",
        "*",
        "[",
        "\\",
        "\udcff",
        "\x1b[31m",
        "x" * 5000,
        "x/" * 3000,
    ),
    *("jobs:", "jobs:.", ":f", "jobs:f", "jobs:f.", "jobs:f.fn", "jobs:dynamic", "jobs:c.p", "jobs:C", "jobs:strange"),
    *(f"{name}:f" for name in FILES),
    *("latin:f", "deep:f", "leaves:f", "lines:f", "mute:f", "..:f", ".jobs:f", "os.path:join", "1:f", "/dev/null:f"),
    *("-1", "0", "1e9", "nan", "inf", "9" * 400, "2026-13-31", "99999999999d", "1e400d", "yesterday", "{}", "[1]"),
    *("x=1", "x=", "=", "x=[", "x=" + "[" * 5000, "x=1e999", "x=" + "9" * 5000, "k=NaN", "no=1", "self=1", "s=\udcff"),
    *("../../etc/passwd", "/dev/null", "runs.db", "jobs.py", "x.html", "no/x.html", "failed", "svg", "bash", "trio"),
]
ENDLESS = {"serve", "bench"}
"""Verbs that go on until they are stopped, or measure: only their help is asked for."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with odd modules and a journal, which is the current one."""
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNDERTOW_JOURNAL", "runs.db")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    CliRunner().invoke(cli, ["run", "jobs:f"])
    return tmp_path


def check_command(words: list[str]) -> None:
    """A command succeeds, or tells in one line what is wrong."""
    began = perf_counter()
    result = CliRunner().invoke(cli, words)
    assert result.exception is None or isinstance(result.exception, SystemExit), (words, result.exception)
    assert result.exit_code in (0, 1, 2), words
    if result.exit_code == 2:
        assert result.stderr.startswith("undertow: "), words
        assert result.stderr.count("\n") == 1, words
        assert len(result.stderr) < 3000
    assert perf_counter() - began < MAX_SECONDS, words


def test_any_words_on_the_command_line(folder: Path) -> None:
    """Whatever is written after a verb, it does what it can, or says in one line on stderr what is wrong and exits with 2; there is never a traceback."""
    dice = random.Random(20260101)
    verbs = {verb.name: verb for verb in VERBS if verb.name not in ENDLESS}
    for word in WORD:
        check_command(["run", "jobs:f", "-p", word])
        for name, verb in verbs.items():
            options = [each for option in verb.params for each in option.opts if each.startswith("--")]
            words = [dice.choice(WORD) for _ in range(dice.randrange(2))]
            with_value = [dice.choice(options), word] if options and dice.random() < 0.5 else [word]
            if "--follow" not in with_value and "--wait" not in with_value:
                check_command([str(name), *with_value, *words])
