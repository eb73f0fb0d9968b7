"""Stage 3: a candidate's images are built and pushed. Produced by image-builder alone.

Each candidate ends with exactly one `build.finished`, also when there is nothing to build.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from towline.events.base import Event, Outcome, Part, Problem, Purpose
from towline.ids import image_purl


class BuildEvent(Event):
    repo: str = Field(description="`<host>/<owner>/<name>`.")
    change: str = Field(description="`<repo>!<number or topic>`.")
    candidate: str = Field(description="Commit id of the candidate the images are of.")
    head: str = Field(description="Commit id of the change as its author pushed it.")
    source_tree: str = Field(description="The tree the images are built from.")
    purpose: Purpose

    @property
    def subject(self) -> str:
        return f"{self.candidate}/build"


class BuildStarted(BuildEvent):
    type: ClassVar[str] = "dev.cdevents.build.started.0.3.0"


class BuiltImage(Part):
    name: str = Field(description="The image's name in `.towline.yaml`.")
    repository: str = Field(description="`<registry>/<repository>`, without tag or digest.")
    digest: str = Field(description="`sha256:…` of the manifest.")

    @property
    def reference(self) -> str:
        return f"{self.repository}@{self.digest}"

    @property
    def purl(self) -> str:
        return image_purl(self.reference)


class BuildFinished(BuildEvent):
    type: ClassVar[str] = "dev.cdevents.build.finished.0.3.0"
    outcome: Outcome
    images: tuple[BuiltImage, ...] = ()
    problems: tuple[Problem, ...] = ()
    log: str | None = Field(None, description="Digest of the build log in the artifact store.")
    build_seconds: float = Field(0.0, description="Wall time inside the builds.")
    push_seconds: float = Field(0.0, description="Wall time inside the pushes.")

    def content(self) -> dict[str, Any]:
        return {"artifactId": self.images[0].purl} if self.images else {}


class ImageEvent(BuildEvent):
    image: BuiltImage

    @property
    def subject(self) -> str:
        return self.image.purl


class ArtifactPackaged(ImageEvent):
    """An image exists as an OCI layout; nothing was pushed yet."""

    type: ClassVar[str] = "dev.cdevents.artifact.packaged.0.3.0"
    cached: bool = Field(False, description="True when the registry already held it under its content key.")
    seconds: float = Field(0.0, description="Wall time of the build.")

    def content(self) -> dict[str, Any]:
        return {"change": {"id": self.change}}


class ArtifactPublished(ImageEvent):
    """The registry holds the image and answered with this digest."""

    type: ClassVar[str] = "dev.cdevents.artifact.published.0.3.0"
    seconds: float = Field(0.0, description="Wall time of the push.")
