"""The log of one moment, read without writing to the file, also from a damaged one.

A read transaction is held until `close`: the log may grow meanwhile, and its write-ahead log with it. Nothing here
makes, checks or repairs anything, so that what is left of a damaged file can be saved as it is.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from towline.bus.port import Record, TopicPartition
from towline.bus.sqlite import lease
from towline.bus.sqlite.ledger import Ledger, TopicRow, find_topic
from towline.bus.sqlite.place import check_file
from towline.bus.sqlite.schema import APPLICATION_ID, BUSY_TIMEOUT_S, SCHEMA_VERSION, explain, unpack_headers
from towline.bus.sqlite.whole import without_log
from towline.errors import BadInput, Permanent

T = TypeVar("T")
_UNREADABLE = (sqlite3.DatabaseError, struct.error, UnicodeDecodeError)
_COLUMNS = "SELECT offset, key, value, headers, timestamp_ms FROM records WHERE topic = ? AND partition = ?"


class Snapshot:
    """Made on any thread, used by one. Its calls do not wait for anything but the disk."""

    kind = "sqlite"

    def __init__(self, path: Path, now_ms: int, *, damaged: bool = False) -> None:
        """Raises BadInput when there is no such log, Permanent when it cannot be read, BusDown."""
        if check_file(path) is None:
            raise BadInput(f"there is no bus file {path}")
        self.path = path
        self.lost: dict[TopicPartition, list[tuple[int, int]]] = {}
        """Ranges of offsets, the second not included, that a damaged file does not give any more."""
        self._damaged = damaged
        had_log = path.with_name(path.name + "-wal").exists()
        self._connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None
        )
        self._ledger = Ledger(self._connection, now_ms)
        try:
            self._connection.execute("BEGIN")
            self._check(had_log=had_log or damaged)
        except sqlite3.Error as error:
            self.close()
            raise explain(path, error) from error
        except BaseException:
            self.close()
            raise

    async def topics(self) -> Sequence[str]:
        return [row[0] for row in self._all("SELECT name FROM topics ORDER BY name")]

    async def partitions(self, topic: str) -> int:
        return self._topic(topic).partitions

    async def ends(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        heads = self._all("SELECT t.name, h.partition, h.next FROM heads h JOIN topics t ON t.id = h.topic")
        found = {TopicPartition(name, partition): next_ for name, partition, next_ in heads}
        return {at: found.get(at, 0) for at in partitions}

    async def read(self, at: TopicPartition, *, start: int = 0, limit: int = 1000) -> Sequence[Record]:
        records, failed = self._read(at, start, limit)
        if records or failed is None:
            return records
        if not self._damaged:
            raise explain(self.path, failed) if isinstance(failed, sqlite3.Error) else failed
        return self._read_behind(at, start, limit)

    async def offsets(self, group: str) -> Mapping[TopicPartition, int]:
        return self._asked(lambda: self._ledger.all_committed(group))

    async def members(self, group: str) -> Sequence[str]:
        with suppress(*(_UNREADABLE if self._damaged else ())):
            return self._asked(lambda: lease.living(self._ledger, group))
        return []

    def close(self) -> None:
        self._connection.close()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _check(self, *, had_log: bool) -> None:
        (application,) = self._connection.execute("PRAGMA application_id").fetchone()
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise Permanent(f"{self.path} is no bus file of this version of Towline: start Towline on it once")
        if version != SCHEMA_VERSION:
            raise Permanent(f"the bus file {self.path} has schema {version}, this version reads {SCHEMA_VERSION}")
        (mode,) = self._connection.execute("PRAGMA journal_mode").fetchone()
        if mode == "wal" and not had_log and self._connection.execute("SELECT 1 FROM users").fetchone():
            raise without_log(self.path)

    def _topic(self, name: str) -> TopicRow:
        return self._asked(lambda: find_topic(self._connection, name))

    def _all(self, query: str) -> list[Any]:
        return self._asked(lambda: self._connection.execute(query).fetchall())

    def _asked(self, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except sqlite3.Error as error:
            raise explain(self.path, error) from error

    def _read(self, at: TopicPartition, start: int, limit: int) -> tuple[list[Record], Exception | None]:
        """What can be read from `start` on, and why it ends before `limit`."""
        topic = self._topic(at.topic)
        records: list[Record] = []
        try:
            rows = self._connection.execute(
                f"{_COLUMNS} AND offset >= ? ORDER BY offset LIMIT ?", (topic.id, at.partition, start, limit)
            )
            for offset, key, value, headers, timestamp_ms in rows:
                records.append(Record(*at, offset, key, value, unpack_headers(headers), timestamp_ms))
        except _UNREADABLE as error:
            return records, error
        return records, None

    def _read_behind(self, at: TopicPartition, start: int, limit: int) -> list[Record]:
        """The first records behind unreadable ones: further and further steps, then the nearest by halves."""
        end = max(start + 1, self._ledger.head(at))
        bad, step = start, 1
        while bad + step < end and self._read(at, bad + step, 1)[1] is not None:
            bad, step = bad + step, step * 2
        good = min(bad + step, end)
        while good - bad > 1:
            middle = (good + bad) // 2
            if self._read(at, middle, 1)[1] is None:
                good = middle
            else:
                bad = middle
        self.lost.setdefault(at, []).append((start, good))
        return self._read(at, good, limit)[0] if good < end else []
