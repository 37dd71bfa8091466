"""How the command line says that something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from undertow import Engine

Invoke = Callable[..., Result]

pytestmark = pytest.mark.real_time

READING = (["ls"], ["show", "x"], ["why"], ["logs", "-f"], ["graph"], ["report", "-o", "run.html"])
"""The verbs that need a journal to read."""

UNREADABLE = (
    ([], "runs.db", ": there is no such file. Run a flow first"),
    (["--journal", "."], ".", ": it is a folder. Give the path of the file"),
    (["--journal", "empty.db"], "empty.db", ": the file is empty. Run a flow first"),
    (["--journal", "jobs.py"], "jobs.py", ": the file is damaged or is no journal"),
)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "jbos:nightly"], "there is no module 'jbos'. Did you mean 'jobs'?"),
        (["run", "jbos.py:nightly"], "there is no such file. Did you mean jobs.py?"),
        (["run", "jobs:nigtly"], "jobs has no 'nigtly'. Did you mean jobs:nightly?"),
        (["run", "jobs"], "this names a module, and no flow in it. Its flows: jobs:report, jobs:nightly,"),
        (["run", "jobs:fetch"], "'fetch' is a task, not a flow"),
        (["run", "jobs:plain"], "'plain' is a plain function, not a flow (put @flow on it)"),
        (["run", "jobs:JOBS"], "jobs has no 'JOBS'. Its flows: jobs:report,"),
        (["run", "broken:f"], "importing it raised ModuleNotFoundError: No module named 'not_installed'"),
        (["run", "typo.py:f"], "typo.py, line 1). For the traceback: python "),
        (["run", "exits:f"], "importing it raised SystemExit: 4"),
        (["run", "jobs:nightly", "-p", "n"], "--param 'n': it has no '='. Write --param name=value"),
        (["run", "jobs:nightly", "-p", "n=1", "-p", "n=2"], "'n' is given twice"),
        (["run", "jobs:nightly", "-p", "2=2"], "'2' is no name of a parameter"),
        (
            ["run", "jobs:nightly", "-p", "m=1"],
            "got an unexpected keyword argument 'm'. Arguments are given as --param",
        ),
        (["run", "jobs:echo"], "missing a required argument: 'text'"),
        (["run", "jobs:nightly", "-p", "n=many"], "Parameter 'n' of flow 'nightly' must be int, not 'many'"),
        (["run", "jobs:idle", "--journal", "no/such/folder.db"], "the folder no/such does not exist"),
        (["run"], "Missing argument 'MODULE:FLOW'. (See undertow run --help.)"),
        (["lss"], "No such command 'lss'"),
        (["ls", "-n", "0"], "0 is not in the range"),
        (["ls", "--state", "dnoe"], "There is no state called 'dnoe'. The states: Scheduled, Late,"),
        (["ls", "--since", "soon"], "'soon' is no moment. Write a date (2026-01-31)"),
        *(([*verb, *more], f"{path}{said}") for verb in READING for more, path, said in UNREADABLE),
        (["logs", "--level", "loud"], "'loud' is not one of 'debug', 'info',"),
        (["graph", "--format", "png"], "'png' is not one of 'mermaid', 'dot', 'svg'"),
        (["report"], "Missing option '--output'"),
        (["report", "-o", "-", "--json"], "--json tells about the file, so it needs one: -o run.html."),
        (["completion", "tcsh"], "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
    ],
)
def test_a_mistake_is_complaint(
    folder: Path, undertow: Invoke, complaint: Callable[[Result], str], words: list[str], said: str
) -> None:
    """A mistake on the command line is one line on stderr that names the thing and what is possible; nothing runs."""
    (folder / "broken.py").write_text("import not_installed")
    (folder / "typo.py").write_text("def f(:")
    (folder / "empty.db").touch()
    (folder / "exits.py").write_text("raise SystemExit(4)")
    line = complaint(undertow(*words))
    assert said in line.replace(f"{folder}{os.sep}", "")
    assert not (folder / "runs.db").exists()


@pytest.mark.parametrize("package", ["click", "rich"])
def test_a_missing_extra_is_named(package: str) -> None:
    """Without click or rich the command says in one line what to install."""
    program = f"import sys; sys.modules['{package}'] = None; from undertow.console.command import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    said = f'undertow: the command line needs {package}: pip install "undertow[cli]"\n'
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


@pytest.mark.parametrize("verb", [["show"], ["why"], ["logs"], ["graph"], ["report", "-o", "run.html"]])
def test_an_empty_journal_says_what_to_do(
    undertow: Invoke, complaint: Callable[[Result], str], verb: list[str]
) -> None:
    """Where no flow has run, the newest one can't be shown, and it is said what to do."""
    with Engine("runs.db"):
        pass
    said = "undertow: No flow has run yet in runs.db. Run one: undertow run module:flow\n"
    assert complaint(undertow(*verb)) == complaint(undertow(*verb, "--json")) == said
