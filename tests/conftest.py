"""What every test stands on: both backends, virtual time on each, and a journal that lives in the test."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

from tests.trouble import trouble
from undertow import Engine, State, StateType
from undertow.engine.limits import Limit
from undertow.engine.ports import Earlier, Past, Record, Standing
from undertow.engine.run import Run
from undertow.engine.states import Entry
from undertow.engine.waking import Reply
from undertow.testing import BACKENDS, EPOCH_2026, VirtualClock, VirtualLoop, virtual_time

__all__ = ["EPOCH_2026", "VirtualLoop"]  # for other test modules


class LoopClock:
    """Wall-clock time that follows the loop's own, from the first moment of 2026."""

    def __init__(self) -> None:
        self.blocked: list[float] = []

    def now(self) -> int:
        try:
            return EPOCH_2026 + int(anyio.current_time() * 1e6)
        except RuntimeError:
            return EPOCH_2026

    def block(self, seconds: float) -> None:
        self.blocked.append(seconds)


def earlier(run: Run) -> Earlier:
    """A run as a journal knows it."""
    fire = None if run.fire is None else (run.fire.schedule, run.fire.nominal)
    return Earlier(run.id, run.history, run.definition.name, run.step, run.expected_start_at, run.call, fire)


class ListPool:
    """The shared slots of a `ListJournal`."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[dict[str, Limit], float]] = {}

    def take(self, holder: str, limits: Mapping[str, Limit], slots: float) -> Reply[bool]:
        taken = {name: sum(n for held, n in self.held.values() if name in held) for name in limits}
        room = all(taken[name] + slots <= limit.slots for name, limit in limits.items())
        if room:
            self.held[holder] = (dict(limits), slots)
        return Reply.of(room)

    def give(self, holder: str) -> None:
        self.held.pop(holder, None)


class ListTimetable:
    """The schedules of a `ListJournal`. What it holds outlives engines, as a file would."""

    def __init__(self, journal: ListJournal) -> None:
        self._journal = journal
        self.standings: dict[str, Standing] = {}
        self.fires: dict[tuple[str, int], str] = {}
        self.asked_for: list[tuple[str, int, int | None]] = []

    def register(self, name: str, flow: str, told: str, now: int) -> Reply[Standing]:
        before = self.standings.get(name)
        if before is None:
            before = Standing(told, now, None)
        elif json.loads(before.told)["schedule"] != json.loads(told)["schedule"]:
            before = attrs.evolve(before, mark=max(before.mark, now))
        self.standings[name] = attrs.evolve(before, told=told)
        return Reply.of(self.standings[name])

    def look(self, name: str) -> Reply[Standing | None]:
        standing = self.standings.get(name)
        has_free = any(whose == name for whose, *_ in self.asked_for)
        return Reply.of(None if standing is None else attrs.evolve(standing, has_free=has_free))

    def take(self, name: str, nominal: int, run_id: str) -> Reply[bool]:
        free = self.standings[name].paused_at is None and (name, nominal) not in self.fires
        if free:
            self.fires[name, nominal] = run_id
        return Reply.of(free)

    def decide(self, name: str, nominal: int) -> Reply[None]:
        self.standings[name] = attrs.evolve(self.standings[name], mark=max(self.standings[name].mark, nominal))
        return Reply.of(None)

    def ask(self, name: str, nominals: Sequence[int], run_ids: Sequence[str], now: int) -> Reply[list[tuple[int, str]]]:
        new = [(at, run_id) for at, run_id in zip(nominals, run_ids, strict=True) if (name, at) not in self.fires]
        self.fires |= {(name, at): run_id for at, run_id in new}
        self.asked_for += [(name, at, now) for at, _ in new]
        return Reply.of(new)

    def take_free(self, name: str, most: int) -> Reply[list[tuple[int, str, int | None]]]:
        if self.standings[name].paused_at is not None:
            return Reply.of([])
        mine = sorted(each for each in self.asked_for if each[0] == name)[:most]
        self.asked_for = [each for each in self.asked_for if each not in mine]
        return Reply.of([(at, self.fires[name, at], asked_at) for _, at, asked_at in mine])

    def going(self, name: str, nominal: int, run_id: str) -> Reply[list[tuple[str, bool]]]:
        runs = [run for run in self._journal.runs.values() if run.fire is not None and run.fire.schedule == name]
        others = sorted((run for run in runs if not run.ended and run.id != run_id), key=lambda run: run.fire.nominal)
        return Reply.of([(run.id, run.attempts > 0) for run in others if run.attempts or run.fire.nominal < nominal])

    def pause(self, name: str, at: int) -> Reply[bool]:
        changes = self.standings[name].paused_at is None
        if changes:
            self.standings[name] = attrs.evolve(self.standings[name], paused_at=at)
        return Reply.of(changes)

    def resume(self, name: str, at: int) -> Reply[bool]:
        changes = self.standings[name].paused_at is not None
        if changes:
            self.standings[name] = attrs.evolve(self.standings[name], paused_at=None, mark=at)
        return Reply.of(changes)


class ListJournal:
    """A journal that keeps the runs it was told of, in order of their first record."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.kept: dict[str, Record] = {}
        self.logged: list[tuple[str, str, str, str]] = []
        self.crowded = False
        self.commits = 0
        self.is_open = False
        self.timetable = ListTimetable(self)
        self.pool = ListPool()

    def listen(self, hear: Callable[[str, Record], None]) -> None:
        self.hear = hear

    def record(self, run: Run) -> None:
        self.runs[run.id] = run

    def keep(self, key: str, record: Record) -> None:
        self.kept[key] = record

    def discard(self, key: str) -> None:
        self.kept.pop(key, None)

    def log(self, run_id: str, at: int, level: str, logger: str, message: str) -> None:
        self.logged.append((run_id, level, logger, message))

    def load(self, key: str) -> Reply[Record | None]:
        return Reply.of(self.kept.get(key))

    def oldest(self, prefix: str) -> Reply[tuple[str, Record] | None]:
        return Reply.of(next(((key, self.kept[key]) for key in sorted(self.kept) if key.startswith(prefix)), None))

    def reserve(self, key: str, run_id: str) -> Reply[bool]:
        return Reply.of(True)

    def find(self, run_id: str) -> Reply[Earlier | None]:
        run = self.runs.get(run_id)
        return Reply.of(None if run is None else earlier(run))

    def enroll(self, run: Run) -> Reply[Earlier | None]:
        found = self.find(run.id)
        self.runs.setdefault(run.id, run)
        return found

    def claim(self, run_id: str, types: Sequence[StateType], entry: Entry) -> Reply[Earlier | None]:
        run = self.runs.get(run_id)
        if run is None or run.type not in types:
            return Reply.of(None)
        run.history.append(entry)
        return Reply.of(earlier(run))

    def past(self, root: str) -> Reply[Past]:
        past = Past()
        for key, record in self.kept.items():
            if key.startswith(f"step:{root}/"):
                parent = f"{root}/{(record.about or {})['parent']}"
                past.recorded.setdefault(parent, {})[key.removeprefix("step:")] = record
        for run in self.runs.values():
            if run.step is not None and run.step.startswith(f"{root}/") and run.id != root and run.ended:
                past.unfinished[run.step] = earlier(run)
        return Reply.of(past)

    def fork(self, root: str, at: str, new_root: str) -> Reply[None]:
        raise NotImplementedError

    def recoverable(self) -> Reply[list[Earlier]]:
        return Reply.of([])

    def commit(self) -> Reply[None]:
        self.commits += 1
        return Reply.of(None)

    async def room(self) -> None:
        self.crowded = False

    def open(self) -> None:
        self.is_open = True

    def close(self) -> None:
        self.is_open = False

    def of(self, function: str) -> list[Run]:
        """The runs of one task or flow, oldest first."""
        return sorted((run for run in self.runs.values() if run.definition.name == function), key=lambda run: run.id)

    def story(self, function: str, which: int = 0) -> list[str]:
        """The names of the states that a run of that function went through."""
        return [name for _, name, _, _ in self.of(function)[which].history]


