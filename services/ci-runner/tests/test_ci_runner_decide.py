"""The decision: which tasks run, what they come to, and that each candidate gets one verdict in every history."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from towline.bus.port import MAX_RECORD_BYTES
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
    Purpose,
    TaskRunFinished,
    TaskRunStarted,
    Verdict,
)
from towline.project.model import MOST_JOBS, Job, When
from towline.project.read import MAX_RESOLVED_BYTES
from towline_ci_runner.decide import Policy, decide, newest
from towline_ci_runner.messages import CancelRun, RunCheck, RunJob, TaskEffect, TaskEnded
from towline_ci_runner.state import KEPT, MOST_TRIES, Result, RunnerState

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
POLICY = Policy("kubernetes 1.37")


def job(name: str, *needs: str, when: When | None = None) -> Job:
    return Job(name=name, run=(f"make {name}",), needs=needs, when=when or When())


def candidate(*jobs: Job, letter: str = "a", **more: object) -> CandidateCreated:
    return CandidateCreated.model_validate(
        {
            "repo": "local/app",
            "change": "local/app!topic",
            "target": "main",
            "head": letter * 40,
            "candidate": letter * 40,
            "base": "0" * 40,
            "source_tree": letter * 40,
            "snapshot": "sha256:" + "1" * 64,
            "purpose": Purpose.CHECK,
            "jobs": jobs,
            **more,
        }
    )


def superseded(event: CandidateCreated) -> CandidateSuperseded:
    shared = event.model_dump(include={"repo", "change", "target", "head", "candidate"})
    return CandidateSuperseded(**shared, reason="a new head was pushed")


class Lane:
    """One repository's lane without a bus: decides, keeps what left, and answers effects when it is told to."""

    def __init__(self) -> None:
        self.state = RunnerState()
        self.now = NOW
        self.events: list[Event] = []
        self.open: list[TaskEffect] = []
        self.cancelled: list[CancelRun] = []
        self.timers: dict[str, datetime] = {}
        self._count = 0

    def take(self, event: Event, id: str | None = None) -> Decision[RunnerState]:
        self._count += 1
        envelope = Envelope(event, id or f"event-{self._count}", "towline/test", self.now, "local/app")
        decision = decide(POLICY, self.state, envelope, self.now)
        assert decision == decide(POLICY, self.state, envelope, self.now)
        assert decision.state is not None
        self.state = RunnerState.model_validate_json(decision.state.model_dump_json())  # as it comes back from the bus
        self.events += decision.events
        for effect in decision.effects:
            self._start(effect)
        for name, due in decision.timers.items():
            if due is None:
                self.timers.pop(name, None)
            else:
                self.timers[name] = due
        return decision

    def _start(self, effect: Effect) -> None:
        if isinstance(effect, CancelRun):
            self.cancelled.append(effect)
        else:
            assert isinstance(effect, TaskEffect)
            self.open.append(effect)

    def answer(self, task: str, verdict: Verdict = Verdict.VALID, **more: object) -> None:
        effect = next(effect for effect in self.open if effect.task == task)
        self.open.remove(effect)
        self.take(ended(effect, verdict, **more))

    def answer_all(self) -> None:
        while self.open:
            self.answer(self.open[0].task)

    def ring(self, name: str) -> None:
        due = self.timers.pop(name)
        self.now = max(self.now, due)
        self.take(TimerFired(name=name, due=due))

    @property
    def running(self) -> set[str]:
        return {effect.task for effect in self.open}

    @property
    def finished(self) -> list[PipelineRunFinished]:
        return [event for event in self.events if isinstance(event, PipelineRunFinished)]

    def tasks(self) -> dict[str, TaskRunFinished]:
        return {event.task: event for event in self.events if isinstance(event, TaskRunFinished)}


def ended(effect: TaskEffect, verdict: Verdict, **more: object) -> TaskEnded:
    basis = {"run": effect.run, "attempt": effect.attempt, "task": effect.task, "verdict": verdict}
    return TaskEnded.model_validate({**basis, **more})


@pytest.fixture
def lane() -> Lane:
    return Lane()


