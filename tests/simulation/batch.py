"""Many worlds, one after another, and what they found: what is wrong, and which faults really happened."""

from __future__ import annotations

import gc
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import inf

import attrs

from .faults import ENDS, KINDS
from .plans import Kind
from .world import play


@attrs.define
class Batch:
    """The findings of some worlds."""

    worlds: int = 0
    wrong: dict[int, list[str]] = attrs.field(factory=dict)
    """By seed."""
    fired: Counter[str] = attrs.field(factory=Counter)

    def idle(self) -> list[str]:
        """Kinds of faults that never happened: whatever should withstand them is unproven."""
        return [kind for kind in (*KINDS, *ENDS) if not self.fired[kind]]

    def report(self, backend: str, kind: Kind = "mixed") -> str:
        """What is wrong, with the commands that play it again."""
        return "\n".join(
            f"{replay_command(seed, backend, kind)}\n    {wrong[0].splitlines()[0]}"
            for seed, wrong in self.wrong.items()
        )


def replay_command(seed: int, backend: str, kind: Kind = "mixed") -> str:
    """The line that plays a seed again and prints its trace."""
    return f"python -m tests.simulation --seed {seed} --backend {backend} --plan {kind}"


def play_many(seeds: Iterable[int], backend: str, kind: Kind = "mixed", seconds: float = inf) -> Batch:
    """Play the worlds of some seeds, as many as that takes no longer than so many seconds."""
    batch = Batch()
    started = time.monotonic()
    with quietly():
        for seed in seeds:
            world = play(seed, backend, kind)
            batch.worlds += 1
            batch.fired += world.faults.fired
            if world.model.wrong:
                batch.wrong[seed] = world.model.wrong
            if batch.worlds % 100 == 0:
                gc.collect()
            if time.monotonic() - started > seconds:
                break
    return batch


@contextmanager
def quietly() -> Iterator[None]:
    """Without the log records of thousands of failures, and without the collector, whose moments no seed decides."""
    was = gc.isenabled()
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        logging.disable(before)
        if was:
            gc.enable()
