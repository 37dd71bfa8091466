"""Who is measured: plain event loops, undertow on each of them, and its peers, with what they do by default.

Peers are measured as they come. Asked for as many tasks as undertow, some would take hours: `most` says how many they
are asked for instead. What is compared is the cost of a task. `lacks` says what an engine can't be asked for.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from .workloads import Workload

LOOPS = ("asyncio", "uvloop", "trio")
BIG = 100_000

NO_ENGINE = "no engine, so nothing of the kind"
NO_JOURNAL = "keeps nothing on disk"
NO_TRIO = "uvicorn runs on asyncio only"


@attrs.frozen
class Engine:
    """One engine in one configuration."""

    family: str
    variant: str
    says: str
    """What a reader has to know to compare: server, durability, sync, and what a flow and a task are."""
    group: str = "peer"
    is_main: bool = False
    environment: str = ""
    """The peer's environment; "" is the one that this runs in."""
    imports: str = ""
    most: Mapping[str, int] = attrs.field(factory=dict)
    """The largest `n` of each workload; `""` is for those not named."""
    lacks: Mapping[str, str] = attrs.field(factory=dict)
    variables: Mapping[str, str] = attrs.field(factory=dict)
    """Environment variables; `{folder}` is the measurement's own folder."""

    @property
    def name(self) -> str:
        return f"{self.family}/{self.variant}" if self.variant else self.family

    def sizes(self, work: Workload, scale: str) -> tuple[int, ...]:
        """How many tasks it is asked for: those of the scale that are not too many, at least one of them."""
        if work.only and self.name not in work.only:
            return ()
        most = self.most.get(work.name, self.most.get("", 10**9))
        return tuple(dict.fromkeys(min(n, most) for n in work.sizes(scale) if n <= most)) or (most,)


_PLAIN = dict.fromkeys(("durable_sequence", "durable_fan_out", "resume", "journal_bytes"), NO_ENGINE)
_ANYIO_IMPORTS = "import asyncio, anyio, attrs"


def _plain_anyio(loop: str) -> Engine:
    lacks = _PLAIN | ({"web": NO_TRIO} if loop == "trio" else {})
    says = "Each task a member of a task group, nothing more."
    return Engine("anyio", loop, says, "raw", loop != "uvloop", imports=_ANYIO_IMPORTS, lacks=lacks)


_KEPT = {
    "process": "Journal on disk, WAL, synchronous NORMAL and a FULL commit every 100 ms (the default).",
    "power": "Journal on disk, WAL, synchronous FULL at each group of records.",
    "none": "Journal on disk, WAL, synchronous OFF.",
    "memory": "Journal in memory.",
}


def _undertow(loop: str, journal: str) -> Engine:
    lacks = {"web": NO_TRIO} if loop == "trio" else {}
    if journal == "memory":
        lacks |= dict.fromkeys(("resume", "journal_bytes"), NO_JOURNAL)
    return Engine(
        "undertow",
        f"{loop}/{journal}",
        _KEPT[journal],
        "undertow",
        journal == "process" and loop != "uvloop",
        imports="from undertow import Engine, flow, task",
        most={} if journal == "process" else {"": 10_000, "stream": BIG, "resume": 10_000},
        lacks=lacks,
    )


_NO_SYNC = {"sync_call": "not asked: its sync face is another program"}
_DURABLE_ANYWAY = dict.fromkeys(("durable_sequence", "durable_fan_out"), "see `sequence` and `fan_out`: always durable")
_NOT_DURABLE = dict.fromkeys(("durable_sequence", "durable_fan_out", "resume"), "has no durable flows")
_NO_RESUME = {"resume": "not asked: it resumes in another way"}
_OTHER_LOOP = dict.fromkeys(("web", "loop_lag"), "its tasks don't live in the caller's event loop")

