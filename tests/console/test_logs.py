"""`undertow logs`: one record is one entry, of the run and all inside it, also while they are written."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from undertow.console.logbook import Follower
from undertow.console.records import Change
from undertow.storage import Reader

Invoke = Callable[..., Result]

pytestmark = pytest.mark.real_time

AT = 1_772_452_800_123_456


@pytest.fixture
def logged(journal_of: Any, record: Any) -> Path:
    """A journal with a flow, a task inside it and one inside that, and a flow apart; each has logged."""
    runs = [record(0, "root", None, kind="flow"), record(1, "child"), record(2, "grandchild", 1)]
    logs = [
        ("00000", AT, "INFO", "app", "one"),
        ("00002", AT + 1000, "DEBUG", "app.db", "two"),
        ("00009", AT + 2000, "INFO", "app", "of another"),
        ("00001", AT + 3000, "ERROR", "app", "three\nof two lines"),
        ("00000", AT + 4000, "NOTICE", "app", "four"),
    ]
    path: Path = journal_of([*runs, record(9, "apart", None)], logs)
    return path


def test_logs_are_of_the_run_and_all_inside_it(undertow: Invoke, logged: Path) -> None:
    """`logs` prints what a run and all inside it logged, a record a line: time, level, run, message."""
    lines = undertow("logs").stdout.splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines] == [
        "INFO     root-0 one",
        "DEBUG    grandchild-2 two",
        r"ERROR    child-1 three\nof two lines",
        "NOTICE   root-0 four",
    ]
    assert undertow("logs", "grandchild-2").stdout.endswith("DEBUG    grandchild-2 two\n")


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["--level", "info"], ["one", "three\nof two lines", "four"]),
        (["--level", "ERROR"], ["three\nof two lines"]),
        (["-n", "2"], ["three\nof two lines", "four"]),
        (["-n", "0"], []),
        (["-n", "1", "--level", "error"], ["three\nof two lines"]),
    ],
)
def test_logs_can_be_narrowed(undertow: Invoke, logged: Path, words: list[str], messages: list[str]) -> None:
    """`--level` leaves out what is less severe, a level of one's own counting as INFO; `-n` begins near the end."""
    document = json.loads(undertow("logs", *words, "--json").stdout)
    assert [line["message"] for line in document["logs"]] == messages


def test_logs_as_json(undertow: Invoke, logged: Path) -> None:
    """`--json` is one document with the keys of the journal's view; with `-f` each record is one, on its line."""
    whole = json.loads(undertow("logs", "--json").stdout)
    assert (list(whole), whole["run_id"]) == (["journal", "run_id", "logs"], "00000")
    assert whole["logs"][0] == {
        "run_id": "00000", "at": "2026-03-02T12:00:00.123456Z", "level": "INFO", "logger": "app", "message": "one",
    }  # fmt: skip
    followed = undertow("logs", "-f", "--json").stdout.splitlines()
    assert [json.loads(line) for line in followed] == whole["logs"]


HOSTILE = [
    "two\r\nlines",
    "\x1b[2J\x1b]0;title\x07",
    "\u202eright to left\u2066",
    "\u2028line separator\x85",
    "\n" * 50 + "2026-03-02 12:00:00.000 INFO     root-0 forged",
    "x" * 300 + " 2026-03-02 12:00:00.000 INFO     root-0 forged",
    "\x00\x7f\x9b31m",
]


def test_no_message_can_forge_a_line(undertow: Invoke, journal_of: Any, record: Any) -> None:
    """Whatever is logged, by whatever logger in whatever run, one record is one line without control characters."""
    run = record(0, "root", None, kind="flow", name="r\noot\x1b[31m")
    journal_of([run], [("00000", AT, "IN\nFO\x1b[1m", "l\nogger", message) for message in HOSTILE])
    out = undertow("logs").stdout
    assert out.count("\n") == len(HOSTILE)
    assert all(char.isprintable() or char == "\n" for char in out)
    assert all(line.startswith("2026-03-02 ") for line in out.splitlines())


