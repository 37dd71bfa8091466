"""Ray on this machine: remote functions in worker processes, and an async actor for what only sleeps.

Its interface blocks the thread that asks, so these are programs without an event loop. A flow is the driver's code.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from . import bodies, frame
from .frame import Program

increment = ray.remote(bodies.incremented)
kilobyte = ray.remote(bodies.kilobyte)
large_result = ray.remote(bodies.large)
flaky = ray.remote(max_retries=1, retry_exceptions=True)(bodies.failing_once)


@ray.remote
def totalled(*xs: int) -> int:
    return bodies.summed(xs)


@ray.remote(num_cpus=0)
def inner(i: int) -> Any:
    return ray.get(increment.remote(i))


@ray.remote
class Bed:
    async def nap(self, x: int) -> int:
        await asyncio.sleep(bodies.NAP_SECONDS)
        return x


class Ray(Program):
    @contextmanager
    def opened_in_thread(self) -> Iterator[None]:
        ray.init(include_dashboard=False, log_to_driver=False)
        try:
            if self.order.workload.startswith("sleeping"):
                limited = self.order.workload.endswith("limited")
                self._bed = Bed.options(max_concurrency=bodies.NAPS_AT_ONCE if limited else self.order.n).remote()
            yield
        finally:
            ray.shutdown()

    def sequence(self, n: int) -> None:
        x = 0
        for _ in range(n):
            x = ray.get(increment.remote(x))
        assert x == n

    def fan_out(self, n: int) -> None:
        assert sum(ray.get([increment.remote(i) for i in range(n)])) == n * (n + 1) // 2

    def threads(self, n: int) -> None:
        self.fan_out(n)  # a sync task is what it runs anyway, in its worker processes

    def chain(self, n: int) -> None:
        x: Any = 0
        for _ in range(n):
            x = increment.remote(x)
        assert ray.get(x) == n

    def diamond(self, n: int) -> None:
        first = increment.remote(0)
        assert ray.get(totalled.remote(*[increment.remote(first) for _ in range(n)])) == 2 * n

    def nested(self, n: int) -> None:
        for i in range(n):
            assert ray.get(inner.remote(i)) == i + 1

    def sleeping(self, n: int) -> None:
        ray.get([self._bed.nap.remote(i) for i in range(n)])

    def sleeping_limited(self, n: int) -> None:
        self.sleeping(n)

    def retries(self, n: int) -> None:
        assert sum(ray.get([flaky.remote(marker) for marker in self.markers(n)])) == n

    def stream(self, n: int) -> None:
        self._slide(kilobyte, n, bodies.IN_FLIGHT)

    def large(self, n: int) -> None:
        self._slide(large_result, n, bodies.LARGE_IN_FLIGHT)

    def _slide(self, task: Any, n: int, at_once: int) -> None:
        flight: deque[Any] = deque()
        for i in range(n):
            flight.append(task.remote(i))
            if len(flight) == at_once:
                assert ray.get(flight.popleft())
        while flight:
            assert ray.get(flight.popleft())


if __name__ == "__main__":
    frame.main(Ray)
