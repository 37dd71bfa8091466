"""The parts of the report page that are tables and lists: tasks in numbers, errors, log records, states."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from .logbook import LogLine, severity
from .looks import state_class
from .markup import Child, Element, element
from .records import RunRecord, StateCount, by_state
from .tree import Failure, exception_in
from .wording import block, counted, cut, duration, iso

TASKS_SHOWN = 300
ERRORS_SHOWN = 40
ERRORS_OPEN = 3
TRACEBACK_LENGTH = 12_000
LOGS_SHOWN = 2_000
LOG_LENGTH = 2_000
LOGS_LENGTH = 600_000
"""So many characters of messages at most, of all log records together."""
STATES_SHOWN = 200


# --- states ----------------------------------------------------------------------------------------------------


def bar(counts: Sequence[StateCount]) -> Element:
    """A bar that is divided as runs are among the states."""
    total = sum(count.number for count in counts)
    parts, x = [], 0.0
    for kind, _, number in counts:
        width = 100 * number / total
        shape = {"x": x, "y": 0, "width": max(width, 0.8), "height": 8}
        parts.append(element("rect", class_=f"fill {state_class(kind)}", **shape))
        x += width
    box = {"viewBox": "0 0 100 8", "preserveAspectRatio": "none"}
    return element("svg", *parts, class_="bar", aria_hidden="true", **box)


def keys(counts: Iterable[StateCount]) -> Element:
    """The states with their colours and numbers, on one line."""
    return element(
        "span",
        *(
            element("span", f"{number:,} {cut(name, 60)}", class_=f"key {state_class(kind)}")
            for kind, name, number in counts
        ),
        class_="muted",
    )


def history(run: RunRecord) -> Element:
    """The states that a run was in."""
    rows = []
    for change in run.states[:STATES_SHOWN]:
        since = change.at - run.made
        state = element("span", cut(change.name, 60), class_=f"key {state_class(change.type)}")
        rows.append(
            _row(
                _cell(state),
                _cell((iso(change.at) or "").replace("T", " ").rstrip("Z")[:23], "when"),
                _cell(f"+{duration(since)}" if since else "", "when"),
                _cell(cut(change.message, 1000), "rest"),
            )
        )
    return _table(("State", "Since", "", ""), rows)


# --- tasks -----------------------------------------------------------------------------------------------------


def task_table(runs: Iterable[RunRecord]) -> Element:
    """For each task and flow: how often it ran, how that ended, and how long it took."""
    groups: dict[tuple[str, str], list[RunRecord]] = defaultdict(list)
    for run in runs:
        groups[run.kind, run.function].append(run)
    if not groups:
        return element("p", "Nothing ran inside this run.", class_="note")
    rows = [_task_row(kind, function, group) for (kind, function), group in list(groups.items())[:TASKS_SHOWN]]
    if len(groups) > TASKS_SHOWN:
        rows.append(_row(_cell(f"… and {len(groups) - TASKS_SHOWN:,} more", "muted")))
    heads = ("Name", "Runs|n", "States", "Retries|n", "Waited|n", "Median|n", "95 %|n", "Longest|n", "Total|n")
    return _table(heads, rows)


def _task_row(kind: str, function: str, runs: Sequence[RunRecord]) -> Element:
    counts = by_state(runs)
    times = sorted(run.ended - run.started for run in runs if run.ended is not None and run.started is not None)
    waits = sorted(run.started - run.made for run in runs if run.started is not None)
    retries = sum(max(run.attempts - 1, 0) for run in runs)
    name = element("div", cut(function, 200), element("span", "flow", class_="tag") if kind == "flow" else None)
    return _row(
        _cell(name, "what"),
        _cell(f"{len(runs):,}", "n"),
        _cell(element("div", bar(counts), element("div", keys(counts), class_="counts"))),
        _cell(f"{retries:,}" if retries else "–", "n"),
        _cell(_share(waits, 0.5), "n"),
        _cell(_share(times, 0.5), "n"),
        _cell(_share(times, 0.95), "n"),
        _cell(_share(times, 1.0), "n"),
        _cell(duration(sum(times)) if times else "–", "n"),
    )


def _share(times: Sequence[int], share: float) -> str:
    """The time within which that share of them lies."""
    return duration(times[math.ceil(len(times) * share) - 1]) if times else "–"


# --- errors ----------------------------------------------------------------------------------------------------


def error_list(found: Sequence[Failure]) -> Element:
    """Tracebacks, to be unfolded; the first are open."""
    parts: list[Child] = [_error(failure, number < ERRORS_OPEN) for number, failure in enumerate(found[:ERRORS_SHOWN])]
    if len(found) > ERRORS_SHOWN:
        more = counted(len(found) - ERRORS_SHOWN, "more kind")
        parts.append(element("p", f"{more} of errors: undertow show --all lists them.", class_="note"))
    return element("div", *parts)


def _error(failure: Failure, is_open: bool) -> Element:
    run = failure.run
    raised = block(exception_in(failure.error))[0]
    more = f" · and {failure.count - 1:,} more like it" if failure.count > 1 else ""
    said = element("span", f"{cut(run.state.name, 60)}{more} · {cut(raised, 200)}", class_="muted")
    name = element("span", cut(run.name, 200), class_=f"key {state_class(run.state.type)}")
    lines = block(_shortened(failure.error, TRACEBACK_LENGTH))
    shown: list[Child] = []
    for line in lines:
        shown += [element("b", line) if line == raised else line, "\n"]
    return element("details", element("summary", name, said), element("pre", *shown), open="" if is_open else None)


def _shortened(text: str, length: int) -> str:
    """The beginning and the end of a text that is too long."""
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]}\n… {len(text) - 2 * half:,} characters left out …\n{text[-half:]}"


# --- logs ------------------------------------------------------------------------------------------------------


def log_table(
    lines: Sequence[LogLine], levels: Mapping[str, int], family: Iterable[RunRecord]
) -> tuple[Element, Element | None]:
    """The last log records, a row each, and something to choose the level with."""
    names = {run.id: run.name for run in family}
    rows: list[Element] = []
    room = LOGS_LENGTH
    for line in reversed(lines[-LOGS_SHOWN:]):
        message = line.message if len(line.message) <= LOG_LENGTH else f"{line.message[:LOG_LENGTH]} …"
        room -= len(message) + 100
        if room < 0:
            break
        rows.append(_log_row(line, message, names.get(line.run_id, line.run_id)))
    total = sum(levels.values())
    left_out = total - len(rows)
    note = element("p", f"The last {len(rows):,} of {counted(total, 'record')}.", class_="note") if left_out else None
    body = element("table", element("tbody", *reversed(rows)), class_="log")
    card = element("div", note, element("div", body, class_="records", tabindex="0"), class_="card")
    return card, _level_choice(levels)


def _log_row(line: LogLine, message: str, name: str) -> Element:
    at = (iso(line.at) or "")[11:23]
    return element(
        "tr",
        element("td", at, class_="at"),
        element("td", cut(line.level, 12), class_="level"),
        element("td", cut(name, 40), class_="who", title=f"{cut(name, 200)} · {cut(line.logger, 200)}"),
        element("td", message.expandtabs(4), class_="message"),
        class_=f"l-{_level(line.level)}",
    )


def _level(name: str) -> str:
    """The standard level that a record counts as."""
    steps = ((50, "critical"), (40, "error"), (30, "warning"), (20, "info"))
    return next((level for number, level in steps if severity(name) >= number), "debug")


def _level_choice(levels: Mapping[str, int]) -> Element | None:
    """Buttons that work by style alone."""
    if len({_level(name) for name in levels}) < 2:
        return None
    parts: list[Child] = []
    for choice, label in (("all", "All"), ("info", "Info"), ("warning", "Warnings"), ("error", "Errors")):
        made = {"type": "radio", "name": "level", "id": f"level-{choice}"}
        parts.append(element("input", checked="" if choice == "all" else None, **made))
        parts.append(element("label", label, **{"for": f"level-{choice}"}))
    return element("div", *parts, class_="levels")


# --- pieces of tables ------------------------------------------------------------------------------------------


def _table(heads: Iterable[str], rows: Iterable[Element]) -> Element:
    """A table; a head `Runs|n` has the look `n`."""
    cells = (head.partition("|") for head in heads)
    first = element("tr", *(element("th", name, class_=look or None) for name, _, look in cells))
    return element("table", element("thead", first), element("tbody", *rows))


def _row(*cells: Element) -> Element:
    return element("tr", *cells)


def _cell(content: Child, look: str | None = None) -> Element:
    return element("td", content, class_=look)
