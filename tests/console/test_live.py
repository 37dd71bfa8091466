"""Every verb that looks at a journal does so while another process writes it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from subprocess import Popen

import pytest
from click.testing import Result

Invoke = Callable[..., Result]

pytestmark = pytest.mark.real_time


def test_every_verb_on_a_journal_in_use(undertow: Invoke, folder: Path, writer: Popen[str]) -> None:
    """Each verb, and each as JSON, answers with exit code 0 while a process writes, and the writer notices nothing."""
    name = json.loads(undertow("ls", "--json").stdout)["runs"][0]["name"]
    verbs = [
        ["ls"],
        ["ls", "--state", "running", "--since", "today", "--flow", "busy"],
        ["show", name],
        ["show", "--all"],
        ["why", name],
        ["logs", name],
        *(["graph", name, "--format", form] for form in ("mermaid", "dot", "svg")),
        ["report", name, "-o", "run.html"],
        ["doctor"],
        ["doctor", "--quick"],
    ]
    for verb in verbs:
        result = undertow(*verb)
        assert (result.exit_code, result.exception) == (0, None), (verb, result.output)
        assert json.loads(undertow(*verb, "--json").stdout), verb
    assert writer.poll() is None
    with closing(sqlite3.connect(folder / "runs.db")) as connection:
        assert connection.execute("SELECT state_name FROM flow_runs").fetchall() == [("Running",)]


def test_what_is_going_on_is_told(undertow: Invoke, writer: Popen[str]) -> None:
    """Of a run that goes on it is said that it runs, for how long, and what is open inside it."""
    assert "Running" in undertow("ls").stdout
    assert json.loads(undertow("show", "--json").stdout)["run"]["ended_at"] is None
    reasons = json.loads(undertow("why", "--json").stdout)["reasons"]
    assert reasons[0]["reason"] in ("inside", "body")
    assert undertow("report", "-o", "run.html").exit_code == 0
    assert "so far" in Path("run.html").read_text()


def test_doctor_names_who_has_the_journal_open(undertow: Invoke, writer: Popen[str]) -> None:
    """`doctor` of a journal in use names the process, and finds no problem in that."""
    found = json.loads(undertow("doctor", "--json").stdout)["findings"]
    (owners,) = [finding["said"] for finding in found if finding["about"] == "owners"]
    assert owners.startswith(f"in use by {writer.pid} on ")
