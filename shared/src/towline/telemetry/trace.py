"""One trace from push to healthy pods. Only this module speaks to OpenTelemetry's tracing API.

The trace id derives from the change, so every service, and a pulled revision that knows only its `Towline-Change`
trailer, finds the same trace without asking. The context travels in the CloudEvents attribute `traceparent`.

Whether a trace is recorded derives from its id too, so all services record the same ones. A trace that is not recorded
costs a context that is passed on: no span is made. A context from outside is believed only where it is well formed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache

from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    ProxyTracerProvider,
    SpanContext,
    SpanKind,
    TraceFlags,
    Tracer,
    TracerProvider,
    set_span_in_context,
)

from towline.ids import digest_of

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
"""W3C Trace Context level 1, §3.2; anything else counts as absent, also what a later version may add behind it."""
_TRACEPARENT_BYTES = 55
_RATIO_BITS = (1 << 64) - 1
"""The part of a trace id that is compared with the share, as OpenTelemetry's TraceIdRatioBased does."""

_tracer: Tracer | None = None
_sampled_below = 0


def use(provider: TracerProvider | None, *, share: float = 1.0) -> None:
    """Record this share of all traces with the provider; None records nothing."""
    global _tracer, _sampled_below
    _tracer = None if provider is None else provider.get_tracer("towline")
    _sampled_below = 0 if provider is None else round(share * (_RATIO_BITS + 1))
    _root.cache_clear()


def use_global() -> None:
    """Record with OpenTelemetry's global provider, where somebody set one and `use` chose no other.

    The share is that of OpenTelemetry's own `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`: a change's root is
    nobody's span, so the provider's sampler alone would take it for a decision already made.
    """
    provider = otel.get_tracer_provider()
    if _tracer is None and not isinstance(provider, ProxyTracerProvider):
        sampler = os.environ.get("OTEL_TRACES_SAMPLER", "").removeprefix("parentbased_")
        argument = os.environ.get("OTEL_TRACES_SAMPLER_ARG", "1")
        share = {"always_off": "0", "traceidratio": argument}.get(sampler, "1")
        use(provider, share=min(1.0, max(0.0, float(share))))


def trace_id_of(change: str) -> int:
    return int(digest_of("trace", change)[:32], 16)


def span(
    name: str, parent: str | None, *, change: str | None = None, linked: bool = False
) -> AbstractContextManager[str | None]:
    """A span around the block; yields its `traceparent`, None where there is no trace.

    It starts in the change's own trace where `change` is given and `parent` belongs to another, and links to the parent
    then. With `linked` it stands beside its parent instead of below it, for what comes long after the parent ended.
    """
    tracer = _tracer
    if tracer is None or not _is_recorded(parent, change):
        return nullcontext(_passed_on(parent, change))
    return _recorded(tracer, name, parent, change, linked)


def publish(name: str, parent: str | None, *, change: str | None = None, linked: bool = False) -> str | None:
    """The context for something that leaves: a producer span that ends at once. Placed as `span` is."""
    tracer = _tracer
    if tracer is None or not _is_recorded(parent, change):
        return _passed_on(parent, change)
    context, links = _placed(parent, change, linked)
    current = tracer.start_span(name, context, SpanKind.PRODUCER, links=links)
    current.end()
    return _format(current.get_span_context())


def well_formed(header: bytes | None) -> str | None:
    """A context as it came from outside; None where it is none, whatever its bytes are."""
    text = "" if header is None or len(header) > _TRACEPARENT_BYTES else header.decode("ascii", "replace")
    return text if _TRACEPARENT.fullmatch(text) else None


def trace_id_in(traceparent: str | None, *, change: str | None = None) -> str | None:
    """The trace id in hex, for logs: the change's where there is one; None where there is no valid context."""
    if change is not None:
        return f"{_root(change).trace_id:032x}"
    return traceparent[3:35] if traceparent and _TRACEPARENT.fullmatch(traceparent) else None


@contextmanager
def _recorded(tracer: Tracer, name: str, parent: str | None, change: str | None, linked: bool) -> Iterator[str]:
    context, links = _placed(parent, change, linked)
    with tracer.start_as_current_span(name, context, SpanKind.CONSUMER, links=links) as current:
        yield _format(current.get_span_context())


def _is_recorded(parent: str | None, change: str | None) -> bool:
    """By the change's trace where there is one, else as the parent was; a trace of its own is left to the provider."""
    if change is not None:
        return _root(change).trace_flags.sampled
    context = _parse(parent)
    return _sampled_below > 0 and (context is None or context.trace_flags.sampled)


def _passed_on(parent: str | None, change: str | None) -> str | None:
    """The context of a span that is not made: its parent's, in the trace where the span would have been."""
    trace_id = trace_id_in(parent)
    if change is None:
        return None if trace_id is None else parent
    root = _root(change)
    return parent if trace_id == f"{root.trace_id:032x}" else _format(root)


def _placed(parent: str | None, change: str | None, linked: bool) -> tuple[Context, list[Link]]:
    """Where a span belongs, and what it links to."""
    context = _parse(parent)
    root = None if change is None else _root(change)
    belongs = context is not None and (root is None or context.trace_id == root.trace_id)
    if belongs and not linked:
        return _within(context), []
    return _within(root), [Link(context)] if context else []


@lru_cache(maxsize=1024)
def _root(change: str) -> SpanContext:
    digest = digest_of("trace", change)
    trace_id = int(digest[:32], 16)
    sampled = trace_id & _RATIO_BITS < _sampled_below
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    return SpanContext(trace_id, int(digest[32:48], 16), is_remote=True, trace_flags=flags)


def _within(context: SpanContext | None) -> Context:
    span = otel.INVALID_SPAN if context is None else NonRecordingSpan(context)
    return set_span_in_context(span, Context())


def _format(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _parse(traceparent: str | None) -> SpanContext | None:
    if traceparent is None or _TRACEPARENT.fullmatch(traceparent) is None:
        return None
    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
