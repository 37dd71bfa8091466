"""Reading a journal leaves no trace, and sees what is there."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from undertow.engine.errors import JournalCorrupt, JournalError, JournalMissing
from undertow.storage import Reader

pytestmark = pytest.mark.real_time

COUNT = "SELECT count(*) AS runs FROM flow_runs"


@pytest.fixture
def path(journal_of: Any, record: Any) -> Path:
    """A journal with one flow run that no process has open."""
    made: Path = journal_of([record(1, "f", None, kind="flow")])
    return made


def write(path: Path, run_id: str) -> None:
    """What a process does that opens the journal, writes to it, and closes it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO run SELECT ?, " + ALL_BUT_ID + " FROM run LIMIT 1", (run_id,))


ALL_BUT_ID = "kind, function, name, parent_run_id, flow_run_id, tags, state_type, started_at, ended_at, attempts, history, owner, details, step"


def entries(path: Path) -> dict[str, tuple[int, int]]:
    """Everything in the journal's folder, with size and time of change."""
    return {entry.name: (entry.stat().st_size, entry.stat().st_mtime_ns) for entry in os.scandir(path.parent)}


def test_reading_leaves_no_trace(path: Path) -> None:
    """A journal that no process has open is read without a byte written to it, and without a file beside it."""
    before = entries(path)
    with Reader(path) as reader:
        assert reader.rows(COUNT) == [{"runs": 1}]
        assert entries(path) == before
    assert entries(path) == before == {"runs.db": before["runs.db"]}


def test_reading_through_a_link_leaves_no_trace(path: Path, tmp_path: Path) -> None:
    """A journal that is named by a symbolic link is read in the same way."""
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.db"
    link.symlink_to(path)
    with Reader(link) as reader:
        assert reader.rows(COUNT) == [{"runs": 1}]
    assert sorted(os.listdir(path.parent)) == ["elsewhere", "runs.db"]
    assert os.listdir(link.parent) == ["link.db"]


def test_a_writer_that_comes_later_is_seen(path: Path) -> None:
    """What is written while a reader has the journal open is in its next answer, whether the writer stays or goes."""
    with Reader(path) as reader:
        assert reader.rows(COUNT) == [{"runs": 1}]
        write(path, "00002")
        assert reader.rows(COUNT) == [{"runs": 2}]
        with closing(sqlite3.connect(path, isolation_level=None)) as staying:
            staying.execute("DELETE FROM run WHERE id = '00002'")
            assert reader.rows(COUNT) == [{"runs": 1}]
            staying.execute("DELETE FROM run")
            assert reader.rows(COUNT) == [{"runs": 0}]


def test_what_was_not_written_back_is_read(path: Path) -> None:
    """After a process died, what it committed is in the write-ahead log, and is read from there."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("DELETE FROM run")
    copy = path.with_name("copy.db")
    for suffix in ("", "-wal"):  # what the disk holds at a kill
        copy.with_name(f"copy.db{suffix}").write_bytes(path.with_name(f"runs.db{suffix}").read_bytes())
    connection.close()
    with Reader(copy) as reader:
        assert reader.rows(COUNT) == [{"runs": 0}]


def test_a_reader_can_not_write(path: Path) -> None:
    """A query that would change the journal fails, whether it is in use or not."""
    with Reader(path) as reader, pytest.raises(JournalError, match="can't be written"):
        reader.rows("DELETE FROM run")
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as writer,
        Reader(path) as reader,
        pytest.raises(JournalError, match="can't be written"),
    ):
        writer.execute("DELETE FROM log")
        reader.rows("DELETE FROM run")


@pytest.mark.parametrize(
    ("make", "kind", "said"),
    [
        (
            lambda path: path.mkdir(),
            JournalError,
            "it is a folder. Give the path of the file, such as app.db inside it.",
        ),
        (lambda path: None, JournalMissing, "there is no such file. Run a flow first, or give another --journal."),
        (lambda path: path.touch(), JournalMissing, "the file is empty. Run a flow first, or give another --journal."),
        (lambda path: path.write_text("text" * 500), JournalCorrupt, "the file is damaged or is no journal."),
        (lambda path: make_other(path), JournalCorrupt, "it is an SQLite database, but no journal."),
    ],
)
def test_what_is_no_journal_is_named(tmp_path: Path, make: Any, kind: type[JournalError], said: str) -> None:
    """A path that leads to no journal gets one error that says what is there instead and what to do."""
    path = tmp_path / "app.db"
    make(path)
    with pytest.raises(kind) as raised:
        Reader(path)
    assert str(raised.value).startswith(f"Journal {path}: {said}")
    assert os.listdir(tmp_path) in ([], ["app.db"])


def make_other(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE song (title TEXT)")


def test_a_name_with_special_characters(journal_of: Any, record: Any) -> None:
    """A file is read whatever its name has in it."""
    with Reader(journal_of([record(1, "f", None, kind="flow")], name="50% a?b#c.db")) as reader:
        assert reader.rows(COUNT) == [{"runs": 1}]
