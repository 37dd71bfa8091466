"""Owners: which process a run belongs to, and when it is certain that that process is gone.

A process is known by the machine's boot, its process-id namespace, its id and the moment it started, so that a reused
id or another container's process is never taken for it. Only proof counts: an owner on another machine, or one that
merely says nothing, is left alone.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import aiosqlite
import attrs

CREATE = """
CREATE TABLE owner (
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL,
    boot TEXT NOT NULL,
    namespace TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started TEXT NOT NULL,
    opened_at INTEGER NOT NULL,
    closed_at INTEGER
);
"""

INSERT = "INSERT INTO owner (host, boot, namespace, pid, started, opened_at) VALUES (?, ?, ?, ?, ?, ?) RETURNING id"
CLOSE = "UPDATE owner SET closed_at = ? WHERE id = ?"

OTHERS = "SELECT id, host, boot, namespace, pid, started FROM owner WHERE id != ? AND closed_at IS NULL"

RECORDED = """
UPDATE run SET (state_type, ended_at, history) = (
    SELECT iif(serializer = 'failure', 'FAILED', 'COMPLETED'), kept_at, json_insert(run.history, '$[#]', json_array(
        iif(serializer = 'failure', 'FAILED', 'COMPLETED'),
        coalesce(json_extract(about, '$.state'), iif(serializer = 'failure', 'Failed', 'Completed')),
        coalesce(json_extract(about, '$.message'), ''), kept_at))
    FROM result WHERE key = 'step:' || run.step)
WHERE owner = ? AND ended_at IS NULL AND EXISTS (SELECT 1 FROM result WHERE key = 'step:' || run.step)
"""
"""Of an owner that died when outcomes of steps were on disk, and before the ends of their runs were."""

BURY = """
UPDATE run SET
    state_type = iif(state_type = 'CANCELLING', 'CANCELLED', 'CRASHED'),
    ended_at = :now,
    history = json_insert(history, '$[#]', json_array(
        iif(state_type = 'CANCELLING', 'CANCELLED', 'CRASHED'),
        iif(state_type = 'CANCELLING', 'Cancelled', 'Crashed'),
        :message, :now))
WHERE owner = :owner AND ended_at IS NULL AND NOT (
    state_type = 'PAUSED' AND json_extract(history, '$[#-1][1]') = 'Suspended')
"""

FREE_FIRES = """
UPDATE fire SET owner = NULL WHERE owner = ? AND NOT EXISTS (SELECT 1 FROM run WHERE run.id = fire.run_id)
"""
"""Fires that an owner had taken, and had not begun."""

FREE_SLOTS = "DELETE FROM slot WHERE owner = ?"

FREE = """
DELETE FROM result
WHERE (key >= 'flight:' AND key < 'flight;' OR key >= 'spill:' AND key < 'spill;') AND run_id = ?
"""
"""Reserved keys and spilled results of an owner, whose number they carry."""


@attrs.frozen
class Process:
    """A process, well enough described to tell it from every other."""

    host: str
    boot: str
    namespace: str
    pid: int
    started: str

    def is_gone(self) -> bool:
        """Whether it is certain that the process has ended."""
        here = this_process()
        if self.host != here.host:
            return False
        if self.boot != here.boot:
            return True  # the machine was started again since
        return self.namespace == here.namespace and _started(self.pid) != self.started


async def register(connection: aiosqlite.Connection) -> int:
    """Make this process an owner, and return its number."""
    values = (*attrs.astuple(this_process()), _now())
    [(number,)] = await connection.execute_fetchall(INSERT, values)
    return int(number)


async def deregister(connection: aiosqlite.Connection, number: int) -> None:
    """This process uses the journal no more."""
    await connection.execute(FREE, (str(number),))
    await connection.execute(FREE_FIRES, (number,))
    await connection.execute(FREE_SLOTS, (number,))
    await connection.execute(CLOSE, (_now(), number))


async def bury_the_dead(connection: aiosqlite.Connection, own: int) -> None:
    """Have the unfinished runs of processes that are gone end Crashed, and free what they had reserved."""
    for number, *described in await connection.execute_fetchall(OTHERS, (own,)):
        process = Process(*described)
        if process.is_gone():
            message = f"Crash detected! Its process {process.pid} on {process.host} is gone."
            await connection.execute(RECORDED, (number,))
            await connection.execute(BURY, {"owner": number, "now": _now(), "message": message})
            await deregister(connection, number)


def _now() -> int:
    return time.time_ns() // 1000


def this_process() -> Process:
    """The calling process."""
    pid = os.getpid()
    return Process(socket.gethostname(), _boot(), _namespace(), pid, _started(pid))


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        state, *fields = stat.rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]  # a zombie has ended: only nobody has asked after it yet
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
    except OSError:
        return ""
    try:
        os.kill(pid, 0)  # no /proc on this system: only whether it is there can be told
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "?"
    return "?"
