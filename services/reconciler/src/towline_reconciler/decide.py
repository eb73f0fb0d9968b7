"""The reconciler's decision: what the agent saw → deployment facts, each told once.

Rules that must hold:

- An observation that says what is known already publishes nothing, so an agent may tell everything again after a start.
- Every `sync.started` has its `sync.finished`, every `drift.detected` its `drift.repaired` and every
  `incident.detected` its `incident.resolved`, if need be when the application goes.
- A sync that is older than the last one told of is no news, and neither is the same again: an agent that died before
  it could note what it had done does it once more under another name.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from towline.delivery.model import Decision, Envelope
from towline.events import (
    DriftDetected,
    DriftRepaired,
    Event,
    HealthChanged,
    IncidentDetected,
    IncidentResolved,
    ServiceDeployed,
    ServiceRemoved,
    ServiceUpgraded,
    SyncFinished,
    SyncStarted,
)
from towline.events.base import Outcome
from towline.events.deployment import DeploymentEvent, Health
from towline_reconciler.messages import (
    ApplicationGone,
    Drift,
    DriftEnded,
    DriftSeen,
    HealthSeen,
    Observation,
    ReconcilerState,
    SyncBegan,
    SyncEnded,
)

Decided = Decision[ReconcilerState]


def decide(state: ReconcilerState, envelope: Envelope, now: datetime) -> Decided:
    """Times are those of the agent; `now` plays no part."""
    del now
    match envelope.event:
        case SyncBegan() as seen:
            return _on_begin(state, seen)
        case SyncEnded() as seen:
            return _on_end(state, seen)
        case HealthSeen() as seen:
            return _on_health(state, seen)
        case DriftSeen() as seen:
            return _on_drift(state, seen)
        case DriftEnded() as seen:
            return _on_drift_ended(state, seen)
        case ApplicationGone() as seen:
            return _on_gone(state, seen)
        case _:
            return Decision(state)


def _is_old(state: ReconcilerState, sync: str) -> bool:
    return state.sync is not None and sync < state.sync


def _on_begin(state: ReconcilerState, seen: SyncBegan) -> Decided:
    if _is_old(state, seen.sync) or seen.sync == state.sync:
        return Decision(state)
    if _is_same(state, seen):  # an open one goes on under this name; of a closed one the end will tell
        return Decision(state.model_copy(update={"sync": seen.sync}) if state.sync_open else state)
    after = state.model_copy(update={"sync": seen.sync, "sync_open": True, "made_of": seen.made_of, "outcome": None})
    return Decision(after, (*_overtaken(state, seen), SyncStarted(**_about(seen))))


def _on_end(state: ReconcilerState, seen: SyncEnded) -> Decided:
    if _is_old(state, seen.sync) or (seen.sync == state.sync and not state.sync_open):
        return Decision(state)
    finished = SyncFinished(
        **_about(seen), outcome=seen.outcome, applied=seen.applied, problems=seen.problems, seconds=seen.seconds
    )
    update = {"sync": seen.sync, "sync_open": False, "made_of": seen.made_of, "outcome": seen.outcome}
    after = state.model_copy(update=update)
    if seen.sync == state.sync or (_is_same(state, seen) and state.sync_open):
        return Decision(after, (finished,))
    if _is_same(state, seen) and seen.outcome is state.outcome:
        return Decision(after)
    # its begin was lost with an agent
    return Decision(after, (*_overtaken(state, seen), SyncStarted(**_about(seen)), finished))


def _is_same(state: ReconcilerState, seen: SyncBegan | SyncEnded) -> bool:
    return seen.made_of != "" and seen.made_of == state.made_of


def _overtaken(state: ReconcilerState, seen: Observation) -> tuple[Event, ...]:
    """The end of a sync whose agent died in the middle; the next one does its work again."""
    return (SyncFinished(**_about(seen), outcome=Outcome.CANCEL),) if state.sync_open else ()


def _on_health(state: ReconcilerState, seen: HealthSeen) -> Decided:
    events: list[DeploymentEvent] = []
    update: dict[str, object] = {"health": seen.health}
    if seen.health is not state.health:
        events.append(
            HealthChanged(**_about(seen), health=seen.health, previous=state.health, reason=seen.reason),
        )
    if seen.health is Health.HEALTHY:
        if seen.revision != state.healthy_revision:
            made = ServiceDeployed if state.healthy_revision is None else ServiceUpgraded
            events.append(made(**_about(seen), images=seen.images))
            update |= {"healthy_revision": seen.revision, "images": seen.images}
        if state.incident is not None:
            events.append(IncidentResolved(**_about(seen), reason="every object is healthy"))
            update["incident"] = None
    elif seen.failed and state.incident is None:
        events.append(IncidentDetected(**_about(seen), reason=seen.reason))
        update["incident"] = seen.revision
    if not events:
        return Decision(state)
    return Decision(state.model_copy(update=update), tuple(events))


def _on_drift(state: ReconcilerState, seen: DriftSeen) -> Decided:
    if seen.object in state.drifts:
        return Decision(state)
    after = state.model_copy(update={"drifts": {**state.drifts, seen.object: Drift(fields=seen.fields)}})
    return Decision(after, (DriftDetected(**_about(seen), object=seen.object, fields=seen.fields),))


def _on_drift_ended(state: ReconcilerState, seen: DriftEnded) -> Decided:
    if seen.object not in state.drifts:
        return Decision(state)
    drift = state.drifts[seen.object]
    after = state.model_copy(update={"drifts": {k: v for k, v in state.drifts.items() if k != seen.object}})
    repaired = DriftRepaired(
        **_about(seen), object=seen.object, fields=seen.fields or drift.fields, seconds=seen.seconds
    )
    return Decision(after, (repaired,))


def _on_gone(state: ReconcilerState, seen: ApplicationGone) -> Decided:
    """Ends every wait. Told twice, it meets the state of an application that nobody knows, and says nothing."""
    if state == ReconcilerState():
        return Decision(state)
    events: list[Event] = [*_overtaken(state, seen)]
    events += [DriftRepaired(**_about(seen), object=each, fields=state.drifts[each].fields) for each in state.drifts]
    if state.incident is not None:
        events.append(IncidentResolved(**_about(seen), reason="the application was removed"))
    if state.healthy_revision is not None:
        events.append(ServiceRemoved(**_about(seen), images=state.images))
    return Decision(None, tuple(events))


def _about(seen: Observation) -> dict[str, Any]:
    return {"application": seen.application, "repo": seen.repo, "revision": seen.revision, "change": seen.change}
