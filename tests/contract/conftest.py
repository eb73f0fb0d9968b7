"""What the conformance suite of the bus stands on: the same test bodies, run on SQLite, on Kafka and in memory.

A test gets a `ground`: an empty part of a bus that nobody else uses, and as many connections to it as it opens.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from towline.bus.open import open_bus
from towline.bus.port import Cleanup, NewRecord, Topic, TopicPartition
from towline.testing.memory import MemoryBus, MemoryLog

if TYPE_CHECKING:
    from pathlib import Path

    from towline.bus.port import Bus, Consumer, Record

PATIENCE_S = 20.0
IN_MEMORY = "memory:"


@dataclass
class Ground:
    """`topic` and `group` give names that no other test has; what was opened is closed at the end."""

    url: str
    prefix: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:8]}")
    opened: list[Bus] = field(default_factory=list)
    log: MemoryLog = field(default_factory=MemoryLog)

    async def open(self) -> Bus:
        bus: Bus = MemoryBus(self.log) if self.url == IN_MEMORY else await open_bus(self.url)
        self.opened.append(bus)
        return bus

    async def close(self) -> None:
        while self.opened:
            await self.opened.pop().close()

    def topic(
        self,
        name: str = "events",
        partitions: int = 3,
        cleanup: Cleanup = Cleanup.DELETE,
        retention: timedelta | None = None,
    ) -> Topic:
        return Topic(f"{self.prefix}.{name}", partitions, cleanup, retention)

    def group(self, name: str = "readers") -> str:
        return f"{self.prefix}.{name}"

    async def everything(self, bus: Bus, topic: Topic) -> dict[TopicPartition, list[Record]]:
        """The whole log of a topic, read without a group."""
        found: dict[TopicPartition, list[Record]] = {}
        for partition in range(topic.partitions):
            at = TopicPartition(topic.name, partition)
            found[at] = []
            start, end = 0, await bus.end(at)
            while start < end:
                records = await bus.read(at, start=start)
                if not records:
                    break
                found[at] += records
                start = records[-1].offset + 1
        return found

    async def joined(self, consumer: Consumer) -> list[Record]:
        """Fetch until the consumer has its partitions; returns what came on the way."""
        deadline = time.monotonic() + PATIENCE_S
        records: list[Record] = []
        while not consumer.assignment:
            assert time.monotonic() < deadline, "the consumer got no partition"
            records += await consumer.fetch(timeout=0.2)
        return records

    async def collect(self, consumer: Consumer, count: int) -> list[Record]:
        """Fetch until `count` records have come."""
        deadline = time.monotonic() + PATIENCE_S
        records: list[Record] = []
        while len(records) < count:
            assert time.monotonic() < deadline, f"{len(records)} of {count} records came"
            records += await consumer.fetch(timeout=0.2)
        return records


def numbered(topic: Topic, key: str, count: int, *, start: int = 0) -> Sequence[NewRecord]:
    return [NewRecord(topic.name, key, str(number).encode()) for number in range(start, start + count)]


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka), "memory"])
def bus_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory":
        return IN_MEMORY
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'bus.db'}"
    return f"kafka://{request.getfixturevalue('kafka_address')}"


@pytest_asyncio.fixture
async def ground(bus_url: str) -> AsyncIterator[Ground]:
    ground = Ground(bus_url)
    yield ground
    await ground.close()


@pytest_asyncio.fixture
async def bus(ground: Ground) -> Bus:
    return await ground.open()
