"""Rings due times. The times themselves are state; what is here is only an alarm that may be lost and set again."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from datetime import datetime

Ring = Callable[[str, str, datetime], Awaitable[None]]
LONGEST_WAIT = 30.0
"""Seconds between looks at the clock, so that a changed system time is noticed."""
_FEW = 64


class Timers:
    def __init__(self, ring: Ring, now: Callable[[], datetime]) -> None:
        self._ring = ring
        self._now = now
        self._heap: list[tuple[datetime, str, str]] = []
        self._set: dict[str, dict[str, datetime]] = {}
        self._rung: dict[str, dict[str, datetime]] = {}
        """What has rung and stands in its lane still, until the lane takes the ringing up."""
        self._count = 0
        self._changed = asyncio.Event()

    def set(self, lane_key: str, timers: Mapping[str, datetime]) -> None:
        """The lane's timers are these now; times that were set before and are gone do not ring, nor does one twice."""
        before = self._set.pop(lane_key, {})
        self._count += len(timers) - len(before)
        if timers:
            self._set[lane_key] = dict(timers)
        rung = {name: due for name, due in self._rung.pop(lane_key, {}).items() if timers.get(name) == due}
        if rung:
            self._rung[lane_key] = rung
        for name, due in timers.items():
            if before.get(name) != due:
                heapq.heappush(self._heap, (due, lane_key, name))
                self._changed.set()
        if len(self._heap) > 2 * self._count + _FEW:
            self._heap = [(due, key, name) for key, own in self._set.items() for name, due in own.items()]
            heapq.heapify(self._heap)

    def drop(self, keys: Collection[str]) -> None:
        for key in keys:
            self.set(key, {})

    async def run(self) -> None:
        while True:
            self._changed.clear()
            while self._heap and self._heap[0][0] <= self._now():
                due, lane_key, name = heapq.heappop(self._heap)
                stands = self._set.get(lane_key, {}).get(name) == due
                if stands and self._rung.get(lane_key, {}).get(name) != due:
                    self._rung.setdefault(lane_key, {})[name] = due
                    await self._ring(lane_key, name, due)
            wait = LONGEST_WAIT
            if self._heap:
                wait = min(wait, max(0.0, (self._heap[0][0] - self._now()).total_seconds()))
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()
