"""What the watcher says to itself: effects it asks for, and the inbox events that hints and results come back as.

Every result names what it answers (ref, head, base, purpose …), so that an answer to a question nobody asks any
more is seen and dropped.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from towline.delivery.model import Effect
from towline.events import BuiltImage, Event, Part, PinnedImage, Problem, Purpose
from towline.project.model import ImageSpec, Job


class RefsHinted(Event):
    """Somebody believes that refs moved. Only a reason to look: what is true is read again."""

    type: ClassVar[str] = "dev.cdeventsx.towline-refs.hinted.0.1.0"
    repo: str
    by: str = Field(description="`sweep`, `poll` or `hook`.")

    @property
    def subject(self) -> str:
        return self.repo


class OpenRef(Part):
    """One ref below refs/heads/for/, as it stands."""

    ref: str
    head: str
    title: str = ""
    author: str = ""
    refused: str = Field("", description="Why its commits cannot even be fetched.")


class RefsRead(Event):
    type: ClassVar[str] = "dev.cdeventsx.towline-refs.read.0.1.0"
    repo: str
    epoch: int = Field(description="Of the state that asked; a landing since then makes the reading old.")
    branches: dict[str, str] = Field(description="Gated branch → its tip; one that does not exist is absent.")
    changes: tuple[OpenRef, ...]
    cut: bool = Field(False, description="There are more changes than are told: one that is absent may still be there.")

    @property
    def subject(self) -> str:
        return self.repo


class AboutChange(Event):
    repo: str
    change: str
    ref: str

    @property
    def subject(self) -> str:
        return self.change


class CandidateComputed(AboutChange):
    type: ClassVar[str] = "dev.cdeventsx.towline-candidate.computed.0.1.0"
    head: str
    base: str
    purpose: Purpose
    candidate: str
    tree: str
    source_tree: str
    snapshot: str
    changed_paths: tuple[str, ...] | None = Field(None, description="None: too many to be told.")
    jobs: tuple[Job, ...] = ()
    manifests: tuple[str, ...] = ()
    images: tuple[ImageSpec, ...] = ()
    pinned: bool = Field(description="True when landing writes into the tree.")


class CandidateRefused(AboutChange):
    type: ClassVar[str] = "dev.cdeventsx.towline-candidate.refused.0.1.0"
    head: str
    base: str
    purpose: Purpose
    stage: str
    reason: str
    problems: tuple[Problem, ...] = ()


class PinsWritten(AboutChange):
    type: ClassVar[str] = "dev.cdeventsx.towline-pins.written.0.1.0"
    candidate: str
    landing: str = Field(description="The landing commit.")
    tree: str
    snapshot: str
    manifests: tuple[str, ...] = ()
    images: tuple[PinnedImage, ...] = ()


class PinsRefused(AboutChange):
    type: ClassVar[str] = "dev.cdeventsx.towline-pins.refused.0.1.0"
    candidate: str
    reason: str
    problems: tuple[Problem, ...] = ()


class Landed(AboutChange):
    """The commit is an ancestor of the branch, or its tip."""

    type: ClassVar[str] = "dev.cdeventsx.towline-commit.landed.0.1.0"
    commit: str
    tip: str = Field(description="Where the branch stood when that was seen.")


class CandidateLost(AboutChange):
    """What was tested cannot land any more: a ref moved, or the mirror lost it. It is computed anew."""

    type: ClassVar[str] = "dev.cdeventsx.towline-candidate.lost.0.1.0"
    commit: str = Field(description="The candidate or landing commit.")
    reason: str


class FetchRefs(Effect):
    """Fetch into the mirror and say where everything stands."""

    kind: ClassVar[str] = "fetch-refs"
    repo: str
    host: str
    epoch: int

    @property
    def resource(self) -> str:
        return f"git {self.host}"


class ComputeCandidate(Effect):
    """Merge head into base in the jail; same inputs, same candidate."""

    kind: ClassVar[str] = "compute-candidate"
    repo: str
    change: str
    ref: str
    target: str
    head: str
    base: str
    purpose: Purpose

    @property
    def resource(self) -> str:
        return f"jail {self.repo}"


class WritePins(Effect):
    """Make the landing commit of a candidate: the same but for its pinned fields."""

    kind: ClassVar[str] = "write-pins"
    repo: str
    change: str
    ref: str
    head: str
    base: str
    candidate: str
    tree: str
    source_tree: str
    images: tuple[BuiltImage, ...] = ()

    @property
    def resource(self) -> str:
        return f"jail {self.repo}"


class Land(Effect):
    """Move the branch by compare-and-swap and remove the change's ref, both or neither."""

    kind: ClassVar[str] = "land"
    repo: str
    host: str
    change: str
    ref: str
    target: str
    head: str
    old: str
    new: str

    @property
    def resource(self) -> str:
        return f"git {self.host}"
