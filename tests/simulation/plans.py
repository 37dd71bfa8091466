"""Random programs: what a seed makes of flows, tasks, options and statements, as plain data.

A plan is a tree of nodes with paths such as `0.2.1`, which are the arguments of the calls; `bodies.py` performs it.
Numbers are small and drawn from short lists, so that equal moments, full limits and exhausted retries are common.
"""

from __future__ import annotations

from random import Random
from typing import Any, Literal

import attrs

Kind = Literal["plain", "durable", "mixed"]

LIMITS: dict[str, float] = {"one": 1, "two": 2, "shared": 1}
"""Limits with slots, by name."""
RATE = "rate"
RATE_SLOTS, RATE_PER_SECOND = 2.0, 2.0
"""A limit with a rate."""
TIMES = (0.0, 0.0, 0.1, 0.5, 1.0, 1.0, 2.0)


@attrs.frozen
class Attempt:
    """What a task's body does in one attempt."""

    seconds: float
    end: str
    """`return`, `raise`, `fatal` (a `Fail`), `skip` (a `Skip`), `state` (returns a Failed one), `later` (`RetryAfter`)."""


@attrs.frozen
class Statement:
    """One line of a flow's body."""

    op: str
    child: Node | None = None
    form: str = ""
    upstreams: tuple[int, ...] = ()
    """Which of the futures so far are handed in."""
    number: int = 0
    seconds: float = 0.0
    catches: bool = True


@attrs.frozen
class Node:
    """A task or a flow of the program, with all that it will do."""

    path: str
    kind: str
    is_async: bool
    options: tuple[tuple[str, Any], ...]
    attempts: tuple[Attempt, ...] = ()
    statements: tuple[Statement, ...] = ()
    end: str = "value"
    """Of a flow: `none`, `value`, `raise`, `futures` (returns all it has), `nested` (the same inside a dict)."""

    def option(self, name: str) -> Any:
        return dict(self.options).get(name)

    @property
    def retries(self) -> int:
        return self.option("retries") or 0

    @property
    def limits(self) -> tuple[str, ...]:
        named = tuple(name for name in self.option("limits") or () if name in LIMITS)
        sync = "" if self.is_async else " sync"
        return (*named, f"{self.kind}{sync} {self.options}") if self.own_slots else named

    @property
    def limit_names(self) -> tuple[str, ...]:
        """All limits that it needs slots of, the rate among them."""
        return tuple(sorted({*self.limits, *(self.option("limits") or ())}))

    @property
    def own_slots(self) -> float:
        """The slots of its own limit."""
        return float(self.option("concurrency_limit") or 0)

    @property
    def gives_up(self) -> bool:
        """Whether a body of it may go on when its attempt is over: a thread that is timed out."""
        return not self.is_async and self.option("timeout_seconds") is not None

    def walk(self) -> list[Node]:
        """The node and all nodes inside it."""
        inside = [each for line in self.statements if line.child is not None for each in line.child.walk()]
        return [self, *inside]


