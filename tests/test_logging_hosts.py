"""The host's logging stays the host's: each promise is seen from outside, in an interpreter of its own."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import pytest

pytestmark = pytest.mark.real_time

PROGRAM = """
import json, logging, os, sys
import anyio
from undertow import Engine, SettingInvalid, flow, get_run_logger, task

httpx, other = logging.getLogger("httpx"), logging.getLogger("other.library")
HOST = "HOST %(name)s %(levelname)s %(message)s"

@flow
def work(n):
    get_run_logger().info("run %d", n)
    for logger in (httpx, other):
        logger.info("info %d", n)
        logger.warning("warning %d", n)
    return n

def state():
    names = ("root", "undertow", "undertow.runs", "httpx", "other.library")
    loggers = map(logging.getLogger, names)
    return {each.name: [each.level, each.propagate, [type(h).__name__ for h in each.handlers]] for each in loggers}

def say(**values):
    print(json.dumps(values))
"""

UNTOUCHED = {
    "root": [30, True, []],
    "undertow": [0, True, ["NullHandler"]],
    "undertow.runs": [0, True, []],
    "httpx": [0, True, []],
    "other.library": [0, True, []],
}


@attrs.frozen
class Seen:
    """What an interpreter left behind."""

    out: str
    err: list[str]
    """Lines on stderr, without the times and the ends of run names."""
    kept: list[str]
    """The journal's records."""

    @property
    def said(self) -> dict[str, Any]:
        return {key: value for line in self.out.splitlines() for key, value in json.loads(line).items()}


