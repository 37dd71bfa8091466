"""A run as one page of HTML that needs nothing else: timeline, graph, tasks, errors, logs.

The page opens offline, fetches nothing and runs no script; its policy forbids both. What programs wrote stands in it
only as escaped text. However much ran, its size is bounded: what does not fit is counted, and said to be left out.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence

import attrs

from .graph import graph_of
from .graph_svg import picture
from .logbook import LogLine
from .looks import PAGE_STYLE, SVG_STYLE, state_class
from .markup import Child, Element, as_html, element
from .records import RunRecord, by_state
from .report_parts import bar, error_list, history, keys, log_table, task_table
from .timeline import timeline
from .tree import failures
from .wording import counted, cut, duration, iso

TIMELINE_NOTE = (
    "A bar is an attempt, a pale one an attempt that failed and was made again, a thin line waiting. For many runs of "
    "one task, the height says how many were at work at once, and each mark at the foot is a failure."
)
GRAPH_NOTE = (
    "A box inside another was called by it; an arrow is a result that was passed on, with how often. What could run at "
    "the same time stands side by side."
)


@attrs.frozen
class Story:
    """All that the page tells."""

    family: Sequence[RunRecord]
    """The run, and after it all that ran inside it."""
    logs: Sequence[LogLine]
    """The last log records."""
    log_levels: Mapping[str, int]
    """How many log records there are of each level, those that are left out too."""
    now: int
    gone: bool = False
    """Whether the run has not ended, and never will: its process has."""

    @property
    def run(self) -> RunRecord:
        return self.family[0]


def report(story: Story) -> str:
    """The page as HTML."""
    style = SVG_STYLE + PAGE_STYLE
    run = story.run
    found = failures(story.family)
    sections = [
        _section("timeline", "Timeline", _drawing(timeline(story.family, story.now), TIMELINE_NOTE), _times(story)),
        _section("graph", "Graph", _drawing(picture(graph_of(story.family)), GRAPH_NOTE)),
        _section("tasks", "Tasks", _card(task_table(story.family[1:]), "scroll"), "by task and flow"),
        _section("errors", "Errors", _card(error_list(found)), _kinds(len(found))) if found else None,
        _section("history", "History", _card(history(run), "scroll"), "the states that the run was in"),
        _section("logs", "Logs", *log_table(story.logs, story.log_levels, story.family)) if story.log_levels else None,
    ]
    shown = [section for section in sections if section is not None]
    return as_html(
        element(
            "html",
            element(
                "head",
                element("meta", charset="utf-8"),
                _policy(style),
                element("meta", name="viewport", content="width=device-width, initial-scale=1"),
                element("meta", name="referrer", content="no-referrer"),
                element("meta", name="generator", content="undertow"),
                element("title", f"{run.name} · {run.state.name}"),
                element("style", style),
            ),
            element(
                "body",
                _header(story),
                _navigation(shown, {"errors": len(found), "logs": sum(story.log_levels.values())}),
                element("main", *shown),
                element("footer", f"Made by undertow, {_utc(story.now)}. All times are UTC."),
            ),
            lang="en",
        )
    )


def _policy(style: str) -> Element:
    """Nothing may be fetched or run; the one style sheet is known by its digest."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return element("meta", **{"http-equiv": "Content-Security-Policy", "content": policy})


def _utc(at: int) -> str:
    return (iso(at) or "").replace("T", " ")[:19]


# --- the head of the page --------------------------------------------------------------------------------------


def _header(story: Story) -> Element:
    run = story.run
    lasted = run.lasted(story.now)
    when = "not begun" if lasted is None else f"{'after' if run.ended else 'for'} {duration(lasted)}"
    if story.gone:
        when += "; its process has ended"
    return element(
        "header",
        element("p", f"{run.kind} {cut(run.function, 200)}", class_="kind"),
        element("h1", cut(run.name, 300)),
        element(
            "div",
            element("span", cut(run.state.name, 60), class_=f"badge {state_class(run.state.type)}"),
            element("span", when),
            element("span", f"started {_utc(run.started)}", class_="muted") if run.started is not None else None,
            class_="lead",
        ),
        element("p", cut(run.said, 1000), class_="said") if run.said else None,
        _tiles(story),
        element("div", _facts(run), class_="card tiles-below"),
    )


def _tiles(story: Story) -> Element:
    """The run in four numbers."""
    run, inside = story.run, story.family[1:]
    tasks = [each for each in inside if each.kind == "task"]
    flows = len(inside) - len(tasks)
    failed = [each for each in tasks if each.failed]
    retries = sum(max(each.attempts - 1, 0) for each in tasks)
    retried = sum(each.attempts > 1 for each in tasks)
    lasted = run.lasted(story.now)
    return element(
        "div",
        _tile(
            "Duration",
            "–" if lasted is None else duration(lasted),
            "so far" if run.ended is None else f"until {_utc(run.ended)}",
        ),
        _tile(
            "Tasks",
            f"{len(tasks):,}",
            *([bar(by_state(tasks))] if tasks else []),
            f"in {counted(flows, 'subflow')}" if flows else None,
        ),
        _tile("Failed", f"{len(failed):,}", f"of {counted(len(tasks), 'task')}"),
        _tile("Retries", f"{retries:,}", f"of {counted(retried, 'task')}" if retried else "none was needed"),
        class_="tiles",
    )


def _tile(name: str, value: str, *more: Child) -> Element:
    below = element("div", *more, class_="more")
    return element("div", element("span", name, class_="muted"), element("strong", value), below, class_="card tile")


def _facts(run: RunRecord) -> Element:
    known: list[tuple[str, Child]] = [("Run", element("code", run.id))]
    if run.version:
        known.append(("Version", cut(run.version, 200)))
    for name, value in list((run.parameters or {}).items())[:30]:
        known.append((f"{cut(name, 60)} =", element("code", cut(json.dumps(value, ensure_ascii=False), 400))))
    if run.tags:
        known.append(("Tags", ", ".join(cut(tag, 100) for tag in run.tags[:50])))
    if run.attempts > 1:
        known.append(("Attempts", str(run.attempts)))
    if run.map_index is not None:
        known.append(("Map index", str(run.map_index)))
    return element("dl", *(part for name, value in known for part in (element("dt", name), element("dd", value))))


def _navigation(sections: Sequence[Element], numbers: Mapping[str, int]) -> Element:
    links = []
    for section in sections:
        name = section.get("id") or ""
        number = element("b", f"{numbers[name]:,}") if name in numbers else None
        links.append(element("a", name.capitalize(), number, href=f"#{name}"))
    return element("nav", element("div", *links))


# --- sections --------------------------------------------------------------------------------------------------


def _section(name: str, heading: str, body: Element, note: Child = None) -> Element:
    aside = element("span", note, class_="muted") if isinstance(note, str) else note
    return element("section", element("div", element("h2", heading), aside, class_="top"), body, id=name, class_=name)


def _card(body: Element, *looks: str, note: str | None = None) -> Element:
    below = None if note is None else element("p", note, class_="legend")
    return element("div", body, below, class_=" ".join(["card", *looks]))


def _drawing(drawing: Element, note: str) -> Element:
    return _card(element("div", drawing, class_="drawing scroll"), note=note)


def _kinds(number: int) -> str:
    return counted(number, "kind") + ", each where it was raised first"


def _times(story: Story) -> Element:
    return keys(by_state(story.family[1:] or story.family))
