"""What is measured: the workloads, with the numbers of tasks they are done with.

How a workload is done with some engine is said in `programs/`, in a method of the workload's name.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

TASK = "µs a task"
GROWN = "MB grown"


@attrs.frozen
class Scale:
    """How much of it all: `tiny` to see that it works, `quick` for a look, `full` for the record."""

    name: str
    rounds: int
    """How often each figure is measured."""
    seconds: float
    """How long work goes on that is measured over a time."""
    limit: float
    """Seconds after which a measurement is given up."""
    variants: bool
    """Whether all variants are measured, or only the main ones."""

    def rounds_of(self, n: int) -> int:
        """Big work is done less often: it needs no repetition to be steady."""
        return self.rounds if n < 100_000 else max(1, self.rounds // 3) if n < 1_000_000 else 1


SCALES = {
    scale.name: scale
    for scale in (
        Scale("tiny", 1, 0.5, 60, variants=True),
        Scale("quick", 3, 2, 120, variants=False),
        Scale("full", 7, 5, 300, variants=True),
    )
}


@attrs.frozen
class Workload:
    """One kind of work."""

    name: str
    title: str
    tiny: tuple[int, ...]
    quick: tuple[int, ...]
    full: tuple[int, ...]
    units: tuple[str, ...] = (TASK,)
    counted: str = "tasks"
    """What `n` is the number of."""
    only: tuple[str, ...] = ()
    """The engines that are asked, if not all."""

    def sizes(self, scale: str) -> tuple[int, ...]:
        sizes: Mapping[str, tuple[int, ...]] = {"tiny": self.tiny, "quick": self.quick, "full": self.full}
        return sizes[scale]


GROWING = (1_000, 10_000, 100_000)
THOUSAND = (1_000,)
OURS = ("undertow/asyncio/process", "undertow/trio/process")

WORKLOADS = {
    work.name: work
    for work in (
        Workload("sequence", "awaited one after the other", (10, 20), GROWING, GROWING),
        Workload("fan_out", "submitted all at once, then awaited", (10, 20), GROWING, GROWING),
        Workload("stream", "pulled through a stream, 1 kB results", (20,), (100_000,), (1_000_000,), (TASK, GROWN)),
        Workload("chain", "each with the result of the one before", (20,), THOUSAND, THOUSAND),
        Workload("diamond", "one, then all of these, then one over all", (20,), THOUSAND, THOUSAND),
        Workload("nested", "flows of one task, called in a flow", (3,), (100,), (100,), counted="flows"),
        Workload("sleeping", "asleep for 0.1 s, all at once; beyond the sleep", (20,), THOUSAND, THOUSAND),
        Workload("sleeping_limited", "the same, 100 at a time; beyond the sleep", (20,), THOUSAND, THOUSAND),
        Workload("retries", "one in ten fails once and is retried", (20,), THOUSAND, THOUSAND),
        Workload("threads", "sync tasks, in threads", (20,), THOUSAND, THOUSAND),
        Workload("sync_call", "sync tasks called in a sync flow", (20,), THOUSAND, THOUSAND),
        Workload("large", "100 kB results, each consumed and dropped", (20,), (2_000,), (2_000,), (TASK, GROWN)),
        Workload("durable_sequence", "steps of a durable flow, in sequence", (20,), THOUSAND, THOUSAND),
        Workload("durable_fan_out", "steps of a durable flow, all at once", (20,), THOUSAND, THOUSAND),
        Workload("resume", "steps of a durable run found done when it is resumed", (50,), (10_000,), (100_000,)),
        Workload("watched", "awaited one after the other under `progress()`", (20,), (10_000,), (10_000,), only=OURS),
        Workload("journal_bytes", "bytes that a task leaves on disk", (50,), (10_000,), (10_000,), ("bytes a task",)),
        Workload(
            "web",
            "a web handler that awaits a flow of 3 tasks",
            (4,),
            (16,),
            (16,),
            ("requests/s", "ms p50", "ms p99"),
            "clients",
        ),
        Workload("loop_lag", "lag of the event loop", (100,), (10_000,), (10_000,), ("ms p99",), "tasks/s"),
        Workload("cold_start", "a script with a flow of one task", (1,), (1,), (1,), ("ms",), "script"),
        Workload("import", "importing what a program needs", (1,), (1,), (1,), ("ms",), "import"),
        Workload(
            "import_bare", "`import undertow` alone", (1,), (1,), (1,), ("ms",), "import", ("undertow/asyncio/process",)
        ),
    )
}
