"""Other users of the machine, and files that somebody sent."""

from __future__ import annotations

import os
import pickle
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import msgpack
import pytest
from click.testing import CliRunner

from undertow import INPUTS, Engine, JournalCorrupt, JournalError, ResultUnreadable, flow, sleep, task
from undertow.console.command import cli
from undertow.storage import Reader, opening

pytestmark = pytest.mark.real_time

VERBS = ("ls", "show", "logs", "why", "graph", "doctor")


@task(cache_policy=INPUTS)
def big(n: int) -> str:
    ran.append(n)
    return str(n) * 300_000


@task
def small() -> int:
    return 1


@flow
def work() -> int:
    return len(big(7)) + small()


@flow(durable=True)
def lasting() -> int:
    if small() and not ran:
        ran.append(0)
        raise ConnectionError
    return small()


@flow(durable=True)
async def sleeping() -> None:
    await sleep(0)
    if not ran:
        ran.append(0)
        raise ConnectionError


ran: list[int] = []


@pytest.fixture(autouse=True)
def none_ran() -> Iterator[None]:
    yield
    ran.clear()


def change(path: Path, sql: str, *values: Any) -> None:
    """Do something to a journal that is closed."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(sql, values)


# --- other users of the machine --------------------------------------------------------------------------------------

MODES = """
import os, stat, sys
from pathlib import Path
from undertow import flow, task, INPUTS

@task(cache_policy=INPUTS)
def big(n): return "x" * 300_000

@flow
def work(): return len(big(1))

work()
for folder, _, files in os.walk(Path.home()):
    for name in (folder, *(os.path.join(folder, file) for file in files)):
        if name != str(Path.home()):
            print(oct(stat.S_IMODE(os.stat(name).st_mode)), os.path.relpath(name, Path.home()))
