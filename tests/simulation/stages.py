"""Five small stages on the product's own map, and what each of them must have done at the end.

    push ─► git-watcher ─► ci-runner (effect) ─────┐
                     └───► image-builder (timer) ──┴─► git-watcher lands (effect)
                                                          └─► reconciler (forwarded, effect) ─► notifier (effect)

Every state counts what it was told, so that a result or an event that is taken twice shows. The `Ledger` is the world
outside: what effects did there, by their ids. It survives every crash.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from towline import flow
from towline.delivery.model import Decision, Effect, EffectContext, Envelope, Service, Source, State, TimerFired
from towline.events import (
    BuildFinished,
    CandidateCreated,
    ChangeMerged,
    Event,
    Outcome,
    PipelineRunFinished,
    Purpose,
    ServiceDeployed,
    Verdict,
)


class Entry(BaseModel):
    """What a lane knows of one thing; every count is 1 in the end, or something was lost or taken twice."""

    model_config = ConfigDict(frozen=True)
    counts: dict[str, int] = Field(default_factory=dict)
    order: int = 0

    def told(self, what: str) -> Entry:
        return self.model_copy(update={"counts": {**self.counts, what: self.counts.get(what, 0) + 1}})


class Book(State):
    things: dict[str, Entry] = Field(default_factory=dict)

    def told(self, thing: str, what: str) -> Book:
        entry = self.things.get(thing, Entry(order=len(self.things)))
        return self.model_copy(update={"things": {**self.things, thing: entry.told(what)}})


class Work(Effect):
    """Does one thing outside; `thing` is what it is done to."""

    thing: str

    @property
    def resource(self) -> str:
        return f"{self.kind} {len(self.thing) % 2}"


class Run(Work):
    kind: ClassVar[str] = "run"


class Land(Work):
    kind: ClassVar[str] = "land"


class Apply(Work):
    kind: ClassVar[str] = "apply"


class Send(Work):
    """Has nothing to tell when it is done."""

    kind: ClassVar[str] = "send"


class Pushed(Event):
    type: ClassVar[str] = "dev.cdeventsx.towline-sim-pushed.seen.0.1.0"
    repo: str
    head: str

    @property
    def subject(self) -> str:
        return self.head


class Done(Event):
    type: ClassVar[str] = "dev.cdeventsx.towline-sim-work.done.0.1.0"
    kind: str
    thing: str

    @property
    def subject(self) -> str:
        return self.thing


class Merged(Event):
    type: ClassVar[str] = "dev.cdeventsx.towline-sim-merged.seen.0.1.0"
    repo: str
    head: str
    part: str
    change: str

    @property
    def subject(self) -> str:
        return f"{self.head} {self.part}"


@dataclass
class Ledger:
    """Effect id → how often it was done, and (kind, thing) → ids it was done under."""

    times: Counter[str] = field(default_factory=Counter)
    ids: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def write(self, effect: Work, id: str) -> None:
        self.times[id] += 1
        self.ids.setdefault((effect.kind, effect.thing), set()).add(id)


def _about(repo: str, head: str) -> dict[str, Any]:
    return {"repo": repo, "change": f"{repo}!{head}", "target": "main", "head": head, "candidate": head}


def watch(state: Book, envelope: Envelope, _: datetime) -> Decision[Book]:
    match envelope.event:
        case Pushed(repo=repo, head=head):
            made = CandidateCreated(**_about(repo, head), base="b", source_tree="t", snapshot="s", purpose=Purpose.GATE)
            return Decision(state.told(head, "pushed"), (made,))
        case PipelineRunFinished(candidate=head) | BuildFinished(candidate=head):
            after = state.told(head, type(envelope.event).__name__)
            whole = len(after.things[head].counts) == 3
            return Decision(after, effects=(Land(thing=head),) if whole else ())
        case Done(thing=head):
            repo = envelope.key
            merged = ChangeMerged(**_about(repo, head), landed=head, previous="p", source_tree="t")
            return Decision(state.told(head, "landed"), (merged,))
    return Decision(state)


def run(state: Book, envelope: Envelope, _: datetime) -> Decision[Book]:
    match envelope.event:
        case CandidateCreated(candidate=head):
            return Decision(state.told(head, "created"), effects=(Run(thing=head),))
        case Done(thing=head):
            data = _about(envelope.key, head)
            del data["target"]
            ended = PipelineRunFinished(
                **data, source_tree="t", purpose=Purpose.GATE, run=head, outcome=Outcome.SUCCESS, verdict=Verdict.VALID
            )
            return Decision(state.told(head, "ran"), (ended,))
    return Decision(state)


def build(state: Book, envelope: Envelope, now: datetime) -> Decision[Book]:
    match envelope.event:
        case CandidateCreated(candidate=head):
            return Decision(state.told(head, "created"), timers={head: now + timedelta(seconds=0.5)})
        case TimerFired(name=head):
            data = _about(envelope.key, head)
            del data["target"]
            ended = BuildFinished(**data, source_tree="t", purpose=Purpose.GATE, outcome=Outcome.SUCCESS)
            return Decision(state.told(head, "built"), (ended,))
    return Decision(state)


def applications(repo: str) -> tuple[str, ...]:
    """One of the repository's own, and one that all repositories share and that gets two copies of each event."""
    return (f"c/n/{repo}", "c/n/all", "c/n/all")


