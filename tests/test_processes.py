"""Bodies in worker processes: what goes there and back, what can't, and what deaths and endings leave behind."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import cache, partial, wraps
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from undertow import (
    Completed,
    Engine,
    Fail,
    InvalidOption,
    RetryAfter,
    RunFailed,
    Skip,
    StateType,
    allow_failure,
    concurrency,
    flow,
    get_run_logger,
    runtime,
    structlog,
    task,
)
from undertow.engine.errors import CannotTravel, NoEngineInWorker, UndertowError, WorkerDied, WorkersKeepDying
from undertow.runners.processes import ProcessRunner

pytestmark = pytest.mark.real_time

ONE = ProcessRunner(1)
TWO = ProcessRunner(2)
PATIENCE = 20
"""Seconds after which something won't happen any more."""


class Heard(logging.Handler):
    """What bodies have logged, with the run that each record was emitted in, and a way to wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[logging.LogRecord, str | None]] = []
        self._events: defaultdict[tuple[str, int], anyio.Event] = defaultdict(anyio.Event)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append((record, runtime.task_run.id))
        message = record.getMessage()
        self._events[message, len(self.pids(message))].set()

    def pids(self, message: str) -> list[int]:
        """The processes in which that was logged, in order."""
        return [record.process or 0 for record, _ in self.records if record.getMessage() == message]

    async def wait(self, message: str, times: int = 1) -> int:
        """Return once it was logged so often, with the process that did last."""
        with anyio.fail_after(PATIENCE):
            await self._events[message, times].wait()
        return self.pids(message)[times - 1]


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Both backends, in the machine's time."""
    return request.param


@pytest.fixture(scope="module")
async def loop(anyio_backend: str) -> AsyncIterator[None]:
    """One event loop for all async tests, so that one finds the idle workers of the others."""
    yield  # noqa: PT022 - a fixture that has something to end keeps the loop


@pytest.fixture
async def engine(loop: None, engine: Engine) -> Engine:
    return engine


