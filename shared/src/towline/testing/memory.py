"""The bus in memory, for simulations: the port's promises, kept under the conformance suite, and places to break in.

A `MemoryLog` is what survives a crash; a `MemoryBus` is one process's connection to it. A simulation overrides `reach`
(before and after each operation takes place) and `offer` (what a fetch hands out) to delay, fail, repeat and kill.

Groups are eager, as Kafka's are here: a change of the members wants a new generation, which takes effect when every
member has given up what it had, in a `fetch` of its own. A member that is taken for dead is not waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from towline.bus.assign import range_assignment
from towline.bus.partition import partition_of
from towline.bus.port import (
    COMPACTION_LAG,
    Assignment,
    BusDown,
    Cleanup,
    LostAssignment,
    NewRecord,
    OnAssignment,
    Record,
    Topic,
    TopicPartition,
)
from towline.bus.size import check_append, check_sizes
from towline.errors import Permanent


@dataclass
class MemoryLog:
    topics: dict[str, Topic] = field(default_factory=dict)
    records: dict[TopicPartition, list[Record]] = field(default_factory=dict)
    heads: dict[TopicPartition, int] = field(default_factory=dict)
    offsets: dict[tuple[str, TopicPartition], int] = field(default_factory=dict)
    members: dict[str, MemoryGroup] = field(default_factory=dict)
    """Group → who is in it; without an entry nobody is."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _latest: dict[tuple[TopicPartition, str], int] = field(default_factory=dict)
    _superseded: deque[tuple[float, TopicPartition, int]] = field(default_factory=deque)

    def group(self, name: str) -> MemoryGroup:
        return self.members.setdefault(name, MemoryGroup())

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def ensure(self, topic: Topic) -> None:
        present = self.topics.setdefault(topic.name, topic)
        for setting, wanted, found in (
            ("partitions", topic.partitions, present.partitions),
            ("cleanup", topic.cleanup.value, present.cleanup.value),
            ("retention", _shown(topic.retention), _shown(present.retention)),
        ):
            if wanted != found:
                raise Permanent(f"topic {topic.name} exists with {setting} {found}, wanted is {wanted}")

    def place(self, record: NewRecord) -> TopicPartition:
        partition = record.partition
        if partition is None:
            partition = partition_of(record.key, self.topic(record.topic).partitions)
        return self.check(TopicPartition(record.topic, partition))

    def topic(self, name: str) -> Topic:
        if name not in self.topics:
            raise Permanent(f"topic {name} does not exist on this bus: `ensure` creates it")
        return self.topics[name]

    def check(self, at: TopicPartition) -> TopicPartition:
        partitions = self.topic(at.topic).partitions
        if not 0 <= at.partition < partitions:
            raise Permanent(f"topic {at.topic} has partitions 0 to {partitions - 1}, not {at.partition}")
        return at

    def add(self, record: NewRecord) -> int:
        at = self.place(record)
        offset = self.heads.get(at, 0)
        self.heads[at] = offset + 1
        kept = self.records.setdefault(at, [])
        if self.topics[at.topic].cleanup is Cleanup.COMPACT:
            self._supersede(at, record.key, offset)
        now_ms = record.timestamp_ms if record.timestamp_ms is not None else time.time_ns() // 1_000_000
        headers = dict(record.headers)
        kept.append(Record(at.topic, at.partition, offset, record.key, record.value, headers, now_ms))
        return offset

    def _supersede(self, at: TopicPartition, key: str, offset: int) -> None:
        """What had the key before goes when COMPACTION_LAG has passed, with the first record after that."""
        now = asyncio.get_running_loop().time()
        before = self._latest.get((at, key))
        self._latest[at, key] = offset
        if before is not None:
            self._superseded.append((now, at, before))
        outlived: dict[TopicPartition, set[int]] = {}
        while self._superseded and now - self._superseded[0][0] > COMPACTION_LAG.total_seconds():
            _, where, older = self._superseded.popleft()
            outlived.setdefault(where, set()).add(older)
        for where, offsets in outlived.items():
            self.records[where][:] = [kept for kept in self.records[where] if kept.offset not in offsets]

    def after(self, at: TopicPartition, start: int, limit: int) -> list[Record]:
        return [record for record in self.records.get(at, ()) if record.offset >= start][:limit]

    def of_topic(self, topic: str) -> list[Record]:
        places = (TopicPartition(topic, partition) for partition in range(self.topic(topic).partitions))
        return [record for at in places for record in self.records.get(at, ())]

    def sweep(self) -> None:
        """Remove every tombstone, as if each were older than a day."""
        for at, kept in self.records.items():
            if self.topics[at.topic].cleanup is Cleanup.COMPACT:
                kept[:] = [record for record in kept if record.value is not None]


