"""Whether a task costs more in a big flow: its cost with 100 000 in one flow, over that with 1 000.

Submitted all at once, plain anyio itself grows (live tasks, and the garbage collector that goes through them), so
there our growth is divided by its growth.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from .method import Round, Sample, Work, Workload, seconds
from .sequence import in_sequence
from .submitted import gathered, members

SMALL, BIG, QUICK = 1_000, 100_000, 20_000
SMALL_TIMES = 9


def _costs(turn: Round, work: Work, journal: Path | None) -> tuple[float, float]:
    """Microseconds a task in a small flow (the median of several) and in a big one."""
    big = QUICK if turn.quick else BIG
    small = [seconds(turn.backend, work, SMALL, journal) for _ in range(SMALL_TIMES)]
    return statistics.median(small) / SMALL * 1e6, seconds(turn.backend, work, big, journal) / big * 1e6


def _in_sequence(turn: Round) -> Sample:
    small, big = _costs(turn, in_sequence, turn.journal("growth"))
    return Sample(big, small)


def _all_at_once(turn: Round) -> Sample:
    growth = {}
    for is_ours in (turn.ours_first, not turn.ours_first):
        small, big = _costs(turn, gathered if is_ours else members, turn.journal("crowd") if is_ours else None)
        growth[is_ours] = big / small
    return Sample(growth[True], growth[False])


WORKLOADS = (
    Workload("growth 1 000 to 100 000, in sequence", "with 1 000", "µs a task", 1.1, _in_sequence),
    Workload("growth 1 000 to 100 000, all at once", "task group's", "times", 1.1, _all_at_once),
)
