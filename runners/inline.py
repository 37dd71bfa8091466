"""The runner of a sync task that is called, not submitted, on an event loop's thread: it runs there and then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..engine.run import Run


class InlineRunner:
    """Calls the body on the spot, as the undecorated call would, and says once when that held up the loop."""

    async def run(self, run: Run, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], /) -> Any:
        with run.core.watching_hold(run.definition):
            return fn(*args, **kwargs)
