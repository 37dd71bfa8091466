"""Every error a user may catch.

Each derives from `UndertowError` and from the nearest builtin, and builds its own message, so that a call site is
one short line. A message names the thing, the value, what is allowed, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class UndertowError(Exception):
    """The root of all errors that undertow raises on its own account."""


# --- your usage ------------------------------------------------------------------------------------------------


def shown(value: object) -> str:
    """The repr of a value as messages show it: cut to a length, and never raising."""
    try:
        text = repr(value)
    except Exception as error:  # a class may do as it likes in its repr, and so do integers of thousands of digits
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"
    return text if len(text) <= 200 else f"{text[:160]}… ({len(text)} characters)"


class NotCallable(UndertowError, TypeError):
    """`@task` or `@flow` was put on something that can't be called."""

    def __init__(self, decorator: str, value: object) -> None:
        super().__init__(
            f"@{decorator} needs a function, a method or a generator function, not {value!r} "
            f"of type {type(value).__name__}."
        )


class InvalidOption(UndertowError, ValueError):
    """An option of a decorator, an engine or a call has a value it can't have."""

    def __init__(self, option: str, value: object, allowed: str) -> None:
        super().__init__(f"{option}={shown(value)} is not possible: it must be {allowed}.")


class UnknownOption(UndertowError, TypeError):
    """`with_options` was given a name that is not an option."""

    def __init__(self, owner: str, name: str, known: Iterable[str], close: Iterable[str] = ()) -> None:
        guess = next(iter(close), None)
        hint = f"Did you mean {guess!r}?" if guess else f"The options are: {', '.join(sorted(known))}."
        super().__init__(f"{owner} has no option {name!r}. {hint}")


class SignatureMismatch(UndertowError, TypeError):
    """The arguments of a call don't fit the function's signature; raised at the call."""

    def __init__(self, name: str, signature: object, reason: str) -> None:
        super().__init__(f"{name}{signature} can't be called so: {reason}.")


class ParameterInvalid(UndertowError, TypeError):
    """A flow's parameter doesn't validate against its annotation."""

    def __init__(self, flow: str, parameter: str, value: object, expected: str, detail: str = "") -> None:
        super().__init__(
            f"Parameter {parameter!r} of flow {flow!r} must be {expected}, not {value!r} "
            f"of type {type(value).__name__}{f': {detail}' if detail else ''}. "
            "(validate_parameters=False turns this check off.)"
        )


class MappingMissingIterable(UndertowError, TypeError):
    """`map` or `stream` was given nothing to map over."""

    def __init__(self, task: str, given: Iterable[str]) -> None:
        super().__init__(
            f"{task}.map(...) needs at least one iterable argument; strings, bytes and unmapped(...) values "
            f"are not mapped over. Given: {', '.join(given) or 'no arguments'}."
        )


class MappingLengthMismatch(UndertowError, ValueError):
    """The iterables given to `map` have different lengths."""

    def __init__(self, task: str, lengths: dict[str, int]) -> None:
        told = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        super().__init__(
            f"{task}.map(...) needs iterables of one length, got {told}. "
            "Wrap what should go to every call in unmapped(...)."
        )


class NoHost(UndertowError, RuntimeError):
    """Something was submitted where nobody could own it."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} can't be submitted here: no flow is running and no engine is open around this call. "
            f"Call it inside a @flow, inside `async with Engine(...)`, or call it directly: {name}(...)."
        )


class WouldBlock(UndertowError, RuntimeError):
    """A blocking call was made on the thread of a running event loop."""

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(f"{what} would block the running event loop. Use `{instead}` instead.")


class SelfDependency(UndertowError, ValueError):
    """A run was made to wait for itself or for a run that waits for it."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name!r} waits for itself: it was asked for the outcome of a run that can only end after it."
        )


class ArgumentsTooDeep(UndertowError, ValueError):
    """An argument holds too many values to be searched for futures."""

    def __init__(self, name: str, budget: int) -> None:
        super().__init__(
            f"The arguments of {name!r} hold more than {budget} values, too many to search for futures. "
            "Wrap large data in quote(...): it is then passed as it is."
        )


class LimitImpossible(UndertowError, ValueError):
    """More slots were asked of a limit than it has."""

    def __init__(self, name: str, asked: float, limit: float) -> None:
        super().__init__(f"Limit {name!r} has {limit:g} slots; {asked:g} can never be taken at once.")


