"""The clients of a web server: so many connections, each with one request under way at a time. A script of its own.

Arguments: port, number of connections, seconds. Prints requests a second and what an answer took, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from time import perf_counter
from typing import Any

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
SETTLE = 0.2
"""At the start this part of the time is not counted."""

ENOUGH, PATIENCE = 2, 30
"""A slow server is asked on, until each connection had so many answers on average, or for so many more seconds."""


class Client(asyncio.Protocol):
    """A connection that asks again as soon as it was answered."""

    def __init__(self, times: list[tuple[float, float]]) -> None:
        self._times = times
        self._missing = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._asked = perf_counter()
        self._transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        self._missing += data
        head, end, body = self._missing.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]):
            return
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        self._missing = b""
        self._times.append((perf_counter(), perf_counter() - self._asked))
        self._ask()


async def ask(port: int, clients: int, seconds: float) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    times: list[tuple[float, float]] = []
    for _ in range(100):
        try:
            await loop.create_connection(lambda: Client(times), "127.0.0.1", port)
            break
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
    for _ in range(clients - 1):
        await loop.create_connection(lambda: Client(times), "127.0.0.1", port)
    begin = perf_counter()
    await asyncio.sleep(seconds * (1 + SETTLE))
    for _ in range(PATIENCE):
        if len(times) >= ENOUGH * clients:
            break
        await asyncio.sleep(1)
    end, start = perf_counter(), begin + seconds * SETTLE
    counted = sorted(took for at, took in times if at >= start)
    if not counted:
        sys.exit(f"no request was answered within {end - begin:.0f} s")
    return {
        "requests/s": len(counted) / (end - start),
        "ms p50": counted[len(counted) // 2] * 1e3,
        "ms p99": counted[int(len(counted) * 0.99)] * 1e3,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ask(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))))
