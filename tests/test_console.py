"""The command line: what it prints, what it exits with, and how it says that something is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from undertow import Engine, flow
from undertow.console.command import cli
from undertow.console.queries import Change, RunRecord
from undertow.console.tree import DEEPEST, FAILURES_SHOWN, Drawn, Node, build, failures
from undertow.console.wording import ago, duration, safe

pytestmark = pytest.mark.real_time

JOBS = '''
import subprocess
from undertow import Skip, flow, get_run_logger, task

@task(retries=2)
async def fetch(n: int) -> int:
    if n in (17, 203):
        raise ValueError(f"no rows at {n}")
    return n

@task
async def add(rows: list[int]) -> int:
    return sum(rows)

@flow
async def report(rows: list[int]) -> int:
    return await add(rows)

@flow
async def nightly(n: int = 300) -> dict[str, int]:
    """Three hundred tasks, two of them bad, then a subflow."""
    rows = [await f for f in fetch.map(range(n)) if (await f.wait_async()).is_completed()]
    return {"rows": len(rows), "total": await report(rows)}

@flow
async def strict(n: int = 20) -> None:
    await fetch.map(range(n))

@flow
def echo(text: str, count: float = 1, *, more: list[int] | str = "") -> list[object]:
    return [text, count, more]

@flow
def loud() -> set[int]:
    print("from the body")
    subprocess.run(["echo", "from a child"])
    get_run_logger().info("from the log")
    return {1}

@task
async def broken(n: int) -> None:
    raise RuntimeError("no")

@task
async def down(n: int) -> int:
    return n and await down(n - 1)

@flow
async def extremes() -> list[int]:
    broken.map(range(12))
    await down(50)
    return list(range(1000))

@flow
def idle() -> None:
    raise Skip("nothing new")

@flow
def leaves() -> None:
    raise SystemExit(3)

@task(task_run_name="[red]x[/red]\\x1b[31m\\r{n}")
async def hostile(n: int) -> None:
    raise ValueError("[/nope]\\x1b]0;title\\x07 \\u202e")

@flow(flow_run_name="[b]n\\u00e4me[/b]\\x1b[2J")
async def odd() -> None:
    await hostile(1)

def plain() -> None: ...
'''

STUCK = """
import sys, threading
from undertow import flow
from undertow.engine.context import current_core

@flow
def waits():
    current_core().journal.commit_blocking()
    print("begun", file=sys.stderr, flush=True)
    threading.Event().wait()
