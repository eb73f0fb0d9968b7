"""Writes a log as items elsewhere: records first, the groups' offsets last.

Rules that must hold:

- Every partition of the new log is what the items say, from offset 0 and without holes, or is not touched. What an
  earlier try has written already is compared and passed over, so a second try goes on where the first one stopped.
- Nobody is in the groups before, and the groups begin only once the tail was seen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

from towline.bus.moving.items import FORMAT, Begin, Committed, Destination, End, Head, Item, Tail
from towline.bus.moving.offsets import Offsets
from towline.bus.port import Cleanup, NewRecord, Record, TopicPartition
from towline.bus.size import record_bytes
from towline.errors import BadInput

_BATCH_RECORDS = 500
_BATCH_BYTES = 1024 * 1024
_TOLD_EVERY = 1000

Rewrite = Callable[[Record, Offsets], NewRecord | None]
"""A record as the new log must have it: what it says of offsets, said anew. None: it does not move. Raises BadInput."""


@dataclass
class Moved:
    """What was done."""

    records: int = 0
    written: int = 0
    """Fewer than `records` when an earlier try had written some."""
    lost: dict[TopicPartition, tuple[tuple[int, int], ...]] = field(default_factory=dict)


class Load:
    def __init__(self, to: Destination, rewrite: Rewrite, *, although_running: bool, although_damaged: bool) -> None:
        self._to = to
        self._rewrite = rewrite
        self._although_running = although_running
        self._although_damaged = although_damaged
        self._offsets = Offsets()
        self._compacted: Mapping[str, bool] = {}
        self._ends: Mapping[TopicPartition, int] = {}
        self._committed: list[Committed] = []
        self._groups: tuple[str, ...] = ()
        self._moved = Moved()

    async def run(self, items: AsyncIterator[Item], progress: Callable[[Moved], None] = lambda _: None) -> Moved:
        """Raises BadInput, BusDown (run again: it goes on), and what reading the items raises."""
        partition: _Partition | None = None
        async for item in items:
            match item:
                case Record():
                    assert partition is not None, "the format has a Begin before every record"
                    if (record := self._rewrite(item, self._offsets)) is not None:
                        await partition.take(record, item.offset)
                    self._moved.records += 1
                    if self._moved.records % _TOLD_EVERY == 0:
                        progress(self._moved)
                case Begin():
                    self._offsets.begin(item.at)
                    compacted = self._compacted[item.at.topic]
                    partition = _Partition(self._to, item.at, self._ends[item.at], compacted, self._offsets)
                case End():
                    assert partition is not None, "the format has a Begin before every End"
                    self._moved.written += await partition.finish()
                    if item.lost:
                        self._moved.lost[item.at] = item.lost
                    progress(self._moved)
                case Committed():
                    self._committed.append(item)
                case Head():
                    await self._begin(item)
                case Tail():
                    await self._end()
        return self._moved

    async def _begin(self, head: Head) -> None:
        if head.format != FORMAT:
            raise BadInput(f"the log has format {head.format}, this version knows {FORMAT}: upgrade Towline")
        if head.running and not self._although_running:
            raise BadInput(
                f"{', '.join(head.running)} ran while this log was exported, and what they did afterwards is not in "
                f"it: stop them and export again, or take it as it is with --although-running"
            )
        if head.damaged and not self._although_damaged:
            raise BadInput(
                "this log was exported from a damaged file and may lack records: "
                "take it as it is with --although-damaged"
            )
        for group in head.groups:
            if members := await self._to.members(group):
                raise BadInput(
                    f"group {group} of the bus to be written has a member ({', '.join(members)}): stop every service "
                    f"of it first, and start them when the import is done"
                )
        await self._to.ensure(head.topics)
        self._groups = head.groups
        self._compacted = {topic.name: topic.cleanup is Cleanup.COMPACT for topic in head.topics}
        self._ends = await self._to.ends([TopicPartition(t.name, n) for t in head.topics for n in range(t.partitions)])

    async def _end(self) -> None:
        for group in self._groups:
            wanted = {c.at: self._offsets.next_of(c.at, c.next) for c in self._committed if c.group == group}
            present = await self._to.offsets(group)
            for at, next_ in present.items():
                if at in self._ends and wanted.get(at, 0) != next_:
                    raise BadInput(
                        f"group {group} has committed {next_} in {at.topic}/{at.partition} of this bus, where the log "
                        f"says {wanted.get(at, 0)}: a service has run on it; import into a new bus"
                    )
            if missing := {at: next_ for at, next_ in wanted.items() if at not in present}:
                await self._to.commit_for(group, missing)


class _Partition:
    """One partition as it is written: compared as far as it is there already, then appended in batches."""

    def __init__(self, to: Destination, at: TopicPartition, end: int, compacted: bool, offsets: Offsets) -> None:
        self._to = to
        self._at = at
        self._end = end
        self._compacted = compacted
        self._offsets = offsets
        self._next = 0
        self._present: list[Record] = []
        self._read_to = 0
        self._batch: list[NewRecord] = []
        self._bytes = 0
        self._written = 0

    async def take(self, record: NewRecord, old: int) -> None:
        self._offsets.add(self._at, old, self._next)
        if self._next < self._end:
            await self._compare(record)
        else:
            self._batch.append(record)
            self._bytes += record_bytes(record)
            if len(self._batch) >= _BATCH_RECORDS or self._bytes >= _BATCH_BYTES:
                await self._write()
        self._next += 1

    async def finish(self) -> int:
        """How many were written; raises BadInput when the partition has more than the log says."""
        await self._write()
        if self._end > self._next:
            raise self._foreign(self._next)
        return self._written

    async def _write(self) -> None:
        if not self._batch:
            return
        first = await self._to.append(self._at, self._batch)
        if first != self._end + self._written:
            raise self._foreign(self._end + self._written)  # somebody writes beside this
        self._written += len(self._batch)
        self._batch, self._bytes = [], 0

    async def _compare(self, record: NewRecord) -> None:
        while self._read_to <= self._next and not (self._present and self._present[0].offset >= self._next):
            found = await self._to.read(self._at, start=max(self._read_to, self._next), limit=_BATCH_RECORDS)
            self._present = [each for each in found if each.offset < self._end]
            self._read_to = self._present[-1].offset + 1 if self._present else self._end
        if self._present and self._present[0].offset == self._next:
            if not _same(self._present.pop(0), record):
                raise self._foreign(self._next)
        elif not self._compacted:
            raise self._foreign(self._next)

    def _foreign(self, offset: int) -> BadInput:
        return BadInput(
            f"{self._at.topic}/{self._at.partition} of the bus to be written has records that are not from this log "
            f"(offset {offset}): import into a bus that has none"
        )


def _same(present: Record, record: NewRecord) -> bool:
    return (present.key, present.value, dict(present.headers)) == (record.key, record.value, dict(record.headers))


async def load(
    to: Destination,
    items: AsyncIterator[Item],
    rewrite: Rewrite,
    *,
    although_running: bool = False,
    although_damaged: bool = False,
    progress: Callable[[Moved], None] = lambda _: None,
) -> Moved:
    """Write the items to a bus. Raises BadInput, BusDown; a second call with the same items goes on from there."""
    loading = Load(to, rewrite, although_running=although_running, although_damaged=although_damaged)
    return await loading.run(items, progress)
