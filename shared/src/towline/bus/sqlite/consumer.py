"""One member of a group on the SQLite bus: its share of the partitions, positions, pausing, and its place in the group.

Positions move only when records are handed out, in the same step of the event loop: a cancelled `fetch` loses nothing.
A new generation is noticed in `fetch`: what is held is given up and acknowledged there, and once the generation is in
force (see `lease`) the new share is taken over, before the next record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from towline.bus.assign import range_assignment
from towline.bus.port import Assignment, BusDown, LostAssignment, OnAssignment, Record, TopicPartition
from towline.bus.sqlite import lease
from towline.bus.sqlite.ledger import Ledger
from towline.bus.sqlite.peers import Peers
from towline.bus.sqlite.writer import Operation
from towline.errors import Permanent, TowlineError

if TYPE_CHECKING:
    from towline.bus.sqlite.bus import SqliteBus


class SqliteConsumer:
    """Made by `SqliteBus.consumer`; a member of the group until `close`."""

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
        self._held: int | None = None
        """The generation last acknowledged; None: no member."""
        self._taken: int | None = None
        """The generation whose share is `_assignment`."""
        self._assignment: Assignment = frozenset()
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._peers = Peers(self._peer_ended)
        self._looking: asyncio.Task[None] | None = None
        self._placing: asyncio.Future[None] | None = None
        """A change of its place in the group that is under way; it ends, and is noted, whoever is cancelled."""
        self._beaten_at = 0.0
        self._lost = False
        self._closed = False

    @property
    def assignment(self) -> Assignment:
        return self._assignment

    async def join(self) -> None:
        """Become a member. Raises Permanent when a living process has the name, BusDown when it may have."""
        for topic in self._topics:
            await self._bus.reader.topic(topic)

        async def place() -> None:
            self._note(
                await self._bus.writer.submit(lambda ledger: lease.join(ledger, self.group, self._member, self._topics))
            )
            self._lost = False

        await self._surely(place())

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
        held = self._generation_held()
        if foreign := set(offsets) - self._assignment:
            raise LostAssignment(f"group {self.group} has not assigned {min(foreign)} to this member")
        for at, next_ in offsets.items():
            self._bus.writer.defer((self.group, at), self._commit_operation(held, {at: next_}))

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
        self._peers.close()
        self._bus.forget(self)
        self._bus.wake()
        await self._placed()
        held = self._held
        if held is not None:
            group = await self._bus.writer.submit(lambda ledger: lease.leave(ledger, self.group, self._member, held))
            self._bus.note_group(self.group, (group.generation, group.settled))

    async def beat(self) -> None:
        """Say that this member lives, and look after the others; called by the bus every HEARTBEAT_S."""
        if self._held is None or self._lost or self._closed:
            return
        held, now = self._held, asyncio.get_running_loop().time()
        watchful = now - self._beaten_at < 2 * lease.HEARTBEAT_S
        try:
            group = await self._bus.writer.submit(
                lambda ledger: lease.beat(ledger, self.group, self._member, held, watchful=watchful)
            )
        except LostAssignment:
            self._lose(held)
            return
        self._beaten_at = now
        self._watch(group)
        self._bus.note_group(self.group, (group.generation, group.settled))

    # -- membership ------------------------------------------------------------------------------------------------

    def _note(self, group: lease.Group) -> None:
        """This member has acknowledged the group's generation."""
        self._held = group.generation
        self._watch(group)
        self._bus.note_group(self.group, (group.generation, group.settled))

    def _watch(self, group: lease.Group) -> None:
        if not self._closed:
            self._peers.watch({each.process for each in group.members} - {lease.this_process()})

    def _peer_ended(self) -> None:
        async def look() -> None:
            with suppress(TowlineError):  # the next heartbeat looks again
                await self.beat()

        self._looking = asyncio.create_task(look())

    def _commit_operation(self, held: int, offsets: Mapping[TopicPartition, int]) -> Operation[None]:
        def operation(ledger: Ledger) -> None:
            try:
                lease.check(ledger, self.group, self._member, held)
            except LostAssignment:
                self._bus.call_soon(self._lose, held)
                raise
            ledger.commit_offsets(self.group, offsets)

        return operation

    def _generation_held(self) -> int:
        if self._closed:
            raise BusDown(f"the consumer of group {self.group} is closed")
        if self._held is None or self._lost:
            raise LostAssignment(f"group {self.group} goes on without member {self._member}")
        return self._held

    def _lose(self, held: int) -> None:
        if held == self._held and not self._closed:
            self._lost = True
            self._bus.wake()

    async def _settle_membership(self) -> None:
        """Until this member has its share of the present generation, or waits for others to acknowledge it.

        The last look is not followed by an await: whatever changes after it wakes who waits.
        """
        while not self._closed:
            await self._placed()
            generation, settled = self._bus.groups.get(self.group, (0, 0))
            if self._lost or self._held is None:
                await self._give_up()
                await self._join_again()
            elif generation > self._held:
                await self._give_up()
                await self._acknowledge(self._held)
            elif settled == self._held and self._taken != self._held:
                await self._take_over(self._held)
            else:
                return

    async def _join_again(self) -> None:
        try:
            await self.join()
        except Permanent as error:
            raise LostAssignment(str(error)) from error

    async def _acknowledge(self, held: int) -> None:
        async def place() -> None:
            try:
                self._note(
                    await self._bus.writer.submit(
                        lambda ledger: lease.acknowledge(ledger, self.group, self._member, held)
                    )
                )
            except LostAssignment:
                self._lose(held)

        await self._surely(place())

    async def _surely(self, placing: Coroutine[Any, Any, None]) -> None:
        """A transaction is done whoever is cancelled, so it is noted too: else the group would have a ghost here."""
        self._placing = asyncio.ensure_future(placing)
        await asyncio.shield(self._placing)

    async def _placed(self) -> None:
        if self._placing is not None:
            with suppress(TowlineError):  # told to whoever began it, or tried again
                await asyncio.shield(self._placing)
            self._placing = None

    async def _give_up(self) -> None:
        """Tell the loss; while it is told, what is finished can still be committed. When cancelled it is told again."""
        if self._assignment and self._on_revoked is not None:
            try:
                await self._on_revoked(self._assignment)
            except asyncio.CancelledError:
                raise
            except BaseException:
                self._assignment = frozenset()
                raise
        self._assignment = frozenset()
        self._positions = {}
        self._taken = None

    async def _take_over(self, held: int) -> None:
        positions = await self._bus.writer.submit(lambda ledger: self._share(ledger, held))
        if positions is None:  # the next generation has begun meanwhile
            return
        self._positions = positions
        self._assignment = frozenset(positions)
        if self._assignment and self._on_assigned is not None:
            try:
                await self._on_assigned(self._assignment)
            except BaseException:
                self._assignment = frozenset()  # so that the next fetch tells it again
                raise
        self._taken = held

    def _share(self, ledger: Ledger, held: int) -> dict[TopicPartition, int] | None:
        group = lease.find(ledger, self.group)
        if group.generation != held:
            self._bus.call_soon(self._bus.note_group, self.group, (group.generation, group.settled))
            return None
        partitions = {name: ledger.topic(name).partitions for name in self._topics}
        shares = range_assignment({each.name: each.topics for each in group.members}, partitions)
        mine = sorted(shares.get(self._member, ()))
        return {at: self._begin_at(ledger, at) for at in mine}

    def _begin_at(self, ledger: Ledger, at: TopicPartition) -> int:
        """The committed offset; the first record that is left where retention took more away, which is told."""
        committed, first = ledger.committed(self.group, at), ledger.first(at)
        if committed is not None and committed < first:
            ledger.commit_offsets(self.group, {at: first})  # so that it is told once
            self._bus.call_soon(self._bus.note_skipped, self.group, at, first - committed)
        return max(committed or 0, first)

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
