"""Where the body of a sync function runs: on the spot, in a thread of a pool, or in a worker process.

Each runner implements `engine.ports.Runner`. The body of an async function needs none: it is awaited in its caller's
event loop.
"""

from .inline import InlineRunner
from .threads import ThreadRunner

__all__ = ["InlineRunner", "ThreadRunner"]
