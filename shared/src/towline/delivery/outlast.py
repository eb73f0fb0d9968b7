"""Waiting for the bus: a call that meets BusDown is made again, with back-off, until it is answered.

Only calls that may be repeated come here: an append or a publish that was written and not acknowledged is written
again, and whoever reads it knows the copy by its position, sequence or cause.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from towline.bus.port import BusDown
from towline.delivery import outage
from towline.delivery.retry import backoff
from towline.telemetry import metrics

log = logging.getLogger(__name__)
T = TypeVar("T")
_LONGEST_TRIES = 5
"""Tries after which the pause grows no more: some seconds, since the whole service waits."""


async def outlast(service: str, call: Callable[[], Awaitable[T]]) -> T:
    """The answer of `call`, however long the bus is away. Raises what is not BusDown."""
    tries = 0
    while True:
        try:
            answer = await call()
        except BusDown as error:
            tries += 1
            outage.failed(service)
            metrics.bus_retry(service)
            if tries == 1:
                log.warning("the bus does not answer", extra={"service": service, "error": str(error)})
            await asyncio.sleep(backoff(min(tries, _LONGEST_TRIES), service))
        else:
            outage.answered(service)
            return answer
