"""Processes that run a durable flow and plain ones, killed with SIGKILL again and again, and what they leave checked.

    python -m tests.kills --kills 1000 --backend trio --durability power

Some are killed from outside, at seeded random instants. The others die by themselves in a window that `killed.py` makes:
while tables are made, while the dead are buried, inside a commit or a checkpoint, and so on; a window that was never hit
fails the run, for what was not hit was not tested. After each kill a copy of the journal has to be sound, and is compared
with the ledger that the processes wrote; the next process goes on with what is there.

There is one version of the schema so far, so there is no migration to be killed in.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import closing
from pathlib import Path

from tests.killed import RESULT, STEPS, Life
from undertow.storage.checkpoints import WAL_BYTES

WINDOWS = {
    "schema": 390,
    "registration": 10,
    "burial": 200,
    "resume": 400,
    "group": 2000,
    "result": 120,
    "acknowledgement": 120,
}
"""The windows of `killed.py`, and among how many of their first moments the one to die at is chosen."""

TORN, CHECKPOINT, OUTSIDE = "torn commit", "checkpoint", "outside"

SMALLEST_LIMIT = 60_000
"""Bytes that every file may have in a process whose files are limited: SQLite's shared memory has 32 768."""

SMALL_LOG = 16_000
"""Bytes of the write-ahead log from which on a process that is to die in a checkpoint makes one."""

DEADLINE = 30.0
"""Seconds after which a process that neither ends nor dies is killed, and a problem."""


