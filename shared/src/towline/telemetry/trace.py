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
from contextlib import AbstractContextManager, contextmanager
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
_TRACEPARENT_LENGTH = 55
_RATIO_BITS = (1 << 64) - 1
"""The part of a trace id that is compared with the share, as OpenTelemetry's TraceIdRatioBased does."""

_tracer: Tracer | None = None
_sampled_below = 0


def use(provider: TracerProvider | None, *, share: float = 1.0) -> None:
    """Record this share of all traces with the provider; None records nothing."""
    global _tracer, _sampled_below
    _tracer = None if provider is None else provider.get_tracer("towline")
    _sampled_below = 0 if provider is None else round(share * (_RATIO_BITS + 1))


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
    return int(_trace_id(change), 16)


class Span:
    """One under way; `end` it once."""

    __slots__ = ("_change", "_made", "_parent")

    def __init__(self, parent: str | None, change: str | None, made: otel.Span | None = None) -> None:
        self._parent = parent
        self._change = change
        self._made = made
        """None: it is not recorded."""

    @property
    def context(self) -> str | None:
        """Its traceparent, None where there is no trace."""
        if self._made is None:
            return _passed_on(self._parent, self._change)
        return _format(self._made.get_span_context())

    def end(self) -> None:
        if self._made is not None:
            self._made.end()

    @contextmanager
    def as_current(self) -> Iterator[str | None]:
        """Around a block: what it calls may make spans of its own below this one; ended with the block."""
        if self._made is None:
            yield self.context
            return
        with otel.use_span(self._made, end_on_exit=True):
            yield self.context


def begin(name: str, parent: str | None, *, change: str | None = None, linked: bool = False) -> Span:
    """A span from now on.

    It starts in the change's own trace where `change` is given and `parent` belongs to another, and links to the parent
    then. With `linked` it stands beside its parent instead of below it, for what comes long after the parent ended.
    """
    return _started(name, parent, change, linked, SpanKind.CONSUMER)


def span(
    name: str, parent: str | None, *, change: str | None = None, linked: bool = False
) -> AbstractContextManager[str | None]:
    """As `begin`, around a block; yields its `traceparent`."""
    return _started(name, parent, change, linked, SpanKind.CONSUMER).as_current()


def publish(name: str, parent: str | None, *, change: str | None = None, linked: bool = False) -> str | None:
    """The context for something that leaves: a producer span that ends at once. Placed as `begin` does."""
    made = _started(name, parent, change, linked, SpanKind.PRODUCER)
    made.end()
    return made.context


def well_formed(context: str | bytes | None) -> str | None:
    """A context as it came from outside; None where it is none, whatever its bytes are."""
    if context is None or len(context) != _TRACEPARENT_LENGTH:
        return None
    text = context if isinstance(context, str) else context.decode("ascii", "replace")
    return text if _TRACEPARENT.fullmatch(text) else None


def trace_id_in(traceparent: str | None, *, change: str | None = None) -> str | None:
    """The trace id in hex, for logs: the change's where there is one; None where there is no valid context."""
    if change is not None:
        return _trace_id(change)
    known = well_formed(traceparent)
    return None if known is None else known[3:35]


def _started(name: str, parent: str | None, change: str | None, linked: bool, kind: SpanKind) -> Span:
    if _tracer is None or not _is_recorded(parent, change):
        return Span(parent, change)
    context, links = _placed(parent, change, linked)
    return Span(parent, change, _tracer.start_span(name, context, kind, links=links))


def _is_recorded(parent: str | None, change: str | None) -> bool:
    """By the change's trace where there is one, else as the parent was; a trace of its own is left to the provider."""
    if _sampled_below == 0:
        return False
    if change is not None:
        return _is_sampled(trace_id_of(change))
    context = _parse(parent)
    return context is None or context.trace_flags.sampled


def _is_sampled(trace_id: int) -> bool:
    return trace_id & _RATIO_BITS < _sampled_below


def _passed_on(parent: str | None, change: str | None) -> str | None:
    """The context of a span that is not made: its parent's, in the trace where the span would have been."""
    known = well_formed(parent)
    if change is None or (known is not None and known[3:35] == _trace_id(change)):
        return known
    return _format(_root(change))


def _placed(parent: str | None, change: str | None, linked: bool) -> tuple[Context, list[Link]]:
    """Where a span belongs, and what it links to."""
    context = _parse(parent)
    root = None if change is None else _root(change)
    belongs = context is not None and (root is None or context.trace_id == root.trace_id)
    if belongs and not linked:
        return _within(context), []
    return _within(root), [Link(context)] if context else []


@lru_cache(maxsize=1024)
def _digest(change: str) -> str:
    return digest_of("trace", change)


def _trace_id(change: str) -> str:
    return _digest(change)[:32]


def _root(change: str) -> SpanContext:
    """The parent of what begins a change's trace: nobody's span, the same for everybody."""
    trace_id, span_id = trace_id_of(change), int(_digest(change)[32:48], 16)
    flags = TraceFlags(TraceFlags.SAMPLED if _is_sampled(trace_id) else TraceFlags.DEFAULT)
    return SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)


def _within(context: SpanContext | None) -> Context:
    span = otel.INVALID_SPAN if context is None else NonRecordingSpan(context)
    return set_span_in_context(span, Context())


def _format(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _parse(traceparent: str | None) -> SpanContext | None:
    if (known := well_formed(traceparent)) is None:
        return None
    _, trace_id, span_id, flags = known.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
