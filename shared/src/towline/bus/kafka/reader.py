"""Reading without a group: one consumer, moved to the partition that is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiokafka
from aiokafka import AIOKafkaConsumer, errors

from towline.bus.kafka.connection import Connection
from towline.bus.port import BusDown, Record, TopicPartition

_FETCH_MAX_WAIT_MS = 100


def record_of(found: aiokafka.ConsumerRecord) -> Record:
    """A foreign key that is no UTF-8 stays readable; values and headers are never touched."""
    return Record(
        found.topic,
        found.partition,
        found.offset,
        (found.key or b"").decode(errors="replace"),
        found.value,
        dict(found.headers),
        found.timestamp,
    )


class Reader:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._consumer: AIOKafkaConsumer | None = None
        self._placed: tuple[TopicPartition, int] | None = None
        self._lock = asyncio.Lock()
        self._closed = False

    async def read(self, at: TopicPartition, start: int, limit: int) -> list[Record]:
        async with self._reading() as consumer:
            partition = aiokafka.TopicPartition(*at)
            end = (await consumer.end_offsets([partition]))[partition]
            if start >= end:
                return []
            if self._placed != (at, start):  # else what the client has fetched ahead is used
                consumer.assign([partition])
                consumer.seek(partition, start)
            self._placed = None
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

    async def end(self, at: TopicPartition) -> int:
        async with self._reading() as consumer:
            partition = aiokafka.TopicPartition(*at)
            return int((await consumer.end_offsets([partition]))[partition])

    async def close(self) -> None:
        self._closed = True
        await self._throw_away()

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AIOKafkaConsumer]:
        async with self._lock:
            try:
                async with self._connection.answering():
                    yield await self._started()
            except BaseException:
                await self._throw_away()
                raise

    async def _started(self) -> AIOKafkaConsumer:
        if self._closed:
            raise BusDown("the bus is closed")
        if self._consumer is None:
            self._consumer = AIOKafkaConsumer(
                **self._connection.client("reader"),
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                fetch_max_wait_ms=_FETCH_MAX_WAIT_MS,
            )
            await self._consumer.start()
        return self._consumer

    async def _throw_away(self) -> None:
        consumer, self._consumer, self._placed = self._consumer, None, None
        if consumer is not None:
            with suppress(errors.KafkaError, TimeoutError, OSError):
                async with asyncio.timeout(2.0):
                    await consumer.stop()