@pytest.fixture
def heard() -> Iterator[Heard]:
    """What is logged to the logger `bodies`, at any level."""
    logger, handler = logging.getLogger("bodies"), Heard()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def gone(pid: int) -> bool:
    """Whether there is no such process any more, not even one that waits to be reaped."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


# --- bodies ----------------------------------------------------------------------------------------------------


@task(runner=TWO)
def where() -> int:
    return os.getpid()


@task(runner=ONE)
def alone() -> int:
    return os.getpid()


@task(runner=TWO)
def hang(number: int = 0) -> None:
    get_run_logger("bodies").info("begun", extra={"number": number})
    signal.pause()


@task(runner=TWO)
def hear(path: Path) -> str:
    get_run_logger("bodies").info("listening")
    return path.read_text()


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit("don't ask")


@flow
def submitted(body: Any) -> Any:
    return body.submit().result()


@task
def die(how: str) -> None:
    if how == "break":
        raise Unspeakable
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(3)


@task(runner=TWO)
def send_back(value: Any) -> Any:
    return value


# --- where bodies run ------------------------------------------------------------------------------------------


@task
def here_or_there() -> int:
    return os.getpid()


@flow(task_runner=TWO)
async def elsewhere() -> list[int]:
    return await here_or_there.map([]) + [await here_or_there.submit()]


async def test_submitted_bodies_run_elsewhere(engine: Engine) -> None:
    """Bodies submitted to a process runner, the task's or its flow's, run in other processes; called ones in this."""
    assert {await where.submit(), *await elsewhere()}.isdisjoint([os.getpid()])
    assert where() == os.getpid()


async def test_one_worker_is_one_place(engine: Engine, heard: Heard) -> None:
    """As many bodies run at a time as the runner has places, and a place is lent again when its process is gone."""
    futures = [hang.submit(number) for number in range(3)]
    pids = [await heard.wait("begun", times) for times in (1, 2)]
    assert (TWO.places.active("processes"), TWO.places.waiting("processes")) == (2, 1)
    first = heard.records[0][0].number  # type: ignore[attr-defined]
    futures[first].cancel("enough")
    await heard.wait("begun", 3)
    assert gone(pids[0])
    for future in futures:
        future.cancel("enough")
    assert [(await future.wait_async()).name for future in futures] == ["Cancelled"] * 3
    assert gone(pids[1])
    assert TWO.places.active("processes") == 0


SEEN: ContextVar[str] = ContextVar("seen", default="nothing")


@task(runner=TWO)
def sees() -> tuple[int, str]:
    before = SEEN.get()
    SEEN.set("something")
    return os.getpid(), before


async def test_worker_is_used_again(engine: Engine) -> None:
    """A worker serves one run after another, each in a context of its own, and 200 leave no more open than the first."""
    first = await sees.submit()
    before = descriptors()
    for _ in range(200):
        assert await sees.submit() == first == (first[0], "nothing")
    assert descriptors() == before


@pytest.mark.parametrize("places", [0, -1, 1.5, True, "4"])
def test_bad_number_of_workers(places: Any) -> None:
    """A runner needs a whole number of workers, 1 or more, and has one for each processor by default."""
    with pytest.raises(InvalidOption, match="max_workers="):
        ProcessRunner(places)
    assert ProcessRunner().max_workers == (os.cpu_count() or 1)


# --- what goes there and back ----------------------------------------------------------------------------------


class Scale:
    def __init__(self, by: int) -> None:
        self.by = by

    @task(runner=TWO)
    def times(self, x: int) -> int:
        return self.by * x

    @task(runner=TWO)
    @classmethod
    def named(cls, x: int) -> str:
        return f"{cls.__name__} {x}"

    @task(runner=TWO)
    @staticmethod
    def plus(x: int) -> int:
        return x + 1

    def __call__(self, x: int) -> int:
        return self.by + x


def power(x: int, exponent: int) -> int:
    return int(x**exponent)


def doubled(fn: Callable[[int], int]) -> Callable[[int], int]:
    @wraps(fn)
    def wrapper(x: int) -> int:
        return 2 * fn(x)

    return wrapper


@task(runner=TWO)
@doubled
def wrapped(x: int) -> int:
    return x


@task(runner=TWO)
@cache
def remembered(x: int) -> int:
    return x


@task(runner=TWO)
def fn_of(other: Any, x: int) -> int:
    return int(other.fn(x))


@task(runner=TWO)
def up_to(n: int) -> Iterator[int]:
    yield from range(n)


async def test_functions_that_go(engine: Engine) -> None:
    """Functions go by name: decorated or not, wrapped, methods of all kinds, partial ones, objects, generators, tasks."""
    undecorated, cubed = task(power, runner=TWO), task(partial(power, exponent=3), runner=TWO)  # type: ignore[call-overload]
    inner = task(partial(wrapped.fn), name="inner", runner=TWO)  # type: ignore[call-overload]
    results = [
        await send_back.submit(1),
        await send_back.with_options(name="other").submit(2),
        await Scale(3).times.submit(4),
        await Scale.named.submit(5),
        await Scale.plus.submit(6),
        await undecorated.submit(7, 2),
        await cubed.submit(2),
        await inner.submit(9),
        await task(Scale(10), name="scale", runner=TWO).submit(1),  # type: ignore[call-overload]
        await wrapped.submit(10),
        await remembered.submit(11),
        await up_to.submit(3),
        await fn_of.submit(wrapped, 4),
    ]
    assert results == [1, 2, 12, "Scale 5", 7, 49, 8, 18, 11, 20, 11, [0, 1, 2], 8]


async def test_what_cant_go(engine: Engine) -> None:
    """What can't be sent to a worker is named, with the reason, and no worker is asked."""

    def local() -> None: ...

    class Local: ...

    lock = threading.Lock()
    cases: list[tuple[Any, tuple[Any, ...], str]] = [
        (task(lambda: 1, name="short", runner=ONE), (), "The function of task 'short' .* it is a lambda, which has"),  # type: ignore[call-overload]
        (task(local, runner=ONE), (), "The function of task 'local' .* defined inside a function"),  # type: ignore[call-overload]
        (send_back, (lambda: 1,), "Argument 'value' of task 'send_back' .* it is a lambda"),
        (send_back, ({"key": [lambda: 1]},), "Argument 'value' of task 'send_back' .* it holds a lambda"),
        (send_back, (Local(),), "Argument 'value' .* it holds .*Local, defined inside a function"),
        (send_back, ([lock],), "Argument 'value' .* it holds an object of type _thread.lock .TypeError: cannot pickle"),
        (power_under_another_name, (2,), "The function of task 'power' .* but another object is found under that name"),
    ]
    for broken, args, said in cases:
        with pytest.raises(CannotTravel, match=said) as caught:
            await broken.with_options(retries=1, runner=ONE).submit(*args)
        assert isinstance(caught.value, UndertowError | TypeError)
    assert ONE.places.active("processes") == 0


