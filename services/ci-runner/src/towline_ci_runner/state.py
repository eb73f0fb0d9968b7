"""What ci-runner knows of one repository: runs on their way, runs that ended, and results worth keeping."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from towline.delivery.model import State
from towline.events import Problem, Purpose, Verdict
from towline.project.model import Job


class Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Phase(StrEnum):
    PENDING = "pending"
    """Its needs have not ended."""
    RUNNING = "running"
    WAITING = "waiting"
    """For the next attempt, after a failure of the infrastructure."""
    ENDED = "ended"


class Task(Entry):
    phase: Phase = Phase.PENDING
    attempt: int = Field(description="The current or last one.")
    verdict: Verdict | None = Field(None, description="Once it has ended.")
    reason: str = Field("", description="Why its `when` skipped it.")


class Span(Entry):
    """Time inside of a declared job."""

    start: datetime
    end: datetime


class Run(Entry):
    """One candidate under test for one purpose."""

    asked: tuple[str, ...] = Field(description="Ids of the events that ask for this run's verdict.")
    run: str
    attempt: int
    repo: str
    change: str
    target: str
    candidate: str
    head: str
    source_tree: str
    snapshot: str
    purpose: Purpose
    manifests: tuple[str, ...] = ()
    jobs: tuple[Job, ...] = ()
    tasks: dict[str, Task] = Field(description="By key: a check's name, or `job/<name>`.")
    problems: tuple[Problem, ...] = ()
    spans: tuple[Span, ...] = ()

    def job(self, key: str) -> Job | None:
        return next((job for job in self.jobs if key == f"job/{job.name}"), None)


class Ended(Entry):
    """A run that has said its verdict. Asked again, it runs again with later attempts."""

    asked: tuple[str, ...]
    attempt: int = Field(description="The last one of any of its tasks.")
    at: datetime


class Result(Entry):
    """A task that was valid; the same task on the same tree is not run again."""

    run: str
    log: str | None = None
    at: datetime


class RunnerState(State):
    runs: dict[str, Run] = Field(default_factory=dict, description="Run id → a run on its way.")
    ended: dict[str, Ended] = Field(default_factory=dict, description="Run id → a run that ended; the last 500.")
    results: dict[str, Result] = Field(default_factory=dict, description="Key → a valid result; the last 500.")


KEPT = 500
MOST_TRIES = 3
"""Attempts at a task, in all, when the infrastructure fails."""
RETRY_AFTER = timedelta(seconds=2)
"""Before the second attempt; twice as long before the third."""
