"""`undertow doctor`: what it looks at, what it finds, and that it changes nothing."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from undertow.console import health

Invoke = Callable[..., Result]
Findings = Callable[..., dict[str, list[dict[str, str]]]]

pytestmark = pytest.mark.real_time


@pytest.fixture
def examined(undertow: Invoke) -> Findings:
    """The findings of `doctor --json`, by what they are about; checks that the exit code suits them."""

    def examine(*words: str) -> dict[str, list[dict[str, str]]]:
        result = undertow("doctor", "--json", *words)
        document = json.loads(result.stdout)
        found: dict[str, list[dict[str, str]]] = {}
        for finding in document["findings"]:
            found.setdefault(finding["about"], []).append(finding)
        is_problem = any(finding["verdict"] == "problem" for finding in document["findings"])
        assert result.exit_code == document["exit_code"] == int(is_problem)
        return found

    return examine


@pytest.fixture
def sound(folder: Path, journal_of: Any, record: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journal in which all is well, on a disk with room."""
    monkeypatch.setattr(health.shutil, "disk_usage", lambda path: Usage(50_000_000_000))
    path: Path = journal_of([record(0, "root", None, kind="flow")])
    path.chmod(0o600)
    folder.chmod(0o700)
    return path


class Usage:
    def __init__(self, free: int) -> None:
        self.free = free


def verdicts(found: dict[str, list[dict[str, str]]]) -> set[str]:
    return {finding["verdict"] for findings in found.values() for finding in findings}


def test_a_sound_journal(undertow: Invoke, examined: Findings, sound: Path) -> None:
    """Where all is well every line is ok, the exit code is 0, and nothing is written."""
    before = sound.read_bytes(), sorted(os.listdir(sound.parent))
    assert verdicts(examined()) == {"ok"}
    lines = undertow("doctor", "--quick").stdout.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    assert (sound.read_bytes(), sorted(os.listdir(sound.parent))) == before


def test_no_journal_yet(undertow: Invoke, examined: Findings, folder: Path) -> None:
    """That there is no default journal yet is fine; that there is none where one is named is a problem."""
    assert examined()["journal"][0]["verdict"] == "ok"
    named = examined("--journal", "missing.db")["journal"][0]
    assert (named["verdict"], named["said"]) == ("problem", "there is no missing.db yet; the first run makes it")
    lost = examined("--journal", "no/such/folder.db")["journal"][0]
    assert lost["said"] == f"the folder {folder}/no/such does not exist"
    assert lost["remedy"] == f"mkdir -p {folder}/no/such"


@pytest.mark.parametrize(("content", "said"), [(b"", "the file is empty"), (b"text" * 500, "damaged or is no journal")])
def test_what_is_no_journal(examined: Findings, folder: Path, content: bytes, said: str) -> None:
    """A file that is no journal is a problem, and the rest is looked at all the same."""
    (folder / "runs.db").write_bytes(content)
    found = examined()
    assert (found["journal"][0]["verdict"], said in found["journal"][0]["said"]) == ("problem", True)
    assert {"versions", "disk"} <= set(found)


