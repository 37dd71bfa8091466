"""What is legal: a second opinion on the engine, in plain Python, from the rule book and without the engine's own rules.

It is told of every transition, of every beginning and end of a body, of every row that gets to the disk, and of what
clients were given; it writes down what it finds wrong. It knows runs by their ids, states by their words, and a run's
program by its node; the engine's tables, counters and verdicts it never asks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

import attrs

from undertow.engine.ports import Record

from .journal import Disk, Row
from .plans import RATE, RATE_PER_SECOND, RATE_SLOTS, Node
from .rules import BAD, TERMINAL, Story, attempts, broken_by, too_fast, verdict

EPOCH = 1_767_225_600.0
"""When a world's time begins, in seconds."""
EDGE = 1e-3
"""Seconds around a deadline within which the model does not decide."""
EXCUSES = ("simulated.db", "can't be written", "would block")
"""Of failures that are not the body's: what could not be kept, and what on the spot could not wait for a slot."""


@attrs.define(eq=False)
class Seen:
    """What is known of a run, within one life of the process."""

    id: str
    node: Node
    parent: str | None
    line: tuple[str, ...]
    """Its own id, its parent's, and so on up."""
    ancestors: tuple[Any, ...]
    """The same as run objects, whose ids may change when they go on as earlier ones."""
    step: str | None
    upstreams: tuple[str, ...] = ()
    story: Story = attrs.field(factory=list)
    """Types, names and times of its states, from all its lives."""
    bodies: int = 0
    """How many of its bodies run now."""
    begun: int = 0
    """How many of them have begun."""
    last_end: str = ""
    """How the last one that began has ended."""
    returned: tuple[Any, ...] = ()
    """The futures that its body returned."""
    rank: tuple[float, int] = (0.0, 0)
    """Its turn among those who wait for slots: by priority, then by arrival."""
    waits_since: float = inf
    """When it began to wait for slots."""
    overtaken_at: float = inf
    children: dict[str, Seen] = attrs.field(factory=dict)
    """What was called in its present attempt and has ended, by step or else by id."""

    @property
    def type(self) -> str:
        return self.story[-1][0]


def story(history: Iterable[Any]) -> Story:
    """A history without its messages, in plain words."""
    return [(str(kind), name, at) for kind, name, _, at in history]


