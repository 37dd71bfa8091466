"""A journal in memory, with a disk that outlives it and a writer that is slow, clumsy and mortal by the world's seed.

It keeps the promises of the real one: a run's row says all that the run has lived through when its group is taken,
results come before the runs of their group, and whoever asks is answered when what was said before is on the disk.
A journal that has died takes nothing more and refuses what it is asked; the next one opens on what the disk holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from undertow.engine.errors import JournalClosed, JournalError, JournalFull, JournalLocked
from undertow.engine.limits import Limit
from undertow.engine.ports import Earlier, Past, Record
from undertow.engine.run import Run
from undertow.engine.states import Entry, StateType
from undertow.engine.waking import Reply

from .faults import Faults
from .rules import TERMINAL

T = TypeVar("T")
PATH = "simulated.db"


@attrs.define
class Row:
    """A run on the disk."""

    id: str
    function: str
    parent: str | None
    step: str | None
    call: str | None
    expected_start_at: int | None
    history: list[Entry]
    life: int
    """Which of the world's processes it belongs to."""

    @property
    def type(self) -> str:
        return self.history[-1][0].value

    @property
    def ended(self) -> bool:
        return self.type in TERMINAL

    def earlier(self) -> Earlier:
        return Earlier(self.id, list(self.history), self.function, self.step, self.expected_start_at, self.call)


@attrs.define
class Disk:
    """What is left when a process dies."""

    rows: dict[str, Row] = attrs.field(factory=dict)
    results: dict[str, Record] = attrs.field(factory=dict)
    reserved: dict[str, int] = attrs.field(factory=dict)
    """Keys that are put aside, and for which life."""
    slots: dict[str, tuple[Mapping[str, Limit], float]] = attrs.field(factory=dict)
    """Shared slots, by who holds them: of which limits, and how many."""

    def recoverable(self) -> list[Row]:
        """Outermost durable runs that were broken off."""
        started = (row for row in self.rows.values() if f"start:{row.id}" in self.results and row.ended)
        return sorted(
            (row for row in started if row.type == "CRASHED" or row.history[-1][1] == "Interrupted"),
            key=lambda row: row.id,
        )

    def bury(self, life: int, now: int) -> None:
        """At the start of a life: end the runs of earlier ones, and free what they had put aside."""
        for row in self.rows.values():
            if row.life < life and not row.ended:
                record = self.results.get(f"step:{row.step}")
                if record is None:
                    row.history.append((StateType.CRASHED, "Crashed", "Its process is gone.", now))
                    continue
                about = record.about or {}
                kind = StateType.FAILED if record.serializer == "failure" else StateType.COMPLETED
                name = about.get("state", kind.value.capitalize())
                row.history.append((kind, name, about.get("message", ""), record.kept_at))
        self.reserved.clear()
        self.slots.clear()


Later = Callable[[float, Callable[[], object]], None]


class Answer(Reply[T]):
    """A reply for which a body that holds the only thread need not wait: it does what the writer would have done."""

    __slots__ = ("_at_once",)

    def __init__(self, at_once: Callable[[], object]) -> None:
        super().__init__()
        self._at_once = at_once

    def wait(self) -> T:
        self._at_once()
        return super().wait()


@attrs.define(eq=False)
class Group:
    """What was taken to be written together, and who waits for it."""

    rows: list[Row]
    asked: list[Reply[None]]


class SimulatedPool:
    """The slots that processes share. Questions are answered in the order in which they are asked, however late."""

    def __init__(self, journal: SimulatedJournal) -> None:
        self._journal = journal
        self._questions: deque[Callable[[], object]] = deque()

    def take(self, holder: str, limits: Mapping[str, Limit], slots: float) -> Reply[bool]:
        held = self._journal.disk.slots

        def answer() -> bool:
            has_room = all(
                sum(number for names, number in held.values() if name in names) + slots <= limit.slots
                for name, limit in limits.items()
            )
            if has_room:
                held[holder] = (limits, slots)
            return has_room

        reply: Reply[bool] = Reply()
        self._ask(lambda: reply.settle(answer()))
        return reply

    def give(self, holder: str) -> None:
        self._ask(lambda: self._journal.disk.slots.pop(holder, None))

    def _ask(self, question: Callable[[], object]) -> None:
        self._questions.append(question)
        self._journal.in_a_moment(lambda: self._questions.popleft()())