class MemoryGroup:
    """Who is in a group, and which generation each has acknowledged by giving up what it had before."""

    def __init__(self) -> None:
        self.wanted = 0
        self._acknowledged: dict[MemoryConsumer, int] = {}
        self._joined = 0

    def __contains__(self, consumer: MemoryConsumer) -> bool:
        return consumer in self._acknowledged

    def join(self, consumer: MemoryConsumer) -> None:
        self._joined += 1
        consumer.id = f"{consumer.member}/{self._joined}"
        self._acknowledged[consumer] = self.wanted
        self.wanted += 1

    def leave(self, consumer: MemoryConsumer) -> None:
        if self._acknowledged.pop(consumer, None) is not None:
            self.wanted += 1

    def lose(self) -> None:
        """As after sessions that timed out, of all members."""
        for consumer in list(self._acknowledged):
            consumer.lose()

    def acknowledge(self, consumer: MemoryConsumer, generation: int) -> bool:
        """Whether that is news to the others."""
        before = self._acknowledged.get(consumer)
        if before is not None:
            self._acknowledged[consumer] = generation
        return before not in (None, generation)

    def is_settled(self) -> bool:
        return set(self._acknowledged.values()) <= {self.wanted}

    def share(self, consumer: MemoryConsumer, partitions: Mapping[str, int]) -> Assignment:
        return range_assignment({each.id: each.topics for each in self._acknowledged}, partitions)[consumer.id]


