"""`undertow config`: the settings that an engine made here would have, and where each comes from."""

from __future__ import annotations

import click
from rich.text import Text

from ..engine.settings import sources
from .options import with_json
from .page import Page, grid
from .wording import safe


@click.command()
@click.option("--sources", "with_sources", is_flag=True, help="Also say where each value comes from.")
@with_json
def config(with_sources: bool, as_json: bool) -> None:
    """Print the settings that an engine made here has.

    They are looked for in the environment (UNDERTOW_...), in undertow.toml or [tool.undertow] of the nearest
    pyproject.toml, and else have their defaults. A bad value is one line that names it, and exit code 2.
    """
    found = list(sources())
    if as_json:
        told = {name: {"value": _plain(value), "source": source} for name, value, source in found}
        Page().put_json({"settings": told})
        return
    table = grid("left", "left", "full")
    for name, value, source in found:
        row = [Text(safe(name)), Text(safe(str(value)))]
        table.add_row(*row, *([Text(safe(source), "dim")] if with_sources else []))
    Page().put(table)


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
