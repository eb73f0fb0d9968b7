"""What a real broker's log cleaner leaves: last values, and holes that readers and groups go over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from tests.contract.conftest import Ground
from tests.contract.model import LogModel

from towline.bus.port import Cleanup, NewRecord, TopicPartition

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from towline.bus.port import Record

EAGER = {
    "cleanup.policy": "compact",
    "segment.ms": "100",
    "min.cleanable.dirty.ratio": "0.001",
    "min.compaction.lag.ms": "0",
    "max.compaction.lag.ms": "100",
    "delete.retention.ms": "0",
}
"""All of a topic's settings: the cleaner takes what it can as soon as it looks, which it does every 15 s."""
PATIENCE_S = 90.0


@pytest.fixture
async def ground(kafka_address: str) -> AsyncIterator[Ground]:
    ground = Ground(f"kafka://{kafka_address}")
    yield ground
    await ground.close()


async def clean_eagerly(address: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    try:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, EAGER)])
    finally:
        await admin.close()


@pytest.mark.kafka
async def test_what_the_log_cleaner_leaves_is_read_over_its_holes(ground: Ground, kafka_address: str) -> None:
    bus, topic = await ground.open(), ground.topic("state", 1, Cleanup.COMPACT)
    at, log = TopicPartition(topic.name, 0), LogModel([topic])
    await bus.ensure([topic])
    await clean_eagerly(kafka_address, topic.name)
    for turn in range(8):
        records = [NewRecord(topic.name, f"key-{part}", f"{turn}".encode()) for part in range(5)]
        records += [NewRecord(topic.name, f"gone-{turn}", b"x"), NewRecord(topic.name, f"gone-{turn}", None)]
        log.appended(at, records, await bus.append(at, records))

    async def found() -> list[Record]:
        """A new segment is begun with the record after its time, so something is always written behind."""
        record = NewRecord(topic.name, "clock", b"")
        log.appended(at, [record], await bus.append(at, [record]))
        return (await ground.everything(bus, topic))[at]

    async with asyncio.timeout(PATIENCE_S):
        while any(record.key.startswith("gone") for record in await found()):  # noqa: ASYNC110 the cleaner tells nobody
            await asyncio.sleep(0.5)

    log.sweep()
    left = await found()
    log.judge(at, 0, left, until=log.ends[at])
    assert len(left) < len(log.partitions[at]) / 2
    assert {record.key: record.value for record in left} == {
        **{f"key-{part}": b"7" for part in range(5)},
        "clock": b"",
    }
    consumer = await bus.consumer(ground.group(), [topic.name], member="0")
    log.judge(at, 0, await ground.collect(consumer, len(left)), until=log.ends[at])
    hole = next(offset for offset in log.partitions[at] if offset not in {record.offset for record in left})
    consumer.seek(at, hole)
    log.judge(at, hole, await ground.collect(consumer, sum(record.offset > hole for record in left)))
    assert await bus.end(at) == log.ends[at]