def to_applications(envelope: Envelope) -> Iterable[tuple[str, Event]]:
    event = envelope.event
    assert isinstance(event, ChangeMerged)
    for number, application in enumerate(applications(event.repo)):
        yield application, Merged(repo=event.repo, head=event.head, part=str(number), change=event.change)


def reconcile(state: Book, envelope: Envelope, _: datetime) -> Decision[Book]:
    match envelope.event:
        case Merged(head=head, part=part):
            thing = f"{envelope.key} {head} {part}"
            return Decision(state.told(thing, "merged"), effects=(Apply(thing=thing),))
        case Done(thing=thing):
            application, head, _part = thing.split(" ")
            repo = head.partition("h")[0]
            deployed = ServiceDeployed(application=application, repo=repo, revision=thing, change=f"{repo}!{head}")
            return Decision(state.told(thing, "applied"), (deployed,))
    return Decision(state)


def notify(state: Book, envelope: Envelope, _: datetime) -> Decision[Book]:
    match envelope.event:
        case ServiceDeployed(revision=thing):
            return Decision(state.told(thing, "deployed"), effects=(Send(thing=thing),))
    return Decision(state)


Do = Callable[[Work, EffectContext], Awaitable[None]]


def stages(do: Do, heads: dict[str, list[str]]) -> list[Service[Book]]:
    """`do` is what an effect does outside; `heads` are pushed per repository in this order, and again after a start."""

    async def tell(effect: Work, context: EffectContext) -> Done:
        await do(effect, context)
        return Done(kind=effect.kind, thing=effect.thing)

    async def send(effect: Work, context: EffectContext) -> None:
        await do(effect, context)

    async def push(source: Source, stopping: asyncio.Event) -> None:
        for repo, pushed in heads.items():
            for head in pushed:
                await source.emit(repo, head, Pushed(repo=repo, head=head))
        await stopping.wait()

    return [
        Service(flow.WATCHER, Book, watch, effects={Land: tell}, inbox=(Pushed, Done), sources=(push,)),
        Service(flow.RUNNER, Book, run, effects={Run: tell}, inbox=(Done,)),
        Service(flow.BUILDER, Book, build),
        Service(
            flow.RECONCILER,
            Book,
            reconcile,
            effects={Apply: tell},
            inbox=(Merged, Done),
            forwards={ChangeMerged: to_applications},
        ),
        Service(flow.NOTIFIER, Book, notify, effects={Send: send}),
    ]


def expected(heads: dict[str, list[str]]) -> dict[str, dict[str, dict[str, int]]]:
    """Service → "<lane> <thing>" → counts, when all is done."""
    book: dict[str, dict[str, dict[str, int]]] = {name: {} for name in flow.SERVICES}
    for repo, pushed in heads.items():
        for head in pushed:
            key = f"{repo} {head}"
            book[flow.WATCHER][key] = {"pushed": 1, "PipelineRunFinished": 1, "BuildFinished": 1, "landed": 1}
            book[flow.RUNNER][key] = {"created": 1, "ran": 1}
            book[flow.BUILDER][key] = {"created": 1, "built": 1}
            for number, application in enumerate(applications(repo)):
                thing = f"{application} {head} {number}"
                book[flow.RECONCILER][f"{application} {thing}"] = {"merged": 1, "applied": 1}
                book[flow.NOTIFIER][f"{application} {thing}"] = {"deployed": 1}
    return book


def expected_effects(heads: dict[str, list[str]]) -> set[tuple[str, str]]:
    book = expected(heads)
    things = {key.partition(" ")[2] for key in book[flow.RECONCILER]}
    pushed = {head for each in heads.values() for head in each}
    return {
        *(("run", head) for head in pushed),
        *(("land", head) for head in pushed),
        *(("apply", thing) for thing in things),
        *(("send", thing) for thing in things),
    }
