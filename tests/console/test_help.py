"""`undertow --help`, `version` and `completion`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from click.testing import Result

Invoke = Callable[..., Result]

pytestmark = pytest.mark.real_time


def test_help_and_version(undertow: Invoke) -> None:
    """The bare command explains itself, and `version` names what it stands on."""
    bare = undertow()
    assert (bare.exit_code, all(f"\n  {verb} " in bare.stdout for verb in ("ls", "run", "show", "version"))) == (
        0,
        True,
    )
    assert re.fullmatch(
        r"undertow \S+ \(python \S+, sqlite \S+, anyio \S+, trio \S+, aiosqlite \S+\)\n", undertow("version").stdout
    )
    assert list(json.loads(undertow("version", "--json").stdout)) == [
        "undertow",
        "python",
        "sqlite",
        "anyio",
        "trio",
        "aiosqlite",
    ]


@pytest.mark.parametrize(
    ("shell", "begin"),
    [("bash", "_undertow_completion() {"), ("zsh", "#compdef undertow"), ("fish", "function _undertow_completion")],
)
def test_completion_is_a_script(undertow: Invoke, shell: str, begin: str) -> None:
    """`completion` prints a script for each shell, which asks the command for what comes next."""
    assert undertow("completion", shell).stdout.startswith(begin)
    assert "_UNDERTOW_COMPLETE" in json.loads(undertow("completion", shell, "--json").stdout)["script"]


def completed(undertow: Invoke, *words: str) -> list[str]:
    """What is offered for the last word."""
    environment = {
        "_UNDERTOW_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["undertow", *words]),
        "COMP_CWORD": str(len(words)),
    }
    out = undertow(env=environment, prog_name="undertow").stdout
    return [line.partition(",")[2] for line in out.splitlines() if line]


def test_completion_knows_verbs_runs_flows_and_states(undertow: Invoke) -> None:
    """At the prompt, verbs, the names of the newest runs, of flows and of states are offered."""
    undertow("run", "jobs:idle")
    undertow("run", "jobs:echo", "-p", "text=x")
    names = [run["name"] for run in json.loads(undertow("ls", "--json").stdout)["runs"]]
    assert completed(undertow, "gr") == ["graph"]
    assert completed(undertow, "show", "") == names
    assert completed(undertow, "why", "ec") == names[:1]
    assert completed(undertow, "ls", "--flow", "") == ["echo", "idle"]
    assert completed(undertow, "ls", "--state", "fa") == ["Failed"]
    assert completed(undertow, "graph", "--format", "s") == ["svg"]


def test_completion_without_a_journal(undertow: Invoke) -> None:
    """Where there is no journal nothing is offered, and nothing is complained about."""
    assert completed(undertow, "show", "") == completed(undertow, "ls", "--flow", "") == []
