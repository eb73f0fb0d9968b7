"""One trace from push to healthy pods. Only this module speaks to OpenTelemetry's tracing API.

The trace id derives from the change, so every service, and a pulled revision that knows only its `Towline-Change`
trailer, finds the same trace without asking. The context travels in the CloudEvents attribute `traceparent`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    Tracer,
    TracerProvider,
    set_span_in_context,
)

from towline.ids import digest_of

_provider: TracerProvider | None = None


def use(provider: TracerProvider | None) -> None:
    """Record spans with this provider; None goes back to OpenTelemetry's global one."""
    global _provider
    _provider = provider


def trace_id_of(change: str) -> int:
    return int(digest_of("trace", change)[:32], 16)


@contextmanager
def span(name: str, parent: str | None, *, change: str | None = None) -> Iterator[str]:
    """A span around the block; yields its `traceparent`.

    Where `change` is given and `parent` belongs to another trace, the span starts in the change's own trace and
    links to the parent.
    """
    context, links = _placed(parent, change)
    with _tracer().start_as_current_span(name, context, SpanKind.CONSUMER, links=links) as current:
        yield _format(current.get_span_context())


def publish(name: str, parent: str | None, *, change: str | None = None) -> str:
    """The context for something that leaves: a producer span that ends at once."""
    context, links = _placed(parent, change)
    current = _tracer().start_span(name, context, SpanKind.PRODUCER, links=links)
    current.end()
    return _format(current.get_span_context())


def _placed(parent: str | None, change: str | None) -> tuple[Context, list[Link]]:
    """Where a span belongs, and what it links to."""
    context = _parse(parent)
    if change is None:
        return _within(context), []
    root = _root(change)
    if context is not None and context.trace_id == root.trace_id:
        return _within(context), []
    return _within(root), [Link(context)] if context else []


@lru_cache(maxsize=1024)
def _root(change: str) -> SpanContext:
    span_id = int(digest_of("span", change)[:16], 16)
    return SpanContext(trace_id_of(change), span_id, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _within(context: SpanContext | None) -> Context:
    span = otel.INVALID_SPAN if context is None else NonRecordingSpan(context)
    return set_span_in_context(span, Context())


def _format(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _parse(traceparent: str | None) -> SpanContext | None:
    """W3C Trace Context level 1; anything malformed counts as absent."""
    parts = (traceparent or "").split("-")
    if len(parts) != 4 or [len(part) for part in parts] != [2, 32, 16, 2]:
        return None
    try:
        context = SpanContext(int(parts[1], 16), int(parts[2], 16), True, TraceFlags(int(parts[3], 16)))
    except ValueError:
        return None
    return context if context.is_valid else None


def trace_id_in(traceparent: str | None) -> str | None:
    """The trace id in hex, for logs; None where there is no valid context."""
    context = _parse(traceparent)
    return None if context is None else f"{context.trace_id:032x}"


def _tracer() -> Tracer:
    return (_provider or otel.get_tracer_provider()).get_tracer("towline")
