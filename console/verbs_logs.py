"""`undertow logs`: what a run and all inside it logged, and with `-f` what they log from now on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import click
from rich.cells import cell_len, chop_cells
from rich.text import Text

from ..storage.reading import Reader
from . import queries
from .logbook import Follower, LogLine, last_seq, newest, severity
from .options import INTERRUPTED, SUCCESS, hint, with_journal, with_run
from .page import DIM, Page
from .running import journal_path
from .wording import block, clock, cut, safe

POLL_SECONDS = 0.25
"""How often to look for new records while following."""

LEVELS = ["debug", "info", "warning", "error", "critical"]
STYLES = {"DEBUG": DIM, "WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red"}


@click.command()
@with_run
@click.option("--follow", "-f", is_flag=True, help="Go on with what is logged from now on, until the run has ended.")
@click.option("--level", type=click.Choice(LEVELS, case_sensitive=False), help="Only records of this level and above.")
@click.option("--lines", "-n", type=click.IntRange(0), help="Begin with the last so many records; else with the first.")
@with_journal
def logs(
    wanted: str | None, follow: bool, level: str | None, lines: int | None, journal: str | None, as_json: bool
) -> int:
    """Print the log records of a run and of all that ran inside it.

    One record is one line; only on a terminal one of several lines is spread out, below its head. With --json and -f
    each record is a JSON document on a line of its own.

    Exit code: 0 all was printed (with -f: the run has ended), 130 interrupted while following.
    """
    path = journal_path(journal)
    least = 0 if level is None else severity(level)
    with Reader(path) as reader:
        run_id = queries.resolve(reader, wanted)
        follower = Follower(run_id, last_seq(reader))
        first = [line for line in newest(reader, run_id) if severity(line.level) >= least]
    first = first if lines is None else first[len(first) - min(lines, len(first)) :]
    if as_json and not follow:
        documents = [line.as_document() for line in first]
        Page().put_json({"journal": path, "run_id": run_id, "logs": documents})
        return SUCCESS
    printer = _Printer(path, as_json, least)
    if not follow:
        printer.put(first)
        return SUCCESS
    try:
        printer.put(line for line in first if line.seq <= follower.after)
        if not _follow(path, run_id, follower, printer.put):
            hint("The run has not ended, but its process has.")
    except KeyboardInterrupt:
        return INTERRUPTED  # how one stops following: nothing to complain about
    return SUCCESS


def _follow(path: str, run_id: str, follower: Follower, put: Callable[[Iterable[LogLine]], None]) -> bool:
    """Hand out records until the run has ended; whether it did, or only its process."""
    over = False
    while True:
        # Opened anew each time: a reader that stays would keep the journal from being closed tidily.
        with Reader(path) as reader:
            put(follower.more(reader))
            run = queries.Lookup(reader).run(run_id)
            if over:  # its last records may have been written after its end
                return run is None or run.ended is not None
            over = run is None or run.ended is not None or queries.process_gone(reader, run)
        time.sleep(POLL_SECONDS)


class _Printer:
    """Prints records, each with the name of its run."""

    def __init__(self, path: str, as_json: bool, least: int) -> None:
        self._path = path
        self._as_json = as_json
        self._least = least
        self._page = Page()
        self._names: dict[str, str] = {}

    def put(self, lines: Iterable[LogLine]) -> None:
        shown = [line for line in lines if severity(line.level) >= self._least]
        if not shown:
            return
        if self._as_json:
            for line in shown:
                self._page.put_json(line.as_document())
        else:
            self._learn_names(shown)
            self._page.put(*(part for line in shown for part in self._parts(line)))
        self._page.flush()

    def _learn_names(self, lines: Sequence[LogLine]) -> None:
        unknown = {line.run_id for line in lines} - self._names.keys()
        if unknown:
            with Reader(self._path) as reader:
                known = queries.Lookup(reader)
                for run_id in unknown:
                    run = known.run(run_id)
                    self._names[run_id] = run_id if run is None else run.name

    def _parts(self, line: LogLine) -> list[Text]:
        """The record as one line, or on a terminal as a head and lines that can't be taken for one."""
        head = Text(clock(line.at), DIM)
        head.append(f" {cut(line.level, 12):<8} ", STYLES.get(line.level.upper(), ""))
        head.append(f"{cut(self._names[line.run_id], 60)} ", DIM)
        if not self._page.is_terminal:
            return [head.append(safe(line.message))]
        room = self._page.width - head.cell_len
        first, *rest = block(line.message)
        if cell_len(first) <= room:
            head.append(first)
        else:
            rest.insert(0, first)
        pieces = [piece for each in rest for piece in chop_cells(each, self._page.width - len(_INDENT)) or [""]]
        return [head, *(Text.assemble((_INDENT, DIM), piece) for piece in pieces)]


_INDENT = "    │ "
