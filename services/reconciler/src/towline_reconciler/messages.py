"""What the agent saw, as inbox events, and what the reconciler remembers of an application.

The agent says what is the case; whether that is news is for `decide`. All of one application arrive in its lane,
`<cluster>/<namespace>/<name>`, in the order in which the agent told them.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from towline.delivery.model import State
from towline.events.base import Event, Outcome, Part, Problem
from towline.events.deployment import Applied, Health


class Observation(Event):
    application: str
    repo: str
    revision: str
    change: str | None = None

    @property
    def subject(self) -> str:
        return self.application


class SyncBegan(Observation):
    type: ClassVar[str] = "dev.cdeventsx.towline-sync.began.0.1.0"
    sync: str = Field(description="When it began: the name of this sync within its application.")
    made_of: str = Field("", description="What is synced: the source folders' hash and the spec's generation.")


class SyncEnded(Observation):
    type: ClassVar[str] = "dev.cdeventsx.towline-sync.ended.0.1.0"
    sync: str
    made_of: str = ""
    outcome: Outcome
    applied: Applied = Applied()
    problems: tuple[Problem, ...] = ()
    seconds: float = 0.0


class HealthSeen(Observation):
    type: ClassVar[str] = "dev.cdeventsx.towline-health.seen.0.1.0"
    health: Health
    reason: str = ""
    images: tuple[str, ...] = ()
    failed: bool = Field(False, description="Degraded by itself, or not healthy in time.")


class DriftSeen(Observation):
    type: ClassVar[str] = "dev.cdeventsx.towline-drift.seen.0.1.0"
    object: str
    fields: tuple[str, ...] = ()


class DriftEnded(Observation):
    type: ClassVar[str] = "dev.cdeventsx.towline-drift.ended.0.1.0"
    object: str
    fields: tuple[str, ...] = ()
    seconds: float = 0.0


class ApplicationGone(Observation):
    type: ClassVar[str] = "dev.cdeventsx.towline-application.gone.0.1.0"


class Drift(Part):
    """An object that differs at the moment, and in which fields."""

    fields: tuple[str, ...] = ()


class ReconcilerState(State):
    """Of one application: what was published last, so that nothing is published twice."""

    sync: str | None = None
    """The last sync that was told of."""
    sync_open: bool = False
    made_of: str = ""
    """What that sync was made of."""
    outcome: Outcome | None = None
    """How it ended; None while it is open."""
    health: Health = Health.UNKNOWN
    healthy_revision: str | None = None
    """Of the last `service.deployed` or `service.upgraded`."""
    images: tuple[str, ...] = ()
    incident: str | None = None
    """Revision of the incident that is open."""
    drifts: dict[str, Drift] = Field(default_factory=dict)
    """By object; each waits for its `drift.repaired`."""
