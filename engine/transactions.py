"""Transactions: task runs that count together, or are undone together, in reverse order.

The block around the calls decides: when it is left in the ordinary way its runs are committed, when it raises they are
rolled back. What a cached task computed inside is kept for others only with the commit. In a durable flow a roll-back
goes on where a crash broke it off: the flow that is resumed makes the same calls, is handed the same results, and runs
nothing new inside the block. How far it came is the business of `trail.py`.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, NamedTuple

import anyio
import attrs
from anyio.from_thread import run as run_in_loop

from .context import CURRENT, TRANSACTION, core_here
from .core import Core, logger
from .errors import RolledBack, WouldBlock
from .finishing import undisturbed
from .ports import Record
from .run import Outcome, Run, RunView
from .states import COMPLETED, RUNNING, transition
from .tracebacks import describe
from .trail import Trail, completed_inside
from .waking import Waker, in_event_loop, is_cancellation, standing_aside


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
        self._trail: Trail | None = None
        """What it records, in a durable flow."""
        self._over = False

    # --- data ------------------------------------------------------------------------------------------------------

    def set(self, name: str, value: Any) -> None:
        """Remember something for the hooks. In a durable flow it is recorded, so it has to be serializable."""
        data = self._data | {name: value}
        if self._trail is not None:
            self._trail.keep("data", data)
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
        own = [] if self._trail is None else [self._trail.step.rpartition("/")[2]]
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
        self._core: Core = core_here()
        self.outer = TRANSACTION.get()
        if run is not None and run.step is not None:
            self._trail = Trail(run, self.key, self._waits_here)
            self.cause, self._data = await self._trail.look_back()
        TRANSACTION.set(self)

    async def bring_back(self, run: Run) -> None:
        """Take in what ran inside a run that is handed back, in an earlier process: here it won't run."""
        async for child, result, data in completed_inside(run, self._trail):
            self._done.append(Done(child, result, self._around(data)))

    def _around(self, data: list[dict[str, Any]]) -> Transaction:
        """Transactions inside this one again, by what was set in them, the outer ones first: what the hooks ask."""
        innermost = self
        for each in data:
            made = Transaction()
            made.outer, made._data = innermost, each
            innermost = made
        return innermost

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
            await self._say(None, self.cause)
        for done in reversed(self._done):
            await self._call_hooks("rollback", done)
            await self._mark(done.run)
        await self._say("ended")
        if error is None:
            raise RolledBack(self.cause)

    async def _mark(self, run: Run) -> None:
        """Have the run's record say that it was rolled back, unless it does."""
        if len(run.history) == 1:
            # It was handed back; its story is in the journal alone.
            find = self._core.journal.find(run.id)
            earlier = find.wait() if self._waits_here else await find
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
        if self._trail is not None and self._trail.has(name):
            return
        hooks = run.definition.on_commit_hooks if when == "commit" else run.definition.on_rollback_hooks
        part = Part(run.view(), done.result, done.transaction)
        for hook in hooks:
            try:
                await self._call(hook, part)
            except Exception:
                logger.exception("on_%s hook %r of task run %r raised.", when, hook, run.name)
        if hooks or when == "rollback":
            await self._say(name, at_once=bool(hooks))

    async def _say(self, name: str | None, value: object = None, at_once: bool = True) -> None:
        if self._trail is not None:
            await self._trail.say(name, value, at_once)

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
