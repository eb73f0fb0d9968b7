"""Writing: one idempotent producer, thrown away as soon as a batch fails.

The client retries a batch for ever and counts a failed one's sequence numbers as used, so after a failure the next
batches would be refused. A new producer starts clean; what was not acknowledged is the caller's to publish again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaProducer

from towline.bus.kafka import internals
from towline.bus.kafka.connection import Connection
from towline.bus.kafka.topics import MAX_BATCH_BYTES
from towline.bus.port import BusDown, NewRecord, TooLarge, TopicPartition


class Producer:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    async def publish(self, records: Sequence[tuple[NewRecord, int]]) -> list[int]:
        """Write records to the partitions beside them; returns their offsets in the order given."""
        async with self._producing() as producer:
            sent = [
                await producer.send(
                    record.topic,
                    value=record.value,
                    key=record.key.encode(),
                    partition=partition,
                    headers=list(record.headers.items()),
                    timestamp_ms=record.timestamp_ms,
                )
                for record, partition in records
            ]
            try:
                await asyncio.wait(sent)
            except BaseException:
                for future in sent:  # what becomes of it, nobody waits for any more
                    future.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
                raise
            return [future.result().offset for future in sent]

    async def append(self, at: TopicPartition, records: Sequence[NewRecord]) -> int:
        """Write records as one batch, which the broker appends whole or not at all; returns the first offset."""
        async with self._producing() as producer:
            batch = producer.create_batch()
            for record in records:
                added = batch.append(
                    timestamp=record.timestamp_ms,
                    key=record.key.encode(),
                    value=record.value,
                    headers=list(record.headers.items()),
                )
                if added is None:
                    raise TooLarge(f"{len(records)} records for {at.topic} do not fit one batch of {MAX_BATCH_BYTES}")
            batch.close()  # or the producer would add other callers' records to it
            delivered = await producer.send_batch(batch, at.topic, partition=at.partition)
            return int((await delivered).offset)

    async def close(self) -> None:
        self._closed = True
        producer, self._producer = self._producer, None
        if producer is not None:
            await internals.end_producer(producer)

    @asynccontextmanager
    async def _producing(self) -> AsyncIterator[AIOKafkaProducer]:
        async with self._connection.answering():
            producer = await self._started()
        try:
            async with self._connection.answering():
                yield producer
        except BusDown:
            if self._producer is producer:
                self._producer = None
            await internals.end_producer(producer)
            raise

    async def _started(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._closed:
                raise BusDown("the bus is closed")
            if self._producer is None:
                compression = self._connection.settings.compression
                producer = AIOKafkaProducer(
                    **self._connection.client("producer"),
                    acks="all",
                    enable_idempotence=True,
                    compression_type=None if compression == "none" else compression,
                    linger_ms=0,
                    max_batch_size=MAX_BATCH_BYTES,
                    max_request_size=MAX_BATCH_BYTES,
                )
                try:
                    await producer.start()
                except BaseException:
                    await internals.end_producer(producer)
                    raise
                self._producer = producer
            return self._producer
