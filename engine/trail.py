"""The trail that a transaction leaves in the journal of a durable flow, and what it says in a later process.

Recorded are what was `set` in the block, that its roll-back has begun and why, each run whose hooks were called, and
that the roll-back has ended: all that is needed to go on with it after a crash. What is done about it, and when, is the
business of `transactions.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio

from .codec import decode, encode
from .core import logger
from .durable import Told, next_step, recorded_outcome, whole
from .errors import JournalError
from .ports import Journal, Past, Record
from .registry import find_definition
from .run import Run
from .states import COMPLETED
from .waking import Reply


class Trail:
    """What one transaction has recorded, in this process and in earlier ones."""

    def __init__(self, run: Run, key: str | None, waits_here: bool) -> None:
        self.step = next_step(run, "undertow.transaction", key or "")
        self._run = run
        self._journal = run.core.journal
        self._waits_here = waits_here

    # --- looking back ----------------------------------------------------------------------------------------------

    async def look_back(self) -> tuple[str | None, dict[str, Any]]:
        """Why an earlier process began to roll it back, if one did, and what it set.

        Nothing, where a transaction that was rolled back is tried again: then it begins anew.
        """
        past = self._run.past
        if past is None:
            return None, {}
        own = past.recorded.get(self.step, {})
        if past.retries_failures and f"{self.step}.ended" in own:
            self._begin_anew(past)
            return None, {}
        begun, data = self._around(past).get(self.step), own.get(f"{self.step}.data")
        cause = None if begun is None else await self._value(self.step, begun)
        return cause, {} if data is None else await self._value(f"{self.step}.data", data)

    def has(self, name: str) -> bool:
        """Whether an earlier process came as far as this."""
        past = self._run.past
        return past is not None and f"{self.step}.{name}" in past.recorded.get(self.step, {})

    def _around(self, past: Past) -> dict[str, Record]:
        """What is recorded in the run that the transaction is opened in."""
        assert self._run.step is not None
        return past.recorded.get(self._run.step, {})

    def _begin_anew(self, past: Past) -> None:
        """Forget the runs that were undone and those that they ran in, and last that they were undone."""
        root, _, _ = self.step.partition("/")
        own = past.recorded.pop(self.step)
        inside = {step: where for where, records in past.recorded.items() for step in records}
        undone = {f"{root}/{name.rpartition('.')[2]}" for name in own if ".rollback." in name}
        for step in undone:
            while (where := inside.pop(step, None)) is not None:
                self._forget(past.recorded[where], step)
                step = where if where != self._run.step else ""
        for name in own:
            self._journal.discard(f"step:{name}")
        self._forget(self._around(past), self.step)

    def _forget(self, records: dict[str, Record], step: str) -> None:
        del records[step]
        self._journal.discard(f"step:{step}")

    async def _value(self, step: str, record: Record) -> Any:
        return await _value(record, step, self._journal, self._told)

    async def _told(self, reply: Reply[Any]) -> Any:
        return reply.wait() if self._waits_here else await reply

    # --- going on --------------------------------------------------------------------------------------------------

    def keep(self, name: str | None, value: object) -> None:
        """Record how far it came, or, without a name, that it is rolled back. What can't be serialized raises."""
        run = self._run
        where = (run.step or "") if name is None else self.step
        about = {"parent": where.partition("/")[2], "call": f"transaction {name or 'roll-back'}"}
        record = Record(encode(value), "msgpack", run.core.new_id(), run.core.clock.now(), None, about)
        self._journal.keep(f"step:{self.step}" if name is None else f"step:{self.step}.{name}", record)

    async def say(self, name: str | None, value: object, at_once: bool) -> None:
        """`keep`, and wait until it is on disk; a journal that fails keeps no hook from being called."""
        try:
            self.keep(name, value)
            if not at_once:
                return
            reply = self._journal.commit()
            if self._waits_here:
                reply.wait()
            else:
                with anyio.move_on_after(self._run.core.finish_seconds, shield=True):
                    await reply
        except JournalError as error:
            logger.error("How far a transaction came is not on disk. %s", error)


# --- what ran in earlier processes ---------------------------------------------------------------------------------


async def completed_inside(run: Run, trail: Trail | None) -> AsyncIterator[tuple[Run, Any, list[dict[str, Any]]]]:
    """The task runs that completed inside a run that is handed back, but for those that were undone by themselves.

    Each comes with its result, where its hooks want that, and with what was set in the transactions around it, the
    outer ones first, as far as these are inside the one of the trail.
    """
    past = run.past
    assert past is not None
    assert run.step is not None
    root = run.step.partition("/")[0]
    for step, record in sorted(past.recorded.get(run.step, {}).items(), key=lambda item: item[1].run_id):
        about = record.about or {}
        blocks = [f"{root}/{each}" for each in about.get("transactions", ())]
        inner = blocks[: blocks.index(trail.step)] if trail is not None and trail.step in blocks else []
        if any(f"{block}.rollback.{step.rpartition('/')[2]}" in past.recorded.get(block, {}) for block in inner):
            continue
        child = Run(
            record.run_id, run.definition, run.core, run, (), {}, [(COMPLETED, "Completed", "", record.kept_at)],
            frozenset(), run.flow, None, on_the_spot=run.on_the_spot,
            step=step, past=past, recorded=True, transaction=run.transaction,
        )  # fmt: skip
        async for each in completed_inside(child, trail):
            yield each
        if "task" in about:
            child.definition = find_definition(run.id, about["task"])
            result = await _result(child, step, record)
            yield child, result, [await _set_in(run, past, block) for block in reversed(inner)]


async def _result(run: Run, step: str, record: Record) -> Any:
    if not run.definition.has_parts:
        return None
    return recorded_outcome(run, await whole(record, step, run.core.journal, run.told)).data


async def _set_in(run: Run, past: Past, block: str) -> Any:
    step = f"{block}.data"
    record = past.recorded.get(block, {}).get(step)
    return {} if record is None else await _value(record, step, run.core.journal, run.told)


async def _value(record: Record, step: str, journal: Journal, told: Told) -> Any:
    return decode((await whole(record, step, journal, told)).value or b"\xc0")
