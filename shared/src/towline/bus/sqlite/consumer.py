"""One member of a group on the SQLite bus: positions, pausing, and the lease behind it.

Positions move only when records are handed out, in the same step of the event loop: a cancelled `fetch` loses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from towline.bus.port import Assignment, BusDown, LostAssignment, OnAssignment, Record, TopicPartition
from towline.bus.sqlite import lease
from towline.bus.sqlite.ledger import Ledger
from towline.bus.sqlite.writer import Operation
from towline.errors import Permanent

if TYPE_CHECKING:
    from towline.bus.sqlite.bus import SqliteBus


class SqliteConsumer:
    """Made by `SqliteBus.consumer`; holds the group's lease until `close`."""

    def __init__(
        self,
        bus: SqliteBus,
        group: str,
        topics: Sequence[str],
        member: str,
        on_assigned: OnAssignment | None,
        on_revoked: OnAssignment | None,
    ) -> None:
        self.group = group
        self._bus = bus
        self._topics = list(topics)
        self._member = member
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._generation: int | None = None
        self._assignment: Assignment = frozenset()
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._lost = False
        self._closed = False

    @property
    def assignment(self) -> Assignment:
        return self._assignment

    async def join(self) -> None:
        """Take the lease. Raises Permanent naming the holder when the group has a living member."""
        for topic in self._topics:
            await self._bus.reader.topic(topic)
        self._generation = await self._bus.writer.submit(lambda ledger: lease.acquire(ledger, self.group, self._member))
        self._lost = False

    async def fetch(self, *, limit: int = 500, timeout: float = 1.0) -> Sequence[Record]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not self._closed:
            await self._settle_membership()
            woken = self._bus.changed
            if records := await self._take(limit):
                return records
            if self._closed or self._lost or woken.is_set():
                continue
            try:
                async with asyncio.timeout_at(deadline):
                    await woken.wait()
            except TimeoutError:
                return []
        return []

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        generation = self._member_generation()
        if foreign := set(offsets) - self._assignment:
            raise LostAssignment(f"group {self.group} has not assigned {min(foreign)} to this member")
        for at, next_ in offsets.items():
            self._bus.writer.defer((self.group, at), self._commit_operation(generation, {at: next_}))

    async def committed(self, partition: TopicPartition) -> int | None:
        return await self._bus.writer.submit(lambda ledger: ledger.committed(self.group, partition))

    def seek(self, partition: TopicPartition, offset: int) -> None:
        if partition not in self._assignment:
            raise LostAssignment(f"group {self.group} has not assigned {partition} to this member")
        self._positions[partition] = offset
        self._bus.wake()

    def pause(self, *partitions: TopicPartition) -> None:
        self._paused.update(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        self._paused.difference_update(partitions)
        self._bus.wake()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._assignment = frozenset()
        self._bus.forget(self)
        self._bus.wake()
        generation = self._generation
        if generation is not None:
            await self._bus.writer.submit(lambda ledger: lease.release(ledger, self.group, generation))

    async def beat(self) -> None:
        """Refresh the lease; called by the bus every HEARTBEAT_S."""
        if self._generation is None or self._lost:
            return
        generation = self._generation
        try:
            await self._bus.writer.submit(lambda ledger: lease.beat(ledger, self.group, generation))
        except LostAssignment:
            self._lose(generation)

    def _commit_operation(self, generation: int, offsets: Mapping[TopicPartition, int]) -> Operation[None]:
        def operation(ledger: Ledger) -> None:
            try:
                lease.beat(ledger, self.group, generation)
            except LostAssignment:
                self._bus.call_soon(self._lose, generation)
                raise
            ledger.commit_offsets(self.group, offsets)

        return operation

    def _member_generation(self) -> int:
        if self._closed:
            raise BusDown(f"the consumer of group {self.group} is closed")
        if self._generation is None or self._lost:
            raise LostAssignment(f"group {self.group} was taken over by another member")
        return self._generation

    def _lose(self, generation: int) -> None:
        if generation == self._generation and not self._closed:
            self._lost = True
            self._bus.wake()

    async def _settle_membership(self) -> None:
        """Give up what was taken over, join again, and tell the owner, before the next record is fetched."""
        if self._lost:
            lost, self._assignment = self._assignment, frozenset()
            if lost and self._on_revoked is not None:
                await self._on_revoked(lost)
            try:
                await self.join()
            except Permanent as error:
                raise LostAssignment(str(error)) from error
        if self._assignment:
            return
        gained = []
        for name in self._topics:
            topic = await self._bus.reader.topic(name)
            gained += [TopicPartition(name, partition) for partition in range(topic.partitions)]
        self._positions = await self._bus.writer.submit(
            lambda ledger: {at: ledger.committed(self.group, at) or 0 for at in gained}
        )
        self._assignment = frozenset(gained)
        if self._on_assigned is not None:
            try:
                await self._on_assigned(self._assignment)
            except BaseException:
                self._assignment = frozenset()  # so that the next fetch tells it again
                raise

    async def _take(self, limit: int) -> list[Record]:
        heads = self._bus.heads
        behind = {
            at: position
            for at, position in self._positions.items()
            if position < heads.get(at, 0) and at not in self._paused
        }
        if not behind or limit <= 0:
            return []
        found = await self._bus.reader.slices(behind, limit)
        records: list[Record] = []
        for at, slice_ in found.items():
            if self._positions.get(at) != behind[at] or at in self._paused or self._closed or self._lost:
                continue  # moved, paused or lost while the disk was read
            self._positions[at] = slice_.next
            records += slice_.records
        # The partitions just served go to the end of the line, so none is starved by a busy one.
        for at in found:
            self._positions[at] = self._positions.pop(at)
        return records
