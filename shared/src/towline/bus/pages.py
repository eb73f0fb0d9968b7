"""Reading a partition to its end, without a group and in constant memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

from towline.bus.port import Bus, Record, TopicPartition


async def records_from(bus: Bus, at: TopicPartition, start: int = 0) -> AsyncIterator[Record]:
    """Every record from `start` on, to the end that the log has by then. Raises BusDown."""
    while records := await bus.read(at, start=start):
        for record in records:
            yield record
        start = records[-1].offset + 1
