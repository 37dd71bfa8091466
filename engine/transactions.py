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
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import anyio
import attrs
from anyio.from_thread import run as run_in_loop

from .codec import decode, encode
from .context import CURRENT, TRANSACTION, current_core
from .core import Core, logger
from .durable import next_step, recorded_outcome
from .errors import JournalError, RolledBack, WouldBlock
from .finishing import undisturbed
from .ports import Record
from .registry import find_definition
from .run import Outcome, Run, RunView
from .states import COMPLETED, RUNNING, transition
from .tracebacks import describe
from .waking import Reply, Waker, in_event_loop, is_cancellation, standing_aside

if TYPE_CHECKING:
    from .ports import Past


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


class Done(NamedTuple):
    """A completed task run, what its hooks are to be given, and the transaction that it was made in."""

    run: Run
    result: Any
    transaction: Transaction


class Transaction:
    """The runs of one `transaction()` block. `async with` in async code, `with` in a thread."""

    def __init__(self, key: str | None = None) -> None:
        self.key = key
        self.outer: Transaction | None = None
        self.cause: str | None = None
        """Why it is rolled back, once that has begun, perhaps in an earlier process."""
        self._data: dict[str, Any] = {}
        self._open: set[Run] = set()
        self._done: list[Done] = []
        self._held: dict[str, Record] = {}
        self._wake: Callable[[], object] | None = None
        self._waits_here = False
        self._step: str | None = None
        self._over = False

    # --- data ------------------------------------------------------------------------------------------------------

    def set(self, name: str, value: Any) -> None:
        """Remember something for the hooks. In a durable flow it is recorded, so it has to be serializable."""
        data = self._data | {name: value}
        if self._step is not None:
            self._record("data", encode(data))
        self._data = data

    def get(self, name: str, default: Any = None) -> Any:
        """What was `set` here, or in a transaction around this one; else `default`."""
        if name in self._data:
            return self._data[name]
        return default if self.outer is None else self.outer.get(name, default)

    # --- its runs --------------------------------------------------------------------------------------------------

    @property
    def doomed(self) -> str | None:
        """Why what is inside is rolled back, for its own sake or that of a transaction around it."""
        return self.cause or (None if self.outer is None else self.outer.doomed)

    @property
    def path(self) -> list[str]:
        """In a durable flow, what identifies it and the transactions around it, itself first."""
        own = [] if self._step is None else [self._step.rpartition("/")[2]]
        return own if self.outer is None else own + self.outer.path

    def entered(self, run: Run) -> None:
        """The life of a run that was made inside begins: leaving the block waits for its end."""
        if not self._over:
            self._open.add(run)
        elif self.outer is not None:
            run.transaction = self.outer
            self.outer.entered(run)
        else:
            run.transaction = None

    def left(self, run: Run, outcome: Outcome) -> None:
        """A run that was made inside has ended."""
        if outcome.type is COMPLETED and outcome.name != "Cached" and run.kind == "task":
            if self._over:
                logger.error("Task run %r completed when its transaction was over, and is no part of it.", run.name)
            else:
                self._done.append(Done(run, outcome.data if run.definition.has_parts else None, self))
        self._open.discard(run)
        if self._wake is not None and not self._open:
            self._wake()

    def hold(self, key: str, record: Record) -> None:
        """Keep a cached result only when the transaction is committed."""
        self._held[key] = record

    def held(self, key: str) -> Record | None:
        """A cached result that is to be kept, of this transaction or one around it."""
        return self._held.get(key) or (None if self.outer is None else self.outer.held(key))

    # --- the block -------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Transaction:
        await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        TRANSACTION.set(self.outer)
        if isinstance(error, GeneratorExit):
            return  # the coroutine is being thrown away: nothing can be awaited any more
        interrupt: BaseException | None = None
        if error is None:
            try:
                await self._runs_ended()
            except BaseException as raised:
                error = interrupt = raised
        await undisturbed(self._finish, error)
        if interrupt is not None:
            raise interrupt

    def __enter__(self) -> Transaction:
        if in_event_loop():
            raise WouldBlock("`with transaction()`", "async with transaction()")
        self._waits_here = True
        _on_the_spot(self._begin())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        TRANSACTION.set(self.outer)
        interrupt: BaseException | None = None
        if error is None:
            try:
                self._wait_here(None)
            except BaseException as raised:
                error = interrupt = raised
        self._wait_here(self._core.finish_seconds)
        _on_the_spot(self._end(error))
        if interrupt is not None:
            raise interrupt

    async def _begin(self) -> None:
        run = CURRENT.get()
        self._run = run
        self._core: Core = run.core if run is not None else current_core()
        self.outer = TRANSACTION.get()
        if run is not None and run.step is not None:
            self._step = next_step(run, "undertow.transaction", self.key or "")
            if run.past is not None:
                await self._look_back(run.past, run.past.recorded.get(run.step, {}))
        TRANSACTION.set(self)

    async def _look_back(self, past: Past, around: dict[str, Record]) -> None:
        """Read what is recorded of this transaction; where one that was rolled back is tried again, begin anew."""
        assert self._step is not None
        own = past.recorded.get(self._step, {})
        if past.retries_failures and f"{self._step}.ended" in own:
            self._begin_anew(past, around)
            return
        begun, data = around.get(self._step), own.get(f"{self._step}.data")
        self.cause = None if begun is None else await self._value(self._step, begun)
        self._data = {} if data is None else await self._value(f"{self._step}.data", data)

    def _begin_anew(self, past: Past, around: dict[str, Record]) -> None:
        """Forget the runs that were undone, and those that they ran in; and last, that they were."""
        assert self._step is not None
        root, _, _ = self._step.partition("/")
        own = past.recorded.pop(self._step)
        inside = {step: where for where, records in past.recorded.items() for step in records}
        undone = {f"{root}/{name.rpartition('.')[2]}" for name in own if ".rollback." in name}
        for step in undone:
            while (where := inside.pop(step, None)) is not None:
                self._forget(past.recorded[where], step)
                step = where if where != self._run_step else ""
        for name in own:
            self._core.journal.discard(f"step:{name}")
        self._forget(around, self._step)

    def _forget(self, records: dict[str, Record], step: str) -> None:
        del records[step]
        self._core.journal.discard(f"step:{step}")

    @property
    def _run_step(self) -> str:
        """Of the run that it is opened in."""
        return "" if self._run is None or self._run.step is None else self._run.step

    async def bring_back(self, run: Run) -> None:
        """Take in what ran inside a run that is handed back, in an earlier process: here it won't run."""
        past = run.past
        assert past is not None
        assert run.step is not None
        for step, record in sorted(past.recorded.get(run.step, {}).items(), key=lambda item: item[1].run_id):
            about = record.about or {}
            if "task" not in about:
                await self._bring_back_inside(run, step, record)
                continue
            blocks = [f"{run.step.partition('/')[0]}/{each}" for each in about["transactions"]]
            inner = blocks[: blocks.index(self._step)] if self._step in blocks else []
            if any(f"{block}.rollback.{step.rpartition('/')[2]}" in past.recorded.get(block, {}) for block in inner):
                continue  # its own transaction has undone it
            child = await self._bring_back_inside(run, step, record)
            child.definition = find_definition(run.id, about["task"])
            self._done.append(Done(child, await self._result(child, step, record), await self._remade(past, inner)))

    async def _bring_back_inside(self, run: Run, step: str, record: Record) -> Run:
        child = Run(
            record.run_id, run.definition, run.core, run, (), {}, [(COMPLETED, "Completed", "", record.kept_at)],
            frozenset(), run.flow, None, step=step, past=run.past, recorded=True, transaction=self,
        )  # fmt: skip
        await self.bring_back(child)
        return child

    async def _result(self, run: Run, step: str, record: Record) -> Any:
        if not run.definition.has_parts:
            return None
        return recorded_outcome(run, await self._whole(step, record)).data

    async def _remade(self, past: Past, blocks: list[str]) -> Transaction:
        """A transaction inside this one again, of a run that is handed back: what was set in it, for the hooks."""
        if not blocks:
            return self
        made = Transaction()
        made.outer = await self._remade(past, blocks[1:])
        data = past.recorded.get(blocks[0], {}).get(f"{blocks[0]}.data")
        made._data = {} if data is None else await self._value(f"{blocks[0]}.data", data)
        return made

    async def _value(self, step: str, record: Record) -> Any:
        return decode((await self._whole(step, record)).value or b"\xc0")

    async def _whole(self, step: str, record: Record) -> Record:
        """The record with its value, which a big one was read without."""
        if record.value is not None:
            return record
        return await self._told(self._core.journal.load(f"step:{step}")) or record

    async def _runs_ended(self) -> None:
        """Wait until every run that was made inside has ended."""
        if self._open:
            waker = Waker()
            self._wake = waker.wake
            if self._open:
                await waker.wait()

    def _wait_here(self, seconds: float | None) -> None:
        """`_runs_ended`, holding the thread, for so long at most."""
        if self._open:
            flag = threading.Event()
            self._wake = flag.set
            if self._open:
                with standing_aside():
                    flag.wait(seconds)

    async def _finish(self, error: BaseException | None) -> None:
        with anyio.move_on_after(self._core.finish_seconds):
            await self._runs_ended()
        await self._end(error)

    async def _end(self, error: BaseException | None) -> None:
        self._over = True
        try:
            if error is not None or self.cause is not None:
                await self._roll_back(error)
            elif self.outer is not None:
                self.outer._done += self._done
                self.outer._held |= self._held
            else:
                await self._commit()
        finally:
            self._done.clear()
            self._held.clear()

    async def _commit(self) -> None:
        for key, record in self._held.items():
            self._core.journal.keep(key, record)
        for done in self._done:
            await self._call_hooks("commit", done)

    async def _roll_back(self, error: BaseException | None) -> None:
        if self.cause is None:
            assert error is not None
            self.cause = _words(error)
            await self._say(None, encode(self.cause))
        for done in reversed(self._done):
            await self._call_hooks("rollback", done)
            await self._mark(done.run)
        await self._say("ended", encode(None))
        if error is None:
            raise RolledBack(self.cause)

    async def _mark(self, run: Run) -> None:
        """Have the run's record say that it was rolled back, unless it does."""
        if len(run.history) == 1:
            # It was handed back; its story is in the journal alone.
            earlier = await self._told(self._core.journal.find(run.id))
            if earlier is not None:
                run.history, run.recorded = earlier.history, False
                run.attempts = sum(kind is RUNNING for kind, *_ in run.history)
        if run.history[-1][1] != "RolledBack":
            transition(run, COMPLETED, "RolledBack", f"Its transaction was rolled back: {self.cause}")

    # --- hooks -----------------------------------------------------------------------------------------------------

    async def _call_hooks(self, when: Literal["commit", "rollback"], done: Done) -> None:
        """Call a run's hooks, unless an earlier process did; one that raises is logged and stops none of the others."""
        run = done.run
        name = f"{when}.{(run.step or run.id).rpartition('/')[2]}"
        past = self._run.past if self._run is not None else None
        if past is not None and self._step is not None and f"{self._step}.{name}" in past.recorded.get(self._step, {}):
            return
        hooks = run.definition.on_commit_hooks if when == "commit" else run.definition.on_rollback_hooks
        part = Part(run.view(), done.result, done.transaction)
        for hook in hooks:
            try:
                await self._call(hook, part)
            except Exception:
                logger.exception("on_%s hook %r of task run %r raised.", when, hook, run.name)
        if hooks or when == "rollback":
            await self._say(name, encode(None), at_once=bool(hooks))

    async def _call(self, hook: Callable[[Part], Any], part: Part) -> None:
        if self._waits_here:
            answer = hook(part)
            if inspect.isawaitable(answer):
                run_in_loop(_awaited, answer, self._core.finish_seconds, token=self._core.portal.host().token)
            return
        with anyio.fail_after(self._core.finish_seconds, shield=True):
            answer = hook(part)
            if inspect.isawaitable(answer):
                await answer

    # --- records ---------------------------------------------------------------------------------------------------

    async def _say(self, name: str | None, value: bytes, at_once: bool = True) -> None:
        """Record how far it came, in a durable flow; a journal that fails keeps no hook from being called."""
        if self._step is None:
            return
        try:
            self._record(name, value)
            if not at_once:
                return
            reply = self._core.journal.commit()
            if self._waits_here:
                reply.wait()
            else:
                with anyio.move_on_after(self._core.finish_seconds, shield=True):
                    await reply
        except JournalError as error:
            logger.error("How far a transaction came is not on disk. %s", error)

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


async def _awaited(answer: Any, seconds: float) -> Any:
    with anyio.fail_after(seconds):
        return await answer


def _words(error: BaseException) -> str:
    """Why a transaction is rolled back."""
    return "it was cancelled" if is_cancellation(error) else describe(error)


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
