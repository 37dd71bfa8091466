"""The tree of a run: flow, subflows, tasks, with many runs of one function drawn together as one node.

Values in, values out: records of runs become nodes, and failures are grouped by where they were raised. Every run is
counted in the tree, and every failed one is seen as such. No journal, and nothing about how it looks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

import attrs

from .queries import RunRecord

TOGETHER_FROM = 6
"""So many runs of one function, in one parent, are drawn as one node."""

FAILURES_SHOWN = 5
"""So many failed runs of a node are drawn each for itself."""

DEEPEST = 12
"""What lies deeper than this is drawn as one node."""

Children = Mapping[str | None, Sequence[RunRecord]]


class Drawn(Enum):
    """What a node stands for."""

    RUN = "one run"
    TOGETHER = "many runs of one function"
    MORE_FAILURES = "the failed runs of the node above it that have no node of their own"
    DEEPER = "runs of any function that lie too deep to be drawn"


@attrs.frozen
class Node:
    """One line of the tree: a run or several, and the lines below it."""

    runs: tuple[RunRecord, ...]
    children: tuple[Node, ...] = ()
    drawn: Drawn = Drawn.RUN

    @property
    def by_state(self) -> dict[str, int]:
        """How many are in which state, by its name."""
        return dict(Counter(run.state.name for run in self.runs))

    @property
    def retries(self) -> int:
        """Attempts after the first of each."""
        return sum(max(run.attempts - 1, 0) for run in self.runs)

    @property
    def started(self) -> int | None:
        return min((run.started for run in self.runs if run.started is not None), default=None)

    def ended(self, now: int) -> int:
        """When the last of them ended; `now` while one has not."""
        return max(now if run.ended is None else run.ended for run in self.runs)


@attrs.frozen
class Failure:
    """Runs that failed in the same way: the first of them, and how many."""

    run: RunRecord
    count: int
    error: str


def build(runs: Sequence[RunRecord], expand: bool = False) -> Node:
    """The tree of a family: a run first, then all that ran inside it. With `expand` nothing is drawn together."""
    children: dict[str | None, list[RunRecord]] = defaultdict(list)
    for run in runs[1:]:
        children[run.parent_id].append(run)
    return _Builder(children, expand).single(runs[0], 0)


class _Builder:
    def __init__(self, children: Children, expand: bool) -> None:
        self._children = children
        self._expand = expand

    def single(self, run: RunRecord, depth: int) -> Node:
        return Node((run,), self._below((run,), depth))

    def _below(self, parents: Iterable[RunRecord], depth: int) -> tuple[Node, ...]:
        """The nodes of all children of these runs; those of several parents are always drawn together."""
        parents = tuple(parents)
        inside = [child for parent in parents for child in self._children.get(parent.id, ())]
        if not inside:
            return ()
        if depth >= DEEPEST:
            return (Node(self._all_below(parents), drawn=Drawn.DEEPER),)
        nodes: list[Node] = []
        for bucket in _buckets(inside):
            if self._expand or (len(bucket) < TOGETHER_FROM and len(parents) == 1):
                nodes += [self.single(run, depth + 1) for run in bucket]
            else:
                nodes.append(self._bundle(bucket, depth + 1))
        return tuple(sorted(nodes, key=lambda node: node.runs[0].id))

    def _bundle(self, runs: Sequence[RunRecord], depth: int) -> Node:
        """One node of many runs, with the first failed ones below it, then what ran inside the others."""
        failed = [run for run in runs if run.failed]
        shown, hidden = failed[:FAILURES_SHOWN], failed[FAILURES_SHOWN:]
        below = [self.single(run, depth + 1) for run in shown]
        if hidden:
            below.append(Node(tuple(hidden), drawn=Drawn.MORE_FAILURES))
        drawn = {run.id for run in shown}
        below += self._below((run for run in runs if run.id not in drawn), depth)
        return Node(tuple(runs), tuple(below), Drawn.TOGETHER)

    def _all_below(self, parents: Iterable[RunRecord]) -> tuple[RunRecord, ...]:
        found: list[RunRecord] = []
        waiting = list(parents)
        while waiting:
            inside = self._children.get(waiting.pop().id, ())
            found += inside
            waiting += inside
        return tuple(sorted(found, key=lambda run: run.id))


def _buckets(runs: Iterable[RunRecord]) -> list[list[RunRecord]]:
    """Runs of one function together; each `map` for itself, known by its index beginning again at 0."""
    buckets: dict[tuple[str, str, int], list[RunRecord]] = {}
    maps: Counter[tuple[str | None, str]] = Counter()
    for run in runs:
        call = (run.parent_id, run.function)
        if run.map_index == 0:
            maps[call] += 1
        which = maps[call] if run.map_index is not None else 0
        buckets.setdefault((run.kind, run.function, which), []).append(run)
    return list(buckets.values())


# --- failures --------------------------------------------------------------------------------------------------


def failures(runs: Sequence[RunRecord]) -> list[Failure]:
    """The errors of a family, each once: where it was raised, not again in every run that it passed through."""
    by_id = {run.id: run for run in runs}
    passed_on: set[str] = set()
    for run in runs:
        parent = by_id.get(run.parent_id or "")
        while run.failed and run.error and parent is not None and _same(run.error, parent.error):
            passed_on.add(parent.id)
            parent = by_id.get(parent.parent_id or "")
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for run in runs:
        if run.failed and run.error and run.id not in passed_on:
            groups.setdefault((run.function, _place(run.error)), []).append(run)
    return [Failure(same[0], len(same), same[0].error or "") for same in groups.values()]


def _same(error: str, other: str | None) -> bool:
    return other is not None and _message(error) == _message(other)


def _message(error: str) -> str:
    return error.rstrip().rpartition("\n")[2]


def _place(error: str) -> str:
    """What is the same in all errors raised in one place: the traceback, without what the exception says."""
    frames = [line for line in error.splitlines() if ' File "' in line]
    return "\n".join([*frames, _message(error).partition(":")[0]])
