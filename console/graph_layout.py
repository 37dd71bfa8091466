"""Where the boxes of a graph stand and how its arrows run: in layers, what came later below what came before.

A box stands below those whose results it was given, and below those that had ended when it was made; what could run at
the same time stands side by side. Boxes inside a box are laid out first, and it is made as big as they need. The same
graph always gives the same drawing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import attrs

from .graph import Arrow, Box, Graph
from .graph_text import caption, title
from .looks import text_width

TITLE_SIZE = 13.0
CAPTION_SIZE = 11.0
BOX_HEIGHT = 46.0
HEADER = 34.0
PADDING = 16.0
SIDE_GAP = 22.0
PASSAGE_GAP = 6.0
LAYER_GAP = 18.0
ARROW_GAP = 42.0
WIDEST = 1000.0
"""A layer wider than this is broken into several."""

SWEEPS = 8


@attrs.frozen
class Place:
    """A box and where it stands."""

    box: Box
    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


@attrs.frozen
class Route:
    """An arrow and the points that it goes through."""

    arrow: Arrow
    points: tuple[tuple[float, float], ...]


@attrs.frozen
class Drawing:
    """All boxes, an outer one before those inside it, and all arrows."""

    width: float
    height: float
    places: tuple[Place, ...]
    routes: tuple[Route, ...]


def lay_out(graph: Graph) -> Drawing:
    """The drawing of a graph."""
    parents = {child.key: box.key for box in graph.boxes() for child in box.inside}
    frame = _Frame(graph.root, _lifted(graph.arrows, parents))
    places: dict[str, Place] = {}
    channels: dict[Arrow, list[tuple[float, float]]] = {}
    frame.settle(0.0, 0.0, places, channels)
    routes = [Route(arrow, _points(arrow, places, channels.get(arrow, []))) for arrow in graph.arrows]
    return Drawing(frame.width, frame.height, tuple(places.values()), tuple(_spread(routes, places)))


Link = tuple[str, str]


def _lifted(arrows: Iterable[Arrow], parents: dict[str, str]) -> dict[Link, list[Arrow]]:
    """The arrows by the two neighbours, inside one box, whose layers they concern: themselves, or what is around."""
    found: dict[Link, list[Arrow]] = defaultdict(list)
    for arrow in arrows:
        sources, targets = _line(arrow.source, parents), _line(arrow.target, parents)
        apart = next(level for level, pair in enumerate(zip(sources, targets, strict=False)) if pair[0] != pair[1])
        found[sources[apart], targets[apart]].append(arrow)
    return found


def _line(key: str, parents: dict[str, str]) -> list[str]:
    """From the outermost box down to this one."""
    line = [key]
    while line[-1] in parents:
        line.append(parents[line[-1]])
    return line[::-1]


def _points(
    arrow: Arrow, places: dict[str, Place], channel: list[tuple[float, float]]
) -> tuple[tuple[float, float], ...]:
    source, target = places[arrow.source], places[arrow.target]
    return ((source.middle, source.y + source.height), *channel, (target.middle, target.y))


def _spread(routes: Sequence[Route], places: dict[str, Place]) -> list[Route]:
    """The routes, with the ends that meet at one side of a box set apart, in the order in which they arrive."""
    shift: dict[tuple[Arrow, int], float] = {}
    for end, beyond, name in ((0, 1, "source"), (-1, -2, "target")):
        meeting: dict[str, list[Route]] = defaultdict(list)
        for route in routes:
            meeting[getattr(route.arrow, name)].append(route)
        for key, group in meeting.items():
            step = min(14.0, places[key].width * 0.6 / len(group))
            group.sort(key=lambda route: route.points[beyond][0])
            for number, route in enumerate(group):
                shift[route.arrow, end] = (number - (len(group) - 1) / 2) * step
    return [
        attrs.evolve(
            route,
            points=(
                (route.points[0][0] + shift[route.arrow, 0], route.points[0][1]),
                *route.points[1:-1],
                (route.points[-1][0] + shift[route.arrow, -1], route.points[-1][1]),
            ),
        )
        for route in routes
    ]


# --- one box and what is inside it -----------------------------------------------------------------------------


@attrs.define(eq=False)
class _Item:
    """What stands in a layer: a box, or the place where an arrow passes through."""

    width: float
    height: float
    frame: _Frame | None = None
    x: float = 0.0
    above: list[_Item] = attrs.field(factory=list)
    below: list[_Item] = attrs.field(factory=list)

    @property
    def middle(self) -> float:
        return self.x + self.width / 2


class _Frame:
    """A box with what is inside it in layers; everything is measured from its own corner."""

    def __init__(self, box: Box, links: dict[Link, list[Arrow]]) -> None:
        self.box = box
        self._passages: list[tuple[list[Arrow], list[_Item]]] = []
        self._layers: list[list[_Item]] = []
        self._tops: list[float] = []
        if not box.inside:
            self.width = (
                max(text_width(title(box), TITLE_SIZE, bold=True), text_width(caption(box), CAPTION_SIZE), 60.0) + 28.0
            )
            self.height = BOX_HEIGHT
            return
        children = [_Frame(child, links) for child in box.inside]
        own = {
            (i, j): links[first.box.key, second.box.key]
            for i, first in enumerate(children)
            for j, second in enumerate(children)
            if (first.box.key, second.box.key) in links
        }
        self._fill(children, own)
        for sweep in range(SWEEPS):
            self._sort(upwards=sweep % 2 == 1)
        self._set_columns()
        self._measure()

    def _fill(self, children: Sequence[_Frame], own: dict[tuple[int, int], list[Arrow]]) -> None:
        """Put the children into layers, and into the layers between the ends of a long arrow a passage for it."""
        ranks = _broken(_ranks([child.box for child in children], own), [child.width for child in children])
        items = [_Item(child.width, child.height, child) for child in children]
        self._layers = [[] for _ in range(max(ranks) + 1)]
        for item, rank in zip(items, ranks, strict=True):
            self._layers[rank].append(item)
        for (i, j), arrows in own.items():
            passages = [_Item(10.0, 0.0) for _ in range(ranks[i] + 1, ranks[j])]
            for rank, passage in enumerate(passages, ranks[i] + 1):
                self._layers[rank].append(passage)
            if ranks[i] < ranks[j]:
                for upper, lower in pairwise([items[i], *passages, items[j]]):
                    upper.below.append(lower)
                    lower.above.append(upper)
            self._passages.append((arrows, passages))

    def _sort(self, upwards: bool) -> None:
        """Order each layer by where the neighbours in the layer before stand: fewer arrows cross."""
        for layer in reversed(self._layers) if upwards else self._layers:
            for number, item in enumerate(layer):
                item.x = float(number)
        for layer in reversed(self._layers) if upwards else self._layers:
            wanted = {
                id(item): _mean([each.x for each in (item.below if upwards else item.above)], item.x) for item in layer
            }
            layer.sort(key=lambda item: wanted[id(item)])
            for number, item in enumerate(layer):
                item.x = float(number)

    def _set_columns(self) -> None:
        """Give each item its place from left to right, near the middle of its neighbours."""
        for layer in self._layers:
            _pack(layer, [0.0] * len(layer))
            half = (layer[-1].x + layer[-1].width - layer[0].x) / 2
            _pack(layer, [item.x - layer[0].x - half for item in layer])
        for sweep in range(SWEEPS):
            for layer in self._layers if sweep % 2 == 0 else reversed(self._layers):
                wanted = [_mean([each.middle for each in (*item.above, *item.below)], item.middle) for item in layer]
                _pack(layer, [middle - item.width / 2 for middle, item in zip(wanted, layer, strict=True)])

    def _measure(self) -> None:
        left = min(item.x for layer in self._layers for item in layer)
        for layer in self._layers:
            for item in layer:
                item.x += PADDING - left
        y = HEADER + 4.0
        for layer in self._layers:
            if self._tops:
                y += ARROW_GAP if any(item.above for item in layer) else LAYER_GAP
            self._tops.append(y)
            y += max(item.height for item in layer)
        right = max(item.x + item.width for layer in self._layers for item in layer)
        header = text_width(title(self.box), TITLE_SIZE, bold=True) + text_width(caption(self.box), CAPTION_SIZE) + 54.0
        self.width = max(right + PADDING, header)
        if header > right + PADDING:
            for layer in self._layers:
                for item in layer:
                    item.x += (header - right - PADDING) / 2
        self.height = y + PADDING

    def settle(
        self, x: float, y: float, places: dict[str, Place], channels: dict[Arrow, list[tuple[float, float]]]
    ) -> None:
        """Say where everything stands, this box being at `x` and `y`."""
        places[self.box.key] = Place(self.box, x, y, self.width, self.height)
        heights = [max(item.height for item in layer) for layer in self._layers]
        tops = {id(item): index for index, layer in enumerate(self._layers) for item in layer}
        for layer, top in zip(self._layers, self._tops, strict=True):
            for item in layer:
                if item.frame is not None:
                    item.frame.settle(x + item.x, y + top, places, channels)
        for arrows, passages in self._passages:
            points = [
                (x + passage.middle, y + self._tops[index] + down)
                for passage in passages
                for index in (tops[id(passage)],)
                for down in (0.0, heights[index])
            ]
            channels |= dict.fromkeys(arrows, points)


def _ranks(boxes: Sequence[Box], own: Iterable[tuple[int, int]]) -> list[int]:
    """The layer of each box; the boxes are in the order in which they were made."""
    given = set(own)
    ends = [_end(box) for box in boxes]
    ranks: list[int] = []
    for j, box in enumerate(boxes):
        made = box.node.made
        before = (ranks[i] + 1 for i in range(j) if (i, j) in given or ends[i] <= made)
        ranks.append(max(before, default=0))
    return ranks


def _end(box: Box) -> float:
    return max(math.inf if run.ended is None else run.ended for run in box.runs)


def _broken(ranks: Sequence[int], widths: Sequence[float]) -> list[int]:
    """The ranks with those that are too wide for one layer spread over several."""
    broken = [0] * len(ranks)
    layer = -1
    for rank in range(max(ranks) + 1):
        layer += 1
        room = WIDEST
        for index in (index for index, own in enumerate(ranks) if own == rank):
            if widths[index] > room and room < WIDEST:
                layer += 1
                room = WIDEST
            room -= widths[index] + SIDE_GAP
            broken[index] = layer
    return broken


def _pack(layer: Sequence[_Item], wanted: Sequence[float]) -> None:
    """Put the items where they want to be, as near as their order and the gaps between them allow."""
    before: _Item | None = None
    for item, x in zip(layer, wanted, strict=True):
        item.x = x if before is None else max(x, before.x + before.width + _gap(before, item))
        before = item
    off = _mean([item.x - x for item, x in zip(layer, wanted, strict=True)], 0.0)
    for item in layer:
        item.x -= off


def _gap(left: _Item, right: _Item) -> float:
    """Arrows that pass side by side may do so closely."""
    return PASSAGE_GAP if left.frame is None and right.frame is None else SIDE_GAP


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default
