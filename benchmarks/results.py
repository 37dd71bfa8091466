"""Figures, and the file they are kept in: a line of JSON for each, and one for the run in which they were taken."""

from __future__ import annotations

import json
import math
import os
import platform
import sqlite3
import statistics
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import attrs

from .environments import HERE

RESULTS = HERE / "results.jsonl"
Key: TypeAlias = tuple[str, str, int, str]
"""Workload, engine, number of tasks, unit."""


@attrs.define
class Figure:
    """The samples of one figure, one for each round. A figure that could not be taken says why."""

    workload: str
    engine: str
    n: int
    unit: str
    samples: list[float] = attrs.field(factory=list)
    not_taken: str = ""
    run: str = ""

    @property
    def key(self) -> Key:
        return self.workload, self.engine, self.n, self.unit

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


@attrs.frozen
class Run:
    """When, where and with what versions figures were taken."""

    at: str
    scale: str
    machine: dict[str, Any]
    versions: dict[str, str]
    peers: dict[str, str]
    """The peers' versions."""
    canaries: list[dict[str, float]]
    """What the machine was like at the start of each round, and at the end."""


def this_machine() -> dict[str, Any]:
    return {
        "system": platform.system(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def our_versions() -> dict[str, str]:
    packages = ("undertow", "anyio", "trio", "uvloop", "aiosqlite", "uvicorn")
    return {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in packages},
    }


def canary(folder: Path = HERE) -> dict[str, float]:
    """What the machine is like now: its load, milliseconds of a fixed loop, and of a small write that is synced."""
    start = perf_counter()
    x = 0
    for i in range(300_000):
        x += i
    spun = perf_counter() - start
    path = folder / f".run-canary-{os.getpid()}"
    syncs = []
    with path.open("wb") as file:
        for _ in range(20):
            start = perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            syncs.append(perf_counter() - start)
    path.unlink()
    load = os.getloadavg()[0]
    return {
        "load": round(load, 2),
        "loop_ms": round(spun * 1e3, 2),
        "fsync_ms": round(statistics.median(syncs) * 1e3, 3),
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def write(path: Path, run: Run, figures: Iterable[Figure], *, add: bool) -> None:
    """Write a run and its figures; with `add`, after those that are there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a" if add else "w", encoding="utf-8") as lines:
        lines.write(json.dumps({"run": attrs.asdict(run)}, ensure_ascii=False) + "\n")
        for figure in figures:
            told = attrs.asdict(figure) | {"samples": [_rounded(sample) for sample in figure.samples], "run": run.at}
            told |= {"median": _rounded(figure.median)} if figure.samples else {}
            lines.write(json.dumps(told, ensure_ascii=False) + "\n")


def _rounded(value: float) -> float:
    """Five digits: more would only look exact."""
    return float(f"{value:.5g}")


def read(path: Path) -> tuple[list[Run], dict[Key, Figure]]:
    """The runs, and the figures of the file: of those with the same key the last that was taken, if any was."""
    runs: list[Run] = []
    figures: dict[Key, Figure] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        told = json.loads(line, parse_constant=lambda name: math.nan)
        if "samples" not in told:
            runs.append(Run(**told["run"]))
            continue
        told.pop("median", None)
        figure = Figure(**told)
        if figure.samples or figure.key not in figures:
            figures[figure.key] = figure
    return runs, figures
