"""How lists, trees and errors look: rich on a terminal, plain aligned text anywhere else.

Everything that came out of a program is put into `Text` values, which rich never reads as markup, after `wording.safe`
has written out its control characters. Off a terminal no line is cut or wrapped, and nothing is coloured.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.pretty import pretty_repr
from rich.table import Table
from rich.text import Text

from .queries import FlowLine, RunRecord
from .tree import Drawn, Failure, Node
from .wording import ago, block, counted, cut, duration, iso, local, safe

STYLES = {
    "FAILED": "bold red",
    "CRASHED": "bold magenta",
    "CANCELLED": "yellow",
    "RUNNING": "cyan",
    "PAUSED": "yellow",
    "CANCELLING": "yellow",
    "SCHEDULED": "blue",
    "PENDING": "blue",
    "COMPLETED": "green",
    "SKIPPED": "bright_black",
}
_ORDER = [kind.capitalize() for kind in STYLES]  # trouble first: it must not be what is cut
_DIM = "bright_black"

_SAID_BY_STATE = ("Task run raised ", "Flow run raised ", "Crash detected! Execution was ")

MESSAGE_LENGTH = 200
RESULT_LINES = 20
TRACEBACKS = 5

_WITHOUT_UNICODE = str.maketrans({"├": "|", "│": "|", "└": "`", "─": "-", "×": "x", "·": "/", "…": "...", "µ": "u"})


class Page:
    """Where output goes: knows how wide it may be and which characters it can hold."""

    def __init__(self, stderr: bool = False) -> None:
        self._file = sys.stderr if stderr else sys.stdout
        self._console = Console(file=self._file, highlight=False, markup=False, emoji=False)
        if not self._console.is_terminal:
            self._console.width = 100_000

    def put(self, *parts: RenderableType) -> None:
        """Print the parts below each other."""
        with self._console.capture() as capture:
            for part in parts:
                self._console.print(part, soft_wrap=isinstance(part, str | Text))
        self.write("".join(f"{line.rstrip(' ')}\n" for line in capture.get().splitlines()))

    def put_json(self, document: dict[str, Any]) -> None:
        """Print one JSON document; spread out for a person, on one line for a program."""
        self._file.write(json.dumps(document, indent=2 if self._console.is_terminal else None) + "\n")

    def write(self, text: str) -> None:
        encoding = getattr(self._file, "encoding", None) or "utf-8"
        if not encoding.lower().startswith("utf"):
            text = text.translate(_WITHOUT_UNICODE)
        self._file.write(text.encode(encoding, "backslashreplace").decode(encoding))


# --- pieces ----------------------------------------------------------------------------------------------------


def state_text(run: RunRecord) -> Text:
    return Text(safe(run.state.name), STYLES.get(run.state.type, ""))


def counts_text(by_state: Mapping[str, int]) -> Text:
    """`2 Failed · 298 Completed`, each in its colour."""
    text = Text()
    for name in [*(n for n in _ORDER if n in by_state), *sorted(n for n in by_state if n not in _ORDER)]:
        text.append(" · " if text else "", _DIM)
        text.append(f"{by_state[name]:,} {safe(name)}", STYLES.get(name.upper(), ""))
    return text


def took(run: RunRecord, now: int) -> str:
    """How long it has been at it, from its first attempt on."""
    return "" if run.started is None else duration((run.ended or now) - run.started)


def message_of(run: RunRecord) -> str:
    """What the state says, without the words that the state itself says already."""
    text = run.state.message
    for start in _SAID_BY_STATE:
        text = text.removeprefix(start)
    return "" if text == "All states completed." else cut(text, MESSAGE_LENGTH)


def _grid(*columns: str) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for justify in columns:
        # Rich takes room first from columns that may wrap; the texts in them are cut instead.
        table.add_column(justify=justify, no_wrap=justify != "full")  # type: ignore[arg-type]
    return table


def _line(text: str, style: str = "") -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")


# --- ls --------------------------------------------------------------------------------------------------------


def flow_list(lines: Iterable[FlowLine], now: int) -> Table:
    """The table of `undertow ls`."""
    table = _grid("left", "full", "left", "left", "right", "full")
    table.add_row(*(Text(name, "bold") for name in ("ID", "NAME", "STATE", "STARTED", "DURATION", "TASKS")))
    for line in lines:
        run = line.run
        name = _line(safe(run.name))
        if not run.name.startswith(run.function):
            name.append(f" ({safe(run.function)})", _DIM)
        started = "not yet" if run.started is None else ago(run.started, now)
        tasks = counts_text({kind.capitalize(): number for kind, number in line.tasks.items()})
        tasks.no_wrap, tasks.overflow = True, "ellipsis"
        state = state_text(run).append(" (process gone)" if line.gone else "", "yellow")
        table.add_row(Text(line.short_id, "yellow"), name, state, started, took(run, now), tasks)
    return table


# --- show ------------------------------------------------------------------------------------------------------


def heading(run: RunRecord, now: int) -> list[RenderableType]:
    """A run's name, state, timing and message, over everything else that is said about it."""
    first = Text.assemble((safe(run.name), "bold"), "  ", state_text(run))
    if run.started is not None:
        first.append(f" {'after' if run.ended else 'for'} {took(run, now)}")
    lines: list[RenderableType] = [first]
    message = message_of(run)
    if message:
        lines.append(Text(message, STYLES.get(run.state.type, "") if run.failed else ""))
    return lines


