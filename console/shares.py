"""Where the time of one flow run went: every moment of it counted once, from the histories of the runs inside.

A moment counts as body time when any body is at work itself (running, with nothing open inside it); else as waiting for
a limit when any run does, else for the next attempt, else for somebody who resumes it; after the flow has ended it is
the journal's; and the rest is the engine's. Pure functions on plain values: nothing here runs or measures anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from ..engine.run import Run
from ..engine.states import CANCELLING, PAUSED, RUNNING, TERMINAL, Entry

BODY, LIMITS, RETRIES, PAUSES, JOURNAL, ENGINE = "body", "limits", "retries", "pauses", "journal", "engine"
PARTS = (BODY, LIMITS, RETRIES, PAUSES, JOURNAL, ENGINE)
_BY_NAME = {"AwaitingConcurrencySlot": LIMITS, "AwaitingRetry": RETRIES}
_ENDED, _IN_TASKS = "ended", "in tasks"
_WAITS = (LIMITS, RETRIES, PAUSES)


@attrs.frozen
class Life:
    """A run that has ended, as far as times go."""

    id: str
    parent_id: str | None
    kind: str
    function: str
    history: Sequence[Entry]
    attempts: int = 1
    is_step: bool = False

    @classmethod
    def of(cls, run: Run) -> Life:
        """What there is to know of a run; nothing of what it holds."""
        parent_id = None if run.parent is None else run.parent.id
        return cls(run.id, parent_id, run.kind, run.definition.name, run.history, run.attempts, run.is_step)


@attrs.frozen
class Calibration:
    """What the engine does between two entries of a history that say that a body is at work, in microseconds."""

    flow: float = 0.0
    """In an attempt of an empty flow."""
    task: float = 0.0
    """In an attempt of an empty task."""
    call: float = 0.0
    """In a body, around its call of an empty task."""
    step: float = 0.0
    """In an attempt of an empty task more, when it is recorded as a step of a durable flow: the journal's."""


@attrs.define
class Shares:
    """The time of one flow run or of several, in microseconds, by what it went into; the parts make up the whole."""

    total: float = 0.0
    parts: dict[str, float] = attrs.field(factory=lambda: dict.fromkeys(PARTS, 0.0))
    at_work: float = 0.0
    """Body time, where a moment counts for each body that was at work."""
    in_tasks: float = 0.0
    """As much of that as was in bodies of tasks."""
    tasks: int = 0
    flow_attempts: int = 0
    task_attempts: int = 0
    calls: int = 0
    """How often a body went on after what it had called."""
    steps: int = 0

    def add(self, other: Shares) -> None:
        """Take in the times of another flow run."""
        for field in attrs.fields(Shares):
            if field.name != "parts":
                setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        for part, spent in other.parts.items():
            self.parts[part] += spent

    @property
    def overlap(self) -> float:
        """How many bodies were at work on average, while any was."""
        return self.at_work / self.parts[BODY] if self.parts[BODY] >= 1 else 1.0

    def calibrated(self, known: Calibration) -> Shares:
        """The same, with what is known to be no body's work taken off the bodies' time and given to whose it is."""
        others = known.flow * self.flow_attempts + known.task * self.task_attempts + known.call * self.calls
        extra = {JOURNAL: known.step * self.steps, ENGINE: others}
        # Known of what each body took; of moments that are counted once, it is the same part.
        whole = max(self.at_work, sum(extra.values()))
        body = self.parts[BODY]
        given = {part: body * spent / whole for part, spent in extra.items()} if whole else {}
        parts = {part: spent + given.get(part, 0.0) for part, spent in self.parts.items()}
        left = body - sum(given.values())
        scale = left / body if body else 1.0
        parts[BODY] = left
        return attrs.evolve(self, parts=parts, at_work=self.at_work * scale, in_tasks=self.in_tasks * scale)


def shares(family: Sequence[Life], start: int, end: int) -> Shares:
    """The time of a flow run, from just before its call to just after; `family` is it and all that ran inside it."""
    found = Shares(total=end - start, tasks=sum(life.kind == "task" for life in family))
    found.flow_attempts = sum(life.attempts for life in family if life.kind == "flow")
    found.task_attempts = sum(life.attempts for life in family if life.kind == "task")
    found.steps = sum(life.is_step for life in family)
    _sweep(family, found)
    ids = {life.id for life in family}
    outermost = next(life for life in family if life.parent_id not in ids)
    found.parts[JOURNAL] = max(0, end - outermost.history[-1][3])
    found.parts[ENGINE] = found.total - sum(spent for part, spent in found.parts.items() if part != ENGINE)
    return found


def _sweep(family: Sequence[Life], found: Shares) -> None:
    """Go through all changes in the order of time, and count each moment for what was going on."""
    known = {life.id for life in family}
    phase: dict[str, str] = {}
    inside = dict.fromkeys(known, 0)
    kinds = {life.id: life.kind for life in family}
    going_on = dict.fromkeys((BODY, *_WAITS, _IN_TASKS), 0)
    before = 0

    def count(run_id: str, sign: int) -> None:
        now = phase.get(run_id, "")
        if now in _WAITS or (now == BODY and not inside[run_id]):
            going_on[now] += sign
            going_on[_IN_TASKS] += sign * (now == BODY and kinds[run_id] == "task")

    for at, life, now in sorted(_changes(family), key=lambda change: change[0]):
        moment = next((part for part in (BODY, *_WAITS) if going_on[part]), None)
        if moment is not None:
            found.parts[moment] += at - before
            found.at_work += (at - before) * going_on[BODY]
            found.in_tasks += (at - before) * going_on[_IN_TASKS]
        before = at
        touched = [life.id, life.parent_id] if life.parent_id in known else [life.id]
        for each in filter(None, touched):
            count(each, -1)
        if life.parent_id in known:
            inside[life.parent_id] += (life.id not in phase) - (now == _ENDED)
            found.calls += now == _ENDED and inside[life.parent_id] == 0
        phase[life.id] = now
        for each in filter(None, touched):
            count(each, 1)


def _changes(family: Sequence[Life]) -> Iterator[tuple[int, Life, str]]:
    """When which run went into what phase, up to its end."""
    for life in family:
        for kind, name, _, at in life.history:
            if kind in TERMINAL:
                yield at, life, _ENDED
                break  # what follows is a roll-back, in somebody else's time
            at_work = kind in (RUNNING, CANCELLING)
            yield at, life, BODY if at_work else PAUSES if kind is PAUSED else _BY_NAME.get(name, "")
