"""`undertow run`: what it prints, what it exits with, and what it leaves in the journal."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Invoke = Callable[..., Result]

pytestmark = pytest.mark.real_time


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(("target", "said"), [("jobs:nightly", "{'rows': 298,"), ("jobs.py:echo", "['7', 1, '']")])
def test_run_prints_the_outcome(undertow: Invoke, target: str, said: str, backend: str) -> None:
    """`undertow run` runs an async or a sync flow, of a module or a file, and prints run id, final state and result."""
    words = ["--param", "text=7"] if "echo" in target else []
    result = undertow("run", target, "--backend", backend, *words)
    assert result.exit_code == 0, result.output
    assert re.search(r"^(nightly|echo)-\w{4}  Completed after ", result.stdout)
    assert re.search(r"^run +[0-9a-f-]{36}$", result.stdout, re.MULTILINE)
    assert said in result.stdout


def test_a_failed_flow_exits_with_1(undertow: Invoke) -> None:
    """A flow that fails gives exit code 1 and the traceback of where it was raised, once."""
    result = undertow("run", "jobs:strict")
    assert result.exit_code == 1
    assert re.search(r"^strict-\w{4}  Failed after .*\nValueError: no rows at 17\n", result.stdout)
    assert result.stdout.count("Traceback") == 1
    assert 'raise ValueError(f"no rows at {n}")' in result.stdout
    assert re.search(r"More: undertow show strict-\w{4}\n", result.stderr)


def test_a_skipped_flow_is_no_failure(undertow: Invoke) -> None:
    """A flow that skips itself exits with 0 and says why."""
    result = undertow("run", "jobs:idle")
    assert (result.exit_code, result.stdout.splitlines()[1]) == (0, "nothing new")


def test_a_flow_that_leaves_has_crashed(undertow: Invoke) -> None:
    """`sys.exit` in a flow's body makes it Crashed, and the command exits with 1, not with the body's code."""
    result = undertow("run", "jobs:leaves")
    assert result.exit_code == 1
    assert "Crashed after" in result.stdout
    assert "interrupted by SystemExit: 3" in result.stdout


@pytest.mark.parametrize(
    ("given", "call"),
    [
        (["text=hello"], ["hello", 1, ""]),
        (["text=007", "count=2.5"], ["007", 2.5, ""]),
        (['text="quoted"', "more=[1, 2]"], ["quoted", 1, [1, 2]]),
        (["text=a=b", "more=5"], ["a=b", 1, "5"]),
        (["text=NaN"], ["NaN", 1, ""]),
        (["text="], ["", 1, ""]),
    ],
)
def test_parameters_are_json_or_text(undertow: Invoke, given: list[str], call: list[object]) -> None:
    """Parameters are read as JSON and else as text, and stay text where the flow asks for a `str`."""
    words = [word for text in given for word in ("--param", text)]
    result = undertow("run", "jobs:echo", *words, "--json")
    assert json.loads(result.stdout)["result"] == call


def test_json_is_all_that_is_on_stdout(folder: Path, start: Any) -> None:
    """With `--json` stdout is one document, whatever the flow, its child processes and its log say."""
    out, err = start("run", "jobs:loud", "--json").communicate()
    document = json.loads(out)
    assert list(document) == ["journal", "run", "result", "exit_code"]
    assert (document["run"]["state_type"], document["result"], document["exit_code"]) == ("COMPLETED", "{1}", 0)
    assert all(f"from {origin}" in err for origin in ("the body", "a child", "the log"))


@pytest.mark.parametrize("console", ["auto", "off"])
def test_the_log_is_shown_as_the_settings_say(folder: Path, start: Any, console: str) -> None:
    """`run` shows the log on stderr like any script with an engine, once, and not where a setting turns that off."""
    _, err = start("run", "jobs:loud", env=os.environ | {"UNDERTOW_LOGGING_CONSOLE": console}).communicate()
    assert err.count("from the log") == (console == "auto")


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_ctrl_c_is_130_and_recorded(undertow: Invoke, start: Any, wait_for_line: Any, words: list[str]) -> None:
    """Ctrl-C ends the flow, which is journaled, and the command exits with 130."""
    process = start("run", "stuck:waits", *words)
    wait_for_line(process, "begun\n")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130
    assert "Crashed" in out
    assert "Traceback" not in out.partition('"error"')[0] + err
    assert "Crashed" in undertow("ls").stdout


def test_a_file_of_a_package_may_import_its_neighbours(folder: Path, undertow: Invoke) -> None:
    """A flow's file inside a package is imported as part of it, so its relative imports work."""
    (folder / "shop").mkdir()
    (folder / "shop" / "__init__.py").touch()
    (folder / "shop" / "prices.py").write_text("PRICE = 5")
    (folder / "shop" / "sale.py").write_text(
        "from undertow import flow\nfrom .prices import PRICE\n"
        "class Sale:\n    @staticmethod\n    @flow\n    def price():\n        return PRICE\n"
    )
    result = undertow("run", "shop/sale.py:Sale.price")
    assert (result.exit_code, result.stdout.split()[-1]) == (0, "5")


def test_a_file_may_have_the_name_of_a_known_module(folder: Path, undertow: Invoke) -> None:
    """A file called like a module that is in use already is run all the same, and the module is left alone."""
    (folder / "json.py").write_text("from undertow import flow\n@flow\ndef f():\n    return 'mine'\n")
    assert "'mine'" in undertow("run", "json.py:f").stdout
    assert sys.modules["json"] is json


def test_the_default_journal_needs_no_preparation(folder: Path, undertow: Invoke, monkeypatch: Any) -> None:
    """With nothing said about a journal, the first run makes `~/.undertow/journal.db`, private to the user."""
    monkeypatch.delenv("UNDERTOW_JOURNAL")
    monkeypatch.setenv("HOME", str(folder))
    assert undertow("run", "jobs:echo", "-p", "text=x").exit_code == 0
    assert (folder / ".undertow").stat().st_mode & 0o777 == 0o700
    assert (folder / ".undertow" / "journal.db").stat().st_mode & 0o777 == 0o600


def test_a_run_in_memory_is_reported(undertow: Invoke) -> None:
    """`--journal :memory:` runs a flow without leaving a trace, and still says how it ended."""
    result = undertow("run", "jobs:strict", "--journal", ":memory:")
    assert (result.exit_code, "ValueError: no rows at 17" in result.stdout) == (1, True)
    assert "undertow show" not in result.stderr
    assert not Path("runs.db").exists()
