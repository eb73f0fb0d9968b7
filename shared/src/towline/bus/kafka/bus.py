"""The bus on Kafka: acks=all, idempotent producer, keys on the partitions where every adapter puts them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient

from towline.bus.kafka import groups, peers
from towline.bus.kafka import topics as topic_admin
from towline.bus.kafka.connection import Connection
from towline.bus.kafka.consumer import KafkaConsumer
from towline.bus.kafka.peers import Peer
from towline.bus.kafka.producer import Producer
from towline.bus.kafka.reader import Reader
from towline.bus.kafka.wanted import Problem
from towline.bus.partition import partition_of
from towline.bus.port import BusDown, NewRecord, OnAssignment, Record, Topic, TopicPartition
from towline.bus.settings import KafkaSettings
from towline.bus.size import check_append, check_sizes
from towline.errors import Permanent

_ENSURE_S = 60.0


class KafkaBus:
    """Made by `open`, ended by `close`; belongs to the event loop it was opened on."""

    kind = "kafka"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._partitions: dict[str, int] = {}
        self._producer = Producer(connection)
        self._reader = Reader(connection)
        self._admin: AIOKafkaAdminClient | None = None
        self._admin_lock = asyncio.Lock()
        self._consumers: list[KafkaConsumer] = []
        self._closed = False

    @classmethod
    async def open(cls, servers: str, settings: KafkaSettings | None = None) -> KafkaBus:
        """From `host:port,host:port`, optionally with `?replication=3&min_insync=2`.

        Raises BadInput or Permanent for what must be changed before it works, BusDown for what may pass.
        """
        bus = cls(Connection.parse(servers, settings))
        try:
            await bus._refresh()
            bus._connection.proven = True
        except BaseException:
            await bus.close()
            raise
        return bus

    async def ensure(self, topics: Sequence[Topic]) -> None:
        async with self._administering(_ENSURE_S) as admin:
            self._partitions = await topic_admin.ensure(admin, self._connection, topics)

    async def check(self, topics: Sequence[Topic]) -> Sequence[Problem]:
        """Everything about the topics that is not as wanted; changes nothing."""
        async with self._administering(_ENSURE_S) as admin:
            return await topic_admin.check(admin, self._connection, topics)

    async def publish(self, records: Sequence[NewRecord]) -> Sequence[int]:
        check_sizes(records)
        if not records:
            return []
        return await self._producer.publish([(record, await self._place(record)) for record in records])

    async def append(
        self,
        at: TopicPartition,
        records: Sequence[NewRecord],
        *,
        generation: int | None = None,  # noqa: ARG002 a broker compares none: the offset tells who else wrote
    ) -> int:
        check_append(at, records)
        await self._check(at)
        if not records:
            return await self.end(at)
        return await self._producer.append(at, records)

    async def consumer(
        self,
        group: str,
        topics: Sequence[str],
        *,
        member: str,
        on_assigned: OnAssignment | None = None,
        on_revoked: OnAssignment | None = None,
    ) -> KafkaConsumer:
        """Raises BadInput, Permanent, BusDown."""
        counts = {topic: await self._count(topic) for topic in topics}
        await self._may_join(group)
        consumer = KafkaConsumer(
            self._connection, group, topics, member, on_assigned, on_revoked, counts=counts, peers=self._peers
        )
        await consumer.join()
        self._consumers.append(consumer)
        return consumer

    async def read(self, at: TopicPartition, *, start: int = 0, limit: int = 1000) -> Sequence[Record]:
        await self._check(at)
        return await self._reader.read(at, start, limit)

    async def end(self, at: TopicPartition) -> int:
        return (await self.ends((at,)))[at]

    async def ends(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        for at in partitions:
            await self._check(at)
        return await self._reader.ends(partitions) if partitions else {}

    async def topics(self) -> Sequence[str]:
        await self._refresh()
        return sorted(self._partitions)

    async def close(self) -> None:
        while self._consumers:
            await self._consumers.pop().close()
        self._closed = True
        await self._producer.close()
        await self._reader.close()
        await self._throw_away_admin()

    # -- for a log that moves ----------------------------------------------------------------------------------------

    async def partitions(self, topic: str) -> int:
        return await self._count(topic)

    async def members(self, group: str) -> Sequence[str]:
        """Who is in the group now."""
        async with self._administering(_ENSURE_S) as admin:
            return await groups.members(admin, group)

    async def offsets(self, group: str) -> Mapping[TopicPartition, int]:
        async with self._administering(_ENSURE_S) as admin:
            return await groups.offsets(admin, group)

    async def commit_for(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit for a group without members. Raises Permanent when it has one."""
        async with self._connection.answering(_ENSURE_S):
            await groups.commit(self._connection, group, offsets)

    # -- groups ----------------------------------------------------------------------------------------------------

    async def _may_join(self, group: str) -> None:
        """Said at once, and not by a member that waits for ever."""
        async with self._administering() as admin:
            try:
                await admin.find_coordinator(group)
            except errors.GroupAuthorizationFailedError:
                raise Permanent(
                    f"Kafka at {self._connection.where} does not let this user into group {group}: it needs Read on it"
                ) from None
            except errors.BrokerResponseError:
                pass  # a new cluster has no coordinators yet

    async def _peers(self, group: str) -> Sequence[Peer]:
        async with self._administering() as admin:
            return await peers.peers(admin, group)

    # -- topics ----------------------------------------------------------------------------------------------------

    async def _count(self, topic: str) -> int:
        """The topic's partitions; asked from a full listing, since asking for one topic could create it."""
        if topic not in self._partitions:
            await self._refresh()
        if topic not in self._partitions:
            raise Permanent(f"topic {topic} does not exist on this bus: `ensure` creates it")
        return self._partitions[topic]

    async def _place(self, record: NewRecord) -> int:
        if record.partition is None:
            return partition_of(record.key, await self._count(record.topic))
        await self._check(TopicPartition(record.topic, record.partition))
        return record.partition

    async def _check(self, at: TopicPartition) -> None:
        partitions = await self._count(at.topic)
        if not 0 <= at.partition < partitions:
            raise Permanent(f"topic {at.topic} has partitions 0 to {partitions - 1}, not {at.partition}")

    async def _refresh(self) -> None:
        async with self._administering() as admin:
            self._partitions = await topic_admin.describe(admin)

    @asynccontextmanager
    async def _administering(self, seconds: float = 10.0) -> AsyncIterator[AIOKafkaAdminClient]:
        async with self._admin_lock:
            if self._closed:
                raise BusDown("the bus is closed")
            try:
                async with self._connection.answering(seconds):
                    if self._admin is None:
                        self._admin = AIOKafkaAdminClient(**self._connection.client("admin"))
                        await self._admin.start()
                    yield self._admin
            except BusDown:
                await self._throw_away_admin()
                raise

    async def _throw_away_admin(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            with suppress(errors.KafkaError, TimeoutError, OSError):
                await admin.close()
