"""Settings: where a value comes from, how it may be written, and what is said of one that can't be."""

from __future__ import annotations

import inspect
import os
import sys
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest

from undertow import (
    Engine,
    InvalidOption,
    Limit,
    RateLimit,
    SettingInvalid,
    SettingsUnreadable,
    SettingUnknown,
    UnknownOption,
    temporary_settings,
)
from undertow.engine import settings
from undertow.engine.settings import Settings, load, sources
from undertow.runners.threads import DEFAULT_WORKERS


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that is empty, and an environment that says nothing."""
    for variable in [variable for variable in os.environ if variable.startswith("UNDERTOW_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def source(name: str, **arguments: Any) -> tuple[object, str]:
    """The value of a setting, and where it comes from."""
    return next((value, source) for known, value, source in sources(**arguments) if known == name)


# --- where values come from ------------------------------------------------------------------------------------


def test_precedence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument counts before a temporary setting, that before the environment, the file, and the default."""
    assert source("threads") == (40, "default")
    project = folder / "pyproject.toml"
    project.write_text("[tool.undertow]\nthreads = 2\n")
    assert source("threads") == (2, f"threads in {project} [tool.undertow]")
    monkeypatch.setenv("UNDERTOW_THREADS", "3")
    assert source("threads") == (3, "UNDERTOW_THREADS")
    with temporary_settings(threads=4):
        assert source("threads") == (4, "temporary_settings(threads=...)")
        assert source("threads", threads=5) == (5, "threads")
    assert source("threads", threads=None) == (3, "UNDERTOW_THREADS")


def test_logging_file_counts_between_environment_and_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of logging settings counts before the project's, and the environment before both, key by key."""
    (folder / "undertow.toml").write_text(
        'logging = {settings_path = "logging.yaml", level = "error", root.level = "error", capture_level = "error"}'
    )
    (folder / "logging.yaml").write_text(
        "level: debug\nroot: {level: debug}\nconsole: on\n"
        "loggers: {my.lib: {level: warning, propagate: no}, httpx: {level: error}}\n"
    )
    monkeypatch.setenv("UNDERTOW_LOGGING_LEVEL", "info")
    monkeypatch.setenv("UNDERTOW_LOGGING_LOGGERS_MY_LIB_LEVEL", "10")
    monkeypatch.setenv("UNDERTOW_LOGGING_LEVELS", "httpx=info")
    chosen = load()
    assert (chosen.logging_level, chosen.logging_root_level, chosen.logging_capture_level) == (20, 10, 40)
    assert chosen.logging_console == "on"
    applied = [(rule.name, rule.attribute, rule.value) for rule in chosen.logger_rules()]
    assert applied == [
        ("my.lib", "level", 30),
        ("my.lib", "propagate", False),
        ("httpx", "level", 40),
        ("httpx", "level", 20),
        ("MY_LIB", "level", 10),
    ]
    assert source("logging_loggers.MY_LIB.level") == (10, "UNDERTOW_LOGGING_LOGGERS_MY_LIB_LEVEL")
    assert source("logging_loggers.my.lib.level") == (30, f"logging_loggers in {folder / 'logging.yaml'}")


def test_nearest_project_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest file upwards that has settings counts, and in one folder `undertow.toml` before `pyproject.toml`."""
    inner = folder / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    (inner / "pyproject.toml").write_text("[project]\nname = 'undertow-user'\n")
    (folder / "pyproject.toml").write_text("[tool.undertow]\nthreads = 2\n")
    assert load().threads == 2
    (inner.parent / "pyproject.toml").write_text("[tool.undertow]\nthreads = 3\n")
    assert load().threads == 3
    (inner.parent / "undertow.toml").write_text("threads = 4\n")
    assert load().threads == 4
    (inner.parent / "undertow.toml").write_text("threads = 12\n")
    assert load().threads == 12


def test_working_directory_that_is_gone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a working directory that was removed there is no project file, and nothing fails."""
    gone = folder / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert load().threads == 40


