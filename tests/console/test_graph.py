"""`undertow graph`: what ran inside what, and whose result went to whom, as Mermaid, DOT and SVG."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import Result

from undertow.console.graph import MOST_BOXES, Graph, graph_of
from undertow.console.graph_layout import Drawing, Place, lay_out
from undertow.console.graph_svg import svg
from undertow.console.graph_text import dot, mermaid, title
from undertow.console.records import RunRecord

Invoke = Callable[..., Result]
Record = Callable[..., RunRecord]


def titles(graph: Graph) -> list[str]:
    return [title(box) for box in graph.boxes()]


def arrows(graph: Graph) -> set[tuple[str, str, int]]:
    names = {box.key: title(box) for box in graph.boxes()}
    return {(names[arrow.source], names[arrow.target], arrow.count) for arrow in graph.arrows}


# --- the graph, as a value -------------------------------------------------------------------------------------


def test_a_big_map_is_one_box(record: Record) -> None:
    """Runs of one map are one box with counts by state; the results that it handed on are one arrow with a number."""
    runs = [record(0, "root", None, kind="flow")]
    runs += [record(1 + i, "fetch", state="Failed" if i < 3 else "Completed", map_index=i) for i in range(300)]
    runs += [record(400 + i, "parse", map_index=i, upstreams=(f"{1 + i:05}",)) for i in range(300)]
    runs += [record(800, "total", upstreams=tuple(f"{400 + i:05}" for i in range(300)))]
    graph = graph_of(runs)
    assert titles(graph) == ["root-0", "fetch ×300", "parse ×300", "total-800"]
    assert arrows(graph) == {("fetch ×300", "parse ×300", 300), ("parse ×300", "total-800", 300)}
    assert [tuple(count)[1:] for count in graph.root.inside[0].by_state] == [("Failed", 3), ("Completed", 297)]


def test_a_small_map_is_drawn_run_by_run(record: Record) -> None:
    """A few runs of one task are a box each, so that it is seen which result went where."""
    runs = [record(0, "root", None, kind="flow"), *(record(1 + i, "a", map_index=i) for i in range(3))]
    runs += [record(11 + i, "b", map_index=i, upstreams=(f"{1 + i:05}",)) for i in range(3)]
    assert arrows(graph_of(runs)) == {(f"a-{1 + i} [{i}]", f"b-{11 + i} [{i}]", 1) for i in range(3)}


def test_boxes_nest_as_the_runs_did(record: Record) -> None:
    """What ran inside a run is inside its box, and an arrow may lead into it, out of it, or to the box itself."""
    runs = [
        record(0, "root", None, kind="flow"),
        record(1, "read"),
        record(2, "sub", kind="flow", upstreams=("00001",)),
        record(3, "inner", 2, upstreams=("00001",)),
        record(4, "store", upstreams=("00003", "gone")),
    ]
    graph = graph_of(runs)
    (sub,) = [box for box in graph.root.inside if title(box) == "sub-2"]
    assert [title(box) for box in sub.inside] == ["inner-3"]
    assert arrows(graph) == {("read-1", "sub-2", 1), ("read-1", "inner-3", 1), ("inner-3", "store-4", 1)}


@pytest.mark.parametrize("shape", ["wide", "deep", "mapped", "branching"])
def test_no_graph_grows_beyond_measure(record: Record, shape: str) -> None:
    """However much ran, in whatever shape, the graph has a bounded number of boxes, and every run is in one of them."""
    parents = {"wide": lambda i: 0, "deep": lambda i: i - 1, "mapped": lambda i: 0, "branching": lambda i: i // 4}
    functions = {
        "wide": lambda i: f"f{i}",
        "deep": lambda i: "f",
        "mapped": lambda i: "f",
        "branching": lambda i: f"f{i}",
    }
    index = (lambda i: i % 5) if shape == "mapped" else (lambda i: None)
    runs = [record(0, "root", None, kind="flow")]
    runs += [
        record(i, functions[shape](i), parents[shape](i), map_index=index(i), upstreams=(f"{i - 1:05}",))
        for i in range(1, 2000)
    ]
    graph = graph_of(runs)
    boxes = list(graph.boxes())
    assert len(boxes) <= MOST_BOXES
    assert sum(len(box.runs) for box in boxes) == len(runs)
    assert len(svg(graph)) < 300_000


# --- where things stand ----------------------------------------------------------------------------------------


def at(drawing: Drawing) -> dict[str, Place]:
    return {title(place.box): place for place in drawing.places}


def test_what_is_given_a_result_stands_below(record: Record) -> None:
    """Arrows lead downwards; a box also stands below what had ended when it was made, else side by side."""
    runs = [
        record(0, "root", None, kind="flow"),
        record(1, "a"),
        record(2, "b"),
        record(3, "c", upstreams=("00001",)),
        record(20, "later"),
    ]
    places = at(lay_out(graph_of(runs)))
    assert places["a-1"].y == places["b-2"].y
    assert places["a-1"].x + places["a-1"].width < places["b-2"].x
    assert places["c-3"].y >= places["a-1"].y + places["a-1"].height
    assert places["later-20"].y > places["c-3"].y


def test_boxes_never_overlap(record: Record) -> None:
    """Every box lies inside the one around it, and beside, above or below its neighbours."""
    runs = [record(0, "root", None, kind="flow")]
    for i in range(1, 60):
        ups = tuple(f"{u:05}" for u in (i - 7, i - 3, i // 2) if 0 < u < i)
        runs.append(record(i, f"task_{i % 23}_{'x' * (i % 11)}", (i // 9) * 3 if i % 2 else 0, upstreams=ups))
    graph = graph_of(runs)
    places = {place.box.key: place for place in lay_out(graph).places}

    def apart(one: Place, other: Place) -> bool:
        return (
            one.x + one.width <= other.x
            or other.x + other.width <= one.x
            or one.y + one.height <= other.y
            or other.y + other.height <= one.y
        )

    for box in graph.boxes():
        around = places[box.key]
        inside = [places[child.key] for child in box.inside]
        for place in inside:
            assert around.x < place.x
            assert around.y < place.y
            assert place.x + place.width < around.x + around.width
            assert place.y + place.height < around.y + around.height
        assert all(apart(one, other) for one in inside for other in inside if one is not other)


def test_arrows_lead_from_box_to_box(record: Record) -> None:
    """Every arrow leaves at the foot of one box and arrives at the top of the other."""
    runs = [record(0, "root", None, kind="flow"), record(1, "a"), record(2, "b", upstreams=("00001",))]
    runs += [record(3, "c", upstreams=("00001", "00002"))]
    drawing = lay_out(graph_of(runs))
    places = {place.box.key: place for place in drawing.places}
    assert len(drawing.routes) == 3
    for route in drawing.routes:
        source, target = places[route.arrow.source], places[route.arrow.target]
        (x0, y0), (x1, y1) = route.points[0], route.points[-1]
        assert source.x < x0 < source.x + source.width
        assert target.x < x1 < target.x + target.width
        assert (y0, y1) == (source.y + source.height, target.y)


# --- as text ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small(record: Record) -> Graph:
    """A flow in which a task's result goes into a subflow's task."""
    runs = [
        record(0, "root", None, kind="flow"),
        record(1, "read", state="Failed"),
        record(2, "sub", kind="flow", upstreams=("00001",)),
        record(3, "inner", 2),
    ]
    return graph_of(runs)


def test_mermaid(small: Graph) -> None:
    """The Mermaid flowchart has a subgraph for each box with others inside, and the colours of the states."""
    assert mermaid(small).splitlines() == [
        "flowchart TD",
        '    subgraph n0 ["root-0 · Completed, 5 µs"]',
        "        direction TB",
        '        n1["read-1<br/>Failed, 5 µs"]:::failed',
        '        subgraph n2 ["sub-2 · Completed, 5 µs"]',
        "            direction TB",
        '            n3["inner-3<br/>Completed, 5 µs"]:::completed',
        "        end",
        "    end",
        "    n1 --> n2",
        "    classDef failed fill:#f8d0d0,stroke:#8a8f98,color:#1c1f24",
        "    classDef completed fill:#d3efdc,stroke:#8a8f98,color:#1c1f24",
    ]


def test_dot(small: Graph) -> None:
    """The DOT graph has a cluster for each box with others inside; arrows to it end at its border."""
    lines = [line.strip() for line in dot(small).splitlines()]
    assert 'n1 [label="read-1\\nFailed, 5 µs", fillcolor="#f8d0d0"]' in lines
    assert "subgraph cluster_n2 {" in lines
    assert "n1 -> n3 [lhead=cluster_n2]" in lines


HOSTILE = [
    '"]; click n0 "javascript:alert(1)"',
    "<script>alert(1)</script>",
    "</svg><img src=x onerror=alert(1)>",
    "]]>--><!--",
    '\\" \\N \\',
    "%%{init: {}}%%\nend",
    "\x1b[31m\x00\u202e",
    "&lt;#35;&amp;",
    "`**b**` __init__ 1. x",
]


@pytest.fixture
def hostile(record: Record) -> Graph:
    """A graph with hostile texts in every place."""
    runs = [record(0, "root", None, name=HOSTILE[0], kind="flow")]
    for i, text in enumerate(HOSTILE, 1):
        states = (record(0, "x").states[0], record(0, "x").states[1]._replace(name=text, message=text, type=text))
        runs.append(record(i, text, name=text, id=f"{i:05}{text}", kind=text, states=states))
    runs += [record(20 + i, text, 1) for i, text in enumerate(HOSTILE * 7)]
    return graph_of(runs)


def test_no_name_can_become_part_of_a_flowchart(hostile: Graph) -> None:
    """In Mermaid every label is one quoted text without a character that means anything."""
    for line in mermaid(hostile).splitlines():
        assert re.fullmatch(
            r" *(flowchart TD|direction TB|end|class(Def)? .*|n\d+ -->(\|\d+\|)? n\d+"
            r'|(subgraph )?n\d+ ?\["([\w ,·×…#;.-]|<br/>)*"\](:::\w+)?)',
            line,
        ), line


def test_no_name_can_become_part_of_a_dot_graph(hostile: Graph) -> None:
    """In DOT every label is one quoted text in which quotes and backslashes are escaped."""
    for line in dot(hostile).splitlines():
        outside = re.sub(r'"(?:[^"\\]|\\.)*"', '""', line)
        assert re.fullmatch(r"[\w\s=,{}\[\]>-]*|.*\"\".*", outside), line
        assert not re.search(r"click|script|alert|onerror|init", outside), line
    assert r'label="\\\" \\N \\' in dot(hostile)


def test_the_svg_is_well_formed_and_inert(hostile: Graph) -> None:
    """The SVG is XML of shapes and text only: nothing runs, nothing is fetched, and every text is shown as it is."""
    root = ElementTree.fromstring(svg(hostile))
    known = {"svg", "title", "style", "defs", "marker", "g", "rect", "circle", "path", "text"}
    for each in root.iter():
        assert each.tag.removeprefix("{http://www.w3.org/2000/svg}") in known
        assert not any(name.startswith("on") or "href" in name or name == "style" for name in each.attrib)
        assert "url(" not in (each.text or "")
    shown = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "<script>alert(1)</script>" in shown
    assert r"\x1b[31m\x00\u202e" in shown


def test_the_same_run_gives_the_same_drawing(hostile: Graph) -> None:
    """Every format is the same text each time that the same runs are drawn."""
    runs = [run for box in hostile.boxes() for run in box.runs]
    first, again = graph_of(runs), graph_of(list(runs))
    for form in (mermaid, dot, svg):
        assert form(first) == form(again)


# --- the verb --------------------------------------------------------------------------------------------------


@pytest.mark.real_time
def test_graph_writes_what_the_suffix_says(undertow: Invoke) -> None:
    """The file's suffix chooses the format, `--format` wins over it, and stdout gets Mermaid."""
    undertow("run", "jobs:chain")
    texts = [undertow("graph").stdout, undertow("graph", "--format", "dot").stdout]
    for name in ("run.mmd", "run.gv", "run.svg"):
        assert undertow("graph", "-o", name).stdout == ""
        texts.append(Path(name).read_text())
    undertow("graph", "-o", "odd.svg", "--format", "mermaid")
    texts.append(Path("odd.svg").read_text())
    starts = ["flowchart", "digraph", "flowchart", "digraph", "<svg", "flowchart"]
    assert [text.split()[0] for text in texts] == starts


