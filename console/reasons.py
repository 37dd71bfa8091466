"""Why a run is what it is: what it waits for, down to what holds it up, or why it ended so, down to the first cause.

The answer is a chain of reasons, each about one run, read from the journal alone: what is not recorded is not claimed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import attrs

from .records import RunRecord, by_state, in_words
from .tree import exception_in, same_error
from .wording import counted, cut, duration, iso, local

LONGEST = 50
NAMED = 5


class Known(Protocol):
    """What can be looked up about other runs."""

    def run(self, run_id: str) -> RunRecord | None: ...
    def inside(self, run_id: str) -> Sequence[RunRecord]: ...
    def gone(self, run: RunRecord) -> bool: ...


class Answer(NamedTuple):
    """What is said about one run, in a word for programs and in words for people, and which run to ask next."""

    word: str
    said: str
    next: RunRecord | None = None


@attrs.frozen
class Reason:
    """One link of the chain."""

    run: RunRecord
    word: str
    said: str

    def as_document(self) -> dict[str, Any]:
        """The reason for a program to read."""
        return {
            "run_id": self.run.id,
            "name": self.run.name,
            "state_type": self.run.state.type,
            "state_name": self.run.state.name,
            "since": iso(self.run.state.at),
            "reason": self.word,
            "said": self.said,
        }


def reasons(run: RunRecord, known: Known, now: int) -> list[Reason]:
    """The chain of reasons, the run's own first."""
    chain: list[Reason] = []
    seen: set[str] = set()
    current: RunRecord | None = run
    while current is not None and current.id not in seen and len(chain) < LONGEST:
        seen.add(current.id)
        if current.ended is not None:
            answer = _ENDED.get(current.state.type, _says)(current, known)
        elif known.gone(current):
            answer = Answer(
                "process gone", "Its process has ended. It is marked Crashed when the journal is next used."
            )
        else:
            answer = _WAITING.get(current.state.type, _says)(current, known, now)
        said = answer.said + _was_late(current) if not chain else answer.said
        chain.append(Reason(current, answer.word, said))
        current = answer.next
    return chain


# --- what has not ended ----------------------------------------------------------------------------------------

_LIMITS = re.compile(r"No slot free of (.+)\.")
_OVERLAP = re.compile(r"\brun (\S+) of the same schedule")
_DELAY = re.compile(r"the next is in ([0-9.e+-]+) s\.")


def _scheduled(run: RunRecord, known: Known, now: int) -> Answer:
    state = run.state
    if state.name == "AwaitingConcurrencySlot":
        found = _LIMITS.fullmatch(state.message)
        names = cut(found[1], 300) if found else "a limit"
        said = (
            f"It waits for a slot of {names}, for {duration(now - state.at)} now; all are taken.{_others(run, known)}"
        )
        return Answer("limit", said)
    if state.name == "AwaitingRetry":
        said = f"Attempt {run.attempts} failed{_raised(run)}. The next one {_to_begin(_next_attempt(run), now)}."
        return Answer("retry", said)
    if state.name == "Late":
        said = f"It is Late: it {_to_begin(run.expected, now)}. {cut(state.message, 500)}".rstrip()
        return Answer("late", said + _others(run, known), _ahead(run, known))
    if state.name == "Resuming":
        return Answer("resuming", f"It was resumed {duration(now - state.at)} ago, and begins again.")
    said = f"It {_to_begin(run.expected, now)}. {cut(state.message, 500)}".rstrip()
    return Answer("scheduled", said, _ahead(run, known))


def _ahead(run: RunRecord, known: Known) -> RunRecord | None:
    """The run of an earlier fire of the same schedule that is in its way."""
    found = _OVERLAP.search(run.state.message)
    return known.run(found[1]) if found else None


def _next_attempt(run: RunRecord) -> int | None:
    if run.expected_start is not None and run.expected_start >= run.state.at:
        return run.expected_start
    found = _DELAY.search(run.state.message)
    return run.state.at + round(float(found[1]) * 1e6) if found else None


