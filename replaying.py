"""Replay: recorded durable runs again, against the present code, with recorded outcomes in the place of every step.

It works on a copy of the journal, whose class refuses what is not recorded. What counts as a mismatch otherwise, and
how an outcome is handed back, is `engine/durable.py`'s matter.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from anyio.from_thread import start_blocking_portal

from .engine.errors import InvalidOption, RunCancelled, RunNotResumable, Skip, StepMismatch
from .engine.flow import Flow
from .engine.memo import unserialize
from .engine.ports import Earlier, Past, Record
from .engine.run import Run
from .engine.states import CANCELLED, PAUSED, RUNNING, SKIPPED, State
from .engine.virtual import VirtualClock
from .storage.journal import SQLiteJournal
from .storage.opening import MEMORY
from .storage.reading import Reader
from .wiring import Engine

RECORDED = """
SELECT id, state_type AS type, json_extract(history, '$[#-1][1]') AS name
FROM run WHERE step = id || '/' AND (:one IS NULL OR id = :one) ORDER BY id
"""


def replay(journal: str | os.PathLike[str] | Engine, flow: Flow[..., Any], run_id: str | None = None) -> list[str]:
    """Run every recorded durable run of a flow (or the one) again against the present code, and return their ids.

    No task's body is executed, only the flow's own: what it calls is given the recorded outcome. Runs that completed or
    failed are replayed, others have no end to compare with. The journal is not changed: it is replayed on a copy.

    Raises `StepMismatch` when the code does not do what is recorded, `RunNotResumable` for a run that is not there,
    and `JournalError`s.
    """
    path = _path(journal)
    if not isinstance(flow, Flow) or not flow.options.durable:
        raise InvalidOption("replay", flow, "a flow with durable=True")
    with TemporaryDirectory(prefix="undertow-replay-") as folder:
        copy = _Copy(f"{folder}/journal.db", durability="none")
        with Reader(path) as reader:
            reader.rows("VACUUM INTO ?", (copy.path,))
            rows = reader.rows(RECORDED, {"one": run_id})
        if Path(f"{path}.results").is_dir():
            shutil.copytree(f"{path}.results", f"{copy.path}.results")
        ended = {row["id"]: row["type"] for row in rows if _has_an_end(row)}
        if run_id is not None and run_id not in ended:
            raise RunNotResumable(run_id, "no durable run of that id has completed or failed in this journal")
        with start_blocking_portal(*VirtualClock().backend("asyncio")) as portal:
            return portal.call(_replay_all, copy, flow, ended, run_id is not None)


def _path(journal: str | os.PathLike[str] | Engine) -> str:
    """Where the journal is, with all that was said to it."""
    if isinstance(journal, Engine):
        journal.journal.commit().wait()
        path = str(getattr(journal.journal, "path", MEMORY))
    else:
        path = os.fspath(journal)
    if path == MEMORY:
        raise InvalidOption("journal", path, "a journal in a file: others can't be copied")
    return path


def _has_an_end(row: dict[str, Any]) -> bool:
    return row["type"] in ("COMPLETED", "FAILED") and row["name"] != "TimedOut"  # time is not replayed


async def _replay_all(copy: _Copy, flow: Flow[..., Any], ended: dict[str, str], named: bool) -> list[str]:
    # The same body and the same steps; but hooks tell the world, and a retry only waits for the same outcome again.
    quiet = flow.with_options(
        retries=0, on_running=None, on_completion=None, on_failure=None, on_cancellation=None, on_crashed=None
    )
    replayed = []
    async with Engine(copy) as engine:
        for run_id, kind in ended.items():
            start = await copy.load(f"start:{run_id}")
            if start is None:
                continue
            key, args, kwargs = unserialize(start)
            if key == flow.key:
                run: Run = quiet.make_run(args, kwargs, core=engine.core, run_id=run_id, parentless=True)
                copy.replays(run, await copy.past(run_id))
                _compare(run, kind, await quiet.awaited(run, return_state=True), copy.mismatches)
                replayed.append(run_id)
            elif named:
                raise RunNotResumable(run_id, f"it is a run of {key}, not of {flow.key}")
    return replayed


def _compare(run: Run, kind: str, state: State[Any], mismatches: list[StepMismatch]) -> None:
    if mismatches:
        raise mismatches[0]
    if isinstance(state.data, StepMismatch):
        raise state.data
    if state.type != kind:
        error = state.data if isinstance(state.data, BaseException) else None
        detail = f"run {run.id} is recorded as {kind}, and now ends {state.name}. {state.message}".rstrip(".")
        raise StepMismatch(run.definition.name, detail) from error


class _Copy(SQLiteJournal):
    """A copy of a journal, in which no step begins that is not recorded."""

    def replays(self, run: Run, past: Past) -> None:
        """A run of this past begins."""
        self._flow, run.past = run, past
        past.on_mismatch, past.is_whole, past.retries_failures = "raise", True, False
        self.mismatches: list[StepMismatch] = []
        self._ended: dict[str, Earlier] = past.unfinished
        self._steps = {step for steps in past.recorded.values() for step in steps}
        past.unfinished = {}  # what was broken off is not to go on

    def record(self, run: Run) -> None:
        """Have a run written, unless its body is about to be executed; that is recorded before it is."""
        if run.is_step and run.type is RUNNING:
            self._end_again(run)
            raise self._mismatch(run.parent or run, f"{run.kind} {run.definition.name!r}")
        if run.type is PAUSED:
            raise self._mismatch(run, "a pause")
        super().record(run)

    def keep(self, key: str, record: Record) -> None:
        """Have a result kept, but for that of a step that is new: a sleep, or a cached result."""
        if key.startswith("step:") and key.removeprefix("step:") not in self._steps:
            raise self._mismatch(self._flow, (record.about or {}).get("call", "a step"))
        super().keep(key, record)

    def _end_again(self, run: Run) -> None:
        """How a step ended that has no outcome on record, but for the state of its run."""
        earlier = self._ended.get(cast("str", run.step))
        kind, _, message, _ = earlier.history[-1] if earlier is not None else (None, "", "", 0)
        if kind is SKIPPED:
            raise Skip(message)
        if kind is CANCELLED:
            raise RunCancelled(run.name, message)

    def _mismatch(self, run: Run, call: str) -> StepMismatch:
        """Noted, for a body may well catch it."""
        past = run.past or Past()
        recorded = past.recorded.get(run.step or "", {})
        left = sorted(
            (record for step, record in recorded.items() if step not in past.asked), key=lambda each: each.run_id
        )
        calls = ", ".join(dict.fromkeys((record.about or {}).get("call", "a step") for record in left))
        other = f"recorded and not called so far is {calls}" if calls else "nothing else is recorded there"
        detail = f"it calls {call}, which is not recorded in run {run.id}; {other}"
        mismatch = StepMismatch(run.definition.name, detail)
        self.mismatches.append(mismatch)
        return mismatch
