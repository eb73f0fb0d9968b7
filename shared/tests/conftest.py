"""A small service for tests of the delivery: it counts what it sees per key and tells about it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pytest
from pydantic import BaseModel, ConfigDict, Field

from towline.delivery.model import Decision, Effect, EffectFailed, Envelope, Service, State, TimerFired
from towline.events import ChangeCreated, Event, NoticeRendered, Severity

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Entry(BaseModel):
    model_config = ConfigDict(frozen=True)
    count: int = 0


class Tally(State):
    total: int = 0
    told: int = 0
    failed: int = 0
    rung: int = 0
    heads: dict[str, Entry] = Field(default_factory=dict)


class Tell(Effect):
    kind: ClassVar[str] = "tell"
    head: str

    @property
    def resource(self) -> str:
        return f"ear {self.head[:1]}"


class Told(Event):
    type: ClassVar[str] = "dev.cdeventsx.towline-test-told.finished.0.1.0"
    head: str

    @property
    def subject(self) -> str:
        return self.head


class Hint(Event):
    type: ClassVar[str] = "dev.cdeventsx.towline-test-hint.received.0.1.0"
    word: str

    @property
    def subject(self) -> str:
        return self.word


def notice(repo: str, about: str) -> NoticeRendered:
    return NoticeRendered(channel=repo, group=about, severity=Severity.INFO, title="seen", about=about)


def decide(state: Tally, envelope: Envelope, now: datetime) -> Decision[Tally]:
    match envelope.event:
        case ChangeCreated(head="poison"):
            raise RuntimeError("a bug that this head brings out")
        case ChangeCreated() as event:
            entry = state.heads.get(event.head, Entry())
            heads = {**state.heads, event.head: Entry(count=entry.count + 1)}
            after = state.model_copy(update={"total": state.total + 1, "heads": heads})
            timers = {"soon": now + timedelta(milliseconds=5)} if event.head == "timer" else {}
            return Decision(after, (notice(event.repo, event.head),), (Tell(head=event.head),), timers)
        case Told():
            return Decision(state.model_copy(update={"told": state.told + 1}))
        case EffectFailed():
            return Decision(state.model_copy(update={"failed": state.failed + 1}))
        case TimerFired():
            return Decision(state.model_copy(update={"rung": state.rung + 1}))
        case Hint():
            return Decision(state.model_copy(update={"total": state.total + 1}))
    return Decision(state)


async def tell(effect: Tell, _: object) -> Told:
    return Told(head=effect.head)


@pytest.fixture
def tally() -> Service[Tally]:
    return Service("notifier", Tally, decide, effects={Tell: tell}, inbox=(Told, Hint))


def created(head: str, repo: str = "local/app") -> ChangeCreated:
    return ChangeCreated(repo=repo, change=f"{repo}!t", target="main", head=head)