class SimulatedJournal:
    """One process's journal. `later(seconds, fn)` calls in virtual time.

    `wrote(before, after)` is told of every row, and `gave_up(key, record)` of every result that is to be deleted.
    """

    def __init__(
        self,
        disk: Disk,
        life: int,
        faults: Faults,
        later: Later,
        wrote: Callable[[Row | None, Row], None],
        gave_up: Callable[[str, Record], None],
    ) -> None:
        self.disk = disk
        self.life = life
        self.is_open = False
        self.excused = False
        """Set when somebody was told that the journal fails, or was not told anything for too long."""
        self._faults = faults
        self._later = later
        self._wrote = wrote
        self._gave_up = gave_up
        self._runs: deque[Run] = deque()
        self._results: dict[str, Record | None] = {}
        self._writing: dict[str, Record | None] = {}
        self._asked: list[Reply[None]] = []
        self._due = False
        self._group: Group | None = None
        """What is being written now."""
        self._waiting: list[Reply[Any]] = []
        self._rooms: list[Reply[None]] = []
        self._full = False
        self._pool = SimulatedPool(self)

    # --- opening, closing, dying -----------------------------------------------------------------------------------

    def open(self) -> None:
        self.is_open = True

    def listen(self, hear: Callable[[str, Record], None]) -> None:
        """No other process is there to ask for anything."""

    @property
    def pool(self) -> SimulatedPool:
        return self._pool

    @property
    def timetable(self) -> Any:
        raise NotImplementedError("no schedules are served in a simulated world")

    def close(self) -> None:
        if self.is_open:
            self._write_at_once()
            self.die()

    def die(self) -> None:
        """The process is gone: nothing more gets to the disk, and nobody is told anything but that."""
        self.is_open = False
        asked = () if self._group is None else self._group.asked
        for reply in (*self._asked, *asked, *self._waiting, *self._rooms):
            reply.settle(error=self._closed())

    def _closed(self) -> JournalError:
        return JournalClosed(PATH, "its process has died", "Open an engine here.")

    # --- said ------------------------------------------------------------------------------------------------------

    @property
    def crowded(self) -> bool:
        if self.is_open and not self._full and self._due and self._faults.strikes("crowded"):
            self._full = True
        return self._full

    async def room(self) -> None:
        while self._full and self.is_open:
            reply: Reply[None] = Reply()
            self._rooms.append(reply)
            self._rouse()
            await reply

    def record(self, run: Run) -> None:
        if not run.recorded and self.is_open:
            run.recorded = True
            self._runs.append(run)
            self._rouse()

    def keep(self, key: str, record: Record) -> None:
        self._change(key, record)

    def discard(self, key: str) -> None:
        self._change(key, None)

    def _change(self, key: str, record: Record | None) -> None:
        if self.is_open:
            before = self.holds(key)
            if record is None and before is not None:
                self._gave_up(key, before)
            self._results[key] = record
            self._rouse()

    def log(self, run_id: str, at: int, level: str, logger: str, message: str) -> None:
        """Log records are no part of the simulation."""

    # --- writing ---------------------------------------------------------------------------------------------------

    def holds(self, key: str) -> Record | None:
        """What is under a key as far as the engine said, written or not."""
        for said in (self._results, self._writing):
            if key in said:
                return said[key]
        return self.disk.results.get(key)

    def _rouse(self, seconds: float = 0.0) -> None:
        if self._due or self._group is not None or not self.is_open:
            return
        self._due = True
        if self._faults.strikes("commit delayed"):
            seconds += self._faults.seconds(3)
        elif self._faults.strikes("commit stalled"):
            seconds += 11 + self._faults.seconds(9)  # more than the engine waits at the end of a run
            self.excused = True
        self._later(seconds, self._take)

    def _taken(self) -> list[Row]:
        runs = list(self._runs)
        self._runs.clear()
        for run in runs:
            run.recorded = False
        self._writing, self._results = self._results, {}
        return [self._row(run) for run in runs]

    def _row(self, run: Run) -> Row:
        parent = None if run.parent is None else run.parent.id
        name, history = run.definition.name, list(run.history)
        return Row(run.id, name, parent, run.step, run.call, run.expected_start_at, history, self.life)

    def _take(self) -> None:
        """Make the rows of a group; they are on the disk a little later, in one piece or in two."""
        if not self._due or not self.is_open:
            return
        self._due = False
        asked, self._asked = self._asked, []
        if self._faults.strikes("commit failed"):
            return self._fail(asked)
        group = self._group = Group(self._taken(), asked)
        seconds = 0.0
        if group.rows and self._faults.strikes("commit split"):
            cut = self._faults.random.randrange(len(group.rows))
            self._commit(group.rows[:cut])
            del group.rows[:cut]
            seconds = self._faults.seconds(0.5)
        self._later(seconds, lambda: self._finish(group))

    def _fail(self, asked: list[Reply[None]]) -> None:
        kind = self._faults.random.choice((JournalFull, JournalLocked))
        for reply in asked:
            self.excused = True
            reply.settle(error=kind(PATH, "the simulation says so", "Try another seed."))
        self._rouse(0.5)

    def _finish(self, group: Group) -> None:
        if self._group is not group or not self.is_open:
            return
        self._commit(group.rows)
        self._group = None
        self._full = False
        for reply in group.asked:
            self._answer(reply, lambda: None)
        rooms, self._rooms = self._rooms, []
        for room in rooms:
            room.settle()
        if self._runs or self._results or self._asked:
            self._rouse()

    def _write_at_once(self) -> None:
        """Write all there is, for somebody who holds the thread."""
        if self.is_open:
            group, self._group = self._group or Group([], []), None
            self._commit(group.rows)
            self._commit(self._taken())
            asked, self._asked = group.asked + self._asked, []
            for reply in asked:
                reply.settle()

    def _commit(self, rows: list[Row]) -> None:
        for key, record in self._writing.items():
            if record is None:
                self.disk.results.pop(key, None)
                self.disk.reserved.pop(key, None)
            else:
                self.disk.results[key] = record
        self._writing = {}
        for row in rows:
            self._put(row)

    def _put(self, row: Row) -> None:
        before = self.disk.rows.get(row.id)
        if before is not None:
            row.parent, row.step = before.parent, before.step
        self.disk.rows[row.id] = row
        self._wrote(before, row)

    # --- asked -----------------------------------------------------------------------------------------------------

    def commit(self) -> Reply[None]:
        if self.is_open and not self._runs and not self._results and self._group is None:
            return Reply.of(None)
        reply: Reply[None] = Answer(self._write_at_once)
        if self.is_open:
            self._asked.append(reply)
            self._rouse()
        else:
            reply.settle(error=self._closed())
        return reply

    def _ask(self, answer: Callable[[], T]) -> Reply[T]:
        """Have a question answered in a moment, by what is on the disk then."""
        reply: Reply[T] = Answer(lambda: reply.settle(answer()))
        if self.is_open:
            self._waiting.append(reply)
            self._answer(reply, answer)
        else:
            reply.settle(error=self._closed())
        return reply

    def _answer(self, reply: Reply[T], answer: Callable[[], T]) -> None:
        self.in_a_moment(lambda: reply.settle(answer()) if self.is_open else reply.settle(error=self._closed()))

    def in_a_moment(self, fn: Callable[[], object]) -> None:
        """Call `fn` when the service comes to it."""
        self._later(self._faults.seconds(2) if self._faults.strikes("answer late") else 0.0, fn)

    def load(self, key: str) -> Reply[Record | None]:
        for said in (self._results, self._writing):
            if key in said:
                return Reply.of(said[key])
        return self._ask(lambda: self.disk.results.get(key))

    def oldest(self, prefix: str) -> Reply[tuple[str, Record] | None]:
        found = self.disk.results
        return self._ask(lambda: next(((key, found[key]) for key in sorted(found) if key.startswith(prefix)), None))

    def reserve(self, key: str, run_id: str) -> Reply[bool]:
        return self._ask(lambda: self.disk.reserved.setdefault(key, self.life) == self.life)

    def find(self, run_id: str) -> Reply[Earlier | None]:
        return self._ask(lambda: self._earlier(run_id))

    def _earlier(self, run_id: str) -> Earlier | None:
        row = self.disk.rows.get(run_id)
        return None if row is None else row.earlier()

    def enroll(self, run: Run) -> Reply[Earlier | None]:
        def answer() -> Earlier | None:
            earlier = self._earlier(run.id)
            if earlier is None:
                self._put(self._row(run))
            return earlier

        return self._ask(answer)

    def claim(self, run_id: str, types: Sequence[StateType], entry: Entry) -> Reply[Earlier | None]:
        def answer() -> Earlier | None:
            row = self.disk.rows.get(run_id)
            if row is None or row.history[-1][0] not in types:
                return None
            self._put(attrs.evolve(row, history=[*row.history, entry], life=self.life))
            return self._earlier(run_id)

        return self._ask(answer)

    def past(self, root: str) -> Reply[Past]:
        return self._ask(lambda: self._past(root))

    def _past(self, root: str) -> Past:
        past = Past()
        for key, record in self.disk.results.items():
            if not key.startswith(f"step:{root}/"):
                continue
            about = dict(record.about or {})
            if record.run_id not in self.disk.rows:
                about["rowless"] = True
            value = None if self._faults.strikes("record big") else record.value
            found = past.recorded.setdefault(f"{root}/{about['parent']}", {})
            found[key.removeprefix("step:")] = attrs.evolve(record, value=value, about=about)
        for row in sorted(self.disk.rows.values(), key=lambda row: row.id):
            if row.step is not None and row.step.startswith(f"{root}/") and row.id != root and row.ended:
                past.unfinished[row.step] = row.earlier()
        return past

    def fork(self, root: str, at: str, new_root: str) -> Reply[None]:
        raise NotImplementedError

    def recoverable(self) -> Reply[list[Earlier]]:
        return self._ask(lambda: [row.earlier() for row in self.disk.recoverable()])