Facts = dict[str, str | Text]


def facts(run: RunRecord, now: int) -> Facts:
    """What there is to know about a run beyond its heading."""
    known: Facts = {"id": run.id}
    if run.function != run.name.rpartition("-")[0]:
        known[run.kind] = safe(run.function)
    if run.version:
        known["version"] = safe(run.version)
    known["made" if run.started is None else "started"] = _when(run.started or run.states[0].at, now)
    if run.parameters:
        given = (f"{safe(name)}={cut(json.dumps(value), 60)}" for name, value in run.parameters.items())
        known["parameters"] = ", ".join(given)
    if run.attempts > 1:
        known["attempts"] = str(run.attempts)
    if run.tags:
        known["tags"] = ", ".join(safe(tag) for tag in run.tags)
    if run.map_index is not None:
        known["map index"] = str(run.map_index)
    return known


def inside(runs: Iterable[RunRecord]) -> Facts:
    """How many subflows and tasks ran inside, by type of state."""
    kinds = {"flow": Counter[str](), "task": Counter[str]()}
    for run in runs:
        kinds[run.kind][run.state.type.capitalize()] += 1
    return {f"{'subflow' if kind == 'flow' else kind}s": counts_text(kinds[kind]) for kind in kinds if kinds[kind]}


def listing(known: Facts) -> Table:
    """Facts, a line each."""
    table = _grid("left", "full")
    for name, value in known.items():
        table.add_row(Text(name, _DIM), value if isinstance(value, Text) else Text(value))
    return table


def _when(at: int, now: int) -> str:
    said = ago(at, now)
    return local(at) if said == local(at)[:10] else f"{local(at)}, {said}"


def story(run: RunRecord) -> Table:
    """The states that a run went through, and when, from its making."""
    table = _grid("right", "left", "full")
    for change in run.states:
        since = change.at - run.states[0].at
        table.add_row(
            Text(f"+{duration(since)}" if since else local(change.at)[11:], _DIM),
            Text(safe(change.name), STYLES.get(change.type, "")),
            _line(cut(change.message, MESSAGE_LENGTH)),
        )
    return table


def tree(root: Node, now: int) -> Table:
    """The tree below a run, a line for each node, in columns."""
    table = _grid("left", "left", "right", "full")
    for guide, node in _walk(root.children, ""):
        table.add_row(Text.assemble((guide, _DIM), _label(node)), *_columns(node, now))
    return table


def _walk(nodes: Sequence[Node], indent: str) -> Iterable[tuple[str, Node]]:
    for node in nodes:
        last = node is nodes[-1]
        yield f"{indent}{'└─ ' if last else '├─ '}", node
        yield from _walk(node.children, indent + ("   " if last else "│  "))


