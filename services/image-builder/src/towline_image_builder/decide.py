"""The image-builder's decision, by repository: which image to build, which to push, and who has been waiting for it.

Rules that must hold:

- Every candidate ends with exactly one `build.finished`, also with nothing to build, and then at once. The same
  candidate asked for again while it is owed is the same wait; asked for afterwards it is a new one.
- One recipe is built once at a time, however many candidates wait for it.
- Only what a gate candidate waits for is pushed.
- A build that nobody waits for is cancelled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from towline.delivery.model import Decision, Effect, EffectFailed, Envelope
from towline.events import (
    ArtifactPackaged,
    ArtifactPublished,
    BuildFinished,
    BuildStarted,
    BuiltImage,
    CandidateCreated,
    CandidateSuperseded,
    Event,
    Outcome,
    Problem,
    Purpose,
    within_bounds,
)
from towline.ids import digest_of
from towline.project.model import ImageSpec
from towline_image_builder.messages import Build, Cancel, ImageBuilt, ImageFailed, ImageLost, ImagePushed, Push
from towline_image_builder.state import BuilderState, Candidate, Recipe, Stage, Wanted

FRESH = timedelta(days=1)
"""How long a recipe's image is taken without a look: what a base's tag means may have changed since."""
MOST_RECIPES = 64
"""Known images of one repository that nobody waits for; the oldest go first."""
_WORST = (Outcome.ERROR, Outcome.FAILURE, Outcome.SUCCESS)


@dataclass(frozen=True, slots=True)
class Target:
    """Where images go."""

    address: str
    prefix: str = ""

    def repository(self, image: str) -> str:
        return f"{self.prefix}{image}"


def recipe_of(target: Target, source_tree: str, image: ImageSpec) -> str:
    """The name of what is built for where: all that goes into it but the bases, which only a look can tell."""
    return digest_of(target.address, target.prefix, source_tree, image.model_dump_json(exclude={"pins"}))[:32]


def decide(target: Target | None, state: BuilderState, envelope: Envelope, now: datetime) -> Decision[BuilderState]:
    turn = _Turn(target, envelope.key, now, state)
    match envelope.event:
        case CandidateCreated() as event:
            turn.create(event)
        case CandidateSuperseded() as event:
            turn.supersede(event)
        case ImageBuilt() as event:
            turn.built(event)
        case ImageFailed() as event:
            turn.failed(event.build, event.outcome, event.problems, event.log, event.seconds)
        case ImagePushed() as event:
            turn.pushed(event)
        case ImageLost() as event:
            turn.lost(event)
        case EffectFailed() as event if event.kind in (Build.kind, Push.kind):
            turn.given_up(event)
    return turn.decision()


@dataclass
class _Turn:
    """One decision in the making. `repo` is the lane's key."""

    target: Target | None
    repo: str
    now: datetime
    before: BuilderState
    events: list[Event] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.candidates = dict(self.before.candidates)
        self.recipes = dict(self.before.recipes)
        self.started = self.before.started

    def decision(self) -> Decision[BuilderState]:
        same = self.candidates == self.before.candidates and self.recipes == self.before.recipes
        if same and self.started == self.before.started:
            return Decision(self.before, tuple(self.events), tuple(self.effects))
        after = BuilderState(candidates=self.candidates, recipes=self.recipes, started=self.started)
        return Decision(after, tuple(self.events), tuple(self.effects))

    # -- what comes in ------------------------------------------------------------------------------------------

    def create(self, event: CandidateCreated) -> None:
        name = f"{event.purpose} {event.candidate}"
        if name in self.candidates:
            return
        images = () if event.purpose is Purpose.LANDING else event.images_expected
        candidate = Candidate(
            change=event.change,
            candidate=event.candidate,
            head=event.head,
            source_tree=event.source_tree,
            purpose=event.purpose,
        )
        if not images:
            self._say_finished(candidate)
            return
        self.events.append(BuildStarted(**self._of(candidate)))
        if self.target is None:
            said = "no registry is set to push images to; set image_builder.registry.address"
            self._say_finished(candidate, Outcome.ERROR, (Problem(message=said),))
            return
        wanted = tuple(self._want(self.target, event, image) for image in images)
        self.candidates[name] = candidate.model_copy(update={"images": wanted})
        self._settle()
        self._forget_old()

    def supersede(self, event: CandidateSuperseded) -> None:
        gone = [name for name, each in sorted(self.candidates.items()) if each.candidate == event.candidate]
        for name in gone:
            self._say_finished(self.candidates.pop(name), Outcome.CANCEL)
        needed = {wanted.recipe for each in self.candidates.values() for wanted in each.images}
        for name in gone:
            for wanted in self.before.candidates[name].images:
                recipe = self.recipes.get(wanted.recipe)
                if recipe is not None and recipe.stage is Stage.BUILDING and wanted.recipe not in needed:
                    self.effects.append(Cancel(build=f"{wanted.recipe}#{recipe.number}"))

    def built(self, event: ImageBuilt) -> None:
        found = self._current(event.build, Stage.BUILDING)
        if found is None:
            return
        stage = Stage.PUSHED if event.pushed else Stage.BUILT
        done = {"stage": stage, "key": event.key, "digest": event.digest}
        self.recipes[found] = self.recipes[found].model_copy(update=done)
        for name, candidate in self._waiting_for(found):
            log = candidate.log or event.log
            seconds = candidate.build_seconds + event.seconds
            self.candidates[name] = candidate.model_copy(update={"log": log, "build_seconds": seconds})
        self._settle(cached=event.cached, seconds=event.seconds)

    def failed(
        self, build: str, outcome: Outcome, problems: tuple[Problem, ...], log: str | None = None, seconds: float = 0.0
    ) -> None:
        found = self._current(build, Stage.BUILDING)
        if found is None:
            return
        recipe = self.recipes.pop(found)
        waiting = self._waiting_for(found)
        if outcome is Outcome.CANCEL:
            if waiting:  # somebody came after the cancellation was decided
                self._build(found, recipe)
            return
        for name, candidate in waiting:
            self.candidates[name] = candidate.model_copy(
                update={"log": log or candidate.log, "build_seconds": candidate.build_seconds + seconds}
            )
        self._fail(found, outcome, problems)
        self._settle()

    def pushed(self, event: ImagePushed) -> None:
        found = self._current(event.build, Stage.PUSHING)
        if found is None:
            return
        self.recipes[found] = self.recipes[found].model_copy(update={"stage": Stage.PUSHED})
        for name, candidate in self._waiting_for(found):
            seconds = candidate.push_seconds + event.seconds
            self.candidates[name] = candidate.model_copy(update={"push_seconds": seconds})
        self._settle(seconds=event.seconds)

    def lost(self, event: ImageLost) -> None:
        found = self._current(event.build, Stage.PUSHING)
        if found is None:
            return
        recipe = self.recipes.pop(found)
        if self._waiting_for(found):
            self._build(found, recipe)

    def given_up(self, event: EffectFailed) -> None:
        """The effect could not be done at all: nobody's change is to blame, and nothing is known of the image."""
        build = str(event.payload.get("build", ""))
        recipe = self.recipes.get(build.partition("#")[0])
        if recipe is None:
            return
        said = f"the image could not be {'built' if event.kind == Build.kind else 'pushed'}: {event.reason}"
        problem = Problem(message=said, check=f"image {recipe.image.name}")
        if event.kind == Build.kind:
            self.failed(build, Outcome.ERROR, (problem,))
        elif found := self._current(build, Stage.PUSHING):
            self.recipes[found] = self.recipes[found].model_copy(update={"stage": Stage.BUILT})
            self._fail(found, Outcome.ERROR, (problem,))
            self._settle()

    # -- what follows from it -----------------------------------------------------------------------------------

    def _want(self, target: Target, event: CandidateCreated, image: ImageSpec) -> Wanted:
        name = recipe_of(target, event.source_tree, image)
        recipe = self.recipes.get(name)
        idle = recipe is not None and recipe.stage in (Stage.BUILT, Stage.PUSHED)
        if recipe is None or (idle and self.now - recipe.since > FRESH):
            fresh = Recipe(
                image=image,
                source_tree=event.source_tree,
                snapshot=event.snapshot,
                change=event.change,
                registry=target.address,
                repository=target.repository(image.name),
                number=0,
                since=self.now,
            )
            self._build(name, fresh)
        return Wanted(recipe=name, name=image.name)

    def _build(self, name: str, recipe: Recipe) -> None:
        self.started += 1
        update = {"stage": Stage.BUILDING, "number": self.started, "since": self.now, "key": "", "digest": ""}
        self.recipes[name] = recipe.model_copy(update=update)
        effect = Build(
            build=f"{name}#{self.started}",
            change=recipe.change,
            source_tree=recipe.source_tree,
            snapshot=recipe.snapshot,
            image=recipe.image,
            repository=recipe.repository,
        )
        self.effects.append(effect)

    def _settle(self, *, cached: bool = True, seconds: float = 0.0) -> None:
        """Tell every candidate what has become true for it, start pushes that are due, end whose wait is over.

        `cached` and `seconds` are of what has just been done; who comes later finds it there, in no time.
        """
        for name, candidate in sorted(self.candidates.items()):
            images = tuple(self._settled(candidate, wanted, cached, seconds) for wanted in candidate.images)
            after = candidate.model_copy(update={"images": images}) if images != candidate.images else candidate
            if all(self._is_over(after, wanted) for wanted in images):
                del self.candidates[name]
                self._say_finished(after)
            else:
                self.candidates[name] = after

    def _settled(self, candidate: Candidate, wanted: Wanted, cached: bool, seconds: float) -> Wanted:
        recipe = self.recipes.get(wanted.recipe)
        if recipe is None or recipe.stage is Stage.BUILDING or wanted.failed:
            return wanted
        image = self._image(wanted, recipe)
        if not wanted.packaged:
            said = ArtifactPackaged(**self._of(candidate), image=image, cached=cached, seconds=seconds)
            self.events.append(said)
            wanted = wanted.model_copy(update={"packaged": True})
        if candidate.purpose is Purpose.GATE and not wanted.published:
            if recipe.stage is Stage.PUSHED:
                self.events.append(ArtifactPublished(**self._of(candidate), image=image, seconds=seconds))
                wanted = wanted.model_copy(update={"published": True})
            elif recipe.stage is Stage.BUILT:
                self._push(wanted.recipe, recipe)
        return wanted

    def _push(self, name: str, recipe: Recipe) -> None:
        self.recipes[name] = recipe.model_copy(update={"stage": Stage.PUSHING})
        effect = Push(
            build=f"{name}#{recipe.number}",
            change=recipe.change,
            key=recipe.key,
            digest=recipe.digest,
            registry=recipe.registry,
            repository=recipe.repository,
        )
        self.effects.append(effect)

    def _fail(self, recipe: str, outcome: Outcome, problems: tuple[Problem, ...]) -> None:
        for name, candidate in self._waiting_for(recipe):
            images = tuple(
                each.model_copy(update={"failed": True}) if each.recipe == recipe else each for each in candidate.images
            )
            update = {
                "images": images,
                "problems": within_bounds((*candidate.problems, *problems)),
                "outcome": min(candidate.outcome, outcome, key=_WORST.index),
            }
            self.candidates[name] = candidate.model_copy(update=update)

    def _say_finished(
        self, candidate: Candidate, outcome: Outcome | None = None, problems: tuple[Problem, ...] = ()
    ) -> None:
        images = [
            self._image(wanted, self.recipes[wanted.recipe])
            for wanted in candidate.images
            if wanted.packaged and not wanted.failed and wanted.recipe in self.recipes
        ]
        finished = BuildFinished(
            **self._of(candidate),
            outcome=outcome or candidate.outcome,
            images=tuple(images) if outcome is None else (),
            problems=within_bounds((*candidate.problems, *problems)),
            log=candidate.log,
            build_seconds=candidate.build_seconds,
            push_seconds=candidate.push_seconds,
        )
        self.events.append(finished)

    # -- small questions ----------------------------------------------------------------------------------------

    def _current(self, build: str, stage: Stage) -> str | None:
        """The recipe that this result is about, when it is still at that stage of that start."""
        name, _, number = build.partition("#")
        recipe = self.recipes.get(name)
        return name if recipe and recipe.stage is stage and number == str(recipe.number) else None

    def _waiting_for(self, recipe: str) -> list[tuple[str, Candidate]]:
        return [
            (name, each)
            for name, each in sorted(self.candidates.items())
            if any(w.recipe == recipe and not self._is_over(each, w) for w in each.images)
        ]

    def _is_over(self, candidate: Candidate, wanted: Wanted) -> bool:
        return wanted.failed or (wanted.published if candidate.purpose is Purpose.GATE else wanted.packaged)

    def _image(self, wanted: Wanted, recipe: Recipe) -> BuiltImage:
        return BuiltImage(name=wanted.name, repository=f"{recipe.registry}/{recipe.repository}", digest=recipe.digest)

    def _forget_old(self) -> None:
        needed = {wanted.recipe for each in self.candidates.values() for wanted in each.images}
        idle = [
            name
            for name, each in self.recipes.items()
            if name not in needed and each.stage in (Stage.BUILT, Stage.PUSHED)
        ]
        idle.sort(key=lambda name: (self.recipes[name].since, name))
        for name in idle[: max(0, len(idle) - MOST_RECIPES)]:
            del self.recipes[name]

    def _of(self, candidate: Candidate) -> dict[str, str | Purpose]:
        """The fields that every event of a candidate's build carries."""
        return {
            "repo": self.repo,
            "change": candidate.change,
            "candidate": candidate.candidate,
            "head": candidate.head,
            "source_tree": candidate.source_tree,
            "purpose": candidate.purpose,
        }
