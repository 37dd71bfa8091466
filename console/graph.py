"""The recorded graph of a run: what ran inside what, and whose result went to whom, with big maps drawn together.

Values in, values out: a family of runs becomes boxes, nested as the runs were, and arrows between them. The same
family always gives the same graph. How it is drawn is not known here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import count
from typing import Any

import attrs

from .records import RunRecord, StateCount, as_document
from .tree import Drawn, Node, Shape, fitting

MOST_BOXES = 120

SHAPES = [
    Shape(together_from=6, deepest=8, failures_apart=False),
    Shape(together_from=3, deepest=6, failures_apart=False),
    Shape(together_from=2, deepest=4, failures_apart=False),
    Shape(together_from=2, deepest=2, widest=40, failures_apart=False),
    Shape(together_from=2, deepest=1, widest=80, failures_apart=False),
]
"""From much detail to little; the first that gives few enough boxes is taken."""


@attrs.frozen(eq=False)
class Box:
    """One box of the graph: a run, or many runs of one function; with the boxes inside it."""

    key: str
    """Its name within the graph: `n0`, `n1`, …"""
    node: Node
    inside: tuple[Box, ...] = ()

    @property
    def runs(self) -> tuple[RunRecord, ...]:
        return self.node.runs

    @property
    def kind(self) -> str:
        return self.runs[0].kind

    @property
    def is_many(self) -> bool:
        return self.node.drawn is not Drawn.RUN

    @cached_property
    def by_state(self) -> list[StateCount]:
        """How many of its runs are in which state, trouble first."""
        return self.node.by_state

    @property
    def worst(self) -> str:
        """The type of state that matters most among its runs."""
        return self.by_state[0].type


@attrs.frozen
class Arrow:
    """Results went from the runs of one box to those of another: so many times."""

    source: str
    target: str
    count: int


@attrs.frozen(eq=False)
class Graph:
    """The boxes of a run, all inside its own, and the arrows between them."""

    root: Box
    arrows: tuple[Arrow, ...]

    def boxes(self) -> Iterator[Box]:
        """Every box, an outer one before those inside it."""
        waiting = [self.root]
        while waiting:
            box = waiting.pop()
            yield box
            waiting += reversed(box.inside)


def graph_of(family: Sequence[RunRecord], most: int = MOST_BOXES) -> Graph:
    """The graph of a run, which comes first, and of all that ran inside it."""
    names = (f"n{number}" for number in count())
    root = _box(fitting(family, SHAPES, most), names)
    around: dict[str, tuple[str, ...]] = {}
    home: dict[str, str] = {}
    for box in Graph(root, ()).boxes():
        around |= {child.key: (*around.get(box.key, ()), box.key) for child in box.inside}
        home |= {run.id: box.key for run in box.runs}
    pairs = Counter((home[up], home[run.id]) for run in family for up in run.upstreams if up in home)
    arrows = (
        Arrow(source, target, number)
        for (source, target), number in pairs.items()
        # Where many are drawn together, one of them may have waited for what ran inside another.
        if source != target and source not in around.get(target, ()) and target not in around.get(source, ())
    )
    return Graph(root, tuple(arrows))


def _box(node: Node, names: Iterator[str]) -> Box:
    return Box(next(names), node, tuple(_box(child, names) for child in node.children))


ONE_FUNCTION = (Drawn.RUN, Drawn.TOGETHER)


def as_graph_document(graph: Graph) -> dict[str, Any]:
    """The graph for a program to read: nodes, each naming the one it is inside of, and edges."""
    parents = {child.key: box.key for box in graph.boxes() for child in box.inside}
    return {
        "nodes": [
            {
                "key": box.key,
                "inside": parents.get(box.key),
                "function": box.runs[0].function if box.node.drawn in ONE_FUNCTION else None,
                "kind": box.kind,
                "runs": len(box.runs),
                "states": {count.name: count.number for count in box.by_state},
                "run": None if box.is_many else as_document(box.runs[0]),
            }
            for box in graph.boxes()
        ],
        "edges": [attrs.asdict(arrow) for arrow in graph.arrows],
    }