PEERS = (
    Engine(
        "prefect",
        "",
        "Temporary server of its own, SQLite. States are sent to it as events and recorded later: a flow's return does "
        "not mean that its tasks are on disk. Tasks awaited and gathered; sync tasks in its thread pool.",
        environment="prefect",
        imports="from prefect import flow, task",
        most={"": 1_000, "fan_out": 10_000, "nested": 5, "web": 16, "loop_lag": 100},
        lacks={
            **dict.fromkeys(("durable_sequence", "durable_fan_out", "resume"), "keeps no results unless told to"),
            "journal_bytes": "its server records after the run has ended",
        },
        variables={
            "PREFECT_HOME": "{folder}/prefect",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        },
    ),
    Engine(
        "dbos",
        "",
        "SQLite, rollback journal, synchronous FULL. Each step is committed before it returns: survives a power cut.",
        environment="dbos",
        imports="from dbos import DBOS",
        most={"": 1_000, "nested": 100, "loop_lag": 100},
        lacks=_DURABLE_ANYWAY | _NO_RESUME,
    ),
    *(
        Engine(
            "dask",
            variant,
            says,
            environment="dask",
            imports="from distributed import Client, LocalCluster",
            most={"": 1_000, "fan_out": 10_000, "stream": 10_000, "sleeping": 100, "sleeping_limited": 100},
            lacks={**_NO_SYNC, **_NOT_DURABLE, "journal_bytes": NO_JOURNAL, **_OTHER_LOOP},
        )
        for variant, says in (
            ("processes", "Local cluster as it comes: a scheduler and a worker process a core. Nothing on disk."),
            ("in process", "Scheduler and worker in the process of the program. Nothing on disk."),
        )
    ),
    Engine(
        "ray",
        "",
        "Head node and worker processes on this machine, a task a core at a time. Nothing on disk. Sleeping tasks are "
        "calls of one async actor.",
        environment="ray",
        imports="import ray",
        most={"": 1_000, "fan_out": 10_000, "stream": 10_000, "sequence": 1_000},
        lacks={**_NO_SYNC, **_NOT_DURABLE, "journal_bytes": NO_JOURNAL, **_OTHER_LOOP},
        variables={"RAY_USAGE_STATS_ENABLED": "0"},
    ),
    *(
        Engine(
            "taskiq",
            variant,
            says,
            environment="taskiq",
            imports="from taskiq import InMemoryBroker",
            most=most,
            lacks={**_NO_SYNC, **_NOT_DURABLE, "journal_bytes": NO_JOURNAL},
        )
        for variant, says, most in (
            (
                "polled",
                "In memory, as it comes: results are asked for every 0.2 s. No flows.",
                {"sequence": 20, "chain": 20, "nested": 20, "large": 200, "loop_lag": 1_000, "": 10_000},
            ),
            (
                "in place",
                "In memory, run where it is sent, and results asked for every millisecond. No flows.",
                {"": 10_000},
            ),
        )
    ),
    Engine(
        "apscheduler",
        "",
        "In memory. Each task a job that is run at once, 100 at a time. No flows, no retries.",
        environment="apscheduler",
        imports="from apscheduler import AsyncScheduler",
        most={"": 1_000, "stream": 10_000, "loop_lag": 100},
        lacks={**_NO_SYNC, **_NOT_DURABLE, "journal_bytes": NO_JOURNAL, "retries": "has no retries"},
    ),
    *(
        Engine(
            "langgraph",
            variant,
            says,
            environment="langgraph",
            imports="from langgraph.func import entrypoint, task",
            most={"": 1_000, "fan_out": 10_000, "loop_lag": 100, **more},
            lacks={**_NO_SYNC, **lacks},
            variables={"LANGSMITH_TRACING": "false"},
        )
        for variant, says, more, lacks in (
            (
                "sqlite",
                "Checkpoints in SQLite, WAL; results of tasks are written in the background.",
                {},
                _DURABLE_ANYWAY | _NO_RESUME,
            ),
            ("none", "No checkpoints.", {}, {**_NOT_DURABLE, "journal_bytes": NO_JOURNAL}),
        )
    ),
)

RAW = (
    Engine(
        "asyncio",
        "",
        "Each task a member of a TaskGroup, nothing more.",
        "raw",
        imports="import asyncio",
        lacks=_PLAIN | {"sync_call": "see anyio"},
    ),
    *(_plain_anyio(loop) for loop in LOOPS),
)
OURS = tuple(_undertow(loop, journal) for loop in LOOPS for journal in _KEPT)
ENGINES = {engine.name: engine for engine in (*RAW, *OURS, *PEERS)}
