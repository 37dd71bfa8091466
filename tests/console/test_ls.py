"""`undertow ls`: which flow runs are listed, and what is said about each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from undertow import Engine
from undertow.console.records import Change

Invoke = Callable[..., Result]

pytestmark = pytest.mark.real_time


def test_ls_lists_outermost_flows(undertow: Invoke) -> None:
    """`ls` lists the outermost flow runs, newest first, with state, timing and the states of all tasks inside."""
    undertow("run", "jobs:nightly")
    undertow("run", "jobs:idle")
    head, first, second = undertow("ls").stdout.splitlines()
    assert head.split() == ["ID", "NAME", "STATE", "STARTED", "DURATION", "TASKS"]
    assert re.fullmatch(r"[0-9a-f-]{8,} +idle-\w{4} +Skipped +just now +[\d.]+ \S+", first)
    assert re.fullmatch(r"[0-9a-f-]{8,} +nightly-\w{4} .* 2 Failed · 299 Completed", second)


def test_ls_ids_are_enough_for_show(undertow: Invoke) -> None:
    """The short id that `ls` prints is as much as `show` needs, though tasks of the run begin alike."""
    for _ in range(3):
        undertow("run", "jobs:strict")
    runs = json.loads(undertow("ls", "--json").stdout)["runs"]
    for run in runs:
        assert run["id"] in undertow("show", run["short_id"]).stdout


@pytest.mark.parametrize("state", ["failed", "FAILED", "Failed"])
def test_ls_can_be_asked_for_a_state(undertow: Invoke, state: str) -> None:
    """`--state` takes the type or the name of a state in any case."""
    undertow("run", "jobs:strict")
    undertow("run", "jobs:idle")
    names = [run["function"] for run in json.loads(undertow("ls", "--state", state, "--json").stdout)["runs"]]
    assert names == ["strict"]


def test_ls_says_when_there_is_more(undertow: Invoke) -> None:
    """`--limit` bounds the list, and a line on stderr says that there are older runs."""
    for _ in range(3):
        undertow("run", "jobs:idle")
    result = undertow("ls", "--limit", "2")
    assert (len(result.stdout.splitlines()), result.stderr) == (3, "There are older ones: --limit 4\n")
    assert json.loads(undertow("ls", "--limit", "2", "--json").stdout)["more"] is True
    assert undertow("ls", "--limit", "3").stderr == ""


def test_ls_of_nothing_is_no_mistake(undertow: Invoke) -> None:
    """With nothing to list `ls` says so, and `--json` is still a document."""
    with Engine("runs.db"):
        pass
    said = "No flow has run yet in runs.db. Run one: undertow run module:flow\n"
    assert (undertow("ls").exit_code, undertow("ls").stdout) == (0, said)
    assert json.loads(undertow("ls", "--json").stdout) == {"journal": "runs.db", "runs": [], "more": False}
    assert undertow("ls", "--state", "paused").stdout == "No flow run in runs.db is like that.\n"


HOUR = 3_600_000_000
NOON = 1_772_452_800_000_000  # 2026-03-02T12:00Z


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ([], [4, 3, 2, 1]),
        (["--flow", "nightly"], [3, 1]),
        (["--flow", "nightly*"], [4, 3, 1]),
        (["--flow", "night[l]y"], []),
        (["--tag", "prod"], [4, 1]),
        (["--tag", "prod", "-t", "eu"], [1]),
        (["--failed"], [4, 3]),
        (["--state", "crashed"], [4]),
        (["--state", "TimedOut", "--state", "COMPLETED"], [3, 2, 1]),
        (["--since", "2026-03-02T13:00Z"], [4, 3, 2]),
        (["--until", "2026-03-02T14:00Z"], [2, 1]),
        (["--since", "2026-03-02T13:00Z", "--until", "2026-03-02T15:00Z", "--failed"], [3]),
        (["--limit", "1", "--flow", "nightly"], [3]),
    ],
)
def test_ls_filters(undertow: Invoke, journal_of: Any, record: Any, words: list[str], numbers: list[int]) -> None:
    """Flow, tags, states and time narrow the list down; what is given all has to fit."""

    def flow(number: int, function: str, state: str, name: str, tags: tuple[str, ...] = ()) -> Any:
        at = NOON + (number - 1) * HOUR
        states = (Change("PENDING", "Pending", "", at), Change(state, name, "", at + 5))
        return record(number, function, None, kind="flow", states=states, started=at, ended=at + 5, tags=tags)

    journal_of(
        [
            flow(1, "nightly", "COMPLETED", "Completed", ("eu", "prod")),
            flow(2, "hourly", "COMPLETED", "Cached"),
            flow(3, "nightly", "FAILED", "TimedOut", ("eu",)),
            flow(4, "nightly_eu", "CRASHED", "Crashed", ("prod",)),
        ]
    )
    runs = json.loads(undertow("ls", *words, "--json").stdout)["runs"]
    assert [int(run["id"]) for run in runs] == numbers


def test_ls_is_in_the_order_of_time(undertow: Invoke, journal_of: Any, record: Any) -> None:
    """The newest run comes first even where its caller chose its id."""
    runs = [
        record(number, "f", None, kind="flow", id=run_id) for number, run_id in ((10, "zz"), (20, "0a"), (30, "Mine"))
    ]
    journal_of(runs)
    assert [run["id"] for run in json.loads(undertow("ls", "--json").stdout)["runs"]] == ["Mine", "0a", "zz"]
    assert undertow("show").stdout.splitlines()[1].split() == ["id", "Mine"]
    assert undertow("show", "Mine").exit_code == undertow("show", "Mi").exit_code == 0