def _other_power() -> Callable[[int], int]:
    def function(x: int) -> int:
        return x

    function.__qualname__ = function.__name__ = "power"
    return function


power_under_another_name = task(_other_power())


@task(runner=TWO, retries=3)
def makes(what: str) -> Any:
    return {"at": [lambda: 1]} if what == "lambda" else open(os.devnull)


async def test_result_that_cant_come_back(engine: Engine, journal: Any) -> None:
    """A result that can't be sent back fails the run, with the reason and without a retry; the worker goes on."""
    pid = await where.submit()
    with pytest.raises(CannotTravel, match="The result of task run 'makes-.*' .* it holds a lambda"):
        await makes.submit("lambda")
    with pytest.raises(
        CannotTravel, match="The result of task run .makes-.* it is an object of type _io.TextIOWrapper"
    ):
        await makes.submit("file")
    assert [run.attempts for run in journal.of("makes")] == [1, 1]
    assert await where.submit() == pid


class Detailed(Exception):
    """Its `__init__` wants other arguments than `args` holds."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code


class Stubborn(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("not me")


@task(runner=TWO)
def fails(how: str) -> None:
    try:
        if how == "plain":
            raise KeyError("no such article")
        if how == "detailed":
            raise Detailed(7, detail="sold out")
        if how == "os":
            raise FileNotFoundError(2, "gone", "list.txt")
        if how == "stubborn":
            raise Stubborn("very")
        raise ExceptionGroup("two", [Detailed(1, detail="a"), ValueError("b")])
    except KeyError as error:
        error.add_note("by the cashier")
        raise


async def test_exceptions_come_back(engine: Engine) -> None:
    """Exceptions travel as themselves, with fields, notes and traceback; one that can't, as what it says."""
    plain = (await fails.submit("plain").wait_async()).data
    assert isinstance(plain, KeyError)
    assert plain.args == ("no such article",)
    assert plain.__notes__[0] == "by the cashier"
    assert plain.__notes__[1].startswith("In worker process ")
    assert 'raise KeyError("no such article")' in plain.__notes__[1]
    assert "worker.py" not in plain.__notes__[1]

    detailed = (await fails.submit("detailed").wait_async()).data
    assert isinstance(detailed, Detailed)
    assert (detailed.code, str(detailed)) == (7, "7: sold out")
    missing = (await fails.submit("os").wait_async()).data
    assert isinstance(missing, FileNotFoundError)
    assert missing.filename == "list.txt"
    group = (await fails.submit("group").wait_async()).data
    assert isinstance(group, ExceptionGroup)
    assert isinstance(group.exceptions[0], Detailed)

    stubborn = (await fails.submit("stubborn").wait_async()).data
    assert isinstance(stubborn, RunFailed)
    assert "Stubborn: very" in str(stubborn)
    assert 'raise Stubborn("very")' in stubborn.__notes__[0]

    there_and_back = await send_back.submit(allow_failure(fails.submit("detailed")))
    assert isinstance(there_and_back, Detailed)
    assert there_and_back.code == 7


