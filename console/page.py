"""Where output goes: rich on a terminal, plain aligned text anywhere else, or one JSON document.

Everything that came out of a program is put into `Text` values, which rich never reads as markup, after `wording.safe`
has written out its control characters. Off a terminal no line is cut or wrapped, and nothing is coloured.
"""

from __future__ import annotations

import json
import sys
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

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

DIM = "bright_black"

_WITHOUT_UNICODE = str.maketrans({"├": "|", "│": "|", "└": "`", "─": "-", "×": "x", "·": "/", "…": "...", "µ": "u"})


class Page:
    """Where output goes: knows how wide it may be and which characters it can hold."""

    def __init__(self, stderr: bool = False, file: TextIO | None = None) -> None:
        self._file = file or (sys.stderr if stderr else sys.stdout)
        self._console = Console(file=self._file, highlight=False, markup=False, emoji=False)
        if not self.is_terminal:
            self._console.width = 100_000

    @property
    def is_terminal(self) -> bool:
        return self._console.is_terminal

    @property
    def width(self) -> int:
        """How many columns a line may have."""
        return self._console.width

    def put(self, *parts: RenderableType) -> None:
        """Print the parts below each other."""
        with self._console.capture() as capture:
            for part in parts:
                self._console.print(part, soft_wrap=isinstance(part, str | Text))
        self.write("".join(f"{line.rstrip(' ')}\n" for line in capture.get().splitlines()))

    def put_json(self, document: Any) -> None:
        """Print one JSON document; spread out for a person, on one line for a program."""
        self._file.write(json.dumps(document, indent=2 if self.is_terminal else None) + "\n")

    def write(self, text: str) -> None:
        """Print text as it is, as far as the file can hold its characters."""
        encoding = getattr(self._file, "encoding", None) or "utf-8"
        if not encoding.lower().startswith("utf"):
            text = text.translate(_WITHOUT_UNICODE)
        self._file.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def flush(self) -> None:
        """Have whoever reads see what was printed."""
        self._file.flush()


def grid(*columns: str) -> Table:
    """Columns without lines; `full` is the one that is cut where a terminal is too narrow."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for justify in columns:
        # Rich takes room first from columns that may wrap; the texts in them are cut instead.
        table.add_column(justify=justify, no_wrap=justify != "full")  # type: ignore[arg-type]
    return table


def one_line(text: str, style: str = "") -> Text:
    """Text that is cut where it does not fit."""
    return Text(text, style, no_wrap=True, overflow="ellipsis")
