"""What a log says when it moves: a head, its records partition by partition, the groups' offsets, a tail.

Rule: facts and inboxes come before dead letters, and those before state. A record names only places that came before
it, so whoever writes the log elsewhere knows by then where each of them is now.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from towline.bus.port import Cleanup, NewRecord, Record, Topic, TopicPartition

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Head:
    """The first item."""

    made: str
    """When, as ISO 8601 in UTC."""
    source: str
    """`sqlite` or `kafka`."""
    topics: tuple[Topic, ...]
    """In the order of their records."""
    groups: tuple[str, ...]
    running: tuple[str, ...] = ()
    """Groups that had a living member: what they did afterwards is not in here."""
    damaged: bool = False
    """It was read from a damaged file: records may be missing anywhere."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Begin:
    """The records of one partition follow, oldest first, until its End."""

    at: TopicPartition


@dataclass(frozen=True, slots=True)
class End:
    at: TopicPartition
    records: int
    next: int
    """The offset that the next record would have had."""
    lost: tuple[tuple[int, int], ...] = ()
    """From a damaged file: ranges of offsets (the second not included) that cannot be read."""


@dataclass(frozen=True, slots=True)
class Committed:
    group: str
    at: TopicPartition
    next: int


@dataclass(frozen=True, slots=True)
class Tail:
    """The last item: without it the log is cut."""

    records: int


Item = Head | Begin | Record | End | Committed | Tail


class Origin(Protocol):
    """Where a log is read from."""

    kind: str

    async def partitions(self, topic: str) -> int: ...

    async def topics(self) -> Sequence[str]: ...

    async def ends(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]: ...

    async def read(self, at: TopicPartition, *, start: int = 0, limit: int = 1000) -> Sequence[Record]: ...

    async def offsets(self, group: str) -> Mapping[TopicPartition, int]:
        """What the group has committed, asked by nobody of it."""
        ...

    async def members(self, group: str) -> Sequence[str]:
        """Who is in the group now."""
        ...


class Destination(Origin, Protocol):
    """Where a log is written to."""

    async def ensure(self, topics: Sequence[Topic]) -> None: ...

    async def append(self, at: TopicPartition, records: Sequence[NewRecord]) -> int: ...

    async def commit_for(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit for a group that has no member. Raises Permanent when it has one."""
        ...


def in_order(topics: Sequence[Topic]) -> tuple[Topic, ...]:
    """As the rule above wants it: state is what is compacted, and dead letters are named so."""
    return tuple(
        sorted(topics, key=lambda topic: (topic.cleanup is Cleanup.COMPACT, topic.name.endswith(".dead"), topic.name))
    )
