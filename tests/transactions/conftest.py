"""What tests of transactions stand on: hooks that note their calls, and a task that has them."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.transactions.noting import Noted


@pytest.fixture
def noted() -> Noted:
    return Noted()


@pytest.fixture
def write(noted: Noted) -> Any:
    """A task with both hooks that gives its argument, some seconds later."""

    async def write(x: Any, seconds: float = 0) -> Any:
        await anyio.sleep(seconds)
        return x

    return noted.task(write)
