"""Futures: the handles of submitted runs, and waiting for one from loops and threads alike.

A future holds the outcome of its run once there is one, and nobody else does: dropping the future drops the value.
Waiting leaves nothing behind when it times out or is cancelled, and nothing here ever blocks an event loop. Waiting for
many is the business of `gathering.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from .context import CURRENT
from .errors import RunUnfinished, SelfDependency, UpstreamFailed, WouldBlock
from .events import Events
from .run import Handles, Outcome, Run
from .spill import Spilled
from .states import CANCELLED, COMPLETED, SKIPPED, State
from .waking import Waker, in_event_loop, post, standing_aside

if TYPE_CHECKING:
    from anyio import TaskHandle

    from .host import Host

R_co = TypeVar("R_co", covariant=True)


class Future(Generic[R_co]):
    """The handle of a submitted run. `await future` is the result, or raises the task's own exception."""

    __slots__ = ("__weakref__", "_callbacks", "_cancelled", "_handle", "_outcome", "_received", "home", "run")

    def __init__(self, run: Run, home: Host) -> None:
        Handles.made = True
        self.run = run
        self.home = home
        self._outcome: Outcome | None = None
        self._callbacks: list[Callable[[], object]] | None = None
        self._handle: TaskHandle[Any, Any] | None = None
        self._cancelled = False
        self._received = False

    def __repr__(self) -> str:
        return f"<Future of {self.run.kind} run {self.run.name!r}, {self.state.name}>"

    # --- now ---------------------------------------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """The id of the run, as in the journal."""
        return self.run.id

    @property
    def done(self) -> bool:
        """Whether the run has ended."""
        return self._outcome is not None

    @property
    def state(self) -> State[R_co]:
        """The state of the run now; terminal states carry the result or the exception."""
        return self.run.state_before_its_end() if self._outcome is None else self.outcome().state(self.run)

    def get_state(self) -> State[R_co]:
        """`state`, as a method."""
        return self.state

    def events(self) -> Events:
        """What happens to the run and inside it, as it happens: `async for event in future.events()`.

        Its history so far comes first, and its final state last.
        """
        return Events(self.run, self)

    # --- from async code ---------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, Any, R_co]:
        if self._outcome is None or self._outcome.type is CANCELLED:
            yield from self.settled().__await__()
        outcome = self._outcome
        if outcome is not None and type(outcome.data) is Spilled:
            return (yield from outcome.data.fetch().__await__())  # type: ignore[no-any-return]
        value: R_co = self._value()
        return value

    async def wait_async(self, timeout: float | None = None) -> State[R_co] | None:
        """Wait until the run has ended; `None` if that takes more than `timeout` seconds."""
        with anyio.move_on_after(timeout):
            await self.settled()
        return self._final_state() if self.done else None

    async def result_async(self, timeout: float | None = None, raise_on_failure: bool = True) -> R_co:
        """Wait for the result. Raises the task's own exception, or returns it with `raise_on_failure=False`.

        Raises `TimeoutError` if it takes more than `timeout` seconds.
        """
        with anyio.move_on_after(timeout):
            await self.settled()
        value: R_co = self._value(raise_on_failure, timeout)
        return value

    # --- from threads ------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> State[R_co] | None:
        """The final state, waiting for it; `None` if that takes more than `timeout` seconds.

        On an event loop's thread only a done future can be asked: otherwise `WouldBlock`.
        """
        self._block(timeout, "wait", "await future.wait_async()")
        return self._final_state() if self.done else None

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> R_co:
        """The result, waiting for it. Raises as `result_async` does, and `WouldBlock` as `wait` does."""
        self._block(timeout, "result", "await future")
        value: R_co = self._value(raise_on_failure, timeout)
        return value

    # --- ending it ---------------------------------------------------------------------------------------------

    def cancel(self, reason: str = "") -> None:
        """Ask the run to end in Cancelled, after its cleanup. Does nothing to a run that has ended."""
        if self.done or self._cancelled:
            return
        self._cancelled = True
        self.run.cancel_reason = reason or "cancel() was called on its future"
        self._at_home(self._cancel_member)

    def _cancel_member(self) -> None:
        if self._handle is not None and not self.done:
            self._handle.cancel()

    def started(self, handle: TaskHandle[Any, Any]) -> None:
        """Its member has been started."""
        self._handle = handle
        if self._cancelled:
            handle.cancel()

    def settle(self, outcome: Outcome) -> None:
        """The run has ended so: wake everybody who waits. Called once, in the run's loop."""
        budget = self.run.core.budget
        self._outcome = outcome if budget is None else budget.keep(self, outcome)
        self._handle = None
        tally = self._tally()
        if tally is not None and outcome.type not in (COMPLETED, SKIPPED):
            tally.unreceived += 1
        callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            callback()

    # --- inside ------------------------------------------------------------------------------------------------

    def outcome(self) -> Outcome:
        """How the run ended. Raises `RunUnfinished` while it has not."""
        if self._outcome is None:
            raise RunUnfinished(self.run.name, self.state.name)
        return self._outcome

    def taken(self) -> Outcome:
        """How the run ended, for somebody who acts on it: a failure counts as received."""
        outcome = self.outcome()
        if outcome.type is not COMPLETED:
            self.received()
        return outcome

    def received(self) -> None:
        """Somebody was given this failure, so it is no longer one that nobody looked at."""
        if self._received:
            return
        self._received = True
        outcome, tally = self.outcome(), self._tally()
        if isinstance(outcome.data, UpstreamFailed) and outcome.data.source is not None:
            outcome.data.source.received()
        if tally is not None and outcome.type not in (COMPLETED, SKIPPED):
            self._at_home(tally.receive)

    def on_done(self, callback: Callable[[], object]) -> None:
        """Call `callback` once the run has ended, in its loop; at once when it has."""
        if self.done:
            callback()
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def forget(self, callback: Callable[[], object]) -> None:
        """Undo `on_done`."""
        if self._callbacks is not None and callback in self._callbacks:
            self._callbacks.remove(callback)

    def _tally(self) -> Any:
        parent = self.run.parent
        return parent.tally if parent is not None else None

    async def settled(self) -> None:
        """Wait until the run has ended, and no more: its failure is not received by that."""
        if self._outcome is None:
            waker = Waker()
            with waiting_for([self]):
                self.watch(waker.wake)
                try:
                    await waker.wait()
                finally:
                    self.forget(waker.wake)
        if self._outcome is not None and self._outcome.type is CANCELLED:
            # What cancelled the run may have cancelled the waiter too, who is to be told that first.
            await checkpoint_if_cancelled()

    def _block(self, timeout: float | None, method: str, instead: str) -> None:
        if self.done:
            return
        if in_event_loop():
            raise WouldBlock(f"{method}() on {self!r}", instead)
        flag = threading.Event()
        with waiting_for([self]):
            self.watch(flag.set)
            try:
                with standing_aside():
                    flag.wait(timeout)
            finally:
                self.forget(flag.set)

    def watch(self, callback: Callable[[], object]) -> None:
        """`on_done` from any thread; elsewhere than at home it is registered in the run's own loop."""
        if self.done:
            callback()
        else:
            self._at_home(self.on_done, callback)

    def _at_home(self, fn: Callable[..., object], *args: Any) -> None:
        if self.home.is_here():
            fn(*args)
        else:
            post(self.home.token, fn, *args)

    def _final_state(self) -> State[R_co]:
        return self.taken().state(self.run)

    def _value(self, raise_on_failure: bool = True, timeout: float | None = None) -> Any:
        if self._outcome is None:
            raise TimeoutError(f"{self.run.kind.capitalize()} run {self.run.name!r} did not end within {timeout:g} s.")
        return deliver(self.taken(), self.run, raise_on_failure)


