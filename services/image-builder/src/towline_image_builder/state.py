"""What the image-builder holds for one repository: the candidates that wait, and the images known by recipe.

building ─► built ─► pushing ─► pushed        a failed or cancelled build leaves the table
    ▲         │ ▲       │
    │         │ └───────┘  the push was given up
    └─────────┴─────────┘  what was built is lost
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from towline.delivery.model import State
from towline.events import Outcome, Problem, Purpose
from towline.project.model import ImageSpec


class Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Stage(StrEnum):
    BUILDING = "building"
    BUILT = "built"
    PUSHING = "pushing"
    PUSHED = "pushed"


class Recipe(Entry):
    """One image of one source tree. What is set from `key` on is known once it is built."""

    image: ImageSpec
    source_tree: str
    snapshot: str
    change: str = Field(description="The change that asked first; traces lead there.")
    registry: str = Field(description="Where its image goes: address.")
    repository: str = Field(description="Where its image goes: name there.")
    number: int = Field(description="Of the build that runs or ran.")
    stage: Stage = Stage.BUILDING
    since: datetime = Field(description="When it was asked to be built.")
    key: str = ""
    digest: str = ""


class Wanted(Entry):
    """One image as one candidate waits for it."""

    recipe: str
    name: str
    packaged: bool = False
    published: bool = False
    failed: bool = False


class Candidate(Entry):
    """A candidate whose `build.finished` is still owed."""

    change: str
    candidate: str
    head: str
    source_tree: str
    purpose: Purpose
    images: tuple[Wanted, ...] = ()
    outcome: Outcome = Outcome.SUCCESS
    problems: tuple[Problem, ...] = ()
    log: str | None = None
    build_seconds: float = 0.0
    push_seconds: float = 0.0


class BuilderState(State):
    candidates: dict[str, Candidate] = Field(default_factory=dict, description="`<purpose> <candidate>` → it.")
    recipes: dict[str, Recipe] = Field(default_factory=dict, description="Recipe → how far its image is.")
    started: int = Field(0, description="Builds started so far; the number of the last one.")
