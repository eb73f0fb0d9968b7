"""The reading side: its own connection on its own thread, so that a large read never stops the event loop.

What it returns comes from one snapshot: a reader sees all records of an append, or none of them.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from towline.bus.port import BusDown, Record, TopicPartition
from towline.bus.sqlite.ledger import TopicRow, find_topic
from towline.bus.sqlite.schema import connect, explain, unpack_headers
from towline.errors import Permanent

MAX_READ_BYTES = 8 * 1024 * 1024

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Slice:
    """Records of one partition, and the offset to continue at (past holes that compaction left)."""

    records: list[Record]
    next: int


class Reader:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="towline-bus-reader")
        self._connection = connect(path)
        self._watch = connect(path)
        self._watch.execute("PRAGMA busy_timeout=50")  # it is asked on the event loop
        self._topics: dict[str, TopicRow] = {}
        self._closed = False

    async def topic(self, name: str) -> TopicRow:
        """The topic's settings, which never change. Raises Permanent when it does not exist."""
        if name not in self._topics:
            self._topics[name] = await self._run(lambda: find_topic(self._connection, name))
        return self._topics[name]

    async def topics(self) -> list[str]:
        rows = await self._run(lambda: self._connection.execute("SELECT name FROM topics ORDER BY name").fetchall())
        return [row[0] for row in rows]

    async def slices(self, starts: Mapping[TopicPartition, int], limit: int) -> dict[TopicPartition, Slice]:
        """Up to `limit` records together, the partitions served in the order given."""
        topics = {at.topic: await self.topic(at.topic) for at in starts}
        return await self._run(lambda: self._slices(topics, starts, limit))

    async def head(self, at: TopicPartition) -> int:
        """The offset that the next record of the partition will have."""
        topic = await self.topic(at.topic)
        return await self._run(lambda: self._head(topic, at))

    async def heads_of(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """`head` of many partitions in one visit."""
        topics = {at.topic: await self.topic(at.topic) for at in partitions}
        return await self._run(lambda: {at: self._head(topics[at.topic], at) for at in partitions})

    def version(self) -> int:
        """Changes whenever any connection commits. On the event loop: it looks at shared memory only."""
        try:
            return int(self._watch.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error as error:
            raise explain(self._path, error) from error

    def heads(self) -> dict[TopicPartition, int]:
        """The next offset of every partition. On the event loop: the table is a few pages."""
        try:
            rows = self._watch.execute(
                "SELECT t.name, h.partition, h.next FROM heads h JOIN topics t ON t.id = h.topic"
            )
            return {TopicPartition(name, partition): next_ for name, partition, next_ in rows}
        except sqlite3.Error as error:
            raise explain(self._path, error) from error

    def groups(self) -> dict[str, tuple[int, int]]:
        """Group → its generation, and the last one in force. On the event loop: the table is a page."""
        try:
            rows = self._watch.execute("SELECT grp, generation, settled FROM groups")
            return {group: (generation, settled) for group, generation, settled in rows}
        except sqlite3.Error as error:
            raise explain(self._path, error) from error

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._executor, self._connection.close)
        self._executor.shutdown(wait=False)
        self._watch.close()

    async def _run(self, read: Callable[[], T]) -> T:
        if self._closed:
            raise BusDown(f"the bus {self._path} is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, read)
        except sqlite3.Error as error:
            raise explain(self._path, error) from error

    def _slices(
        self, topics: Mapping[str, TopicRow], starts: Mapping[TopicPartition, int], limit: int
    ) -> dict[TopicPartition, Slice]:
        found: dict[TopicPartition, Slice] = {}
        room = MAX_READ_BYTES
        self._connection.execute("BEGIN")
        try:
            for at, start in starts.items():
                if limit <= 0 or room <= 0:
                    break
                found[at], read_bytes = self._slice(topics[at.topic], at, start, limit, room)
                limit -= len(found[at].records)
                room -= read_bytes
        finally:
            self._connection.execute("COMMIT")
        return found

    def _slice(self, topic: TopicRow, at: TopicPartition, start: int, limit: int, room: int) -> tuple[Slice, int]:
        head = self._head(topic, at)
        rows = self._connection.execute(
            "SELECT offset, key, value, headers, timestamp_ms FROM records"
            " WHERE topic = ? AND partition = ? AND offset >= ? ORDER BY offset LIMIT ?",
            (topic.id, at.partition, start, limit),
        )
        records: list[Record] = []
        size = 0
        for offset, key, value, headers, timestamp_ms in rows:
            records.append(Record(at.topic, at.partition, offset, key, value, unpack_headers(headers), timestamp_ms))
            size += len(value or b"") + len(headers) + len(key)
            if size >= room or len(records) == limit:
                return Slice(records, offset + 1), size
        return Slice(records, max(start, head)), size

    def _head(self, topic: TopicRow, at: TopicPartition) -> int:
        row = self._connection.execute(
            "SELECT next FROM heads WHERE topic = ? AND partition = ?", (topic.id, at.partition)
        ).fetchone()
        if row is None:
            raise Permanent(f"topic {at.topic} has partitions 0 to {topic.partitions - 1}, not {at.partition}")
        return int(row[0])
