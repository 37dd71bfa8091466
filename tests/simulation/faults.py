"""What goes wrong in a simulated world, and how often: every decision comes from the world's seed, and every hit is counted.

A world draws which kinds of fault it has, and how frequent each is, so that some worlds are all calm and others suffer
from a single thing. Nothing here knows what a fault does; who owns the place where it strikes asks whether it does.
"""

from __future__ import annotations

from collections import Counter
from random import Random

_RATES = (0.02, 0.1, 0.3)
KINDS = dict.fromkeys(
    (
        "commit delayed",
        "commit stalled",
        "commit split",
        "commit failed",
        "answer late",
        "record big",
        "crowded",
        "wake late",
        "wake doubled",
        "timer late",
    ),
    _RATES,
) | {"record big": (0.5, 1.0)}
"""Faults that strike by chance, wherever one is asked for, and how often they may."""

ENDS = ("crash", "close", "cancel")
"""Faults that a world has at one chosen moment: its process dies, its engine closes early, a client gives up."""


class Faults:
    """The faults of one world."""

    def __init__(self, seed: int) -> None:
        self.random = Random(f"faults {seed}")
        self.fired: Counter[str] = Counter()
        self.rates = {kind: self.random.choice(rates) for kind, rates in KINDS.items() if self.random.random() < 0.3}
        self.healed = False
        """Set for the last life of a world, which has to come to its end."""

    def strikes(self, kind: str) -> bool:
        """Whether this kind of fault happens here and now."""
        rate = self.rates.get(kind)
        if rate is None or self.healed or self.random.random() >= rate:
            return False
        self.fired[kind] += 1
        return True

    def seconds(self, most: float) -> float:
        """Some time, mostly short."""
        return most * self.random.random() ** 3

    def is_punctual(self) -> bool:
        """Whether nothing comes late in this world, or in this life of it."""
        return self.healed or not any("late" in kind or "commit" in kind for kind in self.rates)