def deliver(outcome: Outcome, run: Run, raise_on_failure: bool = True) -> Any:
    """The value of an outcome as a caller gets it: the result, or the run's own exception raised (or returned)."""
    if outcome.type is COMPLETED and not isinstance(outcome.data, State):
        return outcome.data.load() if type(outcome.data) is Spilled else outcome.data
    state = outcome.state(run)
    if not raise_on_failure:
        return state.result(raise_on_failure=False)
    if outcome.traceback is not None and isinstance(outcome.data, BaseException):
        # As it was when the run ended: a failure given to several must not collect the frames of all of them.
        outcome.data.__traceback__ = outcome.traceback
    try:
        return state.result()
    finally:
        # The raised exception's traceback holds this frame; it must not hold the outcome in turn.
        del state, outcome


@contextmanager
def waiting_for(futures: Sequence[Future[Any]]) -> Iterator[None]:
    """Around a wait: the current run needs these runs to end. Raises `SelfDependency` if one of them needs it."""
    waiter = CURRENT.get()
    targets = tuple(future.run for future in futures if not future.done)
    if waiter is None or not targets:
        yield
        return
    # First noted, then checked: of two threads that close a circle at once, at least one sees it.
    waiter.awaiting += targets
    try:
        _refuse_circles(waiter, targets)
        yield
    finally:
        left = list(waiter.awaiting)
        for run in targets:
            left.remove(run)
        waiter.awaiting = tuple(left)


def _refuse_circles(waiter: Run, targets: Sequence[Run]) -> None:
    """Raise `SelfDependency` if one of the targets can only end after `waiter`."""
    line = set(waiter.ancestors())
    seen: set[Run] = set()
    pending = list(targets)
    while pending:
        run = pending.pop()
        if run in line:
            raise SelfDependency(waiter.name)
        if run not in seen:
            seen.add(run)
            pending.extend(run.awaiting)
