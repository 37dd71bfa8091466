"""Logging in a program that has its own: what the journal gets, what the host's handlers get, and what a terminal shows."""

from __future__ import annotations

import io
import logging
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import loguru
import pytest
import structlog

import undertow
from undertow import Engine, UnknownOption, copy_context, flow, get_run_logger, runtime, task
from undertow.engine import screen
from undertow.engine.logs import FIELDS
from undertow.engine.tap import MAX_MESSAGE

LIBRARY = logging.getLogger("tests.library")


@pytest.fixture(autouse=True)
def host_level() -> Iterator[None]:
    """The level that Python gives the root logger."""
    before = logging.root.level
    logging.root.setLevel(logging.WARNING)
    yield
    logging.root.setLevel(before)


@task
async def saying(act: Callable[[], object]) -> str | None:
    act()
    return runtime.task_run.id


def heard(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the host's handlers got."""
    return [record.getMessage() for record in caplog.records]


# --- what the journal gets -------------------------------------------------------------------------------------


async def test_any_logger_in_a_run(engine: Engine, journal: Any, caplog: pytest.LogCaptureFixture) -> None:
    """What any logger says in a run goes to the journal under the run's id, and to the host's handlers as ever."""
    LIBRARY.warning("before")
    run_id = await saying(lambda: LIBRARY.warning("disk %s is %d %% full", "a", 93))
    LIBRARY.warning("after")
    assert journal.logged == [(run_id, "WARNING", "tests.library", "disk a is 93 % full")]
    assert heard(caplog) == ["before", "disk a is 93 % full", "after"]


async def test_run_logger_below_the_hosts_level(engine: Engine, journal: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The journal gets what the run logger says at INFO; the host's handlers get what the host's level lets through."""
    await saying(lambda: get_run_logger().info("quiet"))
    await saying(lambda: get_run_logger().debug("quieter"))
    await saying(lambda: LIBRARY.info("not made"))
    assert [line[3] for line in journal.logged] == ["quiet"]
    assert heard(caplog) == []
    await saying(lambda: get_run_logger().error("loud"))
    assert heard(caplog) == ["loud"]


async def test_host_changes_its_level(engine: Engine, journal: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A level that the host sets while the engine is open counts at once, in both directions."""
    logger = get_run_logger()
    caplog.set_level(logging.DEBUG)
    await saying(lambda: logger.debug("now"))
    assert heard(caplog) == ["now"]
    caplog.set_level(logging.ERROR)
    await saying(lambda: logger.warning("not now"))
    assert heard(caplog) == ["now"]
    assert [line[3] for line in journal.logged] == ["not now"]


@pytest.mark.parametrize(
    ("level", "kept"),
    [("debug", ["d", "i", "w"]), ("WARNING", ["w"]), ("off", []), (25, ["w"])],
)
async def test_capture_level(level: object, kept: list[str], make_engine: Callable[..., Engine], journal: Any) -> None:
    """The capture level says from which level on the journal keeps records; `off` keeps none."""

    def speak() -> None:
        logger = get_run_logger()
        logger.debug("d")
        logger.info("i")
        logger.warning("w")

    async with make_engine(logging={"capture_level": level}):
        await saying(speak)
    assert [line[3] for line in journal.logged] == kept


async def test_extra_loggers(
    make_engine: Callable[..., Engine], journal: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Extra loggers, and those under them, reach the journal from its level on, and the handlers from the host's."""
    inner = logging.getLogger("tests.library.inner")
    own = logging.getLogger("tests.own_level")
    own.setLevel(logging.ERROR)
    async with make_engine(logging={"extra_loggers": ["tests.library", "tests.own_level"]}):
        for logger in (LIBRARY, inner, own):
            await saying(lambda logger=logger: (logger.info("info"), logger.warning("warning")))  # type: ignore[misc]
        LIBRARY.info("outside any run")
    assert [line[2:] for line in journal.logged] == [
        ("tests.library", "info"),
        ("tests.library", "warning"),
        ("tests.library.inner", "info"),
        ("tests.library.inner", "warning"),
    ]
    assert heard(caplog) == ["warning", "warning"]
    assert (LIBRARY.level, inner.level, own.level) == (logging.NOTSET, logging.NOTSET, logging.ERROR)
    own.setLevel(logging.NOTSET)


async def test_exceptions(engine: Engine, journal: Any) -> None:
    """An exception is kept with its traceback, without the engine's own frames; so is a stack, if it was asked for."""

    def fail() -> None:
        try:
            raise ValueError("no\nrows")
        except ValueError:
            LIBRARY.exception("loading", stack_info=True)

    await saying(fail)
    message = journal.logged[0][3]
    assert message.startswith("loading\nTraceback (most recent call last):\n")
    assert "ValueError: no\nrows" in message
    assert "Stack (most recent call last)" in message


async def test_what_cant_be_written(engine: Engine, journal: Any) -> None:
    """A record that can't be made a text is kept as far as it can, and one that is too long is cut."""

    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    raising = logging.raiseExceptions
    logging.raiseExceptions = False
    try:
        await saying(lambda: LIBRARY.warning("%d rows", "three"))
        await saying(lambda: LIBRARY.warning(Broken()))
        await saying(lambda: LIBRARY.warning("x" * (MAX_MESSAGE + 5)))
    finally:
        logging.raiseExceptions = raising
    messages = [line[3] for line in journal.logged]
    assert messages[0] == "%d rows (it can't be written as text with its arguments)"
    assert messages[1] == "A Broken (it can't be written as text with its arguments)"
    assert messages[2] == "x" * MAX_MESSAGE + "… (5 more characters)"


async def test_arguments_are_let_go(engine: Engine, journal: Any) -> None:
    """Nothing that was logged is kept alive: the journal gets text."""

    class Thing:
        pass

    dead = []

    def speak() -> None:
        thing = Thing()
        dead.append(weakref.ref(thing))
        get_run_logger().info("%s", thing)

    await saying(speak)
    assert dead[0]() is None
    assert "Thing object" in journal.logged[0][3]


async def test_journal_that_fails(engine: Engine, journal: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A journal that can't take a record is not the program's matter."""
    journal.log = None
    assert await saying(lambda: LIBRARY.warning("on")) is not None
    assert heard(caplog) == ["on"]


async def test_blacked_out(engine: Engine, journal: Any) -> None:
    """What a handler of the host blacks out of a record, the journal does not get either."""

    class BlackOut(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            record.msg, record.args = record.getMessage().replace("hunter2", "***"), None

    handler = BlackOut()
    LIBRARY.addHandler(handler)
    try:
        await saying(lambda: LIBRARY.warning("password %s", "hunter2"))
    finally:
        LIBRARY.removeHandler(handler)
    assert [line[3] for line in journal.logged] == ["password ***"]


async def test_handlers_that_log(engine: Engine, journal: Any) -> None:
    """What a handler logs while it handles a record, and what the journal's own machinery logs, is not the run's."""

    class Chatty(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logging.getLogger("tests.chatty").warning("sending %s", record.getMessage())

    handler = Chatty()
    LIBRARY.addHandler(handler)
    try:
        await saying(lambda: LIBRARY.warning("one"))
        await saying(lambda: logging.getLogger("aiosqlite").warning("executing"))
    finally:
        LIBRARY.removeHandler(handler)
    assert [line[3] for line in journal.logged] == ["one"]


@pytest.mark.real_time
def test_threads(sync_engine: Engine, journal: Any) -> None:
    """A thread of one's own belongs to a run when it is started in a copy of its context; otherwise nothing is said."""

    @task
    def fan() -> str | None:
        context = copy_context()
        for target in (lambda: context.run(get_run_logger().warning, "in"), lambda: get_run_logger().warning("out")):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
        return runtime.task_run.id

    run_id = fan()
    assert [line[::3] for line in journal.logged] == [(run_id, "in")]


async def test_hooks(engine: Engine, journal: Any) -> None:
    """A hook may log as anything else may."""

    def hook(*_: object) -> None:
        get_run_logger().warning("done")

    @flow
    async def outer() -> str:
        await saying.with_options(on_completion=hook)(lambda: None)
        return "data"

    await outer()
    assert [line[3] for line in journal.logged] == ["done"]


# --- what the host sees of it ----------------------------------------------------------------------------------


async def test_nothing_stays(make_engine: Callable[..., Engine]) -> None:
    """While engines are open no logger has a handler more; after the last is closed, no level and no method differs."""

    def look() -> list[object]:
        loggers = [logging.root, *(logging.getLogger(name) for name in ("undertow", "undertow.runs", "tests.library"))]
        return [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]

    before, method = look(), logging.Logger.callHandlers
    asked = {"root_level": 5, "level": "debug", "levels": {"tests.library": "error"}}
    first = make_engine(logging={**asked, "loggers": {"tests.library": {"propagate": False}}})
    async with first:
        assert (logging.root.level, LIBRARY.level, LIBRARY.propagate) == (5, logging.ERROR, False)
        assert [state[2] for state in look()] == [state[2] for state in before]  # type: ignore[index]
        async with make_engine():
            pass
        assert logging.root.level == 5
    assert look() == before
    assert logging.Logger.callHandlers is method


async def test_changed_since(make_engine: Callable[..., Engine]) -> None:
    """A level that the program has set meanwhile is left to it."""
    async with make_engine(logging={"levels": "tests.library=error"}):
        LIBRARY.setLevel(logging.INFO)
    assert LIBRARY.level == logging.INFO
    LIBRARY.setLevel(logging.NOTSET)


async def test_somebody_elses_tap(make_engine: Callable[..., Engine], journal: Any) -> None:
    """Others may tap the records as well, before and after; none is lost or kept twice."""
    seen: list[str] = []
    plain: Any = logging.Logger.callHandlers
    engine = make_engine()
    await engine.__aenter__()
    ours: Any = logging.Logger.callHandlers

    def theirs(logger: logging.Logger, record: logging.LogRecord) -> None:
        seen.append(record.getMessage())
        ours(logger, record)

    logging.Logger.callHandlers = theirs  # type: ignore[method-assign, assignment]
    try:
        await saying(lambda: LIBRARY.warning("one"))
        await engine.__aexit__(None, None, None)
        LIBRARY.warning("two")
        async with make_engine():
            await saying(lambda: LIBRARY.warning("three"))
        assert logging.Logger.callHandlers is theirs
    finally:
        logging.Logger.callHandlers = ours
    async with make_engine():
        await saying(lambda: LIBRARY.warning("four"))
    assert logging.Logger.callHandlers is plain
    assert seen == ["one", "two", "three"]
    assert [line[3] for line in journal.logged] == ["one", "three", "four"]


async def test_run_fields(engine: Engine) -> None:
    """With `RunFields` on a handler its format may name the run for records of any logger; outside runs stands "-"."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(undertow.logging.RunFields())
    handler.setFormatter(logging.Formatter("%(flow_name)s/%(task_name)s/%(run_kind)s/%(attempt)s %(message)s"))

    @flow
    async def outer() -> str:
        LIBRARY.warning("in the flow")
        await saying(lambda: LIBRARY.warning("in the task"))
        await saying(lambda: get_run_logger("tests.library").warning("by the run logger"))
        return "data"

    LIBRARY.addHandler(handler)
    try:
        await outer()
        LIBRARY.warning("outside")
    finally:
        LIBRARY.removeHandler(handler)
    assert stream.getvalue().splitlines() == [
        "outer/-/flow/1 in the flow",
        "outer/saying/task/1 in the task",
        "outer/saying/task/1 by the run logger",
        "-/-/-/- outside",
    ]


async def test_run_logger_fields(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """Records of the run logger carry the fields of the run, and what the call adds; outside a run it is a plain one."""
    run_id = await saying(lambda: get_run_logger().warning("in", extra={"colour": "red"}))
    get_run_logger().warning("out")
    inside, outside = (vars(record) for record in caplog.records)
    assert inside.items() >= {"run_id": run_id, "task_run_id": run_id, "run_kind": "task", "colour": "red"}.items()
    assert "flow_run_id" not in inside
    assert set(FIELDS) & set(outside) == set()


# --- lines on a terminal ---------------------------------------------------------------------------------------


def record_of(message: str, **more: Any) -> logging.LogRecord:
    return logging.LogRecord("tests\r.library", logging.WARNING, __file__, 1, message, (), more.get("exc_info"))


@pytest.mark.parametrize(
    "sign", ["\n", "\r", "\x1b[2J", "\x00", "\x7f", "\x85", "\u2028", "\u202e", "\u200b", "\ud800"]
)
def test_one_record_is_one_line(sign: str) -> None:
    """Whatever a message holds, its record is one line, in which nothing is invisible."""
    line = screen.line(record_of(f"a{sign}12:00:00.000 ERROR forged"))
    assert line.count("\n") == 1
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert "tests\\r.library: a\\" in line
    line.encode("utf-8")


def test_tracebacks_are_indented() -> None:
    """No line of a traceback can be taken for a record: all are indented, those of the exception's text as well."""
    try:
        raise ValueError("a\n12:00:00.000 ERROR forged\x1b[2J")
    except ValueError as error:
        line = screen.line(record_of("failed", exc_info=(ValueError, error, error.__traceback__)))
    first, *rest = line.splitlines()
    assert first.endswith("failed")
    assert all(each.startswith("    ") and each.isprintable() for each in rest)
    assert any("forged\\x1b[2J" in each for each in rest)


def test_notebook() -> None:
    """A notebook's cell is a script; a test is called by its runner, which is a host."""
    namespace: dict[str, Any] = {"__name__": "IPython.core.interactiveshell", "ask": screen.called_by_main_script}
    exec("answer = ask()", namespace)  # noqa: S102
    assert namespace["answer"] is True
    assert screen.called_by_main_script() is False


async def test_configure(engine: Engine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """`configure` shows what undertow logs on stderr whoever hosts the program, until it is stopped or called again."""
    undertow.logging.configure(level="warning")
    await saying(lambda: get_run_logger().info("not shown"))
    logs = undertow.logging.configure()
    await saying(lambda: get_run_logger().info("shown"))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        await saying(lambda: get_run_logger().info("nowhere to show it"))
    logs.stop()
    logs.stop()
    await saying(lambda: get_run_logger().info("not shown any more"))
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "INFO" in err
    assert err.endswith(": shown\n")
    with pytest.raises(UnknownOption, match="logging_volume"):
        undertow.logging.configure(volume=11)


# --- those who go past the standard library --------------------------------------------------------------------


async def test_structlog(engine: Engine, journal: Any) -> None:
    """With the processor, structlog's events carry the fields of the run, and the journal gets them."""
    rendered: list[dict[str, Any]] = []

    def render(_: object, __: str, event: Any) -> str:
        rendered.append(dict(event))
        return ""

    processors = [undertow.structlog.processor, render]
    logger = structlog.wrap_logger(structlog.PrintLogger(io.StringIO()), processors=processors).bind(logger="shop")

    def speak() -> None:
        logger.info("sold", item="tea", run_id="mine")
        logger.debug("too quiet for the journal")
        try:
            raise ValueError("no tea")
        except ValueError as error:
            logger.exception("lost")
            logger.warning("lost", exc_info=error)

    run_id = await saying(speak)
    logger.warning("outside")
    assert [(line[1], line[2]) for line in journal.logged] == [("INFO", "shop"), ("ERROR", "shop"), ("WARNING", "shop")]
    assert journal.logged[0] == (run_id, "INFO", "shop", "sold item='tea' run_id='mine'")
    assert all("ValueError: no tea" in line[3] for line in journal.logged[1:])
    assert [event.get("run_id") for event in rendered] == ["mine", run_id, run_id, run_id, None]


@pytest.mark.parametrize(
    "last",
    [structlog.processors.KeyValueRenderer(key_order=["event"]), structlog.stdlib.render_to_log_kwargs, "formatter"],
)
async def test_structlog_through_logging(last: Any, engine: Engine, journal: Any) -> None:
    """Where structlog writes through the standard library, the journal gets each event once, however it is rendered."""
    handler = logging.StreamHandler(io.StringIO())
    if last == "formatter":
        last = structlog.stdlib.ProcessorFormatter.wrap_for_formatter
        chain = [undertow.structlog.processor]
        renderer = structlog.processors.JSONRenderer()
        handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=chain))
    processors = [structlog.stdlib.filter_by_level, undertow.structlog.processor, last]
    logger = structlog.wrap_logger(LIBRARY, processors=processors)
    LIBRARY.addHandler(handler)
    try:
        run_id = await saying(lambda: (logger.warning("sold", item="tea"), LIBRARY.warning("plain")))
    finally:
        LIBRARY.removeHandler(handler)
    assert [line[:3] for line in journal.logged] == [(run_id, "WARNING", "tests.library")] * 2
    assert "sold" in journal.logged[0][3]
    assert journal.logged[1][3] == "plain"


async def test_loguru(engine: Engine, journal: Any) -> None:
    """With sink and patcher, loguru's messages reach the journal and carry the fields; what came from logging, once."""

    class Intercept(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            loguru.logger.opt(exception=record.exc_info).log(record.levelname, record.getMessage())

    lines: list[str] = []
    loguru.logger.remove()
    loguru.logger.configure(patcher=undertow.loguru.patch)  # type: ignore[arg-type]
    loguru.logger.add(undertow.loguru.sink, level=0)
    loguru.logger.add(lines.append, format="{extra} {message}", level=0)
    handler = Intercept()
    LIBRARY.addHandler(handler)

    def speak() -> None:
        loguru.logger.info("sold {}", "tea")
        loguru.logger.debug("too quiet for the journal")
        try:
            raise ValueError("no tea")
        except ValueError:
            loguru.logger.exception("lost")
        LIBRARY.warning("from logging")

    try:
        run_id = await saying(speak)
        loguru.logger.warning("outside")
    finally:
        LIBRARY.removeHandler(handler)
        loguru.logger.remove()
        loguru.logger.configure(patcher=lambda record: None)
    assert [line[:2] for line in journal.logged] == [(run_id, "INFO"), (run_id, "ERROR"), (run_id, "WARNING")]
    assert [line[3].splitlines()[0] for line in journal.logged] == ["sold tea", "lost", "from logging"]
    assert "ValueError: no tea" in journal.logged[1][3]
    assert str(run_id) in lines[0]
    assert lines[-1] == "{} outside\n"