class Killer:
    """Kills processes, and keeps count of what that hit."""

    def __init__(self, seed: int, backend: str, durability: str) -> None:
        self.dice = random.Random(seed)
        self.backend = backend
        self.durability = durability
        self.hits = Counter(dict.fromkeys((*WINDOWS, TORN, CHECKPOINT, OUTSIDE), 0))
        self.figures: Counter[str] = Counter()
        self.problems: list[str] = []

    def bring_to_its_end(self, folder: Path, most: int) -> None:
        """Have one run go on until it is over, killing its processes, and look at everything after each of them."""
        journal, ledger = folder / "app.db", folder / "ledger"
        recorded: set[str] = set()
        lines: list[list[str]] = []
        result = None
        while result is None and not self.problems:
            result = self._one_life(journal, ledger, kill=self.hits.total() < most)
            before, lines = len(lines), read(ledger)
            self._check_starts(lines, before, recorded)
            try:
                with closing(copy_of(journal, folder / "copy.db")) as copy:
                    recorded |= self._check_journal(copy, lines)
            except sqlite3.DatabaseError as error:
                self.problems.append(f"the journal is not sound: {error}")
        if result is not None:
            self.figures["flows"] += 1
            if result != f"result {RESULT}":
                self.problems.append(f"the result was {result!r}, not {RESULT}")
            self._check_end(journal, lines)

    # --- killing -----------------------------------------------------------------------------------------------------

    def _one_life(self, journal: Path, ledger: Path, kill: bool) -> str | None:
        """Have a process live, and die if it is to; what it printed as its result, if it came to that."""
        self.figures["lives"] += 1
        how = self._choose(journal) if kill else ""
        life = self._life(journal, ledger, how)
        struck = sum(line[0] == "struck" for line in read(ledger))
        said, status = lived(life, self.dice.expovariate(8) if how == OUTSIDE else DEADLINE)
        if status == 0:
            return said.rstrip().rpartition("\n")[2]
        died_of = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        if died_of == signal.SIGXFSZ:
            how = TORN if size(f"{journal}-wal") == life.file_size else CHECKPOINT
        elif died_of != signal.SIGKILL or (
            how != OUTSIDE and sum(line[0] == "struck" for line in read(ledger)) == struck
        ):
            self.problems.append(f"a process that was to die of {how or 'nothing'} ended with status {status}")
            return None
        self.hits[how] += 1
        self.figures["before the engine was open"] += "ready" not in said
        return None

    def _choose(self, journal: Path) -> str:
        """How the next process is to die: of what was hit least, and can be hit now."""
        is_new = size(journal) == 0
        possible = [
            how
            for how in self.hits
            if (not is_new if how in ("burial", "resume", CHECKPOINT) else is_new or how != "schema")
        ]
        return min(possible, key=lambda how: (self.hits[how], self.dice.random()))

    def _life(self, journal: Path, ledger: Path, how: str) -> Life:
        moment = file_size = 0
        if how == TORN:
            file_size = max(SMALLEST_LIMIT, size(f"{journal}-wal"), size(journal)) + self.dice.randrange(1, 100_000)
        elif how == CHECKPOINT:
            with closing(sqlite3.connect(journal)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            file_size = self.dice.randrange(SMALLEST_LIMIT, max(SMALLEST_LIMIT, size(journal)) + 20_000)
        elif how in WINDOWS:
            moment = self.dice.randrange(WINDOWS[how])
        return Life(
            journal=journal,
            ledger=ledger,
            backend=self.backend,
            durability=self.durability,
            recover=self.dice.random() < 0.5,
            window=how if how in WINDOWS else "",
            moment=moment,
            file_size=file_size,
            log_bytes=SMALL_LOG if how == CHECKPOINT else WAL_BYTES,
        )

    # --- checking ----------------------------------------------------------------------------------------------------

    def _check_starts(self, lines: list[list[str]], before: int, recorded: set[str]) -> None:
        """Nothing that was recorded when the process began, or that a body was given, begins again."""
        delivered = {line[1] for line in lines[:before] if line[0] == "given"}
        begun = {line[1] for line in lines[:before] if line[0] == "start"}
        for kind, name, *_ in lines[before:]:
            if kind == "given":
                delivered.add(name)
            elif kind == "start" and name in recorded | delivered:
                self.problems.append(
                    f"{name} began again, though it was {'given' if name in delivered else 'recorded'}"
                )
            elif kind == "start" and name in begun:
                self.figures["steps that were broken off, and began again"] += 1
                begun.remove(name)

    def _check_journal(self, copy: sqlite3.Connection, lines: list[list[str]]) -> set[str]:
        """The names of the steps whose outcomes are recorded; what was acknowledged has to be there, and all be sound."""
        if copy.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            self.problems.append("the journal is not sound")
        if not copy.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return set()
        names = {line[2]: line[1] for line in lines if line[0] == "start"}
        kept = {
            names.get(run_id, "") for (run_id,) in copy.execute("SELECT run_id FROM result WHERE key LIKE 'step:%'")
        }
        for name in {line[1] for line in lines if line[0] == "given"} - kept:
            self.problems.append(f"{name} was given to a body and is not recorded")
        self._check_plain(copy, {line[1]: int(line[2]) for line in lines if line[0] == "acknowledged"})
        twice = "SELECT run_id FROM states WHERE type = 'COMPLETED' GROUP BY run_id HAVING count(*) > 1"
        again = (
            f"SELECT name FROM task_runs WHERE state_type = 'COMPLETED' AND {OF_WORK} GROUP BY name HAVING count(*) > 1"
        )
        for (which,) in [*copy.execute(twice), *copy.execute(again)]:
            self.problems.append(f"{which} completed twice")
        rows = list(copy.execute(f"SELECT name, state_type, state_name FROM task_runs WHERE {OF_WORK}"))
        ended = {name for name, kind, _ in rows if kind in ("COMPLETED", "FAILED")}
        for name in {name for name, kind, _ in rows if kind == "COMPLETED"} - kept:
            self.problems.append(f"{name} is Completed and has no result")
        self.figures["between a result and its run's row"] += bool(kept - ended - {""})
        self.figures["in the wait for a retry"] += any(state == "AwaitingRetry" for *_, state in rows)
        return kept - {""}

    def _check_plain(self, copy: sqlite3.Connection, acknowledged: dict[str, int]) -> None:
        """Every plain run whose call returned is Completed, with all that was in it."""
        completed = {run_id: parent for run_id, parent, kind in copy.execute(RUNS) if kind == "COMPLETED"}
        families: Counter[str] = Counter()
        for run_id in completed:
            outermost = run_id
            while (parent := completed.get(outermost)) is not None:
                outermost = parent
            families[outermost] += outermost != run_id
        for run_id, inside in acknowledged.items():
            if run_id not in completed:
                self.problems.append(f"{run_id} was acknowledged and is not Completed")
            elif families[run_id] != inside:
                self.problems.append(f"{families[run_id]} of {inside} runs are inside {run_id}, which was acknowledged")

    def _check_end(self, journal: Path, lines: list[list[str]]) -> None:
        """One row for each step, in the state that it ended in, and nothing left open by those that were killed."""
        begun = {line[1] for line in lines if line[0] == "start"}
        with closing(sqlite3.connect(journal)) as connection:
            rows = list(connection.execute(f"SELECT name, state_type FROM task_runs WHERE {OF_WORK}"))
            flows = list(
                connection.execute(f"SELECT flow, state_type, count(*) FROM flow_runs WHERE {OF_WORK} GROUP BY 1, 2")
            )
            kinds = {kind for _, _, kind in connection.execute(RUNS)}
        self.figures["plain flows acknowledged"] += sum(line[0] == "acknowledged" for line in lines)
        if len(begun) != STEPS or sorted(name for name, _ in rows) != sorted(begun):
            self.problems.append(f"{len(rows)} rows for {len(begun)} steps")
        wrong = {name: kind for name, kind in rows if kind != ("FAILED" if "hopeless" in name else "COMPLETED")}
        if wrong or flows != [("part", "COMPLETED", 2), ("work", "COMPLETED", 1)]:
            self.problems.append(f"the journal says {wrong} in {flows}")
        if not kinds <= {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}:
            self.problems.append(f"when all is over there are runs that are {kinds}")


OF_WORK = "id IN (SELECT id FROM run WHERE step LIKE 'work/%')"
RUNS = (
    "SELECT id, parent_run_id, state_type FROM flow_runs UNION ALL SELECT id, parent_run_id, state_type FROM task_runs"
)


def lived(life: Life, seconds: float) -> tuple[str, int]:
    """Fork a process that lives so, and kill it after so long; what it said, and how it ended.

    A fork begins in a millisecond, so most of the time goes to what is to be interrupted.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(writer, 1)
        try:
            life.live()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writer)
    said = b""
    deadline = time.monotonic() + seconds
    with open(reader, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(deadline - time.monotonic(), 0))[0] and (more := pipe.read(4096)):
            said += more
        os.kill(child, signal.SIGKILL)  # one that has ended is a zombie until it is waited for, and feels nothing
        said += pipe.read() or b""
    return said.decode(), os.waitpid(child, 0)[1]


def copy_of(journal: Path, copy: Path) -> sqlite3.Connection:
    """A connection to a copy of the journal as a killed process left it: the journal is for the next one to bring in order."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{copy}{suffix}").unlink(missing_ok=True)
        if suffix != "-shm" and Path(f"{journal}{suffix}").exists():
            shutil.copyfile(f"{journal}{suffix}", f"{copy}{suffix}")
    return sqlite3.connect(copy)


