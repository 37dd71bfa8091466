"""A durable flow of 200 steps that is killed with SIGKILL, again and again, and brought to its end each time.

    python tests/kills.py --kills 200 --backend trio

Each flow runs in a process of its own, which is killed at seeded random instants: while it opens the journal, takes the
run, or works. After each kill the journal has to be sound, and what it holds is noted; the next process goes on. What
the tasks do they write to a ledger outside of the journal, which tells whether anything that was recorded, or given to
the body of a flow, began again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio

import undertow
from undertow import Engine, flow, runtime, task

# --- the flow ----------------------------------------------------------------------------------------------------------

STEPS = 200
LEDGER = os.open(os.environ["LEDGER"], os.O_CREAT | os.O_WRONLY | os.O_APPEND) if "LEDGER" in os.environ else -1


def write(*words: object) -> None:
    """Add a line to the ledger; it is on disk when this returns."""
    os.write(LEDGER, (" ".join(map(str, words)) + "\n").encode())
    os.fsync(LEDGER)


def given(name: str, result: Any) -> Any:
    """Note that a body was given a step's result."""
    write("given", name)
    return result


@task(task_run_name="{name}")
async def step(name: str, x: int) -> int:
    write("start", name, runtime.task_run.id)
    await anyio.sleep(0.001 * (x % 3))
    return x + 1


@task(task_run_name="{name}")
def sync_step(name: str, x: int) -> int:
    write("start", name, runtime.task_run.id)
    return x + 1


@task(task_run_name="{name}", retries=3, retry_delay_seconds=0.005)
def unsteady(name: str, x: int) -> int:
    write("start", name, runtime.task_run.id)
    failures = Path(f"{os.environ['LEDGER']}.{name}")
    if x % 2 and not failures.exists():
        failures.touch()
        raise ConnectionError(name)
    return x + 1


@task(task_run_name="{name}")
async def hopeless(name: str) -> None:
    write("start", name, runtime.task_run.id)
    raise ConnectionError(name)


@flow
async def part(name: str) -> int:
    total = sum(await step.map([f"{name}.{index}" for index in range(10)], range(10)))
    for index in range(10, 15):
        total += given(f"{name}.{index}", await step(f"{name}.{index}", index))
    return total


@flow(durable=True)
async def work() -> int:
    total = 0
    parts = [part.submit(name) for name in ("left", "right")]
    for index in range(40):
        total += given(f"row.{index}", await step(f"row.{index}", index))
        if index % 10 == 0:
            await undertow.sleep(0.002)
            total += given(f"sync.{index}", sync_step(f"sync.{index}", index))
    mapped = step.map([f"map.{index}" for index in range(80)], range(80))
    async for future in mapped.as_completed():
        total += await future
    for index in range(43):
        total += given(f"unsteady.{index}", await unsteady.submit(f"unsteady.{index}", index))
    for index in range(3):
        try:
            await hopeless(f"hopeless.{index}")
        except ConnectionError:
            given(f"hopeless.{index}", None)
    return total + sum([await future for future in parts])


RESULT = sum(range(1, 41)) + sum((1, 11, 21, 31)) + sum(range(1, 81)) + sum(range(1, 44)) + 2 * sum(range(1, 16))


async def life(journal: str, recover: bool) -> None:
    """One process's try to bring the run to its end."""
    async with Engine(journal, recover=recover) as engine:
        print("ready", flush=True)
        print("result", await engine.start(work, run_id="work", on_conflict="restart_if_failed"), flush=True)


# --- killing it --------------------------------------------------------------------------------------------------------


