"""Stage 1 and 4: a change arrives, becomes a candidate, and lands. Produced by git-watcher alone."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from towline.events.base import Event, Part, Problem, Purpose
from towline.project.model import ImageSpec, Job


class ChangeEvent(Event):
    repo: str = Field(description="`<host>/<owner>/<name>`.")
    change: str = Field(description="`<repo>!<number or topic>`.")
    target: str = Field(description="The branch the change wants to land on, without `refs/heads/`.")
    head: str = Field(description="Commit id of the change as its author pushed it.")

    @property
    def subject(self) -> str:
        return self.change

    def content(self) -> dict[str, Any]:
        return {"repository": {"id": self.repo}}


class ChangeCreated(ChangeEvent):
    type: ClassVar[str] = "dev.cdevents.change.created.0.4.0"
    title: str = Field("", description="First line of the head's commit message.")
    author: str = Field("", description="Name of the head's author, as Git has it.")


class ChangeUpdated(ChangeEvent):
    type: ClassVar[str] = "dev.cdevents.change.updated.0.3.0"
    previous: str = Field(description="The head before this one.")
    title: str = Field("", description="First line of the head's commit message.")
    author: str = Field("", description="Name of the head's author, as Git has it.")


class ChangeAbandoned(ChangeEvent):
    type: ClassVar[str] = "dev.cdevents.change.abandoned.0.3.0"
    reason: str = Field(description="One sentence.")


class PinnedImage(Part):
    name: str = Field(description="The image's name in `.towline.yaml`.")
    reference: str = Field(description="`<registry>/<repository>@sha256:…`, as a cluster pulls it.")


class ChangeMerged(ChangeEvent):
    type: ClassVar[str] = "dev.cdevents.change.merged.0.3.0"
    candidate: str = Field(description="The candidate that was tested and imaged; for a direct push the commit itself.")
    landed: str = Field(description="The commit the branch moved to: the candidate plus pinned fields.")
    previous: str = Field(description="Where the branch stood before.")
    source_tree: str = Field(description="Tree of the candidate with every pinned field set to one constant.")
    images: tuple[PinnedImage, ...] = Field((), description="What was pinned in the landed commit.")
    gated: bool = Field(True, description="False for a direct push where the target allows one.")


class CandidateEvent(ChangeEvent):
    candidate: str = Field(description="Commit id of the computed merge; same inputs, same id.")

    @property
    def subject(self) -> str:
        return self.candidate

    def content(self) -> dict[str, Any]:
        return {"change": {"id": self.change}, "repository": {"id": self.repo}}


class CandidateCreated(CandidateEvent):
    type: ClassVar[str] = "dev.cdeventsx.towline-candidate.created.0.1.0"
    base: str = Field(description="The commit the candidate stands on.")
    source_tree: str = Field(
        description="Key of all results: the tree with every pinned field set to one constant; for `landing` the "
        "landing commit's own tree, so that what is checked holds the pins."
    )
    snapshot: str = Field(description="Digest in the artifact store of the snapshot of `source_tree`.")
    purpose: Purpose
    changed_paths: tuple[str, ...] | None = Field(
        None, description="Paths that differ from `base`; None when they are too many to tell, and then all match."
    )
    jobs: tuple[Job, ...] = Field((), description="Declared jobs to run; empty for `landing`.")
    manifests: tuple[str, ...] = Field((), description="Folders of manifests that the built-in checks render.")
    images_expected: tuple[ImageSpec, ...] = Field((), description="Images to build; empty for `landing`.")


class CandidateSuperseded(CandidateEvent):
    type: ClassVar[str] = "dev.cdeventsx.towline-candidate.superseded.0.1.0"
    reason: str = Field(description="One sentence: a new head, a moved base, an abandoned change.")


class CandidateRejected(ChangeEvent):
    """The change cannot land as it is; `candidate` is absent when none could be computed."""

    type: ClassVar[str] = "dev.cdeventsx.towline-candidate.rejected.0.1.0"
    candidate: str | None = None
    stage: str = Field(description="`merge`, `configuration`, `pipeline`, `image` or `landing`.")
    reason: str = Field(description="One sentence for a status line.")
    problems: tuple[Problem, ...] = ()

    def content(self) -> dict[str, Any]:
        return {"change": {"id": self.change}, "repository": {"id": self.repo}}
