"""The tree of a run: flow, subflows, tasks, with many runs of one function drawn together as one node.

Values in, values out: records of runs become nodes, and failures are grouped by where they were raised. Every run is
counted in the tree, and every failed one is seen as such. No journal, and nothing about how it looks.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum

import attrs

from .records import RunRecord, StateCount, by_state

TOGETHER_FROM = 6
"""So many runs of one function, or so many maps of it, in one parent, are drawn as one node."""

FAILURES_SHOWN = 5
"""So many failed runs of a node are drawn each for itself."""

DEEPEST = 12
"""What lies deeper than this is drawn as one node."""

WIDEST = 1000
"""Of what stands side by side, so many are drawn; the rest is one node."""

Children = Mapping[str | None, Sequence[RunRecord]]


class Drawn(Enum):
    """What a node stands for."""

    RUN = "one run"
    TOGETHER = "many runs of one function"
    MORE_FAILURES = "the failed runs of the node above it that have no node of their own"
    DEEPER = "runs of any function that lie too deep to be drawn"
    REST = "runs of any function for which there was no room beside the others"


@attrs.frozen(eq=False)
class Node:
    """One node of the tree: a run or several, and the nodes below it."""

    runs: tuple[RunRecord, ...]
    children: tuple[Node, ...] = ()
    drawn: Drawn = Drawn.RUN

    @property
    def by_state(self) -> list[StateCount]:
        """How many are in which state."""
        return by_state(self.runs)

    @property
    def retries(self) -> int:
        """Attempts after the first of each."""
        return sum(max(run.attempts - 1, 0) for run in self.runs)

    @property
    def made(self) -> int:
        return min(run.made for run in self.runs)

    @property
    def started(self) -> int | None:
        return min((run.started for run in self.runs if run.started is not None), default=None)

    def ended(self, now: int) -> int:
        """When the last of them ended; `now` while one has not."""
        return max(now if run.ended is None else run.ended for run in self.runs)


@attrs.frozen
class Shape:
    """How much of a tree is drawn together."""

    together_from: int = TOGETHER_FROM
    deepest: int = DEEPEST
    widest: int = WIDEST
    failures_apart: bool = True
    """Whether the first failed runs of a node of many are nodes of their own, below it."""


EVERYTHING = Shape(together_from=sys.maxsize, widest=sys.maxsize)


@attrs.frozen
class Failure:
    """Runs that failed in the same way: the first of them, and how many."""

    run: RunRecord
    count: int
    error: str


def build(runs: Sequence[RunRecord], shape: Shape = Shape()) -> Node:
    """The tree of a family: a run first, then all that ran inside it."""
    children: dict[str | None, list[RunRecord]] = defaultdict(list)
    for run in runs[1:]:
        children[run.parent_id].append(run)
    return _Builder(children, shape).single(runs[0], 0)


def walk(node: Node, depth: int = 0) -> Iterator[tuple[Node, int]]:
    """A node and all below it, each with its depth."""
    yield node, depth
    for child in node.children:
        yield from walk(child, depth + 1)


def fitting(runs: Sequence[RunRecord], shapes: Iterable[Shape], most: int) -> Node:
    """The tree in the first of these shapes that has no more nodes than that, else in the last."""
    root: Node | None = None
    for shape in shapes:
        root = build(runs, shape)
        if sum(1 for _ in walk(root)) <= most:
            break
    assert root is not None
    return root


class _Builder:
    def __init__(self, children: Children, shape: Shape) -> None:
        self._children = children
        self._shape = shape

    def single(self, run: RunRecord, depth: int) -> Node:
        return Node((run,), self._below((run,), depth))

    def _below(self, parents: Iterable[RunRecord], depth: int) -> tuple[Node, ...]:
        """The nodes of all children of these runs; those of several parents are always drawn together."""
        parents = tuple(parents)
        inside = [child for parent in parents for child in self._children.get(parent.id, ())]
        if not inside:
            return ()
        if depth >= self._shape.deepest:
            return (Node(self._all_below(parents), drawn=Drawn.DEEPER),)
        nodes: list[Node] = []
        for bucket in _buckets(inside, self._shape.together_from):
            if len(bucket) < self._shape.together_from and len(parents) == 1:
                nodes += [self.single(run, depth + 1) for run in bucket]
            else:
                nodes.append(self._bundle(bucket, depth + 1))
        nodes.sort(key=lambda node: node.runs[0].id)
        if len(nodes) > self._shape.widest:
            rest = [run for node in nodes[self._shape.widest - 1 :] for run in node.runs]
            nodes[self._shape.widest - 1 :] = [Node((*rest, *self._all_below(rest)), drawn=Drawn.REST)]
        return tuple(nodes)

    def _bundle(self, runs: Sequence[RunRecord], depth: int) -> Node:
        """One node of many runs, with the first failed ones below it, then what ran inside the others."""
        failed = [run for run in runs if run.failed and self._shape.failures_apart]
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


def _buckets(runs: Iterable[RunRecord], together_from: int) -> list[list[RunRecord]]:
    """Runs of one function together; each `map`, known by its index beginning at 0, for itself if they are few."""
    buckets: dict[tuple[str, str], dict[int, list[RunRecord]]] = defaultdict(dict)
    maps: Counter[tuple[str | None, str]] = Counter()
    for run in runs:
        call = (run.parent_id, run.function)
        if run.map_index == 0:
            maps[call] += 1
        which = maps[call] if run.map_index is not None else 0
        buckets[run.kind, run.function].setdefault(which, []).append(run)
    found: list[list[RunRecord]] = []
    for groups in buckets.values():
        many = len(groups) >= together_from
        found += [[run for group in groups.values() for run in group]] if many else groups.values()
    return found


# --- failures --------------------------------------------------------------------------------------------------


def failures(runs: Sequence[RunRecord]) -> list[Failure]:
    """The errors of a family, each once: where it was raised, not again in every run that it passed through."""
    by_id = {run.id: run for run in runs}
    passed_on: set[str] = set()
    for run in runs:
        parent = by_id.get(run.parent_id or "")
        while run.failed and parent is not None and parent.id not in passed_on and same_error(run, parent):
            passed_on.add(parent.id)
            parent = by_id.get(parent.parent_id or "")
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for run in runs:
        if run.failed and run.error and run.id not in passed_on:
            groups.setdefault((run.function, _place(run.error)), []).append(run)
    return [Failure(same[0], len(same), same[0].error or "") for same in groups.values()]


def same_error(run: RunRecord, other: RunRecord) -> bool:
    """Whether the two ended with an error that says the same: it passed from one through the other."""
    return run.error is not None and other.error is not None and exception_in(run.error) == exception_in(other.error)


def exception_in(error: str) -> str:
    """The line of a traceback that says what was raised; below it there may be notes."""
    lines = error.rstrip().split("\n")
    header = max((number for number, line in enumerate(lines) if line.startswith("Traceback ")), default=-1)
    return next((line for line in lines[header + 1 :] if not line.startswith("  ")), lines[-1])


def _place(error: str) -> str:
    """What is the same in all errors raised in one place: the traceback, without what the exception says."""
    frames = [line for line in error.splitlines() if ' File "' in line]
    return "\n".join([*frames, exception_in(error).partition(":")[0]])
