"""What a service is to the runtime: a pure `decide`, effects as data, and sources.

    event ─► decide(state, envelope, now) ─► Decision(state, events, effects, timers)
                                                   │        │        └─ run in pools, results come back by the inbox
                                                   │        └────────── published to the topic that flow.py names
                                                   └─────────────────── kept in the service's state topic

Rules that must hold:

- `decide` reads no clock and does no I/O; the same arguments give the same decision, ids included.
- An effect is idempotent or conditional: after a crash it is run again with the same id. After a partition was lost
  that can be while the first try still takes its time to end, in another member or in this one.
- Timers are due times in state; the runtime only rings them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from towline.events.base import Event


@dataclass(frozen=True, slots=True)
class Envelope:
    """An event as it arrived or will leave: CloudEvents attributes beside the data."""

    event: Event
    id: str
    source: str
    time: datetime
    key: str
    """Partition key; in a service's own inbox its lane key."""
    cause: str | None = None
    """Id of the event that led to this one; None where it came from outside."""
    traceparent: str | None = None
    """W3C trace context of the span that published it."""
    lane: str | None = None
    """Producer's lane, `<service>/<lane key>@<epoch>`; with `sequence` a redelivered copy is recognised by it."""
    sequence: int | None = None
    """Grows with each event of this producer lane; within one topic and key it is read in growing order."""


class State(BaseModel):
    """Base of a service's state for one lane key. A default-constructed one means: nothing known yet.

    A field of type `dict[str, Model]` is kept as one record per entry, so a turn writes only entries it
    changed; every single entry stays under the bus's record limit. Treat values as immutable.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")


S = TypeVar("S", bound=State)


class Effect(BaseModel):
    """Something to do outside, as data. `kind` is its name in the outbox; it never holds a secret."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    kind: ClassVar[str] = ""

    @property
    def resource(self) -> str:
        """What is called upon: one pool and one circuit breaker each, such as `registry` or `git host/x`."""
        return self.kind

    @property
    def latest_wins(self) -> str | None:
        """Effects with the same name replace each other while waiting; None: each must run."""
        return None


class EffectFailed(Event):
    """An effect raised Permanent, or a bug kept it from running; it comes back in the lane that asked."""

    type: ClassVar[str] = "dev.cdeventsx.towline-effect.failed.0.1.0"
    effect: str = Field(description="Id of the effect.")
    kind: str
    reason: str
    payload: dict[str, Any] = Field(default_factory=dict, description="The effect, as it was asked for.")

    @property
    def subject(self) -> str:
        return self.effect


class TimerFired(Event):
    type: ClassVar[str] = "dev.cdeventsx.towline-timer.fired.0.1.0"
    name: str
    due: datetime

    @property
    def subject(self) -> str:
        return self.name


class ReplayRequested(Event):
    """An operator asks for dead letters of this key: the runtime takes them up again, and no `decide` sees this."""

    type: ClassVar[str] = "dev.cdeventsx.towline-replay.requested.0.1.0"
    by: str
    reason: str = ""
    letters: tuple[str, ...] = Field((), description="Their ids; none means all of the key, which is then released.")
    first: str = Field("", description="The letter to begin with: those before it were tried for this request.")

    @property
    def subject(self) -> str:
        return self.by


@dataclass(frozen=True, slots=True)
class Decision(Generic[S]):
    state: S | None
    """None, or a state equal to a new one, forgets the key: it leaves memory and log once nothing awaits it."""
    events: tuple[Event, ...] = ()
    effects: tuple[Effect, ...] = ()
    timers: Mapping[str, datetime | None] = field(default_factory=dict)
    """Name → due time; None clears. A name not mentioned stays as it is."""


@dataclass(frozen=True, slots=True)
class EffectContext:
    """What an effect's handler is told besides the effect."""

    id: str
    """The idempotency key: the same for every try of this effect, across restarts."""
    key: str
    """The lane that asked, and that the result goes to."""
    tries: int
    """1 on the first try of this process."""


EffectHandler = Callable[[Any, EffectContext], Awaitable[Event | None]]
"""Does the effect; the returned inbox event goes to the lane that asked.

Raises Retryable or DependencyDown (tried again), Permanent (EffectFailed goes to the lane).
"""


class Source(Protocol):
    """The way in for whatever no event caused: webhooks, polls, watches, commands."""

    async def emit(self, key: str, id_basis: str, event: Event, *, traceparent: str | None = None) -> str:
        """Put an inbox event into a lane, durable on return; the same basis gives the same id. Returns the id."""
        ...


SourceRun = Callable[[Source, asyncio.Event], Awaitable[None]]
"""Runs until the event is set (drain), emitting what it sees."""

Forward = Callable[[Envelope], Iterable[tuple[str, Event]]]
"""An event keyed otherwise than the service's lanes → (lane key, inbox event) pairs."""


@dataclass(frozen=True)
class Service(Generic[S]):
    """One stage, as the composition root hands it to the runtime."""

    name: str
    state: type[S]
    decide: Callable[[S, Envelope, datetime], Decision[S]]
    effects: Mapping[type[Effect], EffectHandler] = field(default_factory=dict)
    inbox: tuple[type[Event], ...] = ()
    """Events of the service's own inbox, besides EffectFailed and TimerFired."""
    forwards: Mapping[type[Event], Forward] = field(default_factory=dict)
    """Consumed events whose key is not a lane key of this service."""
    sources: tuple[SourceRun, ...] = ()
    """Receivers and the like: they run in every member of the group."""
    watches: tuple[SourceRun, ...] = ()
    """Sources that look at the world: they run in the member that holds partition 0 of the inbox, and in no other.

    Such a one ends when the partition goes, and is begun again when it comes back.
    """
    pools: Mapping[str, int] = field(default_factory=dict)
    """Effects at once per resource, by exact name or by prefix up to the first space; 4 where not named."""
    ready: Callable[[], str | None] = lambda: None
    """None, or one sentence on what the service waits for before it can work."""
    close: Callable[[], Awaitable[None]] | None = None
