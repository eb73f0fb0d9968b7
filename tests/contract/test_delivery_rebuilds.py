"""A service whose every local file is destroyed begins anew with identical lanes: state, timers, outbox and cursors.

On SQLite the log is a file itself: it alone is kept, the rest of its folder is destroyed like everything else.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import BaseModel, ConfigDict, Field

from towline import flow
from towline.bus.open import open_bus
from towline.bus.pages import records_from
from towline.bus.port import Bus, TopicPartition
from towline.delivery.lane import Lane
from towline.delivery.model import Decision, Effect, EffectContext, Envelope, Service, Source, State
from towline.errors import DependencyDown
from towline.events.base import Event
from towline.service import Process
from towline.testing import running
from towline.testing.memory import MemoryBus, MemoryLog
from towline.testing.rebuilt import rebuilt

NAME = flow.NOTIFIER
KEYS = [f"forge/owner/repo-{number}" for number in range(20)]
WORDS = [f"word-{number}" for number in range(6)]
PATIENCE_S = 60.0


class Entry(BaseModel):
    model_config = ConfigDict(frozen=True)
    count: int


class Said(State):
    total: int = 0
    last: str = ""
    words: dict[str, Entry] = Field(default_factory=dict)


class Spoke(Event):
    type: ClassVar[str] = "dev.cdeventsx.towline-test-word.spoken.0.1.0"
    word: str

    @property
    def subject(self) -> str:
        return self.word


class Asked(Spoke):
    type: ClassVar[str] = "dev.cdeventsx.towline-test-word.asked.0.1.0"


class Call(Effect):
    """Never gets through, so that it stays in the outbox."""

    kind: ClassVar[str] = "call"
    key: str

    @property
    def resource(self) -> str:
        return f"ear {self.key}"


@dataclass
class Life:
    """What one run of the service saw."""

    decided: int = 0
    asked: dict[str, Said] = field(default_factory=dict)
    tried: set[str] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def decide(self, state: Said, envelope: Envelope, now: datetime) -> Decision[Said]:
        self.changed.set()
        match envelope.event:
            case Asked():
                self.asked[envelope.key] = state
                return Decision(state)
            case Spoke(word=word):
                self.decided += 1
                count = state.words[word].count + 1 if word in state.words else 1
                after = Said(total=state.total + 1, last=word, words={**state.words, word: Entry(count=count)})
                effects = (Call(key=envelope.key),) if word == WORDS[2] and count == 1 else ()
                timers = {word: now + timedelta(hours=1)} if word in WORDS[:2] else {WORDS[0]: None}
                return Decision(after, effects=effects, timers=timers)
        return Decision(state)

    async def call(self, _: Call, context: EffectContext) -> None:
        self.tried.add(context.id)
        self.changed.set()
        raise DependencyDown("nobody answers", after=0.01)

    def service(self, kind: type[Spoke], words: list[str]) -> Service[Said]:
        async def speak(source: Source, stopping: asyncio.Event) -> None:
            for word in words:
                for key in KEYS:
                    await source.emit(key, f"{kind.__name__} {word} {key}", kind(word=word))
            await stopping.wait()

        return Service(NAME, Said, self.decide, effects={Call: self.call}, inbox=(Spoke, Asked), sources=(speak,))

    async def until(self, done: str) -> None:
        """`done` names one of this life's counts that is full."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.is_done(done):
                self.changed.clear()
                await self.changed.wait()

    def is_done(self, what: str) -> bool:
        return {
            "decided": self.decided == len(KEYS) * len(WORDS),
            "tried": len(self.tried) == len(KEYS),
            "asked": len(self.asked) == len(KEYS),
        }[what]


@dataclass
class Home:
    """Where the bus is, and the folder that is destroyed between two lives."""

    url: str
    folder: Path
    kept: tuple[str, ...] = ()
    log: MemoryLog = field(default_factory=MemoryLog)

    @asynccontextmanager
    async def bus(self) -> AsyncIterator[Bus]:
        bus: Bus = MemoryBus(self.log) if self.url == "memory:" else await open_bus(self.url)
        try:
            yield bus
        finally:
            await bus.close()

    def destroy(self) -> None:
        for path in self.folder.iterdir():
            if path.name not in self.kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka), "memory"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    if request.param == "sqlite":
        return Home(f"sqlite:///{tmp_path / 'bus.db'}", tmp_path, ("bus.db",))
    if request.param == "kafka":
        return Home(f"kafka://{request.getfixturevalue('own_kafka')}", tmp_path)
    return Home("memory:", tmp_path)


async def written(bus: Bus) -> dict[str, Lane[Said]]:
    """The lanes as the log alone says."""
    places = [TopicPartition(flow.state_of(NAME), number) for number in range(flow.PARTITIONS)]
    return rebuilt(Said, [record for at in places async for record in records_from(bus, at)])


def held(process: Process) -> dict[str, Lane[Said]]:
    """The lanes that a running service has in memory."""
    (runtime,) = process.runtimes
    return {key: runtime._lanes.get(key) for key in KEYS}


async def test_identical_lanes_come_back_from_the_log_alone(home: Home) -> None:
    first, second, third = Life(), Life(), Life()
    async with home.bus() as bus:
        async with running(bus, first.service(Spoke, WORDS)):
            await first.until("decided")
            await first.until("tried")
        before = await written(bus)
    home.destroy()

    async with home.bus() as bus, running(bus, second.service(Spoke, [])) as process:
        assert held(process) == before
        await second.until("tried")
        assert second.tried == first.tried, "what is not done is begun again under its own ids"
    home.destroy()
    async with home.bus() as bus, running(bus, third.service(Asked, ["all"])):
        await third.until("asked")

    assert third.asked == {key: lane.state for key, lane in before.items()}
    assert second.decided == third.decided == 0
    for lane in before.values():
        assert lane.state == Said(total=6, last=WORDS[-1], words={word: Entry(count=1) for word in WORDS})
        assert set(lane.timers) == {WORDS[1]}
        assert len(lane.outbox) == 1
