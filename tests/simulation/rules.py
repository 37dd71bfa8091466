"""The rule book as pure functions over words and numbers: which state may follow which, how often a body may be tried,
how a flow ends. Written from the rules alone; the engine's own tables and counters are not looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

Story = list[tuple[str, str, int]]
"""Types, names and times (microseconds) of the states that a run went through."""

WAITS = {"SCHEDULED", "PENDING"}
TERMINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED", "SKIPPED"})
BAD = frozenset({"FAILED", "CRASHED", "CANCELLED"})
"""Ends that speak against a flow, and from which a durable run may be resumed."""
LEGAL = {
    "SCHEDULED": WAITS | TERMINAL | {"RUNNING", "CANCELLING"},
    "PENDING": WAITS | TERMINAL | {"RUNNING", "CANCELLING"},
    "RUNNING": TERMINAL | {"RUNNING", "SCHEDULED", "PAUSED", "CANCELLING"},
    "PAUSED": TERMINAL | {"RUNNING", "SCHEDULED", "CANCELLING"},
    "CANCELLING": {"CANCELLED"},
}


def broken_by(before: tuple[str, str, int], after: tuple[str, str, int], durable: bool) -> str | None:
    """The rule that a transition breaks, if there is one."""
    source, target = before[0], after[0]
    if source in TERMINAL and not (durable and after[1] == "Resuming" and source in BAD):
        return "terminal is final"
    if source not in TERMINAL and target not in LEGAL[source]:
        return "legal transitions"
    return "time goes on" if after[2] <= before[2] else None


def attempts(story: Story) -> int:
    """Attempts that count against the retries: not those broken off from outside, nor those before a failure."""
    counted, before = 0, ""
    for kind, _, _ in story:
        if kind == "RUNNING":
            counted += 1
        elif kind == "FAILED":
            counted = 0
        elif before == "RUNNING" and kind in ("CRASHED", "CANCELLED"):
            counted -= 1
        before = kind
    return counted


def aggregate(kinds: Iterable[str], cancels: bool = False) -> str:
    """One type for several; `neutral` ones don't count, nor what a flow cancelled itself because something failed."""
    counts = Counter(kind for kind in kinds if kind != "neutral")
    if cancels and counts["FAILED"] + counts["CRASHED"]:
        del counts["CANCELLED"]
    if not counts.total() or counts["COMPLETED"] == counts.total():
        return "COMPLETED"
    return "CANCELLED" if counts["CANCELLED"] else "FAILED"


def verdict(rule: str, end: str, given: Iterable[str], children: Sequence[str], cancels: bool) -> set[str]:
    """The types in which a flow may end: by its `final_state`, how its body ended, what it returned, its children.

    Whether somebody was given the failures, which `unhandled` asks, is not followed here: either will do.
    """
    if end in ("raise", "fatal", "late"):
        return {"FAILED"}
    found = "COMPLETED"
    if end == "futures" or (end == "nested" and rule != "return"):
        found = aggregate(given)
    elif end == "none" and rule == "children":
        found = aggregate(children, cancels)
    if rule == "unhandled" and found == "COMPLETED" and BAD.intersection(children):
        return {"COMPLETED", "FAILED"}
    return {found}


def too_fast(times: Sequence[float], slots: float, per_second: float) -> bool:
    """Whether the last of these passed a rate limit too early: more than its burst and what drained away since."""
    now = times[-1]
    return any(number > slots + per_second * (now - at) + 1e-3 for number, at in enumerate(reversed(times), 1))
