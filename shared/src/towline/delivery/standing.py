"""How a service stands, for its metrics: what it holds, what is in work, and how far it is behind.

Nothing here is kept up to date while nobody looks. Only the lag and the open dead letters need to ask: the bus for the
ends of the partitions, and the group for offsets that this member has not committed itself. They are asked at most
every LOOK_EVERY seconds, however many look, and an answer that does not come leaves the one before.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import Any

from towline.bus.port import Bus, BusDown, LostAssignment
from towline.delivery.commits import Commits
from towline.delivery.effects import Effects
from towline.delivery.intake import Intake
from towline.delivery.lanes import Lanes
from towline.delivery.open_letters import OpenLetters
from towline.telemetry.metrics import Standing

log = logging.getLogger(__name__)
LOOK_EVERY = 5.0
_ANSWERS_WITHIN = 2.0


class Observer:
    """Looks at the parts of one running service."""

    def __init__(
        self, service: str, bus: Bus, lanes: Lanes[Any], intake: Intake[Any], effects: Effects, commits: Commits
    ) -> None:
        self._service = service
        self._bus = bus
        self._lanes = lanes
        self._intake = intake
        self._effects = effects
        self._commits = commits
        self._letters = OpenLetters(service, bus)
        self._lag: dict[str, int] = {}
        self._looked_at = float("-inf")
        self._looking = asyncio.Lock()

    def standing(self) -> Standing:
        return Standing(
            partitions=len(self._commits.assignment),
            lag=self._lag,
            lanes=len(self._lanes),
            busy=len(self._intake.busy),
            parked=self._lanes.parked,
            dead_letters=self._letters.count,
            gap=self._commits.gap,
            oldest_seconds=self._commits.oldest(asyncio.get_running_loop().time()),
            resources=self._effects.use,
        )

    async def look(self) -> None:
        """Ask for the lag, unless somebody did a moment ago."""
        now = asyncio.get_running_loop().time
        async with self._looking:
            if now() - self._looked_at < LOOK_EVERY:
                return
            try:
                async with asyncio.timeout(_ANSWERS_WITHIN):
                    self._lag = await self._ask()
                    await self._letters.look({at.partition for at in self._commits.assignment})
            except (BusDown, LostAssignment, TimeoutError) as error:
                log.info("the lag is not known for now", extra={"service": self._service, "error": str(error)})
            self._looked_at = now()

    async def _ask(self) -> dict[str, int]:
        held = sorted(self._commits.assignment)
        ends = await self._bus.ends(held)
        committed = await asyncio.gather(*(self._commits.committed(at) for at in held))
        lag: Counter[str] = Counter()
        for at, next_offset in zip(held, committed, strict=True):
            lag[at.topic] += max(0, ends[at] - next_offset)
        return dict(lag)
