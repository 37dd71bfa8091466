"""Charts as SVG, on logarithmic scales: lines over the number of tasks, and a row of dots for each engine.

Just what the report needs. The colours tell the groups apart; each line and row is labelled where it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import attrs

WIDTH, ROW, MARGIN, LABELS = 860, 22, 56, 210
COLOURS = {"undertow": "#0b6e99", "raw": "#767676", "peer": "#c4562b"}
FONT = "font-family='system-ui, sans-serif' font-size='12'"


@attrs.frozen
class Series:
    """What is drawn in one colour under one label: points of (x, median, low, high)."""

    label: str
    group: str
    points: Sequence[tuple[float, float, float, float]]


@attrs.frozen
class _Scale:
    """A logarithmic scale: values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        part = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def powers(self) -> list[float]:
        return [10.0**power for power in range(math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9) + 1)]


def _scale(values: Sequence[float], start: float, end: float, margin: float = 0.1) -> _Scale:
    logs = [math.log10(value) for value in values]
    return _Scale(min(logs) - margin, max(logs) + margin, start, end)


def number(value: float) -> str:
    """A number as the axes and the tables write it: three digits, thousands apart."""
    if value >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}".replace(",", " ")
    return f"{value:.3g}"


def lines(title: str, x_title: str, y_title: str, series: Sequence[Series]) -> str:
    """Lines over the number of tasks, each with its label at its right end."""
    top, bottom, height = 46, 430, 480
    points = [point for each in series for point in each.points]
    xs = _scale([x for x, *_ in points], MARGIN + 20, WIDTH - LABELS)
    ys = _scale([value for _, *rest in points for value in rest], bottom, top)
    drawn = [_axis_x(xs, x_title, top, bottom), _axis_y(ys, y_title, xs.start, xs.end)]
    ends = _apart({each.label: ys.at(each.points[-1][1]) for each in series}, 14)
    for each in series:
        colour = COLOURS[each.group]
        path = " ".join(f"{xs.at(x):.1f},{ys.at(y):.1f}" for x, y, _, _ in each.points)
        drawn.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='1.6'/>")
        for x, y, low, high in each.points:
            drawn.append(_dot(xs.at(x), ys.at(y), colour))
            drawn.append(_line(xs.at(x), ys.at(low), xs.at(x), ys.at(high), colour))
        right, level = xs.at(each.points[-1][0]), ys.at(each.points[-1][1])
        label_x, label_y = xs.end + 22, ends[each.label]
        drawn.append(_line(right + 5, level, label_x - 4, label_y, colour, "0.5"))
        drawn.append(_text(label_x, label_y + 4, each.label, colour))
    return _svg(title, height, drawn)


def dots(title: str, x_title: str, series: Sequence[Series], groups: Mapping[str, str]) -> str:
    """A row for each series: a dot at the median, a bar over the spread. Only the points' values count."""
    top = 62
    bottom = top + ROW * len(series)
    xs = _scale([value for each in series for _, *rest in each.points for value in rest], LABELS, WIDTH - MARGIN)
    drawn = [_axis_x(xs, x_title, top, bottom)]
    for i, (group, told) in enumerate(groups.items()):
        drawn.append(_dot(LABELS + 150 * i, 40, COLOURS[group]) + _text(LABELS + 10 + 150 * i, 44, told))
    for row, each in enumerate(series):
        y = top + ROW * (row + 0.5)
        drawn.append(_text(LABELS - 10, y + 4, each.label, anchor="end"))
        drawn.append(_line(LABELS, y, WIDTH - MARGIN, y, "#eeeeee"))
        for _, median, low, high in each.points:
            drawn.append(_line(xs.at(low), y, xs.at(high), y, COLOURS[each.group], "3"))
            drawn.append(_dot(xs.at(median), y, COLOURS[each.group]))
            drawn.append(_text(xs.at(median) + 8, y + 4, number(median), COLOURS[each.group]))
    return _svg(title, bottom + 50, drawn)


def _apart(wanted: Mapping[str, float], least: float) -> dict[str, float]:
    """Places for labels, near where they are wanted and at least so far from each other."""
    placed: dict[str, float] = {}
    last = -math.inf
    for label, y in sorted(wanted.items(), key=lambda item: item[1]):
        placed[label] = last = max(y, last + least)
    return placed


def _axis_x(scale: _Scale, title: str, top: float, bottom: float) -> str:
    drawn = [_line(scale.start, bottom, scale.end, bottom, "#555555")]
    for power in scale.powers():
        x = scale.at(power)
        drawn.append(_line(x, top, x, bottom + 4, "#dddddd"))
        drawn.append(_text(x, bottom + 18, number(power), anchor="middle"))
    drawn.append(_text((scale.start + scale.end) / 2, bottom + 38, title, anchor="middle"))
    return "\n".join(drawn)


def _axis_y(scale: _Scale, title: str, left: float, right: float) -> str:
    drawn = [_line(left, scale.start, left, scale.end, "#555555")]
    for power in scale.powers():
        y = scale.at(power)
        drawn.append(_line(left - 4, y, right, y, "#dddddd"))
        drawn.append(_text(left - 8, y + 4, number(power), anchor="end"))
    drawn.append(_text(left - 40, scale.end - 8, title))
    return "\n".join(drawn)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: str = "1") -> str:
    return (
        f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{colour}' stroke-width='{width}' "
        "stroke-linecap='round'/>"
    )


def _dot(x: float, y: float, colour: str) -> str:
    return f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{colour}'/>"


def _text(x: float, y: float, text: str, colour: str = "#333333", anchor: str = "start") -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' {FONT} fill='{colour}' text-anchor='{anchor}'>{escape(text)}</text>"


def _svg(title: str, height: float, drawn: Sequence[str]) -> str:
    head = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0f}' role='img'>"
    name = f"<title>{escape(title)}</title><rect width='100%' height='100%' fill='#ffffff'/>"
    heading = f"<text x='16' y='24' {FONT} font-weight='600' fill='#111111'>{escape(title)}</text>"
    return "\n".join((head, name, heading, *drawn, "</svg>\n"))
