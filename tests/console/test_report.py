"""`undertow report`: one page that needs nothing else, and in which whatever programs wrote is only text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from undertow.console.logbook import LogLine
from undertow.console.records import Change, RunRecord
from undertow.console.report import Story, report
from undertow.console.timeline import MOST_LINES, timeline

Invoke = Callable[..., Result]
Record = Callable[..., RunRecord]

VOID = {"meta", "input", "br", "hr", "img", "link"}
AT = 1_772_452_800_000_000


class Parsed(HTMLParser):
    """A page as its parser sees it. Fails where tags don't match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.ids: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(*runs: RunRecord, logs: list[LogLine] = [], now: int = AT, **more: Any) -> Parsed:  # noqa: B006
    levels: dict[str, int] = {}
    for line in logs:
        levels[line.level] = levels.get(line.level, 0) + 1
    return Parsed(report(Story(runs, logs[-2000:], levels, now, **more)))


PAYLOADS = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "'><svg/onload=alert(1)>",
    "</title></style></textarea></pre></svg><script>alert(1)</script>",
    "javascript:alert(1)",
    "<!--", "-->", "]]>", "<![CDATA[", "<?xml?>",
    "&lt;script&gt;&#x3c;script&#x3e;",
    "{{7*7}} ${7*7} <%= 7*7 %>",
    "url(//evil.example/x) @import '//evil.example/y';",
    "\x00\x1b[31m\r\n\u202e\u2028\ud800\ufeff",
    "<a href=//evil.example>x</a><base href=//evil.example><meta http-equiv=refresh content=0>",
]  # fmt: skip


def hostile(record: Record, text: str) -> Parsed:
    """A page with one text in every stored field."""
    states = (Change("PENDING", text, text, 1), Change("RUNNING", text, text, 2), Change(text, text, text, 900))
    fields: dict[str, Any] = {
        "name": text, "kind": text, "states": states, "tags": (text,), "version": text, "error": text,
        "parameters": {text: text, "nested": [{text: text}]},
    }  # fmt: skip
    root = record(0, text, None, **fields | {"id": text, "kind": "flow"})
    failed = (*states[:2], Change("FAILED", text, text, 900))
    inside = [record(i, text, None, **fields | {"parent_id": text, "id": f"{text}{i}"}) for i in range(9)]
    inside += [
        record(i, "x", None, **fields | {"parent_id": text, "id": f"{text}{i}", "states": failed}) for i in (97, 98)
    ]
    logs = [LogLine(1, text, 5, text, text, text), LogLine(2, f"{text}1", 5, "ERROR", text, text)]
    return page(root, *inside, logs=logs)


@pytest.mark.parametrize("text", PAYLOADS)
def test_whatever_is_stored_is_only_text(record: Record, text: str) -> None:
    """A hostile text in any stored field adds no element, no attribute and no address to the page, and is shown."""
    plain, attacked = hostile(record, "plain"), hostile(record, text)
    assert [tag for tag, _ in attacked.tags] == [tag for tag, _ in plain.tags]
    for (_, mine), (_, given) in zip(attacked.tags, plain.tags, strict=True):
        assert list(mine) == list(given)
    shown = attacked.text + json.dumps([attributes for _, attributes in attacked.tags])
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2028\ud800\ufeff]", shown)
    assert attacked.text.count("alert(1)") >= 10 * (text.count("alert(1)") > 0)


