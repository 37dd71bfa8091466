"""A graph as SVG: drawn by ourselves, in plain shapes and text, with nothing that a viewer would have to fetch or run.

It stands for itself as a file, in which case it brings its colours along, or inside the report page, which has them.
"""

from __future__ import annotations

from itertools import pairwise

from .graph import Box, Graph
from .graph_layout import CAPTION_SIZE, HEADER, TITLE_SIZE, Drawing, Place, Route, lay_out
from .graph_text import caption, title
from .looks import SVG_STYLE, state_class, text_width
from .markup import Element, as_svg, element

MARGIN = 6.0
_STACK = 4.0
_BAR = 4.0
_LOOP = 40.0


def svg(graph: Graph) -> str:
    """The graph as an SVG document."""
    drawing = picture(graph)
    drawing.insert(0, element("style", SVG_STYLE))
    return as_svg(drawing)


def picture(graph: Graph) -> Element:
    """The graph as an `svg` element, to stand in a page that has `SVG_STYLE`."""
    drawing = lay_out(graph)
    return element(
        "svg",
        element("title", f"Graph of {title(graph.root)}"),
        element("defs", _arrowhead()),
        *(_frame(place) for place in drawing.places if place.box.inside),
        *(_arrow(route) for route in drawing.routes),
        *(_leaf(place) for place in drawing.places if not place.box.inside),
        *(_count(route) for route in drawing.routes if route.arrow.count > 1),
        **_canvas(drawing),
    )


def _canvas(drawing: Drawing) -> dict[str, str | float]:
    width, height = drawing.width + 2 * MARGIN + _STACK, drawing.height + 2 * MARGIN + _STACK
    return {
        "class_": "graph",
        "role": "img",
        "width": round(width),
        "height": round(height),
        "viewBox": f"{-MARGIN:g} {-MARGIN:g} {width:.0f} {height:.0f}",
    }


def _arrowhead() -> Element:
    shape = element("path", d="M0 0L7 3.5L0 7z", class_="head")
    return element("marker", shape, id="head", refX=6, refY=3.5, markerWidth=7, markerHeight=7, orient="auto")


# --- boxes -----------------------------------------------------------------------------------------------------


def _frame(place: Place) -> Element:
    """A box with others inside it: its name stands in a line at its top."""
    box = place.box
    return element(
        "g",
        *_sheets(place, "frame"),
        element("circle", cx=place.x + 17, cy=place.y + HEADER / 2 + 1, r=4, class_=f"dot {state_class(box.worst)}"),
        element("text", title(box), x=place.x + 28, y=place.y + HEADER / 2 + 5, class_="name"),
        element(
            "text",
            caption(box),
            x=place.x + 28 + text_width(title(box), TITLE_SIZE, bold=True) + 10,
            y=place.y + HEADER / 2 + 5,
            class_="caption",
        ),
        _told(box),
    )


def _leaf(place: Place) -> Element:
    box = place.box
    return element(
        "g",
        *_sheets(place, f"box {'flow' if box.kind == 'flow' else 'task'}"),
        *_states(place),
        element("text", title(box), x=place.x + 14, y=place.y + 19, class_="name"),
        element("text", caption(box), x=place.x + 14, y=place.y + 34.5, class_="caption"),
        _told(box),
    )


def _sheets(place: Place, look: str) -> list[Element]:
    """The outline; of many runs there seem to lie several on top of each other."""
    shifts = (_STACK, _STACK / 2, 0.0) if place.box.is_many else (0.0,)
    return [
        element(
            "rect",
            x=place.x + shift,
            y=place.y + shift,
            width=place.width,
            height=place.height,
            rx=7,
            class_=f"{look} {state_class(place.box.worst)}",
        )
        for shift in shifts
    ]


def _states(place: Place) -> list[Element]:
    """A bar at the foot of a box, divided as its runs are among the states."""
    parts: list[Element] = []
    room = place.width - 14
    x = place.x + 7
    for kind, _, runs in place.box.by_state:
        width = room * runs / len(place.box.runs)
        parts.append(
            element(
                "rect",
                x=x,
                y=place.y + place.height - _BAR - 2,
                width=max(width, 2.0),
                height=_BAR - 1,
                rx=1.5,
                class_=f"fill {state_class(kind)}",
            )
        )
        x += width
    return parts


def _told(box: Box) -> Element:
    """What a pointer that rests on the box is told."""
    lines = [title(box), caption(box)]
    if not box.is_many:
        run = box.runs[0]
        lines += [f"{run.kind} {run.function}", run.id, *([run.said] if run.said else [])]
    return element("title", "\n".join(line[:300] for line in lines))


# --- arrows ----------------------------------------------------------------------------------------------------


def _arrow(route: Route) -> Element:
    (x, y), *_ = route.points
    path = [f"M{x:.1f} {y:.1f}"]
    for (x0, y0), (x1, y1) in pairwise(route.points):
        bend = (y1 - y0) / 2 if y1 > y0 else _LOOP
        path.append(f"C{x0:.1f} {y0 + bend:.1f} {x1:.1f} {y1 - bend:.1f} {x1:.1f} {y1:.1f}")
    return element("path", d="".join(path), class_="arrow", marker_end="url(#head)")


def _count(route: Route) -> Element:
    """How many results went along an arrow: a plate on its last bend."""
    (x0, y0), (x1, y1) = route.points[-2:]
    bend = (y1 - y0) / 2 if y1 > y0 else _LOOP
    x, y = _on_curve((x0, x0, x1, x1)), _on_curve((y0, y0 + bend, y1 - bend, y1))
    text = f"{route.arrow.count:,}"
    width = text_width(text, CAPTION_SIZE) + 10
    return element(
        "g",
        element("rect", x=x - width / 2, y=y - 8, width=width, height=16, rx=8, class_="plate"),
        element("text", text, x=x, y=y + 4, class_="count", text_anchor="middle"),
    )


def _on_curve(points: tuple[float, float, float, float], at: float = 0.58) -> float:
    """One coordinate of a place on a cubic curve."""
    a, b, c, d = points
    left = 1 - at
    return left**3 * a + 3 * left**2 * at * b + 3 * left * at**2 * c + at**3 * d
