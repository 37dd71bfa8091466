"""The tree of a run, as values."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from undertow.console.records import RunRecord
from undertow.console.tree import DEEPEST, EVERYTHING, FAILURES_SHOWN, Drawn, Node, Shape, build, failures, fitting

Record = Callable[..., RunRecord]


def drawn(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from drawn(child)


def test_each_map_is_a_node(record: Record) -> None:
    """Two maps of one task are two nodes, and calls of it outside any map a third."""
    runs = [record(0, "root", None)]
    runs += [record(1 + i, "work", map_index=i) for i in range(10)]
    runs += [record(11 + i, "work") for i in range(7)]
    runs += [record(18 + i, "work", map_index=i) for i in range(8)]
    assert [len(node.runs) for node in build(runs).children] == [10, 7, 8]


def test_many_maps_are_a_node(record: Record) -> None:
    """A flow that maps a task over and over has one node for all the maps, not one for each."""
    runs = [record(0, "root", None), *(record(1 + i, "work", map_index=i % 5) for i in range(500))]
    assert [len(node.runs) for node in build(runs).children] == [500]


def test_too_much_side_by_side_is_counted(record: Record) -> None:
    """Where more stands side by side than can be drawn, the last node stands for the rest and all inside it."""
    runs = [record(0, "root", None), *(record(1 + i, f"work_{i}") for i in range(50)), record(99, "inner", 45)]
    nodes = build(runs, Shape(widest=10)).children
    assert (len(nodes), nodes[-1].drawn, len(nodes[-1].runs)) == (10, Drawn.REST, 42)


def test_what_ran_inside_many_is_drawn_together(record: Record) -> None:
    """Below a node of many runs stand their children together; those of a failed run stand below that run."""
    runs = [record(0, "root", None)]
    runs += [record(1 + i, "outer", state="Failed" if i == 3 else "Completed") for i in range(20)]
    runs += [record(100 + i, "inner", parent=1 + i) for i in range(20)]
    (outer,) = build(runs).children
    failed, inner = outer.children
    assert (len(outer.runs), len(inner.runs), inner.drawn) == (20, 19, Drawn.TOGETHER)
    assert (failed.runs[0].id, [child.runs[0].id for child in failed.children]) == ("00004", ["00103"])


def test_no_failure_is_left_out(record: Record) -> None:
    """The first failures of a node have a line each, and one line stands for the rest."""
    runs = [record(0, "root", None), *(record(1 + i, "work", state="Failed") for i in range(50))]
    (work,) = build(runs).children
    *single, rest = work.children
    assert [len(node.runs) for node in single] == [1] * FAILURES_SHOWN
    assert (rest.drawn, len(rest.runs)) == (Drawn.MORE_FAILURES, 50 - FAILURES_SHOWN)


def test_a_very_deep_tree_is_drawn_to_a_depth(record: Record) -> None:
    """Runs nested thousands deep are drawn to a depth, and counted below it."""
    runs = [record(0, "root", None), *(record(1 + i, "deep", parent=i) for i in range(5000))]
    nodes = list(drawn(build(runs)))
    assert nodes[-1].drawn is Drawn.DEEPER
    assert (len(nodes), len(nodes[-1].runs)) == (DEEPEST + 2, 5000 - DEEPEST)


def test_an_error_is_shown_where_it_was_raised(record: Record) -> None:
    """An error that passed through several runs is told once, of the innermost; equal ones are counted."""
    frames = 'Traceback (most recent call last):\n  File "jobs.py", line 3, in work\nValueError: bad {}\n'
    runs = [
        record(0, "root", None, "Failed", error=frames.format(2)),
        record(1, "outer", 0, "Failed", error=frames.format(2)),
    ]
    runs += [record(2 + i, "work", 1, "Failed", error=frames.format(2 + i)) for i in range(3)]
    runs += [record(9, "other", 1, "Completed", error="a retry went well\n")]
    (found,) = failures(runs)
    assert (found.run.id, found.count) == ("00002", 3)


def test_what_passed_through_is_known_by_what_was_raised(record: Record) -> None:
    """Notes below the exception, as a caller's copy of the error has them, don't make it another error."""
    frames = 'Traceback (most recent call last):\n  File "jobs.py", line {}, in {}\nValueError: two\n  lines\n'
    runs = [
        record(0, "root", None, "Failed", error=frames.format(9, "root") + "Raised in task run 'work-1'\n"),
        record(1, "work", 0, "Failed", error=frames.format(3, "work")),
    ]
    assert [(failure.run.id, failure.count) for failure in failures(runs)] == [("00001", 1)]


def test_a_circle_of_parents_has_an_end(record: Record) -> None:
    """A damaged journal in which a run is its own ancestor can be looked at."""
    runs = [record(0, "a", 1, "Failed", error="E: x"), record(1, "b", 0, "Failed", error="E: x")]
    assert len(list(drawn(build(runs)))) == 2
    assert len(failures(runs)) <= 1


def test_detail_goes_before_the_picture_overflows(record: Record) -> None:
    """Of several shapes the first is taken in which there is room for the tree."""
    runs = [record(0, "root", None), *(record(1 + i, "work") for i in range(50))]
    shapes = [EVERYTHING, Shape(together_from=20), Shape(together_from=2)]
    assert len(list(drawn(fitting(runs, shapes, most=60)))) == 51
    assert len(list(drawn(fitting(runs, shapes, most=10)))) == 2
