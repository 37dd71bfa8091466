"""Slots that processes share: each holder is a row, which goes with its process.

Taking is one statement that compares and inserts. Who is refused has it looked at once whether a holder's process has
died, so that its slots come back without delay.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..engine.limits import Limit
from ..engine.waking import Reply
from . import owners

if TYPE_CHECKING:
    from .service import Service

TAKE = """
INSERT INTO slot (name, holder, slots, owner)
SELECT key, :holder, :slots, :owner FROM json_each(:limits) WHERE NOT EXISTS (
    SELECT 1 FROM json_each(:limits) AS wanted
    WHERE (SELECT coalesce(sum(slots), 0) FROM slot WHERE name = wanted.key) + :slots > wanted.value + 1e-6)
RETURNING name
"""

GIVE = "DELETE FROM slot WHERE holder = ?"

POUR = """
INSERT INTO drain (name, taken, seen) VALUES (:name, :slots, :now) ON CONFLICT (name) DO UPDATE SET
    taken = max(0, taken - :rate * abs(:now - seen)) + :slots, seen = :now
WHERE max(0, taken - :rate * abs(:now - seen)) + :slots <= :limit + 1e-6 RETURNING name
"""
"""`abs`: a clock that was ahead for a while, and was set back, must not hold the rate up for as long."""

POUR_BACK = "UPDATE drain SET taken = max(0, taken - ?) WHERE name = ?"


class SlotPool:
    """The shared slots of a journal. Questions are answered in the order in which they are asked."""

    def __init__(self, ask: Callable[..., Reply[Any]]) -> None:
        self._ask = ask

    def take(self, holder: str, limits: Mapping[str, Limit], slots: float) -> Reply[bool]:
        """Take the slots of all these limits for that holder, or none; whether it has them."""
        return self._ask(_take, holder, limits, slots)

    def give(self, holder: str) -> None:
        """Give back what the holder has, or is about to be granted."""
        self._ask(_give, holder)


async def _take(service: Service, holder: str, limits: Mapping[str, Limit], slots: float) -> bool:
    steady = {name: limit.slots for name, limit in limits.items() if not limit.rate}
    values = {"holder": holder, "slots": slots, "owner": service.owner, "limits": json.dumps(steady)}
    if steady and not await service.rows(TAKE, values):
        await owners.bury_the_dead(service.connection, service.owner)
        if not await service.rows(TAKE, values):
            return False
    poured: list[str] = []
    for name, limit in limits.items():
        if limit.rate:
            drop = {"name": name, "slots": slots, "now": time.time(), "rate": limit.rate, "limit": limit.slots}
            if not await service.rows(POUR, drop):
                for each in poured:
                    await service.rows(POUR_BACK, (slots, each))
                await service.rows(GIVE, (holder,))
                return False
            poured.append(name)
    return True


async def _give(service: Service, holder: str) -> None:
    await service.rows(GIVE, (holder,))
