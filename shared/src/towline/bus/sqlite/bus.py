"""The bus in one SQLite file: WAL, synchronous=FULL, group commit, any number of processes.

A consumer is woken at once by a publish of its own process, by others through a datagram (see `wake`), and at the
latest after a second, when the file's data version is looked at.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from towline.bus.port import BusDown, NewRecord, OnAssignment, Record, Topic, TopicPartition
from towline.bus.size import check_append, check_sizes
from towline.bus.sqlite.consumer import SqliteConsumer
from towline.bus.sqlite.lease import HEARTBEAT_S
from towline.bus.sqlite.ledger import Ledger
from towline.bus.sqlite.reader import Reader
from towline.bus.sqlite.wake import Wake
from towline.bus.sqlite.writer import Writer
from towline.errors import TowlineError

_LOG = logging.getLogger(__name__)
_LOOK_EVERY_S = 1.0
_LOOK_OFTEN_S = 0.05
"""Where the file system or the operating system has no such sockets."""
_SWEEP_EVERY_S = 3600.0


class SqliteBus:
    """Made by `open`, ended by `close`; belongs to the event loop it was opened on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.heads: dict[TopicPartition, int] = {}
        self.groups: dict[str, tuple[int, int]] = {}
        """Group → its generation, and the last one that came into force."""
        self.changed = asyncio.Event()
        self.writer = Writer(path, self._on_commit)
        self.reader: Reader
        self._wake: Wake | None = None
        self._told = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._consumers: set[SqliteConsumer] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    @classmethod
    async def open(cls, path: str | Path) -> SqliteBus:
        """Open or create the file (mode 0600). Raises BusDown, Permanent (newer schema, not a bus file)."""
        bus = cls(Path(path))
        await bus.writer.open()
        bus.reader = Reader(bus.path)
        try:
            bus._wake = Wake(bus.path, bus._told.set)
        except OSError as error:
            _LOG.info("other processes are noticed by looking at the file", extra={"error": str(error)})
        bus.heads, bus.groups = bus.reader.heads(), bus.reader.groups()
        bus._tasks = [asyncio.create_task(bus._follow()), asyncio.create_task(bus._keep())]
        return bus

    async def ensure(self, topics: Sequence[Topic]) -> None:
        await self.writer.submit(lambda ledger: ledger.ensure(topics))

    async def publish(self, records: Sequence[NewRecord]) -> Sequence[int]:
        check_sizes(records)
        if not records:
            return []
        return await self.writer.submit(lambda ledger: [ledger.add(record) for record in records])

    async def append(self, at: TopicPartition, records: Sequence[NewRecord]) -> int:
        check_append(at, records)

        def operation(ledger: Ledger) -> int:
            first = ledger.head(at)
            for record in records:
                ledger.add(record, at.partition)
            return first

        return await self.writer.submit(operation)

    async def consumer(
        self,
        group: str,
        topics: Sequence[str],
        *,
        member: str,
        on_assigned: OnAssignment | None = None,
        on_revoked: OnAssignment | None = None,
    ) -> SqliteConsumer:
        consumer = SqliteConsumer(self, group, topics, member, on_assigned, on_revoked)
        await consumer.join()
        self._consumers.add(consumer)
        return consumer

    async def read(self, at: TopicPartition, *, start: int = 0, limit: int = 1000) -> Sequence[Record]:
        position = start
        while True:
            found = (await self.reader.slices({at: position}, limit))[at]
            if found.records or found.next <= position:
                return found.records
            position = found.next

    async def end(self, at: TopicPartition) -> int:
        return await self.reader.head(at)

    async def ends(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        return await self.reader.heads_of(partitions)

    async def topics(self) -> Sequence[str]:
        return await self.reader.topics()

    async def sweep(self) -> None:
        """Remove outlived records and tombstones now, in small transactions; done at the start and every hour."""
        more = True
        while more:
            more = await self.writer.submit(lambda ledger: ledger.sweep())

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for task in self._tasks:
            task.cancel()
        for consumer in list(self._consumers):
            with suppress(TowlineError):
                await consumer.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.writer.close()
        await self.reader.close()
        if self._wake is not None:
            self._wake.close()

    # -- for its consumers -----------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Let every waiting fetch look again; those that come later wait on a new event."""
        self.changed.set()
        self.changed = asyncio.Event()

    def forget(self, consumer: SqliteConsumer) -> None:
        self._consumers.discard(consumer)

    def note_group(self, group: str, generations: tuple[int, int]) -> None:
        """What one of its transactions found of a group; others are told when that is news."""
        if generations > self.groups.get(group, (0, 0)):
            self.groups[group] = generations
            self.wake()
            if self._wake is not None:
                self._wake.tell()

    def call_soon(self, function: Callable[..., None], *arguments: Any) -> None:
        """From the writer's thread to the event loop."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _on_commit(self, heads: Mapping[TopicPartition, int]) -> None:
        self._advance(heads)
        if self._wake is not None:
            self._wake.tell()

    def _advance(self, heads: Mapping[TopicPartition, int]) -> None:
        for at, next_ in heads.items():
            self.heads[at] = max(next_, self.heads.get(at, 0))
        self.wake()

    async def _follow(self) -> None:
        """Notice what other processes published."""
        seen = self.reader.version()
        every = _LOOK_OFTEN_S if self._wake is None else _LOOK_EVERY_S
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), timeout=every)
            self._told.clear()
            if not self._consumers:
                continue
            with suppress(BusDown):  # locked for a moment: look again
                version = self.reader.version()
                if version != seen:
                    seen, heads, groups = version, self.reader.heads(), self.reader.groups()
                    if heads != self.heads:
                        self._advance(heads)
                    if groups != self.groups:
                        self.groups = {name: max(found, self.groups.get(name, found)) for name, found in groups.items()}
                        self.wake()

    async def _keep(self) -> None:
        """Let the members' heartbeats be heard, and remove what is outlived at the start and every hour."""
        sweep_at = 0.0
        while True:
            try:
                await asyncio.gather(*(consumer.beat() for consumer in self._consumers))  # one transaction for all
                if time.monotonic() >= sweep_at:
                    await self.sweep()
                    sweep_at = time.monotonic() + _SWEEP_EVERY_S
            except TowlineError as error:
                _LOG.warning("the bus is not kept in order for now: %s", error)
            await asyncio.sleep(HEARTBEAT_S)
