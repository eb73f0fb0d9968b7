"""What ci-runner asks of its shell, and what comes back: three effects and one inbox event."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from pydantic import Field

from towline.delivery.model import Effect
from towline.events import Event, Problem, Verdict
from towline.project.model import Job


class TaskEffect(Effect):
    """One attempt at one task of a run. Doing it twice is harmless: nothing of it outlives its result."""

    run: str
    attempt: int
    task: str = Field(description="Key of the task in the run: a check's name, or `job/<name>`.")
    change: str
    source_tree: str
    snapshot: str = Field(description="Digest in the artifact store.")

    @property
    def name(self) -> str:
        return f"{self.run}/{self.attempt}/{self.task}"


class RunCheck(TaskEffect):
    kind: ClassVar[str] = "check"
    manifests: tuple[str, ...] = ()

    @property
    def resource(self) -> str:
        return f"check {self.task}"


class RunJob(TaskEffect):
    kind: ClassVar[str] = "job"
    job: Job
    repo: str
    target: str
    candidate: str
    head: str


class CancelRun(Effect):
    """End what still runs of a run's tasks. Harmless when nothing does."""

    kind: ClassVar[str] = "cancel"
    run: str
    attempt: int = Field(description="Attempts up to this one; later ones belong to a run that was asked for again.")
    change: str


class TaskEnded(Event):
    """How one attempt at a task ended."""

    type: ClassVar[str] = "dev.cdeventsx.towline-ci-runner-task.ended.0.1.0"
    run: str
    attempt: int
    task: str
    verdict: Verdict
    reason: str = ""
    infrastructure: bool = Field(False, description="The verdict `error` says nothing of the change: try again.")
    problems: tuple[Problem, ...] = ()
    exit_code: int | None = None
    log: str | None = None
    started: datetime | None = Field(None, description="When the work itself began, its sandbox being there.")
    seconds: float = 0.0

    @property
    def subject(self) -> str:
        return f"{self.run}/{self.attempt}/{self.task}"
