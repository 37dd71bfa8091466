"""A graph as text for other programs to draw: a Mermaid flowchart, or a graph in Graphviz's DOT.

Texts of programs stand in labels only, and every character that means something there is written as an entity or an
escape, so that no name can become part of the drawing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .graph import Arrow, Box, Graph
from .records import TROUBLE_FIRST, in_words
from .tree import Drawn
from .wording import counted, cut, duration

LABEL_LENGTH = 60

FILLS = {
    "FAILED": "#f8d0d0",
    "CRASHED": "#efcbe3",
    "CANCELLED": "#f6e3b8",
    "CANCELLING": "#f6e3b8",
    "PAUSED": "#f6e3b8",
    "RUNNING": "#cfe3f8",
    "SCHEDULED": "#dcdcf7",
    "PENDING": "#e7e9ee",
    "COMPLETED": "#d3efdc",
    "SKIPPED": "#eef0f2",
}
_NO_FILL = "#ffffff"


def title(box: Box) -> str:
    """What a box is called, on one line of bounded length: the name of a run, or the function of many."""
    first, number = box.runs[0], len(box.runs)
    if box.node.drawn is Drawn.DEEPER:
        return f"{counted(number, 'run')} deeper"
    if box.node.drawn is Drawn.REST:
        return counted(number, "more run")
    if box.is_many:
        return f"{cut(first.function, LABEL_LENGTH)} ×{number:,}"
    name = cut(first.name, LABEL_LENGTH)
    return name if first.map_index is None else f"{name} [{first.map_index}]"


def caption(box: Box) -> str:
    """How its runs ended, or stand."""
    if not box.is_many:
        run = box.runs[0]
        lasted = run.lasted(run.ended) if run.ended is not None else None
        said = cut(run.state.name, LABEL_LENGTH)
        return said if lasted is None else f"{said}, {duration(lasted)}"
    return in_words(box.by_state)


# --- Mermaid ---------------------------------------------------------------------------------------------------


def mermaid(graph: Graph) -> str:
    """The graph as a Mermaid flowchart."""
    lines = ["flowchart TD", *_mermaid_box(graph.root, "    ")]
    for arrow in graph.arrows:
        label = f"|{arrow.count}|" if arrow.count > 1 else ""
        lines.append(f"    {arrow.source} -->{label} {arrow.target}")
    used = {box.worst for box in graph.boxes() if not box.inside}
    for kind in TROUBLE_FIRST:
        if kind in used:
            lines.append(f"    classDef {kind.lower()} fill:{FILLS[kind]},stroke:#8a8f98,color:#1c1f24")
    return "\n".join(lines) + "\n"


def _mermaid_box(box: Box, indent: str) -> Iterator[str]:
    between = " · " if box.inside else "<br/>"
    label = f'"{_mermaid_text(title(box))}{between}{_mermaid_text(caption(box))}"'
    if box.inside:
        yield f"{indent}subgraph {box.key} [{label}]"
        yield f"{indent}    direction TB"
        for child in box.inside:
            yield from _mermaid_box(child, indent + "    ")
        yield f"{indent}end"
    else:
        look = f":::{box.worst.lower()}" if box.worst in FILLS else ""
        yield f"{indent}{box.key}[{label}]{look}"


_SPECIAL = re.compile(r"((?<=[^\W_])[-._](?=[^\W_]))|[^\w ,·×…]|_")


def _mermaid_text(text: str) -> str:
    """The text with everything but letters, digits and what stands between two of them as Mermaid's entities."""
    return _SPECIAL.sub(lambda found: found[1] or f"#{ord(found[0])};", text)


# --- DOT -------------------------------------------------------------------------------------------------------


def dot(graph: Graph) -> str:
    """The graph in Graphviz's DOT."""
    boxes = {box.key: box for box in graph.boxes()}
    lines = [
        "digraph run {",
        "    compound=true",
        '    node [shape=box, style="rounded,filled", fontname="Helvetica"]',
        '    graph [style="rounded,filled", fillcolor="#fafbfc", color="#8a8f98", fontname="Helvetica"]',
        '    edge [color="#5c636e", fontname="Helvetica"]',
        *_dot_box(graph.root, "    "),
        *(f"    {_dot_arrow(arrow, boxes)}" for arrow in graph.arrows),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _dot_box(box: Box, indent: str) -> Iterator[str]:
    label = f"{_dot_text(title(box))}\\n{_dot_text(caption(box))}"
    if box.inside:
        yield f"{indent}subgraph cluster_{box.key} {{"
        yield f'{indent}    label="{label}"'
        for child in box.inside:
            yield from _dot_box(child, indent + "    ")
        yield f"{indent}}}"
    else:
        yield f'{indent}{box.key} [label="{label}", fillcolor="{FILLS.get(box.worst, _NO_FILL)}"]'


def _dot_arrow(arrow: Arrow, boxes: dict[str, Box]) -> str:
    """An arrow; Graphviz draws one to a cluster as one to a box inside it that ends at the cluster's border."""
    options = [f'label="{arrow.count}"'] if arrow.count > 1 else []
    ends = []
    for key, option in ((arrow.source, "ltail"), (arrow.target, "lhead")):
        box = boxes[key]
        if box.inside:
            options.append(f"{option}=cluster_{key}")
        while box.inside:
            box = box.inside[0]
        ends.append(box.key)
    written = f" [{', '.join(options)}]" if options else ""
    return f"{ends[0]} -> {ends[1]}{written}"


def _dot_text(text: str) -> str:
    return text.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
