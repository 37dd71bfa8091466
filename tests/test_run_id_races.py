"""Chosen run ids in several processes at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.real_time

RACER = """
import os, sys
import anyio
from undertow import Engine, flow, task

ledger = os.open(sys.argv[3], os.O_CREAT | os.O_WRONLY | os.O_APPEND)

@task
async def step(number):
    os.write(ledger, f"step {number}\\n".encode())
    return os.getpid()

@flow(durable=True)
async def order(number):
    os.write(ledger, f"order {number}\\n".encode())
    return [await step(number), number]

async def main():
    async with Engine(sys.argv[1]) as engine:
        print("open", flush=True)
        sys.stdin.readline()
        futures = [engine.start(order, number, run_id=f"order-{number}") for number in range(20)]
        print([await future for future in futures], flush=True)

anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_races_between_processes(tmp_path: Path, backend: str) -> None:
    """Two processes that start the same 20 ids at once: one execution each, and one result for both."""
    command = [sys.executable, "-c", RACER, str(tmp_path / "app.db"), backend, str(tmp_path / "ledger")]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ)
        for _ in range(2)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "open\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    results = [racer.communicate(timeout=30)[0] for racer in racers]
    assert results[0] == results[1]
    assert results[0].count("[") == 21
    written = Counter((tmp_path / "ledger").read_text().splitlines())
    assert written == Counter([f"{what} {number}" for number in range(20) for what in ("order", "step")])
