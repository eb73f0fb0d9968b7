"""Where the conformance machine runs: how a bus is opened, how a connection dies, and how a group loses a member.

Each place has its own event loop, and runs one step of the machine at a time on it.
"""

from __future__ import annotations

import asyncio
import uuid
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, cast

from towline.testing.memory import MemoryBus, MemoryConsumer, MemoryLog
from towline.testing.virtual import VirtualLoop

if TYPE_CHECKING:
    from towline.bus.port import Bus, Consumer

T = TypeVar("T")


class Place(ABC):
    """One per generated history; `end` closes all that was opened."""

    glance_s = 0.05
    """How long a fetch waits that need not get anything."""
    patience_s = 30.0
    """How long what must come is waited for, on the place's clock."""

    def __init__(self) -> None:
        self.loop = self.new_loop()
        self.prefix = f"m{uuid.uuid4().hex[:8]}"
        self.opened: list[Bus] = []

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    async def open(self) -> Bus:
        bus = await self.connect()
        self.opened.append(bus)
        return bus

    async def close(self, bus: Bus) -> None:
        """In order: its members leave."""
        self.opened.remove(bus)
        await bus.close()

    @abstractmethod
    async def connect(self) -> Bus: ...

    @abstractmethod
    async def kill(self, bus: Bus) -> None:
        """The process of this connection died without a word, and the groups found out."""

    @abstractmethod
    async def expel(self, consumer: Consumer) -> bool:
        """The group takes a living member for dead, which does not know; False when it was none yet."""

    async def sweep(self) -> bool:
        """Removes what is outlived, as if all that is there were old; False where that cannot be hurried."""
        return False

    def end(self) -> None:
        while self.opened:
            self.run(self.opened.pop().close())
        self.loop.close()


class MemoryPlace(Place):
    bus = MemoryBus

    def __init__(self) -> None:
        super().__init__()
        self.log = MemoryLog()

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return VirtualLoop()

    async def connect(self) -> Bus:
        return self.bus(self.log)

    async def kill(self, bus: Bus) -> None:
        self.opened.remove(bus)
        for consumer in cast(MemoryBus, bus)._consumers:
            consumer.lose()

    async def expel(self, consumer: Consumer) -> bool:
        cast(MemoryConsumer, consumer).lose()
        return True

    async def sweep(self) -> bool:
        self.log.sweep()
        return True
