"""A journal that only counts what it is told of: what is left of a task's cost is the pipeline's own."""

from __future__ import annotations

from undertow.engine.run import Run
from undertow.storage import SQLiteJournal


class CountingJournal(SQLiteJournal):
    """Never has anything to write."""

    def __init__(self) -> None:
        super().__init__(":memory:")
        self.recorded = 0

    def record(self, run: Run) -> None:
        self.recorded += 1
