"""The trace of a change is found from the change alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from towline.telemetry import trace

CHANGE = "local/app!polite"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.use(provider)
    yield exporter
    trace.use(None)


def test_two_services_that_know_only_the_change_share_its_trace(spans: InMemorySpanExporter) -> None:
    with trace.span("git-watcher lands", None, change=CHANGE):
        pass
    with trace.span("reconciler applies", None, change=CHANGE):
        pass
    assert {span.context.trace_id for span in spans.get_finished_spans()} == {trace.trace_id_of(CHANGE)}


def test_a_span_from_another_trace_is_linked_and_not_joined(spans: InMemorySpanExporter) -> None:
    with trace.span("poll", None) as poll:
        trace.publish("ChangeCreated", poll, change=CHANGE)
    published, polled = spans.get_finished_spans()
    assert published.context.trace_id == trace.trace_id_of(CHANGE)
    assert [link.context.trace_id for link in published.links] == [polled.context.trace_id]


def test_a_span_within_the_trace_is_a_child(spans: InMemorySpanExporter) -> None:
    with trace.span("outer", None, change=CHANGE) as outer, trace.span("inner", outer, change=CHANGE):
        pass
    inner, enclosing = spans.get_finished_spans()
    assert inner.parent is not None
    assert inner.parent.span_id == enclosing.context.span_id
    assert not inner.links


@given(st.text())
def test_a_malformed_context_counts_as_absent(text: str) -> None:
    with trace.span("work", text) as context:
        assert context.count("-") == 3
