"""Tracing: runs as OpenTelemetry spans, each inside its caller's, with links along the edges of data.

An observer of the engine; it needs the extra `undertow[otel]`, which is the API alone: where spans go, the
application's own SDK says. A span begins with the first attempt and ends with the run, and what a body traces itself is
inside it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanContext, Status, StatusCode, TracerProvider

from ..engine.run import Run
from ..engine.states import COMPLETED, RUNNING, SKIPPED

REMEMBERED = 10_000
"""Ended runs whose spans can still be linked to."""


class Tracing:
    """An observer that makes spans: `Engine(observers=[Tracing()])`.

    `provider` is the tracer provider to use (default: the global one). A span has the function's name, the ids of the
    run and of its flow run, the number of attempts, the tags, and the final state; a failure sets its status.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("undertow", tracer_provider=provider)
        self._open: dict[str, tuple[Span, Any]] = {}
        self._ended: OrderedDict[str, SpanContext] = OrderedDict()

    def __call__(self, run: Run) -> None:
        if run.type is RUNNING:
            if run.id not in self._open:
                self._begin(run)
            else:
                self._open[run.id][0].add_event(run.history[-1][1], {"undertow.attempt": run.attempts})
        elif run.ended and run.id in self._open:
            self._end(run)

    def _begin(self, run: Run) -> None:
        around = contexts.get_current()
        parent = self._open.get(run.parent.id) if run.parent is not None else None
        inside = around if parent is None else trace.set_span_in_context(parent[0], around)
        links = [Link(context) for upstream in run.upstream_ids if (context := self._context_of(upstream)) is not None]
        span = self._tracer.start_span(
            run.definition.name,
            inside,
            attributes={
                "undertow.run.id": run.id,
                "undertow.run.name": run.name,
                "undertow.run.kind": run.kind,
                "undertow.flow_run.id": "" if run.flow is None else run.flow.id,
                "undertow.tags": sorted(run.tags),
            },
            links=links,
            start_time=run.history[-1][3] * 1000,
        )
        # What the body traces is to be inside; the observer is called in the context that the body then runs in.
        contexts.attach(trace.set_span_in_context(span, around))
        self._open[run.id] = (span, around)

    def _context_of(self, run_id: str) -> SpanContext | None:
        span = self._open.get(run_id)
        return self._ended.get(run_id) if span is None else span[0].get_span_context()

    def _end(self, run: Run) -> None:
        span, around = self._open.pop(run.id)
        kind, name, message, at = run.history[-1]
        span.set_attribute("undertow.state", name)
        span.set_attribute("undertow.attempts", run.attempts)
        if kind not in (COMPLETED, SKIPPED):
            span.set_status(Status(StatusCode.ERROR, message))
            if run.error:
                span.add_event("exception", {"exception.message": message, "exception.stacktrace": run.error})
        span.end(at * 1000)
        contexts.attach(around)
        self._ended[run.id] = span.get_span_context()
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