def test_on_a_terminal_a_record_is_spread_out_below_its_head(undertow: Invoke, journal_of: Any, record: Any) -> None:
    """On a terminal the lines of a record stand below its head, indented, and no row of the screen looks like a head."""
    journal_of([record(0, "root", None, kind="flow")], [("00000", AT, "INFO", "", message) for message in HOSTILE])
    terminal = {"FORCE_COLOR": "1", "COLUMNS": "60", "TERM": "xterm-256color"}
    rows = re.sub(r"\x1b\[[\d;]*m", "", undertow("logs", env=terminal).stdout).splitlines()
    assert max(map(len, rows)) <= 60
    heads = [row for row in rows if not row.startswith("    │ ")]
    assert len(heads) == len(HOSTILE)
    assert all(row.startswith("2026-03-02 ") for row in heads)


def test_following_ends_with_the_run(undertow: Invoke, start: Any, writer: Any) -> None:
    """`logs -f` hands out records as they are written, and ends by itself, with 0, when the run has."""
    process = start("logs", "-f")
    assert process.stdout.readline().endswith(" first\n")
    writer.stdin.close()
    writer.stdin = None
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.endswith(" last\n")


def test_following_can_be_interrupted(undertow: Invoke, start: Any, writer: Any) -> None:
    """Ctrl-C is how one stops following: it gives 130, and nothing is complained about."""
    process = start("logs", "-f")
    assert process.stdout.readline().endswith(" first\n")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err) == (130, "")


def test_following_a_run_whose_process_died(undertow: Invoke, start: Any, wait_for_line: Any) -> None:
    """`logs -f` of a run that never will end, because its process was killed, ends and says so."""
    process = start("run", "stuck:waits")
    wait_for_line(process, "begun\n")
    process.kill()
    process.communicate()
    result = undertow("logs", "-f")
    assert (result.exit_code, result.stderr) == (0, "The run has not ended, but its process has.\n")


def test_following_leaves_nothing_behind(
    undertow: Invoke, journal_of: Any, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two looks nothing is held open, so the last writer takes the files beside the journal away with it."""
    path = journal_of([record(0, "root", None, kind="flow", ended=None)])
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("INSERT INTO log (run_id, at, level, logger, message) VALUES ('00000', 0, 'INFO', '', 'hello')")
    left: list[list[str]] = []

    def meanwhile(seconds: float) -> None:
        if not left:
            writer.execute("UPDATE run SET ended_at = 9")
            writer.close()
        left.append(sorted(each.name for each in path.parent.glob("runs.db*")))

    monkeypatch.setattr("undertow.console.verbs_logs.time.sleep", meanwhile)
    assert undertow("logs", "-f").stdout.endswith("hello\n")
    assert left == [["runs.db"], ["runs.db"]]


def test_a_record_that_comes_before_its_run(journal_of: Any, record: Any) -> None:
    """A record that is written before the run it belongs to is handed out once it is known whose it is."""
    path = journal_of([record(0, "root", None, kind="flow"), record(7, "apart", None)])
    follower = Follower("00000", after=0)

    def add(sql: str) -> list[str]:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection, Reader(path) as reader:
            connection.executescript(sql)
            return [line.message for line in follower.more(reader)]

    log = "INSERT INTO log (run_id, at, level, logger, message) VALUES ('{}', 0, 'INFO', '', '{}');"
    child = "INSERT INTO run SELECT '{}', kind, function, name, '{}', flow_run_id, tags, state_type, started_at, ended_at, attempts, history, owner, details, step FROM run WHERE id = '00007';"
    assert add(log.format("00002", "early") + log.format("00007", "apart") + log.format("00000", "own")) == ["own"]
    assert add(child.format("00002", "00001")) == []
    assert add(child.format("00001", "00000")) == ["early"]
    assert add(log.format("00002", "again")) == ["again"]


def test_following_reads_in_pages(journal_of: Any, record: Any) -> None:
    """However many records came since the last look, each is handed out once, in order."""
    logs = [("00000", AT, "INFO", "", str(number)) for number in range(2500)]
    path = journal_of([record(0, "root", None, kind="flow", states=(Change("RUNNING", "Running", "", AT),))], logs)
    follower = Follower("00000", after=3)
    with Reader(path) as reader:
        assert [line.message for line in follower.more(reader)] == [str(number) for number in range(3, 2500)]
        assert follower.more(reader) == []
