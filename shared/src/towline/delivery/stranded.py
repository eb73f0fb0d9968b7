"""Whether a member has no share of its group's work while nobody does that work.

To have no partition is no fault by itself: there may be more members than partitions. It is one when records wait and
the group's offsets stand still.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from towline.bus.port import Bus, BusDown, Consumer, LostAssignment, TopicPartition

LOOK_EVERY = 15.0


class Stranded:
    def __init__(self, bus: Bus, topics: Sequence[str], partitions: int) -> None:
        self._bus = bus
        self._all = [TopicPartition(topic, partition) for topic in topics for partition in range(partitions)]
        self._before: Mapping[TopicPartition, int] | None = None
        self.is_stranded = False

    async def look_on(self, consumer: Consumer) -> None:
        """Look again and again; asks the bus only while there is no partition."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            if consumer.assignment:
                self._before, self.is_stranded = None, False
                continue
            try:
                waiting = await self._waiting(consumer)
            except (BusDown, LostAssignment):
                continue
            self.is_stranded = bool(waiting) and waiting == self._before
            self._before = waiting

    async def _waiting(self, consumer: Consumer) -> dict[TopicPartition, int]:
        """Partitions with records behind the group's offset, and that offset."""
        ends = await self._bus.ends(self._all)
        found = {}
        for at in self._all:
            committed = await consumer.committed(at) or 0
            if committed < ends[at]:
                found[at] = committed
        return found
