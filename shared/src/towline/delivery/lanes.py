"""The lanes of the assigned partitions, in memory and in the state topic.

Rules that must hold:

- What is in memory was durable first; a lane is rebuilt from the state topic alone.
- A row that only says "done" may wait for the next batch: losing it repeats a send or an effect under its old id.
- A forgotten lane keeps its cursor for a while, so that a redelivered event still finds it, and then leaves memory and
  log. Its next life has another epoch (see lane.Cursor), so nobody takes its new events for old ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from typing import Generic

from towline import flow
from towline.bus.partition import partition_of
from towline.bus.port import Bus, NewRecord, TopicPartition
from towline.delivery.lane import OUTBOX, Lane, Loader, Rows, records_of
from towline.delivery.model import S, Service
from towline.delivery.outlast import outlast
from towline.delivery.turn import Turn

FORGOTTEN_STAYS = 3600.0
"""Seconds that a forgotten lane still knows what it has seen."""
MOST_FORGOTTEN = 10_000
"""Beyond this many the longest forgotten go earlier."""
_MOST_TOGETHER = 1000

Committed = Callable[[TopicPartition], Awaitable[int]]
"""The group's committed offset of a partition."""


class Lanes(Generic[S]):
    def __init__(self, service: Service[S], bus: Bus, partitions: int, *, forgotten_stays: float) -> None:
        self._service = service
        self._bus = bus
        self._partitions = partitions
        self._forgotten_stays = forgotten_stays
        self._lanes: dict[str, Lane[S]] = {}
        self._stale: dict[str, Rows] = {}
        self._forgotten: dict[str, float] = {}
        """Key → since when, the longest forgotten first."""

    def __len__(self) -> int:
        return len(self._lanes)

    def get(self, key: str) -> Lane[S]:
        return self._lanes.get(key) or Lane(key, self._service.state())

    def partition_of(self, key: str) -> int:
        return partition_of(key, self._partitions)

    async def load(self, partition: int) -> list[Lane[S]]:
        """Rebuild the partition's lanes, to the end of what was written. Raises BusDown."""
        loader = Loader(self._service.state)
        at = self._state_of(partition)
        end, start = await self._bus.end(at), 0
        while start < end:
            records = await self._bus.read(at, start=start)
            if not records:
                break
            for record in records:
                loader.feed(record.key, record.value)
            start = records[-1].offset + 1
        lanes = loader.lanes()
        for key, lane in lanes.items():
            self._keep(key, lane)
        return list(lanes.values())

    async def store(self, turn: Turn[S]) -> None:
        """Make a turn durable, then let it stand. Raises TooLarge; then the old lane stands."""
        key = turn.lane.key
        stale = self._stale.pop(key, {})
        rows = {**stale, **turn.rows}
        try:
            await self._append(key, rows)
        except BaseException:
            self._stale[key] = {**stale, **self._stale.get(key, {})}
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
        await self._append(key, {"parked": reason.encode()})
        self._keep(key, replace(self.get(key), parked=reason))

    async def release(self, key: str) -> None:
        """The key is parked no more."""
        await self._append(key, {"parked": None})
        self._keep(key, replace(self.get(key), parked=None))

    async def flush(self, busy: Collection[str]) -> None:
        """Write what only says "done", in one batch per partition; a busy lane takes it along with its next turn."""
        batches: dict[int, list[NewRecord]] = {}
        for key in [key for key in self._stale if key not in busy]:
            partition = self.partition_of(key)
            topic = flow.state_of(self._service.name)
            batches.setdefault(partition, []).extend(records_of(topic, partition, key, self._stale.pop(key)))
        await asyncio.gather(*(self._write(partition, records) for partition, records in batches.items()))

    async def sweep(self, busy: Collection[str], committed: Committed) -> None:
        """Let forgotten lanes go whose time has passed and whose events cannot come again from the group's offsets."""
        now = asyncio.get_running_loop().time()
        for key, since in list(self._forgotten.items()):
            if now - since < self._forgotten_stays and len(self._forgotten) <= MOST_FORGOTTEN:
                return
            lane = self._lanes.get(key)
            if lane is None or key in busy or key in self._stale or not await self._is_behind(lane, committed):
                continue
            if self._lanes.get(key) is not lane:  # lost, or used again, while the offsets were asked for
                continue
            await self._append(key, {"cursor": None})
            if (now_there := self._lanes.get(key)) is lane:
                del self._lanes[key], self._forgotten[key]
            elif now_there is not None:  # it got an event meanwhile, whose cursor this tombstone may have followed
                self._stale.setdefault(key, {})["cursor"] = now_there.cursor.model_dump_json(
                    exclude_defaults=True
                ).encode()

    def drop(self, partitions: Collection[int]) -> list[str]:
        """Leave partitions to others; returns the keys that were held there."""
        gone = [key for key in self._lanes if self.partition_of(key) in partitions]
        for key in gone:
            del self._lanes[key]
            self._stale.pop(key, None)
            self._forgotten.pop(key, None)
        return gone

    # -- inside ---------------------------------------------------------------------------------------------------

    def _keep(self, key: str, lane: Lane[S]) -> None:
        self._lanes[key] = lane
        if not lane.idle:
            self._forgotten.pop(key, None)
        elif key not in self._forgotten:
            self._forgotten[key] = asyncio.get_running_loop().time()

    async def _is_behind(self, lane: Lane[S], committed: Committed) -> bool:
        partition = self.partition_of(lane.key)
        for topic, next_offset in lane.cursor.positions.items():
            if await committed(TopicPartition(topic, partition)) < next_offset:
                return False
        return True

    async def _append(self, key: str, rows: Rows) -> None:
        partition = self.partition_of(key)
        records = records_of(flow.state_of(self._service.name), partition, key, rows)
        if records:
            await outlast(self._service.name, lambda: self._bus.append(self._state_of(partition), records))

    async def _write(self, partition: int, records: list[NewRecord]) -> None:
        for start in range(0, len(records), _MOST_TOGETHER):
            some = records[start : start + _MOST_TOGETHER]
            await outlast(self._service.name, lambda some=some: self._bus.append(self._state_of(partition), some))  # type: ignore[misc]

    def _state_of(self, partition: int) -> TopicPartition:
        return TopicPartition(flow.state_of(self._service.name), partition)