@pytest.fixture
def undertow_clock() -> VirtualClock:
    """A clock that has less patience with threads that never answer than a user's: several tests are about those."""
    clock = VirtualClock()
    clock.patience = 1.0
    return clock


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Every async test runs on both backends, in virtual time; one marked `real_time` in the machine's."""
    return virtual_time(request)


@pytest.fixture
def journal() -> ListJournal:
    return ListJournal()


@pytest.fixture
def make_engine(journal: ListJournal) -> Callable[..., Engine]:
    """Makes engines in virtual time, seeded, on the test's journal."""

    def make(**options: Any) -> Engine:
        options.setdefault("journal", journal)
        options.setdefault("clock", LoopClock())
        options.setdefault("monotonic", anyio.current_time)
        options.setdefault("random", random.Random(20260101))
        return Engine(**options)

    return make


@pytest.fixture
async def engine(make_engine: Callable[..., Engine]) -> AsyncIterator[Engine]:
    """An open engine around the test."""
    async with make_engine() as opened:
        yield opened


@pytest.fixture
def sync_engine(journal: ListJournal) -> Iterator[Engine]:
    """An open engine around a test that has no event loop."""
    with Engine(journal) as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a journal may be made."""
    return tmp_path / "app.db"


@pytest.fixture
def trouble_ahead() -> Iterator[None]:
    """The first time round, a flow that calls `failing_once` fails half way."""
    trouble[:] = [ConnectionError("half way")]
    yield
    trouble.clear()


def names(states: list[State[Any] | None]) -> list[str]:
    """The names of some states."""
    return [state.name for state in states if state is not None]
