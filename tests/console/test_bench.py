"""`undertow bench`: what a flow's time goes into, and what is said about it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from click.testing import Result

from undertow import Engine, Flow, allow_failure, flow, task
from undertow.console.bench import Bench, Families, calibrate
from undertow.console.shares import PARTS, Calibration, Life, Shares, shares
from undertow.engine.states import StateType

Invoke = Callable[..., Result]
MakeEngine = Callable[..., Engine]


# --- histories made by hand ------------------------------------------------------------------------------------


def life(run_id: str, parent: str | None, *story: tuple[str, int], **more: Any) -> Life:
    """A run by what it was in and since when: Pending first, a terminal state last."""
    types = {"AwaitingRetry": "SCHEDULED", "AwaitingConcurrencySlot": "SCHEDULED", "Retrying": "RUNNING"}
    history = [(StateType(types.get(name, name.upper())), name, "", at) for name, at in story]
    kind = "flow" if parent is None else "task"
    return Life(run_id, parent, kind, "work", history, **more)


def spent(found: Shares) -> dict[str, float]:
    """The parts that took any time."""
    return {part: time for part, time in found.parts.items() if time}


FLOW = life("f", None, ("Pending", 10), ("Running", 20), ("Completed", 220))


def test_each_moment_counts_once() -> None:
    """The parts of a run make up its wall time, whatever overlaps inside it."""
    family = [
        life("a", "f", ("Pending", 30), ("Running", 40), ("Completed", 100)),
        life("b", "f", ("Pending", 30), ("AwaitingConcurrencySlot", 45), ("Running", 90), ("Completed", 110)),
        life("c", "f", ("Pending", 30), ("Running", 50), ("AwaitingRetry", 60), ("Retrying", 150), ("Completed", 160)),
        FLOW,
    ]
    found = shares(family, 0, 300)
    # The flow's own body: 20 to 30 and 160 to 220; tasks at work: 40 to 110 and 150 to 160; then its commit.
    assert spent(found) == {"body": 10 + 70 + 10 + 60, "retries": 40, "journal": 80, "engine": 20 + 10}
    assert sum(found.parts.values()) == found.total == 300
    assert (found.tasks, found.task_attempts, found.calls) == (3, 3, 1)
    assert found.overlap == (150 + 10 + 10) / 150


def test_waiting_for_a_limit_counts_when_nothing_else_goes_on() -> None:
    """Time in which a run waits for a limit, and nothing runs beside it, is the limit's, not the engine's."""
    waits = life("a", "f", ("Pending", 30), ("AwaitingConcurrencySlot", 35), ("Running", 135), ("Completed", 145))
    assert spent(shares([waits, FLOW], 10, 220)) == {"body": 10 + 10 + 75, "limits": 100, "engine": 10 + 5}


def test_what_is_known_of_empty_runs_is_the_engines() -> None:
    """What empty runs take is taken off the bodies and given to the engine, and a step's record to the journal."""
    tasks = [life(f"t{n}", "f", ("Pending", n), ("Running", n + 2), ("Completed", n + 12)) for n in range(30, 130, 20)]
    steps = [Life(each.id, "f", "task", "work", each.history, is_step=True) for each in tasks]
    known = Calibration(flow=20, task=4, call=3, step=5)
    raw = shares([*tasks, FLOW], 10, 230)
    found = raw.calibrated(known)
    assert found.parts["engine"] == raw.parts["engine"] + 20 + 5 * 4 + 5 * 3
    assert sum(found.parts.values()) == pytest.approx(raw.total)
    recorded = shares([*steps, FLOW], 10, 230).calibrated(known)
    assert recorded.parts["journal"] == pytest.approx(raw.parts["journal"] + 5 * 5)


def test_no_body_takes_less_than_nothing() -> None:
    """Where empty runs take longer than what was measured, bodies took nothing, and the parts still add up."""
    found = shares([FLOW], 10, 220).calibrated(Calibration(flow=5_000))
    assert found.parts["body"] == 0
    assert sum(found.parts.values()) == 210


# --- flows in virtual time -------------------------------------------------------------------------------------


@task
async def nap(seconds: float) -> None:
    await anyio.sleep(seconds)


@task(limits=["line"])
async def call(seconds: float) -> None:
    await anyio.sleep(seconds)


@task(retries=1, retry_delay_seconds=3)
async def stumble(attempts: list[int]) -> None:
    attempts.append(1)
    if len(attempts) % 2:
        raise ValueError("once more")


@flow
async def naps(number: int, together: bool = False) -> None:
    if together:
        await nap.map([1.0] * number)
    else:
        for _ in range(number):
            await nap(1.0)


@flow
async def sleeper() -> None:
    await anyio.sleep(2)


@flow
async def caller() -> None:
    await call(1.0)


@flow
async def again() -> None:
    await stumble([])


@flow
async def upstreams() -> None:
    nap.submit(1.0, wait_for=[allow_failure(nap.submit(4.0))])


async def measured(make_engine: MakeEngine, of: Flow[..., Any], runs: int = 2, **more: Any) -> Bench:
    families = Families()
    concurrency = more.pop("concurrency", 1)
    async with make_engine(observers=[families], limits={"line": 1}) as engine:
        bench = Bench(of, more, engine, families, concurrency)
        await bench.runs(runs)
    return bench


