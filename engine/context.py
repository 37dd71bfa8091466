"""What surrounds a call: the run it is made in, the tags around it, and the engine it belongs to.

Context variables follow a call through tasks and, where the engine makes the hop, through threads. The process keeps
a stack of open engines and, at the bottom, one that is opened when the first run needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from contextvars import copy_context as copy_context
from typing import TYPE_CHECKING

from .errors import EngineClosed

if TYPE_CHECKING:
    from .core import Core
    from .run import Run
    from .transactions import Transaction

CURRENT: ContextVar[Run | None] = ContextVar("undertow_run", default=None)
TAGS: ContextVar[frozenset[str]] = ContextVar("undertow_tags", default=frozenset())
TRANSACTION: ContextVar[Transaction | None] = ContextVar("undertow_transaction", default=None)
ENGINE: ContextVar[Core | None] = ContextVar("undertow_engine", default=None)

_open_cores: list[Core] = []
_open_default: list[Callable[[], Core]] = []
_refusal: list[Callable[[], Exception]] = []


@contextmanager
def tags(*names: str) -> Iterator[None]:
    """Tag every run that is made inside the block; a tag that names a limit takes a slot of it."""
    token = TAGS.set(TAGS.get() | frozenset(names))
    try:
        yield
    finally:
        TAGS.reset(token)


def install_default(opener: Callable[[], Core]) -> None:
    """Say how the engine is opened that is used when no other is; the composition root calls this once."""
    _open_default[:] = [opener]


def enter(core: Core) -> None:
    """Make `core` the engine of calls that are not inside any other."""
    _open_cores.append(core)


def leave(core: Core) -> None:
    """Undo `enter`."""
    _open_cores[:] = [other for other in _open_cores if other is not core]


def forbid_engines(refusal: Callable[[], Exception]) -> None:
    """From now on no engine opens in this process, which is a worker: who tries is given `refusal()`."""
    _refusal[:] = [refusal]


def check_engines_allowed() -> None:
    """Raise what `forbid_engines` has for those who open an engine here."""
    if _refusal:
        raise _refusal[0]()


def current_core() -> Core:
    """The engine of a call made here: the engine around it, else the last one opened, else the default."""
    core = ENGINE.get()
    if core is not None and core.is_open:
        return core
    if _open_cores:
        return _open_cores[-1]
    check_engines_allowed()
    if not _open_default:
        raise EngineClosed("Running a task or a flow")
    return _open_default[0]()


def core_here() -> Core:
    """The engine of a call made here: of the run that it is made in, else the current one."""
    run = CURRENT.get()
    return run.core if run is not None else current_core()
