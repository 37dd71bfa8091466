"""`undertow serve`, and `resume` of runs that wait for a person: flows in processes of their own."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from undertow import Cron, Interval, Plan
from undertow.console.loading import find_served

Invoke = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[str]"]

TIMED = """
import sys
import anyio
from undertow import flow, pause_flow_run, suspend_flow_run, task

@task
async def work(n: int) -> int:
    print("working", flush=True)
    return n

@flow
async def quick(n: int = 1) -> int:
    return await work(n)

@flow
async def endless() -> None:
    await anyio.sleep_forever()

@flow
async def asks() -> int:
    return 2 * await pause_flow_run(wait_for_input=int)

@flow(durable=True)
async def leaves(n: int) -> int:
    await work(n)
    return n + await suspend_flow_run(int)

often = quick.on(interval=1, name="often")
also_often = often
daily = quick.on(cron="0 9 * * *", timezone="Europe/Berlin", name="daily", overlap="allow")
"""

pytestmark = pytest.mark.real_time


@pytest.fixture
def timed(folder: Path) -> Path:
    """A folder with a module of plans, and of flows that go on for ever or wait for somebody."""
    (folder / "timed.py").write_text(TIMED)
    return folder


def lines_until(process: subprocess.Popen[str], state: str) -> list[dict[str, Any]]:
    """What a serving process tells, line by line, up to a run in that state."""
    assert process.stdout is not None
    told: list[dict[str, Any]] = []
    while not told or told[-1]["state_name"] != state:
        told.append(json.loads(process.stdout.readline()))
    return told


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_serving_until_a_signal(timed: Path, start: Start, undertow: Invoke, backend: str) -> None:
    """`serve` runs a flow on its schedule, tells each change as a line of JSON, and stops with 0 at a signal."""
    words = ("--interval", "1", "-p", "n=3", "--name", "own", "--backend", backend, "--json")
    process = start("serve", "timed:quick", *words)
    told = lines_until(process, "Completed")
    (served,) = json.loads(undertow("schedules", "--json").stdout)["schedules"]
    assert (served["name"], served["served_by"].rpartition(":")[2]) == ("own", str(process.pid))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=15)
    assert (process.returncode, "working" in err) == (0, True)
    assert {(each["flow"], each["schedule"]) for each in told} == {("quick", "own")}
    (served,) = json.loads(undertow("schedules", "--json").stdout)["schedules"]
    assert (served["served_by"], served["parameters"]) == (None, {"n": 3})
    (run, *_) = json.loads(undertow("ls", "--json").stdout)["runs"]
    assert (run["schedule"], run["state_name"]) == ("own", "Completed")


def test_a_second_signal_cancels_at_once(timed: Path, start: Start, undertow: Invoke) -> None:
    """While runs that go on have their grace, another signal cancels them, and that is recorded."""
    process = start("serve", "timed:endless", "--interval", "1")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith("endless  every 1 s")
    assert process.stderr.readline() == "Serving on runs.db. Ctrl-C stops it.\n"
    assert " Running" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "Stopping: what runs has 10 s to end. Another Ctrl-C cancels it.\n"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=8)
    assert process.returncode == 130
    assert " Interrupted after" in out
    states = {run["state_name"] for run in json.loads(undertow("ls", "--json").stdout)["runs"]}
    assert "Interrupted" in states
    assert states <= {"Interrupted", "Skipped"}


def test_triggering_what_another_process_serves(timed: Path, start: Start, undertow: Invoke) -> None:
    """A run that is asked for runs in the process that serves the schedule, and a paused schedule fires no more."""
    process = start("serve", "timed:daily", "--json")
    asked: Result = undertow("schedule", "trigger", "daily", "--json")
    while asked.exit_code:  # until it has written down what it serves
        assert process.poll() is None
        asked = undertow("schedule", "trigger", "daily", "--json")
    told = lines_until(process, "Completed")
    assert {each["run_id"] for each in told} == {json.loads(asked.stdout)["run_id"]}
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=15)
    assert process.returncode == 0


def test_what_is_served_of_a_module(timed: Path, undertow: Invoke) -> None:
    """A module's plans are those at its top level, each once; one of them can be named, and a flow."""
    plans = find_served("timed")
    assert isinstance(plans, list)
    assert [(plan.name, type(plan.schedule)) for plan in plans] == [("often", Interval), ("daily", Cron)]
    assert find_served("timed:daily") == plans[1:]
    assert not isinstance(find_served("timed.py:quick"), list | Plan)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["timed:quick"], "one of --cron, --interval and --rrule"),
        (["timed:quick", "--cron", "@daily", "--interval", "5"], "one of --cron, --interval and --rrule"),
        (["timed:quick", "--cron", "61 * * * *"], "61 * * * *"),
        (["timed:quick", "--rrule", "FREQ=NEVER"], "FREQ=NEVER"),
        (["timed:quick", "--cron", "@daily", "--timezone", "Europe/Berlni"], "Europe/Berlin"),
        (["timed:quick", "--cron", "@daily", "-p", "m=1"], "'m'"),
        (["timed:quick", "--cron", "@daily", "--overlap", "perhaps"], "perhaps"),
        (["timed:leaves", "--cron", "@daily"], "'n'"),
        (["timed", "--cron", "@daily"], "MODULE:FLOW"),
        (["timed:daily", "-p", "n=1"], "MODULE:FLOW"),
        (["timed:work", "--cron", "@daily"], "is a task, not a flow"),
        (["jobs"], "no plan at its top level"),
        (["nowhere"], "no module 'nowhere'"),
    ],
)
def test_what_cannot_be_served(
    timed: Path, undertow: Invoke, complaint: Callable[[Result], str], words: list[str], said: str
) -> None:
    """What names no flow, no plan, no time or no possible one is one line that says what is wrong."""
    assert said in complaint(undertow("serve", *words))


# --- going on with what waits for a person ---------------------------------------------------------------------


def test_answering_a_paused_run(timed: Path, start: Start, undertow: Invoke) -> None:
    """`resume --input` gives a paused run of another process what it waits for, and it goes on there."""
    process = start("run", "timed:asks")
    while not Path("runs.db").exists() or undertow("ls", "--state", "paused").stdout.count("\n") < 2:
        assert process.poll() is None
    given = undertow("resume", "--input", "21", "--json")
    assert (given.exit_code, json.loads(given.stdout)["exit_code"]) == (0, 0), given.stderr
    out, _ = process.communicate(timeout=15)
    assert process.returncode == 0
    assert out.split()[-1] == "42"


def test_answering_a_suspended_run(timed: Path, undertow: Invoke) -> None:
    """A suspended run, which no process has, goes on where it is resumed with an input, and not over again."""
    suspended = undertow("run", "timed:leaves", "-p", "n=40")
    assert (suspended.exit_code, "Suspended" in suspended.stdout, "working" in suspended.stdout) == (1, True, True)
    (said,) = (line for line in suspended.stderr.splitlines() if line.startswith("To go on: "))
    assert undertow("ls").stdout.count("process gone") == 0
    assert "until somebody resumes it" in undertow("why").stdout
    resumed = undertow(*said.split()[4:-1], "2")
    assert (resumed.exit_code, resumed.stdout.split()[-1], "working" in resumed.stdout) == (0, "42", False)
    again = undertow("resume", "--input", "2")
    assert (again.exit_code, again.stderr.count("\n")) == (2, 1)
    assert "waits for none, it is Completed" in again.stderr