def test_empty_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is set and empty says nothing."""
    monkeypatch.setenv("UNDERTOW_THREADS", "")
    assert source("threads") == (40, "default")


def test_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path in a file is relative to that file's folder; `~` is the home folder everywhere; `:memory:` is no path."""
    monkeypatch.setenv("HOME", "/home/me")
    assert load().journal == "/home/me/.undertow/journal.db"
    inner = folder / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    for written, meant in [("runs.db", f"{folder}/runs.db"), ("~/r.db", "/home/me/r.db"), (":memory:", ":memory:")]:
        (folder / "undertow.toml").write_text(f"journal = '{written}'\nthreads = {len(written)}\n")
        assert load().journal == meant
    monkeypatch.setenv("UNDERTOW_JOURNAL", "runs.db")
    assert load().journal == "runs.db"


# --- how values are written ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("GRACE_SECONDS", "0.5", 0.5),
        ("RECOVER", "Yes", True),
        ("RECOVER", "off", False),
        ("KEEP_FOR", "30d", timedelta(days=30)),
        ("KEEP_FOR", "1.5h", timedelta(minutes=90)),
        ("KEEP_FOR", "15", timedelta(seconds=15)),
        ("DURABILITY", "Power", "power"),
        ("LIMITS", "github=10, api=5/1s,slow=30/m", {"github": 10, "api": RateLimit(5), "slow": RateLimit(30, "1m")}),
        ("LOGGING_LEVEL", "info", 20),
        ("LOGGING_LEVEL", "WARN", 30),
        ("LOGGING_LEVEL", "15", 15),
        ("LOGGING_CAPTURE_LEVEL", "off", None),
        ("LOGGING_CONSOLE", "1", "on"),
        ("LOGGING_CONSOLE", "Auto", "auto"),
        ("LOGGING_EXTRA_LOGGERS", "httpx, my.lib,", ("httpx", "my.lib")),
        ("LOGGING_LOGGERS_UNDERTOW_EXTRA_PROPAGATE", "true", True),
    ],
)
def test_texts(variable: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of setting can be written as the text of an environment variable."""
    monkeypatch.setenv(f"UNDERTOW_{variable}", text)
    name = variable.replace("LOGGERS_UNDERTOW_", "").lower()
    assert getattr(load(), name) == value


def test_tables(folder: Path) -> None:
    """In a file, settings are TOML values, and what they have in common may be said in tables."""
    (folder / "undertow.toml").write_text(
        "recover = true\nkeep_for = '7d'\nresult_budget_bytes = 1000\n"
        "[limits]\ngithub = 10\napi = '5/s'\n"
        "[logging]\nextra_loggers = ['httpx']\nextra.propagate = true\nlog_prints = true\nlevels = {httpx = 'info'}\n"
        "[logging.loggers.'my.lib']\npropagate = false\n"
    )
    chosen = load()
    assert (chosen.recover, chosen.keep_for, chosen.result_budget_bytes) == (True, timedelta(days=7), 1000)
    assert chosen.limits == {"github": 10, "api": RateLimit(5)}
    assert (chosen.logging_extra_loggers, chosen.logging_extra_propagate) == (("httpx",), True)
    assert chosen.logging_log_prints is True
    assert [(rule.name, rule.attribute, rule.value) for rule in chosen.logger_rules()] == [
        ("httpx", "level", 20),
        ("my.lib", "propagate", False),
    ]


# --- what can't be ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "text", "allowed"),
    [
        ("THREADS", "many", "a whole number, 1 or more"),
        ("THREADS", "0", "a whole number, 1 or more"),
        ("GRACE_SECONDS", "-1", "a number of seconds"),
        ("GRACE_SECONDS", "nan", "a number of seconds"),
        ("RECOVER", "perhaps", "true or false"),
        ("BACKEND", "twisted", "'asyncio', 'trio'"),
        ("KEEP_FOR", "1y", '"7d"'),
        ("KEEP_FOR", "9999999999d", '"7d"'),
        ("LIMITS", "github", '"github=10,api=5/1s"'),
        ("LIMITS", "api=5/fortnight", '"github=10,api=5/1s"'),
        ("LOGGING_LEVEL", "loud", "DEBUG, INFO, WARNING, ERROR or CRITICAL in any case, or a number"),
        ("LOGGING_LEVEL", "-5", "DEBUG"),
        ("LOGGING_CONSOLE", "maybe", "auto, on or off"),
        ("LOGGING_LEVELS", "httpx", "httpx=INFO,my.lib=DEBUG"),
        ("LOGGING_LOGGERS_HTTPX_LEVEL", "loud", "DEBUG"),
        ("LOGGING_LOGGERS_HTTPX_PROPAGATE", "loud", "true or false"),
    ],
)
def test_bad_variable(variable: str, text: str, allowed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad value is refused when an engine is made; the message names the variable, the value and what is allowed."""
    monkeypatch.setenv(f"UNDERTOW_{variable}", text)
    with pytest.raises(SettingInvalid) as caught:
        Engine(":memory:")
    message = str(caught.value)
    assert message.startswith(f"UNDERTOW_{variable}={text!r} is not possible: it must be ")
    assert allowed in message


@pytest.mark.parametrize(
    ("line", "value"),
    [("threads = 'many'", "'many'"), ("threads = true", "True"), ("limits = [1]", "[1]"), ("journal = 3", "3")],
)
def test_bad_line(line: str, value: str, folder: Path) -> None:
    """A bad value in a file is refused with the file, the setting and the value."""
    file = folder / "undertow.toml"
    file.write_text(line)
    name = line.split(" ")[0]
    with pytest.raises(SettingInvalid) as caught:
        load()
    assert str(caught.value).startswith(f"{name} in {file}={value} is not possible")


def test_bad_logging_tables(folder: Path) -> None:
    """A key that is neither `level` nor `propagate` in a logger's table is refused."""
    (folder / "undertow.toml").write_text("[logging.loggers.httpx]\nvolume = 11\n")
    with pytest.raises(SettingInvalid, match="volume"):
        load()


def test_bad_arguments() -> None:
    """Arguments are held to the same rules; `logging=` takes settings of logging and nothing else."""
    with pytest.raises(InvalidOption, match=r"^threads=0 is not possible"):
        load(threads=0)
    with pytest.raises(SettingInvalid, match=r"^Engine\(logging=...\), logging_level='loud'"):
        load(logging={"level": "loud"})
    with pytest.raises(UnknownOption, match="Did you mean 'logging_console'"):
        load(logging={"consol": "on"})


def test_unknown_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is no setting is warned of, once in a process, with the one that may be meant."""
    file = folder / "undertow.toml"
    file.write_text("thraeds = 3\nzebra = 11\n")
    monkeypatch.setenv("UNDERTOW_THREDS", "4")
    monkeypatch.setenv("UNDERTOW_ELEPHANT", "1")
    monkeypatch.setenv("UNDERTOW_threads", "1")
    with pytest.warns(SettingUnknown) as caught:
        assert load().threads == 40
    assert sorted(str(warning.message) for warning in caught) == [
        "UNDERTOW_ELEPHANT: there is no such setting. `undertow config` lists those there are.",
        "UNDERTOW_THREDS: there is no such setting. Did you mean UNDERTOW_THREADS?",
        "UNDERTOW_threads: there is no such setting. Did you mean UNDERTOW_THREADS?",
        f"thraeds in {file}: there is no such setting. Did you mean threads?",
        f"zebra in {file}: there is no such setting. `undertow config` lists those there are.",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("undertow.toml", "threads = = 3", "Invalid value"),
        ("undertow.toml", b"\xff", "utf-8"),
        ("pyproject.toml", "[tool.undertow", "end of document"),
        ("logging.yaml", "a: [", "while parsing"),
        ("logging.yaml", "- info", "it holds a list"),
        ("logging.yaml", "!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("logging.yaml", None, "No such file"),
    ],
)
def test_broken_file(
    name: str, content: str | bytes | None, problem: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of settings that can't be read is an error with its name and the problem, and never runs anything."""
    if content is not None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    if name == "logging.yaml":
        monkeypatch.setenv("UNDERTOW_LOGGING_SETTINGS_PATH", name)
    with pytest.raises(SettingsUnreadable, match=problem) as caught:
        load()
    assert name in str(caught.value)


def test_yaml_without_pyyaml(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyYAML a YAML file is an error that says what to install; TOML needs nothing, and is read in its place."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    (folder / "logging.yaml").write_text("level: info")
    (folder / "logging.toml").write_text("level = 'info'")
    with pytest.raises(SettingsUnreadable, match=r'pip install "undertow\[yaml\]"'):
        load(logging={"settings_path": "logging.yaml"})
    assert load(logging={"settings_path": "logging.toml"}).logging_level == 20


def test_empty_yaml(folder: Path) -> None:
    """A YAML file that says nothing is a file that says nothing."""
    (folder / "logging.yaml").write_text("# nothing yet\n")
    assert load(logging={"settings_path": "logging.yaml"}).logging_level is None


# --- for tests -------------------------------------------------------------------------------------------------


def test_temporary_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary settings nest, end with their block, and reach the engines that are made inside it."""
    monkeypatch.setenv("UNDERTOW_GRACE_SECONDS", "7")
    with temporary_settings(threads=3, logging_level="debug"):
        with temporary_settings(grace_seconds=1, threads="4"):
            engine = Engine(":memory:")
            assert (load().threads, load().logging_level) == (4, 10)
        assert load().threads == 3
    assert load().threads == 40
    assert engine.grace_seconds == 1


def test_bad_temporary_settings() -> None:
    """A temporary setting that is none, or can't be, is refused at once, and nothing has changed."""
    with pytest.raises(UnknownOption, match="Did you mean 'threads'"), temporary_settings(threds=1):
        pass
    with pytest.raises(SettingInvalid, match=r"temporary_settings\(threads=...\)='few'"):
        with temporary_settings(grace_seconds=1, threads="few"):
            pass
    assert (load().threads, load().grace_seconds) == (40, 10.0)


# --- the list of them ------------------------------------------------------------------------------------------


def test_every_engine_argument_is_a_setting() -> None:
    """What an engine can be given can be set from outside, but for the ports, which are objects."""
    parameters = inspect.signature(Engine).parameters
    ports = {"clock", "monotonic", "random", "observers", "logging"}
    assert set(parameters) - ports <= {field.name for field in attrs.fields(Settings)}


def test_every_setting_is_explained() -> None:
    """Each setting says what it is for and what it may be, and its default is what it says."""
    for name, value, said_by in sources():
        what, allowed = settings.explain(name)
        assert what
        assert allowed
        assert said_by == "default"
        assert value == getattr(Settings(), name) or name == "journal"
    assert Settings().threads == DEFAULT_WORKERS


def test_engine_from_the_environment(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """An engine without arguments is what the environment says."""
    said = {"JOURNAL": "runs.db", "THREADS": "3", "GRACE_SECONDS": "2", "LIMITS": "github=2", "DURABILITY": "power"}
    for name, value in said.items():
        monkeypatch.setenv(f"UNDERTOW_{name}", value)
    engine = Engine()
    assert engine.grace_seconds == 2
    journal: Any = engine.journal
    assert (journal.path, journal.durability) == (str(folder / "runs.db"), "power")
    runner: Any = engine.core.threads
    assert runner.max_workers == 3
    assert engine.core.limits.buckets["github"].limit == Limit(2)
