"""Prometheus metrics, named `towline_<what>_<unit>` with the service as a label. Only this module names one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY = CollectorRegistry()

_events = Counter("towline_events_total", "Events decided on.", ("service", "type"), registry=REGISTRY)
_turn = Histogram(
    "towline_turn_seconds",
    "From taking an event to its offset being free: decide, state batch, publish.",
    ("service",),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
    registry=REGISTRY,
)
_effects = Counter("towline_effects_total", "Effects by how they ended.", ("service", "kind", "end"), registry=REGISTRY)
_dead = Counter("towline_dead_letters_total", "Records given to the dead letters.", ("service",), registry=REGISTRY)
_gap = Gauge(
    "towline_gap_records", "Records taken and not yet behind the contiguous prefix.", ("service",), registry=REGISTRY
)


def event(service: str, event_type: str, seconds: float) -> None:
    _events.labels(service, event_type).inc()
    _turn.labels(service).observe(seconds)


def effect(service: str, kind: str, end: str) -> None:
    """`end` is done, failed or retried."""
    _effects.labels(service, kind, end).inc()


def dead_letter(service: str) -> None:
    _dead.labels(service).inc()


def gap(service: str, records: int) -> None:
    _gap.labels(service).set(records)


def exposition() -> bytes:
    return generate_latest(REGISTRY)