class Planner:
    """Draws plans from a seed."""

    def __init__(self, seed: int, durable: bool, size: int) -> None:
        self.random = Random(f"plan {seed}")
        self.durable = durable
        self.budget = size
        """Nodes that may still be made."""

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def pick(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    # --- flows -----------------------------------------------------------------------------------------------------

    def flow(self, path: str, depth: int = 0, root: bool = False) -> Node:
        """A flow and all that is in it."""
        self.budget -= 1
        options: dict[str, Any] = {}
        if root and self.durable:
            options["durable"] = True
        if self.chance(0.2):
            options["on_child_failure"] = "cancel"
        if self.chance(0.3):
            options["final_state"] = self.pick("return", "unhandled")
        if self.chance(0.2):
            options |= {"retries": self.pick(1, 2), "retry_delay_seconds": self.pick(0, 1.0)}
        if self.chance(0.1):
            options["timeout_seconds"] = self.pick(0.5, 2.0, 5.0)
        if root and self.chance(0.2):
            options["concurrency_limit"] = 1  # not further in: two flows could wait for what each other holds
        statements = tuple(self._statements(path, depth))
        end = self.pick("none", "none", "value", "futures", "nested", "raise" if self.chance(0.3) else "none")
        return Node(path, "flow", True, tuple(sorted(options.items())), (), statements, end)

    def _statements(self, path: str, depth: int) -> list[Statement]:
        lines: list[Statement] = []
        futures = 0
        for position in range(self.pick(2, 3, 4, 5)):
            line = self._statement(f"{path}.{position}", depth, futures)
            futures += {"submit": 1, "map": line.number}.get(line.op, 0)
            lines.append(line)
        return lines

    def _statement(self, path: str, depth: int, futures: int) -> Statement:
        ops = ["call", "call", "submit", "submit", "submit", "map", "stream", "sleep", "slots"]
        if futures:
            ops += ["await", "await", "cancel"]
        op = self.pick(*ops) if self.budget > 0 else self.pick("sleep", "await" if futures else "sleep")
        catches = self.chance(0.7)
        if op == "call":
            return Statement(op, self._node(path, depth), self.pick("value", "state"), catches=catches)
        if op == "submit":
            ups = tuple(sorted(self.random.sample(range(futures), min(futures, self.pick(0, 0, 1, 2)))))
            return Statement(op, self._node(path, depth, bool(ups)), self.pick("data", "wait_for", "allow"), ups)
        if op == "map":
            return Statement(op, self.task(path), number=self.pick(2, 3))
        if op == "stream":
            form = "ordered" if self.durable else self.pick("ordered", "as they come")
            return Statement(op, self.task(path), form, number=self.pick(2, 4), catches=catches)
        if op == "await":
            form = self.pick("await", "wait", "result")
            if self.chance(0.2) and not self.durable:
                form = "in time"
            return Statement(op, form=form, number=self.random.randrange(futures), seconds=1.0, catches=catches)
        if op == "cancel":
            return Statement(op, number=self.random.randrange(futures), seconds=self.pick(0.0, 0.0, 0.5))
        if op == "slots":
            return Statement(
                op, form=self.pick("one", "two", RATE), number=self.pick(1, 1, 2), seconds=self.pick(*TIMES)
            )
        return Statement("sleep", seconds=self.pick(*TIMES))

    def _node(self, path: str, depth: int, has_upstreams: bool = False) -> Node:
        if depth < 2 and self.chance(0.2):
            return self.flow(path, depth + 1)
        return self.task(path, has_upstreams)

    # --- tasks -----------------------------------------------------------------------------------------------------

    def task(self, path: str, has_upstreams: bool = False, inner: bool = False) -> Node:
        """A task; sometimes one that calls another."""
        self.budget -= 1
        options: dict[str, Any] = {}
        if self.chance(0.4):
            delay = self.pick(0, 0.5, 1.0, (0.1, 2.0))
            options |= {"retries": self.pick(1, 2, 3), "retry_delay_seconds": delay}
            if self.chance(0.3):
                options["retry_jitter_factor"] = 0.5
        if self.chance(0.2):
            options["timeout_seconds"] = self.pick(0.3, 1.0)
        if not inner and self.chance(0.3):
            options["limits"] = self.pick(("one",), ("two",), ("one", "two"), (RATE,), ("shared",))
            options["priority"] = self.pick(0, 0, 1)
        if not inner and self.chance(0.1):
            options["concurrency_limit"] = self.pick(1, 2)
        if has_upstreams and self.chance(0.4):
            options["when"] = self.pick("all_failed", "all_done", "any_failed", "any_succeeded", "none_failed")
        is_async = self.chance(0.7)
        statements: tuple[Statement, ...] = ()
        if is_async and not inner and self.budget > 0 and self.chance(0.15):
            statements = (Statement("call", self.task(f"{path}.0", inner=True), "value", catches=self.chance(0.5)),)
        attempts = tuple(self._attempt() for _ in range(self.pick(1, 2, 3)))
        return Node(path, "task", is_async, tuple(sorted(options.items())), attempts, statements)

    def _attempt(self) -> Attempt:
        end = self.pick("return", "return", "return", "return", "raise", "raise", "rare")
        if end == "rare":
            end = self.pick("fatal", "skip", "state", "later")
        return Attempt(self.pick(*TIMES), end)


@attrs.frozen
class Client:
    """Somebody who wants a flow to run."""

    root: Node
    form: str
    """`await`, `start` (in the background), or `named` (the same, with an id of the client's choice)."""
    begins: float
    patience: float | None
    """Seconds after which the client gives up; `None` for one who does not."""


@attrs.frozen
class Plan:
    """What a world is to do."""

    clients: tuple[Client, ...]

    def nodes(self) -> dict[str, Node]:
        return {node.path: node for client in self.clients for node in client.root.walk()}


def draw(seed: int, kind: Kind = "mixed") -> Plan:
    """The plan of a seed."""
    random = Random(f"clients {seed}")
    clients = []
    for number in range(random.choice((1, 1, 2, 3))):
        durable = kind == "durable" or (kind == "mixed" and random.random() < 0.5)
        root = Planner(seed * 8 + number, durable, random.choice((3, 6, 10))).flow(str(number), root=True)
        patience = random.choice((None, None, None, 0.0, 0.5, 3.0))
        clients.append(Client(root, random.choice(("await", "start", "named")), random.choice(TIMES), patience))
    return Plan(tuple(clients))
