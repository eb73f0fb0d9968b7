"""State batches of many lanes, written together: one append at a time to a partition, with all that came meanwhile.

Rules that must hold:

- A batch is in one append, whole; batches stand in the order in which they were given.
- One that cannot be written (it is too large) fails alone: those it was grouped with are written without it.

An idle partition is written to at once; under load a group grows while the one before it is on its way, so the cost of
an append, which is a round trip to a broker or a sync of a disk, is shared by all lanes that wait for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from towline.bus.port import MAX_APPEND_BYTES, NewRecord
from towline.bus.size import record_bytes
from towline.errors import Permanent

MOST_BYTES = MAX_APPEND_BYTES // 4
MOST_RECORDS = 1000

Append = Callable[[int, Sequence[NewRecord]], Awaitable[None]]
"""(partition, records): write them whole or not at all."""


@dataclass(frozen=True, slots=True)
class _Batch:
    records: Sequence[NewRecord]
    size: int
    written: asyncio.Future[None]


class GroupedAppends:
    def __init__(self, append: Append) -> None:
        self._append = append
        self._waiting: dict[int, deque[_Batch]] = {}
        """Partition with an append on its way → the batches behind it."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def append(self, partition: int, records: Sequence[NewRecord]) -> None:
        """Returns when they are written. Raises what the append raises. A cancelled caller's batch may be written."""
        size = sum(record_bytes(record) for record in records)
        batch = _Batch(records, size, asyncio.get_running_loop().create_future())
        if partition in self._waiting:
            self._waiting[partition].append(batch)
        else:
            self._waiting[partition] = deque((batch,))
            task = asyncio.create_task(self._write(partition))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await batch.written

    async def _write(self, partition: int) -> None:
        waiting = self._waiting[partition]
        try:
            while waiting:
                await self._write_group(partition, _next_group(waiting))
        finally:
            del self._waiting[partition]
            for batch in waiting:  # cancelled with the event loop
                batch.written.cancel()

    async def _write_group(self, partition: int, group: Sequence[_Batch]) -> None:
        try:
            await self._append(partition, [record for batch in group for record in batch.records])
        except Permanent as error:
            if len(group) == 1:
                _fail(group, error)
                return
            for batch in group:
                await self._write_group(partition, (batch,))
        except Exception as error:
            _fail(group, error)
        except BaseException:
            for batch in group:
                batch.written.cancel()
            raise
        else:
            for batch in group:
                if not batch.written.done():
                    batch.written.set_result(None)


def _next_group(waiting: deque[_Batch]) -> list[_Batch]:
    """From the front, as many as fit; at least one."""
    group = [waiting.popleft()]
    size, records = group[0].size, len(group[0].records)
    while waiting:
        size += waiting[0].size
        records += len(waiting[0].records)
        if size > MOST_BYTES or records > MOST_RECORDS:
            break
        group.append(waiting.popleft())
    return group


def _fail(group: Sequence[_Batch], error: Exception) -> None:
    for batch in group:
        if not batch.written.done():
            batch.written.set_exception(error)
