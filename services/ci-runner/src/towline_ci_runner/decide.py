"""ci-runner's decision: a candidate comes in, its tasks are asked for as effects, one verdict goes out.

    CandidateCreated ─► Queued, Started ─► RunCheck, RunJob … ─► TaskEnded ─► … ─► PipelineRunFinished
    CandidateSuperseded ─► CancelRun ─► PipelineRunFinished (cancel)

What must hold: each candidate that asks gets exactly one PipelineRunFinished for its purpose; of each attempt at a task
the first result is accepted and no other; only failures of the infrastructure are tried again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from towline.delivery.model import Decision, Effect, EffectFailed, Envelope, TimerFired
from towline.events import (
    CandidateCreated,
    CandidateSuperseded,
    Event,
    Outcome,
    PipelineRunFinished,
    PipelineRunQueued,
    PipelineRunStarted,
    Problem,
    TaskRunFinished,
    TaskRunStarted,
    Verdict,
    within_bounds,
)
from towline_ci_runner import pipeline
from towline_ci_runner.messages import CancelRun, RunCheck, RunJob, TaskEffect, TaskEnded
from towline_ci_runner.state import KEPT, MOST_TRIES, RETRY_AFTER, Ended, Phase, Result, Run, RunnerState, Span, Task

E = TypeVar("E", Ended, Result)
KEPT_ASKED = 20
"""Ids of asking events that a run remembers; the runtime has dropped redelivered ones long before."""


@dataclass(frozen=True, slots=True)
class Policy:
    inputs: str = ""
    """What the built-in checks' results depend on besides the tree, in one text."""


def decide(policy: Policy, state: RunnerState, envelope: Envelope, now: datetime) -> Decision[RunnerState]:
    match envelope.event:
        case CandidateCreated() as event:
            return _on_candidate(policy, state, envelope.id, event, now)
        case CandidateSuperseded() as event:
            return _on_superseded(policy, state, event, now)
        case TaskEnded() as event:
            return _on_result(policy, state, event, now)
        case EffectFailed(kind=RunCheck.kind | RunJob.kind) as event:
            return _on_result(policy, state, _given_up(event), now)
        case TimerFired() as event:
            return _on_timer(policy, state, event.name, now)
        case _:
            return Decision(state)


def _on_candidate(
    policy: Policy, state: RunnerState, id: str, event: CandidateCreated, now: datetime
) -> Decision[RunnerState]:
    name = pipeline.run_name(event)
    active, ended = state.runs.get(name), state.ended.get(name)
    asked = active.asked if active else ended.asked if ended else ()
    if id in asked:
        return Decision(state)
    asked = (*asked, id)[-KEPT_ASKED:]
    if active is not None:  # the run that is on its way answers this one too
        runs = {**state.runs, name: active.model_copy(update={"asked": asked})}
        return Decision(state.model_copy(update={"runs": runs}))
    run = pipeline.run_of(event, asked, ended.attempt + 1 if ended else 1)
    step = _Step(policy, state, run, now)
    facts = pipeline.facts(run)
    step.events += [
        PipelineRunQueued(**facts, attempt=run.attempt),
        PipelineRunStarted(**facts, attempt=run.attempt),
    ]
    for key, task in run.tasks.items():
        if task.phase is Phase.ENDED:
            step.tell(key, task.verdict or Verdict.SKIPPED, Outcome.SUCCESS, task.reason)
    return step.done()


def _on_superseded(
    policy: Policy, state: RunnerState, event: CandidateSuperseded, now: datetime
) -> Decision[RunnerState]:
    decision = Decision(state)
    for run in [run for run in state.runs.values() if run.candidate == event.candidate]:
        step = _Step(policy, decision.state or state, run, now)
        step.cancel(event.reason)
        more = step.done()
        decision = Decision(
            more.state,
            decision.events + more.events,
            decision.effects + more.effects,
            {**decision.timers, **more.timers},
        )
    return decision


def _on_result(policy: Policy, state: RunnerState, ended: TaskEnded, now: datetime) -> Decision[RunnerState]:
    run = state.runs.get(ended.run)
    task = run.tasks.get(ended.task) if run else None
    if run is None or task is None or task.phase is not Phase.RUNNING or task.attempt != ended.attempt:
        return Decision(state)
    step = _Step(policy, state, run, now)
    step.accept(ended)
    return step.done()


