"""The runner of a sync task that is called, not submitted, on an event loop's thread: it runs there and then."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

from ..engine.run import Run

logger = logging.getLogger("undertow")

HELD_LOOP_SECONDS = 0.1


class InlineRunner:
    """Calls the body on the spot, as the undecorated call would, and says once when that held up the loop."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    async def run(
        self, run: Run, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], /
    ) -> Any:
        start = perf_counter()
        try:
            return fn(*args, **kwargs)
        finally:
            held = perf_counter() - start
            if held > HELD_LOOP_SECONDS and run.definition.key not in self._warned:
                self._warned.add(run.definition.key)
                name = run.definition.name
                logger.warning(
                    "The sync task %r held the event loop for %.1f s. `await %s.submit(...)` runs it in a thread.",
                    name,
                    held,
                    name,
                )
