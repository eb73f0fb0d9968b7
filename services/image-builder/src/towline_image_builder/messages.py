"""What the image-builder asks to be done, and the results that come back to its inbox.

A build is named `<recipe>#<number>`: the recipe says what is built, the number tells one start of it from the next, so
that neither a late result nor a late cancellation meets the wrong one.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from towline.delivery.model import Effect
from towline.events import Event, Outcome, Problem
from towline.project.model import ImageSpec


class Build(Effect):
    """Build one image of one source tree, or find that it was built before."""

    kind: ClassVar[str] = "build"
    build: str
    change: str
    source_tree: str
    snapshot: str
    image: ImageSpec
    repository: str = Field(description="Where the image would be pushed to, below the registry's address.")

    @property
    def resource(self) -> str:
        return "builds"


class Cancel(Effect):
    """Nobody waits for this build any more; whether it waits, runs or is over, the lane hears it from `Build`."""

    kind: ClassVar[str] = "cancel"
    build: str


class Push(Effect):
    """Make sure that the registry holds a built image under its digest and its content key."""

    kind: ClassVar[str] = "push"
    build: str
    change: str
    key: str
    digest: str
    registry: str
    repository: str

    @property
    def resource(self) -> str:
        return f"registry {self.registry}"


class BuildResult(Event):
    build: str

    @property
    def subject(self) -> str:
        return self.build


class ImageBuilt(BuildResult):
    type: ClassVar[str] = "dev.cdeventsx.towline-image.built.0.1.0"
    key: str = Field(description="Content key: a hash over everything that went into the image.")
    digest: str
    cached: bool = Field(False, description="It was there under its key; nothing was built.")
    pushed: bool = Field(False, description="The registry holds it already.")
    seconds: float = Field(0.0, description="Wall time inside the build.")
    log: str | None = None


class ImageFailed(BuildResult):
    """`failure`: the repository's fault; `cancel`: nobody wanted it any more."""

    type: ClassVar[str] = "dev.cdeventsx.towline-image.failed.0.1.0"
    outcome: Outcome
    problems: tuple[Problem, ...] = ()
    seconds: float = 0.0
    log: str | None = None


class ImagePushed(BuildResult):
    type: ClassVar[str] = "dev.cdeventsx.towline-image.pushed.0.1.0"
    seconds: float = 0.0


class ImageLost(BuildResult):
    """What was built is no longer on this machine; it must be built again before it can be pushed."""

    type: ClassVar[str] = "dev.cdeventsx.towline-image.lost.0.1.0"
