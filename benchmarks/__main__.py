"""Runs the workloads in turn, prints a table, and writes a line of JSON a figure to `benchmarks/results.jsonl`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from . import growth, loop_lag, memory, sequence, startup, submitted, threads
from .method import BACKENDS, Figure, Round, Workload

MODULES = {
    "submitted": submitted,
    "sequence": sequence,
    "growth": growth,
    "memory": memory,
    "threads": threads,
    "startup": startup,
    "loop_lag": loop_lag,
}
HERE = Path(__file__).parent
RESULTS = HERE / "results.jsonl"


def measured(workloads: Sequence[Workload], backends: Sequence[str], repetitions: int, quick: bool) -> list[Figure]:
    """All figures. Repetitions go around everything else, so a slow minute of the machine falls on all alike."""
    figures = [
        Figure(workload, backend)
        for workload in workloads
        for backend in workload.backends
        if backend in backends or backend == "-"
    ]
    with TemporaryDirectory(prefix=".journals-", dir=HERE) as folder:
        for number in range(repetitions):
            for figure in figures:
                if number > 0 and not figure.workload.repeated:
                    continue
                told = f"{number + 1}/{repetitions}  {figure.workload.name}  {figure.backend}"
                print(f"\r\033[K{told}" if sys.stderr.isatty() else told, end="", file=sys.stderr, flush=True)
                print(end="" if sys.stderr.isatty() else "\n", file=sys.stderr)
                with TemporaryDirectory(dir=folder) as place:
                    turn = Round(number, figure.backend, quick, Path(place))
                    figure.samples.append(figure.workload.measure(turn))
    print(file=sys.stderr)
    return figures


def table(figures: Sequence[Figure]) -> str:
    """The figures as text. Where there is something to compare with, the figure is the median ratio and its range."""
    rows = [("work", "loop", "undertow", "against", "", "figure", "range", "budget", "")]
    for figure in figures:
        work, against = figure.workload, figure.against
        values = figure.values
        rows.append(
            (
                work.name,
                figure.backend,
                f"{figure.ours:.3g} {work.unit}",
                "" if against is None else f"{against:.3g}",
                work.against,
                f"{figure.value:.2f}",
                f"{min(values):.2f}-{max(values):.2f}" if len(values) > 1 else "",
                "-" if work.budget is None else f"{work.budget:g}",
                figure.verdict,
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = {3, 5, 6, 7}
    lines = [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return "\n".join(line.rstrip() for line in lines)


def write(figures: Sequence[Figure], quick: bool) -> None:
    """One line of JSON a figure, added to the results."""
    about = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        **{name: version(name) for name in ("undertow", "anyio", "trio", "aiosqlite")},
    }
    with RESULTS.open("a", encoding="utf-8") as lines:
        for figure in figures:
            work = figure.workload
            told = {
                "work": work.name,
                "loop": figure.backend,
                "unit": work.unit,
                "ours": round(figure.ours, 3),
                "against": None if figure.against is None else round(figure.against, 3),
                "figure": round(figure.value, 3),
                "samples": [round(value, 3) for value in figure.values],
                "budget": work.budget,
                "verdict": figure.verdict,
            }
            lines.write(json.dumps(told | about, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="undertow against plain anyio.")
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"only these: {', '.join(MODULES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions and smaller sizes: about two minutes")
    parser.add_argument("--repetitions", type=int, help="default: 7, or 3 with --quick")
    parser.add_argument("--backend", choices=BACKENDS, help="default: both")
    options = parser.parse_args()
    unknown = set(options.modules) - MODULES.keys()
    if unknown:
        parser.error(f"no module {', '.join(sorted(unknown))}; there are: {', '.join(MODULES)}")
    workloads = [work for name in options.modules or MODULES for work in MODULES[name].WORKLOADS]
    backends = [options.backend] if options.backend else list(BACKENDS)
    figures = measured(workloads, backends, options.repetitions or (3 if options.quick else 7), options.quick)
    write(figures, options.quick)
    print(table(figures))


if __name__ == "__main__":
    main()