@task(runner=TWO, retries=1)
def decides(how: str) -> Any:
    if how == "skip":
        raise Skip("nothing new")
    if how == "fail":
        raise Fail("bad key")
    if how == "state":
        return Completed(data=5, message="by hand")
    if runtime.task_run.run_count == 1:
        raise RetryAfter(0)
    return runtime.task_run.previous_error


async def test_bodies_decide_their_outcome(engine: Engine) -> None:
    """`Skip`, `Fail`, `RetryAfter` and states made by hand mean the same from a worker."""
    assert (await decides.submit("skip").wait_async()).type is StateType.SKIPPED
    assert (await decides.submit("fail").wait_async()).type is StateType.FAILED
    assert (await decides.submit("state").wait_async()).message == "by hand"
    previous = await decides.submit("retry")
    assert isinstance(previous, RetryAfter)
    assert previous.seconds == 0


# --- the run, the log, the printed -----------------------------------------------------------------------------


@task(runner=TWO, tags=["red"], task_run_name="tell-{number}")
def tell(number: int) -> list[Any]:
    run, around = runtime.task_run, runtime.flow_run
    return [run.id, run.name, run.run_count, sorted(run.tags), run.map_index, around.name, bool(around)]


@flow(flow_run_name="storyteller")
async def stories() -> list[Any]:
    return await tell.map([1, 2])


async def test_runtime(engine: Engine, journal: Any) -> None:
    """In a worker `runtime` shows the run and the flow that it is in."""
    told = await stories()
    ids = [run.id for run in sorted(journal.of("tell"), key=lambda run: run.map_index)]
    assert told == [[ids[index], f"tell-{index + 1}", 1, ["red"], index, "storyteller", True] for index in range(2)]


@task(runner=TWO, log_prints=True, retries=1)
def talk() -> None:
    logger = get_run_logger("bodies")
    logger.debug("%d of %d", 1, 2, extra={"lock": threading.Lock(), "place": "here"})
    logging.getLogger("unheard").info("not asked for")
    try:
        raise LookupError("nobody")
    except LookupError:
        logger.exception("trouble")
    stray = threading.Thread(target=logging.getLogger("bodies").warning, args=["from a thread"])
    stray.start()
    stray.join()
    print("three", 4)
    structlog.processor(None, "info", {"event": "sold", "logger": "till", "price": 5})


@flow(flow_run_name="speaker")
async def speech() -> None:
    await talk.submit()


async def test_log_records_cross(engine: Engine, heard: Heard, journal: Any) -> None:
    """What is logged in a worker is emitted here, by the levels set here, in the run's context, and in the journal."""
    logging.getLogger("unheard").addHandler(heard)
    await speech()
    logging.getLogger("unheard").removeHandler(heard)
    (first, in_run), (second, _), (third, in_thread) = heard.records
    assert (first.getMessage(), first.levelname, first.name) == ("1 of 2", "DEBUG", "bodies")
    (run,) = journal.of("talk")
    fields = {"run_id": run.id, "function": "talk", "attempt": 1, "flow_run_name": "speaker", "place": "here"}
    assert fields.items() <= first.__dict__.items()
    assert in_run == run.id
    assert "lock" in first.lock  # type: ignore[attr-defined]
    assert second.exc_text is not None
    assert "LookupError: nobody" in second.exc_text
    assert (third.getMessage(), in_thread) == ("from a thread", None)
    trouble, *rest = [entry for entry in journal.logged if entry[0] == run.id]
    assert trouble[:3] == (run.id, "ERROR", "bodies")
    assert 'raise LookupError("nobody")' in trouble[3]
    assert rest == [(run.id, "INFO", "undertow.runs", "three 4"), (run.id, "INFO", "till", "sold price=5")]


