"""Prometheus metrics, named `towline_<what>_<unit>` with the service as a label. Only this module names one.

Counters and histograms are told as things happen; what a service is in the middle of (`Standing`) is asked for when
somebody looks, so it costs nothing while nobody does. Rule: every label has as many values as the code has words.
A repository, a channel or a registry makes no series of its own: a resource is known here by its kind alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

REGISTRY = CollectorRegistry()
disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, that nobody asks for
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Described:
    """One metric, as it stands in the documents."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


_described: list[Described] = []


def _counter(name: str, text: str, *labels: str) -> Counter:
    _described.append(Described(name, "counter", labels, text))
    return Counter(name, text, labels, registry=REGISTRY)


def _histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...]) -> Histogram:
    _described.append(Described(name, "histogram", labels, text))
    return Histogram(name, text, labels, buckets=buckets, registry=REGISTRY)


_events = _counter("towline_events_total", "Events worked off.", "service", "type")
_turn = _histogram(
    "towline_turn_seconds",
    "From taking an event up to its offset being free: decode, decide, state batch, publish.",
    "service",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5),
)
_effects = _counter(
    "towline_effects_total",
    "Effects by how they ended: done, failed (given up), superseded by a later one.",
    "service",
    "kind",
    "end",
)
_effect_retries = _counter(
    "towline_effect_retries_total", "Tries of effects that failed and are made again.", "service", "kind"
)
_effect_seconds = _histogram(
    "towline_effect_seconds",
    "One try of an effect: how long its handler took.",
    "service",
    "kind",
    buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1800),
)
_dead = _counter("towline_dead_letters_total", "Records given to the dead letters.", "service")
_skipped = _counter(
    "towline_skipped_records_total",
    "Records that retention took away before the service read them.",
    "service",
    "topic",
)
_rebalances = _counter("towline_rebalances_total", "Times that partitions were assigned to this member.", "service")
_bus_retries = _counter(
    "towline_bus_retries_total", "Calls that the bus did not answer and that are made again.", "service"
)


def event(service: str, event_type: str, seconds: float) -> None:
    _labelled(_events, service, event_type).inc()
    _labelled(_turn, service).observe(seconds)


def effect(service: str, kind: str, end: str) -> None:
    """`end` is done, failed or superseded."""
    _labelled(_effects, service, kind, end).inc()


def effect_retry(service: str, kind: str) -> None:
    _labelled(_effect_retries, service, kind).inc()


def effect_tried(service: str, kind: str, seconds: float) -> None:
    _labelled(_effect_seconds, service, kind).observe(seconds)


def dead_letter(service: str) -> None:
    _labelled(_dead, service).inc()


def skipped(service: str, topic: str, records: int) -> None:
    _labelled(_skipped, service, topic).inc(records)


def rebalance(service: str) -> None:
    _labelled(_rebalances, service).inc()


def bus_retry(service: str) -> None:
    _labelled(_bus_retries, service).inc()


@cache
def _labelled(metric: Any, *labels: str) -> Any:
    """The client checks and locks for each look-up; these few hundred are kept."""
    return metric.labels(*labels)


# -- what is asked for ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Use:
    """Of all resources of one kind together."""

    running: int = 0
    waiting: int = 0
    open_breakers: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """What one service is in the middle of."""

    partitions: int = 0
    lag: Mapping[str, int] = field(default_factory=dict)
    """Topic → records not behind the committed offset; empty while the bus does not say."""
    lanes: int = 0
    busy: int = 0
    parked: int = 0
    dead_letters: int = 0
    """Of the partitions held, that nobody replayed or dropped."""
    gap: int = 0
    oldest_seconds: float = 0.0
    resources: Mapping[str, Use] = field(default_factory=dict)
    """Kind of resource → how much of it is in use."""


_GAUGES: tuple[tuple[str, str, Callable[[Standing], float]], ...] = (
    ("towline_partitions_assigned", "Partitions of all topics that this member holds.", lambda s: s.partitions),
    ("towline_lanes", "Keys whose state is in memory.", lambda s: s.lanes),
    ("towline_lanes_busy", "Keys with an event in work.", lambda s: s.busy),
    ("towline_lanes_parked", "Keys whose decision failed; their events go to the dead letters.", lambda s: s.parked),
    ("towline_dead_letters_open", "Dead letters that nobody replayed or dropped.", lambda s: s.dead_letters),
    ("towline_gap_records", "Records taken and not yet behind the contiguous prefix.", lambda s: s.gap),
    ("towline_oldest_event_seconds", "Age of the oldest record taken and not finished.", lambda s: s.oldest_seconds),
)
_RESOURCE_GAUGES: tuple[tuple[str, str, Callable[[Use], float]], ...] = (
    ("towline_effects_running", "Effects whose handler runs.", lambda use: use.running),
    ("towline_effects_waiting", "Effects that wait for a place, a breaker or the next try.", lambda use: use.waiting),
    ("towline_breakers_open", "Forges, registries, channels … not called for now.", lambda use: use.open_breakers),
)


_LAG = Described(
    "towline_lag_records", "gauge", ("service", "topic"), "Records of a topic not behind the committed offset."
)


def described() -> list[Described]:
    """Every metric, by name."""
    gauges = [_LAG]
    gauges += [Described(name, "gauge", ("service",), text) for name, text, _ in _GAUGES]
    gauges += [Described(name, "gauge", ("service", "resource"), text) for name, text, _ in _RESOURCE_GAUGES]
    return sorted((*_described, *gauges), key=lambda each: each.name)


class _Standings(Collector):
    def __init__(self) -> None:
        self.of: dict[str, Callable[[], Standing]] = {}

    def describe(self) -> Iterator[Metric]:
        return self._families({})

    def collect(self) -> Iterator[Metric]:
        return self._families({service: read() for service, read in self.of.items()})

    @staticmethod
    def _families(standings: Mapping[str, Standing]) -> Iterator[Metric]:
        lag = GaugeMetricFamily(_LAG.name, _LAG.text, labels=_LAG.labels)
        for service, standing in standings.items():
            for topic, records in standing.lag.items():
                lag.add_metric((service, topic), records)
        yield lag
        for name, said, value in _GAUGES:
            family = GaugeMetricFamily(name, said, labels=("service",))
            for service, standing in standings.items():
                family.add_metric((service,), value(standing))
            yield family
        for name, said, of in _RESOURCE_GAUGES:
            family = GaugeMetricFamily(name, said, labels=("service", "resource"))
            for service, standing in standings.items():
                for kind, use in standing.resources.items():
                    family.add_metric((service, kind), of(use))
            yield family


_standings = _Standings()
REGISTRY.register(_standings)


def watch(service: str, read: Callable[[], Standing]) -> None:
    """Ask this whenever somebody looks at the metrics, from now on and until `unwatch`."""
    _standings.of[service] = read


def unwatch(service: str) -> None:
    _standings.of.pop(service, None)


def exposition() -> bytes:
    return generate_latest(REGISTRY)