def test_damage_is_a_problem(examined: Findings, sound: Path) -> None:
    """A page of the file that was overwritten is noticed, by the quick look too, and the remedy is said."""
    with closing(sqlite3.connect(sound, isolation_level=None)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'log'").fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(sound.read_bytes())
    content[(root - 1) * size : root * size] = b"\xff" * size
    sound.write_bytes(content)
    for words in ([], ["--quick"]):
        found = examined(*words)
        (problem,) = [each for findings in found.values() for each in findings if each["verdict"] == "problem"]
        assert problem["about"] in ("integrity", "journal")
        assert "backup" in problem["remedy"] or "Restore a copy" in problem["said"]


def test_what_others_may_read_is_a_warning(examined: Findings, sound: Path) -> None:
    """A journal, or its folder, that others of the machine can get at is a warning with the command that helps."""
    sound.chmod(0o644)
    sound.parent.chmod(0o777)
    told = {finding["remedy"] for finding in examined()["permissions"]}
    assert told == {"chmod go-rwx runs.db", f"chmod go-w {sound.parent}"}
    sound.parent.chmod(0o700)


def test_an_owner_that_is_another_user(examined: Findings, sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that belongs to somebody else is a warning."""
    monkeypatch.setattr(health.os, "geteuid", lambda: os.stat(sound).st_uid + 1)
    (finding,) = examined()["permissions"]
    assert finding["said"] == f"runs.db belongs to another user (uid {os.stat(sound).st_uid})"


def test_runs_of_dead_processes(undertow: Invoke, examined: Findings, start: Any, wait_for_line: Any) -> None:
    """Unfinished runs of a process that was killed are a warning that names the process and what becomes of them."""
    process = start("run", "stuck:waits")
    wait_for_line(process, "begun\n")
    process.kill()
    process.communicate()
    warning, free = examined()["owners"]
    assert warning["said"].startswith(f"1 run did not end and never will: the process is gone ({process.pid} on ")
    assert free["said"] == "no process has it open"
    assert undertow("doctor").exit_code == 0


@pytest.mark.parametrize(("free", "verdict"), [(1_000_000, "problem"), (500_000_000, "warning"), (5_000_000_000, "ok")])
def test_a_full_disk(examined: Findings, sound: Path, monkeypatch: pytest.MonkeyPatch, free: int, verdict: str) -> None:
    """Little room on the disk is a warning, hardly any a problem."""
    monkeypatch.setattr(health.shutil, "disk_usage", lambda path: Usage(free))
    assert examined()["disk"][0]["verdict"] == verdict


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ((3, 40, 1), "has the WAL-reset race; undertow's checkpoints avoid it"),
        ((3, 51, 2), "has the WAL-reset race; undertow's checkpoints avoid it"),
        ((3, 50, 6), "has the WAL-reset race; undertow's checkpoints avoid it"),
        ((3, 50, 7), "without the WAL-reset race"),
        ((3, 51, 3), "without the WAL-reset race"),
        ((4, 0, 0), "without the WAL-reset race"),
    ],
)
def test_an_sqlite_with_the_race(
    examined: Findings, sound: Path, monkeypatch: pytest.MonkeyPatch, version: Any, said: str
) -> None:
    """The version of SQLite is told, whether it has the WAL-reset race, and that undertow's checkpoints avoid it."""
    monkeypatch.setattr(health.sqlite3, "sqlite_version_info", version)
    (finding,) = examined()["sqlite"]
    assert (finding["verdict"], said in finding["said"]) == ("ok", True)
    assert finding["said"].startswith(f"SQLite {sqlite3.sqlite_version}")


def test_files_of_results(examined: Findings, sound: Path) -> None:
    """A result's file that is missing is a problem; one that belongs to no result, a warning once it is old."""
    results = sound.with_name("runs.db.results")
    results.mkdir(mode=0o700)
    with closing(sqlite3.connect(sound, isolation_level=None)) as connection:
        for name in ("there", "lost"):
            connection.execute(
                "INSERT INTO result (key, file, serializer, run_id, kept_at) VALUES (?, ?, 'msgpack', '', 0)",
                (name, name),
            )
    for name, age in (("there", 0), ("orphan", 7200), ("young", 60)):
        (results / name).touch()
        os.utime(results / name, (results.stat().st_mtime - age,) * 2)
    lost, orphan = examined()["results"]
    assert (lost["verdict"], orphan["verdict"]) == ("problem", "warning")
    assert lost["said"] == f"1 file of results can't be found in {results}, such as lost"
    assert orphan["said"] == f"1 file in {results} of no result (0 B)"


def test_a_missing_distribution(examined: Findings, sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that undertow needs and that is not installed is a problem."""
    monkeypatch.setattr(health, "DISTRIBUTIONS", ("undertow", "no-such-package"))
    assert examined()["versions"][0]["said"] == "no-such-package is not installed"


def test_a_shared_file_system(examined: Findings, sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal on a network's file system is a warning: several machines must not use it at once."""
    monkeypatch.setattr(health, "_kind_of_file_system", lambda file: "nfs4")
    assert "type nfs4" in examined()["file system"][0]["said"]


def test_a_write_ahead_log_that_grew(examined: Findings, sound: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write-ahead log that is not written back is a warning."""
    monkeypatch.setattr(health, "BIG_WAL_BYTES", 100)
    with closing(sqlite3.connect(sound, isolation_level=None)) as connection:
        connection.execute("DELETE FROM log")
        assert examined()["wal"][0]["verdict"] == "warning"
