"""How late an event loop is.

Tasks are started at a steady pace, whatever became of those before: a late loop gets no rest. Beside them a watcher
asks to be woken after a millisecond, again and again; lag is how much later it was woken.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter

TICK = 0.001


async def watch(lags: list[float], sleep: Callable[[float], Awaitable[object]]) -> None:
    """Note how late each waking was, until cancelled."""
    while True:
        asked = perf_counter()
        await sleep(TICK)
        lags.append(perf_counter() - asked - TICK)


async def start_steadily(
    start: Callable[[int], object], rate: int, seconds: float, sleep: Callable[[float], Awaitable[object]]
) -> None:
    """Start `rate` tasks a second; who is late starts at once what is due."""
    begin, started = perf_counter(), 0
    while (passed := perf_counter() - begin) < seconds:
        due = int(passed * rate)
        for i in range(started, due):
            start(i)
        started = max(started, due)
        await sleep(TICK)


def p99_ms(lags: list[float]) -> float:
    return sorted(lags)[int(len(lags) * 0.99)] * 1e3
