"""The lanes of the assigned partitions, in memory and in the state topic.

Rules that must hold:

- What is in memory was durable first; a lane is rebuilt from the state topic alone.
- The rows of one lane are written one batch after the other, also when the bus fails in between: a later batch never
  stands before an earlier one.
- A row that only says "done" may wait for the next batch: losing it repeats a send or an effect under its old id. So
  may a row that somebody else has written over (see ownership).
- A forgotten lane keeps its cursor for a while, so that a redelivered event still finds it, and then leaves memory and
  log. Its next life has another epoch (see lane.Cursor), so nobody takes its new events for old ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Generic

from towline import flow
from towline.bus.partition import partition_of
from towline.bus.port import Bus, LostAssignment, NewRecord, TopicPartition
from towline.delivery import anew
from towline.delivery.forgotten import FORGOTTEN_STAYS, Forgotten
from towline.delivery.holdings import Holdings
from towline.delivery.lane import OUTBOX, SEPARATOR, Lane, Rows, lanes_of, records_of, rows_of
from towline.delivery.model import S, Service
from towline.delivery.turn import Turn

log = logging.getLogger(__name__)

Committed = Callable[[TopicPartition], Awaitable[int]]
"""The group's committed offset of a partition."""


class Lanes(Generic[S]):
    """`on_fenced` is told at once of a partition that another member has claimed."""

    def __init__(
        self,
        service: Service[S],
        bus: Bus,
        partitions: int,
        *,
        forgotten_stays: float = FORGOTTEN_STAYS,
        member: str = "",
        on_fenced: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._service = service
        self._partitions = partitions
        self._forgotten = Forgotten(forgotten_stays)
        self._holdings = Holdings(service.name, bus, member, on_fenced, self._write_again)
        self._lanes: dict[str, Lane[S]] = {}
        self._stale: dict[str, Rows] = {}
        self._overwritten: dict[str, set[str]] = {}
        """Key → rows that must be written again."""
        self._writing: dict[str, asyncio.Future[None]] = {}

    def __len__(self) -> int:
        return len(self._lanes)

    def get(self, key: str) -> Lane[S]:
        return self._lanes.get(key) or Lane(key, self._service.state())

    @property
    def parked(self) -> int:
        """How many; counted anew, for who looks now and then."""
        return sum(lane.parked is not None for lane in self._lanes.values())

    def partition_of(self, key: str) -> int:
        return partition_of(key, self._partitions)

    # -- ownership ------------------------------------------------------------------------------------------------

    async def load(self, partition: int) -> list[Lane[S]]:
        """Claim the partition and rebuild its lanes, to the end of what was written. Raises LostAssignment."""
        rows = await self._holdings.take(partition)
        lanes = lanes_of(self._service.state, rows)
        lanes.update(await self._of_a_new_log(partition, lanes))
        for key, lane in lanes.items():
            self._keep(key, lane)
        return list(lanes.values())

    def holds(self, partition: int) -> bool:
        return partition in self._holdings

    async def sure(self, key: str) -> None:
        """Before anything of a lane leaves: returns when its partition was this member's a short time ago.

        Raises LostAssignment.
        """
        await self._holdings.sure(self.partition_of(key))

    @property
    def must_write(self) -> bool:
        """Rows wait to be written again: with the next turn of their lane, or with `flush`."""
        return bool(self._overwritten)

    async def follow(self) -> None:
        """See whether somebody else wrote to a partition held. Raises BusDown."""
        await self._holdings.follow()

    def drop(self, partitions: Collection[int]) -> list[str]:
        """Leave partitions to others; returns the keys that were held there."""
        self._holdings.drop(partitions)
        gone = [key for key in self._lanes if self.partition_of(key) in partitions]
        for key in gone:
            del self._lanes[key]
            self._stale.pop(key, None)
            self._forgotten.drop(key)
        for key in [key for key in self._overwritten if self.partition_of(key) in partitions]:
            del self._overwritten[key]
        return gone

    # -- writing --------------------------------------------------------------------------------------------------

    async def store(self, turn: Turn[S]) -> None:
        """Make a turn durable, then let it stand. Raises TooLarge, LostAssignment; then the old lane stands."""
        key = turn.lane.key
        async with self._alone((key,)):
            again, stale = self._overwritten.pop(key, set()), self._stale.pop(key, {})
            rows = {**_only(again, turn.lane), **stale, **turn.rows}
            try:
                await self._append(key, rows)
            except BaseException:
                self._stale[key] = {**stale, **self._stale.get(key, {})}
                self._overwritten.setdefault(key, set()).update(again)
                raise
            # An effect with nothing to tell may have ended while the turn was decided or stored.
            ended = [row for row, value in {**rows, **self._stale.get(key, {})}.items() if value is None]
            self._keep(key, turn.lane.done(row.removeprefix(OUTBOX) for row in ended))

    def done(self, key: str, id: str) -> None:
        """An outbox item needs no more."""
        lane = self._lanes.get(key)
        if lane is None or id not in lane.outbox:
            return
        self._keep(key, lane.done((id,)))
        self._stale.setdefault(key, {})[OUTBOX + id] = None

    async def park(self, key: str, reason: str) -> None:
        await self._set_parked(key, reason)

    async def release(self, key: str) -> None:
        """The key is parked no more."""
        await self._set_parked(key, None)

    async def flush(self, busy: Collection[str]) -> None:
        """Write what could wait, in one batch per partition; a busy lane takes it along with its next turn."""
        keys = [key for key in {**self._stale, **self._overwritten} if key not in busy and key not in self._writing]
        by_partition: dict[int, list[str]] = {}
        for key in keys:
            by_partition.setdefault(self.partition_of(key), []).append(key)
        await _all_of(self._flush(partition, some) for partition, some in by_partition.items())

    @property
    def crowded(self) -> bool:
        """So many are forgotten that `sweep` should not wait for its hour."""
        return self._forgotten.crowded

    async def sweep(self, busy: Collection[str], committed: Committed) -> None:
        """Let forgotten lanes go whose time has passed and whose events cannot come again from the group's offsets."""
        offset_of = _Asked(committed)
        leaving: dict[int, dict[str, Lane[S]]] = {}
        for key in self._forgotten.outlived(asyncio.get_running_loop().time()):
            lane = self._lanes.get(key)
            if lane is None or key in busy or key in self._stale or key in self._writing:
                continue
            if await self._is_behind(lane, offset_of):
                leaving.setdefault(self.partition_of(key), {})[key] = lane
        await _all_of(self._remove(partition, lanes) for partition, lanes in leaving.items())

    # -- inside ---------------------------------------------------------------------------------------------------

    async def _of_a_new_log(self, partition: int, lanes: Mapping[str, Lane[S]]) -> dict[str, Lane[S]]:
        """The lanes that must forget where they were in a log that is another now (see `anew`); durable on return."""
        name = self._service.name
        positions = anew.highest(lanes.values(), (*flow.topics_consumed_by(name), flow.inbox_of(name)))
        ends = await self._holdings.ends([TopicPartition(topic, partition) for topic in positions])
        topics = anew.begun(positions, ends)
        changed = {key: after for key, lane in lanes.items() if (after := anew.without(lane, topics)) is not lane}
        for topic in sorted(topics):
            said = {"at": f"{topic}/{partition}", "end": ends[topic], "handled_to": positions[topic]}
            log.error("a topic begins anew or has lost its end: its records are all taken for new", extra=said)
        headers, state = self._holdings.headers(partition), flow.state_of(name)
        records = [
            record
            for key, lane in changed.items()
            for record in records_of(state, partition, key, _only(("cursor",), lane), headers)
        ]
        await self._holdings.append_all(partition, records)
        return changed

    def _keep(self, key: str, lane: Lane[S]) -> None:
        self._lanes[key] = lane
        self._forgotten.note(key, idle=lane.idle, now=asyncio.get_running_loop().time())

    async def _is_behind(self, lane: Lane[S], committed: Committed) -> bool:
        partition = self.partition_of(lane.key)
        for topic, next_offset in lane.cursor.positions.items():
            if await committed(TopicPartition(topic, partition)) < next_offset:
                return False
        return True

    async def _remove(self, partition: int, lanes: Mapping[str, Lane[S]]) -> None:
        """In one batch; a lane that was lost, or used again, since it was looked at stays what it is."""
        async with self._alone(lanes):
            headers, topic = self._holdings.headers(partition), flow.state_of(self._service.name)
            records = [
                record
                for key, lane in lanes.items()
                if self._lanes.get(key) is lane
                for record in records_of(topic, partition, key, {"cursor": None}, headers)
            ]
            await self._holdings.append_all(partition, records)
            for key, lane in lanes.items():
                if self._lanes.get(key) is lane:
                    del self._lanes[key]
                    self._forgotten.drop(key)

    def _write_again(self, record_keys: Collection[str]) -> None:
        for record_key in record_keys:
            key, _, row = record_key.partition(SEPARATOR)
            self._overwritten.setdefault(key, set()).add(row)

    async def _set_parked(self, key: str, reason: str | None) -> None:
        async with self._alone((key,)):
            await self._append(key, {"parked": None if reason is None else reason.encode()})
            self._keep(key, replace(self.get(key), parked=reason))

    @asynccontextmanager
    async def _alone(self, keys: Collection[str]) -> AsyncIterator[None]:
        """While one batch of a lane is on its way, no other is."""
        while under_way := {self._writing[key] for key in keys if key in self._writing}:
            await asyncio.wait(under_way)
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writing.update(dict.fromkeys(keys, ended))
        try:
            yield
        finally:
            for key in keys:
                del self._writing[key]
            ended.set_result(None)

    async def _append(self, key: str, rows: Rows) -> None:
        partition = self.partition_of(key)
        headers = self._holdings.headers(partition)
        await self._holdings.append(
            partition, records_of(flow.state_of(self._service.name), partition, key, rows, headers)
        )

    async def _flush(self, partition: int, keys: Collection[str]) -> None:
        async with self._alone(keys):
            headers, topic = self._holdings.headers(partition), flow.state_of(self._service.name)
            again = {key: self._overwritten.pop(key) for key in keys if key in self._overwritten}
            records: list[NewRecord] = []
            for key in keys:
                rows = {**_only(again.get(key, ()), self._lanes.get(key)), **self._stale.pop(key, {})}
                records += records_of(topic, partition, key, rows, headers)
            try:
                await self._holdings.append_all(partition, records)
            except BaseException:
                for key, rows_again in again.items():
                    self._overwritten.setdefault(key, set()).update(rows_again)
                raise


class _Asked:
    """The group's offset of each partition, asked once."""

    def __init__(self, committed: Committed) -> None:
        self._committed = committed
        self._known: dict[TopicPartition, int] = {}

    async def __call__(self, at: TopicPartition) -> int:
        if at not in self._known:
            self._known[at] = await self._committed(at)
        return self._known[at]


async def _all_of(writing: Iterable[Awaitable[None]]) -> None:
    """Each partition's, whatever becomes of the others; one that was lost meanwhile is its new owner's."""
    for result in await asyncio.gather(*writing, return_exceptions=True):
        if isinstance(result, BaseException) and not isinstance(result, LostAssignment):
            raise result


def _only(rows: Collection[str], lane: Lane[S] | None) -> Rows:
    """These rows as the lane has them now; a tombstone for what it has not."""
    if not rows:
        return {}
    all_rows = {} if lane is None else rows_of(lane)
    return {row: all_rows.get(row) for row in rows}
