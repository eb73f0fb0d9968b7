"""The end of a record that cannot be handled: its key is parked, its bytes go to the dead letters.

Rule that must hold: the bytes of a record and the reason are durable there before its offset may advance.
"""

from __future__ import annotations

import logging
from typing import Generic

from towline import flow
from towline.bus.port import Bus, NewRecord, Record
from towline.delivery import codec
from towline.delivery.lanes import Lanes
from towline.delivery.model import S
from towline.delivery.outlast import outlast
from towline.errors import Permanent
from towline.telemetry import metrics

log = logging.getLogger(__name__)


class DeadLetters(Generic[S]):
    """What one service writes to its `.dead` topic."""

    def __init__(self, service: str, bus: Bus, lanes: Lanes[S]) -> None:
        self._service = service
        self._bus = bus
        self._lanes = lanes

    async def park(self, record: Record, error: Exception) -> None:
        """The same event would fail again: `decide` is pure, and what is too large stays so."""
        log.error("a key is parked: its decision failed", extra={"key": record.key}, exc_info=error)
        said = str(error) if isinstance(error, Permanent) else type(error).__name__
        reason = f"{said} while deciding on {codec.type_of(record)}"
        await self._lanes.park(record.key, reason)
        await self.bury(record, reason)

    async def bury(self, record: Record, reason: str) -> None:
        """Raw bytes and reason to the dead letters, before the offset may advance."""
        origin = f"{record.topic}/{record.partition}/{record.offset}"
        headers = {"tl_reason": reason.encode()[:4000], "tl_origin": origin.encode()}
        dead = flow.dead_of(self._service)
        try:
            whole = NewRecord(dead, record.key, record.value, {**record.headers, **headers})
            await outlast(self._service, lambda: self._bus.publish([whole]))
        except Permanent:  # with these headers it is over the limit; what it was stays readable at its origin
            bare = NewRecord(dead, record.key, None, headers)
            await outlast(self._service, lambda: self._bus.publish([bare]))
        metrics.dead_letter(self._service)
        log.error("dead letter", extra={"service": self._service, "origin": origin, "reason": reason})
