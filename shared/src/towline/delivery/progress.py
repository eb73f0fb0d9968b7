"""Which offset of a partition may be committed: the end of the contiguous prefix of finished records.

Rule: an offset is committed only when every record before it is finished, in whatever order they finish.
"""

from __future__ import annotations

import heapq


class Progress:
    def __init__(self) -> None:
        self._open: list[int] = []
        self._finished: set[int] = set()
        self._next: int | None = None
        self._committed: int | None = None

    def started(self, offset: int) -> None:
        heapq.heappush(self._open, offset)

    def finished(self, offset: int) -> None:
        self._finished.add(offset)
        while self._open and self._open[0] in self._finished:
            first = heapq.heappop(self._open)
            self._finished.discard(first)
            self._next = first + 1

    @property
    def gap(self) -> int:
        """Records taken and not yet behind the contiguous prefix."""
        return len(self._open)

    def to_commit(self) -> int | None:
        """The next offset to read, when it is ahead of what was last committed."""
        return self._next if self._next != self._committed else None

    def committed(self, offset: int) -> None:
        self._committed = offset

    @property
    def last_committed(self) -> int | None:
        """None: nothing was committed by this member."""
        return self._committed
