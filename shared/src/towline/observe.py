"""Reads the fact topics as an observer outside every group, and waits for what shall appear there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TypeVar

from towline import flow
from towline.bus.port import Bus, TopicPartition
from towline.delivery import codec
from towline.delivery.model import Envelope
from towline.events.base import Event

E = TypeVar("E", bound=Event)
PAUSE_S = 0.02
"""Between two looks at the end of every topic: an observer must not take the processor from those it observes."""


class Log:
    """Every fact so far, in the order it was found. `wait_for` looks again until `timeout` seconds have passed."""

    def __init__(self, bus: Bus, *, partitions: int = flow.PARTITIONS, topics: Iterable[str] = ()) -> None:
        self._bus = bus
        names = tuple(topics) or tuple(stream.topic for stream in flow.STREAMS)
        self._next = {TopicPartition(name, partition): 0 for name in names for partition in range(partitions)}
        self.envelopes: list[Envelope] = []

    async def read(self) -> list[Envelope]:
        """What was added since the last look; it is in `envelopes` from now on."""
        found: list[Envelope] = []
        for at, start in self._next.items():
            records = await self._bus.read(at, start=start)
            if records:
                self._next[at] = records[-1].offset + 1
                found.extend(codec.decode(record) for record in records)
        found.sort(key=lambda envelope: envelope.time)
        self.envelopes.extend(found)
        return found

    def all(self, event: type[E]) -> list[E]:
        return [envelope.event for envelope in self.envelopes if isinstance(envelope.event, event)]

    async def wait_for(
        self, event: type[E], where: Callable[[E], bool] = lambda _: True, *, timeout: float = 30.0
    ) -> E:
        """The first event of this kind that fits; raises TimeoutError naming what was seen instead."""
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            for envelope in self.envelopes:
                if isinstance(envelope.event, event) and where(envelope.event):
                    return envelope.event
            if asyncio.get_running_loop().time() > deadline:
                seen = ", ".join(type(envelope.event).__name__ for envelope in self.envelopes)
                raise TimeoutError(f"no {event.__name__} within {timeout} s; seen: {seen or 'nothing'}")
            if not await self.read():
                await asyncio.sleep(PAUSE_S)
