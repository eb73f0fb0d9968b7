"""Reading without a group: one consumer, moved to the partition that is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import aiokafka
from aiokafka import AIOKafkaConsumer

from towline.bus.foreign import portable
from towline.bus.kafka import internals
from towline.bus.kafka.connection import Connection
from towline.bus.port import BusDown, Record, TopicPartition

_FETCH_MAX_WAIT_MS = 100


def record_of(found: aiokafka.ConsumerRecord) -> Record:
    """A foreign key that is no UTF-8 stays readable, and no byte is lost (see `bus.foreign`)."""
    key, headers = portable(found.key, found.headers)
    return Record(found.topic, found.partition, found.offset, key, found.value, headers, found.timestamp)


class Reader:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._consumer: AIOKafkaConsumer | None = None
        self._placed: tuple[TopicPartition, int] | None = None
        self._starting = asyncio.Lock()
        self._moving = asyncio.Lock()
        """Held while the consumer stands at a partition; asking for ends moves nothing and waits for nobody."""
        self._closed = False

    async def read(self, at: TopicPartition, start: int, limit: int) -> list[Record]:
        async with self._moving, self._reading() as consumer:
            placed, self._placed = self._placed, None  # a read that breaks off leaves the place unknown
            partition = aiokafka.TopicPartition(*at)
            end = (await consumer.end_offsets([partition]))[partition]
            if start >= end:
                return []
            if placed != (at, start):  # else what the client has fetched ahead is used
                consumer.assign([partition])
                consumer.seek(partition, start)
            while True:
                found = (await consumer.getmany(partition, timeout_ms=200, max_records=limit)).get(partition, [])
                position = await consumer.position(partition)
                if found or position >= end:
                    break
            if position < end:
                self._placed = (at, position)
            else:
                consumer.unsubscribe()  # or it would go on asking the broker for more
            return [record_of(record) for record in found]

    async def ends(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """One request to each broker that leads any of them."""
        async with self._reading() as consumer:
            found = await consumer.end_offsets([aiokafka.TopicPartition(*at) for at in partitions])
            return {TopicPartition(*at): int(end) for at, end in found.items()}

    async def close(self) -> None:
        self._closed = True
        await self._throw_away(self._consumer)

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AIOKafkaConsumer]:
        async with self._connection.answering():
            consumer = await self._started()
        try:
            async with self._connection.answering():
                yield consumer
        except BusDown:
            await self._throw_away(consumer)
            raise

    async def _started(self) -> AIOKafkaConsumer:
        async with self._starting:
            if self._closed:
                raise BusDown("the bus is closed")
            if self._consumer is None:
                consumer = AIOKafkaConsumer(
                    **self._connection.client("reader"),
                    auto_offset_reset="earliest",
                    enable_auto_commit=False,
                    fetch_max_wait_ms=_FETCH_MAX_WAIT_MS,
                )
                try:
                    await consumer.start()
                except BaseException:
                    await internals.end_consumer(consumer)
                    raise
                self._consumer, self._placed = consumer, None
            return self._consumer

    async def _throw_away(self, consumer: AIOKafkaConsumer | None) -> None:
        if consumer is not None and consumer is self._consumer:
            self._consumer = None
            await internals.end_consumer(consumer)
