"""Which offsets are committed, and which partitions are held back.

Rules that must hold: an offset is committed only behind the contiguous prefix of finished records; a partition whose
unfinished records are too many or too old gives no more for a while (see `progress`), and one that is stopped gives
none at all. Only this object pauses and resumes.
"""

from __future__ import annotations

import asyncio

from towline.bus.port import Assignment, Consumer, TopicPartition
from towline.delivery.progress import LONGEST_OPEN, MOST_OPEN, Progress, held_back


class Commits:
    def __init__(self, *, most_open: int = MOST_OPEN, longest_open: float = LONGEST_OPEN) -> None:
        self._most_open = most_open
        self._longest_open = longest_open
        self._consumer: Consumer | None = None
        self._progress: dict[TopicPartition, Progress] = {}
        self._held_back: set[TopicPartition] = set()
        self._stopped: set[TopicPartition] = set()
        self._stirred = asyncio.Event()

    def follow(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def progress(self, at: TopicPartition) -> Progress:
        return self._progress.setdefault(at, Progress())

    def finished(self, at: TopicPartition, progress: Progress, offset: int) -> None:
        """`progress` is where the record was started: after a loss it is nobody's, and tells nothing any more."""
        progress.finished(offset)
        self.stir()
        if at in self._held_back and self._progress.get(at) is progress:
            self._weigh(at, progress)

    def hold_back(self) -> None:
        """Pause what has too many records open, or too old ones; asked again and again."""
        for at, progress in self._progress.items():
            if progress.gap:
                self._weigh(at, progress)

    def _weigh(self, at: TopicPartition, progress: Progress) -> None:
        before, age = at in self._held_back, progress.age(asyncio.get_running_loop().time())
        now = held_back(before, progress.gap, age, most=self._most_open, longest=self._longest_open)
        if now and not before:
            self._held_back.add(at)
            self._pause(at)
        elif before and not now:
            self._held_back.discard(at)
            self._resume(at)

    def stop(self, partitions: Assignment) -> None:
        """Let them give nothing until `go`, or until they are lost."""
        self._stopped |= partitions
        self._pause(*partitions)

    def go(self, partitions: Assignment) -> None:
        self._stopped -= partitions
        self._resume(*partitions)

    def _pause(self, *partitions: TopicPartition) -> None:
        if self._consumer is not None:
            self._consumer.pause(*partitions)

    def _resume(self, *partitions: TopicPartition) -> None:
        if self._consumer is not None:
            self._consumer.resume(*(at for at in partitions if at not in self._held_back | self._stopped))

    @property
    def gap(self) -> int:
        return sum(progress.gap for progress in self._progress.values())

    def oldest(self, now: float) -> float:
        """Seconds since the oldest unfinished record of all was taken; 0 when there is none."""
        return max((progress.age(now) for progress in self._progress.values()), default=0.0)

    @property
    def assignment(self) -> Assignment:
        return frozenset() if self._consumer is None else self._consumer.assignment

    def stir(self) -> None:
        self._stirred.set()

    async def stirred(self) -> None:
        """Returns when something was finished since the last commit."""
        await self._stirred.wait()

    async def commit(self) -> None:
        """Raises BusDown, LostAssignment.

        What this member does not have is left out: it would be refused, and with it what others wait for.
        """
        self._stirred.clear()
        ready = {
            at: offset
            for at, progress in self._progress.items()
            if at in self.assignment and (offset := progress.to_commit()) is not None
        }
        if ready and self._consumer is not None:
            progress = {at: self._progress[at] for at in ready}
            await self._consumer.commit(ready)
            for at, offset in ready.items():
                progress[at].committed(offset)

    async def committed(self, at: TopicPartition) -> int:
        """The group's offset; 0 when it has none. Raises BusDown."""
        known = self.progress(at).last_committed
        if known is None and self._consumer is not None:
            known = await self._consumer.committed(at)
        return known or 0

    def drop(self, lost: Assignment) -> None:
        for at in lost:
            self._progress.pop(at, None)
        held = lost & (self._held_back | self._stopped)
        self._held_back -= lost
        self._stopped -= lost
        self._resume(*held)
