"""Where the conformance machine runs: how a bus is opened, how a connection dies, and how a group loses a member.

Each place has its own event loop, and runs one step of the machine at a time on it.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Collection, Coroutine
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from towline.bus.kafka import internals
from towline.bus.kafka.bus import KafkaBus
from towline.bus.kafka.consumer import KafkaConsumer
from towline.bus.kafka.peers import leave
from towline.bus.sqlite import lease
from towline.bus.sqlite.bus import SqliteBus
from towline.bus.sqlite.consumer import SqliteConsumer
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
    defers_commits = False
    """A commit returns before it was decided."""

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
    async def expel(self, consumer: Consumer) -> None:
        """The group takes a living member for dead, which does not know."""

    def is_in_group(self, consumer: Consumer) -> bool:
        """Whether it has joined, and was told of all that it has."""
        return True

    async def sweep(self) -> bool:
        """Removes what is outlived, as if all that is there were old; False where that cannot be hurried."""
        return False

    def end(self) -> None:
        while self.opened:
            self.run(self.opened.pop().close())
        if left := asyncio.all_tasks(self.loop):
            for task in left:
                task.cancel()
            self.run(_ended(left))
        self.loop.close()


async def _ended(tasks: Collection[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


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

    async def expel(self, consumer: Consumer) -> None:
        cast(MemoryConsumer, consumer).lose()

    async def sweep(self) -> bool:
        self.log.sweep()
        return True


@cache
def _ended_process() -> str:
    """The name of a process that has ended, as the members' table knows processes."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        return lease._name(process.pid)


class SqlitePlace(Place):
    """One file for each history. Members of a connection that dies are, in the table, those of an ended process."""

    defers_commits = True

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="towline-conformance-"))

    async def connect(self) -> Bus:
        return await SqliteBus.open(self.folder / "bus.db")

    async def kill(self, bus: Bus) -> None:
        self.opened.remove(bus)
        dying = cast(SqliteBus, bus)
        members = [(_ended_process(), each.group, each._member) for each in dying._consumers]
        for consumer in dying._consumers:
            consumer._peers.close()
        dying._consumers.clear()  # so that they do not say that they leave
        await bus.close()
        self._write("UPDATE members SET process = ? WHERE grp = ? AND member = ?", members)
        await self._look_around()

    async def expel(self, consumer: Consumer) -> None:
        """As another member's heartbeat does when this one was silent."""
        silent = cast(SqliteConsumer, consumer)
        held, name = silent._held or 0, silent._member
        await silent._bus.writer.submit(lambda ledger: lease.leave(ledger, silent.group, name, held))
        await self._look_around()

    async def sweep(self) -> bool:
        self._write("UPDATE records SET timestamp_ms = ?", [(1,)])
        for bus in self.opened[:1]:
            await cast(SqliteBus, bus).sweep()
        return True

    def end(self) -> None:
        super().end()
        shutil.rmtree(self.folder)

    async def _look_around(self) -> None:
        """What every member does each few seconds."""
        for bus in self.opened:
            for consumer in list(cast(SqliteBus, bus)._consumers):
                await consumer.beat()

    def _write(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        with closing(sqlite3.connect(self.folder / "bus.db", timeout=30)) as connection, connection:
            connection.executemany(statement, rows)


class KafkaPlace(Place):
    """One broker and one event loop for all histories; the broker is told at once that a session has run out.

    A member that dies closes its connections without a word; what the session timer would do then is done by a
    LeaveGroup in its name.
    """

    glance_s = 0.15
    patience_s = 40.0

    def __init__(self, address: str, loop: asyncio.AbstractEventLoop) -> None:
        self._shared = loop
        super().__init__()
        self.address = address

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return self._shared

    async def connect(self) -> Bus:
        return await KafkaBus.open(self.address)

    async def kill(self, bus: Bus) -> None:
        self.opened.remove(bus)
        dying = cast(KafkaBus, bus)
        names = []
        for consumer in dying._consumers:
            client, consumer._client, consumer._closed = consumer._client, None, True
            if client is not None:
                names.append((consumer.group, internals.member_id(client)))
                await internals.end_consumer(client)  # a static member goes without a word
        dying._consumers.clear()
        await bus.close()
        for group, member in names:
            await self._session_runs_out(dying, group, member)

    async def expel(self, consumer: Consumer) -> None:
        silent = cast(KafkaConsumer, consumer)
        if silent._client is not None:
            await self._session_runs_out(silent, silent.group, internals.member_id(silent._client))

    def is_in_group(self, consumer: Consumer) -> bool:
        member = cast(KafkaConsumer, consumer)
        return member._gained is None and member._client is not None and bool(internals.member_id(member._client))

    async def _session_runs_out(self, whose: KafkaBus | KafkaConsumer, group: str, member: str) -> None:
        if member:
            await leave(whose._connection, group, member)

    def end(self) -> None:
        while self.opened:
            self.run(self.opened.pop().close())
