"""What waits to be written: fed from any loop or thread, emptied by the journal's service thread.

A run stands here at most once, however often its story changed; its row is made when it is written. So the backlog is
bounded by the number of runs, and the last word always gets to disk. Log records are bounded too, and counted when
there were too many of them.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

from ..engine.ports import Record
from ..engine.run import Run
from ..engine.waking import Reply, Waker

MAX_RUNS = 10_000
"""Runs beyond which new ones wait."""

MAX_BYTES = 16 * 1024 * 1024
"""Bytes of results beyond which new runs wait."""

MAX_LOGS = 10_000
"""Log records beyond which further ones are dropped."""


class LogLine(NamedTuple):
    """A log record of a run; `at` in microseconds."""

    run_id: str
    at: int
    level: str
    logger: str
    message: str


class Backlog:
    """Runs, results and log records to be written, and who waits for that."""

    def __init__(self) -> None:
        self.runs: deque[Run] = deque()
        self.results: dict[str, Record | None] = {}
        """By key; `None` where what is on disk is to be deleted."""
        self.logs: deque[LogLine] = deque()
        self.dropped_logs = 0
        """How many log records were dropped since the journal was opened."""
        self.asked: deque[Reply[None]] = deque()
        """Those who wait for the commit of what was said before they asked."""
        self.crowded = False
        self._bytes = 0
        self._gates: dict[int, Waker] = {}

    def __bool__(self) -> bool:
        return bool(self.runs or self.results or self.logs)

    def add(self, run: Run) -> None:
        """Add a run that is not here yet."""
        self.runs.append(run)
        if len(self.runs) > MAX_RUNS:
            self.crowded = True

    def keep(self, key: str, record: Record | None) -> None:
        """Put what is to be kept under a key in the place of what waited under it."""
        self._count(self.results.get(key), -1)
        self._count(record, 1)
        self.results[key] = record
        if self._bytes > MAX_BYTES:
            self.crowded = True

    def kept(self, key: str, record: Record | None) -> None:
        """This was written; what came under the same key meanwhile still waits."""
        if self.results.get(key, self) is record:
            del self.results[key]
            self._count(record, -1)

    def _count(self, record: Record | None, sign: int) -> None:
        if record is not None and record.value is not None:
            self._bytes += sign * len(record.value)

    def log(self, line: LogLine) -> None:
        """Add a log record, or count it as dropped."""
        if len(self.logs) < MAX_LOGS:
            self.logs.append(line)
        else:
            self.dropped_logs += 1

    def ask(self) -> tuple[Reply[None], bool]:
        """A reply for when all that is here by now is written, and whether it is the first one asked for."""
        try:
            return self.asked[-1], False  # of those who ask before the next group is taken, all wait for that
        except IndexError:
            reply: Reply[None] = Reply()
            self.asked.append(reply)
            return reply, True

    def take_runs(self, most: int) -> list[Run]:
        """The runs that have waited longest, which are no longer waiting then."""
        return [self.runs.popleft() for _ in range(min(most, len(self.runs)))]

    def take_logs(self, most: int) -> list[LogLine]:
        """The oldest log records, which are no longer waiting then."""
        return [self.logs.popleft() for _ in range(min(most, len(self.logs)))]

    def put_back(self, runs: list[Run]) -> None:
        """These could not be written; those that changed meanwhile are here again already."""
        # Not told by their flags: a group may fail before its rows are made, with every flag still set.
        here = set(self.runs)
        for run in runs:
            if run not in here:
                run.recorded = True
                self.runs.append(run)

    # --- backpressure ----------------------------------------------------------------------------------------------

    def look(self) -> None:
        """See whether it is crowded, and let those in who waited for room."""
        self.crowded = len(self.runs) > MAX_RUNS or self._bytes > MAX_BYTES
        while self._gates and not self.crowded:
            self._gates.popitem()[1].wake()

    async def room(self) -> None:
        """Return when it is no longer crowded, however long that takes."""
        while self.crowded:
            # One gate for all who wait in one loop: thousands of members may.
            gate = self._gates.setdefault(threading.get_ident(), Waker())
            if self.crowded:
                await gate.opened()