def test_the_page_needs_nothing_else(record: Record) -> None:
    """No script, no style attribute, no address but those of its own sections; its policy allows its one style only."""
    parsed = page(
        record(0, "root", None, "Failed", kind="flow"),
        record(1, "work", error="Traceback (most recent call last):\n  x\nE: x\n", state="Failed"),
        logs=[LogLine(1, "00000", AT, level, "app", "see https://example.org/") for level in ("INFO", "ERROR")],
    )
    assert {tag for tag, _ in parsed.tags}.isdisjoint({"script", "link", "iframe", "object", "embed", "img", "form"})
    for _, attributes in parsed.tags:
        assert not any(name.startswith("on") or name in ("style", "src", "srcset", "action") for name in attributes)
    links = [attributes["href"] for _, attributes in parsed.tags if "href" in attributes]
    assert [link for link in links if link not in {f"#{each}" for each in parsed.ids}] == []
    assert len(parsed.ids) == len(set(parsed.ids))
    (style,) = [text for text in parsed.texts if ":root{" in text]
    assert not re.search(r"url\(|@import|expression|//", style)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (policy,) = [each["content"] for each in parsed.of("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_the_page_tells_the_run(undertow: Invoke) -> None:
    """The page has the run's facts, its tasks with counts and times, each error once, and the states that it was in."""
    undertow("run", "jobs:nightly", "-p", "n=250")
    assert undertow("report", "-o", "run.html").stderr.startswith("run.html: ")
    parsed = Parsed(Path("run.html").read_text())
    for said in ("flow nightly", "Completed", "n =", "250", "fetch", "add", "Median", "Timeline", "Graph", "History"):
        assert said in parsed.texts, said
    assert "2 Failed" in parsed.texts
    assert "248 Completed" in parsed.texts
    assert parsed.text.count("Traceback (most recent call last)") == 1
    assert "ValueError: no rows at 17" in parsed.texts


def test_logs_are_rows_of_the_page(record: Record) -> None:
    """Each log record is one row, the last of many are shown, and it is said how many there are in all."""
    logs = [LogLine(i, "00000", AT + i, "INFO", "app", f"record {i}\nsecond line") for i in range(2500)]
    parsed = page(record(0, "root", None, kind="flow"), logs=logs)
    assert "The last 2,000 of 2,500 records." in parsed.texts
    assert [text for text in parsed.texts if text.startswith("record ")][:1] == ["record 500\nsecond line"]
    assert sum(1 for attributes in parsed.of("tr") if attributes.get("class") == "l-info") == 2000


def test_log_levels_can_be_chosen_without_a_script(record: Record) -> None:
    """Where there are records of several levels there is a choice of level, which works by style alone."""
    levels = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "NOTICE"]
    logs = [LogLine(i, "00000", AT, level, "app", level) for i, level in enumerate(levels)]
    parsed = page(record(0, "root", None, kind="flow"), logs=logs)
    assert [attributes["id"] for attributes in parsed.of("input")] == [
        "level-all", "level-info", "level-warning", "level-error",
    ]  # fmt: skip
    rows = [attributes["class"] for attributes in parsed.of("tr") if (attributes.get("class") or "").startswith("l-")]
    assert rows == ["l-debug", "l-info", "l-warning", "l-error", "l-critical", "l-info"]
    assert page(record(0, "root", None), logs=logs[:1]).of("input") == []


def test_a_run_that_goes_on_is_said_to(record: Record) -> None:
    """The page of a run that has not ended says so, and one whose process is gone says that."""
    states = (Change("RUNNING", "Running", "", AT),)
    run = record(0, "root", None, states=states, started=AT, ended=None)
    assert "for 3.00 s" in page(run, now=AT + 3_000_000).texts
    assert "so far" in page(run, now=AT + 3_000_000).texts
    assert "for 3.00 s; its process has ended" in page(run, now=AT + 3_000_000, gone=True).texts
    waiting = record(0, "root", None, states=(Change("PENDING", "Pending", "", AT),), started=None, ended=None)
    assert "not begun" in page(waiting, now=AT + 5).texts


# --- however much there is -------------------------------------------------------------------------------------


@pytest.fixture
def many(record: Record) -> list[RunRecord]:
    """Five thousand runs in nested flows, with retries and long errors."""
    error = (
        "Traceback (most recent call last):\n" + '  File "x.py", line {0}, in f{0}\n' * 500 + "ValueError: {0}\n" * 50
    )
    runs = [record(0, "root", None, "Failed", kind="flow")]
    for i in range(1, 5001):
        parent = 0 if i % 50 == 1 else i - (i - 1) % 50
        states = (
            Change("PENDING", "Pending", "", i * 1000),
            Change("RUNNING", "Running", "", i * 1000 + 500),
            Change("SCHEDULED", "AwaitingRetry", "Attempt 1 failed; the next is in 1 s.", i * 1000 + 900),
            Change("RUNNING", "Retrying", "", i * 1000 + 90_000),
            Change(
                "FAILED" if i % 9 == 0 else "COMPLETED",
                "Failed" if i % 9 == 0 else "Completed",
                "m" * 900,
                i * 1000 + 99_000,
            ),
        )
        more: dict[str, Any] = {"states": states, "started": i * 1000 + 500, "ended": i * 1000 + 99_000, "attempts": 2}
        more |= {"kind": "flow" if i % 50 == 1 else "task", "upstreams": (f"{i - 1:05}",), "name": "n" * 200}
        runs.append(record(i, f"task_{i % 700}", parent, error=error.format(i) if i % 9 == 0 else None, **more))
    return runs


def test_the_page_of_five_thousand_tasks_is_small(many: list[RunRecord]) -> None:
    """Five thousand runs with hundreds of different long errors, and any number of long log records, fit into 3 MB."""
    logs = [LogLine(i, f"{i:05}", AT, "ERROR", "app", f"<&{i}>" * 1000) for i in range(2000)]
    html = report(Story(many, logs, {"ERROR": 2_000_000}, AT))
    assert len(html.encode()) < 3_000_000
    parsed = Parsed(html)
    assert "5,000" in parsed.text or "4,900" in parsed.text
    assert re.search(r"\d+ more kinds of errors: undertow show --all lists them", parsed.text)


def test_no_failure_is_lost_in_the_timeline(many: list[RunRecord]) -> None:
    """The timeline has a bounded number of lines, and the moment of each failure is marked in one of them."""
    drawing = timeline(many, AT)
    rows = [each for each in drawing.iter("g") if each.get("class") == "row"]
    assert len(rows) <= MOST_LINES
    marks = [each for each in drawing.iter("rect") if each.get("class") == "fill s-failed"]
    assert len(marks) >= 100


def test_attempts_have_bars_of_their_own(record: Record) -> None:
    """A run's line has a bar for each attempt, pale where it was made again, and thin lines for the waiting."""
    states = (
        Change("PENDING", "Pending", "", 0),
        Change("RUNNING", "Running", "", 1000),
        Change("SCHEDULED", "AwaitingRetry", "", 2000),
        Change("RUNNING", "Retrying", "", 3000),
        Change("COMPLETED", "Completed", "", 4000),
    )
    run = record(0, "work", None, states=states, started=1000, ended=4000, attempts=2)
    (row,) = [each for each in timeline([run], 0).iter("g") if each.get("class") == "row"]
    looks = [each.get("class") for each in row if each.tag in ("rect", "line")]
    assert looks == ["stripe", "wait s-pending", "again", "wait s-scheduled", "fill s-completed"]
    assert "3.0 ms · 2 attempts" in [each.text for each in row]


def test_lanes_show_how_many_ran_at_once(record: Record) -> None:
    """The lane of many runs is as high as the share of them that was at work, on average, in each part of the time."""
    root = record(0, "root", None, kind="flow", started=0, ended=320_000)

    def work(i: int, start: int, end: int) -> RunRecord:
        states = (Change("RUNNING", "Running", "", start), Change("COMPLETED", "Completed", "", end))
        return record(i, "work", states=states, started=start, ended=end)

    runs = [work(1 + i, 0, 160_000 if i < 50 else 80_000) for i in range(100)]
    drawing = timeline([root, *runs], 0)
    (area,) = [each.get("d") or "" for each in drawing.iter("path")]
    heights = [float(found) for found in re.findall(r"V([\d.]+)", area)]
    full, half, none = heights[0], heights[1], heights[2]
    assert none - full == pytest.approx(2 * (none - half), abs=0.2)
