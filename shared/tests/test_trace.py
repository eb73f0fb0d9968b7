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


@pytest.mark.parametrize("parent", [None, f"00-{1:032x}-{2:016x}-01"], ids=["no parent", "a parent elsewhere"])
def test_what_comes_long_after_links_to_what_asked_for_it_and_stands_in_the_same_trace(
    spans: InMemorySpanExporter, parent: str | None
) -> None:
    with trace.span("asks", parent, change=CHANGE) as asker:
        pass
    with trace.span("answers", asker, change=CHANGE, linked=True):
        pass
    asked, answered = spans.get_finished_spans()
    assert answered.context.trace_id == asked.context.trace_id
    assert answered.parent is not None
    assert answered.parent.span_id != asked.context.span_id
    assert [link.context.span_id for link in answered.links] == [asked.context.span_id]


def test_without_a_change_what_comes_long_after_begins_a_trace_that_links(spans: InMemorySpanExporter) -> None:
    with trace.span("asks", None) as asker:
        pass
    with trace.span("answers", asker, linked=True):
        pass
    asked, answered = spans.get_finished_spans()
    assert answered.parent is None
    assert answered.context.trace_id != asked.context.trace_id
    assert [link.context.span_id for link in answered.links] == [asked.context.span_id]


def test_of_a_share_all_services_record_the_same_traces() -> None:
    changes = [f"local/app!{number}" for number in range(400)]

    def recorded() -> set[str]:
        exporter, provider = InMemorySpanExporter(), TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.use(provider, share=0.25)
        for change in changes:
            context = trace.publish("ChangeCreated", None, change=change)
            with trace.span("ci-runner ChangeCreated", context, change=change):
                pass
        ids = [span.context.trace_id for span in exporter.get_finished_spans()]
        assert all(ids.count(id) == 2 for id in ids), "a trace is recorded whole or not at all"
        return {change for change in changes if trace.trace_id_of(change) in ids}

    try:
        assert recorded() == recorded()
        assert 50 < len(recorded()) < 150
    finally:
        trace.use(None)


def test_a_trace_that_is_not_recorded_is_passed_on_with_its_id(spans: InMemorySpanExporter) -> None:
    trace.use(TracerProvider(), share=0.0)
    parent = f"00-{1:032x}-{2:016x}-01"
    assert trace.publish("x", parent) == parent
    context = trace.publish("x", parent, change=CHANGE)
    assert trace.trace_id_in(context) == f"{trace.trace_id_of(CHANGE):032x}"
    assert (context or "").endswith("-00")
    with trace.span("y", None) as nothing:
        assert nothing is None
    assert spans.get_finished_spans() == ()


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xff\xfe\x00",
        b"00-" + b"0" * 32 + b"-0000000000000002-01",
        b"ff-" + b"1" * 32 + b"-0000000000000002-01",
        b"00-0x" + b"1" * 30 + b"-0000000000000002-01",
        b"00-" + b"1" * 32 + b"-0000000000000002-01-more",
        b"00-" + b"A" * 32 + b"-0000000000000002-01",
        b"00-" + "١".encode() * 32 + b"-0000000000000002-01",
        b"1" * 200_000,
    ],
    ids=["empty", "binary", "zero id", "version ff", "0x", "longer", "upper case", "other digits", "huge"],
)
def test_a_hostile_context_counts_as_absent(header: bytes) -> None:
    assert trace.well_formed(header) is None


@given(st.text())
def test_a_malformed_context_counts_as_absent(text: str) -> None:
    with trace.span("work", text) as context:
        assert context is None
    assert trace.trace_id_in(text) is None


@given(st.binary(max_size=200))
def test_no_header_breaks_the_reading_of_an_event(header: bytes) -> None:
    found = trace.well_formed(header)
    assert found is None or found.encode() == header
