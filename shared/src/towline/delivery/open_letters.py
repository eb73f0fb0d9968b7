"""How many dead letters of a member's partitions are open: read once, then only what was added, when somebody looks.

Only ids are held, so a topic full of letters costs little. What cannot be read counts as nothing (see `letters.Fold`).
"""

from __future__ import annotations

from collections.abc import Collection

from towline import flow
from towline.bus.port import Bus, Record, TopicPartition
from towline.delivery.letters import ID, SAID, Said

_RESOLVED = frozenset({Said.REPLAYED.value.encode(), Said.DROPPED.value.encode()})


class OpenLetters:
    def __init__(self, service: str, bus: Bus) -> None:
        self._topic = flow.dead_of(service)
        self._bus = bus
        self._partitions: dict[int, _Partition] = {}

    @property
    def count(self) -> int:
        return sum(len(partition.open) for partition in self._partitions.values())

    async def look(self, held: Collection[int]) -> None:
        """Take in what was written since the last look, of the partitions held now. Raises BusDown."""
        for gone in self._partitions.keys() - set(held):
            del self._partitions[gone]
        if not held:
            return
        ends = await self._bus.ends([TopicPartition(self._topic, partition) for partition in held])
        for at, end in ends.items():
            known = self._partitions.setdefault(at.partition, _Partition())
            while known.next < end:
                records = await self._bus.read(at, start=known.next)
                if not records:
                    known.next = end
                for record in records:
                    known.feed(record)


class _Partition:
    def __init__(self) -> None:
        self.next = 0
        self.open: set[bytes] = set()
        self._resolved: set[bytes] = set()

    def feed(self, record: Record) -> None:
        self.next = record.offset + 1
        id = record.headers.get(ID)
        if id is None:
            return
        if SAID not in record.headers:
            if id not in self._resolved:  # a record that was given up again after a crash is the same letter
                self.open.add(id)
        elif record.headers[SAID] in _RESOLVED:
            self.open.discard(id)
            self._resolved.add(id)