class Model:
    """The judge of one world."""

    def __init__(
        self, disk: Disk, now: Callable[[], float], limits: dict[str, float], note: Callable[..., None]
    ) -> None:
        self.disk = disk
        self.now = now
        self.limits = limits
        self.note = note
        self.wrong: list[str] = []
        self.runs: dict[str, Seen] = {}
        self.told: dict[str, Story] = {}
        """The longest story of every run in the present process, as it was observed."""
        self.doomed: set[object] = set()
        """Runs, and paths of outermost ones, that something may rightly cancel, with all that is inside."""
        self.blocks: Counter[str] = Counter()
        """How many slots blocks hold by hand."""
        self.arrivals = 0
        """How many waited for slots."""
        self.passed: list[float] = []
        """When the rate limit let something through."""
        self.dropped: dict[str, int] = {}
        """Steps whose recorded results were given up, and when those had been kept."""
        self.excused: Callable[[], bool] = lambda: False
        self.held: Callable[[str], float] = lambda name: 0.0
        self.kept: Callable[[str], Record | None] = self.disk.results.get
        self.is_punctual: Callable[[], bool] = lambda: True
        self.frozen = False
        """The process is dead: what it still seems to do has not happened."""

    def complain(self, rule: str, about: str) -> None:
        if not self.frozen:
            self.wrong.append(f"{rule}: {about}")
            self.note("WRONG", rule, about)

    def new_life(self) -> None:
        self.runs.clear()
        self.told.clear()
        self.doomed.clear()
        self.blocks.clear()
        self.passed.clear()
        self.dropped.clear()
        self.frozen = False

    # --- transitions -----------------------------------------------------------------------------------------------

    def saw(self, run: Any, node: Node) -> Seen:
        """The run as it is known here; one that goes on under an earlier id is known by that."""
        seen = self.runs.get(run.id)
        if seen is not None and seen.ancestors[0] is not run:  # a retried flow has called it again
            seen.ancestors = tuple(run.ancestors())
        if seen is None:
            ancestors = tuple(run.ancestors())
            line = tuple(each.id for each in ancestors)
            parent = line[1] if len(line) > 1 else None
            seen = self.runs[run.id] = Seen(run.id, node, parent, line, ancestors, run.step)
            row = self.disk.rows.get(run.id)
            seen.story = story(run.history[:1] if row is None else row.history)
        return seen

    def transition(self, run: Any, node: Node) -> None:
        """An observer of the engine: the run has just changed its state."""
        if self.frozen:
            return
        seen = self.saw(run, node)
        kind, name, message, at = run.history[-1]
        before, entry = seen.story[-1], (str(kind), name, at)
        if entry != before:  # a resumed run is claimed in the journal before it is observed
            rule = broken_by(before, entry, seen.step is not None)
            if rule is not None:
                self.complain(rule, f"{node.path} went from {before} to {entry}")
            seen.story.append(entry)
        self.told[run.id] = story(run.history)
        self.note(seen.type, name, run.id, node.path, message)
        seen.upstreams = tuple(run.upstream_ids)
        if name == "Resuming":
            seen.last_end = ""
        if name == "AwaitingConcurrencySlot":
            self.arrivals += 1
            seen.rank = (-(node.option("priority") or 0), self.arrivals)
            seen.waits_since = self.now()
        if seen.type == "RUNNING":
            self._attempt(seen)
        elif seen.type in TERMINAL:
            self._ended(seen, name, message)
        for limit, slots in self.limits.items():
            if self.held(limit) > slots + 1e-6:
                self.complain("slots", f"{self.held(limit)} of {limit!r} are taken, of {slots}")

    def _attempt(self, seen: Seen) -> None:
        """A run entered Running."""
        seen.children = {}
        if seen.story[-2][1] == "AwaitingConcurrencySlot":
            self._in_turn(seen)
        seen.overtaken_at = inf
        counted = attempts(seen.story)
        if counted > seen.node.retries + 1:
            self.complain("attempts", f"{seen.node.path} is tried {counted} times, with {seen.node.retries} retries")
        if seen.story[-1][1] == "Retrying" and seen.last_end in ("return", "skip", "fatal"):
            self.complain("retries", f"{seen.node.path} is tried again after its body ended by {seen.last_end}")
        if RATE in (seen.node.option("limits") or ()):
            self.let_through()
        record = self.kept(f"step:{seen.step}") if seen.step else None
        if record is not None and record.serializer != "failure":
            self.complain("recorded steps don't run", f"{seen.node.path} runs, and its result is recorded")
        kept_at = self.dropped.pop(seen.step or "", None)
        ups = [self.runs[each] for each in seen.upstreams if each in self.runs]
        if kept_at is not None and not any(up.type in TERMINAL and up.story[-1][2] > kept_at for up in ups):
            self.complain("recorded steps don't run", f"{seen.node.path} runs anew, and nothing it depends on did")

    def _in_turn(self, seen: Seen) -> None:
        """A run that waited for slots has them: of those who wait for the same, inside the same, none came before it.

        One that came at this very moment may have come when the slots had been given away.
        """
        if seen.overtaken_at < self.now() - EDGE and self.is_punctual():
            self.complain("in turn", f"{seen.node.path} was overtaken by one that came after it")
        for each in self.runs.values():
            waits = each.story[-1][1] == "AwaitingConcurrencySlot" and each.waits_since < self.now() - EDGE
            if (
                waits
                and each.line[-1] == seen.line[-1]
                and each.rank < seen.rank
                and each.node.limit_names == seen.node.limit_names
            ):
                each.overtaken_at = min(each.overtaken_at, self.now())  # unless it has them too, at this very moment

    def gave_up(self, key: str, record: Record) -> None:
        """The engine has a recorded result deleted."""
        if key.startswith("step:") and record.serializer != "failure":
            self.dropped[key.removeprefix("step:")] = record.kept_at

    def let_through(self) -> None:
        """The rate limit let something through: in no stretch of time more than its burst and what drained away."""
        self.passed.append(self.now())
        if self.is_punctual() and too_fast(self.passed, RATE_SLOTS, RATE_PER_SECOND):
            self.complain("rate", f"the last of these passed too early: {self.passed}")

    def _ended(self, seen: Seen, name: str, message: str) -> None:
        path, kind = seen.node.path, seen.type
        for each in self.runs.values():
            if each is not seen and (seen.node.kind != "flow" or seen.id not in each.line):
                continue
            if each.bodies and not each.node.gives_up:
                self.complain("no orphan", f"a body of {each.node.path} runs when {path} ends {name}")
            if each.type not in TERMINAL:
                self.complain("no orphan", f"{each.node.path} is {each.type} when {path} ends {name}")
        if kind == "CANCELLED" and not self._is_doomed(seen):
            self.complain("cancelled for a reason", f"{path} ended {name}: {message}")
        if kind == "CRASHED":
            self.complain("nothing crashes", f"{path} ended {name}: {message}")
        if kind == "COMPLETED" and seen.step is not None and seen.parent is not None:
            record = self.disk.results.get(f"step:{seen.step}")
            if record is None or record.serializer == "failure":
                self.complain("acknowledged implies committed", f"{path} ended {name} and its result is not on disk")
        self._outcome(seen, name, message)
        parent = self.runs.get(seen.parent or "")
        if parent is not None:
            parent.children[seen.step or seen.id] = seen

    # --- outcomes --------------------------------------------------------------------------------------------------

    def _outcome(self, seen: Seen, name: str, message: str) -> None:
        """Compare how a run ended with what its body did."""
        kind, end, path = seen.type, seen.last_end, seen.node.path
        if kind == "CANCELLED" or (kind == "SKIPPED" and not end):
            return
        if kind == "FAILED" and any(words in message for words in EXCUSES):
            return
        timeout = seen.node.option("timeout_seconds")
        took = self._since_attempt(seen)
        if name == "TimedOut" and not (end == "raise" and seen.node.option("final_state") == "return"):
            if timeout is None or took < timeout - EDGE:
                self.complain("time-outs", f"{path} ended TimedOut after {took:g} s of {timeout}")
            if seen.node.kind == "flow" and end in ("raise", "fatal"):  # which decides, whatever its children do then
                self.complain("outcomes", f"the body of {path} ended in time, by {end}, and the run TimedOut")
            return
        if (end == "skip") != (kind == "SKIPPED"):
            self.complain("outcomes", f"{path} raised Skip and ended {name}")
        tried = sum(state == "RUNNING" for state, *_ in seen.story)
        gave_up = "raised Fail:" in message  # a child's, for whose sake the body was cancelled
        if end == "raise" and kind == "FAILED" and tried < seen.node.retries + 1 and not gave_up:
            self.complain("retries", f"{path} ended Failed after {tried} attempts, with {seen.node.retries} retries")
        if seen.node.kind == "flow" and end:
            expected = self._verdict(seen)
            if kind not in expected:
                self.complain("final state", f"{path} ended {name} and not {' or '.join(sorted(expected))} ({end})")
        elif (end == "return" and kind == "FAILED") or (end in ("raise", "fatal", "late") and kind == "COMPLETED"):
            self.complain("outcomes", f"the body of {path} ended by {end} and the run {name}: {message}")

    def _verdict(self, seen: Seen) -> set[str]:
        """The types in which a flow may end, from how its body and its children ended."""
        children = self._children(seen)
        given = [children[future.run_id] for future in seen.returned if future.run_id in children]
        rule = seen.node.option("final_state") or "children"
        cancels = seen.node.option("on_child_failure") == "cancel"
        return verdict(rule, seen.last_end, given, list(children.values()), cancels)

    def _children(self, seen: Seen) -> dict[str, str]:
        """How the children of the present attempt ended, by their ids: type, or `neutral`."""
        found: dict[str, str] = {}
        root = (seen.step or "").partition("/")[0]
        for key, record in self.disk.results.items():  # some were only handed back: only the disk knows of those
            about = record.about or {}
            is_child = root and key.startswith(f"step:{root}/") and f"{root}/{about['parent']}" == seen.step
            if is_child and "code" in about:  # a sleep has none
                found[record.run_id] = "FAILED" if record.serializer == "failure" else "COMPLETED"
        for child in seen.children.values():
            found[child.id] = self._counts_as(child)
        return found

    def _counts_as(self, seen: Seen) -> str:
        if seen.type != "SKIPPED":
            return seen.type
        if seen.last_end == "skip" or seen.node.option("when") is not None:
            return "neutral"
        ups = [self.runs[each] for each in seen.upstreams if each in self.runs]
        return "FAILED" if any(self._counts_as(up) in BAD for up in ups) else "neutral"

    def _is_doomed(self, seen: Seen) -> bool:
        """Whether something may have cancelled the run, or it is a flow that ends as its children did."""
        if not self.doomed.isdisjoint((*seen.ancestors, seen.node.path.partition(".")[0])):
            return True
        if seen.node.kind == "flow" and any(child.type == "CANCELLED" for child in seen.children.values()):
            return True
        around = [self.runs[each] for each in seen.line if each in self.runs]
        return any(self._is_late(each) or self._lost_a_child(each) for each in around)

    def _lost_a_child(self, seen: Seen) -> bool:
        """Whether it is a flow that cancels the rest of its children by now, because one has failed."""
        return seen.node.option("on_child_failure") == "cancel" and not BAD.isdisjoint(self._children(seen).values())

    def _is_late(self, seen: Seen, by: float = -EDGE) -> bool:
        """Whether the run's present attempt has had all its time, and so much more."""
        return self._since_attempt(seen) >= (seen.node.option("timeout_seconds") or inf) + by

    def _since_attempt(self, seen: Seen) -> float:
        """Seconds since the run last entered Running."""
        return self.now() + EPOCH - max((at for state, _, at in seen.story if state == "RUNNING"), default=0) / 1e6

    # --- bodies ----------------------------------------------------------------------------------------------------

    def body_began(self, run: Any, node: Node) -> int:
        """A body begins: its number among those of the run."""
        if self.frozen:
            return 0
        seen = self.saw(run, node)
        seen.bodies += 1
        seen.begun += 1
        seen.last_end, seen.returned = "", ()
        self.note("begin", run.id, node.path)
        if seen.type != "RUNNING":
            self.complain("bodies run in Running", f"the body of {node.path} begins in {seen.type}")
        if seen.bodies > 1 and not node.gives_up:
            self.complain("one body at a time", f"{seen.bodies} bodies of {node.path} run")
        self._count_slots(node.limits)
        return seen.begun

    def _count_slots(self, names: Iterable[str]) -> None:
        for name in names:
            holders = [each for each in self.runs.values() if each.bodies and name in each.node.limits]
            ids = {each.id for each in holders}
            slots = sum(each.bodies for each in holders if not ids.intersection(each.line[1:])) + self.blocks[name]
            if name in self.limits and slots > self.limits[name]:
                self.complain("slots", f"{slots} bodies run under {name!r}, which has {self.limits[name]}")

    @contextmanager
    def holding(self, name: str, slots: int) -> Iterator[None]:
        """Around a block that holds slots by hand."""
        self.blocks[name] += slots
        self._count_slots([name])
        try:
            yield
        finally:
            self.blocks[name] -= slots

    def body_ended(self, run: Any, number: int, end: str, returned: Iterable[Any] = ()) -> None:
        if self.frozen:
            return
        seen = self.runs[run.id]
        seen.bodies -= 1
        self.note("end", run.id, seen.node.path, end)
        if number < seen.begun:
            return  # it is the body of an attempt that was given up
        if seen.node.kind == "flow" and end in ("raise", "fatal", "cancelled"):
            self.doomed.add(seen.ancestors[0])
        if self._is_late(seen):
            # At the very deadline it may go either way, and the body's end tells nothing.
            end = "late" if self._is_late(seen, by=EDGE) else ""
            self.doomed.add(seen.ancestors[0])
        seen.last_end, seen.returned = end, tuple(returned)

    # --- disk and clients ------------------------------------------------------------------------------------------

    def wrote(self, before: Row | None, after: Row) -> None:
        """A row got to the disk: it has to continue what was there, and to say what happened in that order."""
        if before is not None and after.history[: len(before.history)] != before.history:
            self.complain("journal order", f"the row of {after.id} was {before.history}, and now is {after.history}")
        written, told = story(after.history), self.told.get(after.id)
        if told is not None and written != told[: len(written)]:
            self.complain("journal order", f"the row of {after.id} is {written}, and it went through {told}")

    def acknowledged(self, run_id: str, kind: str) -> None:
        """A client was told that a run has ended."""
        self.note("acknowledged", run_id, kind)
        row = self.disk.rows.get(run_id)
        if not self.excused() and (row is None or kind not in [str(entry[0]) for entry in row.history]):
            self.complain("acknowledged implies committed", f"{run_id} ended {kind}; on disk: {row and row.history}")

    def closed(self) -> None:
        """The engine was closed in an orderly way: everything has ended, and all that happened is written."""
        for seen in self.runs.values():
            row = self.disk.rows.get(seen.id)
            if seen.bodies:
                self.complain("no orphan", f"a body of {seen.node.path} runs when the engine is closed")
            if seen.type not in TERMINAL:
                self.complain("liveness", f"{seen.node.path} is {seen.type} when the engine is closed")
            elif row is None or story(row.history) != self.told.get(seen.id, seen.story):
                self.complain(
                    "journal order", f"{seen.node.path}: {seen.story} happened, {row and row.history} is on disk"
                )
        for name in self.limits:
            if self.held(name) > 1e-6:
                self.complain("slots", f"{self.held(name)} of {name!r} are taken when the engine is closed")