class LimitUnknown(UndertowError, LookupError):
    """A limit was named that the engine doesn't have."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        listed = ", ".join(sorted(known)) or "none"
        super().__init__(
            f"There is no limit {name!r}; the engine has: {listed}. Declare it: Engine(limits={{{name!r}: 10}})."
        )


class SlotTimeout(UndertowError, TimeoutError):
    """Slots did not become free in time."""

    def __init__(self, names: Iterable[str], seconds: float) -> None:
        super().__init__(f"No slot of {', '.join(map(repr, names))} became free within {seconds:g} s.")


class EngineClosed(UndertowError, RuntimeError):
    """The engine was closed, or never opened."""

    def __init__(self, doing: str) -> None:
        super().__init__(f"{doing}: the engine is not open. Open it with `async with Engine(...)`.")


class EngineOpen(UndertowError, RuntimeError):
    """An engine was opened that is open."""

    def __init__(self) -> None:
        super().__init__("The engine is open already. Use it, or make another Engine(...).")


class IllegalTransition(UndertowError, RuntimeError):
    """A run was asked to go from one state to another that the table doesn't allow; nothing changed."""

    def __init__(self, run: str, current: str, asked: str) -> None:
        super().__init__(f"Run {run!r} can't go from {current} to {asked}: no such arrow in the transition table.")


class ResultNotSerializable(UndertowError, TypeError):
    """A value can't be written down; the message names the path to the part that can't."""

    def __init__(self, path: str, part: object) -> None:
        super().__init__(
            f"{path} is of type {type(part).__module__}.{type(part).__qualname__}, which can't be written to the "
            "journal. Return plain values, dataclasses or attrs classes, or teach it the type: register_type(...)."
        )
        self.path = path


class UncacheableArgument(UndertowError, TypeError):
    """A cached task was given an argument that can't be part of a key."""

    def __init__(self, task: str, argument: str, path: str, value: object) -> None:
        where = "" if path == "value" else f" (at {path.replace('value', argument, 1)})"
        super().__init__(
            f"Argument {argument!r} of task {task!r} can't be part of a cache key: it is of type "
            f"{type(value).__module__}.{type(value).__qualname__}{where}. Leave it out with "
            f"cache_policy=INPUTS - {argument!r}, or give a cache_key_fn."
        )


class ResultUnreadable(UndertowError, ValueError):
    """A recorded value can't be read back."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"A recorded value can't be read back: {reason}.")


# --- what became of a run --------------------------------------------------------------------------------------


class RunError(UndertowError):
    """A run ended, or stands, in a state that has no result."""


class UpstreamFailed(RunError, RuntimeError):
    """The run never started, because a run it depends on did not complete."""

    def __init__(self, name: str, upstream: str, state: str, counts: bool = True) -> None:
        super().__init__(
            f"{name!r} was skipped: its upstream {upstream!r} ended {state}. "
            "(allow_failure(...) or when=... lets a task run all the same.)"
        )
        self.upstream = upstream
        self.counts = counts
        """False when the upstream was itself rightly skipped: then this is no failure either."""
        self.source: Any = None
        """The future of the upstream, whose failure was given to whoever is given this error."""


class RunSkipped(RunError, RuntimeError):
    """The run was skipped: its trigger was not met, or its body said so."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name!r} was skipped: {reason}")


class RunTimedOut(RunError, TimeoutError):
    """An attempt took longer than its `timeout_seconds`."""

    def __init__(self, kind: str, name: str, seconds: float) -> None:
        super().__init__(f"{kind.capitalize()} run {name!r} exceeded its timeout of {seconds:g} s.")


class RunCancelled(RunError, RuntimeError):
    """The run was cancelled."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name!r} was cancelled: {reason}" if reason else f"{name!r} was cancelled.")


class RunCrashed(RunError, RuntimeError):
    """The run was interrupted by something that is not an ordinary exception."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name!r} crashed: {reason}")


class RunFailed(RunError, RuntimeError):
    """The run returned a Failed state, or failed with nothing to raise."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name!r} failed: {reason}" if reason else f"{name!r} failed.")


class RunNotResumable(RunError, RuntimeError):
    """The run can't be resumed."""

    def __init__(self, run_id: str, reason: str) -> None:
        super().__init__(f"Run {run_id!r} can't be resumed: {reason}.")


class RunUnknown(UndertowError, LookupError):
    """There is no run of that id in the journal."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"There is no run {run_id!r} in this journal. `undertow ls` lists those there are.")


class RunEnded(UndertowError, RuntimeError):
    """Something was asked of a run that has ended."""

    def __init__(self, run_id: str, state: str) -> None:
        super().__init__(f"Run {run_id!r} has ended {state}: nothing can be asked of it any more.")


class RunNotPaused(UndertowError, RuntimeError):
    """A run was to be resumed that is not paused."""

    def __init__(self, run_id: str, state: str) -> None:
        super().__init__(
            f"Run {run_id!r} is {state}, neither Paused nor Suspended. "
            "What may come before it is waited for is sent as a signal: send_signal(run_id, name, value)."
        )


class NeverResumed(UndertowError, TimeoutError):
    """A paused run was not resumed in time."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(f"{name!r} was paused and never resumed within {seconds:g} s.")


class SignalTimeout(UndertowError, TimeoutError):
    """A signal was not sent in time."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(f"No signal {name!r} came within {seconds:g} s.")


class NotInFlow(UndertowError, RuntimeError):
    """Something was called that belongs into the body of a flow."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} was called outside of {where}. Call it there, and await it.")