def seconds(bench: Bench) -> dict[str, float]:
    """Where the time of a run went, to the millisecond: each entry of a history adds a microsecond."""
    total = bench.figures.total()
    return {part: rounded for part in PARTS if (rounded := round(total.parts[part] / len(bench.figures.each) / 1e6, 3))}


async def test_a_body_that_sleeps(make_engine: MakeEngine) -> None:
    """What a flow sleeps in its own body is body time, though it has no tasks."""
    bench = await measured(make_engine, sleeper)
    assert seconds(bench) == {"body": 2}
    assert [round(wall / 1e6, 3) for wall in bench.figures.walls] == [2, 2]


@pytest.mark.parametrize(("together", "body", "overlap"), [(False, 5, 1), (True, 1, 5)])
async def test_tasks_that_sleep(make_engine: MakeEngine, together: bool, body: float, overlap: float) -> None:
    """The bodies of tasks count, and those that are at work together count once."""
    bench = await measured(make_engine, naps, number=5, together=together)
    assert seconds(bench) == {"body": body}
    assert bench.figures.total().overlap == pytest.approx(overlap, rel=1e-3)
    assert bench.figures.functions["nap"].running.seconds == pytest.approx(10, rel=1e-3)


async def test_runs_that_wait_for_a_limit(make_engine: MakeEngine) -> None:
    """Of two runs at a time that want the one slot, the second waits for the limit as long as the first has it."""
    bench = await measured(make_engine, caller, concurrency=2)
    assert seconds(bench) == {"body": 1, "limits": 0.5}
    assert bench.figures.functions["call"].slots.seconds == pytest.approx(1, rel=1e-3)


async def test_runs_that_try_again(make_engine: MakeEngine) -> None:
    """The delay before the next attempt is the retry's, not the engine's."""
    assert seconds(await measured(make_engine, again)) == {"retries": 3}


async def test_runs_that_wait_for_upstreams(make_engine: MakeEngine) -> None:
    """What a task waits for its upstreams is told of the task; of the run's time it is what the upstream did."""
    bench = await measured(make_engine, upstreams)
    assert seconds(bench) == {"body": 5}
    assert bench.figures.functions["nap"].queued.seconds == pytest.approx(2 * 4, rel=1e-3)


# --- the verb --------------------------------------------------------------------------------------------------


@pytest.mark.real_time
@pytest.mark.parametrize("words", [["jobs:report", "-p", "rows=[1, 2]"], ["jobs:echo", "-p", "text=x", "-c", "2"]])
def test_bench_tells_where_the_time_goes(undertow: Invoke, words: list[str]) -> None:
    """`bench` measures an async or a `def` flow, and its parts add up to the wall time of the runs."""
    told = json.loads(undertow("bench", *words, "-n", "12", "--json").stdout)
    assert (told["runs"], told["warm_up"], told["ended"], told["exit_code"]) == (12, 1, {"Completed": 12}, 0)
    assert sum(part["share"] for part in told["parts"].values()) == pytest.approx(1)
    walls = told["wall_seconds"]
    assert 0 < walls["least"] <= walls["median"] <= walls["p90"] <= walls["most"]
    assert told["tasks_per_run"] == (1 if "jobs:report" in words else 0)
    assert told["parts"]["journal"]["seconds_per_run"] > 0


@pytest.mark.real_time
def test_bench_in_words(undertow: Invoke, folder: Any) -> None:
    """For a person there is a table; nothing is left on disk, and what the flow prints is on stderr."""
    result = undertow("bench", "jobs:loud", "-n", "3")
    assert result.exit_code == 0
    assert re.search(r"^loud  3 runs, one after another, on asyncio\n", result.stdout)
    assert re.search(r"^waiting for the journal +[\d.]+ \S+ +[\d.]+%$", result.stdout, re.MULTILINE)
    assert "from the body" in result.stderr
    assert "from the body" not in result.stdout
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".py") in ([], ["__pycache__"])


@pytest.mark.real_time
def test_bench_of_what_fails(undertow: Invoke) -> None:
    """A flow whose first run does not complete is not measured: one line says why."""
    result = undertow("bench", "jobs:strict", "-n", "5")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        "undertow: strict can't be measured: its first run ended Failed: Flow run raised ValueError: no rows at 17\n"
    )


@pytest.mark.real_time
@pytest.mark.parametrize("words", [["jobs:nothing"], ["jobs:echo"], ["jobs:idle", "-n", "0"]])
def test_mistakes_are_one_line(undertow: Invoke, complaint: Callable[[Result], str], words: list[str]) -> None:
    """A flow that is not there, arguments that don't fit and impossible numbers are one line, and exit code 2."""
    complaint(undertow("bench", *words))


@pytest.mark.real_time
def test_calibration_knows_a_durable_step(folder: Any) -> None:
    """What recording a step takes is measured for a durable flow, and is nothing for another."""
    plain = calibrate(sleeper, "asyncio")
    durable = calibrate(sleeper.with_options(durable=True), "asyncio")
    assert plain.step == 0
    assert durable.step > 0
    assert min(plain.flow, plain.task) > 0
