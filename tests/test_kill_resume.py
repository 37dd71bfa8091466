"""Durable flows and `kill -9`: whatever instant it comes at, what was recorded never runs again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real_time

SCRIPT = Path(__file__).with_name("kills.py")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_killed_and_resumed(backend: str) -> None:
    """A flow of 200 steps that is killed again and again ends with the same result, a sound journal, and nothing run twice that was recorded."""
    command = [sys.executable, str(SCRIPT), "--kills", "10", "--backend", backend]
    finished = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=55)
    assert finished.stderr == ""
    assert finished.returncode == 0
    figures = json.loads(finished.stdout)
    assert figures["kills"] == 10
    assert figures["lives"] == figures["kills"] + figures["flows"]
