"""Where the microseconds of a task go: by leaving things out, and by timing the steps of its life one by one.

Left out are the journal (one that only counts stands in for it), the garbage collector, and the engine. What the rest
costs less is what they cost. It is processor time that is compared, which other work on the machine disturbs least.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Mapping

import attrs

from . import report
from .engines import ENGINES, Engine
from .environments import HERE as FOLDER
from .measure import Answer, measured
from .results import this_machine
from .workloads import SCALES, TASK, WORKLOADS

HERE, ELSEWHERE = "µs in this thread", "µs in other threads"
README = FOLDER / "README.md"
BEGIN, END = "<!-- breakdown -->", "<!-- end of the breakdown -->"
WORK = ("fan_out", "sequence")


@attrs.frozen
class Setting:
    """One thing that is measured, for the differences."""

    engine: Engine
    gc: bool


def _settings(loop: str) -> dict[str, Setting]:
    ours, plain = ENGINES[f"undertow/{loop}/process"], ENGINES[f"anyio/{loop}"]
    counting = attrs.evolve(ours, variant=f"{loop}/counting")
    return {
        "plain": Setting(plain, gc=False),
        "plain, gc": Setting(plain, gc=True),
        "pipeline": Setting(counting, gc=False),
        "pipeline, gc": Setting(counting, gc=True),
        "memory": Setting(ENGINES[f"undertow/{loop}/memory"], gc=True),
        "disk": Setting(ours, gc=True),
    }


def _medians(loop: str, workload: str, n: int, rounds: int) -> dict[str, Answer]:
    """The median answer of each setting, from rounds in which all are measured in turn."""
    settings = _settings(loop)
    answers: dict[str, list[Answer]] = {name: [] for name in settings}
    for _ in range(rounds):
        for name, each in settings.items():
            answers[name].append(measured(each.engine, WORKLOADS[workload], n, SCALES["full"], gc=each.gc))
    return {
        name: {unit: statistics.median(answer[unit] for answer in taken) for unit in (TASK, HERE, ELSEWHERE)}
        for name, taken in answers.items()
    }


ROWS: tuple[tuple[str, Callable[[Mapping[str, Answer]], float]], ...] = (
    ("a member of a plain task group", lambda took: took["plain"][HERE]),
    ("the garbage collector, over such members", lambda took: took["plain, gc"][HERE] - took["plain"][HERE]),
    ("**plain anyio in all**", lambda took: took["plain, gc"][HERE]),
    ("undertow without a journal", lambda took: took["pipeline"][HERE]),
    ("the garbage collector, over that", lambda took: took["pipeline, gc"][HERE] - took["pipeline"][HERE]),
    ("telling the journal", lambda took: took["disk"][HERE] - took["pipeline, gc"][HERE]),
    ("**undertow's loop in all**", lambda took: took["disk"][HERE]),
    ("the journal's own thread, in memory", lambda took: took["memory"][ELSEWHERE]),
    ("the same, on disk", lambda took: took["disk"][ELSEWHERE]),
    ("plain anyio, on the clock", lambda took: took["plain, gc"][TASK]),
    ("undertow, on the clock, its commit included", lambda took: took["disk"][TASK]),
)


def write(n: int, rounds: int) -> None:
    """Measure, and put the tables in their place in the README."""
    about = f"{report.count(n)} tasks, {this_machine()['processor']}, Python {platform.python_version()}:"
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n{about}\n\n{table(n, rounds)}{END}{after}", encoding="utf-8")


def table(n: int, rounds: int) -> str:
    """The two tables, in Markdown."""
    columns = {
        f"`{workload}`, {loop}": _medians(loop, workload, n, rounds)
        for workload in WORK
        for loop in ("asyncio", "trio")
    }
    rows = [(told, *(f"{cost(took):.1f}" for took in columns.values())) for told, cost in ROWS]
    left_out = report.table(("µs a task", *columns), rows, range(1, 1 + len(columns)))
    return f"{left_out}\n{_steps(n)}"


def _steps(n: int) -> str:
    """The steps of a task's life, each timed alone over many tasks, without the garbage collector."""
    engine = attrs.evolve(ENGINES["undertow/asyncio/process"], family="parts", variant="asyncio")
    took = measured(engine, attrs.evolve(WORKLOADS["fan_out"], name="parts"), n, SCALES["full"], gc=False)
    return report.table(("step, alone", "µs"), [(name, f"{value:.2f}") for name, value in took.items()], (1,))
