"""Which offsets are committed, and which partitions are held back.

Rules that must hold: an offset is committed only behind the contiguous prefix of finished records; a partition with
too many unfinished ones gives no more until half of them are done.
"""

from __future__ import annotations

import asyncio

from towline.bus.port import Assignment, Consumer, TopicPartition
from towline.delivery.progress import Progress

MOST_OPEN = 1000
"""Records of one partition that may be in work before it is paused."""


class Commits:
    def __init__(self) -> None:
        self._consumer: Consumer | None = None
        self._progress: dict[TopicPartition, Progress] = {}
        self._paused: set[TopicPartition] = set()
        self._stirred = asyncio.Event()

    def follow(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def progress(self, at: TopicPartition) -> Progress:
        return self._progress.setdefault(at, Progress())

    def finished(self, at: TopicPartition, progress: Progress, offset: int) -> None:
        """`progress` is where the record was started: after a loss it is nobody's, and tells nothing any more."""
        progress.finished(offset)
        self.stir()
        if at in self._paused and progress.gap < MOST_OPEN // 2 and self._consumer is not None:
            self._paused.discard(at)
            self._consumer.resume(at)

    def hold_back(self) -> None:
        """Pause what has too many records open."""
        for at, progress in self._progress.items():
            if progress.gap >= MOST_OPEN and at not in self._paused and self._consumer is not None:
                self._paused.add(at)
                self._consumer.pause(at)

    @property
    def gap(self) -> int:
        return sum(progress.gap for progress in self._progress.values())

    def stir(self) -> None:
        self._stirred.set()

    async def stirred(self) -> None:
        """Returns when something was finished since the last commit."""
        await self._stirred.wait()

    async def commit(self) -> None:
        """Raises BusDown, LostAssignment."""
        self._stirred.clear()
        ready = {at: offset for at, p in self._progress.items() if (offset := p.to_commit()) is not None}
        if ready and self._consumer is not None:
            await self._consumer.commit(ready)
            for at, offset in ready.items():
                if at in self._progress:
                    self._progress[at].committed(offset)

    async def committed(self, at: TopicPartition) -> int:
        """The group's offset; 0 when it has none. Raises BusDown."""
        known = self.progress(at).last_committed
        if known is None and self._consumer is not None:
            known = await self._consumer.committed(at)
        return known or 0

    def drop(self, lost: Assignment) -> None:
        for at in lost:
            self._progress.pop(at, None)
        if held := self._paused & lost:
            self._paused -= held
            if self._consumer is not None:
                self._consumer.resume(*held)
