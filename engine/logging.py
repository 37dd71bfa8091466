"""`undertow.logging`: for programs that want more of undertow's logging than it does by itself.

`configure()` shows log lines on stderr as a script gets them; `RunFields`, on a handler of your own, puts the fields
of the current run on every record that passes, whoever logged it.
"""

from __future__ import annotations

import logging

from . import settings
from .logs import FIELDS, Logs, run_fields

__all__ = ["FIELDS", "RunFields", "configure", "run_fields"]

_configured: list[Logs] = []


def configure(**options: object) -> Logs:
    """Show what undertow logs, and warnings of the rest, on stderr, whoever runs this program; and set levels.

    `options` are those of `[tool.undertow.logging]`: `level`, `root_level`, `levels={"httpx": "info"}`,
    `extra_loggers`, `console="off"`. They are in force at once, until `stop()` of what is returned, or the next call.

    Raises `UnknownOption` and `SettingInvalid`; nothing has changed then.
    """
    logs = Logs(settings.load(logging={"console": "on", **options}))
    for earlier in _configured:
        earlier.stop()
    _configured[:] = [logs]
    logs.start()
    return logs


class RunFields(logging.Filter):
    """Puts the fields of the current run (`FIELDS`) on every record: `handler.addFilter(RunFields())`.

    Formats such as `"%(run_name)s %(message)s"` then work for any logger, in a run and outside of one, where each field
    is `default`.
    """

    def __init__(self, default: object = "-") -> None:
        super().__init__()
        self._default = default

    def filter(self, record: logging.LogRecord) -> bool:
        fields = run_fields()
        for name in FIELDS:
            if name not in record.__dict__:
                setattr(record, name, fields.get(name, self._default))
        return True
