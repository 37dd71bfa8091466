"""Processes that share a journal: what one of them leaves half way when it is killed, another brings to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytestmark = pytest.mark.real_time

PEER = """
import sys
import anyio
from undertow import Engine
from undertow.engine import recovery
from undertow.storage import service
recovery.RECOVERY_SECONDS = service.PEER_SECONDS = 0.02
import travels

async def main():
    async with Engine(sys.argv[1], recover=sys.argv[3] == "recover") as engine:
        if sys.argv[3] == "start":
            for number in range(5):
                engine.start(travels.journey, number)
        travels.tell("open")
        await anyio.to_thread.run_sync(sys.stdin.readline)

anyio.run(main, backend=sys.argv[2])
"""

TRAVELS = """
import os
import anyio
from undertow import flow, task

ledger = os.open(os.environ["LEDGER"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)

def tell(text):
    os.write(int(os.environ["TELL"]), f"{text}\\n".encode())

@task
async def stage(name):
    os.write(ledger, f"{name}\\n".encode())

@flow(durable=True)
async def journey(number):
    await stage(f"{number} first")
    if os.environ.get("HOLD"):
        tell("half way")
        await anyio.sleep_forever()
    await stage(f"{number} last")
    tell("over")
"""


class Peers:
    """Processes that share a journal, a pipe in which they tell how far they are, and a ledger of what their tasks did."""

    def __init__(self, folder: Path, backend: str, stack: ExitStack) -> None:
        self.journal = folder / "shared.db"
        self.ledger = folder / "ledger"
        self.backend = backend
        self.stack = stack
        (folder / "travels.py").write_text(TRAVELS)
        told, self.tell = os.pipe()
        self.told = stack.enter_context(os.fdopen(told))
        stack.callback(os.close, self.tell)
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        self.environment = os.environ | {"LEDGER": str(self.ledger), "TELL": str(self.tell), "PYTHONPATH": path}

    def open(self, role: str, **environment: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PEER, str(self.journal), self.backend, role]
        process = subprocess.Popen(
            command, env=self.environment | environment, stdin=subprocess.PIPE, pass_fds=[self.tell], text=True
        )
        self.stack.callback(process.communicate)
        self.stack.callback(process.kill)
        return process

    def hear(self, **expected: int) -> None:
        """Wait until the processes have told so often each of these things, and nothing else."""
        heard = Counter(self.told.readline().strip() for _ in range(sum(expected.values())))
        assert heard == Counter({text.replace("_", " "): number for text, number in expected.items()})

    def half_way(self) -> subprocess.Popen[str]:
        """A process with five journeys, all half way."""
        process = self.open("start", HOLD="yes")
        self.hear(open=1, half_way=5)
        return process

    def finish(self, *processes: subprocess.Popen[str]) -> None:
        """Let processes leave, and see that each stage was reached once."""
        for process in processes:
            process.communicate("leave\n", timeout=20)
            assert process.returncode == 0
        stages = Counter(self.ledger.read_text().splitlines())
        assert stages == Counter([f"{number} {stage}" for number in range(5) for stage in ("first", "last")])


@pytest.fixture(params=["asyncio", "trio"])
def peers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Peers]:
    with ExitStack() as stack:
        yield Peers(tmp_path, request.param, stack)


def test_a_living_peer_takes_over(peers: Peers) -> None:
    """What a killed process leaves half way, a process that was there all the time notices and brings to its end."""
    first = peers.half_way()
    second = peers.open("recover")
    peers.hear(open=1)
    first.kill()
    first.wait()
    peers.hear(over=5)
    peers.finish(second)


def test_a_zombie_is_dead(peers: Peers) -> None:
    """A killed process that nobody has asked after yet counts as gone."""
    first = peers.half_way()
    first.kill()
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    second = peers.open("recover")
    peers.hear(open=1, over=5)
    peers.finish(second)


def test_two_peers_at_once(peers: Peers) -> None:
    """Of two processes that find the same broken-off runs at once, each run goes on in one."""
    first = peers.half_way()
    first.kill()
    first.wait()
    both = [peers.open("recover") for _ in range(2)]
    peers.hear(open=2, over=5)
    peers.finish(*both)
