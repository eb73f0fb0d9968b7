"""The map: event type → topic → key → producer → consumers. The only place where a topic is named.

It holds only what exists: a row comes with the code that produces it and the code that consumes it. The wiring
test walks it and proves that no event is orphaned, that each service handles what the map sends it, and that
every wait has its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from operator import attrgetter

from towline.bus.port import Cleanup, Topic
from towline.events import (
    ArtifactPackaged,
    ArtifactPublished,
    BuildFinished,
    BuildStarted,
    CandidateCreated,
    CandidateRejected,
    CandidateSuperseded,
    ChangeAbandoned,
    ChangeCreated,
    ChangeMerged,
    ChangeUpdated,
    DriftDetected,
    DriftRepaired,
    Event,
    HealthChanged,
    IncidentDetected,
    IncidentResolved,
    NoticeRendered,
    PipelineRunFinished,
    PipelineRunQueued,
    PipelineRunStarted,
    ServiceDeployed,
    ServiceRemoved,
    ServiceUpgraded,
    SyncFinished,
    SyncStarted,
    TaskRunFinished,
    TaskRunStarted,
)

WATCHER, RUNNER, BUILDER, RECONCILER, NOTIFIER = (
    "git-watcher",
    "ci-runner",
    "image-builder",
    "reconciler",
    "notifier",
)
SERVICES = (WATCHER, RUNNER, BUILDER, RECONCILER, NOTIFIER)
PARTITIONS = 12
"""Of every topic; fixed when a log is created, because changing it moves keys."""


@dataclass(frozen=True, slots=True)
class Stream:
    """One fact topic: all its events have one producer and one kind of key."""

    topic: str
    producer: str
    key: Callable[[Event], str]
    key_name: str
    retention: timedelta | None
    events: dict[type[Event], tuple[str, ...]]
    """Event → services that consume it."""


CHANGES = Stream(
    "towline.changes",
    WATCHER,
    attrgetter("repo"),
    "repo",
    None,
    {
        ChangeCreated: (NOTIFIER,),
        ChangeUpdated: (NOTIFIER,),
        ChangeAbandoned: (NOTIFIER,),
        CandidateCreated: (RUNNER, BUILDER),
        CandidateSuperseded: (RUNNER, BUILDER),
        CandidateRejected: (NOTIFIER,),
        ChangeMerged: (RECONCILER, NOTIFIER),
    },
)
PIPELINES = Stream(
    "towline.pipelines",
    RUNNER,
    attrgetter("repo"),
    "repo",
    None,
    {
        PipelineRunQueued: (NOTIFIER,),
        PipelineRunStarted: (NOTIFIER,),
        TaskRunStarted: (NOTIFIER,),
        TaskRunFinished: (NOTIFIER,),
        PipelineRunFinished: (WATCHER, NOTIFIER),
    },
)
ARTIFACTS = Stream(
    "towline.artifacts",
    BUILDER,
    attrgetter("repo"),
    "repo",
    None,
    {
        BuildStarted: (NOTIFIER,),
        ArtifactPackaged: (NOTIFIER,),
        ArtifactPublished: (NOTIFIER,),
        BuildFinished: (WATCHER, NOTIFIER),
    },
)
DEPLOYMENTS = Stream(
    "towline.deployments",
    RECONCILER,
    attrgetter("application"),
    "cluster/application",
    None,
    {
        SyncStarted: (NOTIFIER,),
        SyncFinished: (NOTIFIER,),
        ServiceDeployed: (NOTIFIER,),
        ServiceUpgraded: (NOTIFIER,),
        ServiceRemoved: (NOTIFIER,),
        DriftDetected: (NOTIFIER,),
        DriftRepaired: (NOTIFIER,),
        HealthChanged: (NOTIFIER,),
        IncidentDetected: (NOTIFIER,),
        IncidentResolved: (NOTIFIER,),
    },
)
NOTICES = Stream(
    "towline.notices",
    NOTIFIER,
    attrgetter("channel"),
    "channel",
    timedelta(days=7),
    {NoticeRendered: (NOTIFIER,)},
)
STREAMS = (CHANGES, PIPELINES, ARTIFACTS, DEPLOYMENTS, NOTICES)
_STREAM_OF: dict[type[Event], Stream] = {event: stream for stream in STREAMS for event in stream.events}

WAITS: dict[type[Event], tuple[type[Event], ...]] = {
    ChangeCreated: (ChangeMerged, CandidateRejected, ChangeAbandoned),
    CandidateCreated: (PipelineRunFinished, BuildFinished),
    PipelineRunQueued: (PipelineRunFinished,),
    PipelineRunStarted: (PipelineRunFinished,),
    TaskRunStarted: (TaskRunFinished,),
    BuildStarted: (BuildFinished,),
    SyncStarted: (SyncFinished,),
    DriftDetected: (DriftRepaired,),
    IncidentDetected: (IncidentResolved,),
}
"""What starts a wait → the events one of which (for a candidate: each of which) ends it."""


def stream_of(event: type[Event]) -> Stream:
    """Raises KeyError for an event that is not on the map: it belongs into an inbox."""
    return _STREAM_OF[event]


def on_map(event: type[Event]) -> bool:
    return event in _STREAM_OF


def consumed_by(service: str) -> frozenset[type[Event]]:
    return frozenset(e for stream in STREAMS for e, to in stream.events.items() if service in to)


def topics_consumed_by(service: str) -> tuple[str, ...]:
    return tuple(s.topic for s in STREAMS if any(service in to for to in s.events.values()))


def inbox_of(service: str) -> str:
    return f"towline.{service}.inbox"


def state_of(service: str) -> str:
    return f"towline.{service}.state"


def dead_of(service: str) -> str:
    return f"towline.{service}.dead"


def topics(services: Iterable[str] = SERVICES, partitions: int = PARTITIONS) -> list[Topic]:
    """Every topic of the product with its settings, as an operator must create them."""
    facts = [Topic(s.topic, partitions, retention=s.retention) for s in STREAMS]
    own = [
        topic
        for name in services
        for topic in (
            Topic(inbox_of(name), partitions, retention=timedelta(days=7)),
            Topic(state_of(name), partitions, Cleanup.COMPACT),
            Topic(dead_of(name), partitions, retention=timedelta(days=30)),
        )
    ]
    return facts + own
