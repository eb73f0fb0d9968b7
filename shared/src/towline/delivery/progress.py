"""Which offset of a partition may be committed, and whether the partition gives more: pure, for one partition.

Rules: an offset is committed only when every record before it is finished, in whatever order they finish. A partition
whose unfinished records are too many, or too old, is paused until half of them, and all the old ones, are done: what
a restart has to read again stays bounded.
"""

from __future__ import annotations

import heapq

MOST_OPEN = 1000
"""Records of one partition that may be in work before it is paused."""
LONGEST_OPEN = 60.0
"""Seconds that the oldest of them may be in work before it is paused."""


def held_back(paused: bool, gap: int, age: float, *, most: int, longest: float) -> bool:
    """Whether a partition is paused from now on; `paused` says whether it is."""
    return age >= longest or gap >= (max(1, most // 2) if paused else most)


class Progress:
    def __init__(self) -> None:
        self._open: list[tuple[int, float]] = []
        self._finished: set[int] = set()
        self._next: int | None = None
        self._committed: int | None = None

    def started(self, offset: int, now: float = 0.0) -> None:
        """`now` in seconds of any steady clock."""
        heapq.heappush(self._open, (offset, now))

    def finished(self, offset: int) -> None:
        self._finished.add(offset)
        while self._open and self._open[0][0] in self._finished:
            first, _ = heapq.heappop(self._open)
            self._finished.discard(first)
            self._next = first + 1

    @property
    def gap(self) -> int:
        """Records taken and not yet behind the contiguous prefix."""
        return len(self._open)

    def age(self, now: float) -> float:
        """Seconds since the oldest unfinished record was taken; 0 when there is none."""
        return now - self._open[0][1] if self._open else 0.0

    def to_commit(self) -> int | None:
        """The next offset to read, when it is ahead of what was last committed."""
        return self._next if self._next != self._committed else None

    def committed(self, offset: int) -> None:
        self._committed = offset

    @property
    def last_committed(self) -> int | None:
        """None: nothing was committed by this member."""
        return self._committed