class Killer:
    """Kills processes, and keeps count of what that hit."""

    def __init__(self, seed: int, backend: str) -> None:
        self.dice = random.Random(seed)
        self.backend = backend
        self.kills = 0
        self.figures: Counter[str] = Counter()
        self.problems: list[str] = []

    def bring_to_its_end(self, folder: Path, most: int) -> None:
        """Have one run go on until it is over, killing its processes, and look at everything after each of them."""
        journal, ledger = folder / "app.db", folder / "ledger"
        recorded: set[str] = set()
        lines: list[list[str]] = []
        result = None
        while result is None:
            result = self._one_life(journal, ledger, kill=self.kills < most)
            before, lines = len(lines), read(ledger)
            self._check_starts(lines, before, recorded)
            recorded |= self._recorded(journal, {line[2]: line[1] for line in lines if line[0] == "start"})
        self.figures["flows"] += 1
        if result != f"result {RESULT}":
            self.problems.append(f"the result was {result!r}, not {RESULT}")
        self._check_rows(journal, {line[1] for line in lines if line[0] == "start"})

    def _one_life(self, journal: Path, ledger: Path, kill: bool) -> str | None:
        """Start a process, and kill it after a random time; what it printed as its result, if it was faster."""
        self.figures["lives"] += 1
        recover, early = self.dice.random() < 0.5, self.dice.random() < 0.2
        instant = self.dice.uniform(0.05, 0.4) if early else self.dice.expovariate(8)
        command = [
            sys.executable,
            __file__,
            "--life",
            str(journal),
            "--backend",
            self.backend,
            *["--recover"] * recover,
        ]
        environment = os.environ | {"LEDGER": str(ledger), "UNDERTOW_LOGGING_CONSOLE": "off"}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            if kill:
                said = "" if early else process.stdout.readline()
                try:
                    process.wait(instant)
                except subprocess.TimeoutExpired:
                    process.kill()
                    self.kills += 1
                    said += process.stdout.read()
                    self.figures["before the engine was open"] += "ready" not in said
                    return None
            return process.stdout.read().rstrip().rpartition("\n")[2]

    def _recorded(self, journal: Path, names: dict[str, str]) -> set[str]:
        """The names of the steps whose outcomes are in the journal's file, which has to be sound."""
        if not journal.exists():
            return set()
        self.figures["in the middle of a transaction"] += torn(Path(f"{journal}-wal"))
        with closing(sqlite3.connect(journal)) as connection:
            if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                self.problems.append("the journal is not sound")
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return set()
            kept = {
                names.get(run_id, "")
                for (run_id,) in connection.execute("SELECT run_id FROM result WHERE key LIKE 'step:%'")
            }
            rows = list(connection.execute("SELECT name, state_type, state_name FROM task_runs"))
        ended = {name for name, kind, _ in rows if kind in ("COMPLETED", "FAILED")}
        self.figures["between a result and its run's row"] += bool(kept - ended - {""})
        self.figures["in the wait for a retry"] += any(state == "AwaitingRetry" for *_, state in rows)
        return kept - {""}

    def _check_starts(self, lines: list[list[str]], before: int, recorded: set[str]) -> None:
        """Nothing that was recorded when the process began, or that a body was given, begins again."""
        delivered = {line[1] for line in lines[:before] if line[0] == "given"}
        begun = {line[1] for line in lines[:before] if line[0] == "start"}
        for kind, name, *_ in lines[before:]:
            if kind == "given":
                delivered.add(name)
            elif name in recorded | delivered:
                self.problems.append(
                    f"{name} began again, though it was {'given' if name in delivered else 'recorded'}"
                )
            elif name in begun:
                self.figures["steps that were broken off, and began again"] += 1
                begun.remove(name)

    def _check_rows(self, journal: Path, begun: set[str]) -> None:
        """One row for each step, in the state that it ended in."""
        with closing(sqlite3.connect(journal)) as connection:
            rows = list(connection.execute("SELECT name, state_type FROM task_runs"))
            flows = list(connection.execute("SELECT flow, state_type, count(*) FROM flow_runs GROUP BY 1, 2"))
        if len(begun) != STEPS or sorted(name for name, _ in rows) != sorted(begun):
            self.problems.append(f"{len(rows)} rows for {len(begun)} steps")
        wrong = {name: kind for name, kind in rows if kind != ("FAILED" if "hopeless" in name else "COMPLETED")}
        if wrong or flows != [("part", "COMPLETED", 2), ("work", "COMPLETED", 1)]:
            self.problems.append(f"the journal says {wrong} in {flows}")


def read(ledger: Path) -> list[list[str]]:
    """The lines of the ledger: what happened, to which step, in which run."""
    return [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []


def torn(wal: Path) -> bool:
    """Whether a write-ahead log ends with pages of a transaction that was not committed any more."""
    data = wal.read_bytes() if wal.exists() else b""
    if len(data) < 32:
        return False
    size, salts, last = struct.unpack(">I", data[8:12])[0], data[16:24], True
    for offset in range(32, len(data) - 23, 24 + size):
        if data[offset + 8 : offset + 16] == salts:
            last = data[offset + 4 : offset + 8] != b"\0\0\0\0"
    return not last


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many times to kill in all")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--seed", type=int, default=20260101)
    parser.add_argument("--life", help=argparse.SUPPRESS)
    parser.add_argument("--recover", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.life:
        anyio.run(life, options.life, options.recover, backend=options.backend)
        return 0
    killer, start = Killer(options.seed, options.backend), time.monotonic()
    while killer.kills < options.kills and not killer.problems:
        with tempfile.TemporaryDirectory() as folder:
            killer.bring_to_its_end(Path(folder), options.kills)
    seconds = round(time.monotonic() - start)
    print(json.dumps({"backend": options.backend, "seconds": seconds, "kills": killer.kills, **killer.figures}))
    print("".join(f"{problem}\n" for problem in killer.problems), end="", file=sys.stderr)
    return bool(killer.problems)


if __name__ == "__main__":
    sys.exit(main())