def test_a_candidate_starts_its_checks_and_the_jobs_that_need_nothing(lane: Lane) -> None:
    lane.take(candidate(job("build"), job("test", "build")))
    assert lane.running == {"configuration", "lint", "job/build"}
    assert [type(event) for event in lane.events[:2]] == [PipelineRunQueued, PipelineRunStarted]
    lane.answer("job/build")
    assert "job/test" in lane.running
    lane.answer_all()
    (finished,) = lane.finished
    assert (finished.verdict, finished.outcome, finished.attempt) == (Verdict.VALID, Outcome.SUCCESS, 1)
    assert lane.state.runs == {}


def test_what_needs_a_failed_job_is_skipped_and_the_pipeline_fails(lane: Lane) -> None:
    lane.take(candidate(job("build"), job("test", "build"), job("ship", "test"), job("docs")))
    problem = Problem(message="it does not compile", check="build")
    lane.answer("job/build", Verdict.INVALID, problems=(problem,), exit_code=1)
    lane.answer_all()
    (finished,) = lane.finished
    assert (finished.verdict, finished.outcome, finished.problems) == (Verdict.INVALID, Outcome.FAILURE, (problem,))
    told = lane.tasks()
    assert (told["test"].verdict, told["test"].outcome) == (Verdict.SKIPPED, Outcome.FAILURE)
    assert told["test"].reason == "it needs build, which did not pass"
    assert told["ship"].reason == "it needs test, which was skipped"
    assert told["ship"].outcome is Outcome.FAILURE
    assert told["docs"].verdict is Verdict.VALID


def test_what_its_when_skips_does_no_harm_and_neither_does_what_needs_it(lane: Lane) -> None:
    docs = job("docs", when=When(paths=("docs/**",)))
    lane.take(candidate(docs, job("publish", "docs"), job("test"), changed_paths=("src/app.py",)))
    assert lane.running == {"configuration", "lint", "job/test"}
    lane.answer_all()
    assert lane.finished[0].verdict is Verdict.VALID
    told = lane.tasks()
    assert told["docs"].reason == "no changed file matches its when.paths"
    assert {told[name].outcome for name in ("docs", "publish")} == {Outcome.SUCCESS}
    assert {told[name].verdict for name in ("docs", "publish")} == {Verdict.SKIPPED}


@pytest.mark.parametrize(
    ("when", "changed", "target", "runs"),
    [
        (When(paths=("src/**",)), ("src/a/b.py",), "main", True),
        (When(paths=("src/**",)), ("source/b.py",), "main", False),
        (When(paths=("*.py",)), ("a/b.py",), "main", False),
        (When(paths=("**/*.py",)), ("b.py",), "main", True),
        (When(paths=("**/*.py",)), ("a/b/c.py",), "main", True),
        (When(paths=("docs/",)), ("docs/a/b.md",), "main", True),
        (When(paths=("src/**",)), None, "main", True),
        (When(paths=("src/**",)), (), "main", False),
        (When(branches=("release/*",)), ("x",), "release/1", True),
        (When(branches=("release/*",)), ("x",), "main", False),
        (When(branches=("main",), paths=("x",)), ("y",), "main", False),
        (When(paths=("*a" * 128,) * 60), ("a" * 1000 + "b",) * 60, "main", False),
        (When(paths=("a/" * 127 + "x",) * 20), ("a/" * 500 + "b",) * 20, "main", True),  # too many to compare
    ],
)
def test_when_looks_at_changed_paths_and_target(
    lane: Lane, when: When, changed: tuple[str, ...] | None, target: str, runs: bool
) -> None:
    lane.take(candidate(job("test", when=when), changed_paths=changed, target=target))
    assert ("job/test" in lane.running) is runs


def test_for_landing_only_the_built_in_checks_run(lane: Lane) -> None:
    lane.take(candidate(job("test"), purpose=Purpose.LANDING))
    assert lane.running == {"configuration", "lint"}


def test_a_job_may_be_called_like_a_check(lane: Lane) -> None:
    lane.take(candidate(job("lint")))
    assert lane.running == {"configuration", "lint", "job/lint"}
    lane.answer("job/lint", Verdict.INVALID)
    lane.answer_all()
    assert lane.finished[0].verdict is Verdict.INVALID


