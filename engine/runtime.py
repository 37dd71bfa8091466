"""What a body may know about the run it is in: `runtime.task_run.run_count`, `runtime.flow_run.name`.

Outside any run every attribute is `None`, so that code which logs them needs no special case.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

import attrs

from .context import CURRENT
from .logs import RUNS, follow_host, run_fields
from .run import Kind, Run, RunView


class _Current:
    """The innermost run of one kind around the call."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind

    def _run(self) -> Run | None:
        run = CURRENT.get()
        while run is not None and run.kind != self._kind:
            run = run.parent
        return run

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        run = self._run()
        if run is None:
            return None
        view = run.view()
        if not hasattr(view, name):
            known = ", ".join(field.name for field in attrs.fields(RunView))
            raise AttributeError(f"A {self._kind} run has no {name!r}; it has: {known}.")
        return getattr(view, name)

    def __bool__(self) -> bool:
        return self._run() is not None


flow_run = _Current("flow")
task_run = _Current("task")


class RunLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger whose records carry the fields of the run they were made in."""

    def isEnabledFor(self, level: int) -> bool:
        follow_host(self.logger)
        return super().isEnabledFor(level)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**run_fields(), **(kwargs.get("extra") or {})}
        return msg, kwargs


def get_run_logger(name: str = RUNS) -> RunLogger:
    """A logger for use in a body; outside any run a plain one."""
    return RunLogger(logging.getLogger(name), None)
