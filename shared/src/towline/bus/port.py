"""The bus as the delivery runtime sees it: a partitioned log with consumer groups.

Two adapters implement it, `sqlite` and `kafka`, and one conformance suite (`tests/contract`) holds both to it:

- A partition is an ordered log; offsets grow by any step, never shrink, and are never reused.
- `publish` returns when every record is durable; records of one call keep their order within a partition.
- `append` puts all its records into one partition atomically: all of them or none, next to each other.
- A partition that is written by `append` alone has no gaps between appends: an append's first offset is the `end`
  before it, so a writer whose offset is another knows that somebody else wrote. Compaction does not change that; on
  Kafka neither do idempotent producers, but a transactional one would (delivery.ownership stands on this).
- In a compacted topic a superseded record can be read for COMPACTION_LAG after its successor was written, unless the
  bus compares generations itself: so a new owner still finds what a zombie has written over.
- A consumer starts at its group's committed offset, or at the first record when there is none.
- A commit names the *next* offset to read. It may be lost in a crash, and then records come again.
- The partition of a key is the same on every adapter (`partition_of`), so a log can move between them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import NamedTuple, Protocol

from towline.errors import DependencyDown, Permanent

MAX_RECORD_BYTES = 256 * 1024
"""Key, value and headers of one record."""

COMPACTION_LAG = timedelta(minutes=1)
"""At least; Kafka: `min.compaction.lag.ms` of the state topics."""

MAX_APPEND_BYTES = 4 * 1024 * 1024
"""All records of one `append`: Kafka carries them as one batch, and a batch has a limit."""


class TopicPartition(NamedTuple):
    topic: str
    partition: int


class Cleanup(Enum):
    DELETE = "delete"
    """Records go after the retention; None keeps them for ever."""
    COMPACT = "compact"
    """The last record of each key stays; a null value is a tombstone and goes after a day."""


@dataclass(frozen=True, slots=True)
class Topic:
    name: str
    partitions: int
    cleanup: Cleanup = Cleanup.DELETE
    retention: timedelta | None = None


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to be written. `partition` None means: by the key."""

    topic: str
    key: str
    value: bytes | None
    headers: Mapping[str, bytes] = field(default_factory=dict)
    partition: int | None = None
    timestamp_ms: int | None = None
    """When it was first written, for a log that moves; None: now."""


@dataclass(frozen=True, slots=True)
class Record:
    topic: str
    partition: int
    offset: int
    key: str
    value: bytes | None
    headers: Mapping[str, bytes]
    timestamp_ms: int

    @property
    def position(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)


class BusDown(DependencyDown):
    """The bus does not answer. Consumption stops until it does; nothing is dead-lettered for it."""


class TooLarge(Permanent):
    """A record is over MAX_RECORD_BYTES, or an append over MAX_APPEND_BYTES.

    What is large lives in the artifact store; events point to it.
    """


Assignment = frozenset[TopicPartition]
OnAssignment = Callable[[Assignment], Awaitable[None]]
"""Called with what was gained (before its first record is fetched) or lost (before another member gets it)."""


class Consumer(Protocol):
    """One member of a group. `fetch` must be awaited again and again, also while all is paused."""

    @property
    def assignment(self) -> Assignment: ...

    async def fetch(self, *, limit: int = 500, timeout: float = 1.0) -> Sequence[Record]:
        """The next records in order per partition; empty after `timeout` seconds without any."""
        ...

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Store the next offset to read, per partition. Raises BusDown or LostAssignment."""
        ...

    async def committed(self, partition: TopicPartition) -> int | None: ...

    def seek(self, partition: TopicPartition, offset: int) -> None: ...

    def pause(self, *partitions: TopicPartition) -> None: ...

    def resume(self, *partitions: TopicPartition) -> None: ...

    async def close(self) -> None:
        """Leave the group. Commits nothing by itself."""
        ...


class LostAssignment(DependencyDown):
    """The group gave this member's partitions away; what it had not committed comes again elsewhere."""


class Bus(Protocol):
    async def ensure(self, topics: Sequence[Topic]) -> None:
        """Create what is missing; raise Permanent naming the first setting that differs."""
        ...

    async def publish(self, records: Sequence[NewRecord]) -> Sequence[int]:
        """Write the records durably; returns their offsets in the order given. Raises BusDown, TooLarge."""
        ...

    async def append(self, at: TopicPartition, records: Sequence[NewRecord], *, generation: int | None = None) -> int:
        """Write all records to one partition atomically; returns the first offset. Raises BusDown, TooLarge.

        A bus that can compare refuses with LostAssignment what has a lower `generation` than an append before it; one
        that cannot (Kafka) writes it, and the offset tells.
        """
        ...

    async def consumer(
        self,
        group: str,
        topics: Sequence[str],
        *,
        member: str,
        on_assigned: OnAssignment | None = None,
        on_revoked: OnAssignment | None = None,
    ) -> Consumer: ...

    async def read(self, at: TopicPartition, *, start: int = 0, limit: int = 1000) -> Sequence[Record]:
        """Records from `start` on without a group; empty at the end of the log."""
        ...

    async def end(self, at: TopicPartition) -> int:
        """The offset that the next record will have, or a later one."""
        ...

    async def ends(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """`end` of many partitions, asked together: what lag is measured against. Raises BusDown, Permanent."""
        ...

    async def topics(self) -> Sequence[str]: ...

    async def close(self) -> None: ...