class MemoryBus:
    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self._closed = False
        self._consumers: list[MemoryConsumer] = []

    async def reach(self, operation: str, *, done: bool) -> None:  # noqa: ARG002 for those who override it
        """Called before an operation takes place and, with `done`, before its caller is told."""
        await asyncio.sleep(0)

    def offer(self, behind: Mapping[TopicPartition, int], limit: int) -> list[Record]:
        """What a fetch hands out of the partitions with records after their positions."""
        found: list[Record] = []
        for at, position in behind.items():
            found += self.log.after(at, position, limit - len(found))
        return found

    async def ensure(self, topics: Sequence[Topic]) -> None:
        await self.reach("ensure", done=False)
        for topic in topics:
            self.log.ensure(topic)

    async def publish(self, records: Sequence[NewRecord]) -> Sequence[int]:
        self._open()
        check_sizes(records)
        await self.reach("publish", done=False)
        for record in records:
            self.log.place(record)
        offsets = [self.log.add(record) for record in records]
        self.log.wake()
        await self.reach("publish", done=True)
        return offsets

    async def append(
        self,
        at: TopicPartition,
        records: Sequence[NewRecord],
        *,
        generation: int | None = None,  # noqa: ARG002 as on Kafka, the offset tells who else wrote
    ) -> int:
        self._open()
        check_append(at, records)
        await self.reach("append", done=False)
        first = self.log.heads.get(self.log.check(at), 0)
        for record in records:
            self.log.add(replace(record, partition=at.partition))
        self.log.wake()
        await self.reach("append", done=True)
        return first

    async def consumer(
        self,
        group: str,
        topics: Sequence[str],
        *,
        member: str,
        on_assigned: OnAssignment | None = None,
        on_revoked: OnAssignment | None = None,
    ) -> MemoryConsumer:
        self._open()
        for name in topics:
            self.log.topic(name)
        await self.reach("join", done=False)
        consumer = MemoryConsumer(self, group, topics, member, on_assigned, on_revoked)
        self.log.group(group).join(consumer)
        self.log.wake()
        self._consumers.append(consumer)
        return consumer

    async def read(self, at: TopicPartition, *, start: int = 0, limit: int = 1000) -> Sequence[Record]:
        await self.reach("read", done=False)
        return self.log.after(self.log.check(at), start, limit)

    async def end(self, at: TopicPartition) -> int:
        await self.reach("end", done=False)
        return self.log.heads.get(self.log.check(at), 0)

    async def ends(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        await self.reach("end", done=False)
        return {at: self.log.heads.get(self.log.check(at), 0) for at in partitions}

    async def topics(self) -> Sequence[str]:
        return sorted(self.log.topics)

    async def close(self) -> None:
        self._closed = True
        for consumer in self._consumers:
            await consumer.close()

    def _open(self) -> None:
        if self._closed:
            raise BusDown("the bus is closed")


class MemoryConsumer:
    def __init__(
        self,
        bus: MemoryBus,
        group: str,
        topics: Sequence[str],
        member: str,
        on_assigned: OnAssignment | None,
        on_revoked: OnAssignment | None,
    ) -> None:
        self.member = member
        self.id = member
        """Its name within the group, new with every joining."""
        self.topics = topics
        self._bus = bus
        self._log = bus.log
        self._group = group
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._assignment: Assignment = frozenset()
        self._generation: int | None = None
        """The one that its assignment is of; None while it has none."""
        self._closed = False

    @property
    def assignment(self) -> Assignment:
        return self._assignment

    def lose(self) -> None:
        """As after a session that timed out: the next fetch tells the loss, joins again and tells what it gets."""
        self._log.group(self._group).leave(self)
        self._log.wake()

    async def fetch(self, *, limit: int = 500, timeout: float = 1.0) -> Sequence[Record]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not self._closed:
            woken = self._log.changed
            settled = await self._settle()
            await self._bus.reach("fetch", done=False)
            if settled and limit > 0 and self._is_member() and (records := self._take(limit)):
                return records
            try:
                async with asyncio.timeout_at(deadline):
                    await woken.wait()
            except TimeoutError:
                return []
        return []

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        await self._bus.reach("commit", done=False)
        if not self._is_member() or set(offsets) - self._assignment:
            raise LostAssignment(f"group {self._group} has not assigned {sorted(offsets)} to this member")
        for at, next_ in offsets.items():
            self._log.offsets[self._group, at] = next_

    async def committed(self, partition: TopicPartition) -> int | None:
        return self._log.offsets.get((self._group, partition))

    def seek(self, partition: TopicPartition, offset: int) -> None:
        if partition not in self._assignment:
            raise LostAssignment(f"group {self._group} has not assigned {partition} to this member")
        self._positions[partition] = offset
        self._log.wake()

    def pause(self, *partitions: TopicPartition) -> None:
        self._paused.update(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        self._paused.difference_update(partitions)
        self._log.wake()

    async def close(self) -> None:
        self._closed = True
        self._assignment = frozenset()
        self._log.group(self._group).leave(self)
        self._log.wake()

    def _is_member(self) -> bool:
        return self in self._log.group(self._group)

    def _take(self, limit: int) -> list[Record]:
        heads = self._log.heads
        behind = {
            at: position
            for at, position in self._positions.items()
            if position < heads.get(at, 0) and at not in self._paused
        }
        records = self._bus.offer(behind, limit)
        for record in records:
            self._positions[record.position] = record.offset + 1
        return records

    async def _settle(self) -> bool:
        """Whether this member has its share of the generation that the group wants; False while others hold it up."""
        group = self._log.group(self._group)
        if self in group and self._generation == group.wanted:
            return True
        wanted = group.wanted
        await self._give_up()
        if self._closed:
            return False
        if self not in group:
            group.join(self)
            wanted = group.wanted
        if group.acknowledge(self, wanted):
            self._log.wake()
        if not group.is_settled():
            return False
        await self._take_over(group, wanted)
        return True

    async def _give_up(self) -> None:
        """Its assignment stands until it was told of the loss, to commit in it; cancelled, it is told again."""
        self._generation = None
        try:
            if self._assignment and self._on_revoked is not None:
                await self._on_revoked(self._assignment)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._assignment = frozenset()
            raise
        self._positions = {}
        self._assignment = frozenset()

    async def _take_over(self, group: MemoryGroup, generation: int) -> None:
        gained = group.share(self, {name: self._log.topic(name).partitions for name in self.topics})
        self._positions = {at: self._log.offsets.get((self._group, at), 0) for at in gained}
        self._assignment = gained
        try:
            if gained and self._on_assigned is not None:
                await self._on_assigned(gained)
        except BaseException:
            self._assignment = frozenset()  # so that the next fetch tells it again
            raise
        if not self._closed:
            self._generation = generation


def _shown(retention: timedelta | None) -> str:
    return "for ever" if retention is None else str(retention)
