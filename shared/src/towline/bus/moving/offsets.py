"""Where an offset of the old log is in the new one.

A log that is written anew has no holes: what retention and compaction took away is not written, and every record
after it has a smaller offset. Rule: a *next* offset, old or new, has the same records before it and after it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from towline.bus.port import TopicPartition


class Offsets:
    """Runs of neighbours, `(old first, old end, new first)`; a log that only loses its front is one run."""

    def __init__(self) -> None:
        self._runs: dict[TopicPartition, list[tuple[int, int, int]]] = {}
        self._topics: set[str] = set()

    def begin(self, at: TopicPartition) -> None:
        """Know the partition, also when no record comes."""
        self._topics.add(at.topic)
        self._runs.setdefault(at, [])

    def add(self, at: TopicPartition, old: int, new: int) -> None:
        """A record was written; to be called in the order of the log."""
        runs = self._runs[at]
        if runs and old < runs[-1][1]:
            raise ValueError(f"offset {old} of {at} comes behind {runs[-1][1] - 1}")
        if runs and (first := runs[-1])[1] == old and first[2] + old - first[0] == new:
            runs[-1] = (first[0], old + 1, first[2])
        else:
            runs.append((old, old + 1, new))

    def knows(self, topic: str) -> bool:
        return topic in self._topics

    def next_of(self, at: TopicPartition, next_: int) -> int:
        """The new next offset; 0 where nothing of the partition came before it."""
        runs = self._runs.get(at, [])
        place = bisect_left(runs, next_, key=lambda run: run[0]) - 1
        if place < 0:
            return 0
        old, end, new = runs[place]
        return new + min(next_, end) - old

    def record_of(self, at: TopicPartition, offset: int) -> int | None:
        """The new offset of a record; None when it was gone before the log moved."""
        runs = self._runs.get(at, [])
        place = bisect_right(runs, offset, key=lambda run: run[0]) - 1
        if place < 0 or offset >= runs[place][1]:
            return None
        return runs[place][2] + offset - runs[place][0]
