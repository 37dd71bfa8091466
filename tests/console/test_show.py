"""`undertow show`: a run and all that ran inside it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from click.testing import Result

from undertow import Engine, flow
from undertow.console.tree import DEEPEST

Invoke = Callable[..., Result]

pytestmark = pytest.mark.real_time


def test_show_draws_the_tree(undertow: Invoke) -> None:
    """`show` draws flow, subflows and tasks; many runs of a task are one line, but its failures are always shown."""
    undertow("run", "jobs:nightly")
    out = undertow("show").stdout
    patterns = [
        r"nightly-\w{4}  Completed after .*",
        r"id +[0-9a-f-]{36}",
        r"started +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d, just now",
        r"parameters +n=300",
        r"subflows +1 Completed",
        r"tasks +2 Failed · 299 Completed",
        r"",
        r"├─ fetch ×300 +[\d.]+ m?s  2 Failed · 298 Completed · 4 retries",
        r"│  ├─ fetch-\w{4} \[17\] +Failed +[\d.]+ \S+  3 attempts · ValueError: no rows at 17",
        r"│  └─ fetch-\w{4} \[203\] +Failed +[\d.]+ \S+  3 attempts · ValueError: no rows at 203",
        r"└─ report-\w{4} +Completed +[\d.]+ \S+",
        r"   └─ add-\w{4} +Completed +[\d.]+ \S+",
        r"",
        r"fetch-\w{4} Failed, and 1 more like it",
        r"  Traceback \(most recent call last\):",
    ]
    for line, pattern in zip(out.splitlines(), patterns, strict=False):
        assert re.fullmatch(pattern, line), (pattern, line)
    assert out.endswith("  ValueError: no rows at 17\n")


def test_what_is_too_much_is_counted(undertow: Invoke) -> None:
    """Long results, many failures of one task and very deep trees are cut, and it is said by how much."""
    assert "result  [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... +990]\n" in undertow("run", "jobs:extremes").stdout
    out = undertow("show").stdout
    assert re.search(r"│  └─ … 7 more +Failed .*--all lists them", out)
    assert re.search(rf"└─ … {51 - DEEPEST} runs deeper +Completed", out)
    assert len(re.findall(r"─ broken-\w{4} \[\d+\]", undertow("show", "--all").stdout)) == 12


def test_show_takes_id_prefix_or_name(undertow: Invoke) -> None:
    """A run is named by the beginning of its id in any case, by its name, or, being the newest, by nothing."""
    undertow("run", "jobs:strict")
    run = json.loads(undertow("show", "--json").stdout)["run"]
    task = json.loads(undertow("show", "--json").stdout)["inside"][0]
    assert undertow("show", run["id"][:20].upper()).stdout.startswith(run["name"])
    assert undertow("show", run["name"]).stdout.startswith(run["name"])
    assert undertow("show", task["id"]).stdout.startswith(task["name"])
    assert undertow("show", task["name"]).stdout.startswith(task["name"])


def test_show_of_an_unclear_run(undertow: Invoke, complaint: Callable[[Result], str]) -> None:
    """An unknown run gets a suggestion, and one that could be several gets them listed."""
    undertow("run", "jobs:strict")
    undertow("run", "jobs:idle")
    idle, strict = json.loads(undertow("ls", "--json").stdout)["runs"]
    assert f"Did you mean {strict['name']!r}?" in complaint(undertow("show", "strict"))
    assert "`undertow ls` lists the flow runs" in complaint(undertow("show", "zz"))
    line = complaint(undertow("show", idle["id"][:2]))
    assert f"{idle['short_id']} ({idle['name']}), {strict['short_id']} ({strict['name']}). Give more" in line


def test_show_of_one_task_tells_its_story(undertow: Invoke) -> None:
    """A run with nothing inside it is shown with all states that it went through."""
    undertow("run", "jobs:strict")
    inside = json.loads(undertow("show", "--json").stdout)["inside"]
    failed = next(run for run in inside if run["state_type"] == "FAILED")
    out = undertow("show", failed["id"]).stdout
    states = re.findall(r"^(?:\d\d:\d\d:\d\d| *\+\S+ \S+)  (\w+)", out, re.MULTILINE)
    assert states == ["Pending", "Running", "Retrying", "Retrying", "Failed"]
    assert re.search(r"^map index +17$", out, re.MULTILINE)


def test_show_all_leaves_nothing_out(undertow: Invoke) -> None:
    """`--all` draws every run for itself."""
    undertow("run", "jobs:nightly")
    assert len(re.findall(r"─ fetch-\w{4} \[\d+\]", undertow("show", "--all").stdout)) == 300


def test_show_as_json(undertow: Invoke) -> None:
    """`show --json` is one document with the same keys for every run, and times in ISO-8601."""
    undertow("run", "jobs:strict")
    document = json.loads(undertow("show", "--json").stdout)
    assert list(document) == ["journal", "run", "inside"]
    keys = ["id", "kind", "name", "function", "version", "state_type", "state_name", "state_message", "parent_run_id"]
    keys += [
        "map_index",
        "attempts",
        "parameters",
        "tags",
        "schedule",
        "created_at",
        "expected_start_at",
        "started_at",
        "ended_at",
    ]
    keys += ["duration_seconds", "upstream_ids", "error", "states"]
    assert list(document["run"]) == [*keys, "tasks", "process_gone"]
    assert all(list(run) == keys for run in document["inside"])
    assert document["run"]["tasks"] == {"COMPLETED": 19, "FAILED": 1}
    assert {run["parent_run_id"] for run in document["inside"]} == {document["run"]["id"]}
    assert datetime.fromisoformat(document["run"]["started_at"]).utcoffset() is not None
    assert document["run"]["states"][-1]["name"] == "Failed"


def test_a_live_journal_can_be_looked_at(undertow: Invoke) -> None:
    """While a process writes its journal, another may look at it and sees what is running."""
    begun, go_on = threading.Event(), threading.Event()

    @flow
    def waits() -> None:
        begun.set()
        go_on.wait()

    with Engine("runs.db") as engine:
        future = engine.start(waits)
        begun.wait()
        engine.journal.commit().wait()
        shown, listed = undertow("show"), undertow("ls", "--state", "running")
        go_on.set()
        future.wait()
    assert re.match(r"waits-\w{4}  Running for [\d.]+ \S+\n", shown.stdout)
    assert re.search(r"waits-\w{4} +Running", listed.stdout)


def test_a_killed_process_is_noticed(undertow: Invoke, start: Any, wait_for_line: Any) -> None:
    """A run whose process was killed is said to be so, without a byte of the journal being written."""
    process = start("run", "stuck:waits")
    wait_for_line(process, "begun\n")
    running = undertow("ls", "--json")
    process.kill()
    process.communicate()
    killed = undertow("ls", "--json")
    gone = [json.loads(result.stdout)["runs"][0]["process_gone"] for result in (running, killed)]
    assert gone == [False, True]
    assert re.search(r"^process +has ended", undertow("show").stdout, re.MULTILINE)
    assert "Running (process gone)" in undertow("ls").stdout
