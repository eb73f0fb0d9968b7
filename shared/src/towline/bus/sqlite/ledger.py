"""The log inside one transaction: what is appended, compacted, committed and cleaned up.

Every function here runs on the writer's thread between BEGIN and COMMIT, and touches nothing but the connection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from towline.bus.partition import partition_of
from towline.bus.port import Cleanup, LostAssignment, NewRecord, Topic, TopicPartition
from towline.bus.sqlite.schema import pack_headers
from towline.errors import Permanent

TOMBSTONES_STAY_MS = 24 * 3600 * 1000
_SWEEP_ROWS = 1000


@dataclass(frozen=True, slots=True)
class TopicRow:
    id: int
    name: str
    partitions: int
    cleanup: Cleanup
    retention_ms: int | None


def find_topic(connection: sqlite3.Connection, name: str) -> TopicRow:
    """The topic's row; raises Permanent when nobody has created it."""
    row = connection.execute(
        "SELECT id, name, partitions, cleanup, retention_ms FROM topics WHERE name = ?", (name,)
    ).fetchone()
    if row is None:
        raise Permanent(f"topic {name} does not exist on this bus: `ensure` creates it")
    return TopicRow(row[0], row[1], row[2], Cleanup(row[3]), row[4])


class Ledger:
    """One transaction's view; `heads` holds the next offset of every partition it wrote to."""

    def __init__(self, connection: sqlite3.Connection, now_ms: int) -> None:
        self.connection = connection
        self.now_ms = now_ms
        self.heads: dict[TopicPartition, int] = {}
        self._topics: dict[str, TopicRow] = {}

    def topic(self, name: str) -> TopicRow:
        if name not in self._topics:
            self._topics[name] = find_topic(self.connection, name)
        return self._topics[name]

    def ensure(self, topics: Sequence[Topic]) -> None:
        for topic in topics:
            retention_ms = None if topic.retention is None else int(topic.retention.total_seconds() * 1000)
            try:
                found = find_topic(self.connection, topic.name)
            except Permanent:
                self._create(topic, retention_ms)
                continue
            for setting, wanted, present in (
                ("partitions", topic.partitions, found.partitions),
                ("cleanup", topic.cleanup.value, found.cleanup.value),
                ("retention in ms", retention_ms, found.retention_ms),
            ):
                if wanted != present:
                    raise Permanent(f"topic {topic.name} exists with {setting} {present}, wanted is {wanted}")

    def _create(self, topic: Topic, retention_ms: int | None) -> None:
        if topic.partitions < 1:
            raise Permanent(f"topic {topic.name} needs at least one partition, not {topic.partitions}")
        row = self.connection.execute(
            "INSERT INTO topics (name, partitions, cleanup, retention_ms) VALUES (?, ?, ?, ?)",
            (topic.name, topic.partitions, topic.cleanup.value, retention_ms),
        )
        self.connection.executemany(
            "INSERT INTO heads (topic, partition, next) VALUES (?, ?, 0)",
            [(row.lastrowid, partition) for partition in range(topic.partitions)],
        )

    def add(self, record: NewRecord, partition: int | None = None) -> int:
        """Append one record; returns its offset."""
        topic = self.topic(record.topic)
        if partition is None:
            partition = record.partition
        if partition is None:
            partition = partition_of(record.key, topic.partitions)
        at = TopicPartition(topic.name, partition)
        offset = self.head(at)
        timestamp_ms = self.now_ms if record.timestamp_ms is None else record.timestamp_ms
        self.connection.execute(
            "INSERT INTO records (topic, partition, offset, timestamp_ms, key, headers, value)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (topic.id, partition, offset, timestamp_ms, record.key, pack_headers(record.headers), record.value),
        )
        if topic.cleanup is Cleanup.COMPACT:
            self._compact(topic.id, partition, record.key, offset)
        self.heads[at] = offset + 1
        return offset

    def head(self, at: TopicPartition) -> int:
        if at in self.heads:
            return self.heads[at]
        topic = self.topic(at.topic)
        row = self.connection.execute(
            "SELECT next FROM heads WHERE topic = ? AND partition = ?", (topic.id, at.partition)
        ).fetchone()
        if row is None:
            raise Permanent(f"topic {at.topic} has partitions 0 to {topic.partitions - 1}, not {at.partition}")
        return int(row[0])

    def admit(self, at: TopicPartition, generation: int) -> None:
        """Raises LostAssignment when a higher generation has written to the partition; compaction here is immediate,
        so what a zombie wrote over could not be found again."""
        topic = self.topic(at.topic)
        row = self.connection.execute(
            "SELECT generation FROM heads WHERE topic = ? AND partition = ?", (topic.id, at.partition)
        ).fetchone()
        highest = 0 if row is None else int(row[0])
        if generation < highest:
            raise LostAssignment(f"{at.topic}/{at.partition} is written by generation {highest}, not {generation}")
        if generation > highest:
            self.connection.execute(
                "UPDATE heads SET generation = ? WHERE topic = ? AND partition = ?",
                (generation, topic.id, at.partition),
            )

    def _compact(self, topic: int, partition: int, key: str, offset: int) -> None:
        older = self.connection.execute(
            "SELECT offset FROM latest WHERE topic = ? AND partition = ? AND key = ?", (topic, partition, key)
        ).fetchone()
        if older is not None:
            self.connection.execute(
                "DELETE FROM records WHERE topic = ? AND partition = ? AND offset = ?", (topic, partition, older[0])
            )
        self.connection.execute("INSERT OR REPLACE INTO latest VALUES (?, ?, ?, ?)", (topic, partition, key, offset))

    def write_heads(self) -> None:
        """Store where every touched partition continues; the last step before COMMIT."""
        self.connection.executemany(
            "UPDATE heads SET next = ? WHERE topic = ? AND partition = ?",
            [(next_, self.topic(at.topic).id, at.partition) for at, next_ in self.heads.items()],
        )

    def commit_offsets(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        self.connection.executemany(
            "INSERT OR REPLACE INTO offsets VALUES (?, ?, ?, ?)",
            [(group, self.topic(at.topic).id, at.partition, next_) for at, next_ in offsets.items()],
        )

    def committed(self, group: str, at: TopicPartition) -> int | None:
        row = self.connection.execute(
            "SELECT next FROM offsets WHERE grp = ? AND topic = ? AND partition = ?",
            (group, self.topic(at.topic).id, at.partition),
        ).fetchone()
        return None if row is None else int(row[0])

    def all_committed(self, group: str) -> dict[TopicPartition, int]:
        rows = self.connection.execute(
            "SELECT t.name, o.partition, o.next FROM offsets o JOIN topics t ON t.id = o.topic WHERE o.grp = ?",
            (group,),
        )
        return {TopicPartition(name, partition): next_ for name, partition, next_ in rows}

    def first(self, at: TopicPartition) -> int:
        """What retention has left: the first record's offset, or where the next one will be.

        Compaction takes away only what is superseded, so that nothing is missing in front of a compacted partition.
        """
        if self.topic(at.topic).cleanup is Cleanup.COMPACT:
            return 0
        row = self.connection.execute(
            "SELECT min(offset) FROM records WHERE topic = ? AND partition = ?",
            (self.topic(at.topic).id, at.partition),
        ).fetchone()
        return self.head(at) if row[0] is None else int(row[0])

    def sweep(self) -> bool:
        """Remove a bounded number of outlived records and tombstones; True when there may be more."""
        more = self._sweep_tombstones()
        expiring = self.connection.execute(
            "SELECT t.id, h.partition, t.retention_ms FROM topics t JOIN heads h ON h.topic = t.id"
            " WHERE t.retention_ms IS NOT NULL AND t.cleanup = 'delete'"
        ).fetchall()
        for topic, partition, retention_ms in expiring:
            more |= self._sweep_partition(topic, partition, self.now_ms - retention_ms)
        return more

    def _sweep_partition(self, topic: int, partition: int, before_ms: int) -> bool:
        """Records go from the front only, as segments do in Kafka: the log stays without holes."""
        outlived = []
        for offset, timestamp_ms in self.connection.execute(
            "SELECT offset, timestamp_ms FROM records WHERE topic = ? AND partition = ? ORDER BY offset LIMIT ?",
            (topic, partition, _SWEEP_ROWS),
        ):
            if timestamp_ms >= before_ms:
                break
            outlived.append(offset)
        if outlived:
            self.connection.execute(
                "DELETE FROM records WHERE topic = ? AND partition = ? AND offset <= ?",
                (topic, partition, outlived[-1]),
            )
        return len(outlived) == _SWEEP_ROWS

    def _sweep_tombstones(self) -> bool:
        outlived = self.connection.execute(
            "SELECT r.topic, r.partition, r.offset, r.key FROM records r JOIN topics t ON t.id = r.topic"
            " WHERE r.value IS NULL AND r.timestamp_ms < ? AND t.cleanup = 'compact' LIMIT ?",
            (self.now_ms - TOMBSTONES_STAY_MS, _SWEEP_ROWS),
        ).fetchall()
        for topic, partition, offset, key in outlived:
            self.connection.execute(
                "DELETE FROM records WHERE topic = ? AND partition = ? AND offset = ?", (topic, partition, offset)
            )
            self.connection.execute(
                "DELETE FROM latest WHERE topic = ? AND partition = ? AND key = ?", (topic, partition, key)
            )
        return len(outlived) == _SWEEP_ROWS
