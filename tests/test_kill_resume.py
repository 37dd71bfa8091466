"""`kill -9` in the middle of commits, checkpoints, opening and resuming: what was recorded stays, and never runs again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real_time

KILLS = 25


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_killed_and_resumed(backend: str) -> None:
    """Flows that are killed in every window of the storage, durable and plain ones, leave a sound journal that has all that was acknowledged, and resume without running twice what was recorded."""
    command = [sys.executable, "-m", "tests.kills", "--kills", str(KILLS), "--backend", backend]
    root = Path(__file__).parent.parent
    finished = subprocess.run(command, cwd=root, env=os.environ, capture_output=True, text=True, timeout=55)
    assert finished.stderr == ""
    assert finished.returncode == 0
    figures = json.loads(finished.stdout)
    assert figures["kills"] == KILLS == sum(figures["hits"].values())
    assert all(figures["hits"].values())