"""


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o027, 0o077], ids=oct)
def test_modes(umask: int, tmp_path: Path) -> None:
    """Nobody else can read the journal, its log, its results and their folders, whatever the program's umask is."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UNDERTOW")}
    done = subprocess.run(
        [sys.executable, "-c", MODES],
        umask=umask,
        env=environment | {"HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    modes = {name: mode for mode, name in (line.split() for line in done.stdout.splitlines())}
    [digest] = {name.rpartition("/")[2] for name in modes if ".results/" in name}
    assert modes == {
        ".undertow": "0o700",
        ".undertow/journal.db": "0o600",
        ".undertow/journal.db-wal": "0o600",
        ".undertow/journal.db-shm": "0o600",
        ".undertow/journal.db.results": "0o700",
        f".undertow/journal.db.results/{digest}": "0o600",
    }


def plant_file(path: Path, elsewhere: Path) -> None:
    path.touch(mode=0o666)


def plant_link(path: Path, elsewhere: Path) -> None:
    with Engine(elsewhere / "victim.db"):
        work()
    path.symlink_to(elsewhere / "victim.db")


def plant_link_to_nowhere(path: Path, elsewhere: Path) -> None:
    path.symlink_to(elsewhere / "new.db")


def plant_log(path: Path, elsewhere: Path) -> None:
    Path(f"{path}-wal").write_bytes(b"frames")


def plant_results(path: Path, elsewhere: Path) -> None:
    Path(f"{path}.results").symlink_to(elsewhere)


@pytest.mark.parametrize("plant", [plant_file, plant_link, plant_link_to_nowhere, plant_log, plant_results])
def test_planted_by_another_user(
    plant: Callable[[Path, Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder like /tmp, a journal, log, link or results folder that another user put there is refused, and nothing changes."""
    shared, elsewhere = tmp_path / "shared", tmp_path / "elsewhere"
    shared.mkdir()
    elsewhere.mkdir()
    path = shared / "app.db"
    plant(path, elsewhere)
    shared.chmod(0o1777)
    before = {file: file.read_bytes() for folder in (shared, elsewhere) for file in folder.iterdir() if file.is_file()}
    owned_by(monkeypatch, path.parent, 4711)
    with pytest.raises(JournalError, match=f"^Journal {path}: "), Engine(path):
        pass
    after = {file: file.read_bytes() for folder in (shared, elsewhere) for file in folder.iterdir() if file.is_file()}
    assert after == before


def owned_by(monkeypatch: pytest.MonkeyPatch, folder: Path, uid: int) -> None:
    """Have all in a folder look as if it were another user's; only root could make it so."""
    lstat = os.lstat

    def foreign(path: str) -> os.stat_result:
        seen = lstat(path)
        values = list(seen)
        values[stat.ST_UID] = uid
        return os.stat_result(values) if Path(path).parent == folder else seen

    monkeypatch.setattr(opening.os, "lstat", foreign)


def test_own_links_are_followed(tmp_path: Path) -> None:
    """A journal and a results folder may be links of one's own; in a folder that is linked, only files named as results are removed."""
    big_disk, other = tmp_path / "big disk", tmp_path / "other"
    big_disk.mkdir()
    other.mkdir()
    letter, unused = other / "letter.txt", other / ("0" * 64)
    for old in (letter, unused):
        old.write_text("dear all")
        os.utime(old, (0, 0))
    (tmp_path / "app.db").symlink_to(big_disk / "real.db")
    (big_disk / "real.db").touch()
    (tmp_path / "app.db.results").symlink_to(other)
    with Engine(tmp_path / "app.db") as engine:
        work()
        engine.journal.tidy().wait()  # type: ignore[attr-defined]
    assert (big_disk / "real.db").stat().st_size > 0
    names = {file.name for file in other.iterdir()}
    assert "letter.txt" in names
    assert unused.name not in names
    assert len(names) == 2


# --- files that somebody sent ----------------------------------------------------------------------------------------


class Gadget:
    """Does something when it is read by pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return ran.append, (666,)


GADGET = pickle.dumps(Gadget())


@pytest.mark.parametrize("key", ["start:", "step:"])
@pytest.mark.parametrize("definition", [lasting, sleeping], ids=lambda each: each.name)
def test_forged_pickle(definition: Any, key: str, path: Path) -> None:
    """A journal that claims that what it holds is a pickle has nothing executed: the run that asks for it fails."""

    async def begin() -> str:
        async with Engine(path):
            state = await start(return_state=True)
            return str(state.run_id)

    async def resume(run_id: str) -> None:
        async with Engine(path) as engine:
            await engine.resume(run_id)

    async def start(**options: Any) -> Any:
        made = definition(**options)
        return await made if hasattr(made, "__await__") else made

    run_id = anyio.run(begin)
    change(path, f"UPDATE result SET value = ?, serializer = 'pickle' WHERE key GLOB '{key}*'", GADGET)
    with pytest.raises(ResultUnreadable, match="'pickle'"):
        anyio.run(resume, run_id)
    assert 666 not in ran


def test_the_command_line_reads_no_pickle(path: Path) -> None:
    """The command line shows runs whose results are pickles without reading one."""
    with Engine(path):
        work()
    change(path, "UPDATE result SET value = ?, serializer = 'pickle', file = NULL", GADGET)
    for verb in VERBS:
        CliRunner().invoke(cli, [verb, "--journal", str(path)], catch_exceptions=False)
    assert 666 not in ran


ENDLESS = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) AS id FROM n"


@pytest.mark.parametrize(
    "forged",
    [
        ["CREATE TRIGGER t AFTER INSERT ON run BEGIN DELETE FROM run; END"],
        ["CREATE TRIGGER t AFTER INSERT ON owner BEGIN UPDATE run SET state_type = 'COMPLETED'; END"],
        ["DROP TABLE run", "CREATE VIRTUAL TABLE run USING fts5(id)"],
        ["DROP TABLE run", f"CREATE VIEW run AS {ENDLESS}"],
        ["DROP TABLE owner", f"CREATE VIEW owner AS {ENDLESS}"],
        ["DROP VIEW flow_runs", "CREATE TABLE flow_runs (id)"],
    ],
    ids=lambda steps: " ".join(steps[-1].split()[:3]),
)
def test_hostile_schema(forged: list[str], path: Path) -> None:
    """A journal with triggers, or with something else in the place of a table or view, is refused at once, to write and to read."""
    with Engine(path):
        small()
    for sql in forged:
        change(path, sql)
    before = path.read_bytes()
    for open_it in (lambda: Engine(path).open(), lambda: Reader(path)):
        with pytest.raises(JournalCorrupt, match=f"^Journal {path}: it holds a .*as no journal does"):
            open_it()
    told = CliRunner().invoke(cli, ["ls", "--journal", str(path)])
    assert told.exit_code == 2
    assert len(told.stderr.splitlines()) == 1
    assert path.read_bytes() == before


def test_own_views_and_indexes_are_welcome(path: Path) -> None:
    """Views, tables and indexes of one's own in a journal are no fault."""
    with Engine(path):
        small()
    for sql in (
        "CREATE VIEW mine AS SELECT id FROM flow_runs",
        "CREATE TABLE notes (id, said)",
        "CREATE INDEX i ON run (name)",
    ):
        change(path, sql)
    with Engine(path), Reader(path) as reader:
        assert reader.rows("SELECT count(*) AS n FROM notes") == [{"n": 0}]


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\x01"


@pytest.mark.parametrize(
    "value",
    [
        nested(100_000),
        msgpack.packb(msgpack.ExtType(99, b"x")),
        msgpack.packb(msgpack.ExtType(3, msgpack.packb(["os", "system", ["true"]]))),
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff" + bytes(1000),
        bytes(10_000_000),
        b"",
    ],
    ids=["deep", "unknown type", "no data class", "long list", "long bytes", "huge", "empty"],
)
def test_hostile_result(value: bytes, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A cached result that nobody would have written is computed anew."""
    with Engine(path):
        work()
    change(path, "UPDATE result SET value = ?, file = NULL", value)
    with Engine(path):
        assert work() == 300_001
    assert ran == [7, 7]
    assert any("computed anew" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("name", ["/dev/zero", "../../secret", "pipe", "", "0" * 64])
def test_hostile_file_name(name: str, path: Path) -> None:
    """The file of a result is only looked for in the folder of results, under a name that results have, and must be a file."""
    with Engine(path):
        work()
    folder = Path(f"{path}.results")
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / ("0" * 64))
    change(path, "UPDATE result SET file = ?", name)
    with Engine(path):
        assert work() == 300_001
    assert ran == [7, 7]


EVIL = "\x1b[2J\x1b]0;owned\x07\r\n12:00:00 ERROR forged: line\u202e\u2028\x9b31m<script>alert(1)</script>"


def test_forged_text(path: Path) -> None:
    """Escapes, line ends and directions of writing in any text of a journal get to no terminal, and start no line of their own."""
    with Engine(path) as engine:
        work()
        run_id = engine.journal.query("SELECT id FROM flow_runs")[0]["id"]  # type: ignore[attr-defined]
        engine.journal.log(run_id, 0, EVIL, EVIL, EVIL)
    change(
        path,
        "UPDATE run SET function = ?1, name = ?1, history = json_set(history, '$[0][1]', ?1, '$[#-1][2]', ?1)",
        EVIL,
    )
    change(
        path,
        "UPDATE run SET tags = json_array(?1), details = json_object('parameters', json_object(?1, ?1), 'error', ?1, 'version', ?1)",
        EVIL,
    )
    change(path, "UPDATE owner SET host = ?1, closed_at = NULL", EVIL)
    for verb in VERBS:
        told = CliRunner().invoke(cli, [verb, "--journal", str(path)], catch_exceptions=False)
        assert "forged" in told.output or verb == "doctor"
        assert all(char.isprintable() or char == "\n" for char in told.output), verb
        assert not any(line.startswith("12:00:00") for line in told.output.splitlines()), verb
