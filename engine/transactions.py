"""Transactions: task runs that count together, or are undone together, in reverse order.

The block around the calls decides: when it is left in the ordinary way its runs are committed, when it raises they are
rolled back. What a cached task computed inside is kept for others only with the commit. In a durable flow it is
recorded that a roll-back has begun, and how far it came, so that a crash in the middle of one does not end it: the
flow that is resumed makes the same calls, is handed the same results, runs nothing new inside the block, and goes on
rolling back.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import anyio
import attrs
from anyio.from_thread import run as run_in_loop

from .codec import decode, encode
from .context import CURRENT, TRANSACTION, current_core
from .core import Core, logger
from .durable import next_step
from .errors import RolledBack, WouldBlock
from .ports import Record
from .states import COMPLETED, RUNNING, transition
from .waking import Reply, Waker, in_event_loop, standing_aside

if TYPE_CHECKING:
    from .run import Outcome, Run, RunView


@attrs.frozen
class Part:
    """A completed task run of a transaction, as its `on_commit` and `on_rollback` hooks are given it."""

    run: RunView
    result: Any
    transaction: Transaction = attrs.field(repr=False)

    def get(self, name: str, default: Any = None) -> Any:
        """What was `set` in the transaction, or in one around it."""
        return self.transaction.get(name, default)

    def set(self, name: str, value: Any) -> None:
        """Remember something in the transaction."""
        self.transaction.set(name, value)


class Transaction:
    """The runs of one `transaction()` block. `async with` in async code, `with` in a thread."""

    def __init__(self, key: str | None = None) -> None:
        self.key = key
        self.outer: Transaction | None = None
        self.cause: str | None = None
        """Why it is rolled back, once that has begun, perhaps in an earlier process."""
        self._data: dict[str, Any] = {}
        self._open: set[Run] = set()
        self._done: list[tuple[Run, Any]] = []
        self._held: dict[str, Record] = {}
        self._wake: Callable[[], object] | None = None
        self._waits_here = False
        self._step: str | None = None

    # --- data ------------------------------------------------------------------------------------------------------

    def set(self, name: str, value: Any) -> None:
        """Remember something for the hooks. In a durable flow it is recorded, so it has to be serializable."""
        self._data[name] = value
        if self._step is not None:
            self._record("data", encode(self._data))

    def get(self, name: str, default: Any = None) -> Any:
        """What was `set` here, or in a transaction around this one; else `default`."""
        if name in self._data:
            return self._data[name]
        return default if self.outer is None else self.outer.get(name, default)

    # --- its runs --------------------------------------------------------------------------------------------------

    def entered(self, run: Run) -> None:
        """A run was made inside."""
        self._open.add(run)

    def left(self, run: Run, outcome: Outcome) -> None:
        """A run that was made inside has ended."""
        if outcome.type is COMPLETED and outcome.name != "Cached" and run.kind == "task":
            self._done.append((run, outcome.data if run.definition.has_parts else None))
        self._open.discard(run)
        if self._wake is not None and not self._open:
            self._wake()

    def hold(self, key: str, record: Record) -> None:
        """Keep a cached result only when the transaction is committed."""
        self._held[key] = record

    # --- the block -------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Transaction:
        await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        TRANSACTION.set(self.outer)
        if error is None:
            await self._runs_ended()
            await self._end(None)
        else:
            with anyio.CancelScope(shield=True):
                with anyio.move_on_after(self._core.finish_seconds):
                    await self._runs_ended()
                await self._end(error)

    def __enter__(self) -> Transaction:
        if in_event_loop():
            raise WouldBlock("`with transaction()`", "async with transaction()")
        self._waits_here = True
        _on_the_spot(self._begin())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        TRANSACTION.set(self.outer)
        _on_the_spot(self._runs_ended())
        _on_the_spot(self._end(error))

    async def _begin(self) -> None:
        run = CURRENT.get()
        self._run = run
        self._core: Core = run.core if run is not None else current_core()
        self.outer = TRANSACTION.get()
        if run is not None and run.step is not None:
            self._step = next_step(run, "undertow.transaction", self.key or "")
            if run.past is not None:
                begun = run.past.recorded.get(run.step, {}).get(self._step)
                self.cause = None if begun is None else await self._value(self._step, begun)
                data = run.past.recorded.get(self._step, {}).get(f"{self._step}.data")
                self._data = {} if data is None else await self._value(f"{self._step}.data", data)
        TRANSACTION.set(self)

    async def _value(self, step: str, record: Record) -> Any:
        if record.value is None:
            record = await self._told(self._core.journal.load(f"step:{step}")) or record
        return decode(record.value or b"\xc0")

    async def _runs_ended(self) -> None:
        """Wait until every run that was made inside has ended."""
        if not self._open:
            return
        if self._waits_here:
            flag = threading.Event()
            self._wake = flag.set
            if self._open:
                with standing_aside():
                    flag.wait()
        else:
            waker = Waker()
            self._wake = waker.wake
            if self._open:
                await waker.wait()

    async def _end(self, error: BaseException | None) -> None:
        if error is not None or self.cause is not None:
            await self._roll_back(error)
        elif self.outer is not None:
            self.outer._done += self._done
            self.outer._held |= self._held
        else:
            await self._commit()
        self._done.clear()
        self._held.clear()

    async def _commit(self) -> None:
        for key, record in self._held.items():
            self._core.journal.keep(key, record)
        for run, result in self._done:
            await self._call_hooks("commit", run, result)

    async def _roll_back(self, error: BaseException | None) -> None:
        if self.cause is None:
            self.cause = f"{type(error).__name__}: {error}"
            if self._step is not None:
                self._record(None, encode(self.cause))
                await self._told(self._core.journal.commit())
        for run, result in reversed(self._done):
            if await self._call_hooks("rollback", run, result):
                await self._mark(run)
        if error is None:
            raise RolledBack(self.cause)

    async def _mark(self, run: Run) -> None:
        """Have the run's record say that it was rolled back."""
        if run.recorded and run.past is not None:
            # It was handed back; its story is in the journal alone.
            earlier = await self._told(self._core.journal.find(run.id))
            if earlier is not None:
                run.history, run.recorded = earlier.history, False
                run.attempts = sum(kind is RUNNING for kind, *_ in run.history)
        if run.history[-1][1] != "RolledBack":
            transition(run, COMPLETED, "RolledBack", f"Its transaction was rolled back: {self.cause}")

    # --- hooks -----------------------------------------------------------------------------------------------------

    async def _call_hooks(self, when: Literal["commit", "rollback"], run: Run, result: Any) -> bool:
        """Call a run's hooks, unless an earlier process did; one that raises is logged and stops none of the others."""
        name = f"{when}.{(run.step or run.id).rpartition('/')[2]}"
        past = self._run.past if self._run is not None else None
        if past is not None and self._step is not None and f"{self._step}.{name}" in past.recorded.get(self._step, {}):
            return False
        hooks = run.definition.on_commit_hooks if when == "commit" else run.definition.on_rollback_hooks
        part = Part(run.view(), result, self)
        for hook in hooks:
            try:
                await self._call(hook, part)
            except Exception:
                logger.exception("on_%s hook %r of task run %r raised.", when, hook, run.name)
        if self._step is not None and hooks:
            self._record(name, encode(None))
            await self._told(self._core.journal.commit())
        return True

    async def _call(self, hook: Callable[[Part], Any], part: Part) -> None:
        if self._waits_here:
            answer = hook(part)
            if inspect.isawaitable(answer):
                run_in_loop(_awaited, answer, token=self._core.portal.host().token)
            return
        with anyio.fail_after(self._core.finish_seconds, shield=True):
            answer = hook(part)
            if inspect.isawaitable(answer):
                await answer

    # --- records ---------------------------------------------------------------------------------------------------

    def _record(self, name: str | None, value: bytes) -> None:
        assert self._step is not None
        assert self._run is not None
        where = (self._run.step or "") if name is None else self._step
        about = {"parent": where.partition("/")[2], "call": f"transaction {name or 'roll-back'}"}
        core = self._core
        record = Record(value, "msgpack", core.new_id(), core.clock.now(), None, about)
        core.journal.keep(f"step:{self._step}" if name is None else f"step:{self._step}.{name}", record)

    async def _told(self, reply: Reply[Any]) -> Any:
        return reply.wait() if self._waits_here else await reply


async def _awaited(answer: Any) -> Any:
    return await answer


def _on_the_spot(coroutine: Any) -> None:
    """Run a coroutine that waits by holding its thread, and so never for a loop."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("a transaction in a thread must not wait for an event loop")


def transaction(key: str | None = None) -> Transaction:
    """A block of task runs that are committed together, or rolled back together in reverse order when it raises.

    Leaving the block waits for the runs that were submitted in it. Then each completed task's `on_commit` hooks are
    called, in order of completion; or, when the block raised, its `on_rollback` hooks, in reverse order, and the runs
    are RolledBack. A hook gets a `Part`: `.run`, `.result`, and `.get(name)` for what was `set(name, value)`. A block
    inside another one is committed with it. `key` identifies the block in a durable flow.

    `async with` in async code, `with` in a thread (on an event loop's thread that raises `WouldBlock`). Raises
    `RolledBack` where a durable flow is resumed whose roll-back had begun, and this time nothing raised.
    """
    return Transaction(key)


def get_transaction() -> Transaction | None:
    """The innermost transaction around the call."""
    return TRANSACTION.get()
