"""What a bus must have done, as plainly as it can be said: lists of records, committed offsets, who holds what.

It is told of every step and of every callback, and judges what came back. It knows nothing of adapters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from towline.bus.partition import partition_of
from towline.bus.port import Assignment, Cleanup, NewRecord, Topic, TopicPartition

if TYPE_CHECKING:
    from towline.bus.port import Consumer, Record


class Broken(AssertionError):
    """A promise of the port was not kept."""


@dataclass(frozen=True, slots=True)
class Stored:
    offset: int
    key: str
    value: bytes | None
    headers: Mapping[str, bytes]

    @classmethod
    def of(cls, offset: int, record: NewRecord) -> Stored:
        return cls(offset, record.key, record.value, dict(record.headers))


class LogModel:
    """Everything that was ever written, and which of it must still be readable."""

    def __init__(self, topics: Sequence[Topic]) -> None:
        self.topics = {topic.name: topic for topic in topics}
        self.partitions = {
            TopicPartition(topic.name, number): dict[int, Stored]()
            for topic in topics
            for number in range(topic.partitions)
        }
        self.ends: dict[TopicPartition, int] = dict.fromkeys(self.partitions, 0)
        self.swept: dict[TopicPartition, int] = dict.fromkeys(self.partitions, 0)
        """Tombstones before this offset may be gone."""

    def place(self, record: NewRecord) -> TopicPartition:
        partition = record.partition
        if partition is None:
            partition = partition_of(record.key, self.topics[record.topic].partitions)
        return TopicPartition(record.topic, partition)

    def published(self, records: Sequence[NewRecord], offsets: Sequence[int]) -> None:
        """Offsets are answered in the order given, and grow within each partition."""
        if len(records) != len(offsets):
            raise Broken(f"{len(records)} records were published and {len(offsets)} offsets answered")
        latest: dict[TopicPartition, int] = {}
        for record, offset in zip(records, offsets, strict=True):
            at = self.place(record)
            if offset <= latest.get(at, -1):
                raise Broken(f"{at}: offset {offset} was answered after {latest[at]} in one call")
            latest[at] = offset
        self.written([(self.place(record), offset, record) for record, offset in zip(records, offsets, strict=True)])

    def appended(self, at: TopicPartition, records: Sequence[NewRecord], first: int) -> None:
        self.written([(at, first + number, record) for number, record in enumerate(records)])

    def written(self, records: Sequence[tuple[TopicPartition, int, NewRecord]]) -> None:
        """All that one step wrote, which may be several calls at once: nothing of it stands before older records."""
        before = dict(self.ends)
        for at, offset, record in records:
            if offset < before[at]:
                raise Broken(f"{at}: offset {offset} was answered, but {before[at]} was the end before")
            if offset in self.partitions[at]:
                raise Broken(f"{at}: offset {offset} was answered twice")
            self.partitions[at][offset] = Stored.of(offset, record)
            self.ends[at] = max(self.ends[at], offset + 1)
        for at in {at for at, _, _ in records}:
            self.partitions[at] = dict(sorted(self.partitions[at].items()))

    def sweep(self) -> None:
        self.swept = dict(self.ends)

    def must(self, at: TopicPartition) -> list[int]:
        """Offsets of the partition that must be readable, in order."""
        stored = self.partitions[at]
        if self.topics[at.topic].cleanup is Cleanup.DELETE:
            return list(stored)
        last = {record.key: record for record in stored.values()}
        return sorted(
            record.offset for record in last.values() if record.value is not None or record.offset >= self.swept[at]
        )

    def judge(self, at: TopicPartition, start: int, records: Sequence[Record], *, until: int | None = None) -> None:
        """Records read from `start` on: as written, in order, without a hole up to `until`, else to the last."""
        stored = self.partitions[at]
        previous = start - 1
        for record in records:
            if record.position != at:
                raise Broken(f"{at} was read, a record of {record.position} came")
            if record.offset <= previous:
                raise Broken(f"{at}: offset {record.offset} came after {previous}, reading from {start} on")
            previous = record.offset
            wanted = stored.get(record.offset)
            if wanted is None:
                raise Broken(f"{at}: at offset {record.offset} came a record that nobody wrote: {record.key!r}")
            if (record.key, record.value, dict(record.headers)) != (wanted.key, wanted.value, wanted.headers):
                raise Broken(f"{at}: at offset {record.offset} came {record}, written was {wanted}")
        came = {record.offset for record in records}
        until = previous + 1 if until is None else until
        if missing := [offset for offset in self.must(at) if start <= offset < until and offset not in came]:
            raise Broken(f"{at}: from {start} to {until} offsets {missing} did not come, {sorted(came)} did")


@dataclass(eq=False)
class Member:
    """One consumer as the model sees it; `held` is what it was told, by callbacks alone."""

    name: str
    group: Group
    connection: int
    commits_when_revoked: bool
    held: set[TopicPartition] = field(default_factory=set)
    positions: dict[TopicPartition, int] = field(default_factory=dict)
    paused: set[TopicPartition] = field(default_factory=set)
    expelled: bool = False
    """The group took it for dead, and it does not know yet."""
    left: bool = False
    consumer: Consumer = field(init=False)

    def assigned(self, gained: Assignment) -> None:
        if self.left:
            raise Broken(f"{self.name} was told it gained {sorted(gained)} after it had left")
        if self.held:
            raise Broken(f"{self.name} was told it gained {sorted(gained)} before it was told the loss of {self.held}")
        for at in gained:
            other = self.group.holders.get(at)
            if other is not None:
                raise Broken(f"{self.name} got {at} while {other.name} had not been told its loss")
            self.group.holders[at] = self
        self.expelled = False
        self.held = set(gained)
        self.positions = {at: self.group.committed.get(at) or 0 for at in gained}

    def revoked(self, lost: Assignment) -> None:
        if self.left:  # while it was told, it closed
            return
        if set(lost) != self.held:
            raise Broken(f"{self.name} was told the loss of {sorted(lost)}, it had {sorted(self.held)}")
        self.let_go()
        self.expelled = False

    def leave(self) -> None:
        self.left = True
        self.let_go()
        self.group.members.remove(self)
        self.group.settled = False

    def let_go(self) -> None:
        for at in self.held:
            if self.group.holders.get(at) is self:
                del self.group.holders[at]
        self.held = set()
        self.positions = {}

    def expel(self) -> None:
        """Others may get what it still thinks it has."""
        self.expelled = bool(self.held)
        self.group.settled = False
        for at in [at for at, holder in self.group.holders.items() if holder is self]:
            del self.group.holders[at]

    def fetched(self, records: Sequence[Record], limit: int) -> None:
        if len(records) > limit:
            raise Broken(f"{len(records)} records came, the limit was {limit}")
        by_partition: dict[TopicPartition, list[Record]] = defaultdict(list)
        for record in records:
            by_partition[record.position].append(record)
        for at, some in by_partition.items():
            if at not in self.held:
                raise Broken(f"{self.name} got records of {at}, which it was not told to have")
            if at in self.paused:
                raise Broken(f"{self.name} got records of {at}, which it had paused")
            self.group.log.judge(at, self.positions[at], some)
            self.positions[at] = some[-1].offset + 1
            self.group.delivered[at].update(record.offset for record in some)

    def sought(self, at: TopicPartition, offset: int) -> None:
        self.group.passed_over[at].update(range(self.positions[at], offset))
        self.positions[at] = offset


@dataclass(eq=False)
class Group:
    name: str
    log: LogModel
    committed: dict[TopicPartition, int] = field(default_factory=dict)
    holders: dict[TopicPartition, Member] = field(default_factory=dict)
    members: list[Member] = field(default_factory=list)
    delivered: dict[TopicPartition, set[int]] = field(default_factory=lambda: defaultdict(set))
    passed_over: dict[TopicPartition, set[int]] = field(default_factory=lambda: defaultdict(set))
    """What somebody skipped on purpose, by a seek or a commit."""
    settled: bool = False
    """Every member has its share; until somebody joins, leaves or dies."""

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        for at, next_ in offsets.items():
            self.committed[at] = next_
            self.passed_over[at].update(range(next_))

    def lacking(self) -> list[tuple[TopicPartition, int]]:
        """What must have been delivered by now and was not."""
        return [
            (at, offset)
            for at in self.log.partitions
            for offset in self.log.must(at)
            if offset not in self.delivered[at] and offset not in self.passed_over[at]
        ]

    def shape(self) -> list[int]:
        """How many partition numbers each member has, the most first."""
        return sorted((len({at.partition for at in member.held}) for member in self.members), reverse=True)

    def is_shared_out(self) -> bool:
        """Whether the members' shares cover everything, as a range assignment for all of them does."""
        partitions = {at.partition for at in self.log.partitions}
        if not self.members or any(member.expelled for member in self.members):
            return False
        each, more = divmod(len(partitions), len(self.members))
        wanted = [each + (place < more) for place in range(len(self.members))]
        return set(self.holders) == set(self.log.partitions) and self.shape() == wanted

    def check_shares(self) -> None:
        """Disjoint follows from `Member.assigned`; here: partition n of all topics belongs to one member."""
        owners: dict[int, set[str]] = defaultdict(set)
        for at, member in self.holders.items():
            owners[at.partition].add(member.name)
        if split := {number: names for number, names in owners.items() if len(names) > 1}:
            raise Broken(f"a partition number is split over members: {split}")
        for member in self.members:
            numbers = sorted({at.partition for at in member.held})
            if numbers and numbers != list(range(numbers[0], numbers[-1] + 1)):
                raise Broken(f"{member.name} has {numbers}, which is no range")


def check_everything(log: LogModel, found: Mapping[TopicPartition, Collection[Record]]) -> None:
    for at, records in found.items():
        log.judge(at, 0, list(records), until=log.ends[at])