def run(code: str, folder: Path, *options: str, status: int = 0, **variables: str) -> Seen:
    """Run a script with the default engine's journal in `runs.db`."""
    script = folder / "myflow.py"
    script.write_text(PROGRAM + code)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UNDERTOW")}
    variables = {f"UNDERTOW_{name}": value for name, value in {"JOURNAL": "runs.db", **variables}.items()}
    done = subprocess.run(
        [sys.executable, "-W", "error", *(options or [str(script)])],
        cwd=folder,
        env=kept | {"PYTHONDONTWRITEBYTECODE": "1"} | variables,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return Seen(done.stdout, [shown(line) for line in done.stderr.splitlines()], journal(folder))


def shown(line: str) -> str:
    line = re.sub(r"^\d\d:\d\d:\d\d\.\d{3} ", "", line)
    return re.sub(r"(\w+)-[0-9a-f]{4}(?= |:)", r"\1", line)


def journal(folder: Path) -> list[str]:
    if not (folder / "runs.db").exists():
        return []
    with closing(sqlite3.connect(folder / "runs.db")) as connection:
        rows = connection.execute("SELECT level, logger, message FROM logs ORDER BY rowid")
        return [" ".join(row) for row in rows]


# --- a script, and where it configures logging -----------------------------------------------------------------


def test_import_and_engine_leave_logging_alone(tmp_path: Path) -> None:
    """Import adds a NullHandler on `undertow`, an open engine no handler at all, and nothing configures logging."""
    code = """
import logging.config
def refuse(*_, **__): raise AssertionError("configured")
logging.config.dictConfig = logging.config.fileConfig = logging.basicConfig = refuse
say(imported=state())
methods = logging.Logger.callHandlers, logging.getLoggerClass(), logging.getLogRecordFactory(), logging.lastResort
with Engine("mine.db"):
    work(1)
    opened = state()
    assert logging.Logger.manager.loggerClass is None
opened["undertow"][0] = opened["undertow.runs"][0] = 0
say(opened=opened, closed=state(), hidden=logging.getLogger("undertow").isEnabledFor(logging.INFO))
now = logging.Logger.callHandlers, logging.getLoggerClass(), logging.getLogRecordFactory(), logging.lastResort
assert now == methods
"""
    seen = run(code, tmp_path)
    assert seen.said == {"imported": UNTOUCHED, "opened": UNTOUCHED, "closed": UNTOUCHED, "hidden": False}


def test_script_that_never_configures(tmp_path: Path) -> None:
    """A script that sets up no logging sees what runs log, and warnings of the rest, each once; and Python's own after."""
    code = """
quiet = logging.getLogger("quiet")
quiet.addHandler(logging.NullHandler())
silenced = logging.getLogger("silenced")
silenced.addHandler(logging.NullHandler())
silenced.propagate = False
with Engine("mine.db"):
    work(1)
    for logger in (quiet, silenced):
        logger.warning("by %s", logger.name)
httpx.warning("after")
get_run_logger().warning("not shown")
say(after=state())
"""
    seen = run(code, tmp_path)
    assert seen.err == [
        "INFO    work: run 1",
        "WARNING work httpx: warning 1",
        "WARNING work other.library: warning 1",
        "WARNING quiet: by quiet",
        "after",
    ]
    assert seen.said["after"] == UNTOUCHED


def test_script_that_configures_before(tmp_path: Path) -> None:
    """`basicConfig` before the first flow decides alone what is shown, and `force=True` later decides anew."""
    code = """
logging.basicConfig(level=logging.INFO, format=HOST)
before = state()
work(1)
assert [type(handler) for handler in logging.root.handlers] == [logging.StreamHandler]
logging.basicConfig(level=logging.WARNING, format="NEW " + HOST, force=True)
work(2)
say(before=before)
"""
    seen = run(code, tmp_path)
    assert seen.err == [
        "HOST undertow.runs INFO run 1",
        "HOST httpx INFO info 1",
        "HOST httpx WARNING warning 1",
        "HOST other.library INFO info 1",
        "HOST other.library WARNING warning 1",
        "NEW HOST httpx WARNING warning 2",
        "NEW HOST other.library WARNING warning 2",
    ]
    assert [line for line in seen.kept if line.endswith("2")] == [
        "INFO undertow.runs run 2",
        "WARNING httpx warning 2",
        "WARNING other.library warning 2",
    ]
    assert len(seen.kept) == 8


def test_script_that_configures_after(tmp_path: Path) -> None:
    """`basicConfig` after the first flow, and in the body of one, works as anywhere, and undertow's own lines end."""
    code = """
@flow
def configures():
    logging.basicConfig(level=logging.WARNING, format="IN " + HOST, force=True)
    httpx.warning("in a body")
    return 1

work(1)
logging.basicConfig(level=logging.INFO, format=HOST)
work(2)
configures()
work(3)
"""
    seen = run(code, tmp_path)
    assert seen.err == [
        "INFO    work: run 1",
        "WARNING work httpx: warning 1",
        "WARNING work other.library: warning 1",
        "HOST undertow.runs INFO run 2",
        "HOST httpx INFO info 2",
        "HOST httpx WARNING warning 2",
        "HOST other.library INFO info 2",
        "HOST other.library WARNING warning 2",
        "IN HOST httpx WARNING in a body",
        "IN HOST httpx WARNING warning 3",
        "IN HOST other.library WARNING warning 3",
    ]
    assert [line for line in seen.kept if line.endswith(("3", "body"))] == [
        "WARNING httpx in a body",
        "INFO undertow.runs run 3",
        "WARNING httpx warning 3",
        "WARNING other.library warning 3",
    ]


# --- the variables, as their authors meant them ----------------------------------------------------------------

USUAL = ["INFO    work: run 1", "WARNING work httpx: warning 1", "WARNING work other.library: warning 1"]
KEPT = ["INFO undertow.runs run 1", "WARNING httpx warning 1", "WARNING other.library warning 1"]
HTTPX_SHOWN = [USUAL[0], "INFO    work httpx: info 1", *USUAL[1:]]
HTTPX_KEPT = [KEPT[0], "INFO httpx info 1", *KEPT[1:]]


@pytest.mark.parametrize(
    ("variables", "shown", "kept"),
    [
        (
            {"ROOT_LEVEL": "info"},
            [*HTTPX_SHOWN[:3], "INFO    work other.library: info 1", USUAL[2]],
            [*HTTPX_KEPT[:3], "INFO other.library info 1", KEPT[2]],
        ),
        ({"LOGGERS_HTTPX_LEVEL": "info"}, HTTPX_SHOWN, HTTPX_KEPT),
        ({"EXTRA_LOGGERS": "httpx"}, USUAL, HTTPX_KEPT),
        ({"EXTRA_LOGGERS": "httpx", "LOGGERS_UNDERTOW_EXTRA_PROPAGATE": "true"}, HTTPX_SHOWN, HTTPX_KEPT),
        ({"LEVEL": "warning", "CAPTURE_LEVEL": "warning"}, USUAL[1:], KEPT[1:]),
        ({"CONSOLE": "off"}, ["warning 1", "warning 1"], KEPT),
    ],
)
def test_variables(variables: dict[str, str], shown: list[str], kept: list[str], tmp_path: Path) -> None:
    """Each variable of logging does in a script what its name says: to what is shown, and to what the journal keeps."""
    code = """
work(1)
import undertow.wiring
undertow.wiring._close_default()
say(after=state())
"""
    seen = run(code, tmp_path, "-m", "myflow", **{f"LOGGING_{name}": value for name, value in variables.items()})
    assert seen.err == shown
    assert seen.kept == kept
    assert seen.said["after"] == UNTOUCHED


def test_variables_in_a_configured_host(tmp_path: Path) -> None:
    """Where the host has handlers they show what a variable asks for, and without one nothing that they did not."""
    code = """
logging.basicConfig(format="%(name)s %(levelname)s", stream=sys.stderr)
before = state()
for variables in (
    {}, {"ROOT_LEVEL": "info"}, {"LOGGERS_HTTPX_LEVEL": "info"}, {"LEVELS": "httpx=ERROR,undertow=info"},
    {"EXTRA_LOGGERS": "httpx"}, {"EXTRA_LOGGERS": "httpx", "EXTRA_PROPAGATE": "1"}, {"CONSOLE": "on"},
    {"LOGGERS_HTTPX_PROPAGATE": "no", "CONSOLE": "off"},
):
    print(variables, file=sys.stderr)
    os.environ |= (named := {f"UNDERTOW_LOGGING_{name}": value for name, value in variables.items()})
    with Engine("mine.db"):
        work(1)
        levels = {name: values[:1] for name, values in state().items()}
    for name in named:
        del os.environ[name]
    assert state() == before
"""
    seen = run(code, tmp_path)
    warnings = ["httpx WARNING", "other.library WARNING"]
    assert seen.err == [
        *["{}", *warnings],
        *["{'ROOT_LEVEL': 'info'}", "undertow.runs INFO", "httpx INFO", warnings[0], "other.library INFO", warnings[1]],
        *["{'LOGGERS_HTTPX_LEVEL': 'info'}", "httpx INFO", *warnings],
        *["{'LEVELS': 'httpx=ERROR,undertow=info'}", "undertow.runs INFO", "other.library WARNING"],
        *["{'EXTRA_LOGGERS': 'httpx'}", *warnings],
        *["{'EXTRA_LOGGERS': 'httpx', 'EXTRA_PROPAGATE': '1'}", "httpx INFO", *warnings],
        *["{'CONSOLE': 'on'}", "INFO    work: run 1", *warnings],
        *["{'LOGGERS_HTTPX_PROPAGATE': 'no', 'CONSOLE': 'off'}", "warning 1", "other.library WARNING"],
    ]


def test_loggers_that_come_later(tmp_path: Path) -> None:
    """A variable names any logger, with dots, dashes or capitals, there already or made later, until the engine closes."""
    code = """
early = logging.getLogger("My.Lib")
class Own(logging.Logger): pass
with Engine("mine.db"):
    logging.setLoggerClass(Own)
    late, inner, foreign = map(logging.getLogger, ("my-lib", "my-lib.inner", "my.libs"))
    own = logging.getLogger("exact.name")
    say(levels=[each.level for each in (early, late, inner, foreign, own)], own=type(late) is Own)
    assert late.propagate is False and inner.isEnabledFor(5)
later = logging.getLogger("my_lib")
assert logging.Logger.manager.loggerClass is None
say(after=[(each.level, each.propagate) for each in (early, late, own, later)])
"""
    seen = run(
        code,
        tmp_path,
        LOGGING_LOGGERS_MY_LIB_LEVEL="5",
        LOGGING_LOGGERS_MY_LIB_PROPAGATE="false",
        LOGGING_LEVELS="exact.name=Debug",
    )
    assert seen.said == {"levels": [5, 5, 0, 0, 10], "own": True, "after": [[0, True]] * 4}


def test_bad_values_change_nothing(tmp_path: Path) -> None:
    """A bad value is an error when the engine is made, naming variable, value and what is allowed; nothing has changed."""
    code = """
before = state(), logging.Logger.callHandlers, logging.Logger.manager.loggerClass
os.environ["UNDERTOW_LOGGING_ROOT_LEVEL"] = "info"
messages = []
for name, value in (("LEVEL", "loud"), ("CONSOLE", "maybe"), ("LOGGERS_HTTPX_LEVEL", "1.5"), ("LOG_PRINTS", "2")):
    os.environ[f"UNDERTOW_LOGGING_{name}"] = value
    try:
        with Engine("mine.db"):
            pass
    except SettingInvalid as error:
        messages.append(str(error))
    del os.environ[f"UNDERTOW_LOGGING_{name}"]
    assert (state(), logging.Logger.callHandlers, logging.Logger.manager.loggerClass) == before
say(messages=messages, made=os.path.exists("mine.db"))
"""
    seen = run(code, tmp_path)
    level = "must be a level, DEBUG, INFO, WARNING, ERROR or CRITICAL in any case, or a number."
    assert seen.said == {
        "messages": [
            f"UNDERTOW_LOGGING_LEVEL='loud' is not possible: it {level}",
            "UNDERTOW_LOGGING_CONSOLE='maybe' is not possible: it must be auto, on or off.",
            f"UNDERTOW_LOGGING_LOGGERS_HTTPX_LEVEL='1.5' is not possible: it {level}",
            "UNDERTOW_LOGGING_LOG_PRINTS='2' is not possible: it must be true or false (also 1 and 0, yes and no, on and off).",
        ],
        "made": False,
    }


def test_precedence(tmp_path: Path) -> None:
    """An argument counts before the environment, that before the YAML file, that before the project's, for one logger too."""
    (tmp_path / "pyproject.toml").write_text(
        "[tool.undertow.logging]\nroot_level = 41\nlevel = 42\nlevels = {httpx = 43}\nsettings_path = 'logging.yaml'\n"
    )
    (tmp_path / "logging.yaml").write_text(
        "root: {level: 31}\nloggers:\n  httpx: {level: 33}\n  other.library: {level: 34}\n"
    )
    code = """
def levels(**options):
    with Engine("mine.db", **options):
        return [logging.getLogger(name).level for name in ("root", "undertow", "httpx", "other.library")]
say(first=levels())
os.environ["UNDERTOW_LOGGING_LOGGERS_HTTPX_LEVEL"] = "23"
say(second=levels(), third=levels(logging={"level": 12, "levels": {"httpx": 13}}), after=state())
"""
    seen = run(code, tmp_path)
    assert seen.said == {
        "first": [31, 42, 33, 34],
        "second": [31, 42, 23, 34],
        "third": [31, 12, 13, 34],
        "after": UNTOUCHED,
    }


def test_nothing_is_read_at_import(tmp_path: Path) -> None:
    """At import, and where tasks are defined, no setting is read: a bad one harms nobody who opens no engine."""
    (tmp_path / "undertow.toml").write_text("no toml")
    assert run("", tmp_path, LOGGING_LEVEL="loud", THREDS="4").err == []


# --- records outlive the process -------------------------------------------------------------------------------


def test_records_of_a_cancelled_run(tmp_path: Path) -> None:
    """What a run has logged is on disk when its call has ended, also when it was cancelled and the process dies then."""
    code = """
@flow
async def endless():
    get_run_logger().info("begun")
    try:
        await anyio.sleep_forever()
    finally:
        get_run_logger().info("cleaned up")

async def main():
    with anyio.move_on_after(0):
        await endless()
    os._exit(3)

anyio.run(main)
"""
    assert run(code, tmp_path, status=3).kept == ["INFO undertow.runs begun", "INFO undertow.runs cleaned up"]


def test_structlog_in_a_script(tmp_path: Path) -> None:
    """structlog prints as it did, and with the processor the journal gets its events too."""
    code = """
import structlog, undertow
structlog.configure(processors=[undertow.structlog.processor, structlog.processors.JSONRenderer()])

@task
def sell():
    structlog.get_logger().info("sold", item="tea")

sell()
"""
    seen = run(code, tmp_path)
    assert seen.said.items() >= {"event": "sold", "item": "tea", "function": "sell"}.items()
    assert seen.kept == ["INFO structlog sold item='tea'"]
    assert seen.err == []


# --- in somebody else's program --------------------------------------------------------------------------------


def test_embedded(tmp_path: Path) -> None:
    """Called by a host, or in a thread, nothing is shown that was not asked for; called by the script's own modules it is."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for folder, name in ((tmp_path, "host"), (scripts, "own")):
        (folder / f"{name}.py").write_text("def call(fn): return fn()\n")
    code = """
import threading
import own
sys.path.append("..")
import host

def once(n, **options):
    with Engine("mine.db", **options):
        work(n)

host.call(lambda: once(1))
thread = threading.Thread(target=once, args=(2,))
thread.start()
thread.join()
host.call(lambda: once(3, logging={"console": True}))
own.call(lambda: once(4))

async def main():
    async with Engine("mine.db"):
        await anyio.to_thread.run_sync(work, 5)

for backend in ("asyncio", "trio"):
    anyio.run(main, backend=backend)
"""
    seen = run(code, scripts)
    lines = [line for line in seen.err if "library" not in line]
    assert lines == [
        *["warning 1"] * 2,
        *["warning 2"] * 2,
        *["INFO    work: run 3", "WARNING work httpx: warning 3"],
        *["INFO    work: run 4", "WARNING work httpx: warning 4"],
        *["INFO    work: run 5", "WARNING work httpx: warning 5"] * 2,
    ]


SERVER = """
import socket
import httpx as client
import uvicorn
from fastapi import FastAPI

undertow = len(sys.argv) > 1
if undertow:
    @task
    def double(n):
        get_run_logger().info("doubling")
        return 2 * n
    @flow(log_prints=True)
    async def doubled(n):
        print("printed")
        return double(n)
    app = FastAPI(lifespan=Engine("runs.db").lifespan)
else:
    async def doubled(n):
        return 2 * n
    app = FastAPI()

@app.get("/doubled/{n}")
async def answer(n: int):
    logging.getLogger("shop").info("asked")
    logging.getLogger("shop").warning("asked for %d", n)
    return await doubled(n)

async def main():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app))
        async with anyio.create_task_group() as group:
            group.start_soon(server.serve, [listener])
            while not server.started:
                await anyio.lowlevel.checkpoint()
            async with client.AsyncClient(trust_env=False) as browser:
                for n in (1, 2):
                    url = "http://127.0.0.1:%d/doubled/%d" % (listener.getsockname()[1], n)
                    assert (await browser.get(url)).json() == 2 * n
            server.should_exit = True

