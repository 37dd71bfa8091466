"""`undertow doctor`, `version` and `completion`: whether all is in order, what is installed, and help at the prompt."""

from __future__ import annotations

import platform
import sqlite3
from importlib.metadata import version as version_of

import attrs
import click
from click.shell_completion import get_completion_class
from rich.text import Text

from .health import Finding, Verdict, examine
from .options import FAILURE, SUCCESS, with_journal, with_json
from .page import Page, grid
from .running import journal_path
from .wording import safe

SHELLS = ["bash", "zsh", "fish"]
STYLES = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.PROBLEM: "bold red"}


@click.command()
@click.option("--quick", is_flag=True, help="Look less closely at the file: much faster for a big one.")
@with_journal
def doctor(quick: bool, journal: str | None, as_json: bool) -> int:
    """Look whether the journal, and what it stands on, is in order.

    Each line is ok, a warning or a problem, and says what to do. Nothing is changed.

    Exit code: 0 there is no problem, 1 there is one.
    """
    path = journal_path(journal)
    findings = list(examine(path, is_named=journal is not None, thorough=not quick))
    code = FAILURE if any(finding.verdict is Verdict.PROBLEM for finding in findings) else SUCCESS
    if as_json:
        told = [attrs.asdict(finding) for finding in findings]
        Page().put_json({"journal": path, "findings": told, "exit_code": code})
    else:
        _put(findings)
    return code


def _put(findings: list[Finding]) -> None:
    table = grid("left", "left", "full")
    for finding in findings:
        said = Text(safe(finding.said))
        if finding.remedy:
            said.append(f"\n→ {safe(finding.remedy)}")
        table.add_row(Text(finding.verdict.value, STYLES[finding.verdict]), Text(finding.about), said)
    Page().put(table)


@click.command()
@with_json
def version(as_json: bool) -> None:
    """Say which undertow this is."""
    versions = {
        "undertow": version_of("undertow"),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }
    versions |= {name: version_of(name) for name in ("anyio", "trio", "aiosqlite")}
    page = Page()
    if as_json:
        page.put_json(versions)
    else:
        first, *others = (f"{name} {number}" for name, number in versions.items())
        page.write(f"{first} ({', '.join(others)})\n")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@with_json
@click.pass_context
def completion(context: click.Context, shell: str, as_json: bool) -> None:
    """Print what makes the Tab key complete verbs, options, states and runs.

    \b
    bash: eval "$(undertow completion bash)"            in ~/.bashrc
    zsh:  eval "$(undertow completion zsh)"             in ~/.zshrc
    fish: undertow completion fish | source             in ~/.config/fish/config.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    script = found(context.find_root().command, {}, "undertow", "_UNDERTOW_COMPLETE").source()
    page = Page()
    page.put_json({"shell": shell, "script": script}) if as_json else page.write(script.strip() + "\n")
