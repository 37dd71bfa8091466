"""When what ran, as SVG: a line for each run, and for many runs of one function a lane that shows how many ran at once.

As many runs as fit have a line of their own; the more there are, the more are drawn together. Every failed run leaves
a mark, however many there are.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import attrs

from .looks import fit, state_class
from .markup import Element, element, number
from .records import RunRecord, in_words
from .tree import Drawn, Node, Shape, fitting, walk
from .wording import counted, duration

MOST_LINES = 90

SHAPES = [
    *(Shape(together_from=many, widest=MOST_LINES) for many in (sys.maxsize, 40, 20, 12, 6, 3)),
    *(Shape(together_from=2, deepest=deepest, widest=MOST_LINES) for deepest in (12, 5, 3, 2)),
    Shape(together_from=2, deepest=1, widest=MOST_LINES // 2, failures_apart=False),
]
"""From much detail to little; the first that gives few enough lines is taken."""

WIDTH, LEFT, RIGHT = 1040.0, 270.0, 120.0
PLOT = WIDTH - LEFT - RIGHT
TOP = 26.0
LINE, LANE = 22.0, 34.0
BINS = 320
INDENT = 14.0
TICKS = 7

_STEPS = [
    *(base * 10**power for power in range(7) for base in (1, 2, 5)),
    *(
        seconds * 1_000_000
        for seconds in (10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 10_800, 21_600, 43_200)
    ),
    *(days * 86_400_000_000 for days in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)),
]
"""How far apart the marks on the axis may be, in microseconds."""


@attrs.frozen
class _Scale:
    """From moments to places."""

    start: int
    end: int

    def x(self, at: int) -> float:
        return LEFT + PLOT * (at - self.start) / max(self.end - self.start, 1)


def timeline(family: Sequence[RunRecord], now: int) -> Element:
    """The `svg` element for a run, which comes first, and all that ran inside it."""
    root = fitting(family, SHAPES, MOST_LINES)
    lines = list(walk(root))
    scale = _Scale(min(run.made for run in family), max(_last(run, now) for run in family))
    height = TOP + sum(_height(node) for node, _ in lines) + 6
    y = TOP
    rows: list[Element] = []
    for node, depth in lines:
        rows.append(_row(node, depth, y, scale, now))
        y += _height(node)
    return element(
        "svg",
        element("title", "Timeline"),
        *_axis(scale, height),
        *rows,
        class_="timeline",
        role="img",
        viewBox=f"0 0 {WIDTH:g} {height:g}",
        width=WIDTH,
        height=height,
    )


def _last(run: RunRecord, now: int) -> int:
    return now if run.ended is None else max(run.ended, run.states[-1].at)


def _height(node: Node) -> float:
    return LINE if node.drawn is Drawn.RUN else LANE


def _axis(scale: _Scale, height: float) -> Iterator[Element]:
    span = max(scale.end - scale.start, 1)
    step = next((step for step in _STEPS if span / step <= TICKS), span)
    for at in range(scale.start, scale.end + 1, step):
        x = scale.x(at)
        label = "0" if at == scale.start else _offset(at - scale.start)
        yield element("line", x1=x, x2=x, y1=TOP - 4, y2=height, class_="rule")
        yield element("text", label, x=x, y=TOP - 10, class_="axis", text_anchor="middle")


def _offset(at: int) -> str:
    """A moment on the axis; the marks are at round times."""
    if at >= 60_000_000:
        return re.sub(" 00 (s|min|h)$", "", duration(at))
    return f"{at / 1_000_000:g} s" if at >= 1_000_000 else f"{at / 1000:g} ms"


# --- one line --------------------------------------------------------------------------------------------------


def _row(node: Node, depth: int, y: float, scale: _Scale, now: int) -> Element:
    first, height = node.runs[0], _height(node)
    one = node.drawn is Drawn.RUN
    indent = INDENT * depth
    look = "label flow" if one and (first.kind == "flow" or node.children) else "label"
    said = _time(node, now)
    return element(
        "g",
        element("rect", x=0, y=y, width=WIDTH, height=height, class_="stripe"),
        element("circle", cx=indent + 6, cy=y + height / 2, r=3.5, class_=f"dot {state_class(node.by_state[0].type)}"),
        element("text", fit(_label(node), LEFT - indent - 26, 12), x=indent + 16, y=y + height / 2 + 4, class_=look),
        *(_bars(first, bool(node.children), y, scale, now) if one else _lane(node, y, scale, now)),
        element("text", said, x=WIDTH - 8, y=y + height / 2 + 4, class_="took", text_anchor="end") if said else None,
        element("title", _told(node, now)),
        class_="row",
    )


def _label(node: Node) -> str:
    first = node.runs[0]
    if node.drawn is Drawn.DEEPER:
        return f"{counted(len(node.runs), 'run')} deeper"
    if node.drawn is Drawn.REST:
        return counted(len(node.runs), "more run")
    if node.drawn is Drawn.MORE_FAILURES:
        return f"{len(node.runs):,} more failed"
    if node.drawn is Drawn.TOGETHER:
        return f"{first.function} ×{len(node.runs):,}"
    return first.name if first.map_index is None else f"{first.name} [{first.map_index}]"


def _time(node: Node, now: int) -> str:
    said = "" if node.started is None else duration(node.ended(now) - node.started)
    if node.retries and node.drawn is Drawn.RUN:
        return f"{said} · {counted(node.runs[0].attempts, 'attempt')}"
    return said


def _told(node: Node, now: int) -> str:
    """What a pointer that rests on the line is told."""
    first = node.runs[0]
    told = [_label(node), in_words(node.by_state), _time(node, now)]
    if node.drawn is not Drawn.RUN:
        told.append(counted(node.retries, "retry", "retries") if node.retries else "")
    else:
        told += [first.said[:300], first.id]
    return "\n".join(line for line in told if line)


# --- one run ---------------------------------------------------------------------------------------------------


def _bars(run: RunRecord, is_outer: bool, y: float, scale: _Scale, now: int) -> Iterator[Element]:
    """Bars for the attempts, thin lines for the waiting between them; thin bars for what has others inside."""
    thick, middle = (5.0 if is_outer else 12.0), y + LINE / 2
    spans = list(pairwise([*run.states, run.states[-1]._replace(at=_last(run, now))]))
    last = max((i for i, (change, _) in enumerate(spans) if change.type == "RUNNING"), default=None)
    for i, (change, following) in enumerate(spans):
        x, end = scale.x(change.at), scale.x(following.at)
        if change.type == "RUNNING":
            tells = i == last and (run.ended is not None or run.state.type == "RUNNING")
            look = f"fill {state_class(run.state.type)}" if tells else "again"
            gap = 1.0 if i != last and end - x > 3 else 0.0
            shape = {"width": max(end - x - gap, 1.6), "height": thick, "rx": 2}
            yield element("rect", x=x, y=middle - thick / 2, class_=look, **shape)
        elif change is not run.states[-1] or run.ended is None:
            if end - x >= 0.5 and change.type in ("SCHEDULED", "PENDING", "PAUSED", "CANCELLING"):
                yield element("line", x1=x, x2=end, y1=middle, y2=middle, class_=f"wait {state_class(change.type)}")
        elif last is None:
            yield element("circle", cx=x, cy=middle, r=3.2, class_=f"fill {state_class(change.type)}")


# --- many runs -------------------------------------------------------------------------------------------------


def _lane(node: Node, y: float, scale: _Scale, now: int) -> Iterator[Element]:
    """How many of the runs were at work at each time, and a mark at the foot for each moment in which one failed."""
    busy = _busy(node.runs, scale, now)
    top, foot = y + 4, y + LANE - 6
    most = max(busy, default=0.0)
    common = max(node.by_state, key=lambda count: count.number).type
    if most > 0:
        yield element("path", d=_outline(busy, most, top, foot), class_=f"area fill {state_class(common)}")
    failed = {(round(scale.x(run.ended)), run.state.type) for run in node.runs if run.failed and run.ended is not None}
    for x, kind in sorted(failed):
        yield element("rect", x=x - 0.8, y=foot + 0.5, width=1.6, height=4.5, class_=f"fill {state_class(kind)}")


def _busy(runs: Iterable[RunRecord], scale: _Scale, now: int) -> list[float]:
    """For each small part of the time, how many of the runs were at work in it on average."""
    size = max(scale.end - scale.start, 1) / BINS
    # Whole parts are added as a difference to the part before, so that a long attempt costs no more than a short one.
    steps, partial = [0.0] * (BINS + 1), [0.0] * (BINS + 1)
    for run in runs:
        ends = [*(change.at for change in run.states[1:]), _last(run, now)]
        for change, end in zip(run.states, ends, strict=True):
            if change.type == "RUNNING":
                a, b = (change.at - scale.start) / size, (end - scale.start) / size
                first, last = min(int(a), BINS - 1), min(int(b), BINS - 1)
                if first == last:
                    partial[first] += b - a
                else:
                    partial[first] += first + 1 - a
                    partial[last] += b - last
                    steps[first + 1] += 1
                    steps[last] -= 1
    busy, whole = [], 0.0
    for step, part in zip(steps[:BINS], partial, strict=False):
        whole += step
        busy.append(whole + part)
    return busy


def _outline(busy: Sequence[float], most: float, top: float, foot: float) -> str:
    """The area under the numbers, as a path of steps; equal neighbours are one step."""
    wide = PLOT / BINS
    path, level = [], 0.0
    for index, value in enumerate([*busy, 0.0]):
        height = 0.0 if value <= 0 else max((foot - top) * value / most, 0.8)
        if abs(height - level) >= 0.05:
            path.append(f"H{number(LEFT + index * wide)}V{number(foot - height)}")
            level = height
    return f"M{number(LEFT)} {number(foot)}{''.join(path)}V{number(foot)}z"
