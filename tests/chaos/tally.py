"""The small service that the faults strike: it counts numbers, and everything it counts can be checked from outside.

    Number, Asked, Ticked ─► told in state ─► Said ─► the results topic
                                   │
                                   ├─ Write (effect, every number) ─► the ledger ─► Written (odd numbers) ─► told, Said
                                   └─ a timer (every third number) ─► told, Said

`Number` comes by a fact topic, `Asked` by the inbox, `Ticked` from the service's own source, so one key is fed by two
topics of one partition. Rule: `expected` is written down without the runtime, from the numbers alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from operator import attrgetter
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from towline import flow
from towline.delivery.model import Decision, Effect, Envelope, State, TimerFired
from towline.events.base import Event

FACT, ASKED, TICK, WRITTEN, RUNG = "fact", "asked", "tick", "written", "rung"
RINGS_AFTER = timedelta(milliseconds=300)


class Number(Event):
    type: ClassVar[str] = "dev.cdeventsx.towline-chaos-number.seen.0.1.0"
    key: str
    n: int
    poison: bool = Field(False, description="A version with the bug cannot decide on it.")
    pad: int = Field(0, description="Bytes that the state keeps for it.")

    @property
    def subject(self) -> str:
        return f"{self.key} {self.n}"


class Asked(Event):
    type: ClassVar[str] = "dev.cdeventsx.towline-chaos-number.asked.0.1.0"
    n: int

    @property
    def subject(self) -> str:
        return str(self.n)


class Ticked(Event):
    type: ClassVar[str] = "dev.cdeventsx.towline-chaos-number.ticked.0.1.0"
    n: int

    @property
    def subject(self) -> str:
        return str(self.n)


class Written(Event):
    """The ledger has it: what the effect tells."""

    type: ClassVar[str] = "dev.cdeventsx.towline-chaos-number.written.0.1.0"
    thing: str

    @property
    def subject(self) -> str:
        return self.thing


class Said(Event):
    """One result for everything that was told."""

    type: ClassVar[str] = "dev.cdeventsx.towline-chaos-number.said.0.1.0"
    key: str
    thing: str

    @property
    def subject(self) -> str:
        return f"{self.key} {self.thing}"


class Pad(BaseModel):
    model_config = ConfigDict(frozen=True)
    bytes: str


class Tally(State):
    told: tuple[str, ...] = ()
    """`fact 1`, `asked 1`, `written fact 1`, `rung fact 3`: in the order decided."""
    pads: dict[str, Pad] = Field(default_factory=dict)

    def tell(self, thing: str) -> Tally:
        return self.model_copy(update={"told": (*self.told, thing)})


class Write(Effect):
    """Puts one thing into the ledger, on condition that its id is not there."""

    kind: ClassVar[str] = "write"
    key: str
    thing: str

    @property
    def resource(self) -> str:
        return "ledger"


class Poisoned(Exception):
    """The bug that a version of the service has."""


def number_of(thing: str) -> int:
    return int(thing.rpartition(" ")[2])


def answers(thing: str) -> bool:
    """Whether the effect for it has something to tell; else its end is only noted."""
    return number_of(thing) % 2 == 1


def rings(thing: str) -> bool:
    return number_of(thing) % 3 == 0


def thing_in(event: Event) -> str | None:
    """What a state must say once this event was handled; None for an event of no interest."""
    match event:
        case Number(n=n):
            return f"{FACT} {n}"
        case Asked(n=n):
            return f"{ASKED} {n}"
        case Ticked(n=n):
            return f"{TICK} {n}"
        case Written(thing=thing):
            return f"{WRITTEN} {thing}"
        case TimerFired(name=name):
            return f"{RUNG} {name}"
    return None


def expected(things: Iterable[str]) -> set[str]:
    """Everything that a key must have told once these came in."""
    whole: set[str] = set()
    for thing in things:
        whole |= {thing}
        whole |= {f"{WRITTEN} {thing}"} if answers(thing) else set()
        whole |= {f"{RUNG} {thing}"} if rings(thing) else set()
    return whole


def decide(state: Tally, envelope: Envelope, now: datetime) -> Decision[Tally]:
    """The version that has no bug."""
    event, key = envelope.event, envelope.key
    thing = thing_in(event)
    if thing is None:
        return Decision(state)
    after, said = state.tell(thing), (Said(key=key, thing=thing),)
    if isinstance(event, Written | TimerFired):
        return Decision(after, said)
    if isinstance(event, Number) and event.pad:
        after = after.model_copy(update={"pads": {**after.pads, thing: Pad(bytes="p" * event.pad)}})
    timers = {thing: now + RINGS_AFTER} if rings(thing) else {}
    return Decision(after, said, (Write(key=key, thing=thing),), timers)


def decide_with_a_bug(state: Tally, envelope: Envelope, now: datetime) -> Decision[Tally]:
    if isinstance(envelope.event, Number) and envelope.event.poison:
        raise Poisoned("this version cannot decide on it")
    return decide(state, envelope, now)


def facts_of(service: str) -> str:
    return f"towline.{service}.facts"


def results_of(service: str) -> str:
    return f"towline.{service}.results"


def put_on_map(service: str) -> None:
    """For this process the map holds this service alone, on topics that no other test has."""
    by_key = attrgetter("key")
    facts = flow.Stream(facts_of(service), "feed", by_key, "key", None, {Number: (service,)})
    results = flow.Stream(results_of(service), service, by_key, "key", None, {Said: ()})
    flow.STREAMS = (facts, results)  # type: ignore[assignment]
    flow._STREAM_OF.clear()
    flow._STREAM_OF.update({Number: facts, Said: results})