"""

Invoke = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a module of flows, which is the current one; its journal is the default."""
    (tmp_path / "jobs.py").write_text(JOBS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNDERTOW_JOURNAL", "runs.db")
    for variable in ("FORCE_COLOR", "COLUMNS", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def undertow(folder: Path) -> Invoke:
    """The command, in this process."""
    return lambda *words, **options: CliRunner().invoke(cli, words, **options)


def start(*words: str, **options: Any) -> subprocess.Popen[str]:
    """The command, in a process of its own."""
    command = [sys.executable, "-m", "undertow.console", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def wait_for_line(process: subprocess.Popen[str], line: str) -> None:
    """Read the process's stderr up to a line."""
    assert process.stderr is not None
    while (said := process.stderr.readline()) != line:
        assert said, "the process ended before it said that"


def one_line(result: Result) -> str:
    """The one line of complaint; fails when there is anything else."""
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.startswith("undertow: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


# --- run -------------------------------------------------------------------------------------------------------


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


def test_json_is_all_that_is_on_stdout(folder: Path) -> None:
    """With `--json` stdout is one document, whatever the flow, its child processes and its log say."""
    out, err = start("run", "jobs:loud", "--json").communicate()
    document = json.loads(out)
    assert list(document) == ["journal", "run", "result", "exit_code"]
    assert (document["run"]["state_type"], document["result"], document["exit_code"]) == ("COMPLETED", "{1}", 0)
    assert all(f"from {origin}" in err for origin in ("the body", "a child", "the log"))


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_ctrl_c_is_130_and_recorded(folder: Path, undertow: Invoke, words: list[str]) -> None:
    """Ctrl-C ends the flow, which is journaled, and the command exits with 130."""
    (folder / "stuck.py").write_text(STUCK)
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


# --- what is wrong, in one line --------------------------------------------------------------------------------


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
        (["ls"], "runs.db: there is no such file. Run a flow first"),
        (["show", "x", "--journal", "jobs.py"], "the file is damaged or is no journal"),
    ],
)
def test_a_mistake_is_one_line(folder: Path, undertow: Invoke, words: list[str], said: str) -> None:
    """A mistake on the command line is one line on stderr that names the thing and what is possible; nothing runs."""
    (folder / "broken.py").write_text("import not_installed")
    (folder / "typo.py").write_text("def f(:")
    (folder / "exits.py").write_text("raise SystemExit(4)")
    line = one_line(undertow(*words))
    assert said in line.replace(f"{folder}{os.sep}", "")
    assert not (folder / "runs.db").exists()


@pytest.mark.parametrize("package", ["click", "rich"])
def test_a_missing_extra_is_named(package: str) -> None:
    """Without click or rich the command says in one line what to install."""
    program = f"import sys; sys.modules['{package}'] = None; from undertow.console.command import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    said = f'undertow: the command line needs {package}: pip install "undertow[cli]"\n'
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


# --- ls --------------------------------------------------------------------------------------------------------


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


def test_an_empty_journal_says_what_to_do(undertow: Invoke) -> None:
    """With nothing to list, `ls` and `show` say so and what to do, and `--json` is still a document."""
    with Engine("runs.db"):
        pass
    for verb in ("ls", "show"):
        result = undertow(verb)
        assert (result.exit_code, result.stdout) == (
            0, "No flow has run yet in runs.db. Run one: undertow run module:flow\n",
        )  # fmt: skip
    assert json.loads(undertow("ls", "--json").stdout) == {"journal": "runs.db", "runs": [], "more": False}
    assert json.loads(undertow("show", "--json").stdout) == {"journal": "runs.db", "run": None, "inside": []}
    assert "in the state paused" in undertow("ls", "--state", "paused").stdout
    assert "in a state called 'dnoe'. The states: Scheduled, Late," in undertow("ls", "--state", "dnoe").stdout


# --- show ------------------------------------------------------------------------------------------------------


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


def test_show_of_an_unclear_run(undertow: Invoke) -> None:
    """An unknown run gets a suggestion, and one that could be several gets them listed."""
    undertow("run", "jobs:strict")
    undertow("run", "jobs:idle")
    idle, strict = json.loads(undertow("ls", "--json").stdout)["runs"]
    assert f"Did you mean {strict['name']!r}?" in one_line(undertow("show", "strict"))
    assert "`undertow ls` lists the flow runs" in one_line(undertow("show", "zz"))
    line = one_line(undertow("show", idle["id"][:2]))
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
    keys += ["map_index", "attempts", "parameters", "tags", "created_at", "started_at", "ended_at", "duration_seconds"]
    keys += ["upstream_ids", "error", "states"]
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
        engine.journal.commit_blocking()
        shown, listed = undertow("show"), undertow("ls", "--state", "running")
        go_on.set()
        future.wait()
    assert re.match(r"waits-\w{4}  Running for [\d.]+ \S+\n", shown.stdout)
    assert re.search(r"waits-\w{4} +Running", listed.stdout)


def test_a_killed_process_is_noticed(folder: Path, undertow: Invoke) -> None:
    """A run whose process was killed is said to be so, without a byte of the journal being written."""
    (folder / "stuck.py").write_text(STUCK)
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


# --- how it looks ----------------------------------------------------------------------------------------------


def test_text_of_programs_is_only_text(undertow: Invoke) -> None:
    """Names and messages are printed as they are: no markup is read, and control characters are spelled out."""
    runs = undertow("run", "jobs:odd"), undertow("show"), undertow("ls"), undertow("show", "\x1b[31m")
    for result in runs:
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", result.output)
    out = runs[1].stdout
    assert out.startswith(r"[b]näme[/b]\x1b[2J  Failed after")
    assert r"└─ [red]x[/red]\x1b[31m\r1  Failed" in out
    assert r"ValueError: [/nope]\x1b]0;title\x07 \u202e" in out


def test_a_pipe_gets_whole_lines_without_colour(undertow: Invoke) -> None:
    """Off a terminal nothing is cut, wrapped, padded or coloured."""
    undertow("run", "jobs:odd")
    for result in (undertow("ls"), undertow("show")):
        assert "…" not in result.stdout
        assert "\x1b" not in result.stdout
        assert not re.search(" $", result.stdout, re.MULTILINE)


def test_a_terminal_is_not_overrun(undertow: Invoke) -> None:
    """On a terminal the columns fit its width; ids and states stay whole."""
    undertow("run", "jobs:nightly")
    undertow("run", "jobs:odd")
    ids = [run["short_id"] for run in json.loads(undertow("ls", "--json").stdout)["runs"]]
    terminal = {"FORCE_COLOR": "1", "COLUMNS": "70", "TERM": "xterm-256color"}
    coloured = undertow("ls", env=terminal).stdout
    assert "\x1b[" in coloured
    lines = re.sub(r"\x1b\[[\d;]*m", "", coloured).splitlines()
    assert max(map(len, lines)) <= 70
    assert [line.split()[0] for line in lines[1:]] == ids
    assert [state for line in lines[1:] for state in ("Failed", "Completed") if f"  {state} " in line] == [
        "Failed", "Completed",
    ]  # fmt: skip


def test_a_terminal_without_unicode_gets_ascii(folder: Path, undertow: Invoke) -> None:
    """Where stdout can hold only ASCII, the tree is drawn in ASCII and other characters are spelled out."""
    undertow("run", "jobs:nightly")
    undertow("run", "jobs:odd")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    name = json.loads(undertow("ls", "--json").stdout)["runs"][1]["name"]
    out, err = start("show", name, env=environment).communicate()
    assert (err, "|- fetch x300" in out, "`- report-" in out) == ("", True, True)
    out, err = start("ls", env=environment).communicate()
    assert (err, r"[b]n\xe4me[/b]\x1b[2J" in out) == ("", True)


def test_a_reader_may_stop_early(folder: Path, undertow: Invoke) -> None:
    """When whoever reads the output goes away (`| head`), the command ends without a complaint."""
    undertow("run", "jobs:nightly")
    process = start("show", "--all")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait()


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
    ("microseconds", "said"),
    [
        (0, "0 µs"), (949, "949 µs"), (950, "0.9 ms"), (9_940, "9.9 ms"), (9_960, "10 ms"), (999_400, "999 ms"),
        (999_600, "1.00 s"), (9_996_000, "10.0 s"), (59_990_000, "60.0 s"), (59_996_000, "1 min 00 s"),
        (125_000_000, "2 min 05 s"), (3_599_600_000, "1 h 00 min"), (90_061_000_000, "1 d 01 h"),
    ],
)  # fmt: skip
def test_durations_are_said_briefly(microseconds: int, said: str) -> None:
    """A duration has two or three digits and the unit that suits it."""
    assert duration(microseconds) == said


def test_moments_are_said_from_now() -> None:
    """A moment of the last days is said as how long ago it was, an older one as its date."""
    now = 1_767_225_600_000_000
    past = [ago(now - seconds * 1_000_000, now) for seconds in (3, 45, 200, 7200, 200_000)]
    assert past == ["just now", "45 s ago", "3 min ago", "2 h ago", "2 d ago"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", ago(now - 10**13, now))


def test_safe_text_spells_out_what_is_not_seen() -> None:
    """Control, format and surrogate characters are spelled out; letters, spaces and emoji are kept."""
    assert safe("a\x1b\r\n\t\x00\u2028\ud800 ß 漢 🌊") == r"a\x1b\r\n\t\x00\u2028\ud800 ß 漢 🌊"
    assert safe("two\nlines\x7f", keep="\n") == "two\nlines\\x7f"


# --- the tree, as values ---------------------------------------------------------------------------------------


def record(number: int, function: str, parent: int | None = 0, state: str = "Completed", **more: Any) -> RunRecord:
    """A run that began and ended."""
    states = (Change("PENDING", "Pending", "", number), Change(state.upper(), state, "", number + 5))
    parent_id = None if parent is None else f"{parent:05}"
    return RunRecord(
        f"{number:05}", "task", function, f"{function}-{number}", parent_id, 1, states, number, number + 5, **more
    )


def drawn(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from drawn(child)


def test_each_map_is_a_node() -> None:
    """Two maps of one task are two nodes, and calls of it outside any map a third."""
    runs = [record(0, "root", None)]
    runs += [record(1 + i, "work", map_index=i) for i in range(10)]
    runs += [record(11 + i, "work") for i in range(7)]
    runs += [record(18 + i, "work", map_index=i) for i in range(8)]
    assert [len(node.runs) for node in build(runs).children] == [10, 7, 8]


def test_what_ran_inside_many_is_drawn_together() -> None:
    """Below a node of many runs stand their children together; those of a failed run stand below that run."""
    runs = [record(0, "root", None)]
    runs += [record(1 + i, "outer", state="Failed" if i == 3 else "Completed") for i in range(20)]
    runs += [record(100 + i, "inner", parent=1 + i) for i in range(20)]
    (outer,) = build(runs).children
    failed, inner = outer.children
    assert (len(outer.runs), len(inner.runs), inner.drawn) == (20, 19, Drawn.TOGETHER)
    assert (failed.runs[0].id, [child.runs[0].id for child in failed.children]) == ("00004", ["00103"])


def test_no_failure_is_left_out() -> None:
    """The first failures of a node have a line each, and one line stands for the rest."""
    runs = [record(0, "root", None), *(record(1 + i, "work", state="Failed") for i in range(50))]
    (work,) = build(runs).children
    *single, rest = work.children
    assert [len(node.runs) for node in single] == [1] * FAILURES_SHOWN
    assert (rest.drawn, len(rest.runs)) == (Drawn.MORE_FAILURES, 50 - FAILURES_SHOWN)


def test_a_very_deep_tree_is_drawn_to_a_depth() -> None:
    """Runs nested thousands deep are drawn to a depth, and counted below it."""
    runs = [record(0, "root", None), *(record(1 + i, "deep", parent=i) for i in range(5000))]
    nodes = list(drawn(build(runs)))
    assert nodes[-1].drawn is Drawn.DEEPER
    assert (len(nodes), len(nodes[-1].runs)) == (DEEPEST + 2, 5000 - DEEPEST)


def test_an_error_is_shown_where_it_was_raised() -> None:
    """An error that passed through several runs is told once, of the innermost; equal ones are counted."""
    frames = 'Traceback (most recent call last):\n  File "jobs.py", line 3, in work\nValueError: bad {}\n'
    runs = [
        record(0, "root", None, "Failed", error=frames.format(2)),
        record(1, "outer", 0, "Failed", error=frames.format(2)),
    ]
    runs += [record(2 + i, "work", 1, "Failed", error=frames.format(2 + i)) for i in range(3)]
    runs += [record(9, "other", 1, "Completed", error="a retry went well\n")]
    (found,) = failures(runs)
    assert (found.run.id, found.count) == ("00002", 3)