anyio.run(main)
"""


def test_uvicorn(tmp_path: Path) -> None:
    """A FastAPI app under uvicorn logs the same lines with and without undertow in it, while the journal gets its share."""
    script = tmp_path / "myflow.py"
    plain = run(SERVER, tmp_path)
    seen = run(SERVER, tmp_path, str(script), "undertow")

    def lines(seen: Seen) -> list[str]:
        return [re.sub(r"\[\d+\]|:\d{4,5}\b", "", line) for line in [*seen.out.splitlines(), *seen.err]]

    assert lines(seen) == lines(plain)
    assert len(lines(plain)) > 8
    assert seen.kept == ["INFO undertow.runs printed", "INFO undertow.runs doubling"] * 2


def test_pytest(tmp_path: Path) -> None:
    """Under pytest, `caplog` and the report of a failed test have what runs log, each record once, and nothing else has."""
    code = """
import pytest

def test_caplog(caplog):
    with Engine(":memory:"):
        caplog.set_level(logging.DEBUG)
        work(1)
    assert [record.getMessage() for record in caplog.records if record.name == "undertow.runs"] == ["run 1"]

def test_usual_level(caplog):
    with Engine(":memory:"):
        work(2)
    assert [record.getMessage() for record in caplog.records] == ["warning 2", "warning 2"]

def test_report(capsys):
    with Engine(":memory:"):
        work(3)
    assert capsys.readouterr() == ("", "")
    assert False
"""
    seen = run(code, tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:anyio", "myflow.py", status=1)
    assert "1 failed, 2 passed" in seen.out
    assert seen.out.count("httpx:myflow.py") == 1
    assert seen.out.count("warning 3") == 2
    assert "run 3" not in seen.out.split("Captured log call")[1]
    assert seen.err == []
