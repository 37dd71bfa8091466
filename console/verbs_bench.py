"""`undertow bench`: the figures of one's own flow, in words or as a document. What measures is in `bench.py`."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import click
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from . import running
from .bench import Figures, FlowBroken, bench, calibrate
from .loading import arguments, find_flow, read_parameters
from .metrics import Total
from .options import FAILURE, SUCCESS, complain, with_backend, with_json, with_parameters
from .page import DIM, Page, grid
from .shares import BODY, ENGINE, JOURNAL, LIMITS, PARTS, PAUSES, RETRIES, Shares
from .wording import counted, duration, safe

WORDS = {
    BODY: "in bodies",
    LIMITS: "waiting for limits",
    RETRIES: "waiting for the next attempt",
    PAUSES: "paused",
    JOURNAL: "waiting for the journal",
    ENGINE: "the rest: the engine",
}
MOST_TO_WARM_UP = 20
OVERLAPPING = 1.1


@click.command("bench")
@click.argument("target", metavar="MODULE:FLOW")
@click.option("--runs", "-n", type=click.IntRange(1), default=100, show_default=True, help="How many runs to measure.")
@with_parameters
@click.option(
    "--concurrency", "-c", type=click.IntRange(1), default=1, show_default=True, help="How many runs at a time."
)
@with_backend
@click.option("--journal", metavar="PATH", type=click.Path(), help="The journal; else one that is thrown away.")
@with_json
def bench_verb(
    target: str,
    runs: int,
    given: tuple[str, ...],
    concurrency: int,
    backend: str,
    journal: str | None,
    as_json: bool,
) -> int:
    """Measure what a flow costs: run it again and again, and say where the time goes.

    Every moment of a run counts once: as body time when any body is at work, else as waiting for a limit when any run
    does, and so on; the rest is the engine's. What an empty flow and an empty awaited task cost is measured first and
    counted as the engine's, so a body that does nothing takes nothing. (Around a task that is submitted, some
    microseconds more of the engine's work count as the body's.) A few runs to warm up are not counted. What the flow
    prints goes to stderr.

    \b
    undertow bench jobs:nightly -n 1000 -p limit=20
    undertow bench jobs:nightly --concurrency 16 --journal /data/try.db

    Exit code: 0 it was measured, 1 a run did not complete, 2 it can't be run.
    """
    parameters = read_parameters(given)
    flow = find_flow(target)
    call = arguments(flow, parameters)
    warm_up = max(1, min(MOST_TO_WARM_UP, runs // 10))
    with running.stdout_to_stderr(), _journal(journal) as path:
        try:
            figures = bench(flow, call, path, backend, runs, warm_up, concurrency)
            known = calibrate(flow, backend)
        except FlowBroken as broken:
            return complain(str(broken), FAILURE)
    job = Job(flow.name, runs, warm_up, concurrency, backend, journal)
    told = Told(job, figures, figures.total().calibrated(known))
    page = Page()
    code = SUCCESS if figures.trouble is None else FAILURE
    if as_json:
        page.put_json(told.as_document() | {"exit_code": code})
    else:
        page.put(*told.as_text())
    return code


@contextmanager
def _journal(given: str | None) -> Iterator[str]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="undertow-bench-") as folder:
        yield str(Path(folder) / "journal.db")


@attrs.frozen
class Job:
    """What was asked for."""

    flow: str
    runs: int
    warm_up: int
    concurrency: int
    backend: str
    journal: str | None
    """`None`: one that is thrown away."""


@attrs.frozen
class Told:
    """The figures of a job, ready to be told."""

    job: Job
    figures: Figures
    shares: Shares

    # --- for a program -----------------------------------------------------------------------------------------

    def as_document(self) -> dict[str, Any]:
        """The figures for a program to read; times in seconds."""
        walls = self.figures.walls
        return attrs.asdict(self.job) | {
            "ended": dict(self.figures.ended),
            "wall_seconds": {
                "median": statistics.median(walls) / 1e6,
                "p90": _p90(walls) / 1e6,
                "least": min(walls) / 1e6,
                "most": max(walls) / 1e6,
            },
            "runs_per_second": self._rate,
            "looked_into": len(self.figures.each),
            "tasks_per_run": self._tasks,
            "parts": {
                part: {
                    "seconds_per_run": self._per_run(part) / 1e6,
                    "seconds_per_task": self._per_task(part) / 1e6 if self.shares.tasks else None,
                    "share": self._share(part),
                }
                for part in PARTS
            },
            "bodies_at_work": self.shares.overlap,
            "writer_seconds_per_run": self._writer,
            "functions": {name: attrs.asdict(known) for name, known in self.figures.functions.items()},
            "notes": list(self._notes()),
        }

    # --- for a person ------------------------------------------------------------------------------------------

    def as_text(self) -> list[RenderableType]:
        """The figures as lines and tables."""
        job = self.job
        where = "a throw-away journal on disk" if job.journal is None else safe(job.journal)
        together = "one after another" if job.concurrency == 1 else f"{job.concurrency} at a time"
        head = Text.assemble((safe(job.flow), "bold"), f"  {counted(job.runs, 'run')}, {together}, on {job.backend}")
        warmed = Text(f"after {counted(job.warm_up, 'run')} to warm up, on {where}", DIM)
        ended = [f"{number:,} {safe(name)}" for name, number in self.figures.ended.items() if name != "Completed"]
        lines: list[RenderableType] = [
            head,
            warmed,
            *([Text("not completed: " + " · ".join(ended), "red")] * bool(ended)),
        ]
        lines += ["", self._walls(), "", self._parts(), "", self._functions()]
        return lines + [Text(f"\n{note}", DIM) for note in self._notes()]

    def _walls(self) -> Table:
        walls = self.figures.walls
        table = grid("left", "left")
        spread = f"{duration(min(walls))} to {duration(max(walls))}"
        median, p90 = duration(round(statistics.median(walls))), duration(round(_p90(walls)))
        table.add_row("wall time of a run", f"median {median}, 90 % within {p90}, {spread}")
        table.add_row("runs per second", f"{self._rate:,.1f}")
        table.add_row("tasks per run", f"{self._tasks:,.4g}")
        return table

    def _parts(self) -> Table:
        table = grid("left", "right", "right", "right")
        table.add_row(*(Text(name, "bold") for name in ("WHERE A RUN'S TIME GOES", "PER RUN", "PER TASK", "SHARE")))
        for part in PARTS:
            if part is PAUSES and not self.shares.parts[part]:
                continue
            if not self.shares.parts[part]:
                table.add_row(WORDS[part], "–", "–" if self.shares.tasks else "", "–")
                continue
            per_task = _fine(self._per_task(part)) if self.shares.tasks else ""
            table.add_row(WORDS[part], _fine(self._per_run(part)), per_task, f"{self._share(part):.1%}")
        if (writer := self._writer) is not None:
            per_task = _fine(writer * 1e6 / self._tasks) if self._tasks else ""
            said = (Text("beside it: the journal's threads", DIM), Text(_fine(writer * 1e6), DIM), Text(per_task, DIM))
            table.add_row(*said, "")
        return table

    def _functions(self) -> Table:
        """A line for each task and flow: what one run of it went through, on average."""
        table = grid("left", "right", "right", "right", "right", "right", "right")
        titles = ("EACH RUN OF", "PER RUN", "IN TURN", "LIMITS", "RETRIES", "IN BODY", "AT MOST")
        table.add_row(*(Text(name, "bold") for name in titles))
        for name, known in self.figures.functions.items():
            number = sum(known.ended.values())
            means = (_mean(each, number) for each in (known.queued, known.slots, known.delays, known.running))
            often = number / len(self.figures.each)
            table.add_row(safe(name), f"{often:,.4g}", *means, _fine(known.running.most * 1e6))
        return table

    def _notes(self) -> Iterator[str]:
        together, overlap = self.job.concurrency > 1, self.shares.overlap
        if overlap > OVERLAPPING:
            yield (
                f"On average {overlap:.1f} bodies were at work at a time. Each moment counts once, so what the engine "
                "does while a body waits is not seen: its share is at least this."
            )
        if together:
            yield (
                f"{self.job.concurrency} runs shared one process, so the time of each holds what it waited for the "
                "others; measure with --concurrency 1 to see what one takes."
            )
        if self.shares.steps:
            yield "What the record of a durable step takes was measured with empty ones; the rest of it counts as body."
        if len(self.figures.each) < len(self.figures.walls):
            yield f"Where the time goes was looked at in the first {len(self.figures.each):,} runs."

    # --- figures -----------------------------------------------------------------------------------------------

    @property
    def _rate(self) -> float:
        return len(self.figures.walls) * 1e6 / max(1, self.figures.elapsed)

    @property
    def _tasks(self) -> float:
        return self.shares.tasks / len(self.figures.each)

    @property
    def _writer(self) -> float | None:
        """Processor seconds of the journal's threads in a run."""
        spent = self.figures.writer_seconds
        return None if spent is None else spent / len(self.figures.walls)

    def _per_run(self, part: str) -> float:
        return self.shares.parts[part] / len(self.figures.each)

    def _per_task(self, part: str) -> float:
        return self.shares.parts[part] / self.shares.tasks

    def _share(self, part: str) -> float:
        return self.shares.parts[part] / self.shares.total if self.shares.total else 0.0


def _p90(walls: list[int]) -> float:
    return sorted(walls)[-(-9 * len(walls) // 10) - 1]


def _fine(microseconds: float) -> str:
    return f"{microseconds:.1f} µs" if 0.05 <= microseconds < 99.95 else duration(round(microseconds))


def _mean(total: Total, number: int) -> str:
    return _fine(total.seconds * 1e6 / number) if total.count else "–"
