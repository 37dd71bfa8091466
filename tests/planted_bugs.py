"""Bugs to plant: small changes of the package that each break one promise, and a few tests that have to notice it.

A change is a file of the package, a text that stands in it once, and what to put in its place. The tests are existing
ones, chosen because they are quick; that others notice the same bug is all the better. `test_planted_bugs.py` plants
them, each in a copy of its own.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class PlantedBug:
    """A bug: the change that makes it, and the tests that fail then."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]


BUGS = {
    "a call is acknowledged before its commit": PlantedBug(
        "engine/pipeline.py",
        "    if run.parent is None:\n        await _commit(run)\n",
        "",
        ("test_journal_writing.py::test_acknowledged_is_recorded",),
    ),
    "a commit that failed is acknowledged": PlantedBug(
        "storage/writing.py",
        "            reply.settle(error=error)\n",
        "            reply.settle(None)\n",
        ("test_journal_faults.py::test_result_survives",),
    ),
    "the end of a run is on disk before its result": PlantedBug(
        "storage/writing.py",
        "            self._write_results(connection)\n            self._write_runs(connection, runs)\n",
        "            self._write_runs(connection, runs)\n            self._write_results(connection)\n",
        ("test_storage_faults.py::test_durable_flow_at_every_call",),
    ),
    "a recorded step runs again": PlantedBug(
        "engine/durable.py",
        "    if run.step in recorded:\n",
        "    if run.step in recorded and recorded[run.step].serializer == FAILURE:\n",
        ("test_durable.py::test_a_retry_of_the_flow", "test_resuming.py::test_after_a_failure"),
    ),
    "a step is known by its place in the order of calls": PlantedBug(
        "engine/durable.py",
        "occurrence = parent.steps.get(call, 0) + 1\n",
        "occurrence = len(parent.steps) + 1\n",
        ("test_steps.py::test_any_order_of_concurrent_steps",),
    ),
    "one attempt more than the limit": PlantedBug(
        "engine/retry.py",
        "        if attempts > self.retries or ",
        "        if attempts > self.retries + 1 or ",
        ("test_retry.py::test_retries_are_attempts_beyond_the_first",),
    ),
    "what has ended may go on to another state": PlantedBug(
        "engine/states.py",
        "    if target not in _NEXT[source] and not allowed(source, target, name):\n",
        "    if source not in TERMINAL and not allowed(source, target, name):\n",
        ("test_states.py::test_every_pair_of_types",),
    ),
    "what returns after its time limit is Completed": PlantedBug(
        "engine/pipeline.py",
        "    if outcome is not None and not scope.cancelled_caught and anyio.current_time() - start < seconds:\n",
        "    if outcome is not None:\n",
        ("test_retry.py::test_a_body_that_ignores_its_time_limit",),
    ),
    "a run that fails keeps its slots": PlantedBug(
        "engine/pipeline.py",
        "    finally:\n        if run.leases:\n            release_slots(run)\n",
        "    except Exception:\n        release_slots(run)\n        raise\n",
        ("test_limits.py::test_slots_come_back",),
    ),
    "two waiters are woken for one slot": PlantedBug(
        "engine/granting.py",
        "            self._take(head.buckets, head.slots)\n            head.granted",
        "            head.granted",
        ("test_limits.py::test_never_more_than_the_limit",),
    ),
    "a thread is left running by a cancelled flow": PlantedBug(
        "runners/threads.py",
        "abandon_on_cancel=run.definition.timeout is not None",
        "abandon_on_cancel=True",
        ("test_cancellation.py::test_cancellation_waits_for_threads",),
    ),
    "a task outlives the flow that submitted it": PlantedBug(
        "engine/definition.py",
        "        host = run.host\n",
        "        host = run.core.host or run.host\n",
        ("test_cancellation.py::test_no_orphan_when_a_flow_returns",),
    ),
    "a process that only says nothing is taken for dead": PlantedBug(
        "storage/owners.py",
        'if state in "ZX" else',
        'if state in "ZXT" else',
        ("test_signals.py::test_a_stopped_owner_is_not_dead",),
    ),
    "a time of a schedule fires in each process": PlantedBug(
        "storage/schedules.py",
        "paused_at IS NULL ON CONFLICT (schedule, nominal) DO NOTHING RETURNING run_id\n",
        "paused_at IS NULL ON CONFLICT (schedule, nominal) DO UPDATE SET owner = excluded.owner RETURNING run_id\n",
        ("test_serving_journal.py::test_two_engines",),
    ),
    "others may read the journal": PlantedBug(
        "storage/opening.py",
        "os.O_NOFOLLOW, 0o600)",
        "os.O_NOFOLLOW, 0o644)",
        ("test_journal.py::test_files_are_private",),
    ),
    "a result is unpickled because the journal says so": PlantedBug(
        "engine/memo.py",
        "    if record.serializer != serializer:\n",
        '    if record.serializer not in ("msgpack", "pickle"):\n',
        ("test_security.py::test_forged_pickle",),
    ),
}