def _label(node: Node) -> Text:
    first = node.runs[0]
    if node.drawn is Drawn.DEEPER:
        return Text(f"… {counted(len(node.runs), 'run')} deeper", _DIM)
    if node.drawn is Drawn.MORE_FAILURES:
        return Text(f"… {len(node.runs):,} more", _DIM)
    if node.drawn is Drawn.TOGETHER:
        return Text.assemble(safe(first.function), (f" ×{len(node.runs):,}", "bold"))
    text = Text(safe(first.name), "bold" if first.kind == "flow" else "")
    return text.append(f" [{first.map_index}]", _DIM) if first.map_index is not None else text


def _columns(node: Node, now: int) -> Sequence[RenderableType]:
    """State, timing, and what else there is to say; several runs have a state only if all have the same."""
    first = node.runs[0]
    same = len(node.by_state) == 1
    if node.drawn is Drawn.RUN:
        time = took(first, now)
        notes = [Text(counted(first.attempts, "attempt"), "yellow")] if node.retries else []
        notes += [Text(message)] if (message := message_of(first)) else []
    else:
        time = "" if node.started is None else duration(node.ended(now) - node.started)
        notes = [] if same else [counts_text(node.by_state)]
        notes += [Text(counted(node.retries, "retry", "retries"), "yellow")] if node.retries else []
    if node.drawn is Drawn.MORE_FAILURES:
        notes.append(Text("--all lists them", _DIM))
    said = Text(" · ", _DIM, no_wrap=True, overflow="ellipsis").join(notes)
    return state_text(first) if same else "", time, said


def errors(found: Sequence[Failure], limit: int | None = TRACEBACKS) -> list[RenderableType]:
    """The tracebacks of a family, each under the name of the run in which it was raised."""
    lines: list[RenderableType] = []
    for failure in found[:limit]:
        title = Text.assemble((safe(failure.run.name), "bold"), " ", state_text(failure.run))
        if failure.count > 1:
            title.append(f", and {failure.count - 1} more like it")
        lines += ["", title]
        traceback = block(failure.error)
        lines += [Text(f"  {line}", "red" if line is traceback[-1] else "") for line in traceback]
    if limit is not None and len(found) > limit:
        lines += ["", Text(f"{counted(len(found) - limit, 'more failure')} of other kinds (--all shows them)", "red")]
    return lines


def result(value: object) -> Text:
    """A flow's result, over several lines where one is not enough, and not in full where it is long."""
    for items in (RESULT_LINES, 10):
        lines = block(pretty_repr(value, max_width=70, max_length=items, max_string=500, max_depth=5))
        if len(lines) <= RESULT_LINES:
            break
    if len(lines) > RESULT_LINES:
        lines[RESULT_LINES:] = [f"… {counted(len(lines) - RESULT_LINES, 'more line')}"]
    return Text("\n".join(lines))


# --- as JSON ---------------------------------------------------------------------------------------------------


def as_document(run: RunRecord) -> dict[str, Any]:
    """A run for a program to read; the keys are those of the journal's views where these have the thing."""
    return {
        "id": run.id,
        "kind": run.kind,
        "name": run.name,
        "function": run.function,
        "version": run.version,
        "state_type": run.state.type,
        "state_name": run.state.name,
        "state_message": run.state.message,
        "parent_run_id": run.parent_id,
        "map_index": run.map_index,
        "attempts": run.attempts,
        "parameters": run.parameters,
        "tags": list(run.tags),
        "created_at": iso(run.states[0].at),
        "started_at": iso(run.started),
        "ended_at": iso(run.ended),
        "duration_seconds": None if run.ended is None or run.started is None else (run.ended - run.started) / 1e6,
        "upstream_ids": list(run.upstreams),
        "error": run.error,
        "states": [
            {"type": change.type, "name": change.name, "message": change.message, "at": iso(change.at)}
            for change in run.states
        ],
    }
