"""How output looks: on a terminal, in a pipe, without Unicode, and whatever programs put into names."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from undertow.console.records import Change

Invoke = Callable[..., Result]

pytestmark = pytest.mark.real_time


def test_text_of_programs_is_only_text(undertow: Invoke) -> None:
    """Names and messages are printed as they are: no markup is read, and control characters are spelled out."""
    runs = undertow("run", "jobs:odd"), undertow("show"), undertow("ls"), undertow("show", "\x1b[31m")
    for result in runs:
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", result.output)
    out = runs[1].stdout
    assert out.startswith(r"[b]näme[/b]\x1b[2J  Failed after")
    assert r"└─ [red]x[/red]\x1b[31m\r1  Failed" in out
    assert r"ValueError: [/nope]\x1b]0;title\x07 \u202e" in out


def test_a_pipe_gets_whole_lines_without_colour(undertow: Invoke) -> None:
    """Off a terminal nothing is cut, wrapped, padded or coloured."""
    undertow("run", "jobs:odd")
    for result in (undertow("ls"), undertow("show")):
        assert "…" not in result.stdout
        assert "\x1b" not in result.stdout
        assert not re.search(" $", result.stdout, re.MULTILINE)


def test_a_terminal_is_not_overrun(undertow: Invoke) -> None:
    """On a terminal the columns fit its width; ids and states stay whole."""
    undertow("run", "jobs:nightly")
    undertow("run", "jobs:odd")
    ids = [run["short_id"] for run in json.loads(undertow("ls", "--json").stdout)["runs"]]
    terminal = {"FORCE_COLOR": "1", "COLUMNS": "70", "TERM": "xterm-256color"}
    coloured = undertow("ls", env=terminal).stdout
    assert "\x1b[" in coloured
    lines = re.sub(r"\x1b\[[\d;]*m", "", coloured).splitlines()
    assert max(map(len, lines)) <= 70
    assert [line.split()[0] for line in lines[1:]] == ids
    assert [state for line in lines[1:] for state in ("Failed", "Completed") if f"  {state} " in line] == [
        "Failed", "Completed",
    ]  # fmt: skip


def test_a_terminal_without_unicode_gets_ascii(undertow: Invoke, start: Any) -> None:
    """Where stdout can hold only ASCII, the tree is drawn in ASCII and other characters are spelled out."""
    undertow("run", "jobs:nightly")
    undertow("run", "jobs:odd")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    name = json.loads(undertow("ls", "--json").stdout)["runs"][1]["name"]
    out, err = start("show", name, env=environment).communicate()
    assert (err, "|- fetch x300" in out, "`- report-" in out) == ("", True, True)
    out, err = start("ls", env=environment).communicate()
    assert (err, r"[b]n\xe4me[/b]\x1b[2J" in out) == ("", True)


def test_a_reader_may_stop_early(undertow: Invoke, start: Any) -> None:
    """When whoever reads the output goes away (`| head`), the command ends without a complaint."""
    undertow("run", "jobs:nightly")
    process = start("show", "--all")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait()


NASTY = "[red]x[/red]\x1b]0;title\x07\r\n\u202e\x00\u2028\x9b31m"


def test_no_verb_lets_control_characters_through(undertow: Invoke, journal_of: Any, record: Any) -> None:
    """Whatever stands in any field of the journal, no verb prints a control character or a line that is not its own."""
    states = (Change("PENDING", NASTY, NASTY, 1), Change("FAILED", NASTY, NASTY, 9))
    fields = {"name": NASTY, "states": states, "tags": (NASTY,), "version": NASTY, "error": NASTY}
    fields |= {"parameters": {NASTY: NASTY}}
    runs = [
        record(0, NASTY, None, kind="flow", **fields),
        record(1, NASTY, 0, **fields),
        record(2, NASTY, 0, upstreams=("00001",), **fields),
    ]
    journal_of(runs, [("00000", 5, NASTY, NASTY, NASTY)])
    verbs = [["ls"], ["show"], ["show", "--all"], ["show", "00001"], ["why"], ["logs"], ["doctor"]]
    verbs += [["graph", "--format", form] for form in ("mermaid", "dot", "svg")]
    for verb in [*verbs, *([*verb, "--json"] for verb in verbs), ["report", "-o", "-"], ["show", NASTY]]:
        result = undertow(*verb)
        assert result.exit_code in (0, 2), verb
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", result.output.expandtabs()), verb
