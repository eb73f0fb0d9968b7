"""Stage 5: the cluster is made to be what Git says. Produced by reconciler alone.

Key of all: the application, `<cluster>/<namespace>/<name>`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from towline.events.base import Event, Outcome, Part, Problem, Word
from towline.ids import image_purl


class Health(Word):
    """Ordered from best to worst by what an operator has to do."""

    HEALTHY = "healthy"
    PROGRESSING = "progressing"
    DEGRADED = "degraded"
    MISSING = "missing"
    UNKNOWN = "unknown"


class DeploymentEvent(Event):
    application: str = Field(description="`<cluster>/<namespace>/<name>`.")
    repo: str = Field(description="`<host>/<owner>/<name>` of the source.")
    revision: str = Field(description="Commit id the application is made of.")
    change: str | None = Field(None, description="From the commit's `Towline-Change` trailer, where it has one.")

    @property
    def subject(self) -> str:
        return self.application

    def content(self) -> dict[str, Any]:
        return {"environment": {"id": self.application.rsplit("/", 1)[0]}}


class SyncStarted(DeploymentEvent):
    type: ClassVar[str] = "dev.cdeventsx.towline-sync.started.0.1.0"


class Applied(Part):
    """What a sync did, as counts of objects."""

    created: int = 0
    configured: int = 0
    unchanged: int = 0
    deleted: int = 0
    failed: int = 0


class SyncFinished(DeploymentEvent):
    type: ClassVar[str] = "dev.cdeventsx.towline-sync.finished.0.1.0"
    outcome: Outcome
    applied: Applied = Applied()
    problems: tuple[Problem, ...] = ()
    seconds: float = Field(0.0, description="Wall time from noticing the revision to the last apply.")


class ServiceEvent(DeploymentEvent):
    images: tuple[str, ...] = Field((), description="References by digest of the running workloads.")


class RunningEvent(ServiceEvent):
    def content(self) -> dict[str, Any]:
        return {**super().content(), "artifactId": image_purl(self.images[0]) if self.images else self.revision}


class ServiceDeployed(RunningEvent):
    """The application is healthy for the first time."""

    type: ClassVar[str] = "dev.cdevents.service.deployed.0.3.0"


class ServiceUpgraded(RunningEvent):
    """A newer revision of the application is healthy."""

    type: ClassVar[str] = "dev.cdevents.service.upgraded.0.3.0"


class ServiceRemoved(ServiceEvent):
    type: ClassVar[str] = "dev.cdevents.service.removed.0.3.0"


class DriftEvent(DeploymentEvent):
    object: str = Field(description="`<kind> <namespace>/<name>`.")
    fields: tuple[str, ...] = Field((), description="Owned fields that differed, as paths; values are never told.")


class DriftDetected(DriftEvent):
    type: ClassVar[str] = "dev.cdeventsx.towline-drift.detected.0.1.0"


class DriftRepaired(DriftEvent):
    type: ClassVar[str] = "dev.cdeventsx.towline-drift.repaired.0.1.0"
    seconds: float = Field(0.0, description="From the watch event to the answer of the repairing apply.")


class HealthChanged(DeploymentEvent):
    type: ClassVar[str] = "dev.cdeventsx.towline-health.changed.0.1.0"
    health: Health
    previous: Health
    reason: str = Field("", description="One sentence that names the object which decides.")


class IncidentDetected(DeploymentEvent):
    type: ClassVar[str] = "dev.cdevents.incident.detected.0.3.0"
    reason: str = ""

    def content(self) -> dict[str, Any]:
        return {**super().content(), "description": self.reason}


class IncidentResolved(DeploymentEvent):
    type: ClassVar[str] = "dev.cdevents.incident.resolved.0.3.0"
    reason: str = ""

    def content(self) -> dict[str, Any]:
        return {**super().content(), "description": self.reason}
