"""Observers: what is built on being told of every transition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from undertow import Engine, Metrics, Tracing, flow, task

MakeEngine = Callable[..., Engine]


@task(retries=1, retry_delay_seconds=30)
async def unsteady(seconds: float) -> None:
    await anyio.sleep(seconds)
    if len(tries) < 1:
        tries.append(1)
        raise ConnectionError("busy")


@task(tags=["db"])
async def query() -> None:
    await anyio.sleep(10)


tries: list[int] = []


@pytest.fixture(autouse=True)
def fresh() -> None:
    tries.clear()


async def test_metrics_say_where_the_time_went(make_engine: MakeEngine) -> None:
    """Metrics tell waiting for a retry and for slots from the time that bodies took."""
    metrics = Metrics()

    @flow
    async def both() -> None:
        futures = [query.submit(), query.submit()]
        await unsteady(5)
        for future in futures:
            await future

    async with make_engine(observers=[metrics], limits={"db": 1}):
        await both()
    mine = metrics.functions["unsteady"]
    assert (mine.ended, mine.attempts) == ({"Completed": 1}, 2)
    assert mine.running.seconds == pytest.approx(10, abs=0.01)
    assert mine.delays.seconds == pytest.approx(30, abs=0.01)
    asked = metrics.as_dict()["query"]
    assert asked["slots"]["count"] == 1
    assert asked["slots"]["most"] == pytest.approx(10, abs=0.01)
    assert asked["running"] == {"count": 2, "seconds": pytest.approx(20, abs=0.01), "most": pytest.approx(10, abs=0.01)}


async def test_an_observer_that_raises_is_dropped(make_engine: MakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    """An observer that raises is told nothing more, with one message; the run and the other observers go on."""
    seen: list[str] = []

    def broken(run: Any) -> None:
        raise ValueError("no display")

    @flow
    async def quiet() -> int:
        return 1

    async with make_engine(observers=[broken, lambda run: seen.append(run.history[-1][1])]):
        assert await quiet() == 1
    assert seen == ["Running", "Completed"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


class Spans:
    """Spans that ended, by name."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def __getitem__(self, name: str) -> ReadableSpan:
        return next(span for span in self._exporter.get_finished_spans() if span.name == name)

    def id_of(self, name: str) -> int:
        context = self[name].context
        assert context is not None
        return context.span_id


async def test_spans_nest_as_runs_do(make_engine: MakeEngine) -> None:
    """Each run is a span inside its caller's, linked to the runs whose results it was given; bodies' own are inside."""
    spans = Spans()

    @task
    async def first() -> int:
        with trace.get_tracer("mine", tracer_provider=spans.provider).start_as_current_span("own"):
            return 1

    @task
    def second(value: int) -> int:
        return value

    @flow
    async def outer() -> int:
        return await second.submit(first.submit())

    async with make_engine(observers=[Tracing(spans.provider)]):
        assert await outer() == 1
    for inner, around in (("first", "outer"), ("second", "outer"), ("own", "first")):
        parent = spans[inner].parent
        assert parent is not None
        assert parent.span_id == spans.id_of(around)
    assert [link.context.span_id for link in spans["second"].links] == [spans.id_of("first")]


async def test_a_failed_run_is_a_failed_span(make_engine: MakeEngine) -> None:
    """The span of a run that failed says so, with the message and the traceback; one of a completed run does not."""
    spans = Spans()

    @task
    async def wrong() -> None:
        raise ValueError("no rows")

    @flow
    async def outer() -> str:
        await wrong(return_state=True)
        return "done"

    async with make_engine(observers=[Tracing(spans.provider)]):
        await outer()
    assert not spans["wrong"].status.is_ok
    assert spans["wrong"].status.description == "Task run raised ValueError: no rows"
    [event] = spans["wrong"].events
    assert "ValueError: no rows" in str((event.attributes or {})["exception.stacktrace"])
    assert spans["outer"].status.is_ok or spans["outer"].status.description is None