def read(ledger: Path) -> list[list[str]]:
    """The lines of the ledger: what happened, to which step, in which run."""
    return [line.split() for line in ledger.read_text().splitlines()] if ledger.exists() else []


def size(path: str | Path) -> int:
    """The bytes of a file; none if it is not there."""
    return Path(path).stat().st_size if Path(path).exists() else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many times to kill in all")
    parser.add_argument("--backend", choices=["asyncio", "trio"], default="asyncio")
    parser.add_argument("--durability", choices=["process", "power", "none"], default="process")
    parser.add_argument("--seed", type=int, default=20260101)
    options = parser.parse_args()
    os.environ["UNDERTOW_LOGGING_CONSOLE"] = "off"
    killer, start = Killer(options.seed, options.backend, options.durability), time.monotonic()
    while killer.hits.total() < options.kills and not killer.problems:
        with tempfile.TemporaryDirectory() as folder:
            killer.bring_to_its_end(Path(folder), options.kills)
    killer.problems += [f"no process died of {how}" for how, hits in killer.hits.items() if not hits]
    seconds = round(time.monotonic() - start, 1)
    told = {"backend": options.backend, "durability": options.durability, "seed": options.seed, "seconds": seconds}
    print(json.dumps(told | {"kills": killer.hits.total(), "hits": killer.hits, **killer.figures}))
    print("".join(f"{problem}\n" for problem in killer.problems), end="", file=sys.stderr)
    return bool(killer.problems)


if __name__ == "__main__":
    sys.exit(main())