@pytest.mark.real_time
def test_graph_as_json(undertow: Invoke) -> None:
    """`--json` gives nodes, each with what it is inside of, and edges; with `-o` it tells about the file."""
    undertow("run", "jobs:chain")
    document = json.loads(undertow("graph", "--json").stdout)
    assert [node["inside"] for node in document["nodes"]] == [None, "n0", "n0", "n0"]
    assert document["edges"] == [{"source": f"n{n}", "target": "n3", "count": 1} for n in (1, 2)]
    assert document["nodes"][3]["run"]["function"] == "add"
    told = json.loads(undertow("graph", "-o", "run.svg", "--json").stdout)
    assert (told["file"], told["format"], Path("run.svg").exists()) == ("run.svg", "svg", True)


@pytest.mark.real_time
@pytest.mark.parametrize("verb", ["graph", "report"])
@pytest.mark.parametrize("target", ["runs.db", "./runs.db-wal", "link.html", "missing/run.html", "."])
def test_files_that_are_not_written(undertow: Invoke, folder: Path, complaint: Any, verb: str, target: str) -> None:
    """The journal is never overwritten, under whatever name, and a path that can't be written is named."""
    undertow("run", "jobs:chain")
    (folder / "link.html").symlink_to("runs.db")
    before = (folder / "runs.db").read_bytes()
    assert complaint(undertow(verb, "-o", target)).startswith(f"undertow: {target} can't be written: ")
    assert (folder / "runs.db").read_bytes() == before