def _to_begin(at: int | None, now: int) -> str:
    if at is None:
        return "is to begin at a time that is not recorded"
    if at >= now:
        return f"is to begin at {local(at)}, in {duration(at - now)}"
    return f"was to begin at {local(at)}, {duration(now - at)} ago, and has not"


def _others(run: RunRecord, known: Known) -> str:
    """Who of its kind is at work meanwhile."""
    if run.parent_id is None:
        return ""
    at_work = [
        each for each in known.inside(run.parent_id) if each.state.type == "RUNNING" and each.function == run.function
    ]
    return f" Meanwhile {_names(at_work)} {'is' if len(at_work) == 1 else 'are'} running." if at_work else ""


def _pending(run: RunRecord, known: Known, now: int) -> Answer:
    upstreams = [found for each in run.upstreams if (found := known.run(each)) is not None]
    open_ones = [each for each in upstreams if each.ended is None]
    if open_ones:
        said = f"It waits for {'its upstream' if len(open_ones) == 1 else 'upstreams'} {_names(open_ones)}."
        if len(upstreams) > len(open_ones):
            said += f" {counted(len(upstreams) - len(open_ones), 'other')} ended."
        return Answer("upstream", said, open_ones[0])
    return Answer("turn", f"It has not begun; it waits for its turn, for {duration(now - run.state.at)} now.")


def _running(run: RunRecord, known: Known, now: int) -> Answer:
    inside = known.inside(run.id)
    open_ones = [each for each in inside if each.ended is None]
    since = f"Attempt {run.attempts} runs for {duration(now - run.state.at)} now"
    if not open_ones:
        return Answer("body", f"{since}, and nothing is open inside it: its own body is at work.")
    return Answer("inside", f"{since}. Open inside it: {in_words(by_state(open_ones))}.", _holding_up(open_ones))


def _holding_up(runs: Sequence[RunRecord]) -> RunRecord:
    """The one to ask next: what runs rather than what waits, and of these what does so for longest."""
    return min(runs, key=lambda run: (run.state.type == "PENDING", run.state.at))


def _paused(run: RunRecord, known: Known, now: int) -> Answer:
    said = f"It is paused, for {duration(now - run.state.at)} now, until somebody resumes it. "
    return Answer("paused", (said + cut(run.state.message, 500)).rstrip())


def _cancelling(run: RunRecord, known: Known, now: int) -> Answer:
    open_ones = [each for each in known.inside(run.id) if each.ended is None]
    said = f"It was told to stop {duration(now - run.state.at)} ago, and cleans up. {cut(run.state.message, 500)}"
    return Answer("cleanup", said.rstrip(), _holding_up(open_ones) if open_ones else None)


def _says(run: RunRecord, *_: object) -> Answer:
    return Answer("state", cut(run.state.message, 500) or "Nothing is recorded about it.")


_WAITING = {
    "SCHEDULED": _scheduled,
    "PENDING": _pending,
    "RUNNING": _running,
    "PAUSED": _paused,
    "CANCELLING": _cancelling,
}


# --- what has ended --------------------------------------------------------------------------------------------


def _completed(run: RunRecord, known: Known) -> Answer:
    if run.state.name == "Cached":
        return Answer(
            "cached", f"Its body did not run: its result had been kept. {cut(run.state.message, 500)}".rstrip()
        )
    if run.state.name == "RolledBack":
        return Answer("rolled back", f"It completed, and was rolled back. {cut(run.state.message, 500)}".rstrip())
    failed = [each for each in known.inside(run.id) if each.failed]
    if failed:
        return Answer("completed", f"It completed, although {_names(failed)} inside it failed.")
    return Answer("completed", cut(run.state.message, 500) or "Its body returned.")


