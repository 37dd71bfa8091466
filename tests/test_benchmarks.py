"""The benchmarks themselves: that they run, and that what they say of figures is what the figures say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks import report, results
from benchmarks.budgets import BUDGETS, Budget
from benchmarks.engines import ENGINES, Engine
from benchmarks.environments import names, versions
from benchmarks.measure import NotTaken, measured
from benchmarks.results import Figure, Run
from benchmarks.workloads import SCALES, TASK, WORKLOADS

TINY = SCALES["tiny"]
A_RUN = Run("2026-01-01T00:00:00+00:00", "tiny", results.this_machine(), {"python": "3"}, {}, [results.canary()])


def figure(workload: str, engine: str, n: int, *samples: float, not_taken: str = "") -> Figure:
    return Figure(workload, engine, n, WORKLOADS[workload].units[0], list(samples), not_taken, A_RUN.at)


@pytest.mark.real_time
@pytest.mark.parametrize("engine", ["asyncio", "anyio/trio", "undertow/asyncio/process"])
def test_measured(engine: str) -> None:
    """A measurement gives a time for each task, from a process of its own."""
    answer = measured(ENGINES[engine], WORKLOADS["fan_out"], 10, TINY)
    assert 0 < answer[TASK] < math.inf


def test_lacking() -> None:
    """What an engine has nothing of is not measured, and the reason is said."""
    with pytest.raises(NotTaken, match="no engine"):
        measured(ENGINES["anyio/asyncio"], WORKLOADS["resume"], 10, TINY)


@pytest.mark.real_time
def test_failing() -> None:
    """A program that fails is a figure that could not be taken, with the program's last words."""
    with pytest.raises(NotTaken, match="exit status 1: .*no_such_durability"):
        measured(Engine("undertow", "asyncio/no_such_durability", ""), WORKLOADS["fan_out"], 10, TINY)


def test_pairs() -> None:
    """A budget's samples are ratios within one round: a round that was slow for both sides changes nothing."""
    budget = Budget("", "", (("fan_out", "ours", 10, TASK),), (("fan_out", "raw", 10, TASK),), 2.0)
    taken = [figure("fan_out", "ours", 10, 30.0, 300.0, 31.0), figure("fan_out", "raw", 10, 20.0, 200.0, 20.0)]
    assert budget.samples({each.key: each for each in taken}) == [1.5, 1.5, 1.55]


@pytest.mark.parametrize(("value", "verdict"), [(1.9, "met"), (2.5, "**missed** by 25%")])
def test_verdict(value: float, verdict: str) -> None:
    """A budget that is missed says by how much."""
    assert Budget("", "", (), (), 2.0).verdict(value) == verdict


def test_budgets_are_measured() -> None:
    """Every figure that a budget asks for is taken when the record is made."""
    for budget in BUDGETS:
        for workload, engine, n, unit in (*budget.over, *budget.under):
            assert n in ENGINES[engine].sizes(WORKLOADS[workload], "full"), budget.title
            assert unit in WORKLOADS[workload].units, budget.title


def test_pinned() -> None:
    """Every peer has an environment whose packages are pinned."""
    assert {engine.environment for engine in ENGINES.values()} - {""} == set(names())
    assert all(versions(name) for name in names())


def test_report(tmp_path: Path) -> None:
    """The report has a table, a chart, and a reason for each figure that could not be taken."""
    file = tmp_path / "results.jsonl"
    taken = [
        figure("fan_out", "anyio/asyncio", 10_000, 20.0, 21.0),
        figure("fan_out", "undertow/asyncio/process", 10_000, 30.0, 31.5),
        figure("fan_out", "prefect", 10_000, not_taken="did not end within 300 s"),
    ]
    results.write(file, A_RUN, taken, add=False)
    report.write(file)
    told = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "| 1.5 × | 1.5…1.5 | ≤ 2 × | met |" in told
    assert "did not end within 300 s" in told
    assert (tmp_path / "charts" / "fan_out.svg").read_text(encoding="utf-8").startswith("<svg")


def test_latest(tmp_path: Path) -> None:
    """Of a figure that was taken twice the later counts, unless it could not be taken then."""
    file = tmp_path / "results.jsonl"
    for number, each in enumerate(
        (figure("chain", "ray", 9, 1.0), figure("chain", "ray", 9, 2.0), figure("chain", "ray", 9))
    ):
        results.write(file, A_RUN, [each], add=number > 0)
    _, figures = results.read(file)
    assert figures["chain", "ray", 9, TASK].samples == [2.0]
