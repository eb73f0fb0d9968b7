"""Rings due times. The times themselves are state; what is here is only an alarm that may be lost and set again."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

Ring = Callable[[str, str, datetime], Awaitable[None]]
LONGEST_WAIT = 30.0
"""Seconds between looks at the clock, so that a changed system time is noticed."""


class Timers:
    def __init__(self, ring: Ring, now: Callable[[], datetime]) -> None:
        self._ring = ring
        self._now = now
        self._heap: list[tuple[datetime, str, str]] = []
        self._set: dict[tuple[str, str], datetime] = {}
        self._changed = asyncio.Event()

    def set(self, lane_key: str, timers: Mapping[str, datetime]) -> None:
        """The lane's timers are these now; times that were set before and are gone do not ring."""
        for key, name in [pair for pair in self._set if pair[0] == lane_key and pair[1] not in timers]:
            del self._set[key, name]
        for name, due in timers.items():
            if self._set.get((lane_key, name)) != due:
                self._set[lane_key, name] = due
                heapq.heappush(self._heap, (due, lane_key, name))
                self._changed.set()

    async def run(self) -> None:
        while True:
            self._changed.clear()
            while self._heap and self._heap[0][0] <= self._now():
                due, lane_key, name = heapq.heappop(self._heap)
                if self._set.pop((lane_key, name), None) == due:
                    await self._ring(lane_key, name, due)
            wait = LONGEST_WAIT
            if self._heap:
                wait = min(wait, max(0.0, (self._heap[0][0] - self._now()).total_seconds()))
            try:
                await asyncio.wait_for(self._changed.wait(), timeout=wait)
            except TimeoutError:
                continue