def _on_timer(policy: Policy, state: RunnerState, name: str, now: datetime) -> Decision[RunnerState]:
    run_name, _, key = name.removeprefix("retry ").partition(" ")
    run = state.runs.get(run_name)
    task = run.tasks.get(key) if run else None
    if run is None or task is None or task.phase is not Phase.WAITING:
        return Decision(state)
    step = _Step(policy, state, run, now)
    step.start(key, task.attempt + 1)
    return step.done()


def _given_up(failed: EffectFailed) -> TaskEnded:
    """The runtime could not even get an answer from the effect."""
    effect = TaskEffect.model_validate(failed.payload)
    return TaskEnded(
        run=effect.run,
        attempt=effect.attempt,
        task=effect.task,
        verdict=Verdict.ERROR,
        reason=failed.reason[:500],
        infrastructure=True,
    )


@dataclass
class _Step:
    """One decision on one run while it is put together."""

    policy: Policy
    state: RunnerState
    run: Run
    now: datetime
    events: list[Event] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    timers: dict[str, datetime | None] = field(default_factory=dict)

    def done(self) -> Decision[RunnerState]:
        self._advance()
        if all(task.phase is Phase.ENDED for task in self.run.tasks.values()):
            self._finish()
        else:
            self.state = self.state.model_copy(update={"runs": {**self.state.runs, self.run.run: self.run}})
        return Decision(self.state, tuple(self.events), tuple(self.effects), self.timers)

    def accept(self, ended: TaskEnded) -> None:
        if ended.started is not None and self.run.job(ended.task):
            span = Span(start=ended.started, end=ended.started + timedelta(seconds=ended.seconds))
            self.run = self.run.model_copy(update={"spans": (*self.run.spans, span)})
        self.tell(ended.task, ended.verdict, ended.verdict.outcome, ended.reason, ended)
        tries = ended.attempt - self.run.attempt + 1
        if ended.verdict is Verdict.ERROR and ended.infrastructure and tries < MOST_TRIES:
            self._set(ended.task, Phase.WAITING, ended.attempt)
            self.timers[self._timer(ended.task)] = self.now + RETRY_AFTER * 2 ** (tries - 1)
            return
        problems = ended.problems or self._problem_of(ended)
        self._settle(ended.task, ended.attempt, ended.verdict, problems)
        if ended.verdict is Verdict.VALID:
            self._keep(ended)

    def start(self, key: str, attempt: int) -> None:
        self._set(key, Phase.RUNNING, attempt)
        self.events.append(TaskRunStarted(**pipeline.facts(self.run), attempt=attempt, task=_said(key)))
        self.effects.append(_effect(self.run, key, attempt))

    def cancel(self, reason: str) -> None:
        running = [key for key, task in self.run.tasks.items() if task.phase is Phase.RUNNING]
        for key, task in self.run.tasks.items():
            if task.phase is Phase.RUNNING:
                self.tell(key, Verdict.CANCELLED, Outcome.CANCEL, reason)
            if task.phase is Phase.WAITING:
                self.timers[self._timer(key)] = None
            if task.phase is not Phase.ENDED:
                self._settle(key, task.attempt, Verdict.CANCELLED)
        if running:
            last = max(task.attempt for task in self.run.tasks.values())
            self.effects.append(CancelRun(run=self.run.run, attempt=last, change=self.run.change))

    def tell(
        self, key: str, verdict: Verdict, outcome: Outcome, reason: str = "", ended: TaskEnded | None = None
    ) -> None:
        self.events.append(
            TaskRunFinished(
                **pipeline.facts(self.run),
                attempt=self.run.tasks[key].attempt,
                task=_said(key),
                outcome=outcome,
                verdict=verdict,
                reason=reason,
                problems=within_bounds(ended.problems) if ended else (),
                exit_code=ended.exit_code if ended else None,
                log=ended.log if ended else None,
                seconds=ended.seconds if ended else 0.0,
            )
        )

    def _advance(self) -> None:
        """Start what may start, until nothing changes: a result out of the table may free the next job at once."""
        again = True
        while again:
            again = False
            for key, task in self.run.tasks.items():
                if task.phase is Phase.PENDING:
                    again |= self._look_at(key, task)
        if not any(task.phase in {Phase.RUNNING, Phase.WAITING} for task in self.run.tasks.values()):
            for key in [key for key, task in self.run.tasks.items() if task.phase is Phase.PENDING]:
                self._never(key, Verdict.ERROR, "its needs can never all end")

    def _look_at(self, key: str, task: Task) -> bool:
        if block := pipeline.blocked(self.run, key):
            self._never(key, *block)
            return True
        if not pipeline.may_start(self.run, key):
            return False
        known = self.state.results.get(pipeline.result_key(self.run, key, self.policy.inputs))
        if known is None:
            self.start(key, task.attempt)
            return True
        reason = f"the same was valid in run {known.run}"
        before = TaskEnded(
            run=known.run, attempt=task.attempt, task=key, verdict=Verdict.VALID, reason=reason, log=known.log
        )
        self.tell(key, Verdict.VALID, Outcome.SUCCESS, reason, before)
        self._settle(key, task.attempt, Verdict.VALID)
        return True

    def _never(self, key: str, verdict: Verdict, reason: str) -> None:
        harmless = verdict is Verdict.SKIPPED and not self._failed_above(key)
        self.tell(key, verdict, Outcome.SUCCESS if harmless else verdict.outcome, reason)
        self._settle(key, self.run.tasks[key].attempt, verdict)

    def _failed_above(self, key: str) -> bool:
        """Whether anything that this task needs, at any distance, ran and did not pass."""
        todo, seen = list(pipeline.needs(self.run, key)), set[str]()
        while todo:
            need = todo.pop()
            if need in seen:
                continue
            seen.add(need)
            if self.run.tasks[f"job/{need}"].verdict not in {Verdict.VALID, Verdict.SKIPPED}:
                return True
            todo += pipeline.needs(self.run, f"job/{need}")
        return False

    def _finish(self) -> None:
        run = self.run
        verdict = pipeline.verdict_of(run.tasks.values())
        last = max(task.attempt for task in run.tasks.values())
        self.events.append(
            PipelineRunFinished(
                **pipeline.facts(run),
                attempt=last,
                outcome=verdict.outcome,
                verdict=verdict,
                problems=run.problems,
                job_seconds=pipeline.seconds_in(run.spans),
            )
        )
        runs = {name: each for name, each in self.state.runs.items() if name != run.run}
        ended = {**self.state.ended, run.run: Ended(asked=run.asked, attempt=last, at=self.now)}
        self.state = self.state.model_copy(update={"runs": runs, "ended": newest(ended)})

    def _keep(self, ended: TaskEnded) -> None:
        key = pipeline.result_key(self.run, ended.task, self.policy.inputs)
        results = {**self.state.results, key: Result(run=ended.run, log=ended.log, at=self.now)}
        self.state = self.state.model_copy(update={"results": newest(results)})

    def _settle(self, key: str, attempt: int, verdict: Verdict, problems: tuple[Problem, ...] = ()) -> None:
        self._set(key, Phase.ENDED, attempt, verdict)
        if problems:
            together = within_bounds((*self.run.problems, *problems))
            self.run = self.run.model_copy(update={"problems": together})

    def _set(self, key: str, phase: Phase, attempt: int, verdict: Verdict | None = None) -> None:
        task = Task(phase=phase, attempt=attempt, verdict=verdict)
        self.run = self.run.model_copy(update={"tasks": {**self.run.tasks, key: task}})

    def _problem_of(self, ended: TaskEnded) -> tuple[Problem, ...]:
        """An error that names no problem is one itself: a refusal without a reason helps nobody."""
        if ended.verdict is Verdict.VALID:
            return ()
        said = ended.reason or "it ended without a word; see its log"
        return (Problem(message=f"{_said(ended.task)}: {said}", check=_said(ended.task)),)

    def _timer(self, key: str) -> str:
        return f"retry {self.run.run} {key}"


def _effect(run: Run, key: str, attempt: int) -> TaskEffect:
    job = run.job(key)
    if job is None:
        return RunCheck(
            run=run.run,
            attempt=attempt,
            task=key,
            change=run.change,
            source_tree=run.source_tree,
            snapshot=run.snapshot,
            manifests=run.manifests,
        )
    return RunJob(
        run=run.run,
        attempt=attempt,
        task=key,
        change=run.change,
        source_tree=run.source_tree,
        snapshot=run.snapshot,
        job=job,
        repo=run.repo,
        target=run.target,
        candidate=run.candidate,
        head=run.head,
    )


def _said(key: str) -> str:
    """The task's name in events: a job's own, or a check's."""
    return key.removeprefix("job/")


def newest(entries: dict[str, E]) -> dict[str, E]:
    """The last 500."""
    if len(entries) <= KEPT:
        return entries
    in_order = sorted(entries, key=lambda name: (entries[name].at, name))
    dropped = set(in_order[: len(entries) - KEPT])
    return {name: entry for name, entry in entries.items() if name not in dropped}
