"""Puts the reconciler together: settings and host → service."""

from __future__ import annotations

from towline import flow
from towline.delivery.model import Service
from towline.events import ChangeMerged
from towline.host import Host
from towline_reconciler.agent import Agent
from towline_reconciler.decide import decide
from towline_reconciler.messages import (
    ApplicationGone,
    DriftEnded,
    DriftSeen,
    HealthSeen,
    ReconcilerState,
    SyncBegan,
    SyncEnded,
)
from towline_reconciler.settings import ReconcilerSettings


def build(settings: ReconcilerSettings, host: Host) -> Service[ReconcilerState]:
    """Connects to nothing: the agent logs in when it runs, and says in `ready` what it waits for."""
    agent = Agent(settings, host.folder)
    return Service(
        name=flow.RECONCILER,
        state=ReconcilerState,
        decide=decide,
        inbox=(SyncBegan, SyncEnded, HealthSeen, DriftSeen, DriftEnded, ApplicationGone),
        forwards={ChangeMerged: agent.hints},
        watches=(agent.run,),
        ready=agent.ready,
    )
