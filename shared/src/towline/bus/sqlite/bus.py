"""The bus in one SQLite file: WAL, synchronous=FULL, group commit, any number of processes.

A consumer is woken at once by a publish of its own process, by others through a datagram (see `wake`), and at the
latest after a second, when the file's data version is looked at.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from towline.bus.port import BusDown, NewRecord, OnAssignment, Record, Topic, TopicPartition
from towline.bus.size import check_append, check_sizes
from towline.bus.sqlite import lease
from towline.bus.sqlite.consumer import SqliteConsumer
from towline.bus.sqlite.lease import HEARTBEAT_S
from towline.bus.sqlite.ledger import Ledger
from towline.bus.sqlite.place import Place
from towline.bus.sqlite.reader import Reader
from towline.bus.sqlite.wake import Wake
from towline.bus.sqlite.writer import Writer
from towline.errors import Permanent, TowlineError
from towline.telemetry import metrics

_LOG = logging.getLogger(__name__)
_LOOK_EVERY_S = 1.0
_LOOK_OFTEN_S = 0.05
"""Where the file system or the operating system has no such sockets."""
_SWEEP_EVERY_S = 3600.0


class SqliteBus:
    """Made by `open`, ended by `close`; belongs to the event loop it was opened on."""

    kind = "sqlite"

    def __init__(self, place: Place, *, single: bool = False) -> None:
        self.path = place.path
        self._single = single
        self._heads: dict[TopicPartition, int] = {}
        self.groups: dict[str, tuple[int, int]] = {}
        """Group → its generation, and the last one that came into force."""
        self.changed = asyncio.Event()
        self.writer = Writer(place, self._on_commit, single=single)
        self.reader: Reader
        self._wake: Wake | None = None
        self._told = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._consumers: set[SqliteConsumer] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._failure: BaseException | None = None
        self._closed = False

    @classmethod
    async def open(cls, path: str | Path, *, on_network: bool = False, single: bool = False) -> SqliteBus:
        """Open or create the file (mode 0600). Raises BusDown, and Permanent when it is damaged or no file for a bus.

        `on_network` takes a file system that SQLite does not trust. `single`, for crash tests, splits what one
        transaction could hold where Kafka would: each record of a publish, each append and each commit by itself.
        """
        bus = cls(Place(Path(path), on_network=on_network), single=single)
        await bus.writer.open()
        bus.reader = Reader(bus.path)
        try:
            bus._wake = Wake(bus.path, bus._told.set)
        except OSError as error:
            _LOG.info("other processes are noticed by looking at the file", extra={"error": str(error)})
        bus._heads, bus.groups = bus.reader.heads(), bus.reader.groups()
        bus._tasks = [bus._part(bus._follow()), bus._part(bus._keep())]
        return bus

    async def ensure(self, topics: Sequence[Topic]) -> None:
        await self.writer.submit(lambda ledger: ledger.ensure(topics))

    async def publish(self, records: Sequence[NewRecord]) -> Sequence[int]:
        check_sizes(records)
        if not records:
            return []
        self._refuse_when_deaf()
        if self._single:
            return [await self.writer.submit(lambda ledger, r=record: ledger.add(r)) for record in records]  # type: ignore[misc]
        return await self.writer.submit(lambda ledger: [ledger.add(record) for record in records])

    async def append(self, at: TopicPartition, records: Sequence[NewRecord], *, generation: int | None = None) -> int:
        check_append(at, records)
        self._refuse_when_deaf()

        def operation(ledger: Ledger) -> int:
            if generation is not None:
                ledger.admit(at, generation)
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
        await self.reader.close()  # before the writer, which is the last to leave the file
        await self.writer.close()
        if self._wake is not None:
            self._wake.close()

    # -- for a log that moves ----------------------------------------------------------------------------------------

    async def partitions(self, topic: str) -> int:
        return (await self.reader.topic(topic)).partitions

    async def members(self, group: str) -> Sequence[str]:
        """Who is in the group now, as `name (process)`."""
        return await self.writer.submit(lambda ledger: lease.living(ledger, group))

    async def offsets(self, group: str) -> Mapping[TopicPartition, int]:
        return await self.writer.submit(lambda ledger: ledger.all_committed(group))

    async def commit_for(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Commit for a group without members. Raises Permanent when it has one."""

        def operation(ledger: Ledger) -> None:
            if members := lease.living(ledger, group):
                raise Permanent(f"group {group} has a member ({', '.join(members)}): stop it first")
            ledger.commit_offsets(group, offsets)

        await self.writer.submit(operation)

    # -- for its consumers -----------------------------------------------------------------------------------------

    @property
    def heads(self) -> Mapping[TopicPartition, int]:
        """The next offset of every partition, as far as it was heard of. Raises Permanent when nobody listens."""
        self._refuse_when_deaf()
        return self._heads

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

    def note_skipped(self, group: str, at: TopicPartition, records: int) -> None:
        """Retention took away what a group had not read: it was behind for longer than the topic keeps."""
        _LOG.error(
            "%s records of %s/%s are lost to group %s: retention took them away before it read them",
            records,
            *at,
            group,
            extra={"group": group, "topic": at.topic, "partition": at.partition, "records": records},
        )
        metrics.skipped(group, at.topic, records)

    def call_soon(self, function: Callable[..., None], *arguments: Any) -> None:
        """From the writer's thread to the event loop."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _part(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A part that ends by an error makes the bus useless to its consumers, who are told so."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                _LOG.error("the bus file %s is not followed any more", self.path, exc_info=error)
                self._failure = self._failure or error
                self.wake()

        task = asyncio.create_task(work)
        task.add_done_callback(ended)
        return task

    def _refuse_when_deaf(self) -> None:
        if self._failure is not None:
            raise Permanent(f"the bus file {self.path} is not followed any more: {self._failure}") from self._failure

    def _on_commit(self, heads: Mapping[TopicPartition, int]) -> None:
        self._advance(heads)
        if self._wake is not None:
            self._wake.tell()

    def _advance(self, heads: Mapping[TopicPartition, int]) -> None:
        for at, next_ in heads.items():
            self._heads[at] = max(next_, self._heads.get(at, 0))
        self.wake()

    async def _follow(self) -> None:
        """Notice what other processes published."""
        seen = self.reader.version()
        every = _LOOK_OFTEN_S if self._wake is None else _LOOK_EVERY_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await self._told.wait()
            self._told.clear()
            if not self._consumers:
                continue
            with suppress(BusDown):  # locked for a moment: look again
                version = self.reader.version()
                if version != seen:
                    seen, heads, groups = version, self.reader.heads(), self.reader.groups()
                    if heads != self._heads:
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