def _failed(run: RunRecord, known: Known) -> Answer:
    failed = sorted((each for each in known.inside(run.id) if each.failed), key=lambda each: each.ended or 0)
    passed_on = next((each for each in failed if same_error(each, run)), None)
    if passed_on is not None:
        return Answer("passed on", f"It ended with the error of {cut(passed_on.name, 100)}{_raised(run)}.", passed_on)
    if run.error is None and failed:
        said = f"{cut(run.state.message, 500) or 'Runs inside it failed.'} The first that failed was "
        return Answer("inside failed", f"{said}{cut(failed[0].name, 100)}.", failed[0])
    if run.error is not None and "UpstreamFailed: " in exception_in(run.error):
        skipped = [each for each in known.inside(run.id) if each.state.type == "SKIPPED"]
        asked = next((each for each in skipped if repr(each.name) in exception_in(run.error or "")), None)
        said = f"It asked for the result of a run that was skipped{_raised(run)}."
        return Answer("inside skipped", said, asked)
    if run.state.name == "TimedOut":
        return Answer("timed out", cut(run.state.message, 500))
    if run.error is None:
        return Answer(
            "said so", cut(run.state.message, 500) or f"It ended {cut(run.state.name, 60)}, and says no more."
        )
    attempts = f"The last of its {run.attempts} attempts" if run.attempts > 1 else "Its body"
    what = "was interrupted" if run.state.type == "CRASHED" else "failed"
    return Answer("raised", f"{attempts} {what}{_raised(run)}.")


def _cancelled(run: RunRecord, known: Known) -> Answer:
    said = cut(run.state.message, 500) or "It was cancelled."
    above = known.run(run.parent_id) if run.parent_id is not None and "its caller was cancelled" in said else None
    if above is not None and above.ended is not None and above.state.type in ("FAILED", "CRASHED", "CANCELLED"):
        return Answer("caller", said, above)
    return Answer("cancelled", said, _ahead(run, known))


def _skipped(run: RunRecord, known: Known) -> Answer:
    upstreams = [found for each in run.upstreams if (found := known.run(each)) is not None]
    bad = [each for each in upstreams if each.state.type != "COMPLETED" and repr(each.name) in run.state.message]
    if bad and run.state.message.startswith("Upstream "):
        return Answer("upstream failed", f"It never began. {cut(run.state.message, 500)}", bad[0])
    if run.state.message.startswith("Trigger "):
        return Answer("trigger", f"It never began. {cut(run.state.message, 500)}.")
    if run.started:
        return Answer("skipped", f"It skipped itself: {cut(run.state.message, 500)}")
    ahead = _ahead(run, known)
    word = "overlap" if ahead is not None else "missed" if run.state.message.startswith("missed: ") else "skipped"
    return Answer(word, f"It never began. {_sentence(run.state.message)}" if run.schedule else run.state.message, ahead)


_ENDED = {
    "COMPLETED": _completed,
    "FAILED": _failed,
    "CRASHED": _failed,
    "CANCELLED": _cancelled,
    "SKIPPED": _skipped,
}


def _was_late(run: RunRecord) -> str:
    """That it began later than it was to, and why."""
    late = run.late
    if late is None or late is run.state or run.nominal is None:
        return ""
    began = "" if run.started is None else f" It began {duration(run.started - run.nominal)} late."
    return f"{began} It was Late: {cut(late.message, 300)}"


# --- words -----------------------------------------------------------------------------------------------------


def _sentence(text: str) -> str:
    line = cut(text, 500)
    return line[:1].upper() + line[1:]


def _raised(run: RunRecord) -> str:
    return f": {cut(exception_in(run.error), 200)}" if run.error else ""


def _names(runs: Iterable[RunRecord]) -> str:
    """`a, b and 3 more`."""
    names = [cut(run.name, 60) for run in runs]
    if len(names) > NAMED:
        return f"{', '.join(names[:NAMED])} and {len(names) - NAMED} more"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
