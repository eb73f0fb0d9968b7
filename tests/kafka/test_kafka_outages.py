"""A broker that restarts, is gone for longer than a session, or stands still: nothing acknowledged is lost, and every
part of the bus finds its way back by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import pytest
import pytest_asyncio

from towline.bus.kafka import KafkaBus, consumer
from towline.bus.port import BusDown, LostAssignment, NewRecord, Topic, TopicPartition
from towline_cli import lab

pytestmark = pytest.mark.kafka
SESSION_S = 6.0
"""The shortest that a broker allows by default."""


@pytest.fixture(scope="module")
def mortal() -> Iterator[lab.Instance]:
    instance = lab.Instance(f"test-{os.getpid()}-mortal")
    instance.start({lab.Part.KAFKA})
    try:
        yield instance
    finally:
        instance.remove()


class Traffic:
    """One writer and one member, and what each knows to be true."""

    def __init__(self, bus: KafkaBus, topic: Topic, member: consumer.KafkaConsumer) -> None:
        self.bus, self.topic, self.member = bus, topic, member
        self.at = TopicPartition(topic.name, 0)
        self.acknowledged: list[bytes] = []
        self.seen: list[bytes] = []
        self.down: list[str] = []

    async def write(self) -> None:
        value = str(len(self.acknowledged)).encode()
        try:
            await self.bus.publish([NewRecord(self.topic.name, "k", value)])
        except BusDown as error:
            self.down.append(str(error))
        else:
            self.acknowledged.append(value)

    async def read(self) -> None:
        try:
            self.seen += [record.value or b"" for record in await self.member.fetch(timeout=0.3)]
            if self.seen and self.member.assignment:
                await self.member.commit({self.at: await self.bus.end(self.at)})
        except (BusDown, LostAssignment) as error:
            self.down.append(str(error))

    async def until(self, count: int, *, seconds: float = 60.0) -> None:
        """Write and read on until `count` records are acknowledged and all of them are seen."""
        deadline = time.monotonic() + seconds
        while len(self.acknowledged) < count or set(self.seen) < set(self.acknowledged):
            assert time.monotonic() < deadline, (self.acknowledged, self.seen, self.down)
            if len(self.acknowledged) < count:
                await self.write()
            await self.read()


@pytest_asyncio.fixture
async def traffic(mortal: lab.Instance, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Traffic]:
    monkeypatch.setattr(consumer, "SESSION_TIMEOUT_MS", int(SESSION_S * 1000))
    monkeypatch.setattr(consumer, "_SURE_FOR_S", 1.0)
    bus = await KafkaBus.open(mortal.kafka)
    topic = Topic(f"t{uuid.uuid4().hex[:8]}", 1)
    await bus.ensure([topic])
    traffic = Traffic(bus, topic, await bus.consumer(topic.name, [topic.name], member="0"))
    await traffic.until(3)
    yield traffic
    await bus.close()


def in_order_with_copies(seen: list[bytes], acknowledged: list[bytes]) -> bool:
    """Whether each first sight follows the one before; what was written without an answer may stand there twice."""
    return list(dict.fromkeys(seen)) == acknowledged


async def test_a_broker_that_restarts_is_found_again(mortal: lab.Instance, traffic: Traffic) -> None:
    await asyncio.to_thread(mortal.end_kafka)
    await traffic.write()
    await asyncio.to_thread(mortal.add, {lab.Part.KAFKA})

    await traffic.until(8)

    assert in_order_with_copies(traffic.seen, traffic.acknowledged)


async def test_a_broker_gone_for_longer_than_a_session_gets_a_new_client_that_finds_back(
    mortal: lab.Instance, traffic: Traffic
) -> None:
    """The client looks for brokers only where they were; after a move it would look there for ever."""
    before = traffic.member._client
    await asyncio.to_thread(mortal.end_kafka)
    until = time.monotonic() + 15
    while time.monotonic() < until:
        await traffic.read()
        await asyncio.sleep(0.2)
    assert any("is not reached" in said for said in traffic.down)
    assert traffic.member.assignment == frozenset()
    assert traffic.member._client is not before

    await asyncio.to_thread(mortal.add, {lab.Part.KAFKA})
    await traffic.until(8)

    assert in_order_with_copies(traffic.seen, traffic.acknowledged)
    assert traffic.member.waiting_since is None


async def test_a_broker_that_stands_still_is_told_and_waited_for(mortal: lab.Instance, traffic: Traffic) -> None:
    mortal.signal_kafka(signal.SIGSTOP)
    try:
        until = time.monotonic() + 2 * SESSION_S
        while time.monotonic() < until:
            await traffic.read()
        await traffic.write()
        assert any("did not answer" in said or "does not answer" in said for said in traffic.down)
    finally:
        mortal.signal_kafka(signal.SIGCONT)

    await traffic.until(8)

    assert in_order_with_copies(traffic.seen, traffic.acknowledged)


async def test_a_bus_is_closed_in_time_while_its_broker_is_away(mortal: lab.Instance) -> None:
    bus = await KafkaBus.open(mortal.kafka)
    topic = Topic(f"t{uuid.uuid4().hex[:8]}", 1)
    await bus.ensure([topic])
    member = await bus.consumer(topic.name, [topic.name], member="0")
    while not member.assignment:
        await member.fetch(timeout=0.2)
    await bus.publish([NewRecord(topic.name, "k", b"")])
    mortal.signal_kafka(signal.SIGSTOP)
    try:
        with suppress(BusDown):
            await asyncio.wait_for(bus.close(), 30)
    finally:
        mortal.signal_kafka(signal.SIGCONT)