def test_a_superseded_candidate_is_cancelled_and_late_results_change_nothing(lane: Lane) -> None:
    event = candidate(job("test"))
    lane.take(event)
    late = lane.open[-1]
    lane.take(superseded(event))
    (finished,) = lane.finished
    assert (finished.verdict, finished.outcome) == (Verdict.CANCELLED, Outcome.CANCEL)
    assert [cancel.run for cancel in lane.cancelled] == [late.run]
    assert {event.outcome for event in lane.tasks().values()} == {Outcome.CANCEL}
    before = lane.state
    assert lane.take(ended(late, Verdict.VALID)).state == before
    lane.take(superseded(event))
    assert len(lane.finished) == 1


def test_a_candidate_asked_for_again_after_its_end_runs_again_with_later_attempts(lane: Lane) -> None:
    event = candidate(job("test"))
    lane.take(event, "first")
    lane.answer("configuration")
    lane.take(superseded(event))
    lane.open.clear()
    lane.take(event, "first")
    assert lane.open == []
    lane.take(event, "second")
    assert {(effect.task, effect.attempt) for effect in lane.open} == {("lint", 2), ("job/test", 2)}
    lane.answer_all()
    assert [finished.verdict for finished in lane.finished] == [Verdict.CANCELLED, Verdict.VALID]
    assert lane.cancelled[0].attempt == 1


def test_the_same_candidate_for_another_purpose_is_a_run_of_its_own_and_uses_the_results(lane: Lane) -> None:
    event = candidate(job("test"))
    lane.take(event)
    lane.answer_all()
    lane.take(event.model_copy(update={"purpose": Purpose.GATE}))
    assert lane.open == []
    first, second = lane.finished
    assert first.run != second.run
    assert second.verdict is Verdict.VALID
    assert lane.tasks()["test"].reason == f"the same was valid in run {first.run}"


def test_an_equal_tree_of_another_candidate_is_answered_without_running(lane: Lane) -> None:
    lane.take(candidate(job("test")))
    lane.answer("job/test", log="sha256:" + "2" * 64)
    lane.answer_all()
    other = candidate(job("test"), letter="b", source_tree="a" * 40)
    decision = lane.take(other)
    assert decision.effects == ()
    assert lane.tasks()["test"].log == "sha256:" + "2" * 64
    assert lane.finished[-1].candidate == "b" * 40


@pytest.mark.parametrize("change", [{"source_tree": "c" * 40}, {"jobs": (job("other"),)}])
def test_another_tree_or_another_job_is_run(lane: Lane, change: dict[str, object]) -> None:
    lane.take(candidate(job("test")))
    lane.answer_all()
    lane.take(candidate(job("test"), letter="b", **{"source_tree": "a" * 40, **change}))
    assert lane.running


def test_a_failed_job_is_run_again_when_it_is_asked_for_again(lane: Lane) -> None:
    lane.take(candidate(job("test")))
    lane.answer("job/test", Verdict.INVALID)
    lane.answer_all()
    lane.take(candidate(job("test"), letter="b", source_tree="a" * 40))
    assert lane.running == {"job/test"}


def test_a_failure_of_the_infrastructure_is_tried_again_up_to_three_times(lane: Lane) -> None:
    lane.take(candidate(job("test")))
    lane.answer("configuration")
    lane.answer("lint")
    for attempt in range(1, MOST_TRIES + 1):
        assert [effect.attempt for effect in lane.open] == [attempt]
        lane.answer("job/test", Verdict.ERROR, infrastructure=True, reason="the disk is full")
        if attempt < MOST_TRIES:
            assert lane.open == []
            lane.ring(next(iter(lane.timers)))
    (finished,) = lane.finished
    assert (finished.verdict, finished.outcome, finished.attempt) == (Verdict.ERROR, Outcome.ERROR, 3)
    assert finished.problems == (Problem(message="test: the disk is full", check="test"),)
    assert [event.attempt for event in lane.events if isinstance(event, TaskRunStarted) and event.task == "test"] == [
        1,
        2,
        3,
    ]


def test_an_error_of_the_check_itself_is_not_tried_again(lane: Lane) -> None:
    lane.take(candidate())
    lane.answer("configuration", Verdict.ERROR, reason="it took longer than 20 s")
    lane.answer("lint")
    assert lane.finished[0].verdict is Verdict.ERROR
    assert lane.timers == {}


def test_an_effect_without_a_result_counts_as_a_failure_of_the_infrastructure(lane: Lane) -> None:
    lane.take(candidate())
    effect = lane.open[0]
    lane.take(
        EffectFailed(effect="effect-1", kind=RunCheck.kind, reason="a bug", payload=effect.model_dump(mode="json"))
    )
    assert list(lane.timers.values()) == [NOW + timedelta(seconds=2)]


