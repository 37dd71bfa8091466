"""Progress: what runs now, as a live tree on a terminal, and as plain lines now and then where there is none.

An observer counts transitions, in a few dictionary lookups each, and keeps nothing of any run; the drawing is done from
the counts, by a thread of its own that ends with the `with` block.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import attrs
from rich.console import Console
from rich.live import Live
from rich.text import Text
from rich.tree import Tree

from ..engine.context import current_core
from ..engine.core import Core
from ..engine.run import Run
from ..engine.states import RUNNING, SCHEDULED, TERMINAL
from .wording import safe

FRAMES_PER_SECOND = 8
PLAIN_SECONDS = 10.0
"""How often a line is printed where there is no terminal."""

_GOOD = ("Completed", "Cached")


@attrs.define
class Node:
    """All runs of one task or flow that were called in one place: how many are in which state."""

    name: str
    running: int = 0
    waiting: int = 0
    """In a queue for slots, or for the next attempt."""
    retries: int = 0
    ended: dict[str, int] = attrs.field(factory=dict)
    children: dict[str, Node] = attrs.field(factory=dict)

    def child(self, name: str) -> Node:
        """The node of what is called in it."""
        node = self.children.get(name)
        if node is None:
            node = self.children[name] = Node(name)
        return node

    def total(self) -> int:
        """Runs that have ended, here and below."""
        return sum(self.ended.values()) + sum(node.total() for node in self.children.values())


class Counts:
    """The observer: counts by place of call."""

    def __init__(self) -> None:
        self.root = Node("")
        self._lock = threading.Lock()

    def __call__(self, run: Run) -> None:
        history = run.history
        now, name = history[-1][0], history[-1][1]
        before = history[-2][0] if len(history) > 1 else None
        with self._lock:
            node = self._node(run)
            node.running += (now is RUNNING) - (before is RUNNING)
            node.waiting += (now is SCHEDULED) - (before is SCHEDULED)
            if name == "Retrying":
                node.retries += 1
            if now in TERMINAL:
                node.ended[name] = node.ended.get(name, 0) + 1

    def _node(self, run: Run) -> Node:
        around = self.root if run.parent is None else self._node(run.parent)
        return around.child(run.definition.name)

    def snapshot(self) -> Node:
        """A copy of all counts, which stays as it is."""
        with self._lock:
            return _copy(self.root)


def _copy(node: Node) -> Node:
    children = {name: _copy(child) for name, child in node.children.items()}
    return attrs.evolve(node, ended=dict(node.ended), children=children)


class Drawing:
    """The counts as something to look at."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._since = time.monotonic()

    def tree(self) -> Tree:
        """A tree of all that was called, with its numbers."""
        root = self._counts.snapshot()
        drawn = Tree(self._headline(root), guide_style="dim")
        self._grow(drawn, root)
        return drawn

    def line(self) -> str:
        """The same in one line of plain text, without the branches."""
        root = self._counts.snapshot()
        parts = [f"{name}: {_plain(node)}" for path in root.children.values() for name, node in _flat(path)]
        return "; ".join([str(self._headline(root)), *parts])

    def _headline(self, root: Node) -> Text:
        seconds = max(time.monotonic() - self._since, 1e-9)
        total = root.total()
        return Text(f"{total} runs ended in {seconds:.1f} s, {total / seconds:,.0f} a second")

    def _grow(self, branch: Tree, node: Node) -> None:
        for child in node.children.values():
            text = Text(f"{safe(child.name)}  ")
            for words, style in _numbers(child):
                text.append(f"{words}  ", style)
            self._grow(branch.add(text), child)


def _numbers(node: Node) -> list[tuple[str, str]]:
    good = sum(node.ended.get(name, 0) for name in _GOOD)
    numbers = [(f"{good} done", "green")] if good else []
    numbers += [(f"{node.running} running", "cyan")] if node.running > 0 else []
    numbers += [(f"{node.waiting} waiting", "yellow")] if node.waiting > 0 else []
    numbers += [(f"{node.retries} retried", "yellow")] if node.retries else []
    for name, number in sorted(node.ended.items()):
        if name not in _GOOD:
            numbers.append((f"{number} {name}", "dim" if name == "Skipped" else "red"))
    return numbers


def _plain(node: Node) -> str:
    return ", ".join(words for words, _ in _numbers(node)) or "nothing yet"


def _flat(node: Node) -> Iterator[tuple[str, Node]]:
    yield safe(node.name), node
    for child in node.children.values():
        yield from _flat(child)


@contextmanager
def progress(stream: TextIO | None = None, core: Core | None = None) -> Iterator[Counts]:
    """Show on `stream` (default: stderr) what runs in the current engine while the block lasts.

    On a terminal a live tree of counts: done, running, waiting, retried, and failures by their state. Elsewhere a plain
    line every 10 seconds and one at the end. Gives the counts.
    """
    core = core or current_core()
    shown = sys.stderr if stream is None else stream
    counts = Counts()
    drawing = Drawing(counts)
    console = Console(file=shown)
    core.observers.append(counts)
    try:
        if console.is_terminal:
            with Live(console=console, get_renderable=drawing.tree, refresh_per_second=FRAMES_PER_SECOND):
                yield counts
        else:
            with _lines(drawing, shown):
                yield counts
    finally:
        if counts in core.observers:
            core.observers.remove(counts)


@contextmanager
def _lines(drawing: Drawing, stream: TextIO) -> Iterator[None]:
    """Print a line now and then, and the last one at the end."""
    over = threading.Event()

    def print_now_and_then() -> None:
        while not over.wait(PLAIN_SECONDS):
            print(drawing.line(), file=stream, flush=True)

    thread = threading.Thread(target=print_now_and_then, name="undertow-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        print(drawing.line(), file=stream, flush=True)
