"""One measurement: a fresh process does one workload with one engine, in a folder of its own, and leaves an answer."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from .engines import Engine
from .environments import HERE, is_built, python_of
from .workloads import Scale, Workload

Answer = dict[str, float]

TIMES, ENOUGH_SECONDS = 5, 4.0
"""Imports and scripts are timed so often, or until they took so long, after one that is not counted."""


class NotTaken(Exception):
    """A figure that could not be taken; says why."""


def measured(engine: Engine, work: Workload, n: int, scale: Scale, *, gc: bool = True) -> Answer:
    """A number for each unit of the workload. Raises `NotTaken`."""
    if work.name in engine.lacks:
        raise NotTaken(engine.lacks[work.name])
    if not is_built(engine.environment):
        raise NotTaken(f"its environment is not built: python -m benchmarks peers {engine.environment}")
    if work.name in STARTS:
        return {"ms": _repeated(partial(STARTS[work.name], engine), scale.limit)}
    with _folder() as folder:
        order = {
            "workload": work.name,
            "n": n,
            "variant": engine.variant,
            "folder": folder,
            "seconds": scale.seconds,
            "gc": gc,
            "answer": f"{folder}/answer.json",
        }
        module = f"benchmarks.programs.with_{engine.family}"
        _run(engine, ["-m", module, json.dumps(order)], folder, scale.limit)
        answer: Answer = json.loads(Path(folder, "answer.json").read_text(encoding="utf-8"))
        return answer


def _folder() -> TemporaryDirectory[str]:
    """A folder of its own. Processes that a peer leaves behind may still be writing into it when it goes."""
    return TemporaryDirectory(prefix=".run-", dir=HERE, ignore_cleanup_errors=True)


def _repeated(once: Callable[[str, float], float], limit: float) -> float:
    """Milliseconds: the median of several, in fresh folders. The first is not counted: it finds nothing compiled."""
    took: list[float] = []
    while len(took) < 2 or (len(took) <= TIMES and sum(took) < ENOUGH_SECONDS):
        with _folder() as folder:
            took.append(once(folder, limit))
    return statistics.median(took[1:]) * 1e3


def _imported(statement: str, engine: Engine, folder: str, limit: float) -> float:
    """Seconds of an import statement inside a fresh interpreter."""
    told = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    return float(_run(engine, ["-c", told], folder, limit).splitlines()[-1])


def _import(engine: Engine, folder: str, limit: float) -> float:
    return _imported(engine.imports, engine, folder, limit)


def _script(engine: Engine, folder: str, limit: float) -> float:
    """Seconds of a whole script, from outside."""
    script = HERE / "scripts" / f"with_{engine.family}.py"
    start = perf_counter()
    _run(engine, [str(script), folder, engine.variant], folder, limit)
    return perf_counter() - start


STARTS = {"import": _import, "import_bare": partial(_imported, "import undertow"), "cold_start": _script}
"""What is timed from outside, with no program in `programs/`."""


def _run(engine: Engine, arguments: list[str], folder: str, limit: float) -> str:
    """What a fresh interpreter prints. Raises `NotTaken` if it fails, or takes longer than `limit` seconds."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {name: value.format(folder=folder) for name, value in engine.variables.items()}
    environment["PYTHONPATH"] = str(HERE.parent)
    output = Path(folder, "output")
    with output.open("wb") as out:
        process = subprocess.Popen(
            [python_of(engine.environment), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            raise NotTaken(f"did not end within {limit:g} s") from None
        finally:
            _end_group(process)
    text = output.read_text(encoding="utf-8", errors="replace")
    if code != 0:
        last = [line.strip(" |+-") for line in text.splitlines() if line.strip(" |+-")] or ["it said nothing"]
        raise NotTaken(f"failed with exit status {code}: {last[-1][:200]}")
    return text


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End whatever the process started and left behind, and itself."""
    with suppress(ProcessLookupError):  # all of it may have ended by itself
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
