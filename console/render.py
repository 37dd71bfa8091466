"""How lists, trees and errors look in a terminal; everything is put on a `Page`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.pretty import pretty_repr
from rich.table import Table
from rich.text import Text

from .page import DIM, STYLES, grid, one_line
from .queries import FlowLine
from .records import RunRecord, StateCount, by_type, of_types
from .tree import Drawn, Failure, Node
from .wording import ago, block, counted, cut, duration, local, safe

MESSAGE_LENGTH = 200
RESULT_LINES = 20
TRACEBACKS = 5

# --- pieces ----------------------------------------------------------------------------------------------------


def state_text(run: RunRecord) -> Text:
    return Text(safe(run.state.name), STYLES.get(run.state.type, ""))


def counts_text(counts: Iterable[StateCount]) -> Text:
    """`2 Failed · 298 Completed`, each in its colour."""
    text = Text()
    for kind, name, number in counts:
        text.append(" · " if text else "", DIM)
        text.append(f"{number:,} {safe(name)}", STYLES.get(kind, ""))
    return text


def took(run: RunRecord, now: int) -> str:
    """How long it has been at it, from its first attempt on."""
    lasted = run.lasted(now)
    return "" if lasted is None else duration(lasted)


def message_of(run: RunRecord) -> str:
    return cut(run.said, MESSAGE_LENGTH)


# --- ls --------------------------------------------------------------------------------------------------------


def flow_list(lines: Iterable[FlowLine], now: int) -> Table:
    """The table of `undertow ls`."""
    table = grid("left", "full", "left", "left", "right", "full")
    table.add_row(*(Text(name, "bold") for name in ("ID", "NAME", "STATE", "STARTED", "DURATION", "TASKS")))
    for line in lines:
        run = line.run
        name = one_line(safe(run.name))
        if not run.name.startswith(run.function):
            name.append(f" ({safe(run.function)})", DIM)
        started = "not yet" if run.started is None else ago(run.started, now)
        tasks = counts_text(of_types(line.tasks))
        tasks.no_wrap, tasks.overflow = True, "ellipsis"
        state = state_text(run).append(" (process gone)" if line.gone else "", "yellow")
        table.add_row(Text(line.short_id, "yellow"), name, state, started, took(run, now), tasks)
    return table


def late_list(lines: Iterable[FlowLine], now: int) -> Table:
    """The table of `undertow ls --late`."""
    table = grid("left", "full", "left", "left", "right", "full")
    table.add_row(*(Text(name, "bold") for name in ("ID", "NAME", "STATE", "DUE", "LATE BY", "WHY")))
    for line in lines:
        run, due = line.run, line.run.nominal
        state = state_text(run).append(" (process gone)" if line.gone else "", "yellow")
        by = "" if due is None else duration((run.started or run.ended or now) - due)
        why = "" if run.late is None else cut(run.late.message, MESSAGE_LENGTH)
        name = one_line(safe(run.name))
        table.add_row(Text(line.short_id, "yellow"), name, state, "" if due is None else local(due), by, one_line(why))
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
    if run.schedule is not None and run.nominal is not None:
        known["schedule"] = f"{safe(run.schedule)}, for {local(run.nominal)}"
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
    kinds: dict[str, list[RunRecord]] = {"flow": [], "task": []}
    for run in runs:
        kinds[run.kind].append(run)
    names = {"flow": "subflows", "task": "tasks"}
    return {names[kind]: counts_text(by_type(found)) for kind, found in kinds.items() if found}


def listing(known: Facts) -> Table:
    """Facts, a line each."""
    table = grid("left", "full")
    for name, value in known.items():
        table.add_row(Text(name, DIM), value if isinstance(value, Text) else Text(value))
    return table


def _when(at: int, now: int) -> str:
    said = ago(at, now)
    return local(at) if said == local(at)[:10] else f"{local(at)}, {said}"


def story(run: RunRecord) -> Table:
    """The states that a run went through, and when, from its making."""
    table = grid("right", "left", "full")
    for change in run.states:
        since = change.at - run.states[0].at
        table.add_row(
            Text(f"+{duration(since)}" if since else local(change.at)[11:], DIM),
            Text(safe(change.name), STYLES.get(change.type, "")),
            one_line(cut(change.message, MESSAGE_LENGTH)),
        )
    return table


def tree(root: Node, now: int) -> Table:
    """The tree below a run, a line for each node, in columns."""
    table = grid("left", "left", "right", "full")
    for guide, node in _walk(root.children, ""):
        table.add_row(Text.assemble((guide, DIM), _label(node)), *_columns(node, now))
    return table


def _walk(nodes: Sequence[Node], indent: str) -> Iterable[tuple[str, Node]]:
    for node in nodes:
        last = node is nodes[-1]
        yield f"{indent}{'└─ ' if last else '├─ '}", node
        yield from _walk(node.children, indent + ("   " if last else "│  "))


def _label(node: Node) -> Text:
    first = node.runs[0]
    if node.drawn is Drawn.DEEPER:
        return Text(f"… {counted(len(node.runs), 'run')} deeper", DIM)
    if node.drawn is Drawn.REST:
        return Text(f"… {counted(len(node.runs), 'more run')}", DIM)
    if node.drawn is Drawn.MORE_FAILURES:
        return Text(f"… {len(node.runs):,} more", DIM)
    if node.drawn is Drawn.TOGETHER:
        return Text.assemble(safe(first.function), (f" ×{len(node.runs):,}", "bold"))
    text = Text(safe(first.name), "bold" if first.kind == "flow" else "")
    return text.append(f" [{first.map_index}]", DIM) if first.map_index is not None else text


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
    if node.drawn in (Drawn.MORE_FAILURES, Drawn.REST):
        notes.append(Text("--all lists them", DIM))
    said = Text(" · ", DIM, no_wrap=True, overflow="ellipsis").join(notes)
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
