"""Background runs: those that belong to the engine, not to whoever started them."""

from __future__ import annotations

from typing import Any

from .core import Core
from .futures import Future
from .host import Host, Life
from .pipeline import member
from .run import Run


def start(core: Core, run: Run, life: Life = member, host: Host | None = None) -> Future[Any]:
    """Start a run in the engine's own host, or another that lasts, and return its future; from any thread."""
    run.host = host = host or core.host or core.portal.host()
    future: Future[Any] = Future(run, host)
    core.background[run.id] = future
    host.spawn(life, run, future)
    return future
