"""Members of a group on a real Kafka: a name kept over restarts, one process for each name, whole partitions."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from tests.kafka.conftest import Guarded

from towline.bus.kafka import KafkaBus, consumer
from towline.bus.kafka.consumer import KafkaConsumer
from towline.bus.port import NewRecord, Topic, TopicPartition
from towline.bus.settings import KafkaSettings
from towline.errors import Permanent

pytestmark = pytest.mark.kafka
STAYS = KafkaSettings(stay_on_stop=True)


class Ground:
    """Buses to one topic of two partitions, closed at the end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.topic = Topic(f"t{uuid.uuid4().hex[:8]}", 2)
        self.opened: list[KafkaBus] = []

    async def open(self, settings: KafkaSettings | None = None) -> KafkaBus:
        bus = await KafkaBus.open(self.address, settings)
        self.opened.append(bus)
        await bus.ensure([self.topic])
        return bus

    async def member(self, name: str, settings: KafkaSettings | None = None) -> KafkaConsumer:
        bus = await self.open(settings)
        return await bus.consumer(self.topic.name, [self.topic.name], member=name)


@pytest_asyncio.fixture
async def ground(kafka_address: str) -> AsyncIterator[Ground]:
    ground = Ground(kafka_address)
    yield ground
    for bus in ground.opened:
        await bus.close()


async def until(*members: KafkaConsumer, shares: list[int], seconds: float = 40.0) -> None:
    """Fetch with all of them until each has so many partitions."""
    deadline = time.monotonic() + seconds
    while [len(member.assignment) for member in members] != shares:
        assert time.monotonic() < deadline, [member.assignment for member in members]
        await asyncio.gather(*(member.fetch(timeout=0.2) for member in members))


async def test_a_killed_member_that_comes_back_waits_for_no_session_to_end(ground: Ground) -> None:
    """With members of the day the group would wait for the dead one: 15 s."""
    killed = await ground.member("0")
    await until(killed, shares=[2])
    assert killed._client is not None
    await killed._client._client.close()  # what the broker sees of a kill
    killed._client._coordinator._coordination_task.cancel()
    killed._client._coordinator._heartbeat_task.cancel()

    back = await ground.member("0")
    began = time.monotonic()
    await until(back, shares=[2])

    assert time.monotonic() - began < consumer.SESSION_TIMEOUT_MS / 1000 / 2


async def test_the_older_of_two_processes_with_one_name_ends_and_says_why(ground: Ground) -> None:
    """The client would join again, and the two would replace each other for ever."""
    older = await ground.member("0")
    await until(older, shares=[2])
    newer = await ground.member("0")

    async def fetch_on() -> None:
        while True:
            await older.fetch(timeout=0.2)

    ending = asyncio.create_task(fetch_on())
    await until(newer, shares=[2])
    with pytest.raises(Permanent, match=r"another process runs as member '0' of group .*, so this one ends"):
        await asyncio.wait_for(ending, 30)

    assert older.fenced
    assert older.assignment == frozenset()
    await older.close()
    await ground.opened[1].publish([NewRecord(ground.topic.name, "k", b"")])
    assert len(newer.assignment) == 2
    assert [record.key for record in await newer.fetch(timeout=10)] == ["k"]


async def test_a_member_that_stops_gives_its_place_away_at_once(ground: Ground) -> None:
    first, second = await ground.member("0"), await ground.member("1")
    await until(first, second, shares=[1, 1])
    began = time.monotonic()

    await first.close()
    await until(second, shares=[2])

    assert time.monotonic() - began < consumer.SESSION_TIMEOUT_MS / 1000 / 2


async def test_a_member_that_stays_finds_its_partitions_and_moves_nobodys(ground: Ground) -> None:
    first, second = await ground.member("0", STAYS), await ground.member("1", STAYS)
    await until(first, second, shares=[1, 1])
    had, others = first.assignment, second.assignment
    joined = second._client

    await first.close()
    back = await ground.member("0", STAYS)
    await until(back, second, shares=[1, 1])

    assert (back.assignment, second.assignment, second._client) == (had, others, joined)
    assert second.waiting_since is None


async def test_a_member_without_partitions_gets_some_however_long_it_waited(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client leaves a member out for good that has had nothing to do for max_poll_interval_ms."""
    monkeypatch.setattr(consumer, "MAX_POLL_INTERVAL_MS", 2000)
    members = [await ground.member(name) for name in ("0", "1", "2")]
    await until(*members, shares=[1, 1, 0])

    for _ in range(20):
        await asyncio.gather(*(member.fetch(timeout=0.2) for member in members))
    await members[0].close()

    await until(*members[1:], shares=[1, 1])


async def test_a_stranger_with_another_rule_of_division_is_named(ground: Ground) -> None:
    await ground.open()
    stranger = AIOKafkaConsumer(
        ground.topic.name,
        bootstrap_servers=ground.address,
        group_id=ground.topic.name,
        partition_assignment_strategy=(RoundRobinPartitionAssignor,),
    )
    await stranger.start()
    try:
        ours = await ground.member("0")
        with pytest.raises(Permanent, match="other members of the group divide partitions by another rule"):
            await until(ours, shares=[2])
    finally:
        await stranger.stop()


async def test_a_client_that_never_finds_back_is_replaced(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients were seen that lived on without ever joining again."""
    monkeypatch.setattr(consumer, "REJOIN_S", 1.0)
    monkeypatch.setattr(consumer, "_SURE_FOR_S", 0.2)
    stuck = await ground.member("0")
    await until(stuck, shares=[2])
    assert stuck._client is not None
    stuck._client._coordinator._coordination_task.cancel()
    await stuck._revoke()
    assert stuck.waiting_since is not None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stuck._client._coordinator, "check_errors", lambda: None)
        await until(stuck, shares=[2])

    assert stuck.waiting_since is None


async def test_a_group_that_the_user_may_not_join_is_named_at_once(guarded: Guarded) -> None:
    alice = await KafkaBus.open(
        guarded.instance.kafka_listener("sasl"),
        guarded.settings(guarded.tls, guarded.login("SCRAM-SHA-256")),
    )
    bob = await KafkaBus.open(
        guarded.instance.kafka_listener("sasl"), guarded.settings(guarded.tls, guarded.login("PLAIN", "bob"))
    )
    topic = Topic(f"t{uuid.uuid4().hex[:8]}", 1)
    try:
        await alice.ensure([topic])
        bob._partitions = {topic.name: 1}
        with pytest.raises(Permanent, match=f"does not let this user into group {topic.name}: it needs Read on it"):
            await bob.consumer(topic.name, [topic.name], member="0")
        assert await alice.end(TopicPartition(topic.name, 0)) == 0
    finally:
        await alice.close()
        await bob.close()
