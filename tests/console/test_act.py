"""`undertow resume`, `cancel` and `config`: verbs that act, and what settings there are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from undertow.console.command import cli

pytestmark = pytest.mark.real_time

ORDERS = """
import os
import anyio
from undertow import Engine, flow, task

@task
async def charge(n):
    print("charging", n, flush=True)
    return n * 2

@task
async def ship(n):
    print("shipping", n, flush=True)
    return f"shipped {n}"

@flow(durable=True)
async def order(n: int):
    paid = await charge(n)
    if os.environ.get("CRASH"):
        os._exit(9)
    return await ship(paid)

@flow
async def endless():
    print("begun", flush=True)
    await anyio.sleep_forever()

async def main():
    async with Engine("o.db"):
        await order(3)

if __name__ == "__main__":
    anyio.run(main)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a script of flows, which is where the command is called."""
    (tmp_path / "orders.py").write_text(ORDERS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own."""
    line = [sys.executable, "-m", "undertow.console", *words]
    return subprocess.run(line, env=os.environ | environment, capture_output=True, text=True, timeout=30)


def first_run(folder: Path) -> dict[str, Any]:
    listed: dict[str, Any] = json.loads(command("ls", "--journal", "o.db", "--json").stdout)
    run: dict[str, Any] = listed["runs"][0]
    return run


def test_resuming_what_a_script_left(folder: Path) -> None:
    """A durable run of a script that died goes on from the command line, without what is recorded, and only once."""
    died = subprocess.run(
        [sys.executable, "orders.py"], env=os.environ | {"CRASH": "1"}, capture_output=True, text=True
    )
    assert (died.returncode, died.stdout) == (9, "charging 3\n")
    run = first_run(folder)
    resumed = command("resume", run["id"], "--journal", "o.db", "--json")
    told = json.loads(resumed.stdout)
    assert resumed.returncode == 0
    assert (told["result"], told["run"]["state_name"]) == ("shipped 6", "Completed")
    assert "shipping 6" in resumed.stderr
    assert "charging" not in resumed.stderr
    again = command("resume", run["id"], "--journal", "o.db")
    assert again.returncode == 2
    assert again.stderr.startswith("undertow: Run ")
    assert "can't be resumed" in again.stderr


def test_cancelling_a_run_of_another_process(folder: Path) -> None:
    """A flow run of another process is cancelled, with the reason; one that has ended is refused."""
    line = [sys.executable, "-m", "undertow.console", "run", "orders:endless", "--journal", "o.db"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        run = first_run(folder)
        cancelled = command("cancel", run["id"], "--journal", "o.db", "--reason", "not needed")
        assert (cancelled.returncode, cancelled.stdout) == (0, f"{run['name']} ended Cancelled.\n")
        assert process.wait(10) == 1
    assert "not needed" in command("why", run["id"], "--journal", "o.db").stdout
    again = command("cancel", run["id"], "--journal", "o.db")
    assert (again.returncode, again.stderr) == (2, f"undertow: {run['name']} has ended already: Cancelled.\n")


def test_cancelling_for_no_reason(folder: Path) -> None:
    """A run that is cancelled without a reason says that it was asked for, and not that its engine was closed."""
    line = [sys.executable, "-m", "undertow.console", "run", "orders:endless", "--journal", "o.db"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        cancelled = command("cancel", "--journal", "o.db", "--reason", "", "--json")
        assert cancelled.returncode == 0
        assert process.wait(10) == 1
    run = json.loads(cancelled.stdout)["run"]
    assert run["state_name"] == "Cancelled"
    assert "asked for by `undertow cancel`" in run["state_message"]


def test_settings_and_where_they_come_from(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`config` prints every setting with its value, and its source when asked; a bad value is one line."""
    (folder / "undertow.toml").write_text("threads = 7\n")
    monkeypatch.setenv("UNDERTOW_GRACE_SECONDS", "2")
    shown = CliRunner().invoke(cli, ["config", "--json"])
    settings = json.loads(shown.output)["settings"]
    assert settings["threads"]["value"] == 7
    assert "undertow.toml" in settings["threads"]["source"]
    assert settings["grace_seconds"] == {"value": 2.0, "source": "UNDERTOW_GRACE_SECONDS"}
    assert settings["durability"] == {"value": "process", "source": "default"}
    plain = CliRunner().invoke(cli, ["config", "--sources"])
    assert "UNDERTOW_GRACE_SECONDS" in plain.output
    monkeypatch.setenv("UNDERTOW_THREADS", "many")
    bad = CliRunner().invoke(cli, ["config"])
    assert bad.exit_code == 2
    assert "UNDERTOW_THREADS='many'" in bad.output


def test_cancelling_a_suspended_run(folder: Path) -> None:
    """A run that is suspended, which nobody lives, is cancelled at once, and can't be resumed by mistake then."""
    (folder / "orders.py").write_text(
        "from undertow import flow, suspend_flow_run\n\n"
        "@flow(durable=True)\nasync def order():\n    return await suspend_flow_run(int)\n"
    )
    command("run", "orders.py:order", "--journal", "o.db")
    cancelled = command("cancel", "--journal", "o.db", "--reason", "not needed", "--json")
    assert cancelled.returncode == 0
    run = json.loads(cancelled.stdout)["run"]
    assert (run["state_name"], run["state_message"]) == ("Cancelled", "Cancelled: not needed.")
    assert command("resume", "--journal", "o.db", "--input", "3").returncode == 2