@task(runner=ONE)
def says() -> None:
    print("one", "two", end="")
    print(" drei è 三", flush=True)
    print("trouble", file=sys.stderr)
    subprocess.run(["echo", "from a program"], check=True)
    print("unfinished", end="")


def test_prints(sync_engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    """What a body prints, and what the programs that it runs print, goes where it would have gone from here."""
    submitted(says)
    out, err = capfd.readouterr()
    assert sorted(out.split("\n")) == sorted(["one two drei è 三", "from a program", "unfinished"])
    assert err == "trouble\n"


async def test_prints_arrive_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is printed here while the body that printed it goes on."""
    printed = anyio.Event()

    class Out:
        def write(self, text: str) -> None:
            assert text == "begun\n"
            printed.set()

        def flush(self) -> None: ...

    monkeypatch.setattr(sys, "stdout", Out())
    future = prints_and_hangs.submit()
    with anyio.fail_after(PATIENCE):
        await printed.wait()
    assert not future.done
    future.cancel("seen")
    await future.wait_async()


@task(runner=ONE)
def forks() -> int:
    print("before")
    pid = os.fork()
    if not pid:
        print("in the fork", flush=True)
        get_run_logger("bodies").warning("not sent")
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_body_that_forks(sync_engine: Engine, capfd: pytest.CaptureFixture[str], heard: Heard) -> None:
    """A process that a body forks prints where the body does, and takes no part in the run."""
    assert submitted(forks) == 7
    assert sorted(capfd.readouterr().out.splitlines()) == ["before", "in the fork"]
    assert heard.records == []


@task(runner=ONE)
def prints_and_hangs() -> None:
    print("begun")
    signal.pause()


# --- no engine there -------------------------------------------------------------------------------------------


def _in_thread(call: Callable[[], object]) -> BaseException | None:
    caught: list[BaseException] = []

    def body() -> None:
        try:
            call()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    return caught[0] if caught else None


@task(runner=TWO)
def asks_for_the_engine(how: str) -> Any:
    if how == "call":
        return where()
    if how == "submit":
        return where.submit()
    if how == "slot":
        return concurrency("any").__enter__()
    return repr(_in_thread(where))


async def test_no_engine_in_a_worker(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body in a worker that calls a task or takes a slot is told that it can't, and no journal is opened there."""
    monkeypatch.setenv("UNDERTOW_JOURNAL", str(tmp_path / "default.db"))
    for how in ("call", "submit", "slot"):
        with pytest.raises(NoEngineInWorker, match=r"'asks_for_the_engine-.*' is in a worker process, .*name.fn"):
            await asks_for_the_engine.submit(how)
    assert "This is a worker process" in await asks_for_the_engine.submit("thread")
    assert os.listdir(tmp_path) == []


# --- deaths ----------------------------------------------------------------------------------------------------


async def test_death_fails_one_attempt(engine: Engine, heard: Heard, tmp_path: Path) -> None:
    """A worker that dies fails its own attempt, with `WorkerDied`, and no other; its place is filled anew."""
    os.mkfifo(tmp_path / "line")
    survivor = hear.submit(tmp_path / "line")
    await heard.wait("listening")
    with pytest.raises(
        WorkerDied, match=r"task run 'die-.*' was killed by SIGKILL .*in the middle of its body"
    ) as caught:
        await die.with_options(runner=ProcessRunner(1)).submit("kill")
    assert isinstance(caught.value, ChildProcessError)
    assert await where.submit() != os.getpid()
    await anyio.to_thread.run_sync((tmp_path / "line").write_text, "still here")
    assert await survivor == "still here"


@task(retries=1)
def dies_once() -> int:
    if runtime.task_run.run_count == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    assert isinstance(runtime.task_run.previous_error, WorkerDied)
    return os.getpid()


async def test_death_is_retried(engine: Engine, journal: Any) -> None:
    """The ordinary retries of a task count for the death of its worker."""
    await dies_once.with_options(runner=ProcessRunner(1)).submit()
    assert journal.story("dies_once") == ["Pending", "Running", "Retrying", "Completed"]


async def test_death_with_nothing_to_do(engine: Engine, journal: Any) -> None:
    """A worker that dies between two runs costs neither of them an attempt."""
    pid = await alone.submit()
    os.kill(pid, signal.SIGKILL)
    assert await alone.submit() != pid
    assert [run.attempts for run in journal.of("alone")] == [1, 1]


async def test_many_deaths(loop: None, make_engine: Callable[..., Engine]) -> None:
    """After five deaths within a minute, which leave nothing behind, no body is started until the minute is over."""
    runner, now = ProcessRunner(1), [0.0]
    dies, works = die.with_options(runner=runner), where.with_options(runner=runner)
    async with make_engine(monotonic=lambda: now[0]):
        pid = await works.submit()
        before = descriptors()
        deaths = []
        for how in ("exit", "kill", "break", "kill", "exit"):
            now[0] += 2
            with pytest.raises(WorkerDied) as caught:
                await dies.submit(how)
            deaths.append(str(caught.value))
        with pytest.raises(WorkersKeepDying, match=r"5 worker processes died within 60 s.* another 52 s.*code 3"):
            await works.submit()
        now[0] += 52
        assert await works.submit() != pid
        assert descriptors() == before
    codes = [re.findall(r"with code \d|SIG\w+", text)[0] for text in deaths]
    assert codes == ["with code 3", "SIGKILL", "with code 1", "SIGKILL", "with code 3"]
    assert all(gone(int(text.split()[3])) for text in deaths)
    assert runner.places.active("processes") == 0


# --- cancellation and timeouts ---------------------------------------------------------------------------------


async def test_timeout_kills(engine: Engine) -> None:
    """At its deadline a body is ended with its process, and the place is free."""
    pid = await alone.submit()
    state = await hang.with_options(runner=ONE, timeout_seconds=0.2).submit().wait_async()
    assert state.name == "TimedOut"
    assert gone(pid)
    assert ONE.places.active("processes") == 0
    assert await alone.submit() != pid


@task
def leaves_programs(line: Path, dies: bool) -> None:
    with line.open("w") as out:
        subprocess.Popen(["tail", "-f", os.devnull], stdout=out)
        if not os.fork():
            signal.pause()
    get_run_logger("bodies").info("started")
    os._exit(3) if dies else signal.pause()


@pytest.mark.parametrize("dies", [False, True], ids=["cancelled", "died"])
async def test_nothing_outlives_a_body(engine: Engine, heard: Heard, tmp_path: Path, dies: bool) -> None:
    """With a body that is cancelled, or whose worker dies, end the programs that it has started, and its forks."""
    line = tmp_path / "line"
    os.mkfifo(line)
    future = leaves_programs.with_options(runner=ProcessRunner(1)).submit(line, dies)
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(partial(anyio.to_thread.run_sync, line.read_text, abandon_on_cancel=True))
            await heard.wait("started")
            if not dies:
                future.cancel("enough")
            # The group ends when no writer is left.
        assert (await future.wait_async()).name == ("Failed" if dies else "Cancelled")


def test_cancelled_while_it_starts(anyio_backend: str, make_engine: Callable[..., Engine]) -> None:
    """A run that is cancelled while its worker starts leaves neither a process nor a descriptor behind."""

    async def main() -> None:
        async with make_engine():
            await anyio.lowlevel.checkpoint()
            before = descriptors()
            for turns in range(6):
                future = hang.submit()
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                future.cancel("already")
                await future.wait_async()
            assert descriptors() == before

    with ThreadPoolExecutor(1) as thread:  # where there is no loop yet, and no idle worker
        thread.submit(anyio.run, main, backend=anyio_backend).result()


# --- the ends of loops and programs ----------------------------------------------------------------------------


def test_workers_end_with_their_loop(anyio_backend: str) -> None:
    """A sync flow has workers too; when the loop that it used has ended, so have they, and the next has others."""

    before, pids = descriptors(), []
    for _ in range(2):
        with Engine(":memory:", backend=anyio_backend):
            pids += [submitted(where), submitted(where)]
        assert gone(pids[-1])
    assert pids[0] == pids[1] != pids[2] == pids[3]
    assert descriptors() == before


SCRIPT = """
import os, signal, sys
import anyio
from undertow import Engine, flow, get_run_logger, logging, task
from undertow.runners.processes import ProcessRunner

RUNNER = ProcessRunner(2)
logging.configure(level="critical")

class Article:
    def __init__(self, name):
        self.name = name

class SoldOut(Exception):
    pass

@task(runner=RUNNER)
def order(article):
    if article.name == "bread":
        raise SoldOut(article.name)
    get_run_logger().critical("the last one")
    return Article(article.name + "!")

@task(runner=RUNNER)
def hang(path):
    line = os.open(path, os.O_WRONLY)
    os.write(line, b"begun")
    open(path + ".go").close()
    print("nobody will read this", flush=True)
    os.write(line, b"printed")
    signal.pause()

@flow
async def shop():
    try:
        await order.submit(Article("bread"))
    except SoldOut as error:
        print("sold out:", error)
    got = await order.submit(Article("milk"))
    print(type(got) is Article, got.name, flush=True)
    if len(sys.argv) > 1:
        await hang.submit(sys.argv[1])
    return True

async def main():
    async with Engine(":memory:", logging={"console": "off"}):
        await shop()

"""
GUARDED = SCRIPT + 'if __name__ == "__main__":\n    anyio.run(main)\n'


def started(*command: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *command], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize("command", [["shop.py"], ["-m", "shop"]], ids=" ".join)
def test_script(tmp_path: Path, command: list[str]) -> None:
    """A script's functions, classes, exceptions and log lines go to workers and back, which end with the script."""
    (tmp_path / "shop.py").write_text(GUARDED)
    with started(*command, cwd=tmp_path) as process:
        said = process.communicate(timeout=50)[0].splitlines()
    assert [line for line in said if "CRITICAL" not in line] == ["sold out: bread", "True milk!"]
    (logged,) = [line for line in said if "CRITICAL" in line]
    assert re.search(r"order-\w+: the last one$", logged)


def test_script_without_a_guard(tmp_path: Path) -> None:
    """A script that runs its flow whenever it is loaded is told about `__name__` by the worker that loads it."""
    (tmp_path / "shop.py").write_text(SCRIPT + "anyio.run(shop)\n")
    with started("shop.py", cwd=tmp_path) as process:
        said = process.communicate(timeout=50)[0]
    assert process.returncode == 1
    assert "undertow.engine.errors.NoEngineInWorker: This is a worker process" in said
    assert 'if __name__ == "__main__":' in said


def test_script_that_is_no_file(tmp_path: Path) -> None:
    """What is defined where no other process can load it can't go to a worker, and the error says so."""
    with started("-c", GUARDED, cwd=tmp_path) as process:
        said = process.communicate(timeout=50)[0]
    assert "The function of task 'order' can't travel" in said
    assert "defined in `__main__`, which another process can't load here" in said


def test_workers_of_a_killed_process(tmp_path: Path) -> None:
    """When the process is killed its workers end at once, also in the middle of a body, and with words unread."""
    (tmp_path / "shop.py").write_text(GUARDED)
    os.mkfifo(tmp_path / "line")
    os.mkfifo(tmp_path / "line.go")
    with started("shop.py", str(tmp_path / "line"), cwd=tmp_path) as process, (tmp_path / "line").open() as line:
        assert line.read(5) == "begun"
        process.send_signal(signal.SIGSTOP)
        (tmp_path / "line.go").open("w").close()
        assert line.read(7) == "printed"
        process.kill()
        assert line.read() == ""  # the body's end is closed
        process.communicate(timeout=50)
