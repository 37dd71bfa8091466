"""For tests: a pytest plugin with fixtures for an engine, its journal and its clock; virtual time; replay.

pytest finds this module by itself where undertow is installed. Virtual time is `engine/virtual.py`'s matter and replay
`replaying.py`'s; both are named here for users. Nothing else in the package imports this.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from .engine.errors import InvalidOption
from .engine.retry import longest_delay
from .engine.virtual import BACKENDS, EPOCH_2026, VirtualClock, VirtualLoop
from .replaying import replay
from .wiring import Engine

__all__ = ["BACKENDS", "EPOCH_2026", "VirtualClock", "VirtualLoop", "replay", "set_testing", "virtual_time"]


def set_testing(max_delay_seconds: float = 0.0) -> AbstractContextManager[None]:
    """A block in which no retry of any engine in the process waits longer than that, in real time too."""
    if not isinstance(max_delay_seconds, int | float) or isinstance(max_delay_seconds, bool) or max_delay_seconds < 0:
        raise InvalidOption("max_delay_seconds", max_delay_seconds, "a number of seconds, 0 or more")
    return longest_delay(max_delay_seconds)


REAL_TIME = "real_time: on the machine's own clock, not in undertow's virtual time"
OPTIONS = "undertow(**options): options of the engine in `undertow_engine` or `undertow_sync_engine`"

NOT_VIRTUAL = """\
`undertow_engine` runs in virtual time, and the event loop of this test does not. Put this into conftest.py:

    from undertow.testing import BACKENDS, virtual_time

    @pytest.fixture(params=BACKENDS)
    def anyio_backend(request):
        return virtual_time(request)

or mark the test with @pytest.mark.real_time."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers."""
    config.addinivalue_line("markers", REAL_TIME)
    config.addinivalue_line("markers", OPTIONS)


def virtual_time(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The value of an `anyio_backend` fixture with `params=BACKENDS`: in virtual time, but for `real_time` tests."""
    if _real_time(request):
        return request.param, {}
    clock: VirtualClock = request.getfixturevalue("undertow_clock")
    return clock.backend(request.param)


def _real_time(request: pytest.FixtureRequest) -> bool:
    return request.node.get_closest_marker("real_time") is not None


def _engine(request: pytest.FixtureRequest, journal: Any, clock: VirtualClock) -> Engine:
    marker = request.node.get_closest_marker("undertow")
    options: dict[str, Any] = {"durability": "none"}
    if not _real_time(request):
        options |= {"clock": clock, "monotonic": clock.elapsed, "random": Random(0)}
    return Engine(**{"journal": journal} | options | (marker.kwargs if marker else {}))


@pytest.fixture
def undertow_clock() -> VirtualClock:
    """The virtual clock of the test's event loop and engine."""
    return VirtualClock()


@pytest.fixture
def undertow_journal(tmp_path: Path) -> Path:
    """The path of a throw-away journal; a file, so that it can be looked into, replayed, and opened again."""
    return tmp_path / "journal.db"


@pytest.fixture
async def undertow_engine(
    request: pytest.FixtureRequest, anyio_backend: Any, undertow_clock: VirtualClock, undertow_journal: Any
) -> AsyncIterator[Engine]:
    """An open engine around an async test, on the backend and in the time of the test."""
    if not _real_time(request):
        if not undertow_clock.started:
            pytest.fail(NOT_VIRTUAL, pytrace=False)
        undertow_clock.heed_threads()
    async with _engine(request, undertow_journal, undertow_clock) as engine:
        yield engine


@pytest.fixture
def undertow_sync_engine(
    request: pytest.FixtureRequest, undertow_clock: VirtualClock, undertow_journal: Any
) -> Iterator[Engine]:
    """An open engine around a plain `def` test: its runs live in an event loop in another thread, in virtual time."""
    marker = request.node.get_closest_marker("undertow")
    name = (marker.kwargs if marker else {}).get("backend", "asyncio")
    options = {} if _real_time(request) else undertow_clock.backend(name)[1]
    engine = _engine(request, undertow_journal, undertow_clock)
    with start_blocking_portal(name, options) as portal:
        if not _real_time(request):
            portal.call(undertow_clock.heed_threads)
        with portal.wrap_async_context_manager(engine), engine.active():
            yield engine


@pytest.fixture
def undertow_no_delays() -> Iterator[None]:
    """No retry waits, in real time too."""
    with set_testing():
        yield
