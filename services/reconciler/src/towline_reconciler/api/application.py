"""What a person writes into an `Application` and what the agent answers in its status.

The shapes are the only definition: the CRD's schema is generated from them (`api/crd.py`), and a test holds the
committed YAML to them. Names on the wire are camelCase. Reading is lenient, because the API server has checked
already and a newer agent may have written fields that this one does not know.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from towline.project.model import seconds_of

GROUP = "towline.dev"
VERSION = "v1alpha1"
KIND = "Application"
PLURAL = "applications"
SHORT_NAME = "tapp"

FINALIZER = "towline.dev/prune"
LABEL = "towline.dev/application"
NAMESPACE_LABEL = "towline.dev/application-namespace"
PRUNE_ANNOTATION = "towline.dev/prune"
SYNC_ANNOTATION = "towline.dev/sync-requested"
MOST_OBJECTS = 2000
"""Of one application: its inventory must fit into one resource beside everything else."""

Duration = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,6}[smh]$", description="Such as `30s`, `10m`, `1h`.")]


class Wire(BaseModel):
    """A value in the resource: camelCase on the wire, immutable here."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class GitSource(Wire):
    url: str = Field(
        min_length=1,
        max_length=2048,
        description="https://host/path, ssh://user@host/path, user@host:path, file:///path or an absolute path.",
    )
    id: str | None = Field(
        None,
        max_length=512,
        description="The repository's id in events, `<host>/<owner>/<name>`; derived from the URL when absent.",
    )
    branch: str = Field("main", min_length=1, max_length=255, description="Branch to follow, without `refs/heads/`.")
    path: str = Field(
        ".",
        min_length=1,
        max_length=1024,
        pattern=r"^[^/\\].*$",
        description="Folder inside the repository that holds the manifests.",
    )


class ApplicationSpec(Wire):
    source: GitSource
    render: Literal["auto", "plain", "kustomize"] = Field(
        "auto", description="`auto` is Kustomize where the folder holds a kustomization, else plain YAML."
    )
    prune: bool = Field(True, description="Delete objects that Git no longer names.")
    interval: Duration | None = Field(
        None, description="How often the source is asked when no event came; absent: as the agent is set."
    )
    drift: Literal["repair", "report"] = Field("repair", description="What to do when an owned field was changed.")
    suspend: bool = Field(False, description="True stops syncs and repairs; health is still watched.")
    timeout: Duration = Field("5m", description="How long a new revision may take to become healthy.")
    target_namespace: str | None = Field(
        None,
        max_length=63,
        description="For objects that name no namespace; the Application's own when absent.",
    )

    @property
    def timeout_seconds(self) -> int:
        return seconds_of(self.timeout)


class Condition(Wire):
    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str = Field(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=1024)
    message: str = Field("", max_length=32768)
    last_transition_time: str = Field(json_schema_extra={"format": "date-time"})
    observed_generation: int = 0


class InventoryEntry(Wire):
    id: str = Field(description="`<namespace>_<name>_<group>_<kind>`; the namespace is empty for cluster-wide kinds.")
    v: str = Field(description="API version the object was applied with.")


class AppliedCounts(Wire):
    created: int = 0
    configured: int = 0
    unchanged: int = 0
    deleted: int = 0
    failed: int = 0


class Finding(Wire):
    """One problem of the last sync."""

    message: str
    file: str | None = None
    line: int | None = None


class LastSync(Wire):
    revision: str
    change: str | None = Field(None, description="From the commit's `Towline-Change` trailer.")
    tree: str = Field("", description="Hash of the source folders of that revision.")
    generation: int = Field(0, description="Of the spec that it followed.")
    outcome: str = Field(description="`success`, `failure` (the revision is at fault) or `error` (the surroundings).")
    started_at: str = Field(json_schema_extra={"format": "date-time"})
    seconds: float = 0.0
    applied: AppliedCounts = AppliedCounts()
    problems: tuple[Finding, ...] = Field((), max_length=50)


class HealthStatus(Wire):
    status: str
    reason: str = ""
    since: str = Field(json_schema_extra={"format": "date-time"})
    failed: bool = Field(False, description="True when the revision did not become healthy in time.")


class LastPublished(Wire):
    """What the bus has acknowledged; what differs from the status is published when the bus is back."""

    sync: str | None = Field(None, description="`startedAt` of the sync whose end was published.")
    health: str | None = Field(None, description="`<revision> <status> <since>` of the health that was published.")


class ApplicationStatus(Wire):
    observed_generation: int = 0
    revision: str | None = Field(None, description="Commit id that the cluster was last made to follow.")
    change: str | None = Field(None, description="The change that this commit landed.")
    tree: str | None = Field(None, description="Hash of the source folders; only a change of it causes a sync.")
    healthy_revision: str | None = Field(None, description="The newest revision that was healthy.")
    inventory: tuple[InventoryEntry, ...] = Field((), max_length=MOST_OBJECTS)
    images: tuple[str, ...] = Field((), description="References by digest of the running workloads.")
    last_sync: LastSync | None = None
    health: HealthStatus | None = None
    last_published: LastPublished | None = None
    conditions: tuple[Condition, ...] = ()

    def condition(self, kind: str) -> Condition | None:
        return next((each for each in self.conditions if each.type == kind), None)


class Application(BaseModel):
    """One live Application as read from the API server."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    namespace: str
    name: str
    uid: str
    generation: int
    resource_version: str
    deleting: bool
    finalizers: tuple[str, ...]
    annotations: dict[str, str]
    spec: ApplicationSpec
    status: ApplicationStatus

    @classmethod
    def of(cls, live: dict[str, Any]) -> Application:
        """Raises pydantic.ValidationError for a spec that this version cannot read."""
        meta = live["metadata"]
        return cls(
            namespace=meta["namespace"],
            name=meta["name"],
            uid=meta["uid"],
            generation=meta.get("generation", 1),
            resource_version=meta["resourceVersion"],
            deleting="deletionTimestamp" in meta,
            finalizers=tuple(meta.get("finalizers", ())),
            annotations=meta.get("annotations") or {},
            spec=ApplicationSpec.model_validate(live["spec"]),
            status=ApplicationStatus.model_validate(live.get("status") or {}),
        )

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def target_namespace(self) -> str:
        return self.spec.target_namespace or self.namespace