class ScheduleUnknown(UndertowError, LookupError):
    """There is no schedule of that name in the journal."""

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no schedule {name!r} in this journal. `undertow schedules` lists those there are.")


class StepMismatch(UndertowError, RuntimeError):
    """A durable flow that runs again does not do what is recorded of it."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(
            f"{name!r} can't go on as it is recorded: {detail}. Undo the change, or resume with on_mismatch='rerun' "
            "(what changed runs again) or on_mismatch='accept' (recorded results are taken as they are)."
        )


class RunIdConflict(UndertowError, ValueError):
    """There is a run of the chosen id already, and it is not what was asked for."""

    def __init__(self, run_id: str, reason: str) -> None:
        super().__init__(f"There is a run {run_id!r} already, and {reason}. Choose another id.")


class RolledBack(RunError, RuntimeError):
    """A transaction was rolled back in an earlier process, and its flow was resumed."""

    def __init__(self, cause: str) -> None:
        super().__init__(f"The transaction was rolled back: {cause}")


class RunUnfinished(RunError, RuntimeError):
    """The result of a run was asked for before there was one."""

    def __init__(self, name: str, state: str) -> None:
        super().__init__(f"{name!r} is {state}: it has no result yet. Await it first.")


# --- said by a body, to the engine -----------------------------------------------------------------------------


class RunPaused(RunUnfinished):
    """The result was asked for of a run that is suspended."""

    def __init__(self, name: str, run_id: str) -> None:
        super().__init__(name, "Suspended")
        self.run_id = run_id
        self.args = (f"{name!r} is suspended. It goes on with: await resume_flow_run({run_id!r}, value).",)


class Suspension(BaseException):
    """Leaves a flow's body when the flow is suspended. No `Exception`, so that no body handles it by accident."""


class Ending(UndertowError):
    """Raised by a body to decide its own outcome."""


class Skip(Ending):
    """`raise Skip("nothing new")` ends the run as Skipped."""


class Fail(Ending):
    """`raise Fail("bad key")` ends the run as Failed at once: it is not retried."""


class RetryAfter(Ending):
    """`raise RetryAfter(30)` fails the attempt and retries it after that many seconds, if retries are left."""

    def __init__(self, seconds: float, reason: str = "") -> None:
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds >= 0:
            raise InvalidOption("RetryAfter", seconds, "a number of seconds, 0 or more")
        super().__init__(reason or f"asked to be retried after {seconds:g} s")
        self.seconds = seconds


# --- the journal -----------------------------------------------------------------------------------------------


class JournalError(UndertowError, OSError):
    """The journal could not be opened, read or written. The message names the file and the remedy."""

    def __init__(self, path: object, problem: str, remedy: str) -> None:
        super().__init__(f"Journal {path}: {problem}. {remedy}")


class JournalMissing(JournalError):
    """There is no journal at the path."""


class JournalReadOnly(JournalError):
    """The journal's file or folder can't be written."""


class JournalLocked(JournalError):
    """Another process holds the journal's lock for too long."""


class JournalFull(JournalError):
    """The disk is full."""


class JournalCorrupt(JournalError):
    """The file is damaged, or is no journal."""


class JournalTooNew(JournalError):
    """The file was written by a newer undertow; not a byte of it was changed."""


class JournalClosed(JournalError):
    """The journal was used after it was closed, or in a forked child."""


# --- worker processes ------------------------------------------------------------------------------------------


class WorkerDied(UndertowError, ChildProcessError):
    """The worker process of an attempt ended before its body did. The attempt failed, and may be retried."""

    def __init__(self, run: str, pid: int, how: str, began: bool = True) -> None:
        when = "in the middle of its body" if began else "before its body began"
        super().__init__(f"The worker process {pid} of task run {run!r} {how} {when}.")


class WorkersKeepDying(UndertowError, ChildProcessError):
    """So many workers of a runner died that it starts no body for a while."""

    def __init__(self, deaths: int, window: float, last: object, wait: float) -> None:
        super().__init__(
            f"{deaths} worker processes died within {window:g} s: no body is started for another {wait:.0f} s. "
            f"Find out what ends them (memory, a crash in an extension, os._exit). The last one: {last}"
        )


class CannotTravel(Fail, TypeError):
    """A function, an argument or a result can't go between the process and a worker process. It is not retried."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} can't travel between processes: {why}.")


class NoEngineInWorker(UndertowError, RuntimeError):
    """A body in a worker process asked for the engine, which is not there."""

    def __init__(self, run: str | None) -> None:
        super().__init__(
            f"Task run {run!r} is in a worker process, and the engine is not: its body can't call tasks and flows, or "
            "take slots of limits. Do that in the flow, call a task's plain function (name.fn(...)), or use threads."
            if run is not None
            else "This is a worker process, where no task or flow can be called. If the script calls one while the "
            'worker imports it, put that call under `if __name__ == "__main__":`.'
        )
