"""Files that say settings: the project's `undertow.toml` or `pyproject.toml`, and a file of logging settings.

A file is read again only after it has changed. What its keys mean is the business of `settings.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from .errors import UndertowError

_read: dict[Path, tuple[int, int, Mapping[str, Any]]] = {}


class SettingsUnreadable(UndertowError, ValueError):
    """A file of settings can't be read."""

    def __init__(self, file: Path, problem: object) -> None:
        super().__init__(f"The settings in {file} can't be read: {problem}.")


def project_settings() -> tuple[str, Path, Mapping[str, Any]] | None:
    """The nearest file, from the working directory upwards, that has settings: how it is called, its folder, its table.

    In one folder `undertow.toml` counts before the `[tool.undertow]` of `pyproject.toml`.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError:
        return None  # the folder was removed while we work in it
    for folder in (here, *here.parents):
        own = folder / "undertow.toml"
        if own.is_file():
            return str(own), folder, _table(own, _parse_toml)
        shared = folder / "pyproject.toml"
        if shared.is_file() and (table := _table(shared, _parse_section)):
            return f"{shared} [tool.undertow]", folder, table
    return None


def logging_settings(file: Path) -> Mapping[str, Any]:
    """The table in a YAML or TOML file. Raises `SettingsUnreadable`."""
    return _table(file, _parse_toml if file.suffix == ".toml" else _parse_yaml)


def _table(file: Path, parse: Callable[[Path, bytes], Mapping[str, Any]]) -> Mapping[str, Any]:
    try:
        status = file.stat()
        if file in _read and _read[file][:2] == (status.st_mtime_ns, status.st_size):
            return _read[file][2]
        table = parse(file, file.read_bytes())
    except OSError as error:
        raise SettingsUnreadable(file, error.strerror or error) from None
    _read[file] = (status.st_mtime_ns, status.st_size, table)
    return table


def _parse_section(file: Path, content: bytes) -> Mapping[str, Any]:
    if b"undertow" not in content:
        return {}
    tool = _parse_toml(file, content).get("tool")
    section = tool.get("undertow") if isinstance(tool, Mapping) else None
    return section if isinstance(section, Mapping) else {}


def _parse_toml(file: Path, content: bytes) -> Mapping[str, Any]:
    # Not imported before there is something to parse: it would be paid for by every script that starts.
    tomllib = import_module("tomllib")
    try:
        parsed: dict[str, Any] = tomllib.loads(content.decode("utf-8"))
    except ValueError as error:
        raise SettingsUnreadable(file, error) from None
    return parsed


def _parse_yaml(file: Path, content: bytes) -> Mapping[str, Any]:
    try:
        import yaml  # noqa: PLC0415
    except ModuleNotFoundError:
        raise SettingsUnreadable(file, 'reading YAML takes pyyaml: pip install "undertow[yaml]"') from None
    try:
        parsed = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SettingsUnreadable(file, " ".join(str(error).split())) from None
    if parsed is None:
        return {}
    if not isinstance(parsed, Mapping):
        raise SettingsUnreadable(file, f"it holds a {type(parsed).__name__}, not keys with values")
    return parsed