def test_cancelling_stops_the_wait_for_another_attempt(lane: Lane) -> None:
    event = candidate()
    lane.take(event)
    lane.answer("lint", Verdict.ERROR, infrastructure=True)
    lane.take(superseded(event))
    assert lane.timers == {}


def test_time_in_jobs_that_overlap_is_counted_once(lane: Lane) -> None:
    lane.take(candidate(job("one"), job("two"), job("three")))
    lane.answer("job/one", started=NOW, seconds=10.0)
    lane.answer("job/two", started=NOW + timedelta(seconds=5), seconds=10.0)
    lane.answer("job/three", started=NOW + timedelta(seconds=20), seconds=1.0)
    lane.answer("lint", started=NOW, seconds=100.0)
    lane.answer_all()
    assert lane.finished[0].job_seconds == pytest.approx(16.0)


def test_the_largest_pipeline_stays_within_what_a_record_carries(lane: Lane) -> None:
    """Every job with a long name, waited for, tried three times and wrong: a row of state, an event in the outbox."""
    names = [f"{number:063}" for number in range(MOST_JOBS)]
    filler = "x" * (MAX_RESOLVED_BYTES // MOST_JOBS - 320)
    first, *others = (
        Job(name=name, run=(name + filler,), needs=() if name == names[0] else names[:1]) for name in names
    )
    event = candidate(first, *others)
    assert len(event.model_dump_json()) <= MAX_RESOLVED_BYTES + 2000
    lane.take(event)
    lane.answer("configuration", Verdict.INVALID, problems=(Problem(message="x" * 2000),) * 50)
    lane.answer(f"job/{first.name}", started=NOW, seconds=1.0)
    for _ in range(MOST_TRIES):
        for each in others:
            more = {"reason": "x" * 500, "infrastructure": True, "started": NOW, "seconds": 1.0}
            lane.answer(f"job/{each.name}", Verdict.ERROR, **more)
        for name in list(lane.timers):
            lane.ring(name)
    [run] = lane.state.runs.values()
    assert len(run.model_dump_json(exclude_defaults=True)) < MAX_RECORD_BYTES


def test_problems_stay_within_what_an_event_carries(lane: Lane) -> None:
    lane.take(candidate(job("test")))
    many = tuple(Problem(message="x" * 2000, file=f"file-{n}") for n in range(60))
    lane.answer("configuration", Verdict.INVALID, problems=many)
    lane.answer("job/test", Verdict.INVALID, problems=many)
    lane.answer_all()
    (finished,) = lane.finished
    assert 0 < len(finished.problems) <= 50
    assert len(finished.model_dump_json()) < 100_000


def test_needs_that_can_never_end_are_an_error_and_not_a_wait(lane: Lane) -> None:
    lane.take(candidate(job("a", "b"), job("b", "a")))
    lane.answer_all()
    assert lane.finished[0].verdict is Verdict.ERROR


def test_only_the_newest_results_are_kept() -> None:
    results = {str(n): Result(run="r", at=NOW + timedelta(seconds=n)) for n in range(KEPT + 3)}
    kept = newest(results)
    assert len(kept) == KEPT
    assert "2" not in kept
    assert "3" in kept


PIPELINES = (
    (),
    (job("a"),),
    (job("a"), job("b", "a"), job("c", "a"), job("d", "b", "c")),
    (job("a", when=When(paths=("docs/**",))), job("b", "a"), job("c")),
)
VERDICTS = st.sampled_from([Verdict.VALID, Verdict.VALID, Verdict.INVALID, Verdict.ERROR])
ROOT_CAUSES = {Verdict.VALID, Verdict.SKIPPED}


class Histories(RuleBasedStateMachine):
    """Candidates, duplicates, supersedings, results in any order, late ones, failures of the infrastructure, timers."""

    def __init__(self) -> None:
        super().__init__()
        self.lane = Lane()
        self.asked: list[tuple[CandidateCreated, str]] = []
        self.begun: Counter[str] = Counter()
        self.answered: list[TaskEnded] = []

    @rule(
        letter=st.sampled_from("ab"),
        jobs=st.sampled_from(PIPELINES),
        purpose=st.sampled_from([Purpose.CHECK, Purpose.GATE, Purpose.LANDING]),
    )
    def ask(self, letter: str, jobs: tuple[Job, ...], purpose: Purpose) -> None:
        event = candidate(*jobs, letter=letter, purpose=purpose, changed_paths=("src/x",))
        id = f"asked-{len(self.asked)}"
        self.asked.append((event, id))
        for started in self.lane.take(event, id).events:
            if isinstance(started, PipelineRunStarted):
                self.begun[started.run] += 1

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def ask_a_second_time_by_redelivery(self, data: st.DataObject) -> None:
        event, id = data.draw(st.sampled_from(self.asked[-10:]))
        before = self.lane.state
        decision = self.lane.take(event, id)
        assert (decision.events, decision.effects) == ((), ())
        assert self.lane.state == before

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def supersede(self, data: st.DataObject) -> None:
        event, _ = data.draw(st.sampled_from(self.asked))
        self.lane.take(superseded(event))
        assert not any(run.candidate == event.candidate for run in self.lane.state.runs.values())

    @precondition(lambda self: self.lane.open)
    @rule(data=st.data(), verdict=VERDICTS, infrastructure=st.booleans())
    def end(self, data: st.DataObject, verdict: Verdict, infrastructure: bool) -> None:
        effect = data.draw(st.sampled_from(self.lane.open))
        self.lane.open.remove(effect)
        result = ended(effect, verdict, infrastructure=infrastructure and verdict is Verdict.ERROR)
        self.answered.append(result)
        self.lane.take(result)

    @precondition(lambda self: self.answered)
    @rule(data=st.data(), verdict=VERDICTS)
    def end_a_second_time(self, data: st.DataObject, verdict: Verdict) -> None:
        result = data.draw(st.sampled_from(self.answered[-10:])).model_copy(update={"verdict": verdict})
        before = self.lane.state
        assert self.lane.take(result).events == ()
        assert self.lane.state == before

    @precondition(lambda self: self.lane.timers)
    @rule(data=st.data())
    def ring(self, data: st.DataObject) -> None:
        self.lane.ring(data.draw(st.sampled_from(sorted(self.lane.timers))))

    @invariant()
    def each_run_that_began_finishes_once(self) -> None:
        ends = Counter(event.run for event in self.lane.finished)
        for run, begun in self.begun.items():
            assert ends[run] == begun - (run in self.lane.state.runs)

    @invariant()
    def each_attempt_has_one_start_and_at_most_one_end(self) -> None:
        starts = Counter((e.run, e.attempt, e.task) for e in self.lane.events if isinstance(e, TaskRunStarted))
        ends = Counter((e.run, e.attempt, e.task) for e in self.lane.events if isinstance(e, TaskRunFinished))
        assert set(starts.values()) <= {1}
        assert set(ends.values()) <= {1}

    @invariant()
    def nothing_runs_whose_needs_have_not_passed(self) -> None:
        for effect in self.lane.open:
            run = self.lane.state.runs.get(effect.run)
            if run is not None and isinstance(effect, RunJob) and run.tasks[effect.task].attempt == effect.attempt:
                assert all(run.tasks[f"job/{need}"].verdict is Verdict.VALID for need in effect.job.needs)

    @invariant()
    def no_run_is_stuck(self) -> None:
        for name, run in self.lane.state.runs.items():
            waits = any(effect.run == name for effect in self.lane.open)
            assert waits or any(timer.startswith(f"retry {name} ") for timer in self.lane.timers), run

    def teardown(self) -> None:
        while self.lane.open or self.lane.timers:
            self.lane.answer_all()
            for name in sorted(self.lane.timers):
                self.lane.ring(name)
        assert self.lane.state.runs == {}
        self.each_run_that_began_finishes_once()
        last: dict[tuple[str, str], Verdict] = {}
        for event in self.lane.events:
            if isinstance(event, PipelineRunStarted):
                last = {key: verdict for key, verdict in last.items() if key[0] != event.run}
            if isinstance(event, TaskRunFinished):
                last[event.run, event.task] = event.verdict
            if isinstance(event, PipelineRunFinished) and event.verdict is Verdict.VALID:
                assert {verdict for (run, _), verdict in last.items() if run == event.run} <= ROOT_CAUSES


Histories.TestCase.settings = settings(max_examples=5 * settings().max_examples, stateful_step_count=20)
TestHistories = Histories.TestCase
