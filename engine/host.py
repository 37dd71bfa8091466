"""Hosts: a task group in one event loop, where submitted runs are members.

Every flow run opens one around its body, an engine opens one for background runs, and a portal is a thread with a
loop and a host of its own, for calls that come from plain threads. A member never outlives its host.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from contextvars import Context, copy_context
from functools import partial
from types import TracebackType
from typing import Any

import anyio
from anyio import TaskHandle
from anyio.abc import TaskGroup
from anyio.from_thread import BlockingPortal, start_blocking_portal
from anyio.lowlevel import EventLoopToken, checkpoint, current_token

from .errors import RunCrashed
from .futures import Future
from .gathering import wait_async
from .run import CLOSED, Outcome, Run
from .states import CRASHED
from .waking import post

Life = Callable[[Run, Future[Any]], Coroutine[Any, Any, None]]

AT_ONCE = 100
"""Members that are started in one turn of the loop. A started member is some twenty objects, which the garbage
collector goes through again and again while more are made; one that still waits to be started is a tenth of that."""


class Host:
    """A task group and the loop it lives in."""

    __slots__ = (
        "_group",
        "_members",
        "_services",
        "_started",
        "_thread",
        "_waiting",
        "cancelled_for",
        "lasting",
        "token",
    )

    def __init__(self, group: TaskGroup, keep_members: bool, lasting: bool) -> None:
        self._group = group
        self._members: set[Future[Any]] | None = set() if keep_members else None
        self._services: list[TaskHandle[Any, Any]] = []
        self.cancelled_for = ""
        """Why the whole of it was cancelled, when it was."""
        self.lasting = lasting
        self._started = 0
        self._waiting: deque[tuple[Context, Life, Run, Future[Any]]] = deque()
        self._thread = threading.get_ident()
        self.token: EventLoopToken = current_token()

    def is_here(self) -> bool:
        """Whether the calling thread is the host's own."""
        return threading.get_ident() == self._thread

    def spawn(self, life: Life, run: Run, future: Future[Any]) -> None:
        """Start a member, from any thread and without waiting."""
        if threading.get_ident() == self._thread:
            self._spawn_here(life, run, future)
        else:
            post(self.token, self._spawn_posted, life, run, future)

    def _spawn_posted(self, life: Life, run: Run, future: Future[Any]) -> None:
        """Nobody up the stack could be told that the group has closed meanwhile, so the future is."""
        try:
            self._spawn_here(life, run, future)
        except RuntimeError as error:
            future.settle(Outcome(CRASHED, "Crashed", str(error), RunCrashed(run.name, str(error))))

    def _spawn_here(self, life: Life, run: Run, future: Future[Any]) -> None:
        if self._members is not None:
            self._members.add(future)
            future.on_done(partial(self._members.discard, future))
        if not self._waiting and self._started < AT_ONCE:
            self._start(life, run, future)
            return
        if not self._waiting:
            self._group.start_soon(self._start_in_turn)
        self._waiting.append((copy_context(), life, run, future))

    def _start(self, life: Life, run: Run, future: Future[Any]) -> None:
        self._started += 1
        future.started(self._group.start_soon(life, run, future, name=run.definition.name))

    async def _start_in_turn(self) -> None:
        """Start those who wait, so many at a time: each turn of the loop lets the ones before begin, or even end."""
        try:
            while self._waiting:
                await checkpoint()
                self._start_some(AT_ONCE)
        finally:
            self._start_some(len(self._waiting))  # the group is being cancelled, and so are they, each by itself

    def _start_some(self, number: int) -> None:
        self._started = 0
        for _ in range(min(number, len(self._waiting))):
            context, life, run, future = self._waiting.popleft()
            context.run(self._start, life, run, future)

    def serve(self, service: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Start what goes on for as long as the host does. Called in the host's loop."""
        self._services.append(self._group.start_soon(service, *args))

    def stop_services(self) -> None:
        """Cancel what `serve` started. Called in the host's loop."""
        while self._services:
            self._services.pop().cancel()

    def cancel(self, reason: str) -> None:
        """Cancel the members and the body, from any thread."""
        if threading.get_ident() == self._thread:
            self.cancelled_for = reason
            self._group.cancel_scope.cancel()
        else:
            with suppress(RuntimeError):  # its loop has ended, and it with it
                post(self.token, self.cancel, reason)

    def cancel_members(self, reason: str) -> None:
        """Cancel the members and not the body; for hosts that keep their members. Called in the host's loop."""
        for future in tuple(self._members or ()):
            future.cancel(reason)

    async def drain(self, grace_seconds: float, reason: str) -> None:
        """Wait until no member is left, and after `grace_seconds` cancel the rest; where members are kept."""
        services = tuple(self._services)
        self.stop_services()
        for service in services:
            await service.wait()  # until it has let go of what it had begun
        with anyio.move_on_after(grace_seconds):
            while self._members:
                await wait_async(self._members)
        self.cancel_members(reason)


class open_host:  # a context manager, and a class only because each flow run pays for a generator
    """A host around a block; leaving it waits for the members.

    `keep_members` lets them be cancelled and waited for apart from the block. In a `lasting` host, an engine's or a
    portal's, the crash of one member is nobody else's matter.
    """

    __slots__ = ("_group", "_host", "_options")

    def __init__(self, keep_members: bool = False, lasting: bool = False) -> None:
        self._options = keep_members, lasting

    async def __aenter__(self) -> Host:
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._host = Host(self._group, *self._options)
        return self._host

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        self._host.stop_services()
        try:
            return await self._group.__aexit__(kind, error, tb)
        finally:
            del error, tb  # what is raised here leads back to this frame, and would keep the body's arguments with it


class Portal:
    """A thread with an event loop and a host, started when it is first needed."""

    def __init__(self, backend: str = "asyncio") -> None:
        self._backend = backend
        self._begin()
        _portals.add(self)

    def forget(self) -> None:
        """Begin anew: in a forked child the parent's thread does not exist."""
        _abandoned.append(self._stack)
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None
        self._host: Host | None = None

    def host(self) -> Host:
        """The portal's host; the first call starts the thread."""
        with self._lock:
            if self._host is None:
                self._portal = self._stack.enter_context(start_blocking_portal(self._backend, name="undertow-portal"))
                self._host = self._stack.enter_context(
                    self._portal.wrap_async_context_manager(open_host(keep_members=True, lasting=True))
                )
            return self._host

    def serve(self, service: Callable[[Host], Coroutine[Any, Any, None]]) -> None:
        """Start what goes on in the portal's loop for as long as it does; it is given the host."""
        host = self.host()
        assert self._portal is not None
        self._portal.call(host.serve, service, host)

    def close(self, grace_seconds: float) -> None:
        """Let what runs in the portal end by itself for so long, cancel what is left, and end the thread."""
        with self._lock:
            if self._host is not None and self._portal is not None:
                self._portal.call(self._host.drain, grace_seconds, CLOSED)
            self._host = None
            self._stack.close()


_abandoned: list[ExitStack] = []
"""Contexts of the parent's threads, in a forked child: leaving them, or dropping them, would wait for those threads."""

_portals: weakref.WeakSet[Portal] = weakref.WeakSet()


def _forget_all() -> None:
    for portal in list(_portals):
        portal.forget()


os.register_at_fork(after_in_child=_forget_all)
