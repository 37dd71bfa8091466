"""Bugs to plant: small changes of the package that each break one promise, and a few tests that have to notice it.

The tests are existing ones, chosen because they are quick; others may notice the same bug. What plants the bugs, each
in a copy of the package, is `test_planted_bugs.py`.
"""

from __future__ import annotations

from typing import NamedTuple


class Change(NamedTuple):
    """In a file of the package, a text that stands there once, and what to put in its place."""

    file: str
    old: str
    new: str


class PlantedBug(NamedTuple):
    """What makes the bug, and the tests of which one or more fail then."""

    changes: tuple[Change, ...]
    tests: tuple[str, ...]


BUGS = {
    "a call is acknowledged before its commit": PlantedBug(
        (Change("engine/pipeline.py", "    if run.parent is None:\n        await _commit(run)\n", ""),),
        ("test_journal_writing.py::test_acknowledged_is_recorded",),
    ),
    "a commit that failed is acknowledged": PlantedBug(
        (Change("storage/writing.py", "reply.settle(error=error)", "reply.settle(None)"),),
        ("test_journal_faults.py::test_result_survives",),
    ),
    "a run's end is on disk before what it returned": PlantedBug(
        (
            Change(
                "storage/writing.py",
                "            self._write_results(connection)\n            self._write_runs(connection, runs)\n",
                "            self._write_runs(connection, runs)\n            self._write_results(connection)\n",
            ),
        ),
        ("test_journal_writing.py::test_what_is_kept_comes_first",),
    ),
    "a step that completed runs again": PlantedBug(
        (
            Change(
                "engine/durable.py",
                "    if run.step in recorded:\n",
                "    if run.step in recorded and recorded[run.step].serializer == FAILURE:\n",
            ),
        ),
        ("test_durable.py::test_a_retry_of_the_flow", "test_resuming.py::test_after_a_failure"),
    ),
    "a step is known by its number among all calls": PlantedBug(
        (
            Change(
                "engine/durable.py", "occurrence = parent.steps.get(call, 0) + 1", "occurrence = len(parent.steps) + 1"
            ),
        ),
        ("test_steps.py::test_any_order_of_calls",),
    ),
    "a step is known by when it began, not by when it was called": PlantedBug(
        (
            Change(
                "engine/definition.py", "        take_step(run)\n", "        self.kind == 'flow' and take_step(run)\n"
            ),
            Change("engine/pipeline.py", "import look_back, record_step,", "import look_back, record_step, take_step,"),
            Change(
                "engine/pipeline.py",
                '    """Live the run\'s life and return how it ended."""\n',
                "    run.kind == 'task' and take_step(run)\n",
            ),
        ),
        ("test_steps.py::test_a_call_counts_when_it_is_made",),
    ),
    "one attempt more than the limit": PlantedBug(
        (Change("engine/retry.py", "if attempts > self.retries or", "if attempts > self.retries + 1 or"),),
        ("test_retry.py::test_retries_are_attempts_beyond_the_first",),
    ),
    "what has ended goes on to another state": PlantedBug(
        (Change("engine/states.py", "    if target not in _NEXT[source] and", "    if source not in TERMINAL and"),),
        ("test_states.py::test_every_pair_of_types",),
    ),
    "what returns after its time limit is Completed": PlantedBug(
        (Change("engine/pipeline.py", " and anyio.current_time() - start < seconds:\n", ":\n"),),
        ("test_retry.py::test_a_body_that_ignores_its_time_limit",),
    ),
    "a run that fails keeps its slots": PlantedBug(
        (
            Change(
                "engine/pipeline.py",
                "    finally:\n        if run.leases:\n            release_slots(run)\n",
                "    except BaseException:\n        release_slots(run)\n        raise\n",
            ),
        ),
        ("test_limits.py::test_slots_come_back",),
    ),
    "two waiters are woken for one slot": PlantedBug(
        (Change("engine/granting.py", "            self._take(head.buckets, head.slots)\n", ""),),
        ("test_limits.py::test_never_more_than_the_limit",),
    ),
    "a cancelled flow leaves a thread running": PlantedBug(
        (Change("runners/threads.py", "=run.definition.timeout is not None", "=True"),),
        ("test_cancellation.py::test_cancellation_waits_for_threads",),
    ),
    "a task outlives the flow that submitted it": PlantedBug(
        (Change("engine/definition.py", "        host = run.host\n", "        host = run.core.host or run.host\n"),),
        ("test_cancellation.py::test_no_orphan_when_a_flow_returns",),
    ),
    "a process that only says nothing is taken for dead": PlantedBug(
        (Change("storage/owners.py", 'if state in "ZX" else', 'if state in "ZXT" else'),),
        ("test_signals.py::test_a_stopped_owner_is_not_dead",),
    ),
    "a time of a schedule fires in each process": PlantedBug(
        (
            Change(
                "storage/schedules.py",
                "DO NOTHING RETURNING run_id\n",
                "DO UPDATE SET owner = excluded.owner RETURNING run_id\n",
            ),
        ),
        ("test_serving_journal.py::test_two_engines[asyncio]",),
    ),
    "others may read the journal": PlantedBug(
        (Change("storage/opening.py", "os.O_NOFOLLOW, 0o600)", "os.O_NOFOLLOW, 0o644)"),),
        ("test_journal.py::test_files_are_private",),
    ),
    "a result is unpickled because the journal says so": PlantedBug(
        (
            Change(
                "engine/memo.py", "    if record.serializer != serializer:\n", "    if record.serializer != 'pickle':\n"
            ),
        ),
        ("test_security.py::test_forged_pickle[lasting-step:]",),
    ),
}
"""By what is wrong."""
