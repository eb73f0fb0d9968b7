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
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from towline.bus.port import MAX_APPEND_BYTES, NewRecord
from towline.bus.size import record_bytes
from towline.errors import Permanent

MOST_BYTES = MAX_APPEND_BYTES // 4
MOST_RECORDS = 1000

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class _Batch:
    records: Sequence[NewRecord]
    size: int
    written: asyncio.Future[None]


@dataclass(eq=False, slots=True)
class _Line:
    """The batches of one owned partition that wait for the append on its way."""

    waiting: deque[_Batch] = field(default_factory=deque)
    callers: int = 0
    task: asyncio.Task[None] | None = None


class GroupedAppends(Generic[K]):
    """`append` writes records to one place whole or not at all; a place is an owned partition."""

    def __init__(self, append: Callable[[K, Sequence[NewRecord]], Awaitable[None]]) -> None:
        self._append = append
        self._lines: dict[K, _Line] = {}

    async def append(self, at: K, records: Sequence[NewRecord]) -> None:
        """Returns when they are written. Raises what the append raises. A cancelled caller's batch may be written."""
        size = sum(record_bytes(record) for record in records)
        batch = _Batch(records, size, asyncio.get_running_loop().create_future())
        line = self._lines.setdefault(at, _Line())
        line.waiting.append(batch)
        if line.task is None:
            line.task = asyncio.create_task(self._write(at, line))
        line.callers += 1
        try:
            await batch.written
        finally:
            line.callers -= 1
            if not line.callers:  # nobody waits for what may still be on its way
                self._forget(at, line)
                line.task.cancel()

    def _forget(self, at: K, line: _Line) -> None:
        if self._lines.get(at) is line:
            del self._lines[at]

    async def _write(self, at: K, line: _Line) -> None:
        while group := _next_group(line.waiting):
            await self._write_group(at, group)
        self._forget(at, line)

    async def _write_group(self, at: K, group: Sequence[_Batch]) -> None:
        try:
            await self._append(at, [record for batch in group for record in batch.records])
        except Permanent as error:
            if len(group) == 1:
                _fail(group, error)
                return
            for batch in group:
                await self._write_group(at, (batch,))
        except Exception as error:
            _fail(group, error)
        else:
            for batch in group:
                if not batch.written.done():
                    batch.written.set_result(None)


def _next_group(waiting: deque[_Batch]) -> list[_Batch]:
    """From the front, as many as fit, at least one; without those that nobody waits for any more."""
    group: list[_Batch] = []
    size = records = 0
    while waiting:
        batch = waiting[0]
        if not batch.written.done():
            size += batch.size
            records += len(batch.records)
            if group and (size > MOST_BYTES or records > MOST_RECORDS):
                break
            group.append(batch)
        waiting.popleft()
    return group


def _fail(group: Sequence[_Batch], error: Exception) -> None:
    for batch in group:
        if not batch.written.done():
            batch.written.set_exception(error)
