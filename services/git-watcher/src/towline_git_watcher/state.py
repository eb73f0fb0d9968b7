"""What the watcher knows of one repository.

Rule: a change stands in its branch's queue or was rejected, never both.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from towline.delivery.model import State
from towline.events import BuiltImage, Outcome, PinnedImage, Purpose, Word


class Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Step(Word):
    QUEUED = "queued"
    """In the queue, and nothing was asked for it yet."""
    COMPUTING = "computing"
    """The jail merges."""
    TESTING = "testing"
    """Its candidate waits for pipeline and build; a checked one waits for its turn."""
    PINNING = "pinning"
    """Passed; the jail writes the digests."""
    CHECKING = "checking"
    """Its landing commit waits for the built-in checks."""
    LANDING = "landing"
    """The intent: from here the branch may have moved, whatever we heard of it."""
    REJECTED = "rejected"
    """Ended, until its author pushes another head."""


class Candidate(Entry):
    id: str
    tree: str
    source_tree: str
    pipeline: Outcome | None = None
    build: Outcome | None = None
    images: tuple[BuiltImage, ...] = ()
    pinned: bool = False

    @property
    def passed(self) -> bool:
        return self.pipeline is Outcome.SUCCESS and self.build is Outcome.SUCCESS

    @property
    def pending(self) -> bool:
        return self.pipeline is None or self.build is None


class Landing(Entry):
    """The commit that is to land. Without pins it is the candidate itself, which was checked already."""

    id: str
    tree: str
    images: tuple[PinnedImage, ...] = ()
    pipeline: Outcome | None = None
    build: Outcome | None = None


class Owed(Entry):
    """Ends that are still to come for a candidate that was given up. Computed again, it has the same id."""

    pipeline: int = 0
    build: int = 0


class Change(Entry):
    change: str
    ref: str
    target: str
    head: str
    step: Step = Step.QUEUED
    purpose: Purpose | None = Field(None, description="What the present work is for; None: none was asked for.")
    base: str = Field("", description="What the present work stands on.")
    candidate: Candidate | None = None
    landing: Landing | None = None


class Branch(Entry):
    tip: str | None = Field(None, description="None: not known, or there is no such branch.")
    queue: tuple[str, ...] = Field((), description="Refs of changes, first come first.")


class WatcherState(State):
    changes: dict[str, Change] = Field(default_factory=dict, description="By ref.")
    branches: dict[str, Branch] = Field(default_factory=dict, description="Gated branches by name.")
    owed: dict[str, Owed] = Field(default_factory=dict, description="By `<purpose> <candidate>`.")
    reading: bool = Field(False, description="A FetchRefs is under way.")
    again: bool = Field(False, description="Something was hinted since it began.")
    epoch: int = Field(0, description="Counts what landings did to refs; readings from before one are old.")
