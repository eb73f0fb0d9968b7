"""Whatever happens in whatever order, every candidate ends once; nothing is built or pushed that nobody waits for."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from towline.delivery.model import Decision, Effect, EffectFailed, Envelope
from towline.events import (
    ArtifactPackaged,
    ArtifactPublished,
    BuildFinished,
    BuildStarted,
    CandidateCreated,
    CandidateSuperseded,
    Event,
    Outcome,
    Problem,
    Purpose,
)
from towline.project.model import MOST_IMAGES, ImageSpec
from towline_image_builder.decide import FRESH, Target, decide
from towline_image_builder.messages import Build, Cancel, ImageBuilt, ImageFailed, ImageLost, ImagePushed, Push
from towline_image_builder.state import BuilderState

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TARGET = Target("registry.example", "team/")
DIGEST = "sha256:" + "d" * 64
REPO = "git.example/shop"
APP, WEB = ImageSpec(name="app"), ImageSpec(name="web", context="web")


def created(
    candidate: str = "c1", purpose: Purpose = Purpose.CHECK, images: tuple[ImageSpec, ...] = (APP,), tree: str = "t1"
) -> CandidateCreated:
    return CandidateCreated(
        repo=REPO,
        change=f"{REPO}!1",
        target="main",
        head="h",
        candidate=candidate,
        base="b",
        source_tree=tree,
        snapshot=f"sha256:{tree}",
        purpose=purpose,
        images_expected=images,
    )


def superseded(candidate: str = "c1") -> CandidateSuperseded:
    about = {"repo": REPO, "change": f"{REPO}!1", "target": "main", "head": "h"}
    return CandidateSuperseded(**about, candidate=candidate, reason="a new head")


class Lane:
    """Feeds events to `decide` as the runtime would, and keeps what came of it."""

    def __init__(self, target: Target | None = TARGET) -> None:
        self.target = target
        self.state = BuilderState()
        self.now = NOW
        self.events: list[Event] = []
        self.pending: dict[str, Effect] = {}
        self.count = 0

    def feed(self, event: Event) -> Decision[BuilderState]:
        self.count += 1
        envelope = Envelope(event, f"e{self.count}", "/test", self.now, REPO)
        decision = decide(self.target, self.state, envelope, self.now)
        assert decision.state is not None
        # As it comes back after a restart.
        self.state = BuilderState.model_validate_json(decision.state.model_dump_json())
        self.events.extend(decision.events)
        for effect in decision.effects:
            self.pending[f"{effect.kind} {effect.build}"] = effect  # type: ignore[attr-defined]
        return decision

    def effects(self, kind: type[Effect]) -> list[Effect]:
        return [each for each in self.pending.values() if isinstance(each, kind)]

    def take(self, kind: type[Effect]) -> str:
        """The one pending effect of this kind is done; the name of its build."""
        (name,) = [name for name, each in self.pending.items() if isinstance(each, kind)]
        return self.pending.pop(name).build  # type: ignore[attr-defined, no-any-return]

    def build(self, *, cached: bool = False, pushed: bool = False, seconds: float = 1.0) -> None:
        done = {"key": "k", "digest": DIGEST, "cached": cached, "pushed": pushed, "seconds": seconds}
        self.feed(ImageBuilt(build=self.take(Build), **done))

    def push(self) -> None:
        self.feed(ImagePushed(build=self.take(Push), seconds=0.5))

    def finished(self) -> BuildFinished:
        (found,) = [each for each in self.events if isinstance(each, BuildFinished)]
        return found

    def said(self) -> list[str]:
        return [type(each).__name__ for each in self.events]


@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_candidate_with_nothing_to_build_ends_at_once(purpose: Purpose) -> None:
    lane = Lane()
    lane.feed(created(purpose=purpose, images=()))

    assert (lane.said(), lane.finished().outcome, lane.pending) == (["BuildFinished"], Outcome.SUCCESS, {})


def test_a_landing_builds_nothing_whatever_it_says() -> None:
    lane = Lane()
    lane.feed(created(purpose=Purpose.LANDING))

    assert lane.said() == ["BuildFinished"]
    assert not lane.pending


def test_a_check_is_built_and_never_pushed() -> None:
    lane = Lane()
    lane.feed(created())
    lane.build()

    assert lane.said() == ["BuildStarted", "ArtifactPackaged", "BuildFinished"]
    assert lane.finished().images[0].reference == f"registry.example/team/app@{DIGEST}"
    assert not lane.pending


def test_a_gate_is_built_pushed_and_then_finished_with_the_time_it_took() -> None:
    lane = Lane()
    lane.feed(created(purpose=Purpose.GATE))
    lane.build(seconds=2.0)
    assert "BuildFinished" not in lane.said()
    lane.push()

    assert lane.said() == ["BuildStarted", "ArtifactPackaged", "ArtifactPublished", "BuildFinished"]
    assert (lane.finished().build_seconds, lane.finished().push_seconds) == (2.0, 0.5)


def test_a_gate_after_its_check_is_not_built_again() -> None:
    lane = Lane()
    lane.feed(created())
    lane.build()
    lane.events.clear()
    lane.feed(created(purpose=Purpose.GATE))

    assert [type(each) for each in lane.pending.values()] == [Push]
    packaged = next(each for each in lane.events if isinstance(each, ArtifactPackaged))
    assert (packaged.cached, packaged.seconds) == (True, 0.0)


def test_a_gate_that_comes_while_its_check_builds_waits_for_that_build() -> None:
    lane = Lane()
    lane.feed(created())
    lane.feed(created(purpose=Purpose.GATE))
    assert len(lane.effects(Build)) == 1
    lane.build()
    lane.push()

    assert Counter(lane.said())["BuildFinished"] == 2


def test_an_image_that_the_registry_holds_is_not_pushed_again() -> None:
    lane = Lane()
    lane.feed(created(purpose=Purpose.GATE))
    lane.build(cached=True, pushed=True, seconds=0.0)

    assert lane.finished().outcome is Outcome.SUCCESS
    assert not lane.pending


def test_what_is_not_fresh_is_looked_up_again() -> None:
    lane = Lane()
    lane.feed(created())
    lane.build()
    lane.now += FRESH + timedelta(seconds=1)
    lane.feed(created("c2"))

    assert len(lane.effects(Build)) == 1


def test_a_new_pin_is_no_new_recipe() -> None:
    lane = Lane()
    lane.feed(created())
    lane.build()
    pinned = ImageSpec.model_validate({"name": "app", "pins": [{"kustomize": "k.yaml", "image": "app"}]})
    lane.feed(created("c2", images=(pinned,)))

    assert not lane.pending


def test_a_failed_image_fails_the_candidate_once_the_others_are_done() -> None:
    lane = Lane()
    lane.feed(created(images=(APP, WEB)))
    app, web = (each.build for each in lane.effects(Build))  # type: ignore[attr-defined]
    problem = Problem(message="RUN false: exit status 1", file="Dockerfile", line=3)
    lane.feed(ImageFailed(build=app, outcome=Outcome.FAILURE, problems=(problem,), log="sha256:log"))
    assert "BuildFinished" not in lane.said()
    lane.feed(ImageBuilt(build=web, key="k", digest=DIGEST))

    finished = lane.finished()
    assert (finished.outcome, finished.problems, finished.log) == (Outcome.FAILURE, (problem,), "sha256:log")
    assert [each.name for each in finished.images] == ["web"]


def test_problems_of_many_images_stay_within_what_an_event_carries() -> None:
    lane = Lane()
    lane.feed(created(images=tuple(ImageSpec(name=f"image-{number}") for number in range(MOST_IMAGES))))
    for build in [each.build for each in lane.effects(Build)]:  # type: ignore[attr-defined]
        problem = Problem(message="x" * 4000, file="y" * 1000)
        lane.feed(ImageFailed(build=build, outcome=Outcome.FAILURE, problems=(problem,)))

    assert 0 < len(lane.finished().problems) < MOST_IMAGES
    assert len(lane.finished().model_dump_json()) < 100_000


def test_a_failure_is_not_remembered() -> None:
    lane = Lane()
    lane.feed(created())
    lane.feed(ImageFailed(build=lane.take(Build), outcome=Outcome.FAILURE))
    lane.feed(created(purpose=Purpose.GATE))

    assert len(lane.effects(Build)) == 1


@pytest.mark.parametrize("kind", [Build, Push])
def test_an_effect_that_was_given_up_ends_the_candidate_in_an_error_with_the_reason(kind: type[Effect]) -> None:
    lane = Lane()
    lane.feed(created(purpose=Purpose.GATE))
    if kind is Push:
        lane.build()
    build = lane.take(kind)
    reason = "registry registry.example refuses the login (401)"
    lane.feed(EffectFailed(effect="x", kind=kind.kind, reason=reason, payload={"build": build}))

    finished = lane.finished()
    assert finished.outcome is Outcome.ERROR
    assert reason in finished.problems[0].message
    assert finished.problems[0].check == "image app"


def test_a_lost_image_is_built_again_and_packaged_once() -> None:
    lane = Lane()
    lane.feed(created(purpose=Purpose.GATE))
    lane.build()
    lane.feed(ImageLost(build=lane.take(Push)))
    lane.build()
    lane.push()

    assert lane.said() == ["BuildStarted", "ArtifactPackaged", "ArtifactPublished", "BuildFinished"]


def test_a_superseded_candidate_ends_at_once_and_its_build_is_cancelled() -> None:
    lane = Lane()
    lane.feed(created(purpose=Purpose.GATE))
    lane.feed(superseded())

    assert lane.finished().outcome is Outcome.CANCEL
    assert len(lane.effects(Cancel)) == 1


def test_a_build_that_another_candidate_waits_for_is_not_cancelled() -> None:
    lane = Lane()
    lane.feed(created())
    lane.feed(created("c2"))
    lane.feed(superseded())

    assert not lane.effects(Cancel)


def test_a_candidate_that_comes_after_the_cancellation_gets_a_build_of_its_own() -> None:
    lane = Lane()
    lane.feed(created())
    lane.feed(superseded())
    lane.feed(created("c2"))
    first = lane.take(Build)
    lane.feed(ImageFailed(build=first, outcome=Outcome.CANCEL))

    (second,) = lane.effects(Build)
    assert second.build != first  # type: ignore[attr-defined]


def test_the_same_candidate_asked_for_again_while_it_is_owed_is_the_same_wait() -> None:
    lane = Lane()
    lane.feed(created())
    lane.feed(created())
    lane.build()

    assert Counter(lane.said()) == {"BuildStarted": 1, "ArtifactPackaged": 1, "BuildFinished": 1}


def test_without_a_registry_a_candidate_with_images_ends_in_an_error_that_says_what_to_set() -> None:
    lane = Lane(target=None)
    lane.feed(created())

    assert lane.finished().outcome is Outcome.ERROR
    assert "image_builder.registry" in lane.finished().problems[0].message


def test_the_same_event_in_the_same_state_is_decided_the_same_way() -> None:
    envelope = Envelope(created(images=(APP, WEB)), "e1", "/test", NOW, REPO)

    assert decide(TARGET, BuilderState(), envelope, NOW) == decide(TARGET, BuilderState(), envelope, NOW)


def test_a_late_result_changes_nothing() -> None:
    lane = Lane()
    lane.feed(created())
    lane.build()
    before, said = lane.state, list(lane.events)
    lane.feed(ImageBuilt(build="unknown#1", key="k", digest=DIGEST))
    lane.feed(ImagePushed(build="unknown#1"))
    lane.feed(ImageLost(build="unknown#1"))

    assert (lane.state, lane.events) == (before, said)


class Candidates(RuleBasedStateMachine):
    """Candidates come, change and go while effects end in any order and in any way."""

    @initialize()
    def start(self) -> None:
        self.lane = Lane()
        self.owed: Counter[tuple[str, Purpose]] = Counter()
        self.settled = 0

    @rule(
        candidate=st.sampled_from(["c1", "c2", "c3"]),
        purpose=st.sampled_from([Purpose.CHECK, Purpose.GATE, Purpose.LANDING]),
        images=st.sampled_from([(), (APP,), (APP, WEB)]),
        tree=st.sampled_from(["t1", "t2"]),
    )
    def create(self, candidate: str, purpose: Purpose, images: tuple[ImageSpec, ...], tree: str) -> None:
        if not self.owed[candidate, purpose]:
            self.owed[candidate, purpose] = 1
        self.lane.feed(created(candidate, purpose, images, tree))
        self.settle()

    @rule(candidate=st.sampled_from(["c1", "c2", "c3"]))
    def supersede(self, candidate: str) -> None:
        self.lane.feed(superseded(candidate))
        self.settle()
        assert not any(count for (name, _), count in self.owed.items() if name == candidate)

    @rule(seconds=st.sampled_from([1, 100_000]))
    def wait(self, seconds: int) -> None:
        self.lane.now += timedelta(seconds=seconds)

    @precondition(lambda self: self.lane.pending)
    @rule(data=st.data(), how=st.integers(0, 3))
    def finish(self, data: st.DataObject, how: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.lane.pending)))
        effect = self.lane.pending.pop(name)
        result = self.result(effect, how)
        if result is not None:
            self.lane.feed(result)
        self.settle()

    def result(self, effect: Effect, how: int) -> Event | None:
        match effect:
            case Build(build=build):
                cancelled = ImageFailed(build=build, outcome=Outcome.CANCEL)
                built = ImageBuilt(build=build, key="k", digest=DIGEST, pushed=how == 1)
                failed = ImageFailed(build=build, outcome=Outcome.FAILURE, problems=(Problem(message="no"),))
                given_up = EffectFailed(effect="x", kind="build", reason="no", payload={"build": build})
                wanted = f"cancel {build}" not in self.lane.pending
                return (built, built, failed, given_up)[how] if wanted else cancelled
            case Push(build=build):
                given_up = EffectFailed(effect="x", kind="push", reason="no", payload={"build": build})
                return (ImagePushed(build=build), ImagePushed(build=build), ImageLost(build=build), given_up)[how]
            case Cancel(build=build):
                if self.lane.pending.pop(f"build {build}", None):
                    return ImageFailed(build=build, outcome=Outcome.CANCEL)
        return None

    def settle(self) -> None:
        for event in self.lane.events[self.settled :]:
            if isinstance(event, BuildFinished):
                self.owed[event.candidate, event.purpose] -= 1
            if isinstance(event, ArtifactPublished):
                assert event.purpose is Purpose.GATE
            if isinstance(event, BuildStarted):
                assert event.purpose is not Purpose.LANDING
        self.settled = len(self.lane.events)

    @invariant()
    def every_candidate_ends_once(self) -> None:
        waiting = {(each.candidate, each.purpose) for each in self.lane.state.candidates.values()}
        assert {name for name, count in self.owed.items() if count} == waiting
        assert all(count in (0, 1) for count in self.owed.values())

    @invariant()
    def a_recipe_is_built_once_at_a_time(self) -> None:
        recipes = Counter(each.build.partition("#")[0] for each in self.lane.effects(Build))  # type: ignore[attr-defined]
        assert not recipes or max(recipes.values()) == 1

    @invariant()
    def whoever_waits_waits_for_something_that_is_under_way(self) -> None:
        under_way = {each.build.partition("#")[0] for each in self.lane.pending.values()}  # type: ignore[attr-defined]
        for candidate in self.lane.state.candidates.values():
            assert any(wanted.recipe in under_way for wanted in candidate.images)

    def teardown(self) -> None:
        if not hasattr(self, "lane"):
            return
        while self.lane.pending:
            _, effect = self.lane.pending.popitem()
            if (result := self.result(effect, 0)) is not None:
                self.lane.feed(result)
        self.settle()
        assert not any(self.owed.values())
        assert not self.lane.state.candidates


TestCandidates = Candidates.TestCase
TestCandidates.settings = settings(max_examples=5 * settings().max_examples, stateful_step_count=12, deadline=None)
