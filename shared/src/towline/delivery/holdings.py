"""The state partitions that this member owns: taken by a claim, written, followed, and given up (see `ownership`)."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from towline import flow
from towline.bus.port import MAX_APPEND_BYTES, Bus, LostAssignment, NewRecord, Record, TopicPartition
from towline.bus.size import record_bytes
from towline.delivery import ownership
from towline.delivery.grouped import GroupedAppends
from towline.delivery.outlast import outlast
from towline.delivery.ownership import SURE_FOR, Claim, Fenced, Rows

log = logging.getLogger(__name__)
_MOST_TOGETHER = 1000

OnFenced = Callable[[int], None]
"""Told once of a partition that another member claimed, before anybody gets the error."""
OnShadowed = Callable[[Collection[str]], None]
"""Told of row keys that somebody else may have written over: they must be written again."""


@dataclass(eq=False, slots=True)
class _Holding:
    at: TopicPartition
    claim: Claim
    next: int
    """The offset that the next record has if nobody else writes."""
    seen_at: float
    """When it was last certain that the claim is the highest."""
    headers: dict[str, bytes]
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    fenced: str = ""


class Holdings:
    """Of one service's state topic."""

    def __init__(self, service: str, bus: Bus, member: str, on_fenced: OnFenced, on_shadowed: OnShadowed) -> None:
        self._service = service
        self._topic = flow.state_of(service)
        self._bus = bus
        self._member = member
        self._on_fenced = on_fenced
        self._on_shadowed = on_shadowed
        self._held: dict[int, _Holding] = {}
        self._grouped = GroupedAppends(self._append)

    def __contains__(self, partition: int) -> bool:
        return partition in self._held

    async def take(self, partition: int) -> Rows:
        """Claim a partition and read it up to the claim. Raises Fenced when another claims at the same time.

        What a zombie wrote over, and the claims before, are put in order before anything else is written.
        """
        self.drop((partition,))
        at, rows = TopicPartition(self._topic, partition), Rows()
        read = await self._read(at, 0, await self._end(at), rows)
        claim = Claim(rows.highest + 1, secrets.token_hex(4), self._member)
        before = list(rows.claims)
        asked = _clock()
        record = ownership.claim_record(self._topic, partition, claim)
        first = await self._write(at, [record], claim)
        await self._read(at, read, first + 1, rows)
        other = ownership.overtaken_by(claim, rows.claims.values())
        if other is not None:
            raise Fenced(f"{at.topic}/{partition} is claimed by {other.member} at the same time")
        holding = _Holding(at, claim, first + 1, asked, ownership.headers(claim.generation))
        self._held[partition] = holding
        again = [NewRecord(at.topic, key, rows.counting.get(key), holding.headers, partition) for key in rows.shadowed]
        again += [NewRecord(at.topic, key, None, holding.headers, partition) for key in before]
        if rows.shadowed:
            log.warning(
                "rows written by a member that had lost the partition are put right",
                extra={"service": self._service, "partition": partition, "rows": len(rows.shadowed)},
            )
        await self.append_all(partition, again)
        return rows

    def headers(self, partition: int) -> dict[str, bytes]:
        """For every record of this partition. Raises Fenced when it is not held."""
        return self._holding(partition).headers

    async def append(self, partition: int, records: Sequence[NewRecord]) -> None:
        """Write as its owner, whole or not at all. Raises TooLarge, and Fenced: then it does not count.

        The records carry what `headers` gave, of this very ownership.
        """
        if not records:
            return
        holding = self._holding(partition)
        if records[0].headers is not holding.headers:
            raise Fenced(f"{holding.at.topic}/{partition} was given up and taken again meanwhile")
        await self._grouped.append(holding, records)

    async def _append(self, holding: _Holding, records: Sequence[NewRecord]) -> None:
        self._unless_fenced(holding)
        asked = _clock()
        try:
            first = await self._write(holding.at, records, holding.claim)
        except LostAssignment as error:  # a bus that compares generations itself
            raise self._fence(holding, str(error)) from error
        if first > holding.next:
            await self._look(holding, first)
        holding.next = max(holding.next, first + len(records))
        self._unless_fenced(holding)
        holding.seen_at = max(holding.seen_at, asked)

    async def append_all(self, partition: int, records: Sequence[NewRecord]) -> None:
        """As `append`, in as many batches as it takes."""
        batch: list[NewRecord] = []
        size = 0
        for record in records:
            size += record_bytes(record)
            if batch and (size > MAX_APPEND_BYTES // 2 or len(batch) == _MOST_TOGETHER):
                await self.append(partition, batch)
                batch, size = [], record_bytes(record)
            batch.append(record)
        await self.append(partition, batch)

    async def sure(self, partition: int) -> None:
        """Returns when nobody else owned the partition SURE_FOR seconds ago. Raises Fenced."""
        holding = self._holding(partition)
        asked = _clock()
        if asked - holding.seen_at > SURE_FOR:
            await self._look(holding, await self._end(holding.at))
            self._unless_fenced(holding)
            holding.seen_at = max(holding.seen_at, asked)
        self._unless_fenced(holding)

    async def ends(self, places: Collection[TopicPartition]) -> dict[str, int]:
        """Topic → where its partition ends, of what the owner of a partition reads."""
        if not places:
            return {}
        found = await outlast(self._service, lambda: self._bus.ends(places))
        return {at.topic: end for at, end in found.items()}

    async def follow(self) -> None:
        """Look at the end of every partition held. Raises BusDown."""
        held = {holding.at: holding for holding in self._held.values()}
        if not held:
            return
        asked = _clock()
        for at, end in (await self._bus.ends(list(held))).items():
            holding = held[at]
            if end > holding.next:
                await self._look(holding, end)
            if not holding.fenced:
                holding.seen_at = max(holding.seen_at, asked)

    def drop(self, partitions: Collection[int]) -> None:
        for partition in partitions:
            holding = self._held.pop(partition, None)
            if holding is not None:
                holding.fenced = holding.fenced or "it was given up"

    # -- inside ---------------------------------------------------------------------------------------------------

    def _holding(self, partition: int) -> _Holding:
        if partition not in self._held:
            raise Fenced(f"{self._topic}/{partition} is not held by this member")
        return self._held[partition]

    async def _look(self, holding: _Holding, end: int) -> None:
        """Read what this owner was not told of, up to `end` or further."""
        async with holding.reading:
            start = holding.next
            records: list[Record] = []
            while start < end:
                some = await outlast(self._service, lambda: self._bus.read(holding.at, start=start))  # noqa: B023
                if not some:
                    break
                records += some
                start = some[-1].offset + 1
            foreign = ownership.judge(holding.claim, records)
            if foreign.fenced_by is not None:
                self._fence(holding, f"claimed by {foreign.fenced_by.member}")
                return
            holding.next = max(holding.next, start, end)
        if foreign.shadowed and not holding.fenced:
            log.warning(
                "rows that this owner was not told of are written again",
                extra={"service": self._service, "partition": holding.at.partition, "rows": len(foreign.shadowed)},
            )
            self._on_shadowed(foreign.shadowed)

    def _fence(self, holding: _Holding, why: str) -> Fenced:
        partition = holding.at.partition
        if not holding.fenced:
            holding.fenced = why
            log.warning(
                "a partition is given up", extra={"service": self._service, "partition": partition, "because": why}
            )
            if self._held.get(partition) is holding:
                del self._held[partition]
                self._on_fenced(partition)
        return Fenced(f"{self._topic}/{partition} is given up: {holding.fenced}")

    def _unless_fenced(self, holding: _Holding) -> None:
        if holding.fenced:
            raise Fenced(f"{self._topic}/{holding.at.partition} is given up: {holding.fenced}")

    async def _read(self, at: TopicPartition, start: int, end: int, rows: Rows) -> int:
        """Fold the records before `end`; returns where to read on."""
        while start < end:
            records = await outlast(self._service, lambda: self._bus.read(at, start=start))  # noqa: B023
            for record in records:
                if record.offset < end:
                    rows.feed(record.key, record.value, ownership.generation_of(record.headers))
            if not records:
                break
            start = min(end, records[-1].offset + 1)
        return max(start, end)

    async def _end(self, at: TopicPartition) -> int:
        return await outlast(self._service, lambda: self._bus.end(at))

    async def _write(self, at: TopicPartition, records: Sequence[NewRecord], claim: Claim) -> int:
        return await outlast(self._service, lambda: self._bus.append(at, records, generation=claim.generation))


def _clock() -> float:
    """Seconds, also those during which the host slept."""
    return asyncio.get_running_loop().time() + ownership.suspended_seconds()
