"""Stage 2: a candidate is validated and tested. Produced by ci-runner alone.

Each candidate ends with exactly one `pipelinerun.finished`, whatever happens to it.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from towline.events.base import Event, Outcome, Problem, Purpose, Verdict


class PipelineEvent(Event):
    repo: str = Field(description="`<host>/<owner>/<name>`.")
    change: str = Field(description="`<repo>!<number or topic>`.")
    candidate: str = Field(description="Commit id of the candidate under test.")
    head: str = Field(description="Commit id of the change as its author pushed it.")
    source_tree: str = Field(description="The tree that was tested.")
    purpose: Purpose
    run: str = Field(description="`<candidate[:12]>-<hash of pipeline[:8]>`.")
    attempt: int = Field(1, ge=1, description="Counts infrastructure retries, from 1.")

    @property
    def subject(self) -> str:
        return self.run

    def content(self) -> dict[str, Any]:
        return {"pipelineName": self.repo}


class PipelineRunQueued(PipelineEvent):
    type: ClassVar[str] = "dev.cdevents.pipelinerun.queued.0.3.0"


class PipelineRunStarted(PipelineEvent):
    type: ClassVar[str] = "dev.cdevents.pipelinerun.started.0.3.0"


class PipelineRunFinished(PipelineEvent):
    type: ClassVar[str] = "dev.cdevents.pipelinerun.finished.0.3.0"
    outcome: Outcome
    verdict: Verdict
    problems: tuple[Problem, ...] = Field((), description="What was wrong, over all checks and jobs, at most 50.")
    job_seconds: float = Field(0.0, description="Wall time spent inside declared jobs.")

    def content(self) -> dict[str, Any]:
        return {"pipelineName": self.repo, "outcome": self.outcome.value}


class TaskEvent(PipelineEvent):
    task: str = Field(description="Name of the job, or of the built-in check: `configuration`, `lint`.")

    @property
    def subject(self) -> str:
        return f"{self.run}/{self.task}"

    def content(self) -> dict[str, Any]:
        return {"taskName": self.task, "pipelineRun": {"id": self.run}}


class TaskRunStarted(TaskEvent):
    type: ClassVar[str] = "dev.cdevents.taskrun.started.0.3.0"


class TaskRunFinished(TaskEvent):
    type: ClassVar[str] = "dev.cdevents.taskrun.finished.0.3.0"
    outcome: Outcome
    verdict: Verdict
    reason: str = Field("", description="One sentence; for a skipped task why it was skipped.")
    problems: tuple[Problem, ...] = ()
    exit_code: int | None = Field(None, description="Of the job's process; None where none ran.")
    log: str | None = Field(None, description="Digest of the log in the artifact store.")
    seconds: float = Field(0.0, description="Wall time.")

    def content(self) -> dict[str, Any]:
        return {"taskName": self.task, "pipelineRun": {"id": self.run}, "outcome": self.outcome.value}
