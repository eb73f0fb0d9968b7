"""What a candidate's pipeline consists of and what it comes to. Pure.

    candidate ─► run: two built-in checks and the declared jobs ─► tasks end ─► one verdict

A job starts when all that it needs was valid. A need that failed skips it, and the pipeline fails with that need; a
need that was skipped by its `when` skips it too, and nothing is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from towline.events import CandidateCreated, Purpose, Verdict
from towline.ids import digest_of, run_id
from towline_ci_runner.state import Phase, Run, Span, Task
from towline_ci_runner.when import why_not

CHECKS = ("configuration", "lint")
TRUST = "member"
"""Whoever may push a change; a class for strangers' changes would never share results with it."""


def run_of(event: CandidateCreated, asked: Sequence[str], attempt: int) -> Run:
    jobs = () if event.purpose is Purpose.LANDING else event.jobs
    tasks = {name: Task(attempt=attempt) for name in CHECKS}
    for job in jobs:
        reason = why_not(job.when, event.target, event.changed_paths)
        if reason is None:
            tasks[f"job/{job.name}"] = Task(attempt=attempt)
        else:
            tasks[f"job/{job.name}"] = Task(phase=Phase.ENDED, attempt=attempt, verdict=Verdict.SKIPPED, reason=reason)
    return Run(
        asked=tuple(asked),
        run=run_name(event),
        attempt=attempt,
        repo=event.repo,
        change=event.change,
        target=event.target,
        candidate=event.candidate,
        head=event.head,
        source_tree=event.source_tree,
        snapshot=event.snapshot,
        purpose=event.purpose,
        manifests=event.manifests,
        jobs=jobs,
        tasks=tasks,
    )


def run_name(event: CandidateCreated) -> str:
    """The purpose is part of the pipeline: a change that is checked and then queued may keep its candidate's id."""
    jobs = [job.model_dump(mode="json", exclude_defaults=True) for job in event.jobs]
    return run_id(event.candidate, _canonical([event.change, event.purpose.value, event.target, event.manifests, jobs]))


def result_key(run: Run, task: str, inputs: str) -> str:
    """What decides the result of a task: the tree, the task itself, who may be trusted, and the checks' settings."""
    job = run.job(task)
    if job is None:
        return digest_of("check", task, run.source_tree, _canonical(run.manifests), inputs)
    return digest_of("job", TRUST, run.source_tree, _canonical([job.run, job.env, job.timeout]))


def blocked(run: Run, task: str) -> tuple[Verdict, str] | None:
    """Why a pending task will never run: (skipped or cancelled, sentence). None when it still may."""
    for need in needs(run, task):
        ended = run.tasks[f"job/{need}"]
        if ended.phase is Phase.ENDED and ended.verdict is not Verdict.VALID:
            word = "was skipped" if ended.verdict is Verdict.SKIPPED else "did not pass"
            return Verdict.SKIPPED, f"it needs {need}, which {word}"
    return None


def may_start(run: Run, task: str) -> bool:
    return all(run.tasks[f"job/{need}"].verdict is Verdict.VALID for need in needs(run, task))


def needs(run: Run, task: str) -> tuple[str, ...]:
    job = run.job(task)
    return () if job is None else tuple(need for need in job.needs if f"job/{need}" in run.tasks)


def verdict_of(tasks: Iterable[Task]) -> Verdict:
    """Of a run whose tasks have all ended. What is wrong with the change outweighs what is wrong with the runner."""
    said = {task.verdict for task in tasks}
    for worst in (Verdict.CANCELLED, Verdict.INVALID, Verdict.ERROR):
        if worst in said:
            return worst
    return Verdict.VALID


def seconds_in(spans: Iterable[Span]) -> float:
    """Wall time during which at least one job ran."""
    total, until = 0.0, None
    for span in sorted(spans, key=lambda each: each.start):
        start: datetime = span.start if until is None else max(until, span.start)
        if span.end > start:
            total += (span.end - start).total_seconds()
            until = span.end
    return total


def facts(run: Run) -> Mapping[str, Any]:
    """The fields that every event of a run carries."""
    return {
        "repo": run.repo,
        "change": run.change,
        "candidate": run.candidate,
        "head": run.head,
        "source_tree": run.source_tree,
        "purpose": run.purpose,
        "run": run.run,
    }


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
