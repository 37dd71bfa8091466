"""`undertow graph` and `report`: a run as a drawing, and as one page of HTML."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from ..engine.errors import UndertowError
from ..storage.reading import IN_USE, Reader
from . import queries
from .graph import Graph, as_graph_document, graph_of
from .graph_svg import svg
from .graph_text import dot, mermaid
from .logbook import counted_by_level, newest
from .options import SUCCESS, hint, now, with_journal, with_run
from .page import Page
from .report import Story
from .report import report as page_of
from .report_parts import LOGS_SHOWN
from .running import journal_path
from .wording import size

FORMATS: Mapping[str, Callable[[Graph], str]] = {"mermaid": mermaid, "dot": dot, "svg": svg}
SUFFIXES = {".mmd": "mermaid", ".mermaid": "mermaid", ".dot": "dot", ".gv": "dot", ".svg": "svg"}
STDOUT = "-"


class FileNotWritten(UndertowError, OSError):
    """The file that was asked for can't be written."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path} can't be written: {problem}. Give another path to -o.")


@click.command()
@with_run
@click.option("--format", "form", type=click.Choice(list(FORMATS)), help="Default: by the file's suffix, else mermaid.")
@click.option("--output", "-o", metavar="FILE", type=click.Path(), help="Write to a file, not to stdout.")
@with_journal
def graph(wanted: str | None, form: str | None, output: str | None, journal: str | None, as_json: bool) -> int:
    """Draw what ran inside a run, and whose result went to whom.

    A big map is one box, with how many of its runs are in which state. The SVG needs no other program and fetches
    nothing.

    \b
    undertow graph nightly-3fa1 -o nightly.svg
    undertow graph --format dot | dot -Tpdf > run.pdf
    """
    path = journal_path(journal)
    with Reader(path) as reader:
        found = graph_of(queries.family(reader, queries.resolve(reader, wanted)))
    if as_json and output is None:
        Page().put_json({"journal": path, **as_graph_document(found)})
        return SUCCESS
    chosen = form or SUFFIXES.get(Path(output or "").suffix.lower(), "mermaid")
    _put(FORMATS[chosen](found), output or STDOUT, path)
    if as_json:
        Page().put_json({"journal": path, "run_id": found.root.runs[0].id, "file": output, "format": chosen})
    return SUCCESS


@click.command()
@with_run
@click.option("--output", "-o", metavar="FILE", required=True, type=click.Path(), help="The page; - for stdout.")
@with_journal
def report(wanted: str | None, output: str, journal: str | None, as_json: bool) -> int:
    """Write a run as one page of HTML that needs nothing else.

    Timeline, graph, tasks, errors and logs. The page opens offline, fetches nothing and runs no script.

    \b
    undertow report nightly-3fa1 -o run.html
    """
    if as_json and output == STDOUT:
        raise click.UsageError("--json tells about the file, so it needs one: -o run.html.")
    path = journal_path(journal)
    with Reader(path) as reader:
        run_id = queries.resolve(reader, wanted)
        family = queries.family(reader, run_id)
        story = Story(
            family=family,
            logs=newest(reader, run_id, LOGS_SHOWN),
            log_levels=counted_by_level(reader, run_id),
            now=now(),
            gone=queries.process_gone(reader, family[0]),
        )
    written = _put(page_of(story), output, path)
    if as_json:
        Page().put_json({"journal": path, "run_id": run_id, "file": output, "bytes": written})
    elif output != STDOUT:
        hint(f"{output}: {size(written)}")
    return SUCCESS


def _put(text: str, output: str, journal: str) -> int:
    """Write the text where it is to go, and say how many bytes it has. Raises `FileNotWritten`."""
    data = text.encode("utf-8")
    if output == STDOUT:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        return len(data)
    target = Path(output).resolve()
    journals = [Path(f"{Path(journal).resolve()}{suffix}") for suffix in ("", "-shm", *IN_USE)]
    if target in journals:
        raise FileNotWritten(output, "it is the journal")
    try:
        target.write_bytes(data)
    except OSError as error:
        raise FileNotWritten(output, error.strerror or str(error)) from None
    return len(data)
